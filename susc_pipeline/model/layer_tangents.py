"""One layer and its tangents, and the last layer passed backward. Components and their directions are in tangents.py.

Above the keys and values of the last layer no position reads another, so one gradient of all losses serves every token.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import gpt_neox, token_loss
from susc_pipeline.model.gpt_neox import GPTNeoX, Layer

# Positions, of chains or of directions, that pass through a layer at once: on a CPU their activations stay in the cache.
ROWS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 17}


class Attention(NamedTuple):
    """Of shape (contexts heads positions ...), what the heads mix excepted; the query is divided by its size's root."""

    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor
    probabilities: Tensor
    mixed: Float[Tensor, "contexts positions heads size"]


class Normed(NamedTuple):
    """A layer norm's input, output, mean and inverse standard deviation."""

    read: Tensor
    normed: Tensor
    mean: Tensor
    inverse: Tensor


class Primal(NamedTuple):
    """What a layer computes; `middle` is the stream after attention, `end` after the MLP."""

    reads: Normed
    attention: Attention
    middle: Tensor
    mlp_reads: Normed
    hidden: Tensor
    end: Tensor


class Top(NamedTuple):
    """The last layer, the losses, and the gradient of each loss by activations at its own position."""

    losses: Tensor
    primal: Primal
    of_read: Tensor
    of_middle: Tensor
    of_end: Tensor
    of_mixed: Tensor
    of_scores: Tensor


def gelu_slope(hidden: Tensor) -> Tensor:
    """Derivative of the exact GELU."""
    return torch.ops.aten.gelu_backward(torch.ones_like(hidden), hidden)


def attend(triple: Float[Tensor, "contexts positions heads triple"], model: GPTNeoX) -> Attention:
    """Causal rotary attention of each head, with what its tangents need."""
    query, key, value = triple.transpose(-3, -2).chunk(3, dim=-1)
    query, key = gpt_neox.rotate(query * model.head_size**-0.5, model), gpt_neox.rotate(key, model)
    if triple.requires_grad:  # see top_layer
        key, value = key.detach(), value.detach()
    scores = query @ key.transpose(-1, -2)
    scores = scores + torch.full_like(scores[0, 0], -torch.inf).triu(1)
    probabilities = scores.softmax(-1)
    return Attention(query, key, value, scores, probabilities, (probabilities @ value).transpose(-3, -2))


def attend_tangents(
    triple: Float[Tensor, "tangents contexts positions heads triple"], primal: Attention, model: GPTNeoX
) -> Float[Tensor, "tangents contexts positions heads size"]:
    """DP V + P dV, where dP = P * (dS - rowsum(P * dS)) and dS = dQ K^T + Q dK^T; overwrites the argument."""
    triples = triple.unflatten(-1, (3, model.head_size))
    _turn(triples, model)
    query, key, value = triples.permute(4, 0, 1, 3, 2, 5)
    left = torch.cat([query * model.head_size**-0.5, primal.query.expand_as(query)], dim=-1)
    right = torch.cat([primal.key.expand_as(key), key], dim=-1)
    weighted = (left @ right.transpose(-1, -2)).mul_(primal.probabilities)
    mixed = (weighted @ primal.value).add_(primal.probabilities @ value).transpose(-3, -2)
    return torch.addcmul(mixed, weighted.sum(-1).transpose(-1, -2)[..., None], primal.mixed, value=-1)


def _turn(triples: Float[Tensor, "tangents contexts positions heads 3 size"], model: GPTNeoX) -> None:
    """Rotate queries and keys in place, as `gpt_neox.rotate`, which would copy what it does not rotate."""
    half = model.rotary_size // 2
    unit = triples.new_ones(triples.shape[2], model.head_size).index_fill_(
        1, torch.arange(half, 2 * half, device=triples.device), 0
    )
    turned = gpt_neox.rotate(unit, model)[:, None, None]
    cosine, sine = turned[..., :half], turned[..., half : 2 * half]
    first, second = triples[..., :2, :half], triples[..., :2, half : 2 * half]
    rotated = first * cosine - second * sine
    second.mul_(cosine).addcmul_(first, sine)
    first.copy_(rotated)


def normalize(x: Tensor, norm: tuple[Tensor, Tensor], model: GPTNeoX) -> Normed:
    """A layer norm with what its tangents need."""
    return Normed(x, *torch.native_layer_norm(x, (model.hidden_size,), *norm, model.norm_epsilon))


def _normed_tangents(tangents: Tensor, primal: Normed) -> Tensor:
    """(t - mean(t) - xhat mean(xhat t)) / std, without the norm's scale; symmetric, so the backward operator gives it."""
    mean, inverse = (part.expand(*tangents.shape[:-1], 1).contiguous() for part in (primal.mean, primal.inverse))
    read = primal.read.expand_as(tangents)
    keep = [True, False, False]
    back = torch.ops.aten.native_layer_norm_backward
    return back(tangents, read, [read.shape[-1]], mean, inverse, None, None, keep)[0]


def run_layer(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: GPTNeoX) -> Primal:
    """The layer at w*, with what its tangents need."""
    reads = normalize(x, layer.attention_norm, model)
    triple = functional.linear(reads.normed, layer.query_key_value, layer.query_key_value_bias)
    attention = attend(triple.unflatten(-1, (model.n_heads, -1)), model)
    middle = x + functional.linear(attention.mixed.flatten(-2), layer.dense, layer.dense_bias)
    mlp_reads = normalize(x if model.parallel_residual else middle, layer.mlp_norm, model)
    hidden = functional.linear(mlp_reads.normed, layer.up, layer.up_bias)
    end = middle + functional.linear(functional.gelu(hidden), layer.down, layer.down_bias)
    return Primal(reads, attention, middle, mlp_reads, hidden, end)


def through_layer(
    tangents: Float[Tensor, "tangents contexts positions hidden"], primal: Primal, layer: Layer, model: GPTNeoX
) -> Float[Tensor, "tangents contexts positions hidden"]:
    """Tangents of the stream after the layer."""
    weight, curve, lifted = layer.query_key_value * layer.attention_norm[0], gelu_slope(primal.hidden), []
    for part in _at_once(tangents):
        triple = functional.linear(_normed_tangents(part, primal.reads), weight).unflatten(-1, (model.n_heads, -1))
        mixed = attend_tangents(triple, primal.attention, model)
        middle = part + functional.linear(mixed.flatten(-2), layer.dense)
        read = part if model.parallel_residual else middle
        lifted.append(middle.add_(through_mlp(read, primal.mlp_reads, curve, layer)))
    return torch.cat(lifted)


def through_mlp(tangents: Tensor, primal: Normed, curve: Tensor, layer: Layer) -> Tensor:
    """What the tangents of the stream that an MLP reads become behind it."""
    moved = functional.linear(_normed_tangents(tangents, primal), layer.up * layer.mlp_norm[0])
    return functional.linear(moved.mul_(curve), layer.down)


def past_mlp(x: Tensor, tangents: Tensor, layer: Layer, model: GPTNeoX) -> tuple[Tensor, Tensor]:
    """The stream and its tangents past the MLP of a layer whose residual is sequential."""
    reads = normalize(x, layer.mlp_norm, model)
    curve = gelu_slope(functional.linear(reads.normed, layer.up, layer.up_bias))
    return x + gpt_neox.mlp(x, layer, model), tangents + through_mlp(tangents, reads, curve, layer)


def end(x: Tensor, token_ids: Tensor, model: GPTNeoX) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of each by the residual stream."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        normed = gpt_neox.normalize(leaf, model.final_norm, model)
        losses = token_loss.cross_entropy(normed, token_ids, model.unembedding)
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]


def top_layer(x: Float[Tensor, "contexts positions hidden"], token_ids: Tensor, model: GPTNeoX) -> Top:
    """The last layer; `attend` detaches its keys and values, so that no loss reaches another position."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        primal = run_layer(leaf, model.layers[-1], model)
        losses, of_end = end(primal.end, token_ids, model)
        wanted = leaf, primal.middle, primal.attention.mixed, primal.attention.scores
        of_read, of_middle, of_mixed, of_scores = torch.autograd.grad(primal.end, wanted, of_end)
    return Top(losses, primal, of_read, of_middle, of_end, of_mixed, of_scores)


def through_top(
    tangents: Float[Tensor, "tangents contexts positions hidden"], top: Top, model: GPTNeoX
) -> Float[Tensor, "tangents contexts predicted"]:
    """Slopes from the stream that the last layer reads; other positions matter through keys and values alone."""
    layer, size = model.layers[-1], (model.n_heads, 3, model.head_size, model.hidden_size)
    weight = (layer.query_key_value * layer.attention_norm[0]).view(size)[:, 1:].flatten(0, 2)
    of_mixed, slopes = top.of_mixed.transpose(-3, -2), []
    for part in _at_once(tangents):
        pair = functional.linear(_normed_tangents(part, top.primal.reads), weight).unflatten(-1, (model.n_heads, -1))
        key, value = pair.transpose(-3, -2).chunk(2, dim=-1)
        by_key = (top.of_scores @ gpt_neox.rotate(key, model)).mul_(top.primal.attention.query)
        by_value = (top.primal.attention.probabilities @ value).mul_(of_mixed)
        by_others = by_key.add_(by_value).sum((-3, -1), dtype=torch.float32)
        slopes.append(by_others[..., :-1] + dot(part, top.of_read))
    return torch.cat(slopes)


def _at_once(tangents: Tensor) -> tuple[Tensor, ...]:
    return tangents.split(max(1, ROWS_AT_ONCE[tangents.device.type] // max(1, tangents.shape[1:-1].numel())))


def dot(tangents: Tensor, gradients: Tensor) -> Float[Tensor, "tangents contexts predicted"]:
    """Slope of each predicted token: its gradient times each tangent, at its own position."""
    return (tangents * gradients).sum(-1, dtype=torch.float32)[..., :-1]
