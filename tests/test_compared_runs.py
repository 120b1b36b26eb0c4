"""Three toy experiments through the real pipeline: the explorer's comparison of runs that do differ."""

import json
import re

import conftest
import numpy as np
import polars as pl
import pytest
from test_pipeline import run

import sites
from susc_pipeline import schema
from susc_pipeline.clustering import agreement
from susc_pipeline.explorer import payload

pytestmark = pytest.mark.slow
OTHERS = {
    "other-seed": ("seed = 3", "seed = 4"),
    "without-loss": ("n_draws = 2\nn_burn", "n_beta = 0.0\nn_draws = 2\nn_burn"),
}


@pytest.fixture(scope="module")
def compared(toy_folders, tmp_path_factory):
    """A store of an experiment, of one with another seed and of one with n_beta = 0, which the first is compared with."""
    root = tmp_path_factory.mktemp("compared")
    toml = conftest.write_toml(root / "toy.toml", *toy_folders, thorough=False)
    text = toml.read_text().replace("contexts_per_shard = 10", "contexts_per_shard = 40")  # or they share no token
    for name, (old, new) in OTHERS.items():
        assert text.count(old) == 1
        other = root / f"{name}.toml"
        other.write_text(alone(text.replace(old, new).replace('name = "toy"', f'name = "{name}"')))
        done = run(root, "--experiment", other, seconds=900)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    toml.write_text(text.replace('compare_with = ["toy"]', f"compare_with = {json.dumps(list(OTHERS))}"))
    done = run(root, "--experiment", toml, seconds=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return root / "data"


def alone(text):
    return re.sub(r"compare_with = .*\n", "", text)


def labels(store):
    """Cluster of each token that the run has, by document and place in it."""
    contexts = pl.concat([pl.read_parquet(path) for path in sorted((store / "token_shards").glob("*.parquet"))])
    members = pl.read_parquet(store / "cluster_members.parquet")
    found = schema.token_key_frame(contexts).join(members, on=["context_id", "position"], how="left")
    placed = found.join(contexts.select("context_id", "start"), on="context_id")
    keys = zip(placed["document_id"], placed["start"] + placed["position"])
    return dict(zip(keys, placed["cluster"].fill_null(agreement.UNCLUSTERED)))


def shown(data, name):
    return sites.content(data / "toy" / "explorer", name)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_shown_of_two_runs_is_their_agreement_over_the_tokens_that_both_have(compared, name):
    one = next(one for one in shown(compared, "compare") if one["name"] == name)
    here, there = labels(compared / "toy"), labels(compared / name)
    both = sorted(set(here) & set(there))
    pairs = np.array([(here[key], there[key]) for key in both])
    a, b = pairs[(pairs != agreement.UNCLUSTERED).any(axis=1)].T
    n_clusters = shown(compared, "site")["clusters"]
    assert one["tokens"] == len(a) > 0
    assert one["clusters"] == len(set(there.values()) - {agreement.UNCLUSTERED})
    np.testing.assert_allclose(one["rand"], agreement.adjusted_rand_index(a, b))
    found, compared_members = payload.unpacked(one["jaccard"]), np.bincount(a[a >= 0], minlength=n_clusters)
    expected = np.where(compared_members > 0, agreement.best_match(a, b, n_clusters=n_clusters).jaccard, np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(payload.unpacked(one["compared"]), compared_members)
    assert one["rand"] < 1, "two runs that differ are not the same clusters"


def test_the_runs_beside_it_are_those_that_the_settings_name(compared):
    assert [one["name"] for one in shown(compared, "compare")] == list(OTHERS)


def test_a_run_without_the_loss_has_no_coefficient(compared):
    """Its page has been written all the same; the compared run's own has one."""
    table = sites.content(compared / "without-loss" / "explorer", "run")["tables"]["chains"]
    assert all(row[table["columns"].index("llc")] is None for row in table["rows"])
    table = shown(compared, "run")["tables"]["chains"]
    assert all(row[table["columns"].index("llc")] is not None for row in table["rows"])
