"""A direction task: all that it takes to find the response directions of any component, on whatever machine that is done."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import seeds
from susc_pipeline.model import decoder_weights, pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import curvature
from susc_pipeline.sampling import localization as localizations
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings
from susc_pipeline.susceptibility import directions, linear_response, reliability
from susc_pipeline.susceptibility.direction_files import Diagnostics, StoredDirections
from susc_pipeline.susceptibility.directions import DirectionSettings, RestGradients


class DirectionTask(NamedTuple):
    """What is shared by the components of an experiment."""

    model: Decoder
    """At w*, wherever it lies now."""
    device: str
    """Where chains run, such as `auto`: that of who opens the task."""
    settings: SamplingSettings
    wanted: DirectionSettings
    population: Population
    """Contexts of the directions, a part for each chain."""
    probe: Int[np.ndarray, "contexts positions"]
    """Contexts, of no shard and no direction, on which reliability is measured."""
    seed: int
    chosen: Sequence[Component]
    """The components whose directions are wanted."""
    n_scores: int = 0
    """Chains that give a score at w*, the first ones."""


class Rest(NamedTuple):
    """What is known of a component before its chains run, of each chain's documents at w*."""

    gradients: Float[np.ndarray, "chains parameters"]
    scores: Float[np.ndarray, "scores parameters"]
    n_contexts: int


def rest_finder(task: DirectionTask) -> Callable[[int, None], tuple[RestGradients, dict[str, Tensor]]]:
    """A function of the number of a chain that gives the gradients at w* of its documents and, of the first chains, scores."""
    model = decoder_weights.to(task.model, pretrained.torch_device(task.device))

    def find(chain: int, _: None) -> tuple[RestGradients, dict[str, Tensor]]:
        found, score = directions.at_rest(model, task.population, chain, chosen=task.chosen), {}
        if chain < task.n_scores:
            source = seeds.sequence(task.seed, "scores", str(chain))
            score = directions.score_at_rest(model, task.population, chain, source, chosen=task.chosen)
        gradient, score = ({name: value.cpu() for name, value in part.items()} for part in (found.gradient, score))
        return found._replace(gradient=gradient), score

    return find


def finder(task: DirectionTask) -> Callable[[Component, Rest], tuple[StoredDirections, Diagnostics]]:
    """A function of a component and its gradients at w* that gives the component's directions."""
    model = decoder_weights.to(task.model, pretrained.torch_device(task.device))

    def find(component: Component, rest: Rest) -> tuple[StoredDirections, Diagnostics]:
        source = seeds.sequence(task.seed, "localization", component.name)
        settings = localizations.settled(model, component, task.settings, task.probe, source)
        localization = settings.localization
        at_rest: Tensor = torch.as_tensor(rest.gradients).to(model.device)
        slopes = directions.probe_slopes(model, task.probe, {component: at_rest / localization})[0]
        largest = curvature.of_population(model, component, task.population)
        source = seeds.sequence(task.seed, "response_directions", component.name)
        chosen = (settings, task.wanted, task.population, task.probe, slopes, source)
        risen = directions.rise(model, component, *chosen, largest=largest)
        of_rest, of_rise = directions.divided(
            model, component, settings, task.wanted, task.population, at_rest, risen.gradient, largest=largest
        )
        found = of_rest + of_rise
        both = directions.probe_slopes(model, task.probe, {component: torch.cat([of_rest, of_rise])})[0]
        slopes, of_chains = np.split(both, 2)
        needed = reliability.contexts_needed(
            slopes, of_chains, n_contexts=risen.n_contexts, reliability=directions.NAMED_RELIABILITY
        )
        diagnostics = Diagnostics(
            risen.trace,
            slopes,
            of_chains,
            n_contexts=risen.n_contexts,
            n_rest_contexts=rest.n_contexts,
            reliability=reliability.of_replicates(slopes + of_chains),
            n_contexts_needed=needed,
            localization=localization,
            curvature=largest,
        )
        mean_slopes = directions.mean_slopes(found, at_rest)
        found = StoredDirections(found.cpu(), mean_slopes, localization, at_rest.cpu(), curvature=largest)
        if not len(rest.scores):
            return found, diagnostics
        scores = torch.as_tensor(rest.scores).to(model.device)
        curvatures = linear_response.mean_curvatures(model, component, task.probe, scores, localization=localization)
        return found._replace(scores=scores.cpu(), mean_curvatures=curvatures), diagnostics

    return find
