"""The negative control: the change of the mean excess loss from n_beta 0 is n_beta times the susceptibility."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import schema, seeds
from susc_pipeline.model import components, families
from susc_pipeline.model.components import Component
from susc_pipeline.sampling import chains, token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import control, directions, estimators
from susc_pipeline.susceptibility.estimators import ShardEstimates

SETTINGS = SamplingSettings(n_chains=4, n_draws=3, n_burn_in=2, step_size=2.0, n_beta=5.0, localization=50.0)
POPULATION = Population(tuple(toys.toy_tokens(6, seed=chain) for chain in range(4)))
CONTEXTS = toys.toy_tokens(3, seed=77)
HEAD = Component("head", 1, 0)


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


def change(model, component=HEAD, seed=1, contexts=CONTEXTS, population=POPULATION, rest=None, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return control.difference(model, component, settings, contexts, population, seeds.sequence(seed), rest=rest)


def test_at_n_beta_zero_the_difference_is_zero(model):
    for component in components.enumerate_components(model):
        assert np.abs(change(model, component, n_beta=0.0)).max() < 5e-6


@pytest.mark.parametrize("sampler, step_size", [("sgld", 0.02), ("rmsprop_sgld_paper", 1e-3)])
def test_other_samplers_are_coupled_too(model, sampler, step_size):
    alike = {"sampler": sampler, "step_size": step_size, "n_burn_in": 20}
    assert np.abs(change(model, n_beta=0.0, **alike)).max() < 5e-6
    small = change(model, n_beta=0.1, **alike)
    np.testing.assert_allclose(change(model, n_beta=0.2, **alike), 2 * small, atol=0.05 * np.abs(small).max())


def test_a_small_n_beta_moves_losses_in_proportion(model):
    small = change(model, n_beta=0.5)
    np.testing.assert_allclose(change(model, n_beta=1.0), 2 * small, atol=0.05 * np.abs(small).max())


def test_the_same_contexts_measured_apart_give_the_same_numbers(model):
    together = change(model)
    apart = [change(model, contexts=CONTEXTS[row : row + 1]) for row in range(len(CONTEXTS))]
    np.testing.assert_allclose(np.concatenate(apart, axis=1), together, atol=1e-5)
    np.testing.assert_allclose(change(model, evaluation_batch_size=1), together, atol=1e-5)
    assert together.shape == (4, 3 * 11)


def test_excess_losses_of_the_drawn_contexts_sum_to_zero(model):
    # All chains read the same contexts, and these are measured: their mean loss is the population's.
    shared = Population((np.tile(CONTEXTS, (2, 1)),) * 4)
    found = change(model, contexts=CONTEXTS, population=shared, batch_size=3, n_reference_contexts=3)
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found.mean(axis=1), 0.0, atol=1e-6)


def test_a_gradient_at_rest_changes_nothing_where_each_step_reads_the_whole_population(model):
    rest = torch.stack([directions.at_rest(model, POPULATION, chain).gradient["L1H0"] for chain in range(4)])
    twice = Population(tuple(np.tile(part, (2, 1)) for part in POPULATION.parts))
    whole = {"population": twice, "batch_size": 6, "n_reference_contexts": 6}
    np.testing.assert_allclose(change(model, rest=rest, **whole), change(model, **whole), atol=1e-5)
    assert not np.allclose(change(model, rest=rest), change(model), atol=1e-3)  # where it reads two contexts, it does


def test_differences_are_n_beta_times_second_order_susceptibilities(model):
    rest = torch.stack([directions.at_rest(model, POPULATION, chain).gradient["L1H0"] for chain in range(4)])
    settings = dataclasses.replace(SETTINGS, n_draws=50, n_beta=1.0)
    traces = token_draws.sample(
        model, HEAD, settings, CONTEXTS, POPULATION, seeds.sequence(2), direction=rest / 50.0, own_slopes=True
    )
    one = estimators.estimate_component(traces, kind="second_order")
    estimates = ShardEstimates(*(column[:, None] for column in one))
    found = change(model, n_draws=50, n_beta=1.0, rest=rest)
    row = control.table(["L1H0"], [found], estimates, n_beta=1.0).row(0, named=True)
    assert row["disattenuated"] > 0.9


def test_a_quadratic_response_is_exact_at_any_step(model, monkeypatch):
    """Loss x A x / 2 and token loss x x / 2: to first order the mean difference is -n_beta tr(A) / (2 localization^2)."""
    curvatures = torch.linspace(0.2, 2.0, 7)

    def gradients(model, component, batch, delta):
        return curvatures * delta, (curvatures * delta**2).sum(dim=1) / 2

    def losses(model, component, inputs, deltas):
        own = (deltas**2).sum(dim=1) / 2 if len(inputs.token_ids.shape) == 2 else torch.zeros(len(deltas))
        return own[:, None, None].expand(-1, 1, 1)

    batch = next(token_draws.fresh_batches(model, HEAD, SETTINGS, POPULATION, seeds.sequence(0)))
    monkeypatch.setattr(control.token_draws, "fresh_batches", lambda *_: itertools.repeat(batch))
    monkeypatch.setattr(control.derivatives, "gradients", gradients)
    monkeypatch.setattr(control.perturbation, "losses", losses)
    monkeypatch.setattr(control.components, "n_parameters", lambda model, component: len(curvatures))
    monkeypatch.setattr(control.chains, "prepared", lambda model, component, settings, population, **known: settings)
    for step_size in (0.25, 2.0):
        found = change(model, step_size=step_size, n_beta=0.5, n_draws=2000, n_burn_in=40, contexts=CONTEXTS[:1])
        expected = -0.5 * float(curvatures.sum()) / (2 * 50.0**2)
        error = found.std(ddof=1) / 2
        assert error < 0.05 * abs(expected)
        assert found.mean() == pytest.approx(expected, abs=4 * error + 0.03 * abs(expected))


def test_a_table_recovers_slope_and_correlation_under_noise_that_halves_share():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    noise = rng.normal(size=(2, len(truth)))  # in the same half of both measurements
    susceptibility = truth + noise + rng.normal(size=(2, len(truth)))
    of_chains = np.stack([30 * (0.8 * truth + noise[chain % 2] + rng.normal(size=len(truth))) for chain in range(8)])
    estimates = ShardEstimates(*(part[:, None] for part in (susceptibility.mean(0), truth, *susceptibility)))
    row = control.table(["L0H0"], [of_chains], estimates, n_beta=30.0).row(0, named=True)
    assert row["disattenuated"] == pytest.approx(1.0, abs=0.05)
    assert row["slope"] == pytest.approx(0.8, abs=0.05)
    assert row["slope_error"] < 0.05
    assert row["reliability"] == pytest.approx(0.5, abs=0.03)
    assert row["correlation"] < 0.95


def test_the_table_has_its_schema_and_null_where_noise_hides_the_answer():
    rng = np.random.default_rng(0)
    estimates = ShardEstimates(*(np.zeros((9, 1)) for _ in range(4)))
    found = control.table(["embed"], [rng.normal(size=(4, 9))], estimates, n_beta=1.0)
    assert dict(found.schema) == schema.CONTROL
    assert found.row(0, named=True)["disattenuated"] is None


def test_a_table_without_n_beta_or_of_other_tokens_is_refused():
    estimates = ShardEstimates(*(np.zeros((9, 1)) for _ in range(4)))
    with pytest.raises(ValueError, match="compares n_beta with zero"):
        control.table(["embed"], [np.zeros((4, 9))], estimates, n_beta=0.0)
    with pytest.raises(ValueError, match="embed measured 8 tokens, but 9"):
        control.table(["embed"], [np.zeros((4, 8))], estimates, n_beta=1.0)


def test_a_chain_that_diverges_is_named(model):
    with pytest.raises(chains.ChainDivergedError, match=r"of unembed diverged at step \d"):
        change(model, Component("unembed"), n_beta=0.0, localization=1e-3)
