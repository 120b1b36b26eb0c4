"""Localization by rise: the closed form of a quadratic loss, and what cannot be reached."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import toys
from susc_pipeline import seeds
from susc_pipeline.model import components, families, perturbation
from susc_pipeline.sampling import localization
from susc_pipeline.sampling.posterior import SamplingSettings

SETTINGS = SamplingSettings(localization=300.0, target_rise=0.01)


@pytest.fixture(scope="module")
def model():
    return families.from_module(toys.toy_module())


@pytest.mark.parametrize("name", ["embed", "L1H0", "L2MLP", "unembed"])
@pytest.mark.parametrize("start", [100.0, 1e6])
def test_the_noise_of_the_chosen_localization_raises_the_loss_by_the_target(model, name, start):
    component, contexts = components.by_name(model, name), toys.toy_tokens(8)
    begun = dataclasses.replace(SETTINGS, localization=start)
    found = localization.settled(model, component, begun, contexts, seeds.sequence(1))
    again = localization.settled(model, component, begun, contexts, seeds.sequence(1))
    assert found == again and dataclasses.replace(found, localization=start) == begun
    inputs = perturbation.prepare_tokens(model, component, torch.as_tensor(contexts[:4]))
    drawn = torch.randn(40, components.n_parameters(model, component), generator=torch.Generator().manual_seed(5))
    rise = localization.rise(model, component, inputs, drawn / found.localization**0.5)
    assert rise == pytest.approx(0.01, rel=0.5)  # two pairs of draws chose it, forty judge it


def test_a_target_of_zero_leaves_the_localization_as_it_is(model):
    fixed = dataclasses.replace(SETTINGS, target_rise=0.0)
    found = localization.settled(
        model, components.by_name(model, "embed"), fixed, np.zeros((0, 12), np.int64), seeds.sequence(1)
    )
    assert found is fixed


def test_where_the_loss_is_quadratic_the_localization_is_half_the_trace_over_the_target(model, monkeypatch):
    component = components.by_name(model, "L0H0")
    stiffness = torch.linspace(0.1, 3.0, components.n_parameters(model, component))
    monkeypatch.setattr(
        perturbation, "losses", lambda m, c, i, deltas: 2.0 + (stiffness * deltas**2 / 2).sum(1)[:, None, None]
    )
    found = localization.settled(model, component, SETTINGS, toys.toy_tokens(4), seeds.sequence(1))
    assert found.localization == pytest.approx(float(stiffness.sum()) / 2 / 0.01, rel=0.2)


def test_a_rise_that_no_noise_gives_is_refused_by_name(model, monkeypatch):
    component = components.by_name(model, "L0H0")
    monkeypatch.setattr(perturbation, "losses", lambda m, c, i, deltas: torch.full((len(deltas), 1, 1), math.nan))
    with pytest.raises(localization.UnreachableRiseError, match=r"noise in L0H0 .* sampling\.target_rise \(0\.01"):
        localization.settled(model, component, SETTINGS, toys.toy_tokens(4), seeds.sequence(1))


@pytest.mark.parametrize("start", [1e-3, 1e6])
def test_noise_that_the_loss_does_not_feel_is_at_most_two_fifths_of_the_weights(model, monkeypatch, start):
    component = components.by_name(model, "L0H0")
    monkeypatch.setattr(perturbation, "losses", lambda m, c, i, deltas: torch.full((len(deltas), 1, 1), 2.0))
    begun = dataclasses.replace(SETTINGS, localization=start)
    found = localization.settled(model, component, begun, toys.toy_tokens(4), seeds.sequence(1)).localization
    at_rest = components.flatten(components.weights(model, component))
    noise = torch.randn(50, len(at_rest), generator=torch.Generator().manual_seed(1)) / found**0.5
    assert float(noise.norm(dim=1).mean() / at_rest.norm()) == pytest.approx(0.4, rel=0.05)
