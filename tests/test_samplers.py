"""Each sampler's stationary moments against the closed form of a quadratic loss, and the LLC of singular ones."""

import math

import numpy as np
import pytest
import torch

from susc_pipeline.sampling import diagnostics
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS, State

LOCALIZATION, N_BETA = 4.0, 3.0
CURVATURE = torch.tensor([0.0, 0.5, 2.0])


def run(sampler, step_size, *, n_beta=N_BETA, n_steps=400, n_chains=4000, mean=0.0):
    generator = torch.Generator().manual_seed(7)
    force = {"n_beta": n_beta, "localization": LOCALIZATION}
    state = SAMPLERS[sampler].init(noise_of(generator, n_chains), localization=LOCALIZATION)
    for _ in range(n_steps):
        gradient = CURVATURE * (state.delta - mean)
        state = SAMPLERS[sampler].step(state, gradient, noise_of(generator, n_chains), step_size=step_size, **force)
    return state.delta


def noise_of(generator, n_chains):
    return torch.randn(n_chains, len(CURVATURE), generator=generator)


def precision(n_beta=N_BETA):
    return LOCALIZATION + n_beta * CURVATURE


def test_sgld_has_the_variance_of_its_own_discretization():
    step_size = 0.05
    exact = 1 / (precision() * (1 - step_size * precision() / 4))  # of the linear recursion, not of the target
    variance = run("sgld", step_size).var(dim=0)
    torch.testing.assert_close(variance, exact, rtol=0.08, atol=0)


def test_the_exponential_sampler_has_the_priors_variance_exactly_at_any_step():
    for step_size in (0.1, 1.0, 5.0):
        variance = run("exponential", step_size, n_beta=0.0, n_steps=60).var(dim=0)
        torch.testing.assert_close(variance, torch.full((3,), 1 / LOCALIZATION), rtol=0.08, atol=0)


def test_the_exponential_sampler_begins_in_the_prior_and_the_others_at_the_trained_weights():
    noise = noise_of(torch.Generator().manual_seed(0), 4000)
    for name, sampler in SAMPLERS.items():
        start = sampler.init(noise, localization=LOCALIZATION).delta
        if name == "exponential":
            torch.testing.assert_close(start.var(dim=0), torch.full((3,), 1 / LOCALIZATION), rtol=0.08, atol=0)
        else:
            assert not start.any()


def test_noise_of_opposite_sign_mirrors_every_sampler_where_the_loss_is_even():
    """The power of mirrored pairs rests on it: only a gradient that is not odd in the position breaks the symmetry."""
    generator = torch.Generator().manual_seed(3)
    force = {"step_size": 0.05, "n_beta": N_BETA, "localization": LOCALIZATION}
    for sampler in SAMPLERS.values():
        first = noise_of(generator, 5)
        states = [sampler.init(sign * first, localization=LOCALIZATION) for sign in (1, -1)]
        for _ in range(10):
            push = noise_of(generator, 5)
            states = [
                sampler.step(state, CURVATURE * state.delta, sign * push, **force)
                for state, sign in zip(states, (1, -1), strict=True)
            ]
        torch.testing.assert_close(states[0].delta, -states[1].delta, rtol=0, atol=0)


def test_the_exponential_sampler_has_the_mean_of_the_posterior_and_nearly_its_variance():
    delta = run("exponential", 0.2, mean=0.5)
    torch.testing.assert_close(delta.mean(dim=0), N_BETA * CURVATURE * 0.5 / precision(), atol=0.02, rtol=0)
    kept = math.exp(-0.2)
    factor = kept - (1 - kept) * N_BETA * CURVATURE / LOCALIZATION
    exact = (1 - kept**2) / LOCALIZATION / (1 - factor**2)
    torch.testing.assert_close(delta.var(dim=0), exact, rtol=0.08, atol=0)
    torch.testing.assert_close(exact, 1 / precision(), rtol=0.2, atol=0)  # the force is held over a step of 0.2


def test_rmsprop_sgld_samples_the_target_with_a_frozen_preconditioner():
    # With constant gradient magnitude zero (first axis) v decays to zero and the step grows to step_size / 0.1.
    variance = run("rmsprop_sgld_devinterp", 0.005, n_steps=600).var(dim=0)
    torch.testing.assert_close(variance[0], torch.tensor(1 / LOCALIZATION), rtol=0.1, atol=0)


def test_the_two_rmsprop_forms_differ_at_the_start_and_agree_in_the_end():
    gradient, noise = torch.ones(1, 3), torch.zeros(1, 3)
    forms = {}
    for sampler in ("rmsprop_sgld_paper", "rmsprop_sgld_devinterp"):
        state = SAMPLERS[sampler].init(noise, localization=1e-9)
        sizes = []
        for _ in range(3000):
            previous = state.delta
            state = SAMPLERS[sampler].step(state, gradient, noise, step_size=1e-6, n_beta=1.0, localization=1e-9)
            sizes.append(float((previous - state.delta)[0, 0]))
        forms[sampler] = sizes
    paper, devinterp = forms["rmsprop_sgld_paper"], forms["rmsprop_sgld_devinterp"]
    assert devinterp[0] / paper[0] > 5  # sqrt of 0.01 against sqrt of 1/0.01
    assert devinterp[-1] == pytest.approx(paper[-1], rel=0.02)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler must be one of.*'hmc'"):
        SamplingSettings(sampler="hmc")


@pytest.mark.parametrize("powers", [(2, 2, 2), (2, 4), (4, 4, 6)])
def test_llc_of_a_sum_of_even_powers_is_the_sum_of_inverse_powers(powers):
    power = torch.tensor(powers, dtype=torch.float64)
    n_beta, localization = 1e4, 1e-3
    generator = torch.Generator().manual_seed(1)
    delta = torch.zeros(500, len(powers), dtype=torch.float64)
    state = State(delta, delta[:, :0], 0)
    trace = []
    for number in range(12000):
        gradient = power / 2 * state.delta ** (power - 1)
        noise = torch.randn(delta.shape, generator=generator, dtype=torch.float64)
        state = SAMPLERS["sgld"].step(state, gradient, noise, step_size=2e-5, n_beta=n_beta, localization=localization)
        if number >= 9000:
            trace.append((state.delta**power).sum(dim=1) / 2)
    found = diagnostics.local_learning_coefficient(torch.stack(trace, dim=1).numpy(), init_loss=0.0, n_beta=n_beta)
    assert found.value == pytest.approx(float((1 / power).sum()), rel=0.08)
    assert found.standard_error < 0.05


def test_r_hat_is_one_for_chains_that_agree_and_large_for_chains_that_do_not():
    rng = np.random.default_rng(0)
    agreeing = rng.normal(size=(4, 500))
    assert diagnostics.r_hat(agreeing) == pytest.approx(1.0, abs=0.01)
    assert diagnostics.r_hat(agreeing + 3 * np.arange(4)[:, None]) > 1.5
    assert diagnostics.r_hat(agreeing + np.linspace(0, 5, 500)) > 1.2  # a drift is seen by splitting chains
    with pytest.raises(ValueError, match="at least 4 draws"):
        diagnostics.r_hat(agreeing[:, :3])


def test_effective_sample_size_of_an_autoregression_is_the_closed_form():
    rng = np.random.default_rng(0)
    kept, trace = 0.8, np.zeros((4, 20000))
    for t in range(1, trace.shape[1]):
        trace[:, t] = kept * trace[:, t - 1] + rng.normal(size=4)
    assert diagnostics.effective_sample_size(trace) == pytest.approx(trace.size * (1 - kept) / (1 + kept), rel=0.15)


@pytest.mark.parametrize("n_chains, n_draws", [(4, 4), (6, 4)])
def test_chains_that_agree_exceed_the_limit_of_r_hat_as_often_as_stated(n_chains, n_draws):
    rng = np.random.default_rng(1)
    found = np.array([diagnostics.r_hat(rng.normal(size=(n_chains, n_draws))) for _ in range(4000)])
    for level in (0.9, 0.99):
        limit = diagnostics.r_hat_limit(n_chains, n_draws, level=level)
        share, error = np.mean(found > limit), np.sqrt(level * (1 - level) / len(found))
        assert abs(share - (1 - level)) < 4 * error
    assert diagnostics.r_hat_limit(4, 1000) == 1.1
