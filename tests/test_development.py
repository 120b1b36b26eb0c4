"""Checkpoints side by side: closed forms of the tests, planted trajectories, axes, clusters and tokens, and the refusals."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.clustering.local_cluster import SearchSettings
from susc_pipeline.development import (
    axes,
    changed_tokens,
    identity,
    joined,
    lineages,
    measured,
    token_clusters,
    trajectories,
)
from susc_pipeline.development.identity import Identity
from susc_pipeline.development.measured import Checkpoint
from susc_pipeline.model.components import Component
from susc_pipeline.representation.pca import RepresentationSettings
from susc_pipeline.schema import development_tables

N_CHAINS, N_TOKENS = 8, 400
COMPONENTS = [Component("head", 0, 0), Component("head", 0, 1), Component("head", 1, 0), Component("mlp", 0)]
NAMES = [component.name for component in COMPONENTS]


def checkpoint(step=1, *, truth=None, noise=0.1, llc=None, seed=0):
    """A measurement of planted responses (tokens x components) with noise of either half of its own."""
    rng = np.random.default_rng([seed, step])
    truth = np.random.default_rng(1).normal(size=(N_TOKENS, len(COMPONENTS))) if truth is None else truth
    halves = [(truth + noise * rng.normal(size=truth.shape)).astype(np.float32) for _ in range(2)]
    chains = rng.normal(size=(N_CHAINS, truth.shape[1])) * 0.1 + (1.0 if llc is None else llc)
    probe = truth.T[:, None] + noise * rng.normal(size=(truth.shape[1], N_CHAINS, len(truth)))
    losses, localization = np.full(len(truth), 2.0, np.float32), np.full(truth.shape[1], 300.0)
    return Checkpoint(step, losses, *halves, chain_llc=chains, probe=probe, localization=localization)


# Whether heads differ.


def regression_statistic(values):
    """F of the columns by least squares with and without them, chains in both: the slow oracle."""
    n_chains, n_columns = values.shape
    blocks = np.kron(np.eye(n_chains), np.ones((n_columns, 1)))
    columns = np.tile(np.eye(n_columns), (n_chains, 1))[:, 1:]

    def left(design):
        fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
        return np.square(values.ravel() - fitted).sum()

    without, both = left(blocks), left(np.hstack([blocks, columns]))
    degrees = (n_columns - 1, (n_columns - 1) * (n_chains - 1))
    return ((without - both) / degrees[0]) / (both / degrees[1]), degrees


def test_differentiation_is_the_f_of_nested_regressions():
    values = np.random.default_rng(0).normal(size=(6, 5)) + np.arange(6)[:, None]
    found = trajectories.differentiation(values)
    statistic, degrees = regression_statistic(values)
    assert found.statistic == pytest.approx(statistic)
    assert found.p_value == pytest.approx(stats.f.sf(statistic, *degrees))


def test_within_groups_it_is_the_f_of_nested_regressions_with_blocks_of_each_group():
    values, groups = np.random.default_rng(0).normal(size=(6, 5)), np.array([0, 0, 1, 1, 1])
    chain, column = (index.ravel() for index in np.indices(values.shape))
    blocks = np.eye(12)[chain * 2 + groups[column]]
    columns = np.eye(5)[column][:, [1, 3, 4]]

    def left(design):
        return np.square(values.ravel() - design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]).sum()

    without, both = left(blocks), left(np.hstack([blocks, columns]))
    found = trajectories.differentiation(values, groups)
    assert found.statistic == pytest.approx(((without - both) / 3) / (both / 15))
    moved = trajectories.differentiation(values + 10.0 * groups, groups)
    assert moved == pytest.approx(found)


def test_what_all_columns_of_a_chain_share_does_not_count():
    values = np.random.default_rng(0).normal(size=(6, 5))
    moved = values + 100 * np.arange(6)[:, None]
    assert trajectories.differentiation(moved) == pytest.approx(trajectories.differentiation(values))


def test_equal_heads_are_said_to_differ_once_in_twenty_and_a_planted_spread_is_found():
    rng = np.random.default_rng(0)
    null = [trajectories.differentiation(rng.normal(size=(8, 16))).p_value for _ in range(2000)]
    assert np.mean(np.array(null) < 0.05) == pytest.approx(0.05, abs=0.015)
    planted = [
        trajectories.differentiation(rng.normal(size=(8, 16)) + 2.0 * rng.normal(size=16)).spread for _ in range(400)
    ]
    assert np.sqrt(np.mean(np.square(planted))) == pytest.approx(2.0, rel=0.05)


def test_values_without_noise_differ_or_do_not():
    assert trajectories.differentiation(np.tile([1.0, 2.0], (4, 1))).p_value == 0.0
    assert trajectories.differentiation(np.ones((4, 2))).p_value == 1.0
    with pytest.raises(ValueError, match="needs 2 chains and 2 columns, got 1 and 3"):
        trajectories.differentiation(np.ones((1, 3)))


def test_holm_is_its_closed_form():
    np.testing.assert_allclose(trajectories.holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(trajectories.holm(np.array([0.9, 0.8])), [1.0, 1.0])


def test_a_difference_is_students_t_of_scipy():
    values = np.random.default_rng(0).normal(size=(8, 3, 2)) + 0.5
    found = trajectories.difference(values)
    np.testing.assert_allclose(found.p_value, stats.ttest_1samp(values, 0.0, axis=0).pvalue)
    assert trajectories.difference(np.zeros((8, 1))).p_value.tolist() == [1.0]
    assert trajectories.difference(np.ones((8, 1))).p_value.tolist() == [0.0]


def test_a_planted_head_separates_where_it_does_and_no_other():
    flat, planted = np.ones(4), np.array([1.0, 1.0, 3.0, 1.0])
    run = [checkpoint(1, llc=flat, seed=1), checkpoint(2, llc=flat, seed=1), checkpoint(4, llc=planted, seed=1)]
    apart = trajectories.separation_table(run, [0, 1, 2], NAMES)
    assert set(apart["component"]) == {"L0H0", "L0H1", "L1H0"}
    strong = apart.filter((pl.col("p_adjusted") < 0.05) & (pl.col("component") == "L1H0"))
    assert strong["step"].to_list() == [4] and strong["separation"][0] == pytest.approx(2.0, abs=0.2)
    heads = trajectories.head_table(run, [0, 1, 2], np.array([0, 0, 1]))
    assert heads.filter(pl.col("p_adjusted") < 0.05).select("step", "scope").rows() == [
        (4, "all")
    ]  # another layer's head
    changes = trajectories.change_table(run, NAMES)
    assert changes.filter(pl.col("p_adjusted") < 0.05).select("component", "step").rows() == [("L1H0", 2)]


def test_of_runs_in_which_no_head_differs_one_in_twenty_at_most_shows_one_that_separates():
    flat, n_false = np.ones(4), 0
    for seed in range(200):
        run = [checkpoint(step, llc=flat, seed=seed) for step in (1, 2)]
        n_false += bool((trajectories.separation_table(run, [0, 1, 2], NAMES)["p_adjusted"] < 0.05).any())
    assert n_false <= stats.binom.ppf(0.999, 200, 0.05)


# The figures of components.


def test_variance_is_without_noise_and_its_shares_add_up_to_one():
    truth = np.random.default_rng(0).normal(size=(20_000, 4)) * [1.0, 2.0, 0.5, 1.0]
    one = checkpoint(truth=truth, noise=3.0)
    np.testing.assert_allclose(measured.signal_variance(one), [1.0, 4.0, 0.25, 1.0], atol=0.35)
    table = measured.component_table([one, checkpoint(2)], COMPONENTS)
    assert table.schema == pl.Schema(development_tables.DEVELOPMENT_COMPONENTS)
    assert table.group_by("step").agg(pl.col("variance_share").sum())["variance_share"].to_list() == pytest.approx(
        [1, 1]
    )
    assert table["layer"].to_list()[:4] == [0, 0, 1, 0] and table["head"].to_list()[:4] == [0, 1, 0, None]


def test_the_error_of_a_coefficient_is_the_spread_of_chains():
    one = checkpoint()
    table = measured.component_table([one, checkpoint(2)], COMPONENTS)
    np.testing.assert_allclose(table["llc_error"][:4], stats.sem(one.chain_llc, axis=0))
    np.testing.assert_allclose(table["mean_response"][:4], np.abs(one.response).mean(axis=0), rtol=1e-6)


def test_checkpoints_out_of_order_or_unlike_are_refused():
    with pytest.raises(ValueError, match=r"by rising step, got steps \[2, 1\]"):
        measured.check_alike([checkpoint(2), checkpoint(1)], NAMES)
    with pytest.raises(ValueError, match="other tokens, components or chains"):
        measured.check_alike([checkpoint(1), checkpoint(2, truth=np.ones((3, 4)))], NAMES)
    run = [checkpoint(1), dataclasses.replace(checkpoint(2), localization=np.array([300.0, 90.0, 300.0, 300.0]))]
    with pytest.raises(ValueError, match=r"L0H1 must have one localization, got \[300.0, 90.0\] at steps \[1, 2\]"):
        measured.check_alike(run, NAMES)


def test_a_response_that_does_not_vary_is_named_with_its_step():
    still = checkpoint(2)
    still = dataclasses.replace(still, half_a=still.half_a.copy(), half_b=still.half_b.copy())
    still.half_a[:, 2] = still.half_b[:, 2] = 0.1
    with pytest.raises(ValueError, match=r"response of L1H0 must vary over tokens, but does not at step 2"):
        measured.check_alike([checkpoint(1), still], NAMES)
    measured.check_alike([checkpoint(1), checkpoint(2)], NAMES)


# Axes.


def orthonormal(n_axes, n_components, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n_components, n_axes)))[0].T


def test_reordered_and_reflected_axes_are_matched_exactly():
    first = orthonormal(5, 12)
    order = np.array([3, 0, 4, 1, 2])
    found = axes.matched(first, -first[order])
    np.testing.assert_allclose(found.cosine, 1.0)
    np.testing.assert_array_equal(order[found.second], found.first)
    level = axes.chance(first, -first[order], np.random.default_rng(0))
    assert level.max() < 0.99 and 0.3 < level.mean() < 0.7


def test_the_shared_subspace_does_not_depend_on_axes_in_it_and_is_known_for_random_ones():
    first = orthonormal(5, 12)
    rotated = orthonormal(5, 5, seed=1) @ first
    assert axes.shared_subspace(first, rotated)[0] == pytest.approx(1.0)
    random = [axes.shared_subspace(first, orthonormal(3, 12, seed)) for seed in range(500)]
    assert np.mean([share for share, _ in random]) == pytest.approx(3 / 12, abs=0.01)
    assert {chance for _, chance in random} == {3 / 12}


# Clusters.


def test_clusters_are_followed_through_birth_growth_and_death():
    first = np.repeat([0, 1, -1], [20, 20, 60])
    second = np.repeat(
        [1, -1, 0, -1], [30, 10, 25, 35]
    )  # cluster 0 grows as number 1, cluster 1 dies, a new one is born
    third = second.copy()
    table = lineages.table([first, second, third])
    rows = {(row["place"], row["cluster"]): row for row in table.to_dicts()}
    assert rows[0, 0]["lineage"] == rows[1, 1]["lineage"] == rows[2, 1]["lineage"]
    assert rows[1, 1]["growth"] == 1.5 and rows[1, 1]["jaccard"] == pytest.approx(2 / 3)
    assert rows[0, 1]["is_dead"] and not rows[0, 0]["is_dead"]
    assert rows[1, 0]["is_born"] and not rows[1, 1]["is_born"] and rows[1, 0]["previous_cluster"] is None
    assert rows[0, 0]["is_born"] is None and rows[2, 0]["is_dead"] is None
    assert table["lineage"].n_unique() == 3


def test_the_numbering_of_clusters_changes_no_lineage():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(-1, 6, size=300) for _ in range(2))
    second[:150] = first[:150]
    renamed = np.where(first >= 0, (first + 2) % 6, -1)
    known, again = lineages.continued(first, first[::1]), lineages.continued(first, renamed)
    np.testing.assert_array_equal(known.partner, np.arange(6))
    np.testing.assert_array_equal(again.partner, (np.arange(6) + 2) % 6)
    assert (again.jaccard == 1).all()


def test_clusters_of_a_token_each_match_by_chance_and_others_do_not():
    ids = np.repeat(np.arange(10), 40)
    of_tokens = ids.copy()
    across = np.tile(np.repeat(np.arange(2), 20), 10)  # half of each token's occurrences
    rng = np.random.default_rng(0)
    assert lineages.by_chance(of_tokens, of_tokens, ids, rng, n_permutations=20).tolist() == [10] * 20
    assert lineages.by_chance(across, across, ids, rng, n_permutations=20).sum() == 0
    assert (lineages.continued(across, across).partner >= 0).all()


def test_checkpoints_without_clusters_have_none_to_follow():
    none = np.full(50, -1)
    assert lineages.table([none, none]).height == 0
    assert lineages.by_chance(none, none, np.zeros(50, np.int64), np.random.default_rng(0), n_permutations=3).sum() == 0


# Tokens.


def test_a_change_is_found_where_planted_and_is_zero_on_average_elsewhere():
    truth = np.random.default_rng(1).normal(size=(4000, 4))
    moved = truth.copy()
    moved[:5] += 4.0
    found = changed_tokens.change(checkpoint(1, truth=truth, noise=0.5), checkpoint(2, truth=moved, noise=0.5))
    assert set(np.argsort(-found)[:5]) == set(range(5))
    rest = found[5:]
    assert abs(rest.mean()) < 4 * stats.sem(rest)
    naive = 2 * 0.5**2 / 2  # what squares of the change by all chains would show of noise alone
    assert abs(rest.mean()) < 0.1 * naive


def test_a_response_that_grows_alike_for_all_tokens_is_no_change():
    truth = np.random.default_rng(1).normal(size=(N_TOKENS, 4))
    found = changed_tokens.change(checkpoint(1, truth=truth, noise=0), checkpoint(2, truth=3 * truth + 1, noise=0))
    np.testing.assert_allclose(found, 0.0, atol=1e-10)


def test_equal_responses_do_not_change_where_a_checkpoint_has_more_noise_however_large_they_are():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(8000, 4))
    truth[:40] = rng.uniform(6.5, 10, size=(40, 4)) * rng.choice([-1, 1], size=(40, 4))
    truth /= truth.std(axis=0)
    assert np.abs(truth[:40]).min() > 5 and np.abs(truth).max() < 10
    found = changed_tokens.change(checkpoint(1, truth=truth, noise=0.1), checkpoint(2, truth=truth, noise=0.9))
    for part in (found[:40], found[40:]):
        assert abs(part.mean()) < 4 * stats.sem(part)
    as_if_noise_were_signal = (np.square(truth[:40]) * (1 - 1 / np.sqrt(1 + 0.9**2 / 2)) ** 2).mean()
    assert abs(found[:40].mean()) < 0.25 * as_if_noise_were_signal


def of_first_components(one, number):
    """The checkpoint as if only its first components had been measured."""
    columns = {name: getattr(one, name)[:, :number] for name in ("half_a", "half_b", "chain_llc")}
    rows = {name: getattr(one, name)[:number] for name in ("probe", "localization")}
    return dataclasses.replace(one, **columns, **rows)


def test_a_component_that_is_noise_at_one_checkpoint_counts_in_no_change():
    truth = np.random.default_rng(1).normal(size=(4000, 4))
    lost = truth * [1, 1, 1, 0]
    run = [checkpoint(1, truth=truth), checkpoint(2, truth=lost)]
    found = changed_tokens.change(*run)
    np.testing.assert_allclose(found, changed_tokens.change(*(of_first_components(one, 3) for one in run)))
    assert (changed_tokens.change(checkpoint(1, truth=0 * truth), run[1]) == 0).all()


# Which checkpoints are measured.


def named(name, weights="a", tokenizer="t", shape="1 layers"):
    return Identity(name, weights, tokenizer, shape)


def test_equal_weights_are_measured_once_and_said_in_a_sentence():
    chosen = identity.distinct([named("step-1", "a"), named("step-2", "b"), named("step-4", "a")])
    assert chosen.numbers == [0, 1]
    assert chosen.sentences == ["step-4 has the weights of step-1: it is not measured again."]


def test_checkpoints_that_do_not_compare_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="step-2 has another tokenizer than step-1"):
        identity.distinct([named("step-1"), named("step-2", "b", tokenizer="u")])
    with pytest.raises(ValueError, match="step-2 has 2 layers, but step-1 has 1 layers"):
        identity.distinct([named("step-1"), named("step-2", "b", shape="2 layers")])
    with pytest.raises(ValueError, match="at least 2 checkpoints of different weights, got 1"):
        identity.distinct([named("step-1"), named("step-2")])


# The join.


@pytest.fixture(scope="module")
def world():
    """Three checkpoints: two planted clusters at first, of which one is gone and another there at the last."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=(N_TOKENS, 4))
    early, late = base.copy(), base.copy()
    early[:40] += [9, 0, 0, 0]
    early[40:80] += [0, 9, 0, 0]
    late[:40] += [9, 0, 0, 0]
    late[200:240] += [0, 0, 9, 0]
    run = [checkpoint(1, truth=early), checkpoint(2, truth=early), checkpoint(4, truth=late)]
    settings = token_clusters.ClusterSettings(
        RepresentationSettings(), KNNSettings(n_neighbors=12), SearchSettings(min_size=10), seed=0
    )
    bases = [token_clusters.reliable_basis(one, settings.representation) for one in run]
    found = [token_clusters.find(one, basis, settings) for one, basis in zip(run, bases)]
    ids = rng.integers(0, 3, size=N_TOKENS)
    keys = pl.DataFrame(
        {
            "context_id": np.repeat(np.arange(4), 100),
            "position": np.tile(np.arange(1, 101, dtype=np.int32), 4),
            "token_id": ids.astype(np.int32),
        }
    )
    tokens = joined.Tokens(keys, ["<b>", "</script>", "x"])
    return run, found, tokens, joined.join(run, COMPONENTS, found, tokens, np.random.default_rng(0))


def test_every_table_has_its_columns(world):
    *_, made = world
    for name, table in made.items():
        assert table.schema == pl.Schema(getattr(development_tables, f"DEVELOPMENT_{name.upper()}")), name


def test_a_planted_cluster_is_born_and_another_dies(world):
    _, found, _, made = world
    clusters = made["clusters"]
    first = clusters.filter(step=1)
    assert first.height == 2 and (first["half_jaccard"] > 0.9).all()
    born = clusters.filter(pl.col("is_born") & (pl.col("step") == 4))
    dead = clusters.filter(pl.col("is_dead"))
    assert born.height == 1 and dead.select("step").to_series().to_list() == [2]
    members = np.flatnonzero(found[2].labels == born["cluster"][0])
    assert np.mean((members >= 200) & (members < 240)) > 0.9
    assert made["matches"]["matched"].to_list() == [2, 1] and made["matches"]["chance_high"].max() == 0


def test_tokens_that_moved_lead_the_list_of_changes(world):
    *_, made = world
    last = made["tokens"].filter(next_step=4)
    rows = last["context_id"] * 100 + last["position"] - 1
    assert last.height == joined.N_CHANGED and rows.is_between(40, 79).sum() + rows.is_between(200, 239).sum() == 20


def test_the_order_of_tokens_changes_no_figure_of_a_component(world):
    run, *_ = world
    order = np.random.default_rng(1).permutation(N_TOKENS)
    moved = [
        dataclasses.replace(
            one,
            **{name: getattr(one, name)[order] for name in ("losses", "half_a", "half_b")},
            probe=one.probe[..., order],
        )
        for one in run
    ]
    first, second = (measured.component_table(each, COMPONENTS) for each in (run, moved))
    for name, kind in first.schema.items():
        if kind.is_float():
            np.testing.assert_allclose(first[name], second[name], rtol=1e-5)


def test_the_summary_counts_what_the_tables_hold(world):
    _, found, _, made = world
    summary = joined.summary(made, found, [2.0, 2.0, 2.0])
    assert [row["clusters"] for row in summary["checkpoints"]] == [2, 2, 2]
    assert [row["born"] for row in summary["checkpoints"]] == [None, 0, 1]
    assert [row["dead"] for row in summary["checkpoints"]] == [0, 1, None]
    assert summary["pairs"][0]["subspace_shared"] == pytest.approx(1.0)  # four axes of four components
    assert summary["pairs"][0]["axes"] == 4 and summary["pairs"][0]["mean_cosine"] > 0.9
    assert summary["separated"] == {} and summary["changed"] == {}


def test_a_checkpoint_without_a_reliable_axis_is_left_out_and_its_neighbours_are_joined(world):
    run, found, tokens, made = world
    noise = checkpoint(3, truth=np.zeros((N_TOKENS, 4)))
    assert token_clusters.reliable_basis(noise, RepresentationSettings()) is None
    tables = joined.join(
        [*run[:2], noise, run[2]], COMPONENTS, [*found[:2], None, found[2]], tokens, np.random.default_rng(0)
    )
    for name in ("axes", "clusters", "matches"):
        assert tables[name].equals(made[name]), name
    assert set(tables["components"]["step"]) == {1, 2, 3, 4}
    summary = joined.summary(tables, [*found[:2], None, found[2]], [2.0] * 4)
    assert [row["clusters"] for row in summary["checkpoints"]] == [2, 2, None, 2]
    assert [(pair["step"], pair["next_step"]) for pair in summary["pairs"]] == [(1, 2), (2, 4)]
    nowhere = joined.join(run, COMPONENTS, [None] * 3, tokens, np.random.default_rng(0))
    assert joined.summary(nowhere, [None] * 3, [2.0] * 3)["pairs"] == [] and nowhere["clusters"].is_empty()


@pytest.mark.parametrize("n_heads", [0, 1])
def test_fewer_than_two_heads_are_compared_with_nothing(world, n_heads):
    run, found, tokens, _ = world
    chosen = COMPONENTS[:n_heads] + [Component("mlp", layer) for layer in range(4 - n_heads)]
    made = joined.join(run, chosen, found, tokens, np.random.default_rng(0))
    assert made["heads"].is_empty() and made["separations"].is_empty()
    assert all(row["heads"] == {} for row in joined.summary(made, found, [2.0] * 3)["checkpoints"])


def test_the_page_of_documentation_names_every_column():
    page = (Path(__file__).resolve().parent.parent / "docs" / "development.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", page, re.MULTILINE))
    tables = {name: table for name, table in vars(development_tables).items() if name.startswith("DEVELOPMENT_")}
    assert {f"DEVELOPMENT_{name.upper()}" for name in rows} == set(tables)
    for name, row in rows.items():
        assert set(tables[f"DEVELOPMENT_{name.upper()}"]) == set(re.findall(r"`(\w+)`", row)), name
