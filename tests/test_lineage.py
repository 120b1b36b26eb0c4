"""The asset graph: who reads whom, which artifacts are made shard by shard, and that every asset explains itself."""

import dataclasses
import re

import dagster as dg
import numpy as np
import polars as pl
import pytest

import toys
from assets import checks, corpus, definitions, partitions, pools
from resources.trace_folder import TraceFolder
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.sampling import loss_traces

CLUSTERED_FROM = {"language_model", "token_shards", "whitened_susceptibilities", "knn_graph", "half_chain_knn_graph"}
PARENTS = {
    "language_model": set(),
    "corpus_documents": set(),
    "token_shards": {"language_model", "corpus_documents"},
    "sampling_contexts": {"language_model", "corpus_documents"},
    "sgld_samples": {"language_model", "token_shards", "sampling_contexts"},
    "ground_truth_susceptibilities": {"language_model", "token_shards", "sgld_samples"},
    "activations": {"language_model", "token_shards"},
    "calibration": {"language_model", "sampling_contexts"},
    "negative_control": {"language_model", "token_shards", "sampling_contexts", "ground_truth_susceptibilities"},
    "pca_basis": {"ground_truth_susceptibilities"},
    "reliability": {"language_model", "ground_truth_susceptibilities", "pca_basis"},
    "aux_model": {"language_model", "ground_truth_susceptibilities", "activations", "pca_basis"},
    "half_chain_aux_model": {"language_model", "ground_truth_susceptibilities", "activations", "pca_basis"},
    "aux_correlation": {"ground_truth_susceptibilities", "activations", "pca_basis", "aux_model"},
    "predicted_susceptibilities": {"language_model", "token_shards", "aux_model", "half_chain_aux_model"},
    "half_chain_predictions": {"language_model", "token_shards", "aux_model", "half_chain_aux_model"},
    "whitening_basis": {"predicted_susceptibilities"},
    "whitened_susceptibilities": {"predicted_susceptibilities", "whitening_basis"},
    "leakage": {"ground_truth_susceptibilities", "activations", "predicted_susceptibilities"},
    "knn_graph": {"whitened_susceptibilities"},
    "half_chain_knn_graph": {"half_chain_predictions"},
    "clusters": CLUSTERED_FROM,
    "cluster_members": CLUSTERED_FROM,
    "unwhitened_cluster_members": {"predicted_susceptibilities", "cluster_members"},
    "cluster_agreement": {"ground_truth_susceptibilities", "predicted_susceptibilities", "pca_basis"},
    "map_layout": {"whitened_susceptibilities", "knn_graph"},
    "explorer": {
        "language_model",
        "token_shards",
        "sgld_samples",
        "ground_truth_susceptibilities",
        "predicted_susceptibilities",
        "whitened_susceptibilities",
        "pca_basis",
        "knn_graph",
        "clusters",
        "cluster_members",
        "unwhitened_cluster_members",
        "map_layout",
        "reliability",
        "aux_correlation",
        "leakage",
        "calibration",
        "negative_control",
    },
}
BY_SHARD = {"token_shards", "predicted_susceptibilities", "half_chain_predictions", "whitened_susceptibilities"}
BY_GROUND_TRUTH_SHARD = {"sgld_samples", "ground_truth_susceptibilities", "activations"}


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
    repeated = {name for name in PARENTS if name.startswith("half_chain")}  # theirs are with what they repeat
    plain = {"corpus_documents", "token_shards", "activations", "cluster_members", "explorer"}
    for name in set(PARENTS) - plain - repeated:
        text = node(graph, name).description
        assert re.search(r"[=~]|UMAP|Jaccard|adjusted Rand", text), name
        if name not in ("predicted_susceptibilities", "whitened_susceptibilities"):  # theirs are with what they apply
            assert re.search(r"(19|20)\d\d\)|(19|20)\d\d, ", text), name


def test_what_runs_the_model_waits_for_a_gpu_and_what_holds_all_tokens_for_memory(graph):
    found = {
        pool: {name for name in PARENTS if node(graph, name).pools == {pool}} for pool in (pools.GPU, pools.MEMORY)
    }
    trained = {"aux_model", "half_chain_aux_model"}
    run = {"sgld_samples", "negative_control", "calibration", "activations"}
    assert found[pools.GPU] == trained | run | {"predicted_susceptibilities", "half_chain_predictions"}
    graphs = {name for name in PARENTS if "knn_graph" in name or "knn_graph" in PARENTS[name]}
    assert found[pools.MEMORY] == graphs | {"unwhitened_cluster_members", "cluster_agreement", "leakage"}


def test_the_jobs_of_the_stages_are_there():
    names = {job.name for job in definitions.defs.resolve_all_job_defs()}
    assert {"ground_truth", "basis", "upsample", "whiten", "cluster", "explore", "everything"} <= names


def test_a_setting_changes_the_version_of_those_that_read_it_and_of_no_other():
    before = partitions.EXPERIMENT
    after = dataclasses.replace(
        before, sampling=dataclasses.replace(before.sampling, n_beta=before.sampling.n_beta + 1)
    )
    versions = {name: node(definitions.defs.resolve_asset_graph(), name).code_version for name in PARENTS}
    for name, sections in (("sgld_samples", ["sampling"]), ("knn_graph", ["knn"]), ("aux_model", ["aux"])):
        number, digest = versions[name].split("-")
        assert number.isdigit() and digest == before.digest(*sections)
        assert (after.digest(*sections) == digest) == (sections != ["sampling"])


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


def test_chains_below_the_trained_loss_or_at_odds_fail_their_check(tmp_path):
    experiment = ExperimentConfig(name="x")
    rng = np.random.default_rng(0)

    def judge(mean_loss):
        traces = toys.traces_of(mean_loss, rng.normal(size=(len(mean_loss), 3)), n_chains=experiment.sampling.n_chains)
        folder = TraceFolder(tmp_path / str(rng.integers(1 << 30)))
        folder.write("L0H0", loss_traces.frame("L0H0", traces))
        return checks.chains_are_sound(sgld_samples=folder, experiment=experiment)

    n_draws = experiment.sampling.n_chains * experiment.sampling.n_draws
    sound = 1.0 + 0.1 * rng.random(n_draws)
    assert judge(sound).passed
    assert not judge(-sound).passed
    assert not judge(sound + np.repeat(np.arange(experiment.sampling.n_chains), experiment.sampling.n_draws)).passed


def test_a_changed_corpus_asks_for_its_table_once(monkeypatch):
    marks = iter(["a", "a", "b"])
    monkeypatch.setattr(corpus.corpus, "fingerprint", lambda settings: next(marks))
    with dg.build_sensor_context(cursor=None) as context:
        results = [corpus.corpus_files(context) for _ in range(3)]
    assert [type(result) for result in results] == [dg.RunRequest, dg.SkipReason, dg.RunRequest]
    assert corpus.corpus_files.default_status is dg.DefaultSensorStatus.STOPPED


def test_what_is_downstream_is_asked_for_once_automation_is_on():
    instance = dg.DagsterInstance.ephemeral()
    before = dg.evaluate_automation_conditions(definitions.defs, instance)
    instance.report_runless_asset_event(dg.AssetMaterialization("language_model"))
    instance.report_runless_asset_event(dg.AssetMaterialization("corpus_documents"))
    after = dg.evaluate_automation_conditions(definitions.defs, instance, cursor=before.cursor)
    shards = after.get_requested_partitions(dg.AssetKey("token_shards"))
    assert shards == set(partitions.SHARDS.get_partition_keys())
    assert after.get_num_requested(dg.AssetKey("sampling_contexts")) == 1
