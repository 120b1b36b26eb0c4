"""Laws of the causal check: ablation and scaling equal the changed model, pairs are what they say, a planted effect is found."""

import numpy as np
import polars as pl
import pytest
import torch

import toys
import variants
from susc_pipeline import schema
from susc_pipeline.clustering import interventions
from susc_pipeline.model import components, decoder, decoder_weights, families, intervention
from susc_pipeline.model.components import Component

TOKEN_IDS = torch.as_tensor(toys.toy_tokens())


def losses(model, **changed):
    named = decoder_weights.named_weights(model) | changed
    return decoder.token_losses(decoder_weights.with_weights(model, named), TOKEN_IDS)


def outputs_before_the_head_matrix(model, component, token_ids):
    """What the layer's heads give where only this one's columns of the output matrix are left, and no bias."""
    named = dict(decoder_weights.named_weights(model))
    dense = torch.zeros_like(named[f"{component.layer}.dense"])
    own = components.part(model, component).columns.own
    dense[:, own] = named[f"{component.layer}.dense"][:, own]
    alone = decoder_weights.with_weights(model, named | {f"{component.layer}.dense": dense})
    layer = alone.layers[component.layer]
    stream = decoder.residual_stream(model, token_ids)[component.layer]
    return decoder.heads_output(decoder.normalize(stream, layer.attention_norm, alone), layer, alone)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_head_ablated_by_its_mean_is_a_model_without_it_and_with_a_longer_bias(parallel):
    model = families.from_module(toys.toy_module(parallel=parallel, bias=True))
    for component in (c for c in components.enumerate_components(model) if c.kind == "head"):
        mean = intervention.mean_output(model, component, TOKEN_IDS.split(2))
        alone = outputs_before_the_head_matrix(model, component, TOKEN_IDS)
        torch.testing.assert_close(mean, alone.mean(dim=(0, 1)), atol=1e-5, rtol=1e-4)
        dense = model.layers[component.layer].dense.clone()
        dense[:, components.part(model, component).columns.own] = 0
        changed = {f"{component.layer}.dense": dense}
        changed[f"{component.layer}.dense_bias"] = model.layers[component.layer].dense_bias + mean
        ours = intervention.ablated_losses(model, component, TOKEN_IDS, mean)
        assert (ours - decoder.token_losses(model, TOKEN_IDS)).abs().max() > 1e-3
        torch.testing.assert_close(ours, losses(model, **changed), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("parallel", [True, False])
def test_an_mlp_ablated_by_its_mean_gives_a_constant(parallel):
    model = families.from_module(toys.toy_module(parallel=parallel, bias=True))
    for layer in range(model.n_layers):
        component = Component("mlp", layer)
        mean = intervention.mean_output(model, component, TOKEN_IDS.split(3))
        changed = {f"{layer}.down": torch.zeros_like(model.layers[layer].down), f"{layer}.down_bias": mean}
        ours = intervention.ablated_losses(model, component, TOKEN_IDS, mean)
        torch.testing.assert_close(ours, losses(model, **changed), atol=2e-5, rtol=1e-5)


def test_an_ablated_embedding_leaves_every_token_the_same_row():
    model = families.from_module(toys.toy_module())
    mean = intervention.mean_output(model, Component("embed"), [TOKEN_IDS])
    torch.testing.assert_close(mean, model.embedding[TOKEN_IDS].mean(dim=(0, 1)))
    ours = intervention.ablated_losses(model, Component("embed"), TOKEN_IDS, mean)
    torch.testing.assert_close(
        ours, losses(model, embedding=mean.expand_as(model.embedding).clone()), atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["gpt_neox", "llama, grouped, tied", "gemma2"])
def test_every_component_of_every_kind_of_family_can_be_scaled_and_ablated_where_it_gives_anything(name):
    model, ids = families.from_module(variants.module(name)), variants.token_ids(3, 12)
    for component in components.enumerate_components(model):
        named = components.weights(model, component)
        if component.kind in ("embed", "unembed"):
            halved = {key: 0.5 * weight for key, weight in named.items()}
            slow = decoder.token_losses(
                decoder_weights.with_weights(model, decoder_weights.named_weights(model) | halved), ids
            )
            torch.testing.assert_close(
                intervention.scaled_losses(model, component, ids, [0.5])[0], slow, atol=2e-5, rtol=1e-5
            )
        mean = None
        if intervention.can_be_ablated(model, component):
            mean = intervention.mean_output(model, component, [ids])
        else:
            with pytest.raises(ValueError, match=component.name):
                intervention.mean_output(model, component, [ids])
        changes = intervention.loss_changes(model, component, ids.numpy(), mean, contexts_at_once=2)
        assert set(changes) == {*intervention.SCALED, *([intervention.ABLATED] if mean is not None else [])}
        assert all(np.isfinite(values).all() and values.shape == (3, 11) for values in changes.values())


def test_all_heads_of_a_layer_scaled_one_by_one_are_not_one_another():
    model = families.from_module(toys.toy_module())
    one = intervention.scaled_losses(model, Component("head", 0, 0), TOKEN_IDS, [1.0, 1.2])
    torch.testing.assert_close(one[0], decoder.token_losses(model, TOKEN_IDS), atol=1e-5, rtol=1e-5)
    assert (one[1] - one[0]).abs().max() > 1e-4


@pytest.fixture(scope="module")
def world():
    """Forty clusters of tokens in sixty documents; each responds to one of five components; tokens recur outside."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-20, 40, 20_000).clip(-1)
    responses = rng.standard_normal((len(labels), 5))
    strength = rng.uniform(-6, 6, 40)
    inside = labels >= 0
    responses[inside, labels[inside] % 5] += strength[labels[inside]]
    responses = (responses - responses.mean(axis=0)) / responses.std(axis=0)
    return (
        labels,
        responses,
        rng.integers(0, 7, len(labels)),
        rng.gamma(2, 1, len(labels)),
        rng.integers(0, 60, len(labels)),
    )


def table_of(world, change):
    labels, responses, token_ids, token_losses, documents = world
    rng = np.random.default_rng(1)
    rows = []
    for cluster, component in interventions.strongest(responses, labels, n_clusters=30):
        assert component == cluster % 5
        order = np.lexsort((token_losses, token_ids))
        pair = interventions.matched(cluster, component, labels, token_ids, token_losses, order, rng)
        own = responses[:, component]
        rows += interventions.rows([pair], f"L{component}H0", "scaled", own, change(own), documents, weight_cosine=0.5)
    return pl.DataFrame(rows, schema=schema.CLUSTER_INTERVENTIONS)


def test_pairs_have_one_string_and_the_nearest_loss_and_cross_the_border(world):
    labels, _, token_ids, token_losses, _ = world
    order = np.lexsort((token_losses, token_ids))
    pair = interventions.matched(3, 0, labels, token_ids, token_losses, order, np.random.default_rng(0))
    assert len(pair.members) == interventions.N_PAIRS and len(np.unique(pair.members)) == len(pair.members)
    assert (labels[pair.members] == 3).all() and (labels[pair.outside] != 3).all()
    for member, outside in zip(pair.members[:50], pair.outside[:50]):
        others = np.flatnonzero((labels != 3) & (token_ids == token_ids[member]))
        nearest = np.abs(token_losses[others] - token_losses[member]).min()
        assert outside in others and abs(token_losses[outside] - token_losses[member]) == nearest


def test_a_string_that_occurs_only_inside_has_no_pair():
    labels, token_ids = np.array([0, 0, 0, -1, -1]), np.array([5, 5, 6, 6, 7])
    order = np.lexsort((np.arange(5.0), token_ids))
    pair = interventions.matched(0, 0, labels, token_ids, np.arange(5.0), order, np.random.default_rng(0))
    assert pair.members.tolist() == [2] and pair.outside.tolist() == [3]


def test_a_planted_effect_is_found_with_its_sign_and_its_error_covers_it(world):
    rng = np.random.default_rng(2)
    table = table_of(world, lambda own: -0.3 * own + rng.standard_normal(len(own)))
    (found,) = interventions.correlations(table, rng)
    assert found.clusters == 30 and -1 <= found.correlation < -0.95 and found.p < 1e-3
    assert found.low < found.correlation < found.high and 0.2 < found.null_95 < 0.5
    assert table["token_correlation"].is_between(-0.6, -0.1).all()
    assert "more than chance" in interventions.conclusion([found])
    expected = -0.3 * table["response_difference"] / np.sqrt(0.3**2 + 1)
    off = (table["loss_change_difference_z"] - expected) / table["loss_change_error_z"]
    assert 0.6 < float(off.std()) < 1.6


@pytest.mark.slow
def test_no_effect_is_within_the_null_nineteen_times_in_twenty(world):
    beyond = 0
    for number in range(40):
        noise = np.random.default_rng(number).standard_normal(len(world[0]))
        (found,) = interventions.correlations(table_of(world, lambda own, noise=noise: noise), np.random.default_rng(0))
        beyond += found.p < 0.05
    assert beyond <= 6  # of forty, two expected


def test_no_clusters_and_too_few_are_said_to_be_so(world):
    _, responses, *_ = world
    assert interventions.strongest(responses, np.full(len(responses), -1), n_clusters=5) == []
    nothing = pl.DataFrame(schema=schema.CLUSTER_INTERVENTIONS)
    assert interventions.correlations(nothing, np.random.default_rng(0)) == []
    assert "nothing can be said" in interventions.conclusion([])
