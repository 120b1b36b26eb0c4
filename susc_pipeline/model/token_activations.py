"""What one forward pass says of each token: residual stream, loss and its gradient, for the auxiliary model."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline.model import decoder, token_loss
from susc_pipeline.model.decoder import Decoder


class Activations(NamedTuple):
    """What one forward pass says of each predicted token: a row is a token, contexts one after another."""

    features: Float[np.ndarray, "tokens features"]
    """Residual stream at the token's own position, after each chosen layer, concatenated."""
    loss_gradients: Float[np.ndarray, "tokens hidden"]
    """Gradient of the token's loss by the last residual stream, as normed, of the position before."""
    losses: Float[np.ndarray, " tokens"]
    """Loss of the token, in nats."""


@torch.no_grad()
def activations(
    model: Decoder, token_ids: Int[np.ndarray, "contexts positions"], *, layers: tuple[int, ...], batch_size: int = 16
) -> Activations:
    """Residual stream after `layers` (1 = after the first), loss and its gradient, of every token but a context's first.

    The stream is read at the position where the token is the input, not where it is predicted: the susceptibility of
    (x, y) depends on y, which the model has not seen one position earlier.

    Raises:
        ValueError: a layer that the model has not.
    """
    if not set(layers) <= set(range(1, model.n_layers + 1)):
        raise ValueError(
            f"representation.layers must lie between 1 and {model.n_layers}, got {list(layers)}; correct it"
        )
    parts = zip(*(_activations(model, batch, layers) for batch in torch.as_tensor(token_ids).split(batch_size)))
    return Activations(*(torch.cat(part).float().cpu().numpy() for part in parts))


def _activations(
    model: Decoder, token_ids: Int[Tensor, "contexts positions"], layers: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    token_ids = token_ids.to(model.device)
    stream = decoder.residual_stream(model, token_ids)
    ends = decoder.normalize(stream[-1], model.final_norm, model), token_ids, model.unembedding
    chosen = torch.cat([stream[layer][:, 1:] for layer in layers], dim=-1)
    losses, gradients = token_loss.losses_and_gradients(*ends, cap=model.description.final_cap)
    return chosen.flatten(0, 1), gradients.flatten(0, 1), losses.flatten()
