"""One layer and its tangents, and the last layer passed backward. Components and their directions are in tangents.py.

Above the keys and values of the last layer no position reads another, so one gradient of all losses serves every token.
The queries of heads that share a key stand one below another, so that a group is one product of matrices.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import decoder, token_loss
from susc_pipeline.model.decoder import Decoder, Layer, Norm
from susc_pipeline.model.layer_primal import MLP, Attention, Bent, Normed, Primal, Top
from susc_pipeline.model.nonlinearity import NONLINEARITIES
from susc_pipeline.model.rotary import Rotary, cosines_and_sines, rotate

# Positions, of chains or of directions, that pass through a layer at once: on a CPU their activations stay in the cache.
ROWS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 17}


def attend(stacked: Float[Tensor, "contexts positions groups width"], layer: Layer, model: Decoder) -> Attention:
    """Causal attention of each head, with what its tangents need."""
    parts, kind = decoder.split(stacked, model), layer.kind
    query_reads = _normed_heads(parts.query, layer.query_norm, model)
    key_reads = _normed_heads(parts.key, layer.key_norm, model)
    query = _rows(query_reads.normed.view(parts.query.shape) * kind.scale, kind.rotary)
    key, value = _rows(key_reads.normed.view(parts.key.shape), kind.rotary), _rows(parts.value, Rotary())
    if stacked.requires_grad:  # see top_layer
        key, value = key.detach(), value.detach()
    scores = query @ key.transpose(-1, -2)
    capped = decoder.capped(scores, kind.cap)
    n_positions, n_queries = stacked.shape[1], parts.query.shape[-2]
    hidden = ~decoder.visible(n_positions, kind.window, stacked.device)
    mask = torch.zeros_like(scores[0, 0, :n_positions]).masked_fill_(hidden, -math.inf)
    probabilities = (capped + mask.repeat(n_queries, 1)).softmax(-1)
    weights = probabilities if kind.cap is None else probabilities * (1 - (capped / kind.cap) ** 2)
    mixed = _heads(probabilities @ value, n_queries)
    return Attention(query, key, value, query_reads, key_reads, scores, probabilities, weights, mixed)


def _normed_heads(heads: Tensor, norm: Norm | None, model: Decoder) -> Normed:
    return Normed(heads, heads) if norm is None else normalize(decoder.by_norm(heads, norm), norm, model)


def _rows(
    heads: Float[Tensor, "*batch positions groups heads size"], turned: Rotary
) -> Float[Tensor, "*batch groups rows size"]:
    """Heads of a group one below another, each turned by its positions."""
    by_head = heads.transpose(-4, -3).transpose(-3, -2)
    return (rotate(by_head, turned) if turned.frequencies else by_head).flatten(-3, -2)


def _heads(rows: Float[Tensor, "*batch groups rows size"], n_queries: int) -> Tensor:
    """The same back as (*batch positions heads size)."""
    return rows.unflatten(-2, (n_queries, -1)).flatten(-4, -3).transpose(-3, -2)


def attend_tangents(
    stacked: Float[Tensor, "tangents contexts positions groups width"], primal: Attention, layer: Layer, model: Decoder
) -> Float[Tensor, "tangents contexts positions heads size"]:
    """DP V + P dV, where dP = P * (dS - rowsum(P * dS)) and dS = dQ K^T + Q dK^T; overwrites the argument."""
    heads = stacked.unflatten(-1, (-1, model.head_size))
    n_queries = heads.shape[-2] - 2
    _through_norm(heads[..., :-2, :], primal.query_reads, layer.query_norm, model)
    _through_norm(heads[..., -2:-1, :], primal.key_reads, layer.key_norm, model)
    _turn(heads, layer.kind.rotary)
    query, key, value = (_rows(x, Rotary()) for x in heads.split([n_queries, 1, 1], dim=-2))
    left = torch.cat([query * layer.kind.scale, primal.query.expand_as(query)], dim=-1)
    right = torch.cat([primal.key.expand_as(key), key], dim=-1)
    weighted = (left @ right.transpose(-1, -2)).mul_(primal.weights)
    mixed = _heads((weighted @ primal.value).add_(primal.probabilities @ value), n_queries)
    return torch.addcmul(mixed, _heads(weighted.sum(-1, keepdim=True), n_queries), primal.mixed, value=-1)


def _through_norm(heads: Tensor, primal: Normed, norm: Norm | None, model: Decoder) -> None:
    """Tangents of queries or keys behind their norm, in place."""
    if norm is not None:
        moved = _normed_tangents(decoder.by_norm(heads, norm), primal) * decoder.gain(norm, model).to(heads.dtype)
        heads.copy_(moved.view(heads.shape))


def _turn(heads: Float[Tensor, "tangents contexts positions groups heads size"], turned: Rotary) -> None:
    """Rotate queries and keys in place, as `rotary.rotate`, which would copy what it does not rotate."""
    half = len(turned.frequencies)
    cosine, sine = (part[:, None, None] for part in cosines_and_sines(turned, heads.shape[2], heads))
    first, second = heads[..., :-1, :half], heads[..., :-1, half : 2 * half]
    rotated = first * cosine - second * sine
    second.mul_(cosine).addcmul_(first, sine)
    first.copy_(rotated)


def normalize(x: Tensor, norm: Norm | None, model: Decoder) -> Normed:
    """A norm with what its tangents need."""
    if norm is None:
        return Normed(x, x)
    epsilon = model.description.norm_epsilon
    if not model.description.root_mean_square:
        return Normed(x, *torch.native_layer_norm(x, x.shape[-1:], norm.scale, norm.shift, epsilon))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return Normed(x, (wide * inverse * decoder.gain(norm, model)).to(x.dtype), None, inverse)


def _normed_tangents(tangents: Tensor, primal: Normed) -> Tensor:
    """(t - mean(t) - xhat mean(xhat t)) / std, without the norm's scale; symmetric, so the backward operator gives it.

    The mean is zero where the norm subtracts none.
    """
    if primal.inverse is None:
        return tangents
    if primal.mean is None:
        scaled = primal.read * primal.inverse.to(tangents.dtype) ** 2
        along = (tangents * scaled).mean(-1, keepdim=True)
        return torch.addcmul(tangents, primal.read, along, value=-1).mul_(primal.inverse)
    mean, inverse = (part.expand(*tangents.shape[:-1], 1).contiguous() for part in (primal.mean, primal.inverse))
    read = primal.read.expand_as(tangents)
    keep = [True, False, False]
    back = torch.ops.aten.native_layer_norm_backward
    return back(tangents, read, [read.shape[-1]], mean, inverse, None, None, keep)[0]


def behind(tangents: Tensor, primal: Normed, norm: Norm | None, model: Decoder) -> Tensor:
    """Tangents of what a layer's heads or MLP give, behind the norm there, if there is one."""
    if norm is None:
        return tangents
    return _normed_tangents(tangents, primal).mul_(decoder.gain(norm, model))


def _folded(weight: Tensor, norm: Norm | None, model: Decoder) -> Tensor:
    """A matrix that reads the output of a norm, times the norm's scale."""
    return weight if norm is None else weight * decoder.gain(norm, model).to(weight.dtype)


def run_mlp(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> MLP:
    """The MLP, from the stream that it reads."""
    reads = normalize(x, layer.mlp_norm, model)
    hidden = functional.linear(reads.normed, layer.up, layer.up_bias)
    gate = None if layer.gate is None else functional.linear(reads.normed, layer.gate, layer.gate_bias)
    bent = bend(hidden, gate, model)
    given = functional.linear(bent.active, layer.down, layer.down_bias)
    return MLP(reads, bent, normalize(given, layer.mlp_post_norm, model))


def bend(hidden: Tensor, gate: Tensor | None, model: Decoder) -> Bent:
    """What an MLP's last matrix reads, from the outputs of those before it."""
    function = NONLINEARITIES[model.description.nonlinearity].apply
    if gate is None:
        return Bent(hidden, None, None, function(hidden))
    opened = function(gate)
    return Bent(hidden, gate, opened, opened * hidden)


def curves(bent: Bent, model: Decoder) -> dict[str, Tensor]:
    """Derivatives of what the last matrix reads by the output of each matrix before it, by the matrix's name."""
    slope = NONLINEARITIES[model.description.nonlinearity].slope
    if bent.gate is None or bent.opened is None:
        return {"up": slope(bent.hidden)}
    return {"up": bent.opened, "gate": slope(bent.gate) * bent.hidden}


def run_layer(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> Primal:
    """The layer at w*, with what its tangents need."""
    reads = normalize(x, layer.attention_norm, model)
    stacked = functional.linear(reads.normed, layer.query_key_value, layer.query_key_value_bias)
    attention = attend(stacked.unflatten(-1, (model.description.n_groups, -1)), layer, model)
    given = functional.linear(attention.mixed.flatten(-2), layer.dense, layer.dense_bias)
    attended = normalize(given, layer.attention_post_norm, model)
    middle = x + attended.normed
    mlp = run_mlp(x if model.parallel_residual else middle, layer, model)
    return Primal(reads, attention, attended, middle, mlp, middle + mlp.lifted.normed)


def through_layer(
    tangents: Float[Tensor, "tangents contexts positions hidden"], primal: Primal, layer: Layer, model: Decoder
) -> Float[Tensor, "tangents contexts positions hidden"]:
    """Tangents of the stream after the layer."""
    weight, bends, lifted = (
        _folded(layer.query_key_value, layer.attention_norm, model),
        curves(primal.mlp.bent, model),
        [],
    )
    for part in _at_once(tangents):
        stacked = functional.linear(_normed_tangents(part, primal.reads), weight)
        stacked = stacked.unflatten(-1, (model.description.n_groups, -1))
        mixed = attend_tangents(stacked, primal.attention, layer, model)
        given = functional.linear(mixed.flatten(-2), layer.dense)
        middle = part + behind(given, primal.attended, layer.attention_post_norm, model)
        read = part if model.parallel_residual else middle
        lifted.append(middle.add_(through_mlp(read, primal.mlp, bends, layer, model)))
    return torch.cat(lifted)


def through_mlp(tangents: Tensor, mlp: MLP, bends: dict[str, Tensor], layer: Layer, model: Decoder) -> Tensor:
    """What the tangents of the stream that an MLP reads become where it adds to the stream; `bends` are its curves."""
    read, moved = _normed_tangents(tangents, mlp.reads), None
    for name, curve in bends.items():
        of_matrix = functional.linear(read, _folded(getattr(layer, name), layer.mlp_norm, model)).mul_(curve)
        moved = of_matrix if moved is None else moved.add_(of_matrix)
    return behind(functional.linear(moved, layer.down), mlp.lifted, layer.mlp_post_norm, model)


def past_mlp(x: Tensor, tangents: Tensor, layer: Layer, model: Decoder) -> tuple[Tensor, Tensor]:
    """The stream and its tangents past the MLP of a layer whose residual is sequential."""
    mlp = run_mlp(x, layer, model)
    return x + mlp.lifted.normed, tangents + through_mlp(tangents, mlp, curves(mlp.bent, model), layer, model)


def end(x: Tensor, token_ids: Tensor, model: Decoder, moved: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of each by the residual stream; under an unembedding that differs by `moved`."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        normed, matrix = decoder.normalize(leaf, model.final_norm, model), model.unembedding
        normed, matrix = (normed, matrix) if moved is None else token_loss.moved_end(normed, matrix, moved)
        losses = token_loss.cross_entropy(normed, token_ids, matrix, cap=model.description.final_cap)
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]


def top_layer(
    x: Float[Tensor, "contexts positions hidden"], token_ids: Tensor, model: Decoder, moved: Tensor | None = None
) -> Top:
    """The last layer; `attend` detaches its keys and values, so that no loss reaches another position."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        primal = run_layer(leaf, model.layers[-1], model)
        losses, of_end = end(primal.end, token_ids, model, moved)
        wanted = leaf, primal.attended.read, primal.mlp.lifted.read, primal.attention.mixed, primal.attention.scores
        found = torch.autograd.grad(primal.end, wanted, of_end)
    return Top(losses, primal, *found)


def through_top(
    tangents: Float[Tensor, "tangents contexts positions hidden"], top: Top, model: Decoder
) -> Float[Tensor, "tangents contexts predicted"]:
    """Slopes from the stream that the last layer reads; other positions matter through keys and values alone."""
    layer, shape, attention = model.layers[-1], model.description, top.primal.attention
    weight = _folded(layer.query_key_value, layer.attention_norm, model)
    weight = weight.unflatten(0, (shape.n_groups, -1, shape.head_size))[:, -2:].flatten(0, 2)
    of_mixed, slopes = top.of_mixed.unflatten(-2, (shape.n_groups, -1)), []
    of_mixed = _rows(of_mixed, Rotary())
    for part in _at_once(tangents):
        pair = functional.linear(_normed_tangents(part, top.primal.reads), weight)
        key, value = pair.unflatten(-1, (shape.n_groups, 2, shape.head_size)).split(1, dim=-2)
        _through_norm(key, attention.key_reads, layer.key_norm, model)
        by_key = (top.of_scores @ _rows(key, layer.kind.rotary)).mul_(attention.query)
        by_value = (attention.probabilities @ _rows(value, Rotary())).mul_(of_mixed)
        by_others = by_key.add_(by_value).unflatten(-2, (shape.n_queries, -1)).sum((-4, -3, -1), dtype=torch.float32)
        slopes.append(by_others[..., :-1] + dot(part, top.of_read))
    return torch.cat(slopes)


def _at_once(tangents: Tensor) -> tuple[Tensor, ...]:
    return tangents.split(max(1, ROWS_AT_ONCE[tangents.device.type] // max(1, tangents.shape[1:-1].numel())))


def dot(tangents: Tensor, gradients: Tensor) -> Float[Tensor, "tangents contexts predicted"]:
    """Slope of each predicted token: its gradient times each tangent, at its own position."""
    return (tangents * gradients).sum(-1, dtype=torch.float32)[..., :-1]
