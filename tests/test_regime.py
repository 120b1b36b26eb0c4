"""What decides a susceptibility: the learning coefficient has its closed form, and a rescaled head is the same function."""

import math

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import schema, seeds
from susc_pipeline.model import components, decoder, decoder_weights, families
from susc_pipeline.model.components import Component
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility import directions, regime
from susc_pipeline.susceptibility.directions import DirectionSettings, Rise, Trace

SETTINGS = SamplingSettings(n_chains=4, n_draws=2, n_burn_in=2, step_size=2.0, n_beta=5.0, localization=50.0)
WANTED = DirectionSettings(reliability=0.99, max_contexts=64)
POPULATION = Population(tuple(toys.toy_tokens(8, seed=chain) for chain in range(4)))
PROBE = toys.toy_tokens(4, seed=99)
HEAD = Component("head", 1, 1)
ALL_KINDS = pytest.mark.parametrize(("parallel", "bias"), [(True, True), (True, False), (False, True), (False, False)])


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


def rise_of(trace, settings):
    """The rise that chains with these losses would be part of, all steps after the burn-in counted."""
    n_contexts = (len(trace.loss) - settings.n_burn_in) * settings.n_chains * settings.batch_size
    return Rise(torch.zeros(0), np.zeros((0, 0)), trace, n_contexts, 0.0)


def quadratic_trace(curvatures, settings, n_steps):
    """Losses of mirrored chains on a quadratic loss, each step's with context noise that w* has too."""
    rng = np.random.default_rng(0)
    noise = torch.as_tensor(rng.normal(size=(n_steps + 1, settings.n_chains, len(curvatures)))).float()
    pushes = torch.cat([noise, -noise], dim=1)
    state = SAMPLERS["exponential"].init(pushes[0], localization=settings.localization)
    losses, at_rest = [], []
    for push in pushes[1:]:
        rest = np.tile(rng.normal(size=settings.n_chains), 2)
        losses.append((curvatures * state.delta**2).sum(dim=1).numpy() / 2 + rest)
        at_rest.append(rest)
        force = {"step_size": settings.step_size, "n_beta": settings.n_beta, "localization": settings.localization}
        state = SAMPLERS["exponential"].step(state, curvatures * state.delta, push, **force)
    return Trace(np.stack(losses), np.stack(at_rest))


def test_the_learning_coefficient_of_a_quadratic_loss_is_its_closed_form():
    curvatures = torch.linspace(0.5, 10.0, 30)
    settings = SamplingSettings(n_chains=16, n_burn_in=20, step_size=1.0, n_beta=5.0, localization=50.0)
    found = regime.of_chains(rise_of(quadratic_trace(curvatures, settings, 4000), settings), settings)
    force = settings.n_beta * curvatures / settings.localization
    inflation = 1 / (1 - force * math.tanh(settings.step_size / 2))  # of the sampler's variance, by its own bound
    exact = float((force / (1 + force) * inflation).sum() / 2)
    assert found.llc.standard_error < 0.05
    assert found.llc.value == pytest.approx(exact, abs=4 * found.llc.standard_error)
    assert found.r_hat < 1.01
    assert 0.1 < found.effective_share < 1


def test_mirror_images_that_repeat_their_chains_add_no_certainty():
    rng = np.random.default_rng(0)
    rise = rng.normal(size=(12, 4))
    settings = SamplingSettings(n_chains=4, n_burn_in=2, n_beta=3.0)
    zeros = np.zeros((12, 8))
    found = regime.of_chains(rise_of(Trace(np.tile(rise, 2), zeros), settings), settings)
    means = 3 * rise[2:].mean(axis=0)
    assert found.llc.value == pytest.approx(means.mean())
    assert found.llc.standard_error == pytest.approx(means.std(ddof=1) / 2)


def test_at_n_beta_zero_the_prior_reproduces_itself(model):
    rest = torch.stack([directions.at_rest(model, POPULATION, chain).gradient["L1MLP"] for chain in range(4)])
    component = Component("mlp", 1)
    slopes = directions.probe_slopes(model, PROBE, {component: rest / SETTINGS.localization})[0]
    found = regime.sweep(
        model, component, SETTINGS, WANTED, POPULATION, PROBE, slopes, (0.0, 1.0, 50.0), seeds.sequence(1)
    )
    assert dict(found.schema) == schema.REGIME
    assert found["n_beta"].to_list() == [0.0, 1.0, 50.0]
    assert found["llc"][0] == 0.0
    assert found["prior_correlation"][0] == pytest.approx(1.0)
    assert found["prior_slope"][0] == pytest.approx(1.0)
    # The further n_beta, the less of the response is that of chains without the loss.
    from_one = (found["prior_correlation"] - 1.0).abs()
    assert from_one[2] > 1e-3 and from_one[1] < from_one[2] / 10
    n_weights = components.n_parameters(model, component)
    np.testing.assert_allclose(found["controlled_share"], 2 * found["llc"] / n_weights)
    assert found["curvature"].n_unique() == 1 and found["curvature"][0] > 0


def test_what_is_not_known_is_null(model):
    found = rise_of(Trace(np.ones((12, 8)), np.zeros((12, 8))), SETTINGS)
    made = regime.table([regime.row(model, HEAD, SETTINGS, found, largest=1.0)])
    assert made["prior_correlation"].to_list() == [None]
    assert made["llc"].to_list() == [5.0]


@ALL_KINDS
def test_a_rescaled_head_is_the_same_function(parallel, bias):
    model = families.from_module(toys.toy_module(parallel=parallel, bias=bias))
    if bias:  # zero as made, which any factor leaves alone
        model.layers[1].query_key_value_bias.normal_(generator=torch.Generator().manual_seed(1))
    before = {name: weight.clone() for name, weight in decoder_weights.named_weights(model).items()}
    ids = torch.as_tensor(PROBE)
    moved = regime.rescaled(model, 1, 1, 3.0)
    torch.testing.assert_close(decoder.token_losses(moved, ids), decoder.token_losses(model, ids), atol=1e-5, rtol=0)
    for name, weight in decoder_weights.named_weights(model).items():
        assert torch.equal(weight, before[name])  # the model itself stays
    changed = {n for n, weight in decoder_weights.named_weights(moved).items() if not torch.equal(weight, before[n])}
    expected = {"1.query_key_value", "1.dense"} | ({"1.query_key_value_bias"} if bias else set())
    assert changed == expected
    back = regime.rescaled(moved, 1, 1, 1 / 3.0)
    for name, weight in decoder_weights.named_weights(back).items():
        torch.testing.assert_close(weight, before[name])


def test_queries_and_keys_and_other_heads_are_not_rescaled(model):
    moved = regime.rescaled(model, 1, 1, 2.0)
    own, other = (components.weights(m, HEAD) for m in (moved, model))
    size = model.head_size
    assert torch.equal(own["query_key_value"][: 2 * size], other["query_key_value"][: 2 * size])
    torch.testing.assert_close(own["query_key_value"][2 * size :], 2 * other["query_key_value"][2 * size :])
    torch.testing.assert_close(own["output"], other["output"] / 2)
    for name, weight in components.weights(moved, Component("head", 1, 0)).items():
        assert torch.equal(weight, components.weights(model, Component("head", 1, 0))[name])


def test_gradients_after_rescaling_are_those_that_follow_from_before(model):
    moved = regime.rescaled(model, 1, 1, 2.0)
    before, after = (directions.at_rest(m, POPULATION, 0).gradient["L1H1"][None] for m in (model, moved))
    torch.testing.assert_close(regime.rescaled_gradient(model, HEAD, before, 2.0), after, atol=1e-6, rtol=1e-4)


def test_susceptibilities_depend_on_how_a_head_is_written(model):
    rest = torch.stack([directions.at_rest(model, POPULATION, chain).gradient["L1H1"] for chain in range(4)])
    slopes = directions.probe_slopes(model, PROBE, {HEAD: rest / SETTINGS.localization})[0]
    before = directions.rise(model, HEAD, SETTINGS, WANTED, POPULATION, PROBE, slopes, seeds.sequence(1))

    def at(factor):
        return regime.rescaling(
            model, HEAD, SETTINGS, WANTED, POPULATION, PROBE, rest, before, seeds.sequence(1), factor=factor
        )

    same, other = at(1.0), at(4.0)
    assert same.correlation == pytest.approx(1.0) and same.slope == pytest.approx(1.0)
    assert other.correlation < 0.95


def test_only_heads_are_rescaled_and_by_positive_factors(model):
    with pytest.raises(ValueError, match="no component 'L1H9'"):
        regime.rescaled(model, 1, 9, 2.0)
    with pytest.raises(ValueError, match="factor must be positive and finite, got 0"):
        regime.rescaled(model, 1, 1, 0.0)
    with pytest.raises(ValueError, match="only a head with a value of its own can be rescaled, got L1MLP"):
        regime.rescaled_gradient(model, Component("mlp", 1), torch.zeros(1, 5), 2.0)
