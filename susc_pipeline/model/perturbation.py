"""Losses of a model one of whose components is perturbed, without recomputing what the component cannot change.

Everything below the component is read from the residual stream at w*; beside it, the rest of its layer is added as
it was; above it, all chains run as one batch, for they share the weights there. A perturbation is the difference from
w*, kept in float32 whatever the model's type: added to a bfloat16 weight, a small step would be rounded away.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import components, decoder, decoder_weights, token_loss
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder, Layer
from susc_pipeline.model.nonlinearity import NONLINEARITIES


class ComponentInputs(NamedTuple):
    """What a component's losses need from below and beside it, for a table of contexts."""

    token_ids: Int[Tensor, "contexts positions"]
    normed: Float[Tensor, "contexts positions hidden"]
    """What the component reads, after its norm; for the embedding, the residual stream at w*."""
    rest: Float[Tensor, "contexts positions hidden"]
    """The residual stream that the component adds to; for embed and unembed not used."""
    beside: Float[Tensor, "contexts positions hidden"] | None = None
    """What the layer's other heads give, where a norm stands behind all heads; else it is a part of the rest."""

    def take(self, rows: Tensor | slice | tuple[slice, slice] | None) -> "ComponentInputs":
        """The inputs of some contexts; an index of shape (chains, contexts) gives every chain its own, None adds an axis."""
        return self.each(lambda tensor: tensor[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> "ComponentInputs":
        """The same with every tensor that there is changed."""
        return ComponentInputs(*(None if tensor is None else change(tensor) for tensor in self))


@torch.no_grad()
def prepare(
    model: Decoder,
    component: Component,
    token_ids: Int[Tensor, "contexts positions"],
    stream: Mapping[int, Float[Tensor, "contexts positions hidden"]]
    | Float[Tensor, "depths contexts positions hidden"],
) -> ComponentInputs:
    """Inputs of a component from the residual stream of the contexts: all depths, or those that `read_depths` names."""
    if component.kind in ("embed", "all_weights"):
        return ComponentInputs(token_ids, stream[0], stream[0])
    if component.kind == "unembed":
        last = stream[model.n_layers]
        return ComponentInputs(token_ids, decoder.normalize(last, model.final_norm, model), last)
    layer = model.layers[component.layer]
    x = stream[component.layer]
    if component.kind == "mlp":
        middle = x + decoder.attention(x, layer, model)
        read = x if model.parallel_residual else middle
        return ComponentInputs(token_ids, decoder.normalize(read, layer.mlp_norm, model), middle)
    normed = decoder.normalize(x, layer.attention_norm, model)
    together = added(model, component, normed[None], {})[0]
    if layer.attention_post_norm is not None:
        return ComponentInputs(token_ids, normed, x, decoder.heads_output(normed, layer, model) - together)
    total = stream[component.layer + 1] if model.parallel_residual else x + decoder.attention(x, layer, model)
    return ComponentInputs(token_ids, normed, total - together)


@torch.no_grad()
def prepare_tokens(
    model: Decoder, component: Component, token_ids: Int[Tensor, "contexts positions"]
) -> ComponentInputs:
    """Inputs of a component from the contexts themselves; only the layers that it needs are run, and few depths are kept."""
    wanted = read_depths(model, component)
    passed = zip(range(max(wanted) + 1), decoder.depths(model, token_ids))
    return prepare(model, component, token_ids, {depth: x for depth, x in passed if depth in wanted})


def read_depths(model: Decoder, component: Component) -> tuple[int, ...]:
    """Depths of the residual stream that a component's inputs are made of."""
    if component.kind in ("embed", "all_weights"):
        return (0,)
    if component.kind == "unembed":
        return (model.n_layers,)
    behind = component.kind in components.OF_ATTENTION and model.parallel_residual
    return (component.layer, component.layer + 1) if behind else (component.layer,)


def losses(
    model: Decoder,
    component: Component,
    inputs: ComponentInputs,
    deltas: Float[Tensor, "chains parameters"],
    labels: torch.Generator | None = None,
) -> Float[Tensor, "chains contexts predicted"]:
    """Loss of each token but the first under each chain's perturbation of the component, in nats.

    Args:
        model: at w*.
        component: the one that is perturbed.
        inputs: of shape (contexts, ...) where all chains read the same contexts, or (chains, contexts, ...).
        deltas: difference from w* of the component's weights, flat, in the order of `components.weights`.
        labels: with it, losses are those of tokens that the perturbed model itself predicts, drawn by this generator.
    """
    trained = components.weights(model, component)
    shapes = {name: weight.shape for name, weight in trained.items()}
    named = components.unflatten(deltas, shapes)
    shared = inputs.token_ids.ndim == 2
    token_ids, normed, rest, beside = by_chain(inputs) if shared else inputs
    chains_ids = token_ids.expand(len(deltas), -1, -1)
    match component.kind:
        case "all_weights":
            changed = (
                {name: trained[name] + delta[chain] for name, delta in named.items()} for chain in range(len(deltas))
            )
            models = (decoder_weights.with_weights(model, weights) for weights in changed)
            pairs = zip(models, chains_ids, strict=True)
            return torch.stack([decoder.differentiable_losses(moved, ids, labels) for moved, ids in pairs])
        case "unembed":
            return _end(model, normed, chains_ids, labels, named["unembedding"])
        case "embed":
            x = normed + model.embedding_scale * lookup(named["embedding"], chains_ids).to(normed.dtype)
        case "mlp":
            x = rest + added(model, component, normed, named)
        case _:
            x = rest + after_heads(added(model, component, normed, named), beside, component, model)
    merged = _run_above(model, component, x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return _end(model, merged, chains_ids, labels, named.get("embedding") if model.description.tied else None)


def added(
    model: Decoder,
    component: Component,
    normed: Float[Tensor, "chains_or_one contexts positions hidden"],
    deltas: Mapping[str, Float[Tensor, "chains *shape"]],
) -> Float[Tensor, "chains contexts positions hidden"]:
    """What a layer's MLP, or the heads that the component changes, add to the stream under each chain's perturbation.

    An MLP's is behind the norm that stands behind it, if there is one; that of heads before theirs, which all heads share.
    """
    weights = _full(components.weights(model, component), deltas)
    if component.kind == "mlp":
        return after_mlp(_mlp(model, weights, normed), component, model)
    return _heads(model, component, weights, normed)


def by_chain(inputs: ComponentInputs) -> ComponentInputs:
    """Inputs that all chains share, with an axis of one for the chains."""
    return inputs.take(None)


def after_heads(added: Tensor, beside: Tensor | None, component: Component, model: Decoder) -> Tensor:
    """What a layer's heads add to the stream, from what a part of them gives: behind their norm if there is one."""
    output = added if beside is None else beside + added
    return decoder.normalize(output, model.layers[component.layer].attention_post_norm, model)


def after_mlp(added: Tensor, component: Component, model: Decoder) -> Tensor:
    """What an MLP adds to the stream, from what it gives: behind its norm if there is one."""
    return decoder.normalize(added, model.layers[component.layer].mlp_post_norm, model)


def _full(trained: Mapping[str, Tensor], deltas: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
    return {name: (weight, deltas.get(name)) for name, weight in trained.items()}


def _linear(
    x: Float[Tensor, "chains_or_one contexts positions inputs"],
    weight: tuple[Tensor, Tensor | None],
    bias: tuple[Tensor, Tensor | None] | None,
) -> Float[Tensor, "chains contexts positions outputs"]:
    """X times (weight + delta), plus (bias + delta), chain by chain."""
    trained, delta = weight
    rows = x.flatten(1, 2)
    if delta is None:
        product = rows @ trained.T
    elif trained.dtype == torch.float32:
        product = rows @ (trained + delta).transpose(1, 2)
    else:  # two products: the delta keeps its own exponent, where a sum would round it away
        product = rows @ trained.T + rows @ delta.to(trained.dtype).transpose(1, 2)
    if bias is not None:
        constant, difference = bias
        product = product + (constant if difference is None else (constant + difference[:, None]).to(product.dtype))
    return product.unflatten(1, x.shape[1:3])


def _heads(
    model: Decoder,
    component: Component,
    weights: dict,
    normed: Float[Tensor, "chains_or_one contexts positions hidden"],
) -> Float[Tensor, "chains contexts positions hidden"]:
    """What the heads that a component changes give, without the output bias."""
    part, layer = components.part(model, component), model.layers[component.layer]
    stacked = _stacked(part, layer, weights, normed)
    attended = decoder.attend(stacked.flatten(0, 1).unflatten(-1, (part.n_groups, -1)), layer, model)
    mixed = attended.flatten(-2).unflatten(0, stacked.shape[:2])
    before, own, after = mixed.split(part.columns.widths, dim=-1)
    still = [(x, block) for x, block in ((before, part.columns.before), (after, part.columns.after)) if x.shape[-1]]
    products = [functional.linear(x, layer.dense[:, block]) for x, block in still]
    products += [_linear(own, weights["output"], None)] if "output" in weights else []
    return functools.reduce(torch.add, products)


def _stacked(part: components.Part, layer: Layer, weights: dict, normed: Tensor) -> Tensor:
    """Queries, keys and values of the part, of which the component moves its own rows."""
    own = _linear(normed, weights[part.name], weights.get(f"{part.name}_bias"))
    before, after = (
        still(normed, layer, block).expand(*own.shape[:-1], -1) for block in (part.rows.before, part.rows.after)
    )
    return torch.cat([before, own, after], dim=-1) if before.shape[-1] or after.shape[-1] else own


def still(normed: Float[Tensor, "*batch hidden"], layer: Layer, block: slice) -> Float[Tensor, "*batch rows"]:
    """Queries, keys or values of rows that no component moves."""
    bias = layer.query_key_value_bias
    return functional.linear(normed, layer.query_key_value[block], None if bias is None else bias[block])


def _mlp(model: Decoder, weights: dict, normed: Float[Tensor, "chains_or_one contexts positions hidden"]) -> Tensor:
    function = NONLINEARITIES[model.description.nonlinearity].apply
    hidden = _linear(normed, weights["up"], weights.get("up_bias"))
    if "gate" in weights:
        hidden = function(_linear(normed, weights["gate"], weights.get("gate_bias"))) * hidden
    else:
        hidden = function(hidden)
    return _linear(hidden, weights["down"], weights.get("down_bias"))


def lookup(
    table: Float[Tensor, "chains vocabulary hidden"], token_ids: Int[Tensor, "chains contexts positions"]
) -> Float[Tensor, "chains contexts positions hidden"]:
    """Rows of each chain's own table."""
    offsets = torch.arange(len(table), device=table.device)[:, None, None] * table.shape[1]
    return functional.embedding(token_ids + offsets, table.reshape(-1, table.shape[-1]))


def _run_above(
    model: Decoder, component: Component, x: Float[Tensor, "contexts positions hidden"]
) -> Float[Tensor, "contexts positions hidden"]:
    """The last residual, from the stream that the component has added to."""
    if component.kind in components.OF_ATTENTION and not model.parallel_residual:
        x = x + decoder.mlp(x, model.layers[component.layer], model)
    for layer in model.layers[component.layer + 1 :]:
        x = decoder.run_layer(x, layer, model)
    return decoder.normalize(x, model.final_norm, model)


def _end(
    model: Decoder,
    normed: Float[Tensor, "chains_or_one contexts positions hidden"],
    token_ids: Int[Tensor, "chains contexts positions"],
    labels: torch.Generator | None,
    moved: Float[Tensor, "chains vocabulary hidden"] | None,
) -> Float[Tensor, "chains contexts predicted"]:
    """Losses from the normed last residual; with `moved`, under an unembedding that differs by it from chain to chain."""
    cap = model.description.final_cap
    if moved is None:
        flat = normed.flatten(0, 1), token_ids.flatten(0, 1)
        return token_loss.cross_entropy(*flat, model.unembedding, labels, cap=cap).unflatten(0, normed.shape[:2])
    losses = []
    for read, ids, delta in zip(normed.expand(len(moved), -1, -1, -1), token_ids, moved, strict=True):
        inputs, matrix = token_loss.moved_end(read, model.unembedding, delta)
        losses.append(token_loss.cross_entropy(inputs, ids, matrix, labels, cap=cap))
    return torch.stack(losses)
