"""Chains restricted to one component, run as one batch, and what they leave behind: losses and slopes of measured tokens.

All other weights stay at w*, so nothing else is touched. Every chain has its own noise and its own population contexts,
fresh at every step: one gradient both drives the chain and says how the population loss changes at its place. Where an
estimator asks for it, each chain has a mirror image with noise of opposite sign and the same contexts: half the
difference of a pair's gradients is odd in the perturbation, half the sum is even, and neither holds the other's noise.
Where it asks for curvatures, each draw is measured along a score: a random vector whose covariance is the Fisher matrix.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import seeds
from susc_pipeline.model import components, perturbation, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import curvature, loss_traces, memory, observables
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.sampling.samplers import SAMPLERS, State

MAX_LOSS_IN_UNIFORM_LOSSES = 3.0


class ChainDivergedError(ValueError):
    """A chain left the neighbourhood of w*: its losses say nothing about the posterior."""


class Step(NamedTuple):
    """Where all chains are before a step, with loss and gradient on the step's own contexts."""

    number: int
    """Steps taken before."""
    delta: Float[Tensor, "chains parameters"]
    gradient: Float[Tensor, "chains parameters"]
    loss: Float[Tensor, " chains"]


def run(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    start: State,
    batches: Iterable[ComponentInputs],
    noise: Iterable[Float[Tensor, "chains parameters"]],
) -> Iterator[Step]:
    """The chains, step by step, until batches or noise end.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the sampler.
        start: state before the first step.
        batches: each step's contexts, of shape (chains, contexts, ...).
        noise: each step's standard normal noise.

    Raises:
        ChainDivergedError: a loss is not finite, or far above that of a uniform guess; names component, chain, step.
    """
    state = start
    for number, (batch, push) in enumerate(zip(batches, noise)):
        gradient, loss = perturbation.gradients(model, component, batch, state.delta)
        check_losses(loss, component, number, model, settings)
        yield Step(number, state.delta, gradient, loss)
        state = SAMPLERS[settings.sampler].step(
            state,
            gradient,
            push,
            step_size=settings.step_size,
            n_beta=settings.n_beta,
            localization=settings.localization,
        )


def start(settings: SamplingSettings, noise: Float[Tensor, "chains parameters"]) -> State:
    """The sampler's first state."""
    return SAMPLERS[settings.sampler].init(noise, localization=settings.localization)


def noise(
    seed: np.random.SeedSequence, n_weights: int, *, n_chains: int, mirrored: bool, device: torch.device
) -> Iterator[Float[Tensor, "chains parameters"]]:
    """Standard normal noise of one step after another, each chain's from a generator of its own, mirror images last.

    It is drawn where it is needed: a large embedding's would take longer to send than to draw.
    """
    generators = [seeds.generator(seeds.child(seed, number), device) for number in range(n_chains)]
    while True:
        drawn = torch.stack([torch.randn(n_weights, generator=g, device=device) for g in generators])
        yield torch.cat([drawn, -drawn]) if mirrored else drawn


def prepared(
    model: Decoder, component: Component, settings: SamplingSettings, population: Population
) -> SamplingSettings:
    """The settings with steps as short as the component's curvature asks for, once they are known to fit in memory.

    Raises:
        BatchTooLargeError: a step or an evaluation would not fit in memory.
        UnstableStepError: the step size is far above what the curvature allows; a little above, steps are divided.
    """
    memory.check(model, component, settings, population.parts[0].shape[1])
    ids = torch.as_tensor(population.parts[0][: curvature.MAX_CONTEXTS].astype(np.int64)).to(model.device)
    found = curvature.largest_curvature(model, component, perturbation.prepare_tokens(model, component, ids))
    return curvature.split_steps(found, component, settings)


def is_draw(number: int, settings: SamplingSettings) -> bool:
    """Whether chains are measured where they are after so many steps."""
    since_burn_in = number - settings.n_burn_in
    return since_burn_in > 0 and since_burn_in % settings.n_steps_between_draws == 0


def doubled(inputs: ComponentInputs) -> ComponentInputs:
    """The inputs of chains and of their mirror images."""
    return inputs.each(lambda tensor: torch.cat([tensor, tensor]))


def sample(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    shard: Int[np.ndarray, "contexts positions"],
    population: Population,
    seed: np.random.SeedSequence,
    *,
    direction: Float[Tensor, "chains parameters"] | None = None,
    own_slopes: bool = False,
    curvatures: bool = False,
) -> LossTraces:
    """Losses and slopes of a shard's tokens under the draws of all chains of one component.

    With own slopes or curvatures each chain has a mirror image.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the chains.
        shard: the contexts whose tokens are measured; none of them may be in the population.
        population: a part for each chain.
        seed: of noise, and of the place in the population where reading begins.
        direction: response direction of each chain, from other contexts; with it slopes along it are measured.
        own_slopes: whether slopes along each draw's own direction are measured.
        curvatures: whether curvatures along scores are measured.

    Raises:
        BatchTooLargeError, UnstableStepError: see `prepared`.
        ChainDivergedError: see `run`; or the loss of a measured token is not finite.
    """
    settings = prepared(model, component, settings, population)
    measured = perturbation.prepare_tokens(model, component, torch.as_tensor(shard.astype(np.int64)).to(model.device))
    paired = own_slopes or curvatures
    n_weights, n_images = components.n_parameters(model, component), 1 + paired
    labels = _labels(seed, settings.n_chains, model.device) if curvatures else None
    pushes = noise(seed, n_weights, n_chains=settings.n_chains, mirrored=paired, device=model.device)
    fresh = fresh_batches(model, component, settings, population, seed)
    batches, references = itertools.tee(fresh)
    n_driving = None if own_slopes else settings.batch_size
    driving = (doubled(b) if paired else b for b in (first_contexts(b, n_driving) for b, _ in batches))
    first = start(settings, next(pushes))
    rows = []
    steps = run(model, component, settings, first, driving, pushes)
    for step, (batch, reference) in zip(steps, references):
        if is_draw(step.number, settings):
            along = _directions(step, direction, settings, n_images, own_slopes)
            pushed = None if labels is None else _scores(model, component, settings, step, batch, labels)
            drawn = (first_contexts(batch, n_driving), reference), along, pushed
            rows.append(_measured(model, component, settings, step, measured, *drawn, own=own_slopes))
            del drawn, along, pushed  # twice as large as the chains: not to be held beside the next step's gradients
            for losses in (rows[-1]["mean_loss"], rows[-1]["token_losses"].mean(axis=1)):  # nan where any token's is
                check_losses(torch.as_tensor(losses), component, step.number, model, settings)
        if len(rows) == settings.n_draws:
            break
    return loss_traces.of_measurements(rows, n_chains=settings.n_chains, n_images=n_images)


def first_contexts(inputs: ComponentInputs, n_contexts: int | None) -> ComponentInputs:
    """The inputs of each chain's first contexts."""
    return inputs.each(lambda tensor: tensor[:, :n_contexts])


def _labels(seed: np.random.SeedSequence, n_chains: int, device: torch.device) -> torch.Generator:
    """A generator beside those of the chains' noise."""
    return seeds.generator(seeds.child(seed, n_chains), device)


def fresh_batches(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    population: Population,
    seed: np.random.SeedSequence,
) -> Iterator[tuple[ComponentInputs, ComponentInputs]]:
    """Of each step the contexts of its gradient, and others on which the population's mean slopes are measured."""
    longest = max(len(part) for part in population.parts)
    place = int(np.random.default_rng(seed).integers(longest))
    for number in itertools.count():
        of_draw = settings.draw_batch_size if is_draw(number, settings) else 0
        sizes = [max(of_draw, settings.batch_size), settings.n_reference_contexts]
        found = observables.inputs(model, component, population.fresh(place, sum(sizes)))
        place += sum(sizes)
        first, others = slice(sizes[0]), slice(sizes[0], None)
        yield found.take((slice(None), first)), found.take((slice(None), others))


def _directions(
    step: Step, direction: Tensor | None, settings: SamplingSettings, n_images: int, own_slopes: bool
) -> Float[Tensor, "directions chains parameters"]:
    """The response direction of each chain, then the draw's own, as far as they are asked for."""
    found = [] if direction is None else [torch.cat([direction] * n_images)]
    if own_slopes:
        plus, minus = step.gradient.chunk(2)
        odd = (plus - minus) / (2 * settings.localization)
        found.append(torch.cat([odd, -odd]))
    return torch.stack(found) if found else step.delta[None][:0]


class _Scores(NamedTuple):
    along: Float[Tensor, "chains parameters"]
    """The score of another chain of the same half, mirror images apart: the draw's own would know where the draw is."""
    step: float
    """Of a central difference along them."""


def _scores(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    step: Step,
    batch: ComponentInputs,
    labels: torch.Generator,
) -> _Scores:
    found = perturbation.scores(model, component, doubled(batch), step.delta, labels)
    others = found.unflatten(0, (2, settings.n_chains)).roll(2, dims=1).flatten(0, 1)
    return _Scores(others, perturbation.curvature_step(found))


@torch.no_grad()
def _measured(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    step: Step,
    shard: ComponentInputs,
    contexts: tuple[ComponentInputs, ComponentInputs],
    along: Float[Tensor, "directions chains parameters"],
    scores: _Scores | None,
    *,
    own: bool,
) -> dict[str, np.ndarray]:
    """What is recorded of a draw, a row a chain; see LossTraces."""
    batch, reference = contexts
    paired = len(step.delta) > settings.n_chains
    at_rest = torch.zeros_like(step.delta[: settings.n_chains])
    of_batch, of_reference = (
        perturbation.losses(model, component, part, at_rest).mean(dim=(1, 2)).repeat(1 + paired)
        for part in (batch, reference)
    )
    reference = doubled(reference) if paired else reference
    there = _evaluate(model, component, settings, reference, step.delta, along, scores)
    here = _evaluate(model, component, settings, shard, step.delta, along, scores)
    has_response = len(along) - own == 1
    zeros, empty = torch.zeros_like(step.loss), here.losses.flatten(1)[:, :0]
    mean_slope = (along[0] * step.gradient).sum(dim=1) if has_response else zeros
    pull = settings.localization * (along[0] * step.delta).sum(dim=1) if has_response else zeros
    columns = {
        "step": torch.full_like(step.loss, step.number),
        "mean_loss": step.loss,
        "rest_loss": of_batch,
        "reference_rise": there.losses.mean(dim=(1, 2)) - of_reference,
        "score": pull + settings.n_beta * mean_slope,
        "mean_slope": mean_slope,
        "mean_own_slope": there.slopes[-1].mean(dim=(1, 2)) if own else zeros,
        "mean_curvature": zeros if there.curvatures is None else there.curvatures.mean(dim=(1, 2)),
        "token_losses": here.losses.flatten(1),
        "token_slopes": here.slopes[0].flatten(1) if has_response else empty,
        "own_slopes": here.slopes[-1].flatten(1) if own else empty,
        "curvatures": empty if here.curvatures is None else here.curvatures.flatten(1),
    }
    return {name: column.float().cpu().numpy() for name, column in columns.items()}


class _Evaluation(NamedTuple):
    losses: Float[Tensor, "chains contexts predicted"]
    slopes: Float[Tensor, "directions chains contexts predicted"]
    curvatures: Float[Tensor, "chains contexts predicted"] | None


def _evaluate(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    inputs: ComponentInputs,
    delta: Float[Tensor, "chains parameters"],
    along: Float[Tensor, "directions chains parameters"],
    scores: _Scores | None,
) -> _Evaluation:
    """Losses, slopes and curvatures / localization^2 of contexts, of all chains' own or shared, a few contexts at a time."""
    shared = inputs.token_ids.ndim == 2
    n_contexts = inputs.token_ids.shape[0 if shared else 1]
    at_once = max(1, settings.evaluation_batch_size // len(delta))
    pieces: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for first in range(0, n_contexts, at_once):
        rows = slice(first, first + at_once)
        taken = inputs.take(rows) if shared else inputs.each(lambda tensor, rows=rows: tensor[:, rows])
        if len(along):
            losses, slopes = tangents.losses_and_slopes(model, component, taken, delta, along)
        else:
            losses = perturbation.losses(model, component, taken, delta)
            slopes = losses[None][:0]
        bent = None
        if scores is not None:
            bent = perturbation.curvatures(model, component, taken, delta, scores.along, losses, step=scores.step)
        pieces.append((losses, slopes, bent))
    all_losses, all_slopes, all_bent = zip(*pieces, strict=True)
    bent = None if scores is None else torch.cat(all_bent, dim=1) / settings.localization**2
    return _Evaluation(torch.cat(all_losses, dim=1), torch.cat(all_slopes, dim=2), bent)


def check_losses(
    loss: Float[Tensor, " chains"], component: Component, step: int, model: Decoder, settings: SamplingSettings
) -> None:
    """Refuse losses that no chain near w* has.

    Raises:
        ChainDivergedError: one is not finite, or far above that of a uniform guess; names component, chain, step.
    """
    limit = MAX_LOSS_IN_UNIFORM_LOSSES * np.log(model.vocabulary_size)
    bad = ~(loss < limit)  # written so that nan counts as bad
    if bad.any():
        chain = int(bad.nonzero()[0]) % settings.n_chains  # a mirror image has its chain's number
        raise ChainDivergedError(
            f"chain {chain} of {component.name} diverged at step {step}: mean loss {float(loss[chain]):.4g}, where a "
            f"uniform guess has {np.log(model.vocabulary_size):.4g}; lower sampling.step_size ({settings.step_size:g}) "
            f"or sampling.n_beta ({settings.n_beta:g}), or raise sampling.localization ({settings.localization:g})"
        )
