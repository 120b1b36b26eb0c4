"""From the normed last residual to the loss of each token, and back, without ever holding all logits.

What comes before, the transformer, is in decoder.py. A soft cap c (Gemma 2) makes c * tanh(logit / c) of each logit.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows and entries of the vocabulary whose logits are held at once. On a CPU a block stays in the cache (512 x 512 was the
# fastest of a dozen shapes at 2,048 and at 50,304 entries); a GPU wants large products.
LOGITS_AT_ONCE = {"cpu": (1 << 9, 1 << 9), "cuda": (1 << 12, 1 << 16)}
# Softmax of x W^T, times W: a mean over the vocabulary is attention with the unembedding as keys and as values, and this
# operator of PyTorch holds it in the cache, block by block with a running maximum (Dao et al. 2022). It is private, for the
# public one does not give the normalizer; the version is pinned, and test_token_loss.py compares it with plain logits.
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def cross_entropy(
    normed: Float[Tensor, "*batch positions hidden"],
    token_ids: Int[Tensor, "*batch positions"],
    unembedding: Float[Tensor, "vocabulary hidden"],
    labels: torch.Generator | None = None,
    *,
    cap: float | None = None,
) -> Float[Tensor, "*batch predicted"]:
    """Loss of each token but the first, in nats, from the normed last residual; never all logits at once.

    With a generator of labels, the loss is that of tokens which the model itself predicts, drawn from its softmax.
    """
    inputs = normed[..., :-1, :].reshape(-1, normed.shape[-1])
    targets = (
        token_ids[..., 1:].reshape(-1)
        if labels is None
        else sampled(inputs.detach(), unembedding.detach(), labels, cap=cap)
    )
    return _CrossEntropy.apply(inputs, unembedding, targets, cap).view(token_ids[..., 1:].shape)


def losses_and_gradients(
    normed: Float[Tensor, "*batch positions hidden"],
    token_ids: Int[Tensor, "*batch positions"],
    unembedding: Float[Tensor, "vocabulary hidden"],
    *,
    cap: float | None = None,
) -> tuple[Float[Tensor, "*batch predicted"], Float[Tensor, "*batch predicted hidden"]]:
    """Each token's loss in nats, and its gradient by the normed last residual it is predicted from; logits are taken once.

    The gradient is the mean unembedding of what the model expected minus that of the token: a vector that says how the
    model erred, where the loss is a number that says how much.
    """
    inputs = normed[..., :-1, :].reshape(-1, normed.shape[-1])
    targets = token_ids[..., 1:].reshape(-1)
    normalizers, expected = _expected(inputs, unembedding, cap)
    shape, own = token_ids[..., 1:].shape, _of_targets(inputs, unembedding, targets, cap)
    gradients = expected - _of_own(own, unembedding[targets], cap)
    return (normalizers - own).view(shape), gradients.view(*shape, -1)


def losses_and_slopes(
    normed: Float[Tensor, "*batch positions inputs"],
    token_ids: Int[Tensor, "*batch positions"],
    unembedding: Float[Tensor, "vocabulary inputs"],
    directions: Float[Tensor, "directions vocabulary hidden"],
    *,
    cap: float | None = None,
) -> tuple[Float[Tensor, "*batch predicted"], Float[Tensor, "directions *batch predicted"]]:
    """Each token's loss in nats, and its derivatives as the unembedding moves in each direction.

    The slope is x . (sum_v p_v dW_v - dW_y), where the inputs x, or their first entries, are as wide as a direction.
    """
    inputs = normed[..., :-1, :].reshape(-1, normed.shape[-1])
    read = inputs[:, : directions.shape[-1]]
    targets = token_ids[..., 1:].reshape(-1)
    n_entries = LOGITS_AT_ONCE[inputs.device.type][1]
    n_blocks = -(-len(unembedding) // n_entries)
    normalizers = torch.empty(len(inputs), n_blocks, device=inputs.device)
    means = torch.empty(len(directions), len(inputs), n_blocks, device=inputs.device)
    for rows, entries, logits in _blocks(inputs, unembedding, cap):
        block = entries.start // n_entries
        normalizers[rows, block] = torch.logsumexp(logits, dim=1)
        probabilities = _weights(logits, normalizers[rows, block], cap)
        for direction, mean in zip(directions, means):
            moved = read[rows] @ direction[entries].T
            mean[rows, block] = moved.mul_(probabilities).sum(dim=1, dtype=torch.float32)
    expected = (means * normalizers.softmax(dim=1)).sum(dim=2)
    own = _of_targets(inputs, unembedding, targets, cap)
    moved = ((mean, _of_targets(read, direction, targets)) for mean, direction in zip(expected, directions))
    slopes = torch.stack([mean - change * _cap_slope(own, cap) for mean, change in moved])
    losses = torch.logsumexp(normalizers, dim=1) - own
    shape = token_ids[..., 1:].shape
    return losses.view(shape), slopes.view(-1, *shape)


@torch.no_grad()
def sampled(
    inputs: Float[Tensor, "rows hidden"],
    unembedding: Float[Tensor, "vocabulary hidden"],
    generator: torch.Generator,
    *,
    cap: float | None = None,
) -> Int[Tensor, " rows"]:
    """A token of each row, drawn from the softmax of its logits by one uniform number: a block of the vocabulary, then in it."""
    n_rows, n_entries = LOGITS_AT_ONCE[inputs.device.type]
    uniform = torch.rand(len(inputs), generator=generator, device=inputs.device, dtype=torch.float64)
    block, left = _drawn(_block_normalizers(inputs, unembedding, cap), uniform)
    found = torch.empty_like(block)
    for number, start in enumerate(range(0, len(unembedding), n_entries)):
        for rows in (block == number).nonzero().flatten().split(n_rows):
            logits = _capped((inputs[rows] @ unembedding[start : start + n_entries].T).float(), cap)
            found[rows] = start + _drawn(logits, left[rows])[0]
    return found


def _drawn(
    logits: Float[Tensor, "rows entries"], uniform: Float[Tensor, " rows"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """An entry of each row by inverting the distribution function, and where in the entry the uniform number lies."""
    reached = logits.double().softmax(dim=1).cumsum(dim=1)
    wanted = uniform[:, None] * reached[:, -1:]
    entry = torch.searchsorted(reached, wanted, right=True).clamp_(max=logits.shape[1] - 1)
    above = reached.gather(1, entry)
    below = torch.where(entry > 0, reached.gather(1, (entry - 1).clamp_(min=0)), torch.zeros_like(above))
    return entry[:, 0], ((wanted - below) / (above - below).clamp_(min=torch.finfo(torch.float64).tiny))[:, 0].clamp_(
        0, 1
    )


class _CrossEntropy(torch.autograd.Function):
    """Loss, and the gradient of the inputs while the logits are in the cache.

    Nothing of the size of the vocabulary is kept for the backward pass (the idea of Liger's fused linear cross-entropy,
    Hsu et al. 2024); only where the unembedding itself moves are the logits computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, unembedding: Tensor, targets: Tensor, cap: float | None) -> Tensor:
        expected = None
        if ctx.needs_input_grad[0]:
            normalizers, expected = _expected(inputs, unembedding, cap)
        else:
            normalizers = _normalizers(inputs, unembedding, cap)
        own, ctx.cap = _of_targets(inputs, unembedding, targets, cap), cap
        ctx.save_for_backward(inputs, unembedding, targets, normalizers, expected, own)
        return normalizers - own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        inputs, unembedding, targets, normalizers, expected, own = ctx.saved_tensors
        of_inputs = of_unembedding = None
        if ctx.needs_input_grad[0]:
            of_inputs = (expected - _of_own(own, unembedding[targets], ctx.cap)) * outer[:, None].to(inputs.dtype)
        if ctx.needs_input_grad[1]:
            weighted = inputs * outer[:, None].to(inputs.dtype)
            # The gradient of a lookup adds rows in their order on any number of threads; index_put_ adds them as they come.
            n_entries = len(unembedding)
            of_own = _of_own(own, -weighted, ctx.cap)
            of_unembedding = torch.ops.aten.embedding_dense_backward(of_own, targets, n_entries, -1, False)
            for rows, entries, logits in _blocks(inputs, unembedding, ctx.cap):
                probabilities = _weights(logits, normalizers[rows], ctx.cap).to(inputs.dtype)
                of_unembedding[entries].addmm_(probabilities.T, weighted[rows])
        return of_inputs, of_unembedding, None, None


def moved_end(
    normed: Float[Tensor, "*batch hidden"],
    unembedding: Float[Tensor, "vocabulary hidden"],
    delta: Float[Tensor, "vocabulary hidden"],
) -> tuple[Float[Tensor, "*batch inputs"], Float[Tensor, "vocabulary inputs"]]:
    """What functions of this module read where the unembedding is moved by delta.

    In bfloat16 inputs and matrices are concatenated: the two products are added before the softmax, each in its own exponent.
    """
    if unembedding.dtype != torch.bfloat16:
        return normed, unembedding + delta
    return torch.cat([normed, normed], dim=-1), torch.cat([unembedding, delta.to(unembedding.dtype)], dim=-1)


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else logits.div(cap).tanh_().mul_(cap)


def _cap_slope(logits: Tensor, cap: float | None) -> Tensor | float:
    """Derivative of capped logits by those before the cap, from the capped ones."""
    return 1.0 if cap is None else 1 - (logits / cap) ** 2


def _of_own(own: Float[Tensor, " rows"], values: Float[Tensor, "rows width"], cap: float | None) -> Tensor:
    """Values of each row times the derivative of its own token's logit by that before the cap."""
    return values if cap is None else values * torch.as_tensor(_cap_slope(own, cap)).to(values.dtype)[:, None]


def _weights(logits: Tensor, normalizers: Float[Tensor, " rows"], cap: float | None) -> Tensor:
    """Probabilities times the derivative by the logits before the cap; overwrites the logits."""
    slope = _cap_slope(logits, cap)
    probabilities = logits.sub_(normalizers[:, None]).exp_()
    return probabilities if cap is None else probabilities.mul_(slope)


def _of_targets(
    inputs: Tensor, unembedding: Tensor, targets: Tensor, cap: float | None = None
) -> Float[Tensor, " rows"]:
    """Logit of each row's own token."""
    return _capped((inputs * unembedding[targets]).sum(dim=1, dtype=torch.float32), cap)


def _normalizers(
    inputs: Float[Tensor, "rows hidden"], unembedding: Float[Tensor, "vocabulary hidden"], cap: float | None
) -> Float[Tensor, " rows"]:
    """Logarithm of the sum of all exponentiated logits, of each row."""
    return torch.logsumexp(_block_normalizers(inputs, unembedding, cap), dim=1)


def _block_normalizers(
    inputs: Float[Tensor, "rows hidden"], unembedding: Float[Tensor, "vocabulary hidden"], cap: float | None
) -> Float[Tensor, "rows blocks"]:
    """The same of each block of the vocabulary."""
    n_entries = LOGITS_AT_ONCE[inputs.device.type][1]
    parts = torch.empty(len(inputs), -(-len(unembedding) // n_entries), device=inputs.device)
    for rows, entries, logits in _blocks(inputs, unembedding, cap):
        parts[rows, entries.start // n_entries] = torch.logsumexp(logits, dim=1)
    return parts


def _expected(
    inputs: Float[Tensor, "rows hidden"], unembedding: Float[Tensor, "vocabulary hidden"], cap: float | None
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows hidden"]]:
    """Normalizers, and the mean of the unembedding under each row's softmax; entries count by the slope of their cap."""
    if inputs.device.type == "cpu" and inputs.dtype == torch.float32 and cap is None:
        query, key = inputs[None, None], unembedding[None, None]
        expected, normalizers = _attend(query, key, key, 0.0, False, scale=1.0)
        return normalizers.flatten(), expected[0, 0]
    normalizers = torch.full((len(inputs),), -torch.inf, device=inputs.device)
    expected = torch.zeros(inputs.shape, device=inputs.device)
    for rows, entries, logits in _blocks(inputs, unembedding, cap):
        before = normalizers[rows].clone()
        normalizers[rows] = torch.logaddexp(before, torch.logsumexp(logits, dim=1))
        probabilities = _weights(logits, normalizers[rows], cap).to(inputs.dtype)
        kept = (before - normalizers[rows]).exp_()[:, None]
        expected[rows] = expected[rows] * kept + probabilities @ unembedding[entries]
    return normalizers, expected.to(inputs.dtype)


def _blocks(inputs: Tensor, unembedding: Tensor, cap: float | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, entries of the vocabulary and their logits, in one buffer that the next block overwrites."""
    n_rows, n_entries = LOGITS_AT_ONCE[inputs.device.type]
    space = torch.empty(
        min(n_rows, len(inputs)) * min(n_entries, len(unembedding)), dtype=inputs.dtype, device=inputs.device
    )
    for first in range(0, len(inputs), n_rows):
        rows = slice(first, min(first + n_rows, len(inputs)))
        for start in range(0, len(unembedding), n_entries):
            entries = slice(start, min(start + n_entries, len(unembedding)))
            shape = rows.stop - rows.start, entries.stop - entries.start
            logits = space[: shape[0] * shape[1]].view(shape)
            torch.mm(inputs[rows], unembedding[entries].T, out=logits)
            yield rows, entries, _capped(logits.float(), cap)
