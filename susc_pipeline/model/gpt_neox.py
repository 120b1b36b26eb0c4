"""GPT-NeoX as plain tensors and functions: losses and the residual stream, layer by layer.

The forward pass is our own, so that perturbation.py can resume it above a component; it equals the one of
transformers to float rounding. The way from the last residual to losses is in token_loss.py, reading weights in
checkpoint.py.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from susc_pipeline.model import token_loss


class Layer(NamedTuple):
    """Weights of one layer."""

    attention_norm: tuple[Tensor, Tensor]
    mlp_norm: tuple[Tensor, Tensor]
    query_key_value: Tensor
    query_key_value_bias: Tensor | None
    dense: Tensor
    dense_bias: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True)
class GPTNeoX:
    """Weights w* of a GPT-NeoX, none of which asks for a gradient."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    final_norm: tuple[Tensor, Tensor]
    unembedding: Tensor
    n_heads: int
    head_size: int
    rotary_size: int
    rotary_base: float
    norm_epsilon: float
    parallel_residual: bool
    max_positions: int

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

    @staticmethod
    def from_module(module: PreTrainedModel) -> "GPTNeoX":
        """The same model as plain tensors, which it shares with the module.

        Raises:
            ValueError: not a GPT-NeoX, or one with a feature that this code does not compute.
        """
        if not isinstance(module, GPTNeoXForCausalLM):
            raise ValueError(
                f"the model must be a GPTNeoXForCausalLM, got {type(module).__name__}; choose another model"
            )
        config = module.config
        rope: dict[str, Any] = dict(config.rope_parameters or {})
        if config.hidden_act != "gelu" or rope.get("rope_type", "default") != "default":
            raise ValueError(
                f"only exact GELU and unscaled rotary positions are computed here, got hidden_act "
                f"{config.hidden_act!r} and rope_type {rope.get('rope_type')!r}; choose another model"
            )
        if module.dtype == torch.float16:
            raise ValueError(
                "weights must be float32 or bfloat16, got float16, which ends at 65504; load them as float32"
            )
        named = module.state_dict() | {"embed_out.weight": module.get_output_embeddings().weight.detach()}
        return GPTNeoX.from_weights(named, config)

    @staticmethod
    def from_weights(named: Mapping[str, Tensor], config: GPTNeoXConfig) -> "GPTNeoX":
        """The model of weights under the names that they have in a checkpoint's files, which it shares."""
        head_size = config.hidden_size // config.num_attention_heads
        rope: dict[str, Any] = dict(config.rope_parameters or {})
        return GPTNeoX(
            embedding=named["gpt_neox.embed_in.weight"],
            layers=tuple(_layer(named, f"gpt_neox.layers.{number}") for number in range(config.num_hidden_layers)),
            final_norm=(named["gpt_neox.final_layer_norm.weight"], named["gpt_neox.final_layer_norm.bias"]),
            unembedding=named["embed_out.weight"],
            n_heads=config.num_attention_heads,
            head_size=head_size,
            rotary_size=int(head_size * rope.get("partial_rotary_factor", 1.0)),
            rotary_base=float(rope["rope_theta"]),
            norm_epsilon=config.layer_norm_eps,
            parallel_residual=config.use_parallel_residual,
            max_positions=config.max_position_embeddings,
        )


def named_weights(model: GPTNeoX) -> dict[str, Tensor]:
    """Every weight of the model under a name of its own, in a fixed order."""
    named = {"embedding": model.embedding, "unembedding": model.unembedding}
    norms = [("final_norm", model.final_norm)]
    for number, layer in enumerate(model.layers):
        for field, value in zip(Layer._fields, layer, strict=True):
            if isinstance(value, tuple):
                norms.append((f"{number}.{field}", value))
            elif value is not None:
                named[f"{number}.{field}"] = value
    return named | {f"{name}.{part}": value for name, pair in norms for part, value in zip(("scale", "shift"), pair)}


def with_weights(model: GPTNeoX, named: dict[str, Tensor]) -> GPTNeoX:
    """The same model with other weights, under the names that `named_weights` gives."""

    def pair(name: str) -> tuple[Tensor, Tensor]:
        return named[f"{name}.scale"], named[f"{name}.shift"]

    layers = tuple(
        Layer(*(pair(f"{n}.{f}") if f.endswith("norm") else named.get(f"{n}.{f}") for f in Layer._fields))
        for n in range(model.n_layers)
    )
    ends = {name: named[name] for name in ("embedding", "unembedding")}
    return dataclasses.replace(model, layers=layers, final_norm=pair("final_norm"), **ends)


def to(model: GPTNeoX, device: torch.device | str) -> GPTNeoX:
    """The same model on a device."""
    return with_weights(model, {name: weight.to(device) for name, weight in named_weights(model).items()})


def _layer(named: Mapping[str, Tensor], place: str) -> Layer:
    def pair(name: str) -> tuple[Tensor, Tensor]:
        return named[f"{place}.{name}.weight"], named[f"{place}.{name}.bias"]

    def linear(name: str) -> tuple[Tensor, Tensor | None]:
        return named[f"{place}.{name}.weight"], named.get(f"{place}.{name}.bias")

    return Layer(
        pair("input_layernorm"),
        pair("post_attention_layernorm"),
        *linear("attention.query_key_value"),
        *linear("attention.dense"),
        *linear("mlp.dense_h_to_4h"),
        *linear("mlp.dense_4h_to_h"),
    )


def normalize(x: Tensor, norm: tuple[Tensor, Tensor], model: GPTNeoX) -> Tensor:
    """Layer norm over the last axis."""
    return functional.layer_norm(x, (model.hidden_size,), *norm, model.norm_epsilon)


def attend(
    query_key_value: Float[Tensor, "*batch positions heads triple"], model: GPTNeoX
) -> Float[Tensor, "*batch positions heads size"]:
    """Causal rotary attention of each head; the last axis holds query, key and value, one after another."""
    query, key, value = query_key_value.transpose(-3, -2).chunk(3, dim=-1)
    attended = functional.scaled_dot_product_attention(rotate(query, model), rotate(key, model), value, is_causal=True)
    return attended.transpose(-3, -2)


def rotate(x: Float[Tensor, "*batch positions size"], model: GPTNeoX) -> Float[Tensor, "*batch positions size"]:
    """Rotary positions on the first `rotary_size` entries of a head (Su et al. 2021; halves, not pairs, as NeoX)."""
    size = model.rotary_size
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=x.device) / size
    positions = torch.arange(x.shape[-2], dtype=torch.float32, device=x.device)
    angles = positions[:, None] * (1.0 / model.rotary_base**exponents)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second, rest = x.split([size // 2, size // 2, x.shape[-1] - size], dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)


def attention(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: GPTNeoX) -> Tensor:
    """What a layer's heads add to the residual stream, from the stream that the layer reads."""
    normed = normalize(x, layer.attention_norm, model)
    stacked = functional.linear(normed, layer.query_key_value, layer.query_key_value_bias)
    attended = attend(stacked.unflatten(-1, (model.n_heads, 3 * model.head_size)), model)
    return functional.linear(attended.flatten(-2), layer.dense, layer.dense_bias)


def mlp(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: GPTNeoX) -> Tensor:
    """What a layer's MLP adds to the residual stream, from the stream that the MLP reads."""
    hidden = functional.gelu(functional.linear(normalize(x, layer.mlp_norm, model), layer.up, layer.up_bias))
    return functional.linear(hidden, layer.down, layer.down_bias)


def run_layer(x: Float[Tensor, "contexts positions hidden"], layer: Layer, model: GPTNeoX) -> Tensor:
    """The residual stream after a layer."""
    attended = attention(x, layer, model)
    if model.parallel_residual:
        return x + attended + mlp(x, layer, model)
    middle = x + attended
    return middle + mlp(middle, layer, model)


@torch.no_grad()
def residual_stream(
    model: GPTNeoX, token_ids: Int[Tensor, "contexts positions"], *, n_layers: int | None = None
) -> Float[Tensor, "depths contexts positions hidden"]:
    """The residual stream before the first layer and after each of the first `n_layers` (all), at the trained weights."""
    check_tokens(model, token_ids)
    stream = [functional.embedding(token_ids.to(model.device), model.embedding)]
    for layer in model.layers[:n_layers]:
        stream.append(run_layer(stream[-1], layer, model))
    return torch.stack(stream)


def differentiable_losses(
    model: GPTNeoX, token_ids: Int[Tensor, "contexts positions"], labels: torch.Generator | None = None
) -> Float[Tensor, "contexts predicted"]:
    """Loss of each token but the first, in nats, through which gradients reach every weight; see `cross_entropy` for labels."""
    x = functional.embedding(token_ids, model.embedding)
    for layer in model.layers:
        x = run_layer(x, layer, model)
    return token_loss.cross_entropy(normalize(x, model.final_norm, model), token_ids, model.unembedding, labels)


@torch.no_grad()
def token_losses(
    model: GPTNeoX, token_ids: Int[Tensor, "contexts positions"], *, batch_size: int = 16
) -> Float[Tensor, "contexts predicted"]:
    """Loss of each token but the first at the trained weights, in nats."""
    check_tokens(model, token_ids)
    return torch.cat([differentiable_losses(model, batch.to(model.device)) for batch in token_ids.split(batch_size)])


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
    model: GPTNeoX, token_ids: Int[np.ndarray, "contexts positions"], *, layers: tuple[int, ...], batch_size: int = 16
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
    model: GPTNeoX, token_ids: Int[Tensor, "contexts positions"], layers: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    token_ids = token_ids.to(model.device)
    stream = residual_stream(model, token_ids)
    ends = normalize(stream[-1], model.final_norm, model), token_ids, model.unembedding
    chosen = torch.cat([stream[layer][:, 1:] for layer in layers], dim=-1)
    losses, gradients = token_loss.losses_and_gradients(*ends)
    return chosen.flatten(0, 1), gradients.flatten(0, 1), losses.flatten()


def check_tokens(model: GPTNeoX, token_ids: Int[Tensor, "contexts positions"]) -> None:
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
