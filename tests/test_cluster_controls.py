"""Laws of the controls of the clusters: what finds everything, what finds nothing, what chance is; models that know nothing."""

import logging
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch

import toys
from assets import cluster_controls
from resources.storage import Store
from susc_pipeline import schema
from susc_pipeline.clustering import controls, reading, reproducibility
from susc_pipeline.clustering.controls import SUSCEPTIBILITIES, Control
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.explorer import controls as shown
from susc_pipeline.model import components, decoder, decoder_weights, families, randomized
from susc_pipeline.schema import StackedTokens
from susc_pipeline.susceptibility import gradient_kernel

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
    assert "nothing to compare" in controls.conclusion(frame.clear(), controls.matches(labels, [], n_clusters=20))


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
    labels = reading.labels(members, tokens)
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
        made = cluster_controls.searched(
            context, lambda v=vectors: v, tokens, ExperimentConfig(name="x"), Store(tmp_path)
        )
        assert made.value.schema == pl.Schema(schema.NOT_MADE) and why in made.value["reason"][0]


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
