"""The whole graph on a toy model, through the same command that users run, in a process of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import conftest
import duckdb
import numpy as np
import polars as pl
import pytest

import sites
from assets import cli
from resources import columns, manifest
from susc_pipeline import schema
from susc_pipeline.representation import pca
from susc_pipeline.store import Store

CHECKOUT = Path(__file__).resolve().parent.parent
SHARDS = [f"shard-{number:05d}" for number in range(5)]
ONCE = [
    "language_model",
    "corpus_documents",
    "population_contexts",
    "response_directions",
    "regime",
    "calibration",
    "negative_control",
    "pca_basis",
    "reliability",
]
ONCE += ["aux_model", "aux_correlation", "whitening_basis", "leakage"]
ONCE += ["knn_graph", "half_a_knn_graph", "half_b_knn_graph", "half_a_cluster_members", "half_b_cluster_members"]
ONCE += ["clusters", "cluster_members", "cluster_reproducibility"]
ONCE += ["document_groups", "cluster_labels", "map_layout", "component_table", "cluster_profiles", "chain_diagnostics"]
ONCE += ["explorer", "data_change_susceptibilities", "observable_directions", "observable_susceptibilities"]
CONTROLS = [f"layer_{layer}_cluster_members" for layer in (1, 2, 3)]
CONTROLS += [
    "token_cluster_members",
    "token_pair_cluster_members",
    "auxiliary_cluster_members",
    "gradient_cluster_members",
]
CONTROLS += ["untrained_cluster_members", "permuted_cluster_members", "cluster_controls", "cluster_control_matches"]
CONTROLS += ["without_loss_cluster_members", "cluster_interventions", "unwhitened_cluster_members", "cluster_agreement"]
CONTROLS += [f"sampled_tokens_{name}_cluster_members" for name in ("ground_truth", "linear_response", "auxiliary")]
BY_SHARD = ["token_shards", "linear_response", "activations", "predicted_susceptibilities", "auxiliary_predictions"]
BY_SHARD += ["half_a_predictions", "half_b_predictions", "whitened_susceptibilities", "observable_responses"]
WANTED = ("wanted_changes", "document_weights")  # where the experiment names some, which the toy does not
GROUND_TRUTH = ["sgld_samples", "ground_truth_susceptibilities", "chain_products"]


def command(*arguments):
    return [sys.executable, "-m", "assets.cli", "run", *map(str, arguments)]


def environment(root):
    return os.environ | {
        "PYTHONPATH": str(CHECKOUT),
        "SUSC_STORE": str(root / "data"),
        "DAGSTER_HOME": str(root / "dagster"),
        "OMP_NUM_THREADS": "1",
    }


def run(root, *arguments, seconds=900):
    return subprocess.run(
        command(*arguments), cwd=CHECKOUT, env=environment(root), capture_output=True, text=True, timeout=seconds
    )


@pytest.fixture(scope="module")
def finished(toy_folders, tmp_path_factory):
    """A store in which all but the controls of the clusters has been materialized, with the output of the command."""
    root = tmp_path_factory.mktemp("run")
    toml = conftest.write_toml(root / "toy.toml", *toy_folders)
    done = run(root, "--experiment", toml)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return root, toml, done.stdout


@pytest.fixture(scope="module")
def controlled(finished, tmp_path_factory):
    """A copy of that store in which the controls have been materialized too."""
    root = shutil.copytree(finished[0], tmp_path_factory.mktemp("controlled") / "run")
    done = run(root, "--experiment", finished[1], "--controls")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return root


def manifests(root):
    found = {}
    for path in sorted((root / "data" / "toy").rglob("*.manifest.json")):
        content = manifest.read(path)
        found[content.asset, content.shard] = content
    return found


def test_every_asset_and_shard_is_materialized_and_nothing_temporary_is_left(finished):
    root, _, output = finished
    expected = {(name, None) for name in ONCE} | {(n, s) for n in BY_SHARD for s in SHARDS}
    expected |= {(n, s) for n in GROUND_TRUTH for s in SHARDS[:3]} | {("warehouse", None)}
    assert set(manifests(root)) == expected
    assert not list((root / "data").rglob("*.tmp"))
    assert "shard-00004" in output and "make ui" in output


@pytest.mark.slow
def test_controls_are_made_where_they_are_asked_for_and_nothing_else_is_made_again(finished, controlled):
    before, after = manifests(finished[0]), manifests(controlled)
    assert {key[0] for key in set(after) - set(before)} == set(CONTROLS)
    assert {key[0] for key in before if after[key] != before[key]} == {"explorer", "warehouse"}


def test_a_second_run_does_nothing(finished):
    root, toml, _ = finished
    before = manifests(root)
    again = run(root, "--experiment", toml)
    assert again.returncode == 0 and "up to date" in again.stdout and "done in" not in again.stdout
    assert manifests(root) == before


@pytest.mark.slow
def test_the_job_everything_makes_what_is_missing(finished):
    root, toml, _ = finished
    before = manifests(root)
    (root / "data" / "toy" / "cluster_reproducibility.manifest.json").unlink()
    program = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", "assets.definitions"]
    settings = environment(root) | {"SUSC_EXPERIMENT": str(toml)}
    done = subprocess.run([*program, "-j", "everything"], cwd=root, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.count("done in") == 1, done.stdout
    assert manifests(root) == before


@pytest.mark.slow
def test_a_finished_store_is_found_whole_and_a_changed_setting_stale(finished, tmp_path):
    root, toml, _ = finished
    (other := tmp_path / "toy.toml").write_text(
        toml.read_text().replace("max_conductance = 0.9", "max_conductance = 0.8")
    )
    for path, status, said in ((toml, 0, "as it was written"), (other, 1, "stale      clusters: made by version")):
        program = [sys.executable, "-m", "susc_pipeline", "verify", "--experiment", str(path)]
        found = subprocess.run(program, cwd=root, env=environment(root), capture_output=True, text=True, timeout=200)
        assert found.returncode == status and said in found.stdout, found.stdout + found.stderr


@pytest.mark.slow
def test_the_status_of_a_finished_run_is_current_and_after_a_loss_says_what_is_next(finished):
    root, toml, _ = finished
    path = root / "data" / "toy" / "linear_response" / "shard-00001.manifest.json"
    content, program = path.read_bytes(), [sys.executable, "-m", "susc_pipeline", "status", "--experiment", str(toml)]
    whole = subprocess.run(program, cwd=root, env=environment(root), capture_output=True, text=True, timeout=200)
    assert whole.returncode == 0 and "nothing is to be made" in whole.stdout and not whole.stderr, (
        whole.stdout + whole.stderr
    )
    path.unlink()
    try:
        lacking = subprocess.run(program, cwd=root, env=environment(root), capture_output=True, text=True, timeout=200)
    finally:
        path.write_bytes(content)
    assert lacking.returncode == 1 and "next: linear_response" in lacking.stdout
    assert re.search(r"linear_response +4 current, 1 missing", lacking.stdout), lacking.stdout


def test_the_warehouse_answers_what_the_readme_asks(finished):
    root, _, _ = finished
    with duckdb.connect(str(root / "data" / "toy" / "warehouse.duckdb"), read_only=True) as connection:
        assert connection.sql("select count(*) from predictions").fetchall() == [(5 * 10 * 15,)]
        members = connection.sql("select count(*) from member_contexts").fetchall()
        assert members == [(pl.read_parquet(root / "data" / "toy" / "cluster_members.parquet").height,)]
        same = connection.sql(
            "select count(*), count(*) filter (m.token = v.text) from member_contexts m "
            "join predictions p using (context_id, position) join vocabulary v on v.token_id = p.token_id"
        ).fetchall()
        assert same == [(members[0][0], members[0][0])]


def test_a_row_of_component_values_is_the_entry_of_the_vectors_behind_it(finished):
    store = finished[0] / "data" / "toy"
    read = lambda name: pl.concat(pl.read_parquet(p) for p in sorted((store / name).glob("*.parquet")))  # noqa: E731
    keys, names = ["context_id", "position"], pl.read_parquet(store / "component_table.parquet")["name"]
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        shown = pl.DataFrame(connection.sql("select * from component_values")).sort("component", *keys)
    responses, scores = (read(name).sort(keys) for name in ("linear_response", "predicted_susceptibilities"))
    truth = responses.select(keys).join(
        read("ground_truth_susceptibilities"), on=keys, how="left", maintain_order="left"
    )
    basis = pca.load(store / "pca_basis")
    assert shown.height == responses.height * len(names) and shown["measured"].null_count() > 0
    for number, part in enumerate(shown.partition_by("component", maintain_order=True)):
        of = lambda table, column, number=number: table[column].arr.get(number).cast(pl.Float64)  # noqa: E731
        assert part["name"].unique().to_list() == [names[number]]
        assert part["measured"].is_null().to_list() == of(truth, "susceptibility").is_null().to_list()
        expected = {
            "linear_response": of(responses, "linear_response"),
            "linear_response_error": (of(responses, "half_a") - of(responses, "half_b")).abs() / 2,
            "measured": of(truth, "susceptibility"),
            "measured_error": of(truth, "standard_error"),
            "predicted": basis.mean[number]
            + basis.scale[number] * (scores["prediction"].to_numpy().astype(float) @ basis.components[:, number]),
        }
        for column, natural in expected.items():
            found, natural = part[column].to_numpy(), np.asarray(natural)
            np.testing.assert_allclose(found, natural, rtol=1e-4, atol=1e-6 * basis.scale[number])
            from_mean = 0 if column.endswith("error") else basis.mean[number]
            z = part[f"{column}_z"].to_numpy()
            np.testing.assert_allclose(z, (natural - from_mean) / basis.scale[number], rtol=1e-4, atol=1e-5)


def test_the_questions_of_the_docs_have_answers(finished):
    text = ((CHECKOUT / "docs" / "explorer.md").read_text(encoding="utf-8").replace("L1H2", "L1H1")).replace(
        "abc.py", "document-003.txt"
    )  # the toy has two heads and other documents
    questions = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    with duckdb.connect(str(finished[0] / "data" / "toy" / "warehouse.duckdb"), read_only=True) as connection:
        answers = [pl.DataFrame(connection.sql(question)) for question in questions]
    most, of_document, correlation, clusters, llc = answers
    assert most.height == 20 and most["linear_response_z"].is_sorted(descending=True)
    assert most["token"].null_count() == 0 and (most["linear_response_error_z"] >= 0).all()
    assert llc["llc"].is_sorted(descending=True, nulls_last=True) and llc["llc"].null_count() == 0
    assert abs(correlation.item()) <= 1
    store = Store.open(finished[0] / "data" / "toy")
    members = pl.read_parquet(store.root / "cluster_members.parquet")
    assert dict(clusters.select("cluster", "n_members").iter_rows()) == dict(
        members.group_by("cluster").len().iter_rows()
    )
    assert clusters["mean"].is_sorted() and (clusters.drop_nulls().select(pl.col("low") < pl.col("high")))["low"].all()
    in_document = store.tokens("document-003.txt").drop_nulls("cluster").group_by("cluster").len()
    assert in_document.height and dict(of_document.select("cluster", "tokens").iter_rows()) == dict(
        in_document.iter_rows()
    )


def test_data_changes_are_the_means_of_the_linear_responses_of_their_tokens(finished):
    store = Store.open(finished[0] / "data" / "toy")
    found = store.data_changes()
    assert dict(found.schema) == schema.DATA_CHANGES and found["data_change"].n_unique() == 3
    names = store.components()["name"].to_list()
    tokens = store.vectors(names)
    members = store.members(0).select("context_id", "position")
    own = {
        "documents-0": tokens.filter(pl.col("document_id").str.contains(r"^document-0[0-4]")),
        "first-cluster": tokens.join(members, on=["context_id", "position"], how="semi"),
    }
    for change, rows in own.items():
        table = found.filter(data_change=change)
        assert table["name"].to_list() == names and set(table["n_tokens"]) == {rows.height}
        np.testing.assert_allclose(table["susceptibility"], rows.select(names).mean().row(0), rtol=1e-4, atol=1e-9)
    text = found.filter(data_change="one-text")
    assert text["n_documents"].to_list() == [1] * len(names) and text["document_error"].null_count() == len(names)
    assert (found["standard_error"] > 0).all()


def test_the_mean_loss_of_the_population_as_an_observable_has_the_table_of_the_run(finished):
    store = Store.open(finished[0] / "data" / "toy")
    found, own = store.observables(), store.data_changes()
    assert dict(found.schema) == schema.OBSERVABLES and found["observable"].n_unique() == 4
    n_clusters = store.clusters().height
    assert found.height == 4 * len(store.components()) * (3 + n_clusters)
    again = found.filter(observable="population").filter(pl.col("data_change").is_in(own["data_change"].unique()))
    assert (
        again.drop("observable")
        .select("data_change", "name", "n_tokens")
        .equals(own.select("data_change", "name", "n_tokens"))
    )
    for column in ("susceptibility", "chain_error", "document_error"):
        a, b = (table[column].fill_null(0).to_numpy() for table in (again, own))
        np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(own["susceptibility"].to_numpy()).max())
    assert (found["standard_error"] > 0).all() and found["susceptibility"].is_finite().all()
    for observable in ("query", "largest", "pairs"):
        assert found.filter(observable=observable)["susceptibility"].abs().max() > 0


def test_the_page_of_questions_has_the_tokens_that_an_observable_ties_to_a_component(finished):
    text = (CHECKOUT / "docs" / "observables.md").read_text(encoding="utf-8")
    (question,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    store = Store.open(finished[0] / "data" / "toy")
    with duckdb.connect(str(store.root / "warehouse.duckdb"), read_only=True) as connection:
        found = pl.DataFrame(connection.sql(question))
    own = store.vectors(["L1H1"])["L1H1"]  # the first observable is the run's own
    expected = own.abs().sort(descending=True).head(20)
    assert found["text"].null_count() == 0
    np.testing.assert_allclose(found["value"].abs(), expected, atol=2e-3 * expected.max())


@pytest.mark.slow
def test_a_data_change_without_tokens_is_refused_before_anything_is_made(finished, tmp_path):
    toml = tmp_path / "toy.toml"
    toml.write_text(finished[1].read_text().replace("document-0[0-4]*", "no-such-*"))
    done = run(tmp_path, "--experiment", toml)
    assert done.returncode == 1 and "no-such-*) has no token; give a pattern" in done.stderr, done.stderr
    assert not (tmp_path / "data").exists()


def assert_views(warehouse, expected):
    """The views are these, and they and each of their columns say what they mean."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        views = connection.sql("select view_name, comment from duckdb_views() where not internal").fetchall()
        commented = connection.sql(
            "select table_name, column_name, comment from duckdb_columns() where not internal order by column_index"
        ).fetchall()
    assert dict(views) == {name: view.meaning for name, view in expected.items()}
    for name, view in expected.items():
        found = {column: comment for table, column, comment in commented if table == name}
        assert tuple(found) == view.columns, name
        assert found == {column: view.of(column) for column in view.columns}


@pytest.mark.slow
def test_every_column_of_every_view_says_what_it_means_and_the_schema_lists_them_all(controlled):
    warehouse = controlled / "data" / "toy" / "warehouse.duckdb"
    assert_views(warehouse, {name: view for name, view in schema.VIEWS.items() if name not in WANTED})


def test_the_document_of_the_columns_is_what_the_schema_says():
    shown = columns.DOCUMENT.read_text(encoding="utf-8")
    assert shown == columns.markdown(), "python -m resources.columns writes it anew"
    shown = {column for view in schema.VIEWS.values() for column in view.columns if column not in view.meanings}
    assert set(schema.MEANINGS) == shown


def shown(root, name):
    """What a page of the explorer is given."""
    return sites.content(root / "data" / "toy" / "explorer", name)


@pytest.mark.slow
def test_the_explorer_shows_every_control_and_what_each_finds(controlled):
    names = [row["control"] for row in shown(controlled, "controls")["rows"]]
    assert names[:2] == ["the token", "the token and the one before"]
    n_layers, n_kernels, n_sampled = 3, 3, 3
    n_others = 5  # chains without the loss, auxiliary, without whitening, both halves
    assert len(names) == 2 + n_layers + n_kernels + n_sampled + n_others
    assert {name for card in shown(controlled, "cards/00000")["cards"] for name, _ in card["controls"]} <= set(names)


def test_the_explorer_shows_the_run_and_a_run_compared_with_itself_agrees_wholly(finished):
    summary, compared = shown(finished[0], "site"), shown(finished[0], "compare")
    assert summary["tokens"] == 5 * 10 * 15 and summary["mapPoints"] == 300 and summary["sampled"] == [[0, 29]]
    assert [one["name"] for one in compared] == ["toy"]
    assert compared[0]["rand"] == 1 and compared[0]["clusters"] == summary["clusters"]
    assert set(shown(finished[0], "run")["seconds"]) >= {"sgld_samples", "cluster_members+clusters"}


@pytest.mark.slow
def test_a_changed_setting_reruns_just_what_it_concerns(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    toml = copy / "toy.toml"
    toml.write_text(toml.read_text().replace("max_conductance = 0.9", "max_conductance = 0.8"))
    done = run(copy, "--experiment", toml)
    assert done.returncode == 0, done.stderr
    assert "clusters" in done.stdout and "knn_graph ..." not in done.stdout and "sgld_samples" not in done.stdout


@pytest.mark.slow
def test_a_wanted_change_gives_weights_of_documents_from_what_is_stored(controlled, tmp_path):
    copy = shutil.copytree(controlled, tmp_path / "copy")
    toml = copy / "toy.toml"
    original = toml.read_text()
    change = '[[wanted_changes]]\nname = "down"\ncomponents = ["unembed"]\nchanges = [-1e-6]\n'
    toml.write_text(original + change.replace("unembed", "L9H9"))
    refused = run(copy, "--experiment", toml)
    assert refused.returncode == 1 and "L9H9" in refused.stderr and "unembed" in refused.stderr, refused.stderr
    toml.write_text(original + change + "keep = []\n")
    done = run(copy, "--experiment", toml)
    assert done.returncode == 0, done.stderr
    assert "wanted_changes" in done.stdout and "linear_response" not in done.stdout
    store = Store.open(copy / "data" / "toy")
    weights, tokens = store.document_weights(), pl.read_parquet(copy / "data" / "toy" / "linear_response" / "*.parquet")
    assert (
        weights["document_id"].to_list() == sorted(set(tokens["document_id"]))
        and weights["n_tokens"].sum() == tokens.height
    )
    np.testing.assert_allclose(weights["weight"].mean(), 1)
    asked = store.wanted_changes().filter(role="asked")
    assert asked["name"].to_list() == ["unembed"] and asked["predicted"][0] < 0
    assert_views(copy / "data" / "toy" / "warehouse.duckdb", schema.VIEWS)
    assert '<a href="#/wanted">' in (copy / "data" / "toy" / "explorer" / "index.html").read_text()


@pytest.mark.slow
def test_upsampling_by_the_auxiliary_model_reaches_the_predictions(toy_folders, tmp_path):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    text = toml.read_text().replace("[representation]", '[representation]\nupsampling = "auxiliary"')
    toml.write_text(text.partition("[[data_changes]]")[0])
    halves = ("half_a_aux_model", "half_b_aux_model")
    wanted = (*ONCE[:3], "token_shards", "response_directions", "linear_response", "activations", "sgld_samples")
    wanted += ("chain_products", "ground_truth_susceptibilities", "pca_basis", "aux_model", *halves)
    done = run(tmp_path, "--experiment", toml, "--select", *wanted, "predicted_susceptibilities", seconds=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    store = tmp_path / "data" / "toy"
    tables = [
        pl.scan_parquet(store / name / "*.parquet").collect() for name in ("auxiliary_predictions", "linear_response")
    ]
    predicted = pl.scan_parquet(store / "predicted_susceptibilities" / "*.parquet").collect()
    assert predicted["prediction"].equals(tables[0]["prediction"]) and predicted.height == tables[1].height
    half_a, half_b = (
        pl.scan_parquet(store / f"{half}_predictions" / "*.parquet").collect() for half in ("half_a", "half_b")
    )
    assert not half_a["prediction"].equals(half_b["prediction"])


@pytest.mark.slow
def test_a_changed_file_of_the_corpus_remakes_its_shards_and_a_touched_one_does_not(toy_folders, tmp_path):
    corpus = shutil.copytree(toy_folders[0], tmp_path / "corpus")
    toml = conftest.write_toml(tmp_path / "toy.toml", corpus, toy_folders[1])
    arguments = ["--experiment", toml, "--select", *ONCE[:2], "token_shards", "--shard", SHARDS[0]]
    assert run(tmp_path, *arguments).returncode == 0
    path = min(corpus.iterdir())
    os.utime(path, (1, 1))
    touched = run(tmp_path, *arguments).stdout
    assert "corpus_documents" in touched and "token_shards" not in touched
    path.write_text(path.read_text() + "one more line\n")
    changed = run(tmp_path, *arguments).stdout
    assert "corpus_documents" in changed and f"token_shards {SHARDS[0]} done" in changed


@pytest.mark.slow
def test_a_backfill_gives_the_same_bytes_in_another_order_and_mixed_shards_are_refused(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    toml = copy / "toy.toml"
    before = manifests(copy)
    original = toml.read_text()
    toml.write_text(original.replace("localization = 50.0", "localization = 60.0"))
    moved = run(copy, "--experiment", toml, "--select", "sgld_samples", "--shard", SHARDS[1])
    assert moved.returncode == 1 and "found at localization 50, but sampling.localization is 60" in moved.stderr
    toml.write_text(original.replace("localization = 50.0", "localization = 50.0\nn_beta = 40.0"))
    for name in ("sgld_samples", "ground_truth_susceptibilities"):
        done = run(copy, "--experiment", toml, "--select", name, "--shard", SHARDS[1])
        assert done.returncode == 0, done.stderr
    refused = run(copy, "--experiment", toml, "--select", "pca_basis")
    assert refused.returncode == 1
    assert "ground_truth_susceptibilities mixes shards" in refused.stderr and "again: " in refused.stderr
    toml.write_text(original)
    for name in ("sgld_samples", "ground_truth_susceptibilities"):
        run(copy, "--experiment", toml, "--select", name, "--shard", SHARDS[1])
    after = manifests(copy)
    key = ("ground_truth_susceptibilities", SHARDS[1])
    assert after[key].sha256 == before[key].sha256


@pytest.mark.slow
def test_a_run_that_is_stopped_or_killed_keeps_its_finished_components(toy_folders, tmp_path):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    toml.write_text(toml.read_text().replace("n_draws = 2", "n_draws = 24", 1))
    arguments = command("--experiment", toml, "--shard", SHARDS[0], "--select", "sgld_samples")
    first = [*ONCE[:4], "token_shards"]
    assert run(tmp_path, "--experiment", toml, "--select", *first).returncode == 0
    folder = tmp_path / "data" / "toy" / "sgld_samples" / SHARDS[0]

    def ended_by(number, n_components):
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            arguments,
            cwd=CHECKOUT,
            env=environment(tmp_path),
            stdout=pipe,
            stderr=pipe,
            preexec_fn=conftest.hear_interrupts,
        )
        deadline = time.monotonic() + 180
        while len(list(folder.glob("*/*.parquet"))) < n_components and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        return process.communicate(timeout=60)[1].decode(), process.returncode

    said, code = ended_by(signal.SIGINT, 2)
    assert code == 130 and said == "\nstopped; run again, it goes on from what is finished\n"
    ended_by(signal.SIGKILL, 5)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    assert 5 <= len(kept) < 11
    assert run(tmp_path, "--experiment", toml, "--shard", SHARDS[0], "--select", "sgld_samples").returncode == 0
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    assert len(now) == 11 and all(now[name] == changed for name, changed in kept.items())


@pytest.mark.slow
def test_mistakes_are_one_line_with_the_remedy(tmp_path, toy_folders):
    unknown = run(tmp_path, "--experiment", "huge")
    assert unknown.returncode == 2 and "unknown experiment 'huge'; known are" in unknown.stderr
    toml = tmp_path / "bad.toml"
    toml.write_text('name = "bad"\n[sampling]\nstep_sise = 1\n')
    assert "unknown key 'sampling.step_sise'" in run(tmp_path, "--experiment", toml).stderr
    toml.write_text('name = "bad"\n[model]\nsource = "/nowhere"')
    absent = run(tmp_path, "--experiment", toml)
    assert absent.returncode == 1 and "'/nowhere' is neither `embedded` nor a local folder" in absent.stderr
    assert len(absent.stderr.strip().splitlines()) == 1
    assert "/assets/inputs.py" in run(tmp_path, "--experiment", toml, "--verbose").stderr


def test_the_warehouse_opens_in_older_versions_of_its_reader(finished):
    # DuckDB's header: a checksum, the letters DUCK, the version of the format; 64 is what 0.10 to 1.1 read and all later ones.
    with (finished[0] / "data" / "toy" / "warehouse.duckdb").open("rb") as file:
        header = file.read(20)
    assert header[8:12] == b"DUCK" and int.from_bytes(header[12:20], "little") == 64


@pytest.fixture(scope="module")
def moved(finished, tmp_path_factory):
    """The store copied elsewhere, under a name that is a pattern to a reader of globs, and read-only."""
    place = tmp_path_factory.mktemp("moved") / "a [copy] of*toy"
    shutil.copytree(finished[0] / "data" / "toy", place)
    for path in (place, *place.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield Store.open(place)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_store_that_was_moved_is_read_as_the_warehouse_reads_the_original(finished, moved):
    keys = ["context_id", "position"]
    with duckdb.connect(str(finished[0] / "data" / "toy" / "warehouse.duckdb"), read_only=True) as connection:
        values = pl.DataFrame(connection.sql("select * from component_values"))
        in_context = pl.DataFrame(connection.sql("select * from member_contexts where cluster = 0 order by rank"))
    names = moved.components()["name"].to_list()
    columns = {"linear_response": "linear_response", "measured": "measured", "predicted": "predicted"}
    for source, column in columns.items():
        for standardized in (False, True):
            found = moved.vectors(names[1:3], source=source, standardized=standardized)
            for name in names[1:3]:
                wanted = values.filter(pl.col("name") == name).drop_nulls(
                    "measured" if source == "measured" else "loss"
                )
                wanted = wanted.sort(keys)[f"{column}_z" if standardized else column].to_numpy()
                deviation = wanted.std()
                np.testing.assert_allclose(found[name].to_numpy(), wanted, rtol=1e-4, atol=1e-5 * deviation)
    assert moved.vectors().columns[-len(names) :] == names
    members = moved.members(0)
    shared = ["rank", "token", "before", "after", *keys]
    assert members.select(shared).equals(in_context.select(shared).cast(dict(members.select(shared).schema)))
    tokens, clusters = moved.tokens(), moved.clusters()
    counted = tokens.drop_nulls("cluster").group_by("cluster").len().sort("cluster")["len"].to_list()
    assert counted == clusters.sort("cluster")["size"].to_list()
    documents = moved.documents()
    assert documents["n_tokens"].sum() == tokens.height == 5 * 10 * 15
    assert moved.tokens(documents["document_id"][0]).height == documents["n_tokens"][0]


def test_an_export_is_read_as_the_run_itself(finished, moved, tmp_path, monkeypatch):
    monkeypatch.setenv("SUSC_STORE", str(finished[0] / "data"))
    assert cli.main(["export", "--experiment", str(finished[1]), str(tmp_path / "out")]) == 0
    export = Store.open(tmp_path / "out")
    for name in ("clusters", "labels", "members", "components", "documents", "tokens"):
        assert getattr(export, name)().equals(getattr(moved, name)()), name
    for source in ("linear_response", "half_a", "half_b", "measured"):
        assert export.vectors(source=source).equals(moved.vectors(source=source)), source
    assert export.nearest(1, 2).equals(moved.nearest(1, 2))


def test_the_nearest_tokens_are_those_of_the_whitened_space(moved):
    space = pl.concat(pl.read_parquet(path, glob=False) for path in sorted(moved.root.glob("whitened_susc*/*.parquet")))
    here = space.row(7, named=True)
    distance = np.linalg.norm(space["whitened"].to_numpy() - np.asarray(here["whitened"]), axis=1)
    found = moved.nearest(here["context_id"], here["position"], n=5)
    np.testing.assert_allclose(found["distance"], np.sort(distance)[1:6], rtol=1e-5)


def test_profiles_of_the_store_are_the_means_over_members_of_what_is_predicted(moved):
    found, names = moved.cluster_profiles(), moved.components()["name"].to_list()
    keys = ["context_id", "position"]
    predicted = moved.vectors(source="predicted", standardized=True)
    members = pl.read_parquet(moved.root / "cluster_members.parquet", glob=False).join(predicted, on=keys)
    wanted = members.group_by("cluster").agg(pl.col(names).mean()).sort("cluster").select(names).to_numpy()
    np.testing.assert_allclose(found["mean"].to_numpy(), wanted.ravel(), atol=1e-4)
    assert moved.cluster_profiles(1).equals(found.filter(cluster=1))
    figure = moved.plot_profile(1)
    assert sum(len(panel.get_xticks()) for panel in figure.axes) == len(names)
    diagnostics = moved.chain_diagnostics()
    assert diagnostics.filter(pl.col("shard").is_null())["component"].to_list() == names
    assert set(diagnostics["shard"].drop_nulls()) == set(SHARDS[:3]) and diagnostics["llc"].null_count() == 0


def test_a_frame_of_the_store_becomes_a_pandas_frame(moved):
    assert list(moved.clusters().to_pandas()["cluster"]) == moved.clusters()["cluster"].to_list()


def test_what_a_store_lacks_is_refused_in_words(moved, tmp_path):
    for ask, said in (
        (lambda: Store.open(tmp_path), "holds no finished run"),
        (lambda: moved.members(10**6), "there is no cluster 1000000"),
        (lambda: moved.cluster_profiles(10**6), "there is no cluster 1000000"),
        (lambda: moved.tokens("no such document"), r"documents\(\) lists them"),
        (lambda: moved.vectors(["L9H9"]), r"no component 'L9H9'; components\(\) lists them"),
        (lambda: moved.vectors(source="guessed"), "source must be one of"),
        (lambda: moved.nearest(0, 0), "no predicted token 0 in context 0"),
    ):
        with pytest.raises(ValueError, match=said):
            ask()
