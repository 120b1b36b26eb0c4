"""The sweep's verdicts, its recommendation, and the Metropolis acceptance of a step."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.model import components, decoder, families, perturbation
from susc_pipeline.sampling import calibration, chains, diagnostics, memory
from susc_pipeline.sampling.calibration import CalibrationSettings
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import directions

SAMPLING = SamplingSettings(n_chains=4, n_burn_in=2, batch_size=2, localization=50.0, n_beta=5.0)


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


POPULATION = Population(tuple(toys.toy_tokens(8, seed=chain) for chain in range(SAMPLING.n_chains)))
MEASURED = toys.toy_tokens(2, seed=100)


def sweep(model, population=POPULATION, **settings):
    return calibration.sweep(model, population, MEASURED, SAMPLING, CalibrationSettings(**settings), seed=0)


def test_every_combination_has_a_verdict_and_unstable_steps_are_told_without_sampling(model):
    table, traces = sweep(
        model, step_sizes=(0.5, 50.0), n_betas=(5.0,), localizations=(50.0, 0.01), components=("L0H1",), n_draws=8
    )
    assert table.height == 4
    loose = table.filter(localization=0.01, step_size=50.0).row(0, named=True)
    assert loose["verdict"] == "unstable" and loose["max_step_size"] < 50
    assert "lower it or sampling.n_beta" in loose["remedy"] and loose["rise"] is None
    assert ("L0H1", 0.5, 5.0, 50.0) in traces and ("L0H1", 50.0, 5.0, 0.01) not in traces
    assert traces["L0H1", 0.5, 5.0, 50.0].shape == (4, 8)
    held = table.filter(localization=50.0, step_size=0.5).row(0, named=True)
    assert held["r_hat"] is not None and 0 < held["acceptance"] <= 1 and held["llc"] == pytest.approx(5 * held["rise"])
    assert -np.inf < held["rise_reliability"] < 1


@pytest.mark.parametrize(
    "raised, word",
    [
        (chains.ChainDivergedError("chain 0 diverged"), "diverged"),
        (memory.BatchTooLargeError("needs 9 GiB"), "too large"),
        (ValueError("something else"), "failed"),
        (torch.OutOfMemoryError("no room"), "failed"),
    ],
)
def test_whatever_a_cell_raises_is_its_verdict_and_the_others_go_on(model, monkeypatch, raised, word):
    real = directions.rise

    def rise(model, component, *rest, **options):
        if component.name == "L0H1":
            raise raised
        return real(model, component, *rest, **options)

    monkeypatch.setattr(directions, "rise", rise)
    options = {"step_sizes": (0.5,), "n_betas": (5.0,), "localizations": (50.0,)}
    table, _ = sweep(model, components=("L0H1", "L0H0"), **options)
    bad, other = table.iter_rows(named=True)
    assert bad["verdict"] == word and bad["remedy"] == str(raised) and bad["curvature"] is not None
    assert other["rise"] is not None


def test_a_population_too_small_and_a_component_that_is_none_stop_no_sweep(model):
    options = {"step_sizes": (0.5,), "n_betas": (5.0,), "localizations": (50.0,)}
    small = Population(tuple(part[:1] for part in POPULATION.parts))
    table, traces = sweep(model, small, components=("L0H1", "L9H9"), **options)
    assert table["verdict"].to_list() == ["failed", "failed"] and not traces
    assert "fewer than the 2 of one step; raise tokens.population_share" in table["remedy"][0]
    assert "L9H9" in table["remedy"][1]


def test_a_trace_is_the_rise_of_pairs_after_the_burn_in():
    """Two chains with images, three steps; the first is burn-in."""
    rest = np.array([[1.0, 2.0, 1.0, 2.0]] * 3)
    rise = np.array([[9.0, 9.0, 9.0, 9.0], [0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    found = diagnostics.rises(directions.Trace(rest + rise, rest), n_draws=2)
    np.testing.assert_allclose(found, [[0.2, 0.6], [0.3, 0.7]])


def test_verdicts_name_what_is_wrong():
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(4, 40))

    def verdict(trace):
        return calibration.verdict(trace - 2.0, uniform_rise=6.0)[0]

    assert verdict(2.5 + noise) == "good"
    assert verdict(1.5 + noise) == "below"
    assert verdict(6.0 + noise) == "destroyed"
    assert verdict(2.2 + 0.02 * np.arange(40) + noise) == "drifting"
    assert verdict(2.5 + 0.2 * np.arange(4)[:, None] + noise) == "at odds"


def test_the_recommendation_has_no_complaint_and_the_best_agreement():
    table = pl.DataFrame(
        {
            "component": ["a", "b"] * 3,
            "step_size": [1.0, 1.0, 2.0, 2.0, 3.0, 3.0],
            "n_beta": [30.0] * 6,
            "localization": [300.0] * 6,
            "verdict": ["good", "good", "good", "at odds", "good", "good"],
            "rise_reliability": [0.5, 0.5, 0.9, 0.9, 0.6, 0.6],
        }
    )
    assert calibration.recommended(table) == {"step_size": 3.0, "n_beta": 30.0, "localization": 300.0}
    assert calibration.recommended(table.filter(verdict="at odds")) is None


def test_acceptance_is_one_without_a_loss_and_falls_with_the_step(model):
    component = components.by_name(model, "L1H0")
    ids = torch.as_tensor(toys.toy_tokens(3))
    inputs = perturbation.prepare(model, component, ids, decoder.residual_stream(model, ids))

    def accepted(**changes):
        settings = dataclasses.replace(SAMPLING, n_chains=8, **changes)
        return calibration.acceptance(model, component, inputs, settings, seeds.sequence(1))

    assert accepted(n_beta=0.0, step_size=3.0) == pytest.approx(1.0, abs=2e-3)  # the prior is sampled exactly
    small, large = accepted(step_size=0.01, n_beta=20.0), accepted(step_size=2.0, n_beta=20.0)
    assert small > 0.97 and large < small
    euler = accepted(sampler="sgld", step_size=0.01, n_beta=0.0)
    assert euler < accepted(sampler="sgld", step_size=1e-4, n_beta=0.0)
