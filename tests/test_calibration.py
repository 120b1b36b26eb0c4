"""The sweep's verdicts, its recommendation, and the Metropolis acceptance of a step."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.config import CalibrationSettings, SamplingSettings
from susc_pipeline.model import components, gpt_neox, perturbation
from susc_pipeline.sampling import calibration

SAMPLING = SamplingSettings(n_burn_in=2, batch_size=2, localization=50.0, n_beta=5.0)


@pytest.fixture(scope="module")
def model():
    return gpt_neox.GPTNeoX.from_module(toys.toy_module())


def contexts(model):
    return calibration.contexts_of(model, toys.toy_tokens(3, seed=1), toys.toy_tokens(8, seed=2), n_contexts=2)


def test_every_combination_has_a_verdict_and_unstable_steps_are_told_without_sampling(model):
    settings = CalibrationSettings(
        step_sizes=(0.5, 50.0), n_betas=(5.0,), localizations=(50.0, 0.01), components=("L0H1",), n_draws=4
    )
    table, traces = calibration.sweep(model, contexts(model), SAMPLING, settings, estimator="first_order", seed=0)
    assert table.height == 4
    loose = table.filter(localization=0.01, step_size=50.0).row(0, named=True)
    assert loose["verdict"] == "unstable" and loose["max_step_size"] < 50 and "lower step_size" in loose["remedy"]
    assert ("L0H1", 0.5, 5.0, 50.0) in traces and ("L0H1", 50.0, 5.0, 0.01) not in traces
    held = table.filter(localization=50.0, step_size=0.5).row(0, named=True)
    assert held["r_hat"] is not None and 0 < held["acceptance"] <= 1 and held["llc"] == pytest.approx(5 * held["rise"])


def test_verdicts_name_what_is_wrong():
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(4, 40))

    def verdict(trace):
        return calibration.verdict(trace, init_loss=2.0, uniform_loss=8.0)[0]

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
            "half_correlation": [0.5, 0.5, 0.9, 0.9, 0.6, 0.6],
        }
    )
    assert calibration.recommended(table) == {"step_size": 3.0, "n_beta": 30.0, "localization": 300.0}
    assert calibration.recommended(table.filter(verdict="at odds")) is None


def test_acceptance_is_one_without_a_loss_and_falls_with_the_step(model):
    component = components.by_name(model, "L1H0")
    ids = torch.as_tensor(toys.toy_tokens(3))
    inputs = perturbation.prepare(model, component, ids, gpt_neox.residual_stream(model, ids))

    def accepted(**changes):
        settings = dataclasses.replace(SAMPLING, n_chains=8, **changes)
        return calibration.acceptance(model, component, inputs, settings, seeds.sequence(1))

    assert accepted(n_beta=0.0, step_size=3.0) == pytest.approx(1.0, abs=2e-3)  # the prior is sampled exactly
    small, large = accepted(step_size=0.01, n_beta=20.0), accepted(step_size=2.0, n_beta=20.0)
    assert small > 0.97 and large < small
    euler = accepted(sampler="sgld", step_size=0.01, n_beta=0.0)
    assert euler < accepted(sampler="sgld", step_size=1e-4, n_beta=0.0)


def test_too_few_minibatch_contexts_are_named(model):
    with pytest.raises(
        ValueError, match=r"calibration.n_contexts must be below tokens.n_minibatch_contexts \(2\), got 2"
    ):
        calibration.contexts_of(model, toys.toy_tokens(1), toys.toy_tokens(2), n_contexts=2)
