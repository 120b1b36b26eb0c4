"""Division by the posterior's precision against dense matrices."""

import dataclasses

import numpy as np
import pytest
import torch

import toys
from susc_pipeline.model import components, derivatives, families, perturbation
from susc_pipeline.sampling import curvature, precision
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

SETTINGS = SamplingSettings(n_chains=4, n_beta=30.0, localization=300.0)
CONTEXTS = toys.toy_tokens(6)


@pytest.mark.parametrize("largest", [0.15, 0.5, 2.0, 20.0])
def test_chebyshev_iteration_divides_within_its_tolerance_along_every_eigenvector(largest):
    eigenvalues = torch.linspace(0, largest, 50)
    vectors = torch.eye(50)
    found = precision.chebyshev(lambda along: along * eigenvalues, vectors, largest=largest)
    off = (found.diagonal() * (1 + eigenvalues) - 1).abs()
    assert off.max() <= precision.TOLERANCE
    torch.testing.assert_close(found, found.diagonal().diag())


def test_few_products_are_enough_where_the_loss_is_hardly_stiff():
    assert precision.n_products(0.15) == 1
    assert precision.n_products(0.55) == 1
    assert precision.n_products(5.0) > precision.n_products(0.55)


def hessian(model, component, ids):
    inputs = perturbation.prepare_tokens(model, component, torch.as_tensor(ids))
    n_weights = components.n_parameters(model, component)
    push = 1e-3 * torch.eye(n_weights)
    ahead, behind = (derivatives.gradients(model, component, inputs, sign * push)[0] for sign in (1, -1))
    found = (ahead - behind) / 2e-3
    return ((found + found.T) / 2).double().numpy()


@pytest.mark.parametrize("name", ["L1H0", "L2H1"])
def test_vectors_are_divided_by_localization_plus_n_beta_times_the_hessian(name):
    model = families.from_module(toys.toy_module(dtype=torch.float64))
    component = components.by_name(model, name)
    population = Population((CONTEXTS.astype(np.int32),) * SETTINGS.n_chains)
    curved = hessian(model, component, CONTEXTS)
    eigenvalues, eigenvectors = np.linalg.eigh(curved)
    stiff = dataclasses.replace(SETTINGS, n_beta=0.5 * SETTINGS.localization / float(eigenvalues[-1]))
    largest = curvature.of_population(model, component, population)
    assert stiff.n_beta * largest / stiff.localization == pytest.approx(0.5, rel=0.5)
    rng = np.random.default_rng(0)
    mixed = eigenvectors[:, -3:] @ rng.normal(size=(3, 2 * SETTINGS.n_chains))
    exact = np.linalg.solve(stiff.localization * np.eye(len(curved)) + stiff.n_beta * curved, mixed).T
    vectors = torch.as_tensor(mixed.T)
    found = precision.divided(model, component, stiff, population, vectors, n_contexts=len(CONTEXTS)).numpy()
    of_prior = vectors.numpy() / stiff.localization
    assert np.abs(of_prior - exact).max() > 0.2 * np.abs(exact).max()
    np.testing.assert_allclose(found, exact, atol=0.06 * np.abs(exact).max())


def test_where_the_loss_is_not_stiff_localization_alone_divides():
    model = families.from_module(toys.toy_module())
    component = components.by_name(model, "L1H0")
    population = Population((CONTEXTS.astype(np.int32),) * SETTINGS.n_chains)
    soft = dataclasses.replace(SETTINGS, n_beta=1e-3)
    vectors = torch.randn(4, components.n_parameters(model, component))
    found = precision.divided(model, component, soft, population, vectors, n_contexts=2)
    torch.testing.assert_close(found, vectors / soft.localization)
