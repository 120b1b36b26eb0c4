"""Response directions of observables that an experiment names: v = E[grad phi] / localization, with phi any readout.

The chains are those of the run's own response directions, with the same noise and the same contexts, so that a readout of the
population's loss has the run's directions (directions.py). At each shaken weight a readout gives one more gradient. Only
its rise over the gradient at w* is averaged over the chains:

    v = (grad phi(w*) + E[(grad phi(w* + x) + grad phi(w* - x)) / 2 - grad phi(w*)]) / localization.

The susceptibility of a token is then -Cov[phi, l - L] to first order, -v.(grad l - grad L)(w*). The second Hermite term needs the
Hessian of the readout, which the scores do not give: it is left out.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.model import components, decoder_weights, derivatives, perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.sampling import chains, observables
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import directions
from susc_pipeline.susceptibility.direction_files import StoredDirections
from susc_pipeline.susceptibility.directions import REST_BATCH_SIZE, DirectionSettings
from susc_pipeline.susceptibility.readouts import Readout

Gradients = dict[str, Float[Tensor, "chains parameters"]]


def at_rest(model: Decoder, readout: Readout, chosen: Sequence[Component], *, n_chains: int) -> Gradients:
    """Gradient at w* of the readout of each chain's contexts, by the weights of every component."""
    names = components.holders(model, chosen)
    every, found = decoder_weights.named_weights(model), []
    for part, weight in zip(readout.parts, readout.weights, strict=True):
        total = {name: torch.zeros_like(every[name], dtype=torch.float32) for name in names}
        at_once = len(part) if readout.function else REST_BATCH_SIZE
        for first in range(0, len(part), at_once):
            ids = torch.as_tensor(part[first : first + at_once].astype(np.int64)).to(model.device)
            own = torch.as_tensor(weight[first : first + at_once]).to(model.device)
            value = lambda losses, own=own: readout.value(losses, own)  # noqa: E731
            for name, gradient in directions.weight_gradients(model, ids, names, value=value).items():
                total[name] += gradient
        found.append(directions.by_component(model, chosen, total))
    rows = list(itertools.islice(itertools.cycle(found), n_chains))
    return {component.name: torch.stack([row[component.name] for row in rows]) for component in chosen}


def gradients(
    model: Decoder,
    component: Component,
    readout: Readout,
    inputs: ComponentInputs,
    weights: Float[Tensor, "chains contexts predicted"],
    delta: Float[Tensor, "chains parameters"],
) -> Float[Tensor, "chains parameters"]:
    """Gradient of each chain's readout by its own weights, a few chains at a time."""
    at_once, found = derivatives.chains_at_once(model, component, *inputs.token_ids.shape[1:]), []
    for rows in (slice(first, first + at_once) for first in range(0, len(delta), at_once)):
        with torch.enable_grad():
            leaf = delta[rows].detach().requires_grad_()
            losses = perturbation.losses(model, component, inputs.take(rows), leaf)
            values = [readout.value(*pair) for pair in zip(losses, weights[rows], strict=True)]
            found.append(torch.autograd.grad(torch.stack(values).sum(), leaf)[0])
    return torch.cat(found)


def rises(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    population: Population,
    readouts: Sequence[Readout],
    seed: np.random.SeedSequence,
    *,
    n_contexts: int,
    largest: float | None = None,
) -> Gradients:
    """Mean rise of each readout's gradient over that at w*, by the chains that found the component's response directions.

    Args:
        model: at w*.
        component: the one that moves.
        settings: of those chains, at their localization.
        population: a part for each chain.
        readouts: what is asked for.
        seed: of those chains' noise.
        n_contexts: of the population, that those chains read together.
        largest: the component's curvature, where it is known; see `chains.prepared`.

    Raises:
        ChainDivergedError, UnstableStepError, BatchTooLargeError: see chains.py.
    """
    settings = chains.prepared(model, component, settings, population, largest=largest)
    n_chains, n_weights = settings.n_chains, components.n_parameters(model, component)
    noise = chains.noise(seed, n_weights, n_chains=n_chains, mirrored=True, device=model.device)
    start = chains.start(settings, next(noise))
    driving = (chains.doubled(batch) for batch in directions.population_batches(model, component, settings, population))
    zero = torch.zeros(n_chains, n_weights, device=model.device)
    n_steps = n_contexts // (n_chains * settings.batch_size)
    total = {readout.name: torch.zeros_like(zero) for readout in readouts}
    for step in itertools.islice(
        chains.run(model, component, settings, start, driving, noise), settings.n_burn_in + n_steps
    ):
        if step.number < settings.n_burn_in:
            continue
        for readout in readouts:
            batch = readout.batch(step.number * settings.batch_size, settings.batch_size)
            inputs, weights = _inputs(model, component, batch, n_chains)
            both = chains.doubled(inputs), weights.repeat(2, 1, 1)
            plus, minus = gradients(model, component, batch, *both, step.delta).chunk(2)
            total[readout.name] += (plus + minus) / 2 - gradients(model, component, batch, inputs, weights, zero)
    return {name: gradient / n_steps for name, gradient in total.items()}


def _inputs(
    model: Decoder, component: Component, batch: Readout, n_chains: int
) -> tuple[ComponentInputs, Float[Tensor, "chains contexts predicted"]]:
    ids, weights = (np.stack(arrays) for arrays in (batch.parts, batch.weights))
    inputs, own = observables.inputs(model, component, ids), torch.as_tensor(weights).to(model.device)
    if len(ids) == n_chains:
        return inputs, own
    return inputs.each(lambda tensor: tensor.expand(n_chains, *tensor.shape[1:])), own.expand(n_chains, -1, -1)


def found(
    model: Decoder,
    component: Component,
    settings: SamplingSettings,
    wanted: DirectionSettings,
    population: Population,
    rest: Mapping[str, Float[Tensor, "chains parameters"]],
    risen: Gradients,
    stored: StoredDirections,
) -> dict[str, StoredDirections]:
    """The mean direction of either half of the chains, of each readout, and the slope of the population loss along it.

    Args:
        model: at w*.
        component: whose weights move.
        settings: of the chains, at the component's localization.
        wanted: of the run's directions: how many contexts a product with the Hessian may read.
        population: a part for each chain.
        rest: gradient at w* of each readout.
        risen: its rise.
        stored: the run's own directions of the component, with gradients at w*.

    Raises:
        ValueError: they lack those gradients, or a direction is not finite.
    """
    if stored.at_rest is None:
        raise ValueError(f"gradients at w* of {component.name} were not loaded; load its directions with_rest")
    result = {}
    for name, gradient in risen.items():
        parts = rest[name].to(model.device), gradient
        chosen = (model, component, settings, wanted, population)
        of_rest, of_rise = directions.divided(*chosen, *parts, largest=stored.curvature)
        along = of_rest + of_rise
        means = torch.stack([along[rank::2].mean(dim=0) for rank in (0, 1)])
        if not torch.isfinite(means).all():
            raise ValueError(
                f"the response direction of {component.name} by observable {name!r} is not finite; let its function have a "
                f"finite gradient near the trained weights too"
            )
        slopes = directions.mean_slopes(along, stored.at_rest)
        result[name] = StoredDirections(means, slopes, settings.localization)
    return result
