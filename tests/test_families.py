"""Every family is what transformers computes: losses, residual stream, perturbed components, slopes; the rest is refused."""

import pytest
import torch
import variants
from torch.nn import functional

from susc_pipeline.model import components, decoder, perturbation, tangents

EVERY_VARIANT = pytest.mark.parametrize("variant", variants.VARIANTS)
ONE_OF_EACH = pytest.mark.parametrize("variant", [name for name in variants.VARIANTS if "," not in name])


def in_float64(model):
    return decoder.with_weights(model, {name: w.double() for name, w in decoder.named_weights(model).items()})


def exact_losses(model, component, ids, change):
    """In float64, all logits at once, with the component's weights changed by a flat vector."""
    named = {name: weight.clone() for name, weight in decoder.named_weights(model).items()}
    moved = decoder.with_weights(model, named)
    views = components.weights(moved, component)
    changes = components.unflatten(change[None], {name: view.shape for name, view in views.items()})
    for name, view in views.items():
        view.add_(changes[name][0])
    x = decoder.embed(moved, ids)
    for layer in moved.layers:
        x = decoder.run_layer(x, layer, moved)
    logits = decoder.normalize(x, moved.final_norm, moved)[:, :-1] @ moved.unembedding.T
    logits = decoder.capped(logits, moved.description.final_cap)
    return functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def made(model, component, ids, *, n_chains=2, n_directions=2, scale=0.1):
    generator = torch.Generator().manual_seed(component.layer + 5)
    n_parameters = components.n_parameters(model, component)
    deltas = scale * torch.randn(n_chains, n_parameters, generator=generator)
    along = torch.randn(n_directions, n_chains, n_parameters, generator=generator)
    return perturbation.prepare(model, component, ids, decoder.residual_stream(model, ids)), deltas, along


@EVERY_VARIANT
def test_losses_and_residual_stream_are_those_of_transformers(variant):
    module, model = variants.of(variant)
    ids = variants.token_ids()
    torch.testing.assert_close(decoder.token_losses(model, ids), variants.losses(module, ids), atol=1e-5, rtol=1e-5)
    *stream, normed = module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    ours = decoder.residual_stream(model, ids)
    torch.testing.assert_close(ours[:-1], torch.stack(stream), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder.normalize(ours[-1], model.final_norm, model), normed, atol=1e-5, rtol=1e-5)


@EVERY_VARIANT
def test_perturbed_components_are_the_module_with_its_weights_changed(variant):
    module, model = variants.of(variant)
    ids = variants.token_ids()
    at_rest = variants.losses(module, ids)
    for component in components.enumerate_components(model):
        own = components.weights(model, component)
        for name, views in variants.pieces(module, component).items():
            assert torch.equal(torch.cat(views), own[name]), component
        inputs, deltas, _ = made(model, component, ids)
        found = perturbation.losses(model, component, inputs, deltas)
        for chain, delta in enumerate(deltas):
            expected = variants.losses_of_changed(module, model, component, ids, delta)
            assert (expected - at_rest).abs().max() > 1e-4, component
            torch.testing.assert_close(
                found[chain], expected, atol=2e-5, rtol=1e-5, msg=lambda t, c=component: f"{c}: {t}"
            )


@EVERY_VARIANT
def test_slopes_are_central_differences_in_float64(variant):
    _, model = variants.of(variant)
    model, ids, step = in_float64(model), variants.token_ids(), 1e-5
    every = components.enumerate_components(model)
    along_at_rest = {}
    for component in every:
        inputs, deltas, directions = made(model, component, ids, n_chains=1)
        deltas, directions = deltas.double(), directions.double()
        losses, slopes = tangents.losses_and_slopes(model, component, inputs, deltas, directions)
        exact = exact_losses(model, component, ids, deltas[0]).float()
        torch.testing.assert_close(losses[0], exact, atol=1e-5, rtol=1e-5)
        for slope, along in zip(slopes[:, 0], directions[:, 0], strict=True):
            pair = [exact_losses(model, component, ids, deltas[0] + sign * step * along) for sign in (1, -1)]
            exact = ((pair[0] - pair[1]) / (2 * step)).float()
            assert exact.abs().max() > 1e-2, component
            torch.testing.assert_close(slope, exact, atol=3e-5, rtol=3e-5, msg=lambda t, c=component: f"{c}: {t}")
        along_at_rest[component] = directions[:, 0]
    at_rest = tangents.slopes_at_rest(model, ids, along_at_rest)
    for component, slopes in zip(every, at_rest.slopes, strict=True):
        pair = [exact_losses(model, component, ids, sign * step * along_at_rest[component][0]) for sign in (1, -1)]
        exact = ((pair[0] - pair[1]) / (2 * step)).float()
        torch.testing.assert_close(slopes[0], exact, atol=3e-5, rtol=3e-5, msg=lambda t, c=component: f"{c}: {t}")


@EVERY_VARIANT
def test_gradients_are_the_mean_slopes_and_scores_are_finite(variant):
    _, model = variants.of(variant)
    ids = variants.token_ids()
    for component in components.enumerate_components(model):
        inputs, deltas, directions = made(model, component, ids)
        own = inputs.take(torch.tensor([[0, 1], [2, 0]]))
        gradient, losses = perturbation.gradients(model, component, own, deltas)
        expected = tangents.losses_and_slopes(model, component, own, deltas, directions)
        torch.testing.assert_close(losses, expected.losses.mean((1, 2)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((directions * gradient).sum(2), expected.slopes.mean((2, 3)), atol=1e-4, rtol=1e-4)
        scores = perturbation.scores(model, component, inputs, deltas, torch.Generator().manual_seed(0))
        assert scores.isfinite().all() and scores.abs().max() > 0


@ONE_OF_EACH
def test_all_weights_hold_every_parameter_of_the_module_once(variant):
    module, model = variants.of(variant)
    assert components.n_parameters(model, components.ALL_WEIGHTS) == sum(p.numel() for p in module.parameters())
    ids = variants.token_ids()
    inputs, deltas, _ = made(model, components.ALL_WEIGHTS, ids)
    found = perturbation.losses(model, components.ALL_WEIGHTS, inputs, torch.zeros_like(deltas))
    torch.testing.assert_close(found[0], decoder.token_losses(model, ids), atol=1e-5, rtol=1e-5)


@ONE_OF_EACH
def test_bfloat16_is_the_same_to_rounding(variant):
    _, rounded = variants.of(variant, dtype=torch.bfloat16)
    exact = decoder.with_weights(rounded, {n: w.float() for n, w in decoder.named_weights(rounded).items()})
    ids = variants.token_ids()
    for component in components.enumerate_components(rounded):
        inputs, deltas, directions = made(rounded, component, ids, scale=0.03)
        ours = tangents.losses_and_slopes(rounded, component, inputs, deltas, directions)
        torch.testing.assert_close(
            ours.losses, perturbation.losses(rounded, component, inputs, deltas), atol=0.3, rtol=0.1
        )
        inputs = perturbation.prepare(exact, component, ids, decoder.residual_stream(exact, ids))
        expected = tangents.losses_and_slopes(exact, component, inputs, deltas, directions)
        assert (ours.slopes - expected.slopes).norm() < 0.1 * expected.slopes.norm(), component
