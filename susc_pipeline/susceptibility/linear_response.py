"""Linear response at the trained weights: every token measured by forward passes, none guessed.

    chi_t = -v.(grad l_t - grad L)(w*) - mean over scores of s.(hessian l_t - hessian L)(w*) s / (2 localization^2)

with v a component's response direction, and s scores at w*, whose covariance is the Fisher matrix. Neither depends on the
token, so that one pass with tangents gives all components' first terms, and two passes a score the second. They are the first
two Hermite terms at w*: estimators/gauss_newton.py has them as means over draws. Directions and scores: directions.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline.messages import require
from susc_pipeline.model import decoder, derivatives, perturbation, tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs
from susc_pipeline.susceptibility.direction_files import StoredDirections


@dataclass(frozen=True)
class LinearResponseSettings:
    """How far the response at the trained weights goes."""

    n_scores: int = 0
    """Scores along which the second-order term is measured, two forward passes each; even, and at most sampling.n_chains. 0
    leaves that term out."""

    def __post_init__(self) -> None:
        """Check the values."""
        rule = "even, for half of them belong to either half of the chains, and not negative"
        require(self.n_scores >= 0 and self.n_scores % 2 == 0, "linear_response.n_scores", self.n_scores, rule)


class LinearResponse(NamedTuple):
    """Linear response of each predicted token to each component, in nats squared, by directions of either half of the chains."""

    losses: Float[np.ndarray, " tokens"]
    """At w*, in nats."""
    half_a: Float[np.ndarray, "tokens components"]
    half_b: Float[np.ndarray, "tokens components"]

    @property
    def value(self) -> Float[np.ndarray, "tokens components"]:
        """By all chains."""
        return (self.half_a + self.half_b) / 2


def estimate(
    model: Decoder,
    token_ids: Int[np.ndarray, "contexts positions"],
    halves: Mapping[Component, StoredDirections],
    *,
    contexts_at_once: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LinearResponse:
    """The linear responses of every predicted token, contexts one after another; components in the mapping's order.

    Args:
        model: at w*.
        token_ids: the contexts.
        halves: of each component the mean directions of both halves and the scores, as `direction_files.halves` gives them.
        contexts_at_once: bounds memory, changes no number beyond rounding.
        progress: told the contexts done and their total.
    """
    directions = {component: stored.directions for component, stored in halves.items()}
    mean_slopes = np.stack([stored.mean_slopes for stored in halves.values()], axis=1)
    losses, slopes = [], []
    for part in torch.as_tensor(np.asarray(token_ids, np.int64)).split(contexts_at_once):
        ids = part.to(model.device)
        found = tangents.slopes_at_rest(model, ids, directions)
        losses.append(found.losses.flatten().float().cpu().numpy())
        slopes.append(found.slopes.flatten(2).cpu().numpy() + _second_terms(model, ids, halves, found.losses))
        progress(sum(map(len, losses)) // (token_ids.shape[1] - 1), len(token_ids))
    of_tokens = np.concatenate(slopes, axis=2).transpose(1, 2, 0)  # halves, tokens, components
    half_a, half_b = (mean_slopes[:, None] - of_tokens).astype(np.float32)
    return LinearResponse(np.concatenate(losses), half_a, half_b)


def _second_terms(
    model: Decoder,
    token_ids: Int[Tensor, "contexts positions"],
    halves: Mapping[Component, StoredDirections],
    losses: Float[Tensor, "contexts predicted"],
) -> Float[np.ndarray, "components halves tokens"]:
    """Half the curvature of each token's loss along the scores, less that of the population loss; zero without scores."""
    found = np.zeros((len(halves), 2, losses.numel()), np.float32)
    if all(stored.scores is None for stored in halves.values()):
        return found
    stream = decoder.residual_stream(model, token_ids)
    for row, (component, stored) in zip(found, halves.items(), strict=True):
        if stored.scores is None or stored.mean_curvatures is None:
            continue
        inputs = perturbation.prepare(model, component, token_ids, stream)
        bent = _curvatures(model, component, inputs, stored.scores, losses, stored.localization)
        excess = bent.flatten(1).cpu().numpy() - stored.mean_curvatures[:, None]
        row[:] = np.stack([excess[rank::2].mean(axis=0) for rank in (0, 1)]) / 2
    return found


def _curvatures(
    model: Decoder,
    component: Component,
    inputs: ComponentInputs,
    scores: Float[Tensor, "scores parameters"],
    losses: Float[Tensor, "contexts predicted"],
    localization: float,
) -> Float[Tensor, "scores contexts predicted"]:
    """Curvature at w* of each token's loss along each score / localization^2."""
    zeros, here = torch.zeros_like(scores), losses.expand(len(scores), *losses.shape)
    step = derivatives.curvature_step(scores)
    return derivatives.curvatures(model, component, inputs, zeros, scores, here, step=step) / localization**2


def mean_curvatures(
    model: Decoder,
    component: Component,
    token_ids: Int[np.ndarray, "contexts positions"],
    scores: Float[Tensor, "scores parameters"],
    *,
    localization: float,
) -> Float[np.ndarray, " scores"]:
    """Mean over contexts of the curvature at w* along each score / localization^2, in nats squared."""
    means = []
    for part in torch.as_tensor(np.asarray(token_ids, np.int64)).split(4):
        inputs = perturbation.prepare_tokens(model, component, part.to(model.device))
        here = perturbation.losses(model, component, inputs, torch.zeros_like(scores[:1]))[0].detach()
        means.append(_curvatures(model, component, inputs, scores, here, localization).mean(dim=(1, 2)) * len(part))
    return (torch.stack(means).sum(dim=0) / len(token_ids)).float().cpu().numpy()
