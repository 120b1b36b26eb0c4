"""The plain gradient kernel: how a step down the population's gradient would change each token's loss. A control.

For a component with weights w_c, k(x) = grad_c L(w*) . grad_c l(x, w*), in nats squared per squared weight: the empirical neural
tangent kernel of the token with the whole population, one component at a time (Jacot, Gabriel and Hongler 2018). It takes no
chain and no localization. Linear responses have v, the mean gradient under the posterior, where it has the gradient at w*.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline.model import tangents
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling.observables import Population
from susc_pipeline.susceptibility import directions


def population_gradient(
    model: Decoder, contexts: Int[np.ndarray, "contexts positions"], chosen: Sequence[Component]
) -> dict[Component, Float[Tensor, " parameters"]]:
    """Gradient of the mean loss of these contexts by the weights of each component, in nats per unit of a weight."""
    found = directions.at_rest(model, Population((contexts,)), 0, chosen=chosen).gradient
    return {component: found[component.name] for component in chosen}


def gradient_kernel(
    model: Decoder,
    token_ids: Int[np.ndarray, "contexts positions"],
    gradients: Mapping[Component, Float[Tensor, " parameters"]],
    *,
    contexts_at_once: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float[np.ndarray, "tokens components"]:
    """Slope of each predicted token's loss along each component's gradient, contexts one after another.

    Args:
        model: at the weights where the gradients were taken.
        token_ids: the contexts.
        gradients: of each component, in the order of `components.weights`.
        contexts_at_once: bounds memory, changes no number beyond rounding.
        progress: told the contexts done and their total.
    """
    along = {component: gradient[None] for component, gradient in gradients.items()}
    found, n_done = [], 0
    for part in torch.as_tensor(np.asarray(token_ids, np.int64)).split(contexts_at_once):
        slopes = tangents.slopes_at_rest(model, part.to(model.device), along).slopes[:, 0]
        found.append(slopes.flatten(1).T.float().cpu().numpy())
        n_done += len(part)
        progress(n_done, len(token_ids))
    return np.concatenate(found)
