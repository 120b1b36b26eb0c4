"""Response directions: of each component and chain, v = E[grad phi] / localization, the gradient of the population loss.

Two parts are added. The gradient at w* is the same for every component's chains: one backward pass gives all components,
so it is averaged over the whole population. The chains give the rest, the mean rise of the gradient over that at w*:

    v = (grad L(w*) + E[(grad L(w* + x) + grad L(w* - x)) / 2 - grad L(w*)]) / localization,

each term on the same fresh contexts. Context noise and the odd part cancel, so that the rest needs 3 to 18 times fewer contexts
than a plain mean. Where the loss is stiff (n_beta times curvature is not small beside localization) the posterior's precision
takes the place of localization; see precision.py. How token losses change along a direction is in linear_response.py.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import seeds
from susc_pipeline.messages import require
from susc_pipeline.model import components, decoder, decoder_weights, derivatives, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import chains, observables, precision
from susc_pipeline.sampling.diagnostics import Trace
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import reliability

LEAST_STEPS = 8
NAMED_RELIABILITY = 0.9  # at which the table names the contexts that are needed
REST_BATCH_SIZE = 16
MAX_PRODUCT_CONTEXTS = 64  # that a chain reads for one product with the Hessian
SMALL_SHARE = 0.2  # of the noise of the gradient at w*: below it more steps of the chains would hardly help


@dataclass(frozen=True)
class DirectionSettings:
    """How well response directions are determined: chains of a component go on until it is enough."""

    reliability: float = 0.95
    """Reliability asked for, of linear responses on probe contexts by all chains together."""
    max_contexts: int = 8192
    """Population contexts that the chains of one component read, at most, all together."""
    n_probe_contexts: int = 16
    """Contexts, of no shard, on whose tokens the reliability is measured."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(0 < self.reliability < 1, "directions.reliability", self.reliability, "between 0 and 1")
        require(self.max_contexts >= 1, "directions.max_contexts", self.max_contexts, "at least 1")
        require(self.n_probe_contexts >= 1, "directions.n_probe_contexts", self.n_probe_contexts, "at least 1")

    def limited(self, max_contexts: int) -> "DirectionSettings":
        """The same with another budget."""
        return dataclasses.replace(self, max_contexts=max_contexts)


class RestGradients(NamedTuple):
    """Gradient of the population loss at w*, of one chain's documents, by the weights of every component."""

    gradient: dict[str, Float[Tensor, " parameters"]]
    """By name of the component, in the order of `components.weights`."""
    n_contexts: int


class Rise(NamedTuple):
    """Mean rise of the gradient over that at w*, of one component's chains."""

    gradient: Float[Tensor, "chains parameters"]
    slopes: Float[np.ndarray, "chains probe_tokens"]
    """Slope of each probe token's loss along the rise / localization, in nats squared."""
    trace: Trace
    n_contexts: int
    """Population contexts that all chains read together."""
    reliability: float
    """Of linear responses on the probe tokens, by all chains together."""


def at_rest(
    model: Decoder,
    population: Population,
    chain: int,
    *,
    chosen: Sequence[Component] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RestGradients:
    """Gradient at w* of the mean loss over all contexts of one chain's part of the population.

    Args:
        model: at w*.
        population: a part for each chain.
        chain: whose contexts are read.
        chosen: the components wanted; none named: all.
        progress: called with contexts done and their number.
    """
    part, chosen = population.parts[chain], chosen or components.enumerate_components(model)
    every, names = decoder_weights.named_weights(model), components.holders(model, chosen)
    total = {name: torch.zeros_like(every[name], dtype=torch.float32) for name in names}
    for first in range(0, len(part), REST_BATCH_SIZE):
        ids = torch.as_tensor(part[first : first + REST_BATCH_SIZE].astype(np.int64)).to(model.device)
        for name, gradient in weight_gradients(model, ids, names).items():
            total[name] += gradient / (len(part) * (ids.shape[1] - 1))
        progress(first + len(ids), len(part))
    return RestGradients(by_component(model, chosen, total), len(part))


def score_at_rest(
    model: Decoder,
    population: Population,
    chain: int,
    seed: np.random.SeedSequence,
    *,
    chosen: Sequence[Component] = (),
) -> dict[str, Float[Tensor, " parameters"]]:
    """A random vector of each component whose covariance is the Fisher matrix at w*; see derivatives.scores.

    Args:
        model: at w*.
        population: a part for each chain.
        chain: whose first contexts are read.
        seed: of the labels, which the model itself predicts.
        chosen: the components wanted; none named: all.
    """
    labels, chosen = seeds.generator(seed, model.device), chosen or components.enumerate_components(model)
    ids = torch.as_tensor(population.parts[chain][:REST_BATCH_SIZE].astype(np.int64)).to(model.device)
    root = (len(ids) * (ids.shape[1] - 1)) ** 0.5
    names = components.holders(model, chosen)
    found = {name: gradient.float() / root for name, gradient in weight_gradients(model, ids, names, labels).items()}
    return by_component(model, chosen, found)


def weight_gradients(
    model: Decoder,
    token_ids: Int[Tensor, "contexts positions"],
    names: Sequence[str],
    labels: torch.Generator | None = None,
    *,
    value: Callable[[Tensor], Tensor] = torch.sum,
) -> dict[str, Tensor]:
    """Gradient by the named weights of what `value` makes of the losses (contexts predicted): without it, their sum."""
    every = decoder_weights.named_weights(model)
    named = {name: every[name].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        moved = decoder_weights.with_weights(model, every | named)
        loss = value(decoder.differentiable_losses(moved, token_ids, labels))
        return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def by_component(
    model: Decoder, chosen: Sequence[Component], named: dict[str, Tensor]
) -> dict[str, Float[Tensor, " parameters"]]:
    """Weights that are given by name as a vector of each component, in the order of `components.weights`."""
    whole = decoder_weights.with_weights(model, decoder_weights.named_weights(model) | named)
    return {c.name: components.flatten(components.weights(whole, c)) for c in chosen}


def probe_slopes(
    model: Decoder,
    probe: Int[np.ndarray, "contexts positions"],
    directions: Mapping[Component, Float[Tensor, "chains parameters"]],
    *,
    contexts_at_once: int = 4,
) -> Float[np.ndarray, "components chains probe_tokens"]:
    """Slope at w* of each probe token's loss along each chain's direction of each component."""
    ids = torch.as_tensor(probe.astype(np.int64)).to(model.device)
    found = [tangents.slopes_at_rest(model, part, directions).slopes for part in ids.split(contexts_at_once)]
    return torch.cat(found, dim=2).flatten(2).cpu().numpy().astype(np.float64)


def rise(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    population: Population,
    probe: Int[np.ndarray, "contexts positions"],
    rest_slopes: Float[np.ndarray, "chains probe_tokens"],
    seed: np.random.SeedSequence,
    *,
    largest: float | None = None,
) -> Rise:
    """Chains of one component, until its linear responses are as reliable as asked for or the budget is spent.

    They end sooner where the noise of the gradient at w*, which they cannot lower, is most of what is left.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of the chains.
        wanted: the reliability and the budget.
        population: a part for each chain; none of its documents is in a shard or in the probe.
        probe: contexts on which the reliability is measured.
        rest_slopes: slopes of the probe's losses along each chain's gradient at w* / localization.
        seed: of the chains' noise.
        largest: the component's curvature, see `curvature.of_population`; it is measured where it is not given.

    Raises:
        ChainDivergedError, UnstableStepError, BatchTooLargeError: see chains.py.
    """
    settings = chains.prepared(model, component, settings, population, largest=largest)
    n_chains, n_weights = settings.n_chains, components.n_parameters(model, component)
    noise = chains.noise(seed, n_weights, n_chains=n_chains, mirrored=True, device=model.device)
    start = chains.start(settings, next(noise))
    batches, again = itertools.tee(population_batches(model, component, settings, population))
    driving = (chains.doubled(batch) for batch in batches)
    zero = torch.zeros(n_chains, n_weights, device=model.device)
    total, losses, rest_losses = torch.zeros_like(zero), [], []
    n_most = max(LEAST_STEPS, wanted.max_contexts // (n_chains * settings.batch_size))
    steps = chains.run(model, component, settings, start, driving, noise)
    for step, batch in zip(steps, again):
        gradient, rest_loss = derivatives.gradients(model, component, batch, zero)
        losses.append(step.loss.cpu().numpy())
        rest_losses.append(rest_loss.repeat(2).cpu().numpy())
        n_taken = step.number + 1 - settings.n_burn_in
        if n_taken < 1:
            continue
        plus, minus = step.gradient.chunk(2)
        total += (plus + minus) / 2 - gradient
        if n_taken >= LEAST_STEPS and (n_taken & (n_taken - 1) == 0 or n_taken >= n_most):
            mean = total / n_taken
            slopes = probe_slopes(model, probe, {component: mean / settings.localization})[0]
            reached = reliability.of_replicates(rest_slopes + slopes)
            is_enough = reached >= wanted.reliability or _noise(slopes) < SMALL_SHARE * _noise(rest_slopes)
            if is_enough or n_taken >= n_most:
                break
    trace = Trace(np.stack(losses), np.stack(rest_losses))
    return Rise(mean, slopes, trace, n_taken * n_chains * settings.batch_size, reached)


def _noise(slopes: Float[np.ndarray, "chains probe_tokens"]) -> float:
    return float(slopes.var(axis=0, ddof=1).mean())


def population_batches(
    model: Decoder, component: Component, settings: SamplingSettings, population: Population
) -> Iterator[ComponentInputs]:
    """What the chains read at each step, without end."""
    for first in itertools.count(0, settings.batch_size):
        yield observables.inputs(model, component, population.fresh(first, settings.batch_size))


def divided(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    population: Population,
    *gradients: Float[Tensor, "chains parameters"],
    largest: float | None = None,
) -> tuple[Float[Tensor, "chains parameters"], ...]:
    """Parts of each chain's mean gradient as parts of its direction: divided by the posterior's precision, see precision.py.

    `largest` is the component's curvature, where it is known.
    """
    n_contexts = max(1, min(MAX_PRODUCT_CONTEXTS, wanted.max_contexts // settings.n_chains))
    options = {"n_contexts": n_contexts, "largest": largest}
    found = precision.divided(model, component, settings, population, torch.cat(gradients), **options)
    return found.chunk(len(gradients))


def mean_slopes(
    directions: Float[Tensor, "chains parameters"], rest: Float[Tensor, "chains parameters"]
) -> Float[np.ndarray, " halves"]:
    """Slope of the population loss at w* along each half's direction, in nats squared.

    A chain's direction meets the gradients at w* of the other chains of its half: its own would add its noise squared.

    Args:
        directions: of each chain.
        rest: gradient at w* of each chain's documents.
    """
    found = []
    for half in (slice(0, None, 2), slice(1, None, 2)):
        products = (directions[half] @ rest[half].T).double()
        n_chains = len(products)
        found.append((products.sum() - products.trace()) / (n_chains * (n_chains - 1)))
    return torch.stack(found).cpu().numpy()
