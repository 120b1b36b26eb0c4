"""Response directions of chains that never see the loss: n_beta is 0, all else is as in the run. A control.

At n_beta = 0 the posterior is the Gaussian p(w) ~ exp(-localization/2 |w - w*|^2), and v is the gradient of the population loss
averaged over it. Documents, noise, gradients at w* and the budget are those of the stored directions, so only the drift of the
chains differs. The susceptibility is then the derivative at n_beta = 0. How directions are found is in directions.py.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import directions, regime
from susc_pipeline.susceptibility.control import Agreement
from susc_pipeline.susceptibility.direction_files import Diagnostics, StoredDirections
from susc_pipeline.susceptibility.directions import DirectionSettings


class WithoutLoss(NamedTuple):
    """Directions of one component by chains at n_beta = 0, and how the run's linear responses follow theirs."""

    halves: StoredDirections
    """The mean direction of either half of the chains; no scores."""
    followed: Agreement
    """Over the probe tokens: the run's linear responses beside those at n_beta = 0."""
    n_contexts: int
    """Population contexts that the chains read."""


def directions_without_loss(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    population: Population,
    probe: Int[np.ndarray, "contexts positions"],
    stored: StoredDirections,
    found: Diagnostics,
    seed: np.random.SeedSequence,
) -> WithoutLoss:
    """Directions of a component by chains at n_beta = 0, which read no more contexts than the run's chains did.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the run's chains.
        wanted: the reliability asked for.
        population: a part for each chain, which the stored directions are by.
        probe: contexts whose linear responses are compared.
        stored: the run's directions, with the gradients at w*.
        found: what the run's chains went through.
        seed: of the noise: that of the run's directions, so that only the drift differs.

    Raises:
        ValueError: the run's own chains are at n_beta = 0, or the stored directions lack the gradients at w*.
        ChainDivergedError, UnstableStepError, BatchTooLargeError: see chains.py.
    """
    if settings.n_beta == 0:
        raise ValueError("the run's own chains are at n_beta = 0: there is nothing to compare")
    own = dataclasses.replace(settings.at(stored.localization), n_beta=0.0)
    budget = wanted.limited(found.n_contexts)
    if stored.at_rest is None:
        raise ValueError(f"gradients at w* of {component.name} were not loaded; load its directions with_rest")
    at_rest = regime.rest_slopes(model, component, probe, stored)
    chosen = (own, budget, population, probe, at_rest, seed)
    risen = directions.rise(model, component, *chosen, largest=stored.curvature)
    along = (stored.at_rest + risen.gradient) / own.localization
    means = torch.stack([along[rank::2].mean(dim=0) for rank in (0, 1)])
    mean_slopes = directions.mean_slopes(along, stored.at_rest)
    followed = regime.prior_share(at_rest + risen.slopes, found.rest_slopes + found.rise_slopes)
    return WithoutLoss(StoredDirections(means, mean_slopes, own.localization), followed, risen.n_contexts)
