"""The experiment as the UI shows it: digest, price, settings, and nothing of them taken for Markdown."""

import dataclasses
import html

import dagster as dg
import pytest

from assets import definitions, overview, partitions, runner
from resources import experiment as experiments
from resources import language_model
from resources.storage import Store
from susc_pipeline.config import ExperimentConfig


def test_the_settings_that_differ_and_no_others_are_shown(tmp_path):
    plain = ExperimentConfig(name="x")
    assert overview.changed_settings(plain) == []
    changed = dataclasses.replace(plain, knn=dataclasses.replace(plain.knn, n_neighbors=plain.knn.n_neighbors + 1))
    assert overview.changed_settings(changed) == [f"knn.n_neighbors = {plain.knn.n_neighbors + 1}"]
    shown = html.unescape(overview.description(changed, Store(tmp_path)))
    assert f"| knn.n_neighbors | {plain.knn.n_neighbors + 1} |" in shown and changed.digest() in shown
    assert plain.digest() not in shown and "| operations |" in shown


def test_no_model_is_fetched_for_a_page_and_a_damaged_folder_is_no_end(tmp_path, monkeypatch):
    monkeypatch.setattr(language_model, "fetched", lambda *_: pytest.fail("asked a hub"))
    plain = ExperimentConfig(name="x")
    for source, content in (("some/name", None), (str(tmp_path / "model"), "{"), (str(tmp_path / "model"), "[]")):
        if content:
            (tmp_path / "model").mkdir(exist_ok=True)
            (tmp_path / "model" / "config.json").write_text(content)
        named = dataclasses.replace(plain, model=dataclasses.replace(plain.model, source=source))
        assert "| operations |" not in overview.description(named, Store(tmp_path / "store"))


def test_a_setting_cannot_break_the_table(tmp_path):
    plain = ExperimentConfig(name="x")
    hostile = dataclasses.replace(plain, model=dataclasses.replace(plain.model, source="a|b<img src=x>**c**"))
    (line,) = [line for line in overview.description(hostile, Store(tmp_path)).splitlines() if "model.source" in line]
    assert line.count("|") == 3 and not set("<>*") & set(line)


def test_the_resource_of_the_experiment_says_what_it_is():
    resource = definitions.defs.resources["experiment"]
    assert isinstance(resource, dg.ResourceDefinition) and partitions.EXPERIMENT.digest() in (
        resource.description or ""
    )
    assert overview.plan(partitions.EXPERIMENT, experiments.store(partitions.EXPERIMENT)) is not None


def test_runs_are_found_by_experiment_asset_and_shard():
    found = [runner.run_tags(runner.Unit(*unit)) for unit in ((("a", "b"), "shard-00001"), (("c",), None))]
    name = partitions.EXPERIMENT.name
    assert found == [{"experiment": name, "made": "a+b", "shard": "shard-00001"}, {"experiment": name, "made": "c"}]


def test_groups_stand_in_the_order_of_the_pipeline():
    graph = definitions.defs.resolve_asset_graph()
    groups = sorted({graph.get(key).group_name for key in graph.get_all_asset_keys()})
    assert [name.split("_")[0] for name in groups] == list("12345678")
