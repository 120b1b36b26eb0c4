"""Draws of a component's chains: losses, slopes and responses of measured tokens at each. How chains move is in chains.py.

Where an estimator asks for responses, each draw is measured along a score, a random vector whose covariance is the Fisher
matrix, and along the response direction v at once.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import seeds
from susc_pipeline.model import components, derivatives, perturbation, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import chains, loss_traces, observables
from susc_pipeline.sampling.chains import Step
from susc_pipeline.sampling.loss_traces import LossTraces
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

# Nats, of the step of a response. At twice as much the drift's own curvature is 5 % of heads' slopes, at a fifth rounding shows.
RESPONSE_RISE = 0.0015


def sample(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    shard: Int[np.ndarray, "contexts positions"],
    population: Population,
    seed: np.random.SeedSequence,
    *,
    direction: Float[Tensor, "chains parameters"] | None = None,
    slopes: bool = True,
    own_slopes: bool = False,
    responses: bool = False,
    largest: float | None = None,
) -> LossTraces:
    """Losses and slopes of a shard's tokens under the draws of all chains of one component.

    With own slopes or responses each chain has a mirror image.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the chains.
        shard: the contexts whose tokens are measured; none of them may be in the population.
        population: a part for each chain.
        seed: of noise, and of the place in the population where reading begins.
        direction: response direction v of each chain, from other contexts.
        slopes: whether slopes along v, where it is given, are measured by themselves.
        own_slopes: whether slopes along each draw's own direction are measured.
        responses: whether slopes along v and half the curvatures along scores are measured together.
        largest: the component's curvature, where it is known; see `chains.prepared`.

    Raises:
        BatchTooLargeError, UnstableStepError: see `prepared`.
        ChainDivergedError: see `run`; or the loss of a measured token is not finite.
    """
    settings = chains.prepared(model, component, settings, population, largest=largest)
    measured = perturbation.prepare_tokens(model, component, torch.as_tensor(shard.astype(np.int64)).to(model.device))
    paired = own_slopes or responses
    n_weights, n_images = components.n_parameters(model, component), 1 + paired
    labels = _labels(seed, settings.n_chains, model.device) if responses else None
    pushes = chains.noise(seed, n_weights, n_chains=settings.n_chains, mirrored=paired, device=model.device)
    fresh = fresh_batches(model, component, settings, population, seed)
    batches, references = itertools.tee(fresh)
    n_driving = None if own_slopes else settings.batch_size
    driving = (chains.doubled(b) if paired else b for b in (first_contexts(b, n_driving) for b, _ in batches))
    first = chains.start(settings, next(pushes))
    rows = []
    steps = chains.run(model, component, settings, first, driving, pushes)
    for step, (batch, reference) in zip(steps, references):
        if chains.is_draw(step.number, settings):
            v = None if direction is None else torch.cat([direction] * n_images)
            along = _directions(step, v if slopes else None, settings, own=own_slopes)
            pushed = None if labels is None else _scores(model, component, settings, step, batch, labels)
            drawn = (first_contexts(batch, n_driving), reference), v, along, pushed
            rows.append(_measured(model, component, settings, step, measured, *drawn, own=own_slopes))
            del drawn, v, along, pushed  # twice as large as the chains: not to be held beside the next step's gradients
            for losses in (rows[-1]["mean_loss"], rows[-1]["token_losses"].mean(axis=1)):  # nan where any token's is
                chains.check_losses(torch.as_tensor(losses), component, step.number, model, settings)
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
        of_draw = settings.draw_batch_size if chains.is_draw(number, settings) else 0
        sizes = [max(of_draw, settings.batch_size), settings.n_reference_contexts]
        found = observables.inputs(model, component, population.fresh(place, sum(sizes)))
        place += sum(sizes)
        first, others = slice(sizes[0]), slice(sizes[0], None)
        yield found.take((slice(None), first)), found.take((slice(None), others))


def _directions(
    step: Step, v: Tensor | None, settings: SamplingSettings, *, own: bool
) -> Float[Tensor, "directions chains parameters"]:
    """The response direction of each chain, then the draw's own, as far as they are asked for."""
    found = [] if v is None else [v]
    if own:
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
    found = derivatives.scores(model, component, chains.doubled(batch), step.delta, labels)
    others = found.unflatten(0, (2, settings.n_chains)).roll(2, dims=1).flatten(0, 1)
    return _Scores(others, derivatives.curvature_step(found, rise=RESPONSE_RISE))


@torch.no_grad()
def _measured(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    step: Step,
    shard: ComponentInputs,
    contexts: tuple[ComponentInputs, ComponentInputs],
    v: Float[Tensor, "chains parameters"] | None,
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
    reference = chains.doubled(reference) if paired else reference
    there = _evaluate(model, component, settings, reference, step.delta, along[len(along) - own :], scores, v)
    here = _evaluate(model, component, settings, shard, step.delta, along, scores, v)
    zeros, empty = torch.zeros_like(step.loss), here.losses.flatten(1)[:, :0]
    mean_slope = zeros if v is None else (v * step.gradient).sum(dim=1)
    pull = zeros if v is None else settings.localization * (v * step.delta).sum(dim=1)
    columns = {
        "step": torch.full_like(step.loss, step.number),
        "mean_loss": step.loss,
        "rest_loss": of_batch,
        "reference_rise": there.losses.mean(dim=(1, 2)) - of_reference,
        "score": pull + settings.n_beta * mean_slope,
        "mean_slope": mean_slope,
        "mean_own_slope": there.slopes[-1].mean(dim=(1, 2)) if own else zeros,
        "mean_response": zeros if there.responses is None else there.responses.mean(dim=(1, 2)),
        "token_losses": here.losses.flatten(1),
        "token_slopes": here.slopes[0].flatten(1) if len(along) > own else empty,
        "own_slopes": here.slopes[-1].flatten(1) if own else empty,
        "responses": empty if here.responses is None else here.responses.flatten(1),
    }
    return {name: column.float().cpu().numpy() for name, column in columns.items()}


class _Evaluation(NamedTuple):
    losses: Float[Tensor, "chains contexts predicted"]
    slopes: Float[Tensor, "directions chains contexts predicted"]
    responses: Float[Tensor, "chains contexts predicted"] | None


def _evaluate(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    inputs: ComponentInputs,
    delta: Float[Tensor, "chains parameters"],
    along: Float[Tensor, "directions chains parameters"],
    scores: _Scores | None,
    v: Float[Tensor, "chains parameters"] | None = None,
) -> _Evaluation:
    """Losses, slopes and responses of contexts, of all chains' own or shared, a few contexts at a time.

    Responses are slopes along v, where it is given, and curvatures along scores / (2 localization^2).
    """
    drift = None if scores is None or v is None else settings.localization**2 * v
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
            step = {"step": scores.step, "drift": drift}
            bent = derivatives.curvatures(model, component, taken, delta, scores.along, losses, **step)
        pieces.append((losses, slopes, bent))
    all_losses, all_slopes, all_bent = zip(*pieces, strict=True)
    bent = None if scores is None else torch.cat(all_bent, dim=1) / (2 * settings.localization**2)
    return _Evaluation(torch.cat(all_losses, dim=1), torch.cat(all_slopes, dim=2), bent)
