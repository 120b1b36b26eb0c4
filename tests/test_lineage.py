"""The asset graph: who reads whom, which artifacts are made shard by shard, and that every asset explains itself."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import conftest
import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch

import toys
from assets import checks, definitions, inputs, partitions, pools, runner
from resources.component_folder import ComponentFolder
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import components, families
from susc_pipeline.sampling.diagnostics import Trace
from susc_pipeline.susceptibility import direction_files

HALVES = {"half_a_cluster_members", "half_b_cluster_members"}
CLUSTERED_FROM = {"language_model", "token_shards", "whitened_susceptibilities", "knn_graph"} | HALVES
LAYERS = {f"layer_{layer}_cluster_members" for layer in partitions.EXPERIMENT.representation.layers}
ALTERED = {"untrained_cluster_members", "permuted_cluster_members"}
BY_KERNEL = ALTERED | {"gradient_cluster_members"}
BY_TEXT = {"token_cluster_members", "token_pair_cluster_members"}
OF_SAMPLED = {
    "sampled_tokens_ground_truth_cluster_members": "ground_truth_susceptibilities",
    "sampled_tokens_linear_response_cluster_members": "linear_response",
    "sampled_tokens_auxiliary_cluster_members": "auxiliary_predictions",
}
BY_ANOTHER_WAY = {"auxiliary_cluster_members", "unwhitened_cluster_members", "without_loss_cluster_members"}
CONTROLS = LAYERS | BY_KERNEL | BY_TEXT | BY_ANOTHER_WAY | set(OF_SAMPLED)
COMPARED_FROM = {"whitened_susceptibilities", "clusters", "cluster_members"} | HALVES | CONTROLS
COMPARED = {"cluster_controls", "cluster_control_matches"}
SAMPLED_FROM = {"language_model", "token_shards", "sgld_samples"}
LEARNT_FROM = {"activations", "linear_response", "ground_truth_susceptibilities", "pca_basis"}
PREDICTED_FROM = {"activations", "linear_response", "pca_basis", "aux_model"}
PARENTS = {
    "language_model": set(),
    "corpus_documents": set(),
    "document_groups": {"language_model", "corpus_documents"},
    "token_shards": {"language_model", "corpus_documents"},
    "population_contexts": {"language_model", "corpus_documents"},
    "response_directions": {"language_model", "population_contexts"},
    "sgld_samples": {"language_model", "token_shards", "population_contexts", "response_directions"},
    "ground_truth_susceptibilities": SAMPLED_FROM,
    "chain_products": SAMPLED_FROM,
    "linear_response": {"language_model", "token_shards", "response_directions"},
    "activations": {"language_model", "token_shards"},
    "regime": {"language_model", "population_contexts", "response_directions"},
    "calibration": {"language_model", "population_contexts"},
    "negative_control": {
        "language_model",
        "token_shards",
        "population_contexts",
        "response_directions",
        "ground_truth_susceptibilities",
    },
    "pca_basis": {"ground_truth_susceptibilities"},
    "reliability": {"language_model", "ground_truth_susceptibilities", "chain_products", "pca_basis"},
    "aux_model": LEARNT_FROM | {"language_model"},
    "aux_correlation": LEARNT_FROM | {"aux_model"},
    "predicted_susceptibilities": PREDICTED_FROM,
    "auxiliary_predictions": PREDICTED_FROM,
    "half_a_predictions": PREDICTED_FROM,
    "half_b_predictions": PREDICTED_FROM,
    "whitening_basis": {"predicted_susceptibilities"},
    "whitened_susceptibilities": {"predicted_susceptibilities", "whitening_basis"},
    "leakage": {"ground_truth_susceptibilities", "activations", "predicted_susceptibilities"},
    "knn_graph": {"whitened_susceptibilities"},
    "half_a_knn_graph": {"half_a_predictions"},
    "half_b_knn_graph": {"half_b_predictions"},
    "half_a_cluster_members": {"half_a_knn_graph", "whitened_susceptibilities"},
    "half_b_cluster_members": {"half_b_knn_graph", "whitened_susceptibilities"},
    "cluster_reproducibility": {"whitened_susceptibilities", "cluster_members"} | HALVES,
    "clusters": CLUSTERED_FROM,
    "cluster_members": CLUSTERED_FROM,
    "unwhitened_cluster_members": {"predicted_susceptibilities", "cluster_members"},
    "cluster_agreement": {
        "ground_truth_susceptibilities",
        "predicted_susceptibilities",
        "auxiliary_predictions",
        "pca_basis",
    },
    **{key: {"activations", "whitened_susceptibilities"} for key in LAYERS},
    **{key: {"token_shards", "whitened_susceptibilities"} for key in BY_TEXT},
    **{key: {"language_model", "token_shards", "population_contexts", "whitened_susceptibilities"} for key in ALTERED},
    "gradient_cluster_members": {"language_model", "token_shards", "response_directions", "whitened_susceptibilities"},
    "auxiliary_cluster_members": {"auxiliary_predictions", "whitened_susceptibilities"},
    "without_loss_cluster_members": {
        *("language_model", "token_shards", "population_contexts"),
        *("response_directions", "pca_basis", "whitened_susceptibilities"),
    },
    **{key: {source, "pca_basis"} for key, source in OF_SAMPLED.items()},
    **dict.fromkeys(COMPARED, COMPARED_FROM),
    "cluster_interventions": {
        *("language_model", "token_shards", "population_contexts", "linear_response"),
        *("response_directions", "whitened_susceptibilities", "cluster_members"),
    },
    "cluster_labels": {"language_model", "token_shards", "cluster_members", "document_groups"},
    "map_layout": {"whitened_susceptibilities", "knn_graph"},
    "component_table": {"language_model", "pca_basis", "reliability", "regime"},
    "chain_diagnostics": {"component_table", "response_directions", "sgld_samples"},
    "cluster_profiles": {
        *("predicted_susceptibilities", "half_a_predictions", "half_b_predictions", "pca_basis"),
        *("clusters", "cluster_members", "component_table"),
    },
    "explorer": {
        "component_table",
        "chain_diagnostics",
        "cluster_profiles",
        "language_model",
        "token_shards",
        "response_directions",
        "ground_truth_susceptibilities",
        "predicted_susceptibilities",
        "half_a_predictions",
        "half_b_predictions",
        "whitened_susceptibilities",
        "pca_basis",
        "knn_graph",
        "clusters",
        "cluster_members",
        "cluster_labels",
        "cluster_controls",
        "cluster_control_matches",
        "map_layout",
        "reliability",
        "aux_correlation",
        "leakage",
        "calibration",
        "regime",
        "negative_control",
    },
}
PREDICTIONS = {"predicted_susceptibilities", "auxiliary_predictions", "half_a_predictions", "half_b_predictions"}
BY_SHARD = PREDICTIONS | {"token_shards", "linear_response", "activations", "whitened_susceptibilities"}
BY_GROUND_TRUTH_SHARD = {"sgld_samples", "ground_truth_susceptibilities", "chain_products"}


@pytest.fixture(scope="module")
def graph():
    return definitions.defs.resolve_asset_graph()


def node(graph, name):
    return graph.get(dg.AssetKey(name))


def test_definitions_load_as_a_whole():
    dg.Definitions.validate_loadable(definitions.defs)


def test_every_asset_reads_what_the_method_says(graph):
    found = {
        key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert found == PARENTS


def test_upsampling_by_the_auxiliary_model_trains_one_on_each_half(toy_folders, tmp_path):
    """In a process of its own: the graph is made from the experiment that is in force when it is imported."""
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    toml.write_text(toml.read_text().replace("[representation]", '[representation]\nupsampling = "auxiliary"'))
    probe = "from assets import definitions; g = definitions.defs.resolve_asset_graph(); import dagster as dg; "
    probe += "print(sorted(k.to_user_string() for k in g.get(dg.AssetKey('half_a_predictions')).parent_keys))"
    environment = {**os.environ, "SUSC_EXPERIMENT": str(toml)}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", probe], env=environment, capture_output=True, text=True
    )
    expected = PREDICTED_FROM | {"half_a_aux_model", "half_b_aux_model"}
    assert found.stdout.strip() == str(sorted(expected)), found.stderr


def test_what_an_experiment_asks_beyond_clusters_is_in_the_graph_where_the_experiment_names_some(toy_folders, tmp_path):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    changed = '[[wanted_changes]]\nname = "down"\ncomponents = ["L0H1"]\nchanges = [-1e-6]\n'
    toml.write_text(toml.read_text() + changed)
    probe = "from assets import definitions; g = definitions.defs.resolve_asset_graph(); import json; print(json.dumps("
    probe += "{k.path[-1]: [p.path[-1] for p in g.get(k).parent_keys] for k in g.get_all_asset_keys()}))"
    environment = {**os.environ, "SUSC_EXPERIMENT": str(toml)}
    command = [sys.executable, "-W", "ignore", "-c", probe]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    parents = {name: set(of) for name, of in json.loads(found.stdout).items() if name not in PARENTS}
    every = json.loads(found.stdout)
    asked = {"data_change_susceptibilities", "observable_susceptibilities", "wanted_changes", "document_weights"}
    assert set(every["explorer"]) == PARENTS["explorer"] | asked | {"linear_response", "observable_responses"}
    table = {"cluster_members", "language_model", "observable_directions", "observable_responses"}
    assert parents == {
        "data_change_susceptibilities": {"cluster_members", "language_model", "linear_response", "response_directions"},
        "observable_directions": {"language_model", "population_contexts", "response_directions"},
        "observable_responses": {"language_model", "token_shards", "observable_directions"},
        "observable_susceptibilities": table,
        "wanted_changes": {"language_model", "linear_response"},
        "document_weights": {"language_model", "linear_response"},
    }


def test_per_token_artifacts_are_partitioned_by_shard(graph):
    settings = partitions.EXPERIMENT.tokens
    for name in PARENTS:
        definition = node(graph, name).partitions_def
        keys = definition.get_partition_keys() if definition else []
        expected = settings.n_shards if name in BY_SHARD else 0
        expected = settings.n_ground_truth_shards if name in BY_GROUND_TRUTH_SHARD else expected
        assert len(keys) == expected, name


def test_withheld_shards_do_not_reach_the_basis(graph):
    key, parent = dg.AssetKey("pca_basis"), dg.AssetKey("ground_truth_susceptibilities")
    read = graph.get_partition_mapping(key, parent).partition_keys
    assert set(read) == set(partitions.GROUND_TRUTH_SHARDS.get_partition_keys()[:-1])


def test_every_asset_explains_itself(graph):
    for name in PARENTS:
        found = node(graph, name)
        assert found.description and len(found.description) > 60, name
        assert found.group_name != "default" and found.kinds and found.code_version, name


def test_what_computes_names_its_formula_and_its_paper(graph):
    repeated = {name for name in PARENTS if name.startswith("half_")}  # theirs are with what they repeat
    plain = {"corpus_documents", "token_shards", "activations", "cluster_members", "explorer", "chain_products"}
    plain |= {"linear_response", "component_table"}
    for name in set(PARENTS) - plain - repeated:
        text = node(graph, name).description
        assert re.search(r"[=~]|UMAP|Jaccard|adjusted Rand", text), name
        if name not in ("predicted_susceptibilities", "whitened_susceptibilities"):  # theirs are with what they apply
            assert re.search(r"(19|20)\d\d\)|(19|20)\d\d, ", text), name


def test_what_runs_the_model_waits_for_a_gpu_and_what_holds_all_tokens_for_memory(graph):
    found = {
        pool: {name for name in PARENTS if node(graph, name).pools == {pool}} for pool in (pools.GPU, pools.MEMORY)
    }
    run = {"response_directions", "sgld_samples", "linear_response", "activations"}
    controls = {"regime", "negative_control", "calibration"}
    controls |= {"cluster_interventions", "without_loss_cluster_members"}
    assert found[pools.GPU] == run | controls | PREDICTIONS | {"aux_model"} | BY_KERNEL
    graphs = {name for name in PARENTS if any("knn_graph" in each for each in {name} | PARENTS[name])}
    searched = LAYERS | {"unwhitened_cluster_members", "auxiliary_cluster_members", "cluster_agreement"}
    assert found[pools.MEMORY] == graphs | searched | set(OF_SAMPLED) | {"leakage", "cluster_profiles"}


def test_a_plain_run_leaves_the_controls_out_and_a_selection_or_a_request_makes_them():
    def made(selected, **how):
        return {a for unit in runner.units(definitions.defs, selected, None, **how) for a in unit.assets}

    assert made([]) == set(PARENTS) - CONTROLS - COMPARED - {"cluster_interventions", "cluster_agreement"}
    assert made([], on_request=lambda asset: True) == set(PARENTS)
    assert made(["token_cluster_members"]) == {"token_cluster_members"}


def test_the_jobs_of_the_stages_are_there():
    names = {job.name for job in definitions.defs.resolve_all_job_defs()}
    assert {"ground_truth", "basis", "upsample", "whiten", "cluster", "explore", "controls", "everything"} <= names


def test_a_setting_changes_the_version_of_those_that_read_it_and_of_no_other():
    before = partitions.EXPERIMENT
    after = dataclasses.replace(
        before, sampling=dataclasses.replace(before.sampling, n_beta=before.sampling.n_beta + 1)
    )
    versions = {name: node(definitions.defs.resolve_asset_graph(), name).code_version for name in PARENTS}
    for name, sections in (
        ("sgld_samples", ["sampling", "susceptibility"]),
        ("knn_graph", ["knn"]),
        ("aux_model", ["aux"]),
    ):
        number, digest = versions[name].split("-")
        assert number.isdigit() and digest == before.digest(*sections)
        assert (after.digest(*sections) == digest) == ("sampling" not in sections)


@pytest.mark.parametrize("name", sorted(set(PARENTS) - BY_TEXT - COMPARED))
def test_no_asset_depends_on_settings_that_it_does_not_name(graph, name):
    """Of the controls of the clusters a few still do: any edit of the experiment makes them stale."""
    assert partitions.EXPERIMENT.digest() not in node(graph, name).code_version


def test_checks_that_can_fail_do_fail():
    flat = pl.DataFrame({"susceptibility": pl.Series([[0.0, 1.0], [0.0, 2.0]], dtype=pl.Array(pl.Float32, 2))})
    result = checks.susceptibilities_are_finite(ground_truth_susceptibilities=flat)
    assert not result.passed and "1 components constant" in result.description
    unlearnt = pl.DataFrame({"r": [0.01, 0.02, 0.5, 0.5], "null_95": [0.1, 0.1, 0.1, 0.1]})
    assert not checks.predictions_beat_chance(aux_correlation=unlearnt).passed
    assert checks.predictions_beat_chance(aux_correlation=unlearnt.reverse()).passed
    copied = pl.DataFrame({"space": ["ground_truth", "prediction"], "cka": [0.1, 0.95]})
    assert not checks.predictions_are_not_activations(leakage=copied).passed
    wide = pl.DataFrame({"whitened": pl.Series([[0.0], [3.0], [6.0]], dtype=pl.Array(pl.Float32, 1))})
    keys = pl.DataFrame({"context_id": [0, 0, 0], "position": [1, 2, 3], "document_id": "d", "token_id": [1, 2, 3]})
    lazy = pl.concat([keys, wide], how="horizontal").lazy()
    assert not checks.whitened_covariance_is_the_identity(whitened_susceptibilities={"s": lazy}).passed
    experiment = ExperimentConfig(name="x")
    leaky = pl.DataFrame({"conductance": [0.9, 0.1]})
    assert not checks.clusters_are_below_the_threshold(clusters=leaky, experiment=experiment).passed
    none = leaky.clear()
    assert not checks.clusters_are_below_the_threshold(clusters=none, experiment=experiment).passed


def stored_directions(folder, rise, *, reliability=0.97):
    """A folder with the directions of one component whose chains had these rises of the loss (steps, chains and images)."""
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, "L0H0")
    n_chains = rise.shape[1] // 2
    directions = torch.randn(n_chains, components.n_parameters(model, component))
    slopes = np.random.default_rng(0).normal(size=(n_chains, 5))
    found = direction_files.Diagnostics(
        Trace(2.0 + rise, np.full_like(rise, 2.0)), slopes, slopes, 100, 400, reliability, 50.0, 300.0, 5.0
    )
    made = ComponentFolder(folder, "response_directions", direction_files.SUFFIX)
    with made.writing("L0H0") as place:
        stored = direction_files.StoredDirections(directions, np.zeros(2), 300.0)
        direction_files.save(place, model, component, stored, found, digest=direction_files.model_digest(model))
    return made


def test_chains_below_the_trained_loss_or_at_odds_fail_their_check(tmp_path):
    experiment, rng = ExperimentConfig(name="x"), np.random.default_rng(0)
    n_chains = experiment.sampling.n_chains
    sound = 0.1 + 0.02 * rng.random((40, 2 * n_chains))
    apart = 0.3 * np.tile(np.arange(n_chains), 2)
    judged = [
        checks.chains_are_sound(response_directions=stored_directions(tmp_path / name, rise), experiment=experiment)
        for name, rise in (("sound", sound), ("below", -sound), ("apart", sound + apart))
    ]
    assert [result.passed for result in judged] == [True, False, False]


def test_directions_of_more_noise_than_signal_fail_their_check_and_the_sentence_names_them(tmp_path):
    experiment, rise = ExperimentConfig(name="x"), np.full((10, 16), 0.1)
    judged = [
        checks.directions_are_reliable(
            response_directions=stored_directions(tmp_path / str(value), rise, reliability=value), experiment=experiment
        )
        for value in (0.97, 0.7, 0.3)
    ]
    assert [result.passed for result in judged] == [True, True, False]
    assert "the others: L0H0 0.70." in judged[1].description and "tokens.population_share" in judged[1].description


def test_a_changed_corpus_asks_for_its_table_once(monkeypatch):
    marks = iter(["a", "a", "b"])
    monkeypatch.setattr(inputs.tokenized_corpus, "fingerprint", lambda settings: next(marks))
    with dg.build_sensor_context(cursor=None) as context:
        results = [inputs.corpus_files(context) for _ in range(3)]
    assert [type(result) for result in results] == [dg.RunRequest, dg.SkipReason, dg.RunRequest]
    assert inputs.corpus_files.default_status is dg.DefaultSensorStatus.STOPPED


def test_what_is_downstream_is_asked_for_once_automation_is_on():
    instance = dg.DagsterInstance.ephemeral()
    before = dg.evaluate_automation_conditions(definitions.defs, instance)
    instance.report_runless_asset_event(dg.AssetMaterialization("language_model"))
    instance.report_runless_asset_event(dg.AssetMaterialization("corpus_documents"))
    after = dg.evaluate_automation_conditions(definitions.defs, instance, cursor=before.cursor)
    shards = after.get_requested_partitions(dg.AssetKey("token_shards"))
    assert shards == set(partitions.SHARDS.get_partition_keys())
    assert after.get_num_requested(dg.AssetKey("population_contexts")) == 1
