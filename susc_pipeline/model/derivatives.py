"""Gradients, scores and curvatures of a perturbed component's losses; the losses are in perturbation.py."""

import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.model import perturbation
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.perturbation import ComponentInputs

CURVATURE_RISE = 0.003  # nats
KEPT_BYTES = 1 << 31
# Of the width of the residual stream, kept by a layer for its way back: two norms' inputs and outputs, query, key and
# value as projected and as rotated, the attended values, and the stream itself.
STREAMS_OF_A_LAYER = 12


def kept_numbers(model: Decoder, component: Component, *, n_layers: int | None = None) -> int:
    """Numbers that a gradient keeps of each position for its way back: of the component and of `n_layers` above it (all)."""
    shape, width = model.description, model.hidden_size
    hidden = (3 if shape.gated else 2) * shape.inner_size
    of_layer = STREAMS_OF_A_LAYER * max(width, model.n_heads * model.head_size) + hidden
    own = hidden if component.kind == "mlp" else 0
    n_above = 0 if component.kind == "unembed" else model.n_layers - 1 - component.layer
    return (n_above if n_layers is None else min(n_above, n_layers)) * of_layer + own + 3 * width


def chains_at_once(model: Decoder, component: Component, n_contexts: int, n_positions: int) -> int:
    """How many chains' gradients are taken together, so that what they keep is at most KEPT_BYTES."""
    of_chain = kept_numbers(model, component) * n_contexts * n_positions * model.embedding.element_size()
    return max(1, KEPT_BYTES // of_chain)


def _pieces(
    model: Decoder, component: Component, batch: ComponentInputs, delta: Float[Tensor, "chains parameters"]
) -> list[tuple[ComponentInputs, Tensor]]:
    if batch.token_ids.ndim == 2:  # all chains read the same
        return [(batch, delta)]
    at_once = chains_at_once(model, component, *batch.token_ids.shape[1:])
    rows = [slice(first, first + at_once) for first in range(0, len(delta), at_once)]
    return [(batch.take(some), delta[some]) for some in rows]


def gradients(
    model: Decoder, component: Component, batch: ComponentInputs, delta: Float[Tensor, "chains parameters"]
) -> tuple[Float[Tensor, "chains parameters"], Float[Tensor, " chains"]]:
    """Gradient of each chain's mean minibatch loss by its own weights, and that loss; a few chains at a time."""
    found = [_gradients(model, component, *piece) for piece in _pieces(model, component, batch, delta)]
    of_chains, losses_of_chains = zip(*found, strict=True)
    return torch.cat(of_chains), torch.cat(losses_of_chains)


def _gradients(
    model: Decoder, component: Component, batch: ComponentInputs, delta: Float[Tensor, "chains parameters"]
) -> tuple[Float[Tensor, "chains parameters"], Float[Tensor, " chains"]]:
    with torch.enable_grad():
        leaf = delta.detach().requires_grad_()
        loss = perturbation.losses(model, component, batch, leaf).mean(dim=(1, 2))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return gradient, loss.detach()


def scores(
    model: Decoder,
    component: Component,
    batch: ComponentInputs,
    delta: Float[Tensor, "chains parameters"],
    labels: torch.Generator,
) -> Float[Tensor, "chains parameters"]:
    """A random vector of each chain whose covariance is the Fisher matrix of a token's prediction, at the chain's weights.

    The score of labels that the model itself predicts, summed over N tokens and divided by their root. The Fisher matrix is
    the Gauss-Newton matrix of the loss (Martens 2020): its Hessian, but for curvature times the error of the prediction.
    """
    found = []
    for part, place in _pieces(model, component, batch, delta):
        with torch.enable_grad():
            leaf = place.detach().requires_grad_()
            loss = perturbation.losses(model, component, part, leaf, labels)
            found += torch.autograd.grad(loss.sum() / loss[0].numel() ** 0.5, leaf)
    return torch.cat(found)


@torch.no_grad()
def curvatures(
    model: Decoder,
    component: Component,
    inputs: ComponentInputs,
    deltas: Float[Tensor, "chains parameters"],
    along: Float[Tensor, "chains parameters"],
    here: Float[Tensor, "chains contexts predicted"],
    *,
    step: float,
    drift: Float[Tensor, "chains parameters"] | None = None,
) -> Float[Tensor, "chains contexts predicted"]:
    """Second derivative of each token's loss by h on the path w + h s + h^2 d, by a central difference.

    It is the curvature along s and twice the slope along d: three losses give both, where d would take a tangent of its own.

    Args:
        model: at w*, in float32: in bfloat16 a difference of losses is noise.
        component: the one that is perturbed.
        inputs: as `losses` takes them.
        deltas: where the chains are.
        along: s of each chain.
        here: losses where the chains are.
        step: of the difference, in lengths of s.
        drift: d of each chain; without it the curvature is found alone.
    """
    middle = deltas if drift is None else deltas + step**2 * drift
    ahead, behind = (perturbation.losses(model, component, inputs, middle + sign * step * along) for sign in (1, -1))
    return (ahead - here + behind - here) / step**2


def curvature_step(scores: Float[Tensor, "scores parameters"], *, rise: float = CURVATURE_RISE) -> float:
    """Step of the difference along scores which raises the mean loss so much: far above rounding, small beside the noise.

    A step along s raises it by step^2 s.Fs / 2, and (s.s')^2 of two scores has the mean of s.Fs.
    """
    n_pairs = max(1, len(scores) * (len(scores) - 1) // 2)
    stiffness = (scores @ scores.T).triu(1).square().sum() / n_pairs
    return float((2 * rise / stiffness.clamp_min(torch.finfo(torch.float32).tiny)).sqrt())
