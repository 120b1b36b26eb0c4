"""Laws of the controls of the clusters: what finds everything, what finds nothing, what chance is; models that know nothing."""

import logging
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch

import toys
from assets import control_search
from resources.storage import Store
from susc_pipeline import schema, seeds
from susc_pipeline.clustering import controls, membership, reproducibility
from susc_pipeline.clustering.controls import OF_SAMPLED_TOKENS, SUSCEPTIBILITIES, WITHOUT_LOSS, Control
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.explorer import control_rows as shown
from susc_pipeline.model import components, decoder, decoder_weights, families, randomized
from susc_pipeline.model.components import Component
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.schema import StackedTokens
from susc_pipeline.susceptibility import direction_task, directions, gradient_kernel, without_loss
from susc_pipeline.susceptibility.direction_task import DirectionTask
from susc_pipeline.susceptibility.directions import DirectionSettings

N = 6000


@pytest.fixture(scope="module")
def world():
    """Twenty clusters that cut across twelve token strings, in thirty documents; two fifths of the tokens are in none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, N)
    labels[rng.random(N) < 0.4] = -1
    return labels, rng.integers(0, 12, N), rng.integers(0, 30, N)


def table(world, *found):
    made = [Control(f"control {number}", "text", labels) for number, labels in enumerate(found)]
    return controls.table(world[0], made, *world[1:], np.random.default_rng(1))


def test_a_control_with_the_same_clusters_finds_all_whatever_their_numbers(world):
    labels = world[0]
    renumbered = np.where(labels < 0, labels, 19 - labels)
    row = table(world, renumbered).row(0, named=True)
    assert (row["clusters"], row["clustered_tokens"]) == (20, np.sum(labels >= 0))
    for name in ("matched", "matched_beyond", "information", "information_beyond"):
        assert row[name] == pytest.approx(1) and row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert row["matched_by_chance"] == 0 and abs(row["information_by_chance"]) < 0.01


def test_labels_permuted_within_tokens_and_the_tokens_themselves_say_nothing_beyond_chance(world):
    labels, token_ids, _ = world
    by_token = np.where(np.arange(N) % 2, labels, token_ids)  # half of the structure is the tokens'
    run = (by_token, token_ids, world[2])
    permuted = reproducibility.within_tokens(by_token, token_ids, np.random.default_rng(7))
    first, second = table(run, permuted, token_ids).rows(named=True)
    assert first["information"] > 0.05 and abs(first["information_beyond"]) < 0.01
    assert second["information"] > 0.05 and second["information_beyond"] == second["matched_beyond"] == 0
    assert second["information_by_chance"] == second["information"]


def test_a_control_that_has_half_of_the_clusters_finds_half(world):
    labels = world[0]
    half = np.where(labels < 10, labels, -1)
    frame = table(world, half)
    matches = controls.matches(labels, [Control("control 0", "text", half)], n_clusters=20)
    assert frame["matched"].to_list() == [0.5]
    assert matches["jaccard"].to_list() == [1.0] * 10 + [0.0] * 10 and matches["partner"].to_list()[9:11] == [9, -1]
    found = shown.found_by(shown.Controls(frame, matches), 20)
    assert found[9:11] == [[["control 0", 1.0]], []] and shown.found_by(None, 2) == [None, None]


def test_the_conclusion_counts_what_is_found_without_susceptibilities_and_what_comes_again_of_the_rest(world):
    labels, token_ids, documents = world
    made = [
        Control("the token", "text", np.where(labels < 5, labels, -1)),
        Control("layer 2", "activations", np.where((labels >= 3) & (labels < 10), labels, -1)),
        Control("half a", SUSCEPTIBILITIES, np.where(labels >= 8, labels, -1)),
    ]
    frame = controls.table(labels, made, token_ids, documents, np.random.default_rng(1))
    text = controls.conclusion(frame, controls.matches(labels, made, n_clusters=20))
    assert "Of 20 clusters 10 are also found" in text and "2 controls, and 10 by none" in text
    assert "“layer 2” finds the most: 35 % of them, by chance 0 %" in text
    assert "Of the 10 that no control finds, other measurements of susceptibilities find: “half a” 10." in text
    assert "never see" not in text and "sampled tokens" not in text
    assert "nothing to compare" in controls.conclusion(frame.clear(), controls.matches(labels, [], n_clusters=20))


def test_a_control_of_some_tokens_is_held_against_what_the_clusters_have_of_them_alone(world):
    labels, token_ids, documents = world
    seen = documents < 15
    made = [Control("some", OF_SAMPLED_TOKENS, np.where(seen & (labels < 5), labels, -1), seen)]
    row = controls.table(labels, made, token_ids, documents, np.random.default_rng(1), smallest=20).row(0, named=True)
    cut = [Control("some", "text", made[0].labels[seen])]
    of_cut = controls.table(labels[seen], cut, token_ids[seen], documents[seen], np.random.default_rng(1))
    assert row["matched"] == of_cut["matched"][0] == 0.25 and row["information"] == of_cut["information"][0]
    assert (row["tokens"], row["run_clusters"]) == (seen.sum(), 20)
    assert not controls.matches(labels, made, n_clusters=20).height
    # A cluster with fewer of these tokens than asked for does not count as one that could be found.
    sizes = np.bincount(labels[seen & (labels >= 0)])
    smallest = int(np.sort(sizes)[10])
    few = controls.table(labels, made, token_ids, documents, np.random.default_rng(1), smallest=smallest)
    large = np.flatnonzero(sizes >= smallest)
    assert few["run_clusters"][0] == len(large) < 20
    assert few["matched"][0] == pytest.approx(np.mean(large < 5))


def test_the_conclusion_says_what_chains_without_the_loss_and_searches_of_sampled_tokens_find(world):
    labels, token_ids, documents = world
    seen = documents < 15
    made = [
        Control("the token", "text", np.where(labels < 5, labels, -1)),
        Control(WITHOUT_LOSS, SUSCEPTIBILITIES, np.where(labels < 18, labels, -1)),
        Control("sampled values", OF_SAMPLED_TOKENS, np.where(seen & (labels < 10), labels, -1), seen),
    ]
    frame = controls.table(labels, made, token_ids, documents, np.random.default_rng(1))
    text = controls.conclusion(frame, controls.matches(labels, made, n_clusters=20))
    assert "Of 20 clusters 5 are also found without any susceptibility, by at least one of 1 controls" in text
    assert "Chains that never see the loss find 90 % of the clusters" in text
    assert "Of the 20 clusters that have enough sampled tokens" in text and "“sampled values” 50 %" in text


def test_one_document_one_token_string_and_no_clusters_have_rows_without_what_is_not_defined(world):
    labels, zeros = world[0], np.zeros(N, np.int64)
    alone = controls.table(labels, [Control("a", "text", zeros)], zeros, zeros, np.random.default_rng(0)).row(
        0, named=True
    )
    assert (
        alone["matched_low"] is None
        and alone["matched"] == 0
        and alone["information_by_chance"] == alone["information"]
    )
    nothing = zeros - 1
    none = controls.table(nothing, [Control("a", "text", nothing)], *world[1:], np.random.default_rng(0)).row(
        0, named=True
    )
    assert none["matched"] is None and none["clusters"] == 0
    assert controls.matches(nothing, [Control("a", "text", zeros)], n_clusters=0).height == 0


def stacked(n_contexts=4, n_positions=6):
    ids = toys.toy_tokens(n_contexts, n_positions, vocabulary=3)
    columns = {"context_id": range(n_contexts), "document_id": "d", "start": 0, "token_ids": ids.tolist()}
    contexts = pl.DataFrame(columns, schema=schema.CONTEXTS)
    keys = schema.token_key_frame(contexts)
    shard = pl.Series("shard", ["shard-00000"] * keys.height)
    return StackedTokens(shard, keys, np.zeros((keys.height, 1), np.float32)), contexts, ids


def test_a_partition_has_a_cluster_for_each_pair_of_tokens_the_largest_first():
    tokens, contexts, ids = stacked()
    text = schema.with_token_before(tokens.keys, contexts)
    assert text["token_before"].to_list() == ids[:, :-1].ravel().tolist()
    codes = controls.codes_of(text["token_before"].to_numpy(), text["token_id"].to_numpy())
    members = controls.partition_members(codes, tokens)
    labels = membership.labels(members, tokens)
    same = lambda values: values[:, None] == values  # noqa: E731
    np.testing.assert_array_equal(same(labels), same(ids[:, :-1].ravel() * 3 + ids[:, 1:].ravel()))
    sizes = members.group_by("cluster", maintain_order=True).len()["len"].to_list()
    assert sizes == sorted(sizes, reverse=True) and members.schema == pl.Schema(schema.MEMBERS)
    assert members.filter(pl.col("rank") == 0).height == len(sizes)


def test_a_layer_is_its_part_of_the_stored_activations(tmp_path):
    tokens, *_ = stacked()
    values = np.arange(tokens.keys.height * 6, dtype=np.float32).reshape(-1, 6)
    schema.with_vectors(tokens.keys, half_precision=True, activation=values).write_parquet(tmp_path / "a.parquet")
    found = schema.part_of(pl.scan_parquet(tmp_path / "a.parquet"), "activation", 1, 3)
    np.testing.assert_array_equal(found, values[:, 2:4])


def test_a_control_that_cannot_be_made_is_a_sentence_and_no_error(tmp_path):
    tokens, *_ = stacked()
    context = SimpleNamespace(asset_key=dg.AssetKey("untrained_cluster_members"), log=logging.getLogger("test"))
    for bad, why in ((np.inf, "finite"), (0.0, "must vary")):
        vectors = [np.full((tokens.keys.height, 3), bad, np.float32)]
        made = control_search.searched(
            context, lambda v=vectors: v, tokens, ExperimentConfig(name="x"), Store(tmp_path)
        )
        assert made.value.schema == pl.Schema(schema.NOT_MADE) and why in made.value["reason"][0]


@pytest.fixture(scope="module")
def directed():
    """A model, its population and probe, and one component's directions as a run with the given settings finds them."""
    model, component = families.from_module(toys.toy_module()), Component("mlp", 1)
    population = Population(tuple(toys.toy_tokens(8, seed=chain) for chain in range(4)))
    probe, wanted = toys.toy_tokens(4, seed=99), DirectionSettings(reliability=0.99, max_contexts=64)
    rest = [directions.at_rest(model, population, chain).gradient[component.name].numpy() for chain in range(4)]

    def run(n_beta):
        settings = SamplingSettings(n_chains=4, n_burn_in=2, step_size=2.0, n_beta=n_beta, localization=50.0)
        task = DirectionTask(model, "cpu", settings, wanted, population, probe, 7, [component])
        parts = np.stack(rest), np.zeros((0, 0), np.float32), 32
        return settings, *direction_task.finder(task)(component, direction_task.Rest(*parts))

    def without(n_beta):
        settings, stored, found = run(n_beta)
        seed = seeds.sequence(7, "response_directions", component.name)
        parts = (settings, wanted, population, probe, stored, found, seed)
        return without_loss.directions_without_loss(model, component, *parts)

    return run, without


def test_directions_without_the_loss_are_those_that_a_run_at_n_beta_zero_finds(directed):
    run, without = directed
    _, at_zero, diagnostics = run(0.0)
    found = without(20.0)
    expected = torch.stack([at_zero.directions[rank::2].mean(dim=0) for rank in (0, 1)])
    torch.testing.assert_close(found.halves.directions, expected)
    np.testing.assert_allclose(found.halves.mean_slopes, at_zero.mean_slopes, rtol=1e-5)
    assert found.n_contexts == diagnostics.n_contexts
    _, driven, _ = run(20.0)
    assert not torch.allclose(driven.directions[::2].mean(dim=0), expected[0], rtol=1e-3)


def test_the_less_the_loss_weighs_the_more_alike_are_the_responses_of_chains_without_it(directed):
    _, without = directed
    nearly, far = (1 - without(n_beta).followed.correlation for n_beta in (0.01, 40.0))
    assert 0 <= nearly < 1e-5 and far > 10 * nearly
    with pytest.raises(ValueError, match="n_beta = 0"):
        without(0.0)


@pytest.mark.parametrize("parallel", [True, False])
def test_the_gradient_kernel_is_the_product_of_the_gradients_and_its_mean_their_square(parallel):
    model, ids = families.from_module(toys.toy_module(parallel=parallel)), toys.toy_tokens(3, 8)
    chosen = components.enumerate_components(model)
    gradients = gradient_kernel.population_gradient(model, ids, chosen)
    kernel = gradient_kernel.gradient_kernel(model, ids, gradients, contexts_at_once=2)
    squares = [float(gradients[component].square().sum()) for component in chosen]
    np.testing.assert_allclose(kernel.mean(axis=0), squares, rtol=2e-4)
    token, named = 9, decoder_weights.named_weights(model)
    leaves = {name: weight.clone().requires_grad_() for name, weight in named.items()}
    losses = decoder.differentiable_losses(decoder_weights.with_weights(model, leaves), torch.as_tensor(ids), None)
    of_token = torch.autograd.grad(losses.flatten()[token], list(leaves.values()), allow_unused=True)
    filled = {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(named.items(), of_token, strict=True)}
    whole = decoder_weights.with_weights(model, filled)
    products = [float(gradients[c] @ components.flatten(components.weights(whole, c))) for c in chosen]
    np.testing.assert_allclose(kernel[token], products, rtol=1e-3, atol=1e-5 * np.abs(products).max())


@pytest.mark.parametrize("alter", [randomized.untrained, randomized.permuted])
def test_altered_models_keep_every_shape_and_come_again_from_their_seed(alter):
    model = families.from_module(toys.toy_module())
    first, again, other = (
        decoder_weights.named_weights(alter(model, torch.Generator().manual_seed(s))) for s in (0, 0, 1)
    )
    for name, weight in decoder_weights.named_weights(model).items():
        assert first[name].shape == weight.shape and torch.equal(first[name], again[name])
        if weight.ndim > 1:
            assert not torch.equal(first[name], weight) and not torch.equal(first[name], other[name])


def test_an_untrained_model_knows_no_more_than_the_uniform_distribution_and_a_permuted_one_keeps_its_entries():
    model, ids = families.from_module(toys.toy_module(bias=True)), torch.as_tensor(toys.toy_tokens())
    fresh = randomized.untrained(model, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        decoder.token_losses(fresh, ids).mean(), torch.tensor(np.log(50.0)).float(), atol=0.05, rtol=0
    )
    shuffled = decoder_weights.named_weights(randomized.permuted(model, torch.Generator().manual_seed(0)))
    for name, weight in decoder_weights.named_weights(model).items():
        assert torch.equal(shuffled[name].flatten().sort()[0], weight.flatten().sort()[0])
        assert weight.ndim > 1 or torch.equal(shuffled[name], weight)
