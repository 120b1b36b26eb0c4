"""From the normed last residual to the loss of each token, and back, without ever holding all logits.

What comes before, the transformer, is in gpt_neox.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# On a CPU what stays in the cache: of 2**17 to 2**22 the fastest at 2,048 and at 50,304 entries. A GPU wants large products.
LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**28}
MIN_ROWS = 64


def cross_entropy(
    normed: Float[Tensor, "*batch positions hidden"],
    token_ids: Int[Tensor, "*batch positions"],
    unembedding: Float[Tensor, "vocabulary hidden"],
) -> Float[Tensor, "*batch predicted"]:
    """Loss of each token but the first, in nats, from the normed last residual; never all logits at once."""
    inputs = normed[..., :-1, :].reshape(-1, normed.shape[-1])
    targets = token_ids[..., 1:].reshape(-1)
    return _CrossEntropy.apply(inputs, unembedding, targets).view(token_ids[..., 1:].shape)


class _CrossEntropy(torch.autograd.Function):
    """Logits, loss and the gradient of the inputs, a few rows at a time while they are in the cache.

    Nothing of the size of the vocabulary is kept for the backward pass (the idea of Liger's fused linear cross-entropy,
    Hsu et al. 2024); only where the unembedding itself moves are the logits computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, unembedding: Tensor, targets: Tensor) -> Tensor:
        losses, gradients = _losses(inputs, unembedding, targets, with_gradients=ctx.needs_input_grad[0])
        ctx.save_for_backward(inputs, unembedding, targets, gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inputs, unembedding, targets, gradients = ctx.saved_tensors
        of_inputs = None if gradients is None else gradients * outer[:, None].to(gradients.dtype)
        of_unembedding = None
        if ctx.needs_input_grad[1]:
            of_unembedding = torch.zeros_like(unembedding)
            for rows, log_probabilities in _log_probabilities(inputs, unembedding):
                errors = _errors(log_probabilities, targets[rows, None]).mul_(outer[rows, None])
                of_unembedding.addmm_(errors.to(inputs.dtype).T, inputs[rows])
        return of_inputs, of_unembedding, None


def _losses(
    inputs: Float[Tensor, "rows hidden"],
    unembedding: Float[Tensor, "vocabulary hidden"],
    targets: Int[Tensor, " rows"],
    *,
    with_gradients: bool,
) -> tuple[Tensor, Tensor | None]:
    losses = torch.empty(len(inputs), device=inputs.device)
    gradients = torch.empty_like(inputs) if with_gradients else None
    for rows, log_probabilities in _log_probabilities(inputs, unembedding):
        wanted = targets[rows, None]
        losses[rows] = -log_probabilities.gather(1, wanted)[:, 0]
        if gradients is not None:
            gradients[rows] = _errors(log_probabilities, wanted).to(inputs.dtype) @ unembedding
    return losses, gradients


def _log_probabilities(inputs: Tensor, unembedding: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Log-softmax of a few rows' logits at a time, in one buffer that the next rows overwrite."""
    n_rows = max(MIN_ROWS, LOGITS_AT_ONCE.get(inputs.device.type, 2**24) // len(unembedding))
    logits = torch.empty(min(n_rows, len(inputs)), len(unembedding), dtype=inputs.dtype, device=inputs.device)
    found = torch.empty(logits.shape, device=inputs.device)
    for start in range(0, len(inputs), n_rows):
        rows = slice(start, min(start + n_rows, len(inputs)))
        n = rows.stop - rows.start
        torch.mm(inputs[rows], unembedding.T, out=logits[:n])
        torch.log_softmax(logits[:n].float(), dim=1, out=found[:n])
        yield rows, found[:n]


def _errors(log_probabilities: Tensor, wanted: Int[Tensor, "rows 1"]) -> Tensor:
    """Gradient of each row's loss by its logits, in place of the log probabilities."""
    return log_probabilities.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=log_probabilities.dtype))


def losses_and_gradients(
    normed: Float[Tensor, "*batch positions hidden"],
    token_ids: Int[Tensor, "*batch positions"],
    unembedding: Float[Tensor, "vocabulary hidden"],
) -> tuple[Float[Tensor, "*batch predicted"], Float[Tensor, "*batch predicted hidden"]]:
    """Each token's loss in nats, and its gradient by the normed last residual it is predicted from; logits are taken once.

    The gradient is the mean unembedding of what the model expected minus that of the token: a vector that says how the
    model erred, where the loss is a number that says how much.
    """
    inputs = normed[..., :-1, :].reshape(-1, normed.shape[-1])
    targets = token_ids[..., 1:].reshape(-1)
    losses, gradients = _losses(inputs, unembedding, targets, with_gradients=True)
    assert gradients is not None
    shape = token_ids[..., 1:].shape
    return losses.view(shape), gradients.view(*shape, -1)
