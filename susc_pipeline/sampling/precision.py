"""Vectors divided by the posterior's precision, localization + n_beta H, with H the Hessian of the population loss at w*.

To second order the inverse of that matrix is the posterior's covariance. Where n_beta times curvature is small beside
localization, 1 / localization stands for it. Elsewhere Chebyshev iteration divides (Golub and Varga 1961), by few products
with H. Its coefficients depend on no product, so each product reads fresh contexts and their noise has no bias; the coefficients
of conjugate gradients would hold it.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.model import derivatives
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import curvature, observables
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

MAX_OF_PRIOR = 0.1  # n_beta curvature / localization up to which 1 / localization stands for the covariance
TOLERANCE = 0.03  # of the quotient, along any direction
CONTEXTS_AT_ONCE = 16


def divided(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    population: Population,
    vectors: Float[Tensor, "vectors parameters"],
    *,
    n_contexts: int,
    largest: float | None = None,
) -> Float[Tensor, "vectors parameters"]:
    """The vectors of each chain divided by the posterior's precision.

    Args:
        model: at w*.
        component: whose weights the vectors belong to.
        settings: of the posterior.
        population: a part for each chain.
        vectors: one or more a chain: those of all chains, then the next of all chains.
        n_contexts: that each chain reads for one product with the Hessian, as far as it has them.
        largest: the component's curvature, see `curvature.of_population`; it is measured where it is not given.
    """
    stiffest = curvature.of_population(model, component, population) if largest is None else largest
    ratio = settings.n_beta * stiffest / settings.localization  # how far the loss holds weights beyond the prior
    if ratio <= MAX_OF_PRIOR:
        return vectors / settings.localization
    n_contexts = min(n_contexts, *(len(part) for part in population.parts))
    batches = _batches(model, component, population, n_contexts)
    n_each = len(vectors) // len(population.parts)

    def times_hessian(along: Tensor) -> Tensor:
        length = along.norm(dim=1, keepdim=True).clamp_min(torch.finfo(along.dtype).tiny)
        push, total = curvature.DIFFERENCE * along / length, torch.zeros_like(along)
        for batch in next(batches):
            contexts = batch.each(lambda tensor: torch.cat([tensor] * n_each))
            ahead, behind = (derivatives.gradients(model, component, contexts, sign * push)[0] for sign in (1, -1))
            total += (ahead - behind) * (batch.token_ids.shape[1] / n_contexts)
        return total * length / (2 * curvature.DIFFERENCE)

    share = settings.n_beta / settings.localization
    found = chebyshev(lambda along: share * times_hessian(along), vectors, largest=ratio)
    return found / settings.localization


def _batches(model: Decoder, component: Component, population: Population, n_contexts: int) -> Iterator[list]:
    """Of each product the contexts, a few at a time."""
    for first in itertools.count(0, n_contexts):
        yield [
            observables.inputs(
                model, component, population.fresh(place, min(CONTEXTS_AT_ONCE, first + n_contexts - place))
            )
            for place in range(first, first + n_contexts, CONTEXTS_AT_ONCE)
        ]


def chebyshev(
    product: Callable[[Tensor], Tensor], vectors: Float[Tensor, "vectors parameters"], *, largest: float
) -> Float[Tensor, "vectors parameters"]:
    """(1 + A)^-1 of each vector, within TOLERANCE of it along each eigenvector of A.

    Args:
        product: A times vectors.
        vectors: to be divided.
        largest: eigenvalue of A; the least is about zero.
    """
    middle, half = 1 + largest / 2, largest / 2
    ratio = middle / half
    factor = 1 / ratio
    step = vectors / middle
    found, rest = step.clone(), vectors
    for _ in range(n_products(largest)):
        rest = rest - step - product(step)
        following = 1 / (2 * ratio - factor)
        step = following * factor * step + 2 * following / half * rest
        found, factor = found + step, following
    return found


def n_products(largest: float) -> int:
    """Products with A that Chebyshev iteration takes: its error falls as the Chebyshev polynomial of the interval grows."""
    growth = math.acosh(2 / largest + 1)
    return max(0, math.ceil(math.acosh(1 / TOLERANCE) / growth) - 1)
