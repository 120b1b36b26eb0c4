"""Linear response at the trained weights: every token measured by forward passes, none guessed.

    chi_t = -v.(grad l_t - grad L)(w*)

with v a component's response direction. The direction does not depend on the token, so that one pass with tangents gives
all components. It is the first Hermite term of the susceptibility at w*; second_order.py has the second and the mean over
draws. Directions come from directions.py.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from susc_pipeline.model import tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.susceptibility.direction_files import StoredDirections


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
    model: GPTNeoX,
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
        halves: of each component the mean directions of both halves, as `direction_files.halves` gives them.
        contexts_at_once: bounds memory, changes no number beyond rounding.
        progress: told the contexts done and their total.
    """
    directions = {component: stored.directions for component, stored in halves.items()}
    mean_slopes = np.stack([stored.mean_slopes for stored in halves.values()], axis=1)
    losses, slopes = [], []
    for part in torch.as_tensor(np.asarray(token_ids, np.int64)).split(contexts_at_once):
        found = tangents.slopes_at_rest(model, part.to(model.device), directions)
        losses.append(found.losses.flatten().float().cpu().numpy())
        slopes.append(found.slopes.flatten(2).cpu().numpy())
        progress(sum(map(len, losses)) // (token_ids.shape[1] - 1), len(token_ids))
    of_tokens = np.concatenate(slopes, axis=2).transpose(1, 2, 0)  # halves, tokens, components
    half_a, half_b = (mean_slopes[:, None] - of_tokens).astype(np.float32)
    return LinearResponse(np.concatenate(losses), half_a, half_b)
