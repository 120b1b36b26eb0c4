"""The mean losses of groups of documents as observables: their response directions, and the gradients of training documents.

All weights move. With n documents of weight 1 + h_j, gradient flow for a time T (steps times learning rate) moves the weights, to
first order in h, by -(1 - exp(-H T)) / H . sum_j h_j grad l_j / n, H the Hessian of the mean training loss. The localized
posterior gives (H + localization / n_beta)^-1 instead of (1 - exp(-H T)) / H: the same for small and for large curvature where

    n_beta / localization = T.

So the response of the loss O_i of a group is -v_i . (grad l_j - grad L) / n, with the group's own response direction

    v_i = n_beta (localization + n_beta H)^-1 E[grad O_i],

the mean over w* and Gaussian noise of variance 1 / localization (the first terms of Houdre et al. 1998). In the limit of little
curvature and noise it is T times the product of gradients.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline import seeds
from susc_pipeline.model import components, derivatives, perturbation
from susc_pipeline.model.components import ALL_WEIGHTS
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.sampling import precision
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

Contexts = Int[np.ndarray, "contexts positions"]
CONTEXTS_AT_ONCE = 16


def gradients(
    model: Decoder,
    documents: Sequence[Contexts],
    *,
    displacement: Float[Tensor, " parameters"] | None = None,
) -> Float[Tensor, "documents parameters"]:
    """Gradient by all weights of the mean loss of each document's contexts, in nats per unit of a weight.

    Args:
        model: at w*.
        documents: contexts of each.
        displacement: from w*, where the gradients are taken; without it, at w*.
    """
    place = torch.zeros(components.n_parameters(model, ALL_WEIGHTS), device=model.device)
    place = (place if displacement is None else displacement)[None]
    return torch.stack([_gradient(model, contexts, place) for contexts in documents])


def _gradient(
    model: Decoder, contexts: Contexts, place: Float[Tensor, "one parameters"]
) -> Float[Tensor, " parameters"]:
    total = torch.zeros_like(place[0])
    for part in torch.as_tensor(contexts.astype(np.int64)).split(CONTEXTS_AT_ONCE):
        inputs = perturbation.prepare_tokens(model, ALL_WEIGHTS, part.to(model.device))
        total += derivatives.gradients(model, ALL_WEIGHTS, inputs, place)[0][0] * (len(part) / len(contexts))
    return total


def mean_gradients(
    model: Decoder,
    groups: Sequence[Contexts],
    settings: SamplingSettings,
    seed: np.random.SeedSequence,
    *,
    n_pairs: int,
) -> Float[Tensor, "groups parameters"]:
    """E[grad O_i] of each group: the mean over pairs of w* plus and minus Gaussian noise of variance 1 / localization.

    Both of a pair read the same contexts, so that the odd part cancels. The drift of the posterior's mean is left out. Without
    pairs it is the gradient at w*.
    """
    if n_pairs == 0:
        return gradients(model, groups)
    generator = seeds.generator(seed, model.device)
    n_weights, found = components.n_parameters(model, ALL_WEIGHTS), []
    for _ in range(n_pairs):
        noise = torch.randn(n_weights, generator=generator, device=model.device) / settings.localization**0.5
        found += [gradients(model, groups, displacement=sign * noise) for sign in (1, -1)]
    return torch.stack(found).mean(dim=0)


def directions(
    model: Decoder,
    mean_gradients: Float[Tensor, "groups parameters"],
    training: Contexts,
    settings: SamplingSettings,
    *,
    n_contexts: int = 32,
) -> Float[Tensor, "groups parameters"]:
    """v_i of each group: its mean gradient divided by the posterior's precision, times n_beta.

    Args:
        model: at w*.
        mean_gradients: of the groups.
        training: contexts whose mean loss has the Hessian.
        settings: of the posterior: n_beta / localization is the time of the fine-tuning, steps times learning rate.
        n_contexts: read for one product with the Hessian.
    """
    population = Population((training,))
    return settings.n_beta * precision.divided(
        model, ALL_WEIGHTS, settings, population, mean_gradients, n_contexts=n_contexts
    )
