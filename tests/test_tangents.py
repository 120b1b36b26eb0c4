"""Slopes of token losses equal finite differences, gradients, and themselves however they are taken."""

import pytest
import torch
from torch.nn import functional

import toys
from susc_pipeline.model import components, decoder, decoder_weights, derivatives, families, perturbation, tangents
from susc_pipeline.model.components import Component

EVERY_MODEL = pytest.mark.parametrize(
    ("parallel", "bias"), [(True, True), (True, False), (False, True), (False, False)]
)


def world(*, n_contexts=4, n_chains=2, n_directions=2, scale=0.1, **options):
    """A toy model, and for each component its inputs, deltas and directions."""
    model = families.from_module(toys.toy_module(**options))
    token_ids = torch.as_tensor(toys.toy_tokens(n_contexts))
    stream = decoder.residual_stream(model, token_ids)
    generator = torch.Generator().manual_seed(3)
    made = {}
    for component in components.enumerate_components(model):
        n_parameters = components.n_parameters(model, component)
        deltas = scale * torch.randn(n_chains, n_parameters, generator=generator)
        directions = torch.randn(n_directions, n_chains, n_parameters, generator=generator)
        made[component] = perturbation.prepare(model, component, token_ids, stream), deltas, directions
    return model, token_ids, made


def exact_losses(module, model, component, token_ids, change):
    """Losses of the module of transformers in float64, with the component's weights changed."""
    trained = components.weights(model, component)
    named = components.unflatten(change[None], {name: weight.shape for name, weight in trained.items()})
    before = {name: weight.clone() for name, weight in trained.items()}
    with torch.no_grad():
        for name, weight in trained.items():
            weight.add_(named[name][0])
        logits = module(input_ids=token_ids, use_cache=False).logits[:, :-1]
        for name, weight in trained.items():
            weight.copy_(before[name])
    flat = functional.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten(), reduction="none")
    return flat.view(len(token_ids), -1)


@EVERY_MODEL
def test_slopes_are_central_differences_of_the_losses_of_every_component(parallel, bias):
    model, token_ids, made = world(n_chains=1, parallel=parallel, bias=bias, dtype=torch.float64)
    module = toys.toy_module(parallel=parallel, bias=bias, dtype=torch.float64)
    plain = families.from_module(module)
    step = 1e-5
    for component, (inputs, deltas, directions) in made.items():
        deltas, directions = deltas.double(), directions.double()
        losses, slopes = tangents.losses_and_slopes(model, component, inputs, deltas, directions)
        exact = exact_losses(module, plain, component, token_ids, deltas[0])
        torch.testing.assert_close(losses[0], exact.float(), atol=1e-5, rtol=1e-5)
        for slope, direction in zip(slopes[:, 0], directions[:, 0], strict=True):
            above = exact_losses(module, plain, component, token_ids, deltas[0] + step * direction)
            below = exact_losses(module, plain, component, token_ids, deltas[0] - step * direction)
            exact = ((above - below) / (2 * step)).float()
            assert exact.abs().max() > 0.1
            torch.testing.assert_close(slope, exact, atol=2e-5, rtol=2e-5, msg=lambda text, c=component: f"{c}: {text}")


@EVERY_MODEL
def test_losses_are_those_of_perturbation(parallel, bias):
    model, _, made = world(parallel=parallel, bias=bias)
    for component, (inputs, deltas, directions) in made.items():
        losses, slopes = tangents.losses_and_slopes(model, component, inputs, deltas, directions)
        assert losses.dtype == slopes.dtype == torch.float32
        expected = perturbation.losses(model, component, inputs, deltas)
        torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)


@EVERY_MODEL
def test_slopes_at_rest_are_those_of_each_component_without_a_perturbation(parallel, bias):
    model, token_ids, made = world(parallel=parallel, bias=bias, n_chains=1)
    shuffled = [*made][::-1]  # the mapping's order is not the model's
    at_rest = tangents.slopes_at_rest(model, token_ids, {c: made[c][2][:, 0] for c in shuffled})
    torch.testing.assert_close(at_rest.losses, decoder.token_losses(model, token_ids), atol=1e-5, rtol=1e-5)
    for component, slopes in zip(shuffled, at_rest.slopes, strict=True):
        inputs, deltas, directions = made[component]
        alone = tangents.losses_and_slopes(model, component, inputs, torch.zeros_like(deltas), directions)
        torch.testing.assert_close(slopes, alone.slopes[:, 0], atol=2e-5, rtol=1e-4)


def test_slopes_at_rest_do_not_depend_on_the_other_components():
    model, token_ids, made = world(n_chains=1)
    along = {component: directions[:, 0] for component, (_, _, directions) in made.items()}
    together = tangents.slopes_at_rest(model, token_ids, along).slopes
    for component, slopes in zip(along, together, strict=True):
        alone = tangents.slopes_at_rest(model, token_ids, {component: along[component]}).slopes[0]
        torch.testing.assert_close(alone, slopes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slopes_are_linear_in_the_direction_however_short_it_is(dtype):
    model, token_ids, made = world(n_directions=3, dtype=dtype)
    rounding = 1e-5 if dtype == torch.float32 else 0.05
    for component, (inputs, deltas, directions) in made.items():
        directions[1] = 1e-12 * directions[0]
        directions[2] = 0
        full, short, none = tangents.losses_and_slopes(model, component, inputs, deltas, directions).slopes
        torch.testing.assert_close(short * 1e12, full, atol=rounding * full.abs().max().item(), rtol=rounding)
        assert torch.equal(none, torch.zeros_like(none))
        resting = tangents.slopes_at_rest(model, token_ids, {component: directions[:, 0]}).slopes[0]
        torch.testing.assert_close(
            resting[1] * 1e12, resting[0], atol=rounding * resting.abs().max().item(), rtol=rounding
        )
        assert torch.equal(resting[2], torch.zeros_like(resting[2]))


def test_the_slope_of_a_sum_is_the_sum_of_the_slopes():
    model, _, made = world(n_directions=3)
    for component, (inputs, deltas, directions) in made.items():
        directions[2] = 2 * directions[0] - directions[1]
        one, other, both = tangents.losses_and_slopes(model, component, inputs, deltas, directions).slopes
        torch.testing.assert_close(both, 2 * one - other, atol=5e-5, rtol=1e-4)


def test_chains_with_contexts_of_their_own_equal_chains_run_alone():
    model, _, made = world(n_contexts=6)
    rows = torch.tensor([[0, 3], [5, 1]])
    for component, (inputs, deltas, directions) in made.items():
        together = tangents.losses_and_slopes(model, component, inputs.take(rows), deltas, directions)
        for chain in range(2):
            one = slice(chain, chain + 1)
            alone = tangents.losses_and_slopes(
                model, component, inputs.take(rows[chain]), deltas[one], directions[:, one]
            )
            torch.testing.assert_close(together.losses[one], alone.losses, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.slopes[:, one], alone.slopes, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
def test_bfloat16_slopes_are_those_of_the_same_weights_to_rounding(parallel):
    rounded, token_ids, made = world(dtype=torch.bfloat16, parallel=parallel)
    named = {name: weight.float() for name, weight in decoder_weights.named_weights(rounded).items()}
    exact = decoder_weights.with_weights(rounded, named)
    stream = decoder.residual_stream(exact, token_ids)
    for component, (inputs, deltas, directions) in made.items():
        ours = tangents.losses_and_slopes(rounded, component, inputs, deltas, directions)
        inputs = perturbation.prepare(exact, component, token_ids, stream)
        expected = tangents.losses_and_slopes(exact, component, inputs, deltas, directions)
        assert ours.slopes.dtype == torch.float32
        assert (ours.slopes - expected.slopes).norm() < 0.03 * expected.slopes.norm(), component
        assert (ours.losses - expected.losses).norm() < 0.01 * expected.losses.norm(), component


@EVERY_MODEL
def test_the_mean_slope_is_the_gradient_times_the_direction(parallel, bias):
    model, _, made = world(parallel=parallel, bias=bias)
    for component, (inputs, deltas, directions) in made.items():
        slopes = tangents.losses_and_slopes(model, component, inputs, deltas, directions).slopes
        gradient, _ = derivatives.gradients(model, component, inputs, deltas)
        torch.testing.assert_close(slopes.mean((2, 3)), (directions * gradient).sum(2), atol=1e-4, rtol=1e-4)


def test_the_whole_model_is_refused_with_a_remedy():
    model, token_ids, made = world(n_chains=1)
    inputs, deltas, directions = made[Component("embed")]
    with pytest.raises(ValueError, match="one part of the model, got 'all_weights'; choose from"):
        tangents.losses_and_slopes(model, components.ALL_WEIGHTS, inputs, deltas, directions)
    with pytest.raises(ValueError, match="one part of the model, got 'all_weights'; choose from"):
        tangents.slopes_at_rest(model, token_ids, {components.ALL_WEIGHTS: directions[:, 0]})
