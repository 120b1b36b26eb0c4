"""The stability limit: curvature against the dense Hessian, limits against the samplers' own steps on a quadratic."""

import dataclasses
import math

import pytest
import torch

import toys
from susc_pipeline.model import components, decoder, derivatives, families, perturbation
from susc_pipeline.sampling import curvature as curvatures
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS

SETTINGS = SamplingSettings(n_beta=40.0, localization=10.0)


@pytest.mark.parametrize("name", ["L0H1", "L2MLP"])
def test_curvature_is_the_largest_eigenvalue_of_the_dense_hessian_from_below(name):
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, name)
    ids = torch.as_tensor(toys.toy_tokens(3))
    inputs = perturbation.prepare(model, component, ids, decoder.residual_stream(model, ids))
    zero = torch.zeros(1, components.n_parameters(model, component))
    eye = torch.eye(zero.shape[1])
    step = 1e-2
    columns = [derivatives.gradients(model, component, inputs, sign * step * eye)[0] for sign in (1, -1)]
    hessian = (columns[0] - columns[1]) / (2 * step)
    exact = torch.linalg.eigvalsh((hessian + hessian.T) / 2).max().item()
    found = curvatures.largest_curvature(model, component, inputs)
    assert 0.9 * exact < found < 1.02 * exact


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drift_contracts_below_the_limit_and_grows_above_it_where_the_limit_is_sharp(sampler):
    curvature = 2.0
    settings = dataclasses.replace(SETTINGS, sampler=sampler)
    limit = curvatures.max_step_size(curvature, settings)

    def displacement_after(step_size, n_steps=200):
        state = SAMPLERS[sampler].init(torch.zeros(1, 1), localization=1.0)._replace(delta=torch.ones(1, 1))
        for _ in range(n_steps):
            state = SAMPLERS[sampler].step(
                state,
                curvature * state.delta,
                torch.zeros(1, 1),
                step_size=step_size,
                n_beta=settings.n_beta,
                localization=settings.localization,
            )
        return state.delta.abs().item()

    assert displacement_after(0.98 * limit) < 1
    if not sampler.startswith("rmsprop"):  # there the limit is that of the smallest preconditioner, so it is safe
        assert displacement_after(1.02 * limit) > 1


@pytest.mark.parametrize("sampler", ["sgld", "exponential"])
def test_a_step_at_the_limit_inflates_the_variance_of_a_quadratic_posterior_as_stated(sampler):
    curvature, inflation = 2.0, 1.25
    settings = dataclasses.replace(SETTINGS, sampler=sampler)
    step_size = curvatures.max_step_size(curvature, settings, inflation=inflation)
    options = {"step_size": step_size, "n_beta": settings.n_beta, "localization": settings.localization}

    def moved(delta, noise):  # the step is affine: its two coefficients give the stationary variance exactly
        state = SAMPLERS[sampler].init(torch.zeros(1, 1), localization=1.0)._replace(delta=torch.tensor([[delta]]))
        gradient = curvature * state.delta
        after = SAMPLERS[sampler].step(state, gradient, torch.tensor([[noise]]), **options)
        return after.delta.item()

    kept, spread = moved(1.0, 0.0), moved(0.0, 1.0)
    exact = 1 / (settings.n_beta * curvature + settings.localization)
    assert spread**2 / (1 - kept**2) / exact == pytest.approx(inflation, rel=1e-4)


def test_a_step_is_divided_until_the_curvature_allows_it_and_the_time_between_draws_stays():
    component = components.Component("head", 0, 0)
    settings = dataclasses.replace(SETTINGS, step_size=2.0, n_burn_in=3, n_steps_between_draws=2)
    limit = curvatures.max_step_size(1.0, settings, inflation=curvatures.MAX_INFLATION)
    found = curvatures.split_steps(1.0, component, settings)
    assert limit / 2 < found.step_size <= limit < settings.step_size
    assert found.step_size * found.n_burn_in == pytest.approx(6.0)
    assert found.step_size * found.n_steps_between_draws == pytest.approx(4.0)
    assert curvatures.split_steps(1.0, component, found) == found
    assert curvatures.split_steps(0.01, component, settings) == settings


def test_negative_curvature_sets_no_limit_beyond_that_of_the_prior():
    for sampler in SAMPLERS:
        settings = dataclasses.replace(SETTINGS, sampler=sampler)
        assert curvatures.max_step_size(-5.0, settings) == curvatures.max_step_size(0.0, settings)


def test_where_the_prior_dominates_no_step_of_the_exponential_integrator_is_too_large():
    assert curvatures.max_step_size(0.2, SETTINGS) == math.inf
    assert curvatures.max_step_size(0.3, SETTINGS) < math.inf
