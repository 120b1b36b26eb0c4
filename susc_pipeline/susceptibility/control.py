"""The negative control: susceptibilities against what they are the derivative of, the mean excess loss as n_beta grows.

    chi_t = d<psi_t>/d(n_beta),   psi_t = l_t - L,

so that <psi_t> at n_beta minus <psi_t> at 0 is the integral of chi_t over n_beta, and n_beta chi_t where chi does not change on
the way. Chains at 0 know nothing of the loss. Two chains with the same noise measure the difference with few draws; two
chains with noise of their own would need thousands. How chi itself is estimated is in estimators/.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import schema
from susc_pipeline.model import components, derivatives, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import chains, token_draws
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS
from susc_pipeline.susceptibility import reliability
from susc_pipeline.susceptibility.estimators import ShardEstimates


class Agreement(NamedTuple):
    """How two measurements of the same tokens agree, from halves that share nothing; nan where noise hides the answer."""

    correlation: float
    """Pearson r over tokens of both means, noise and all."""
    disattenuated: float
    """The correlation without sampling noise (Spearman 1904); chance can push it past 1."""
    slope: float
    """Second over first, by regression over tokens without the first's noise."""
    reliability: float
    """Of the first: the signal's share of the variance of its mean."""
    other_reliability: float
    """Of the second."""


def difference(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    contexts: Int[np.ndarray, "contexts positions"],
    population: Population,
    seed: np.random.SeedSequence,
    *,
    rest: Float[Tensor, "chains parameters"] | None = None,
    largest: float | None = None,
) -> Float[np.ndarray, "chains tokens"]:
    """Mean excess loss of each predicted token at n_beta, less that at zero, by each pair of mirrored chains; in nats.

    The chain at zero has the noise of the chain at n_beta and, for samplers with a preconditioner, its gradients' sizes.
    The mean over chains estimates n_beta chi; the spread between chains gives its error. A model in bfloat16 rounds such
    small differences away: give the weights as float32.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the chains; draws begin after n_burn_in steps, for both chains start at the same place.
        contexts: whose tokens are measured; none of them may be in the population.
        population: a part for each chain.
        seed: of noise, and of the place in the population where reading begins.
        rest: gradient at w* of each chain's other documents. With it, a step's contexts only measure how the gradient rises
            above that at w*, which takes several times fewer contexts.
        largest: the component's curvature, where it is known; see `chains.prepared`.

    Raises:
        BatchTooLargeError, UnstableStepError, ChainDivergedError: see chains.py.
    """
    settings = chains.prepared(model, component, settings, population, largest=largest)
    measured = perturbation.prepare_tokens(
        model, component, torch.as_tensor(contexts.astype(np.int64)).to(model.device)
    )
    found = []
    for here, there, reference in _coupled(model, component, settings, population, seed, rest):
        change = _token_losses(model, component, settings, measured, here, there)
        with torch.no_grad():
            moved, unmoved = (
                perturbation.losses(model, component, reference, d).mean(dim=(1, 2)) for d in (here, there)
            )
        excess = change - (moved - unmoved)[:, None]
        found.append(torch.stack(excess.chunk(2)).mean(dim=0))  # of a chain and its mirror image
        if len(found) == settings.n_draws:
            break
    return torch.stack(found).mean(dim=0).double().cpu().numpy()


def table(
    names: Sequence[str],
    differences: Sequence[Float[np.ndarray, "chains tokens"]],
    estimates: ShardEstimates,
    *,
    n_beta: float,
) -> pl.DataFrame:
    """How the differences follow n_beta times the susceptibilities, a row a component, as schema.CONTROL.

    Args:
        names: of the components.
        differences: of each component, as `difference` gives them.
        estimates: susceptibilities of the same tokens; chains of even and of odd number must be the same as in the differences.
        n_beta: of the chains.

    Raises:
        ValueError: n_beta is zero, or the differences are of other tokens.
    """
    if not n_beta > 0:
        raise ValueError(f"the control compares n_beta with zero, got n_beta {n_beta:g}; raise sampling.n_beta")
    rows = []
    for number, (name, found) in enumerate(zip(names, differences, strict=True)):
        expected = n_beta * np.stack([estimates.half_a[:, number], estimates.half_b[:, number]]).astype(np.float64)
        if expected.shape[1] != found.shape[1]:
            raise ValueError(
                f"the control of {name} measured {found.shape[1]} tokens, but {expected.shape[1]} have susceptibilities; "
                f"take the same contexts"
            )
        overall = agreement(expected, halves(found))
        rows.append(
            {
                "component": name,
                "correlation": overall.correlation,
                "reliability": overall.reliability,
                "control_reliability": overall.other_reliability,
                "disattenuated": overall.disattenuated,
                "slope": overall.slope,
                "slope_error": _jackknife_error([agreement(expected, kept).slope for kept in _without_each(found)]),
            }
        )
    return pl.DataFrame(rows, schema=schema.CONTROL).fill_nan(None)


def halves(by_chain: Float[np.ndarray, "chains tokens"]) -> Float[np.ndarray, "halves tokens"]:
    """Mean over the chains of even number, then over those of odd number."""
    return np.stack([by_chain[::2].mean(axis=0), by_chain[1::2].mean(axis=0)])


def agreement(first: Float[np.ndarray, "halves tokens"], second: Float[np.ndarray, "halves tokens"]) -> Agreement:
    """How the second measurement follows the first over tokens.

    Covariances pair one measurement's half a with the other's half b only: noise that both have in the same half, such as
    the documents of the same chains, does not count as agreement.
    """
    x, y = (half - half.mean(axis=1, keepdims=True) for half in (first.astype(np.float64), second.astype(np.float64)))
    n_tokens = x.shape[1]
    of_x, of_y, shared = x[0] @ x[1] / n_tokens, y[0] @ y[1] / n_tokens, (x[0] @ y[1] + x[1] @ y[0]) / (2 * n_tokens)
    known = of_x > 0 and of_y > 0
    return Agreement(
        correlation=_correlation(x.mean(axis=0), y.mean(axis=0)),
        disattenuated=float(shared / np.sqrt(of_x * of_y)) if known else np.nan,
        slope=float(shared / of_x) if of_x > 0 else np.nan,
        reliability=_reliability(*x),
        other_reliability=_reliability(*y),
    )


def _coupled(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    population: Population,
    seed: np.random.SeedSequence,
    rest: Float[Tensor, "chains parameters"] | None,
) -> Iterator[tuple[Tensor, Tensor, ComponentInputs]]:
    """Positions of chains and mirror images at n_beta and at zero at each draw, and the draw's reference contexts.

    What the loss has moved a chain by is the mean of that before and after the step. A force that is held over a step knows
    the place where the step begins, and too little of the place where it ends; half of each is right to second order in the
    perturbation, however long the step.
    """
    step = SAMPLERS[settings.sampler].step
    force = {"step_size": settings.step_size, "localization": settings.localization}
    n_weights = components.n_parameters(model, component)
    pushes = chains.noise(seed, n_weights, n_chains=settings.n_chains, mirrored=True, device=model.device)
    here = there = chains.start(settings, next(pushes))
    zero = torch.zeros(settings.n_chains, n_weights, device=model.device)
    batches = token_draws.fresh_batches(model, component, settings, population, seed)
    for number, ((batch, reference), push) in enumerate(zip(batches, pushes)):
        gradient, loss = derivatives.gradients(model, component, chains.doubled(batch), here.delta)
        chains.check_losses(loss, component, number, model, settings)
        if rest is not None:
            gradient = gradient + (rest - derivatives.gradients(model, component, batch, zero)[0]).repeat(2, 1)
        before, unmoved = here.delta - there.delta, there.delta
        here = step(here, gradient, push, n_beta=settings.n_beta, **force)
        there = step(there, gradient, push, n_beta=0.0, **force)
        if chains.is_draw(number, settings):
            moved = (before + (here.delta - there.delta)) / 2
            yield unmoved + moved, unmoved, chains.doubled(reference)


@torch.no_grad()
def _token_losses(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    measured: ComponentInputs,
    here: Tensor,
    there: Tensor,
) -> Float[Tensor, "chains tokens"]:
    """Token losses at the first positions less those at the second, a few contexts at a time."""
    both = torch.cat([here, there])
    at_once = max(1, settings.evaluation_batch_size // len(both))
    parts = [
        perturbation.losses(model, component, measured.take(slice(start, start + at_once)), both)
        for start in range(0, len(measured.token_ids), at_once)
    ]
    at_n_beta, at_zero = torch.cat(parts, dim=1).flatten(1).chunk(2)
    return at_n_beta - at_zero


def _without_each(by_chain: Float[np.ndarray, "chains tokens"]) -> list[Float[np.ndarray, "halves tokens"]]:
    """Both halves, each time without another chain."""
    n_chains = len(by_chain)
    if n_chains < 4:
        return []
    found = []
    for left_out in range(n_chains):
        kept = [[c for c in range(rank, n_chains, 2) if c != left_out] for rank in (0, 1)]
        found.append(np.stack([by_chain[half].mean(axis=0) for half in kept]))
    return found


def _jackknife_error(values: Sequence[float]) -> float:
    """Standard error of an estimate from its values without each of the units (Tukey 1958)."""
    return float(np.std(values) * np.sqrt(len(values) - 1)) if values else np.nan


def _correlation(a: Float[np.ndarray, " tokens"], b: Float[np.ndarray, " tokens"]) -> float:
    product = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / product) if product > 0 else np.nan


def _reliability(a: Float[np.ndarray, " tokens"], b: Float[np.ndarray, " tokens"]) -> float:
    return float(reliability.spearman_brown(np.array([_correlation(a, b)]), factor=2.0)[0])
