"""Any decoder as plain tensors and functions: the losses and the residual stream, layer by layer.

The forward pass is our own, so that perturbation.py can resume it above a component; it equals the one of transformers to
float rounding. The switches of its blocks are in description.py, the way from the last residual to losses in token_loss.py,
the way from a checkpoint's names to weights in families/, reading files in checkpoint.py.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import token_loss
from susc_pipeline.model.description import AttentionKind, Description
from susc_pipeline.model.nonlinearity import NONLINEARITIES
from susc_pipeline.model.rotary import rotate


class Norm(NamedTuple):
    """Weights of a norm; a root-mean-square norm has no shift."""

    scale: Tensor
    shift: Tensor | None = None


class Layer(NamedTuple):
    """Weights of one layer; what the family has not is None.

    The rows of `query_key_value` stand group by group: the queries of the group's heads, its key, its value.
    """

    attention_norm: Norm | None
    mlp_norm: Norm | None
    query_key_value: Tensor
    query_key_value_bias: Tensor | None
    dense: Tensor
    dense_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    gate: Tensor | None
    gate_bias: Tensor | None
    query_norm: Norm | None
    key_norm: Norm | None
    attention_post_norm: Norm | None
    mlp_post_norm: Norm | None
    kind: AttentionKind


NORMS = tuple(field for field in Layer._fields if field.endswith("norm"))
MATRICES = tuple(field for field in Layer._fields if field not in NORMS and field != "kind")


@dataclass(frozen=True)
class Decoder:
    """Weights w* of a decoder, none of which asks for a gradient, and their description."""

    description: Description
    embedding: Tensor
    layers: tuple[Layer, ...]
    final_norm: Norm
    unembedding: Tensor
    """The embedding itself where both ends are tied."""
    positions: Tensor | None = None
    """Learned positions."""

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.embedding.shape[1]

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding."""
        return self.embedding.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.device

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return self.description.n_heads

    @property
    def head_size(self) -> int:
        """Width of a head's query, key and value."""
        return self.description.head_size

    @property
    def max_positions(self) -> int:
        """Tokens of the longest context that the model reads."""
        return self.description.max_positions

    @property
    def parallel_residual(self) -> bool:
        """Whether attention and MLP read the same stream."""
        return self.description.parallel_residual

    @property
    def embedding_scale(self) -> float:
        """What the embedding is multiplied with, rounded to the type of the weights."""
        return float(torch.tensor(self.description.embedding_scale, dtype=self.embedding.dtype))


def normalize(x: Float[Tensor, "*batch width"], norm: Norm | None, model: Decoder) -> Float[Tensor, "*batch width"]:
    """The norm over the last axis; without one, x."""
    if norm is None:
        return x
    epsilon = model.description.norm_epsilon
    if not model.description.root_mean_square:
        return functional.layer_norm(x, x.shape[-1:], norm.scale, norm.shift, epsilon)
    wide = torch.promote_types(x.dtype, torch.float32)
    return functional.rms_norm(x.to(wide), x.shape[-1:], gain(norm, model).to(wide), epsilon).to(x.dtype)


def gain(norm: Norm, model: Decoder) -> Float[Tensor, " width"]:
    """What a norm multiplies with: its scale and the family's offset, in float32 where that is more."""
    if not model.description.norm_offset:
        return norm.scale
    return norm.scale.to(torch.promote_types(norm.scale.dtype, torch.float32)) + model.description.norm_offset


class Split(NamedTuple):
    """Queries, keys and values of groups, of shape (*batch positions groups heads-of-the-group size)."""

    query: Tensor
    key: Tensor
    value: Tensor


def split(stacked: Float[Tensor, "*batch positions groups width"], model: Decoder) -> Split:
    """The parts of a stacked projection, before norms and rotary positions."""
    heads = stacked.unflatten(-1, (-1, model.head_size))
    return Split(*heads.split([heads.shape[-2] - 2, 1, 1], dim=-2))


def by_norm(heads: Float[Tensor, "*batch groups heads size"], norm: Norm) -> Float[Tensor, "*batch parts width"]:
    """Heads regrouped so that the last axis is as wide as their norm: one head, or all of the layer."""
    return heads.flatten(-3).unflatten(-1, (-1, len(norm.scale)))


def normalize_heads(heads: Float[Tensor, "*batch groups heads size"], norm: Norm | None, model: Decoder) -> Tensor:
    """Queries or keys after their norm, in the same shape."""
    return heads if norm is None else normalize(by_norm(heads, norm), norm, model).view(heads.shape)


def attend(
    stacked: Float[Tensor, "*batch positions groups width"], layer: Layer, model: Decoder
) -> Float[Tensor, "*batch positions heads size"]:
    """Causal attention of each head; the last axis holds a group's queries, its key and its value, one after another."""
    kind, parts = layer.kind, split(stacked, model)
    query = normalize_heads(parts.query, layer.query_norm, model).flatten(-3, -2).transpose(-3, -2)
    key = normalize_heads(parts.key, layer.key_norm, model)
    key, value = (x.expand_as(parts.query).flatten(-3, -2).transpose(-3, -2) for x in (key, parts.value))
    attended = _mix(rotate(query, kind.rotary), rotate(key, kind.rotary), value, kind)
    return attended.transpose(-3, -2)


def _mix(
    query: Tensor, key: Tensor, value: Tensor, kind: AttentionKind
) -> Float[Tensor, "*batch heads positions size"]:
    n_positions = query.shape[-2]
    if kind.cap is None:
        seen = visible(n_positions, kind.window, query.device) if (kind.window or n_positions) < n_positions else None
        how = {"attn_mask": seen, "is_causal": seen is None, "scale": kind.scale}
        return functional.scaled_dot_product_attention(query, key, value, **how)
    scores = capped(query @ key.transpose(-1, -2) * kind.scale, kind.cap)
    hidden = ~visible(n_positions, kind.window, query.device)
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ value


def capped(scores: Tensor, cap: float | None) -> Tensor:
    """Soft cap: cap * tanh(scores / cap)."""
    return scores if cap is None else (scores / cap).tanh() * cap


def visible(n_positions: int, window: int | None, device: torch.device) -> Tensor:
    """Whether a position (row) sees another (column): itself and those before it, as far as the window goes."""
    seen = torch.ones(n_positions, n_positions, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def heads_output(normed: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> Tensor:
    """What a layer's heads give from what they read, before the norm behind them."""
    stacked = functional.linear(normed, layer.query_key_value, layer.query_key_value_bias)
    attended = attend(stacked.unflatten(-1, (model.description.n_groups, -1)), layer, model)
    return functional.linear(attended.flatten(-2), layer.dense, layer.dense_bias)


def mlp_output(normed: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> Tensor:
    """What a layer's MLP gives from what it reads, before the norm behind it."""
    function = NONLINEARITIES[model.description.nonlinearity].apply
    hidden = functional.linear(normed, layer.up, layer.up_bias)
    if layer.gate is None:
        return functional.linear(function(hidden), layer.down, layer.down_bias)
    gate = function(functional.linear(normed, layer.gate, layer.gate_bias))
    return functional.linear(gate * hidden, layer.down, layer.down_bias)


def attention(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> Tensor:
    """What a layer's heads add to the residual stream, from the stream that the layer reads."""
    output = heads_output(normalize(x, layer.attention_norm, model), layer, model)
    return normalize(output, layer.attention_post_norm, model)


def mlp(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> Tensor:
    """What a layer's MLP adds to the residual stream, from the stream that the MLP reads."""
    output = mlp_output(normalize(x, layer.mlp_norm, model), layer, model)
    return normalize(output, layer.mlp_post_norm, model)


def run_layer(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: Decoder) -> Tensor:
    """The residual stream after a layer."""
    middle = x + attention(x, layer, model)
    return middle + mlp(x if model.parallel_residual else middle, layer, model)


def embed(model: Decoder, token_ids: Int[Tensor, "contexts positions"]) -> Float[Tensor, "contexts positions hidden"]:
    """The residual stream before the first layer."""
    x = functional.embedding(token_ids, model.embedding) * model.embedding_scale
    return x if model.positions is None else x + model.positions[: token_ids.shape[1]]


@torch.no_grad()
def depths(
    model: Decoder, token_ids: Int[Tensor, "contexts positions"]
) -> Iterator[Float[Tensor, "contexts positions hidden"]]:
    """The residual stream before the first layer and after each layer, at the trained weights, one depth at a time."""
    check_tokens(model, token_ids)
    x = embed(model, token_ids.to(model.device))
    yield x
    for layer in model.layers:
        x = run_layer(x, layer, model)
        yield x


def residual_stream(
    model: Decoder, token_ids: Int[Tensor, "contexts positions"]
) -> Float[Tensor, "depths contexts positions hidden"]:
    """The residual stream at all depths together: a layer's worth of memory for each."""
    return torch.stack(list(depths(model, token_ids)))


def differentiable_losses(
    model: Decoder, token_ids: Int[Tensor, "contexts positions"], labels: torch.Generator | None = None
) -> Float[Tensor, "contexts predicted"]:
    """Loss of each token but the first, in nats, through which gradients reach every weight; see `cross_entropy` for labels."""
    x = embed(model, token_ids)
    for layer in model.layers:
        x = run_layer(x, layer, model)
    normed, cap = normalize(x, model.final_norm, model), model.description.final_cap
    return token_loss.cross_entropy(normed, token_ids, model.unembedding, labels, cap=cap)


@torch.no_grad()
def token_losses(
    model: Decoder, token_ids: Int[Tensor, "contexts positions"], *, batch_size: int = 16
) -> Float[Tensor, "contexts predicted"]:
    """Loss of each token but the first at the trained weights, in nats."""
    check_tokens(model, token_ids)
    return torch.cat([differentiable_losses(model, batch.to(model.device)) for batch in token_ids.split(batch_size)])


def check_tokens(model: Decoder, token_ids: Int[Tensor, "contexts positions"]) -> None:
    """Refuse contexts that the model cannot read."""
    if token_ids.shape[1] > model.max_positions:
        raise ValueError(
            f"contexts have {token_ids.shape[1]} tokens, but the model reads at most {model.max_positions}; "
            f"lower tokens.context_length"
        )
    if token_ids.numel() and int(token_ids.max()) >= model.vocabulary_size:
        raise ValueError(
            f"token id {int(token_ids.max())} is outside the model's vocabulary of {model.vocabulary_size}; "
            f"use the tokenizer that belongs to the model"
        )
