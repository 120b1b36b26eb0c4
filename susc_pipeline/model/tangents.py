"""Slopes of token losses along directions in one component's weights: forward-mode derivatives beside the activations.

A tangent is the derivative of an activation along a direction (a JVP); the tangents of all directions share one primal
pass. How they pass through a layer is in layer_tangents.py. Gradients by the weights are in perturbation.py.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import components, gpt_neox, layer_tangents, perturbation, token_loss
from susc_pipeline.model.components import Component
from susc_pipeline.model.gpt_neox import GPTNeoX
from susc_pipeline.model.perturbation import ComponentInputs

Parts = dict[str, tuple[Tensor, ...]]  # named matrices (chains outputs inputs), each the sum of its parts


class LossesAndSlopes(NamedTuple):
    """Losses of the predicted tokens, and their derivatives along directions."""

    losses: Float[Tensor, "*chains contexts predicted"]
    """In nats."""
    slopes: Float[Tensor, "*directions contexts predicted"]
    """In nats per unit of the direction: a direction twice as long has slopes twice as large."""


@torch.no_grad()
def losses_and_slopes(
    model: GPTNeoX,
    component: Component,
    inputs: ComponentInputs,
    deltas: Float[Tensor, "chains parameters"],
    directions: Float[Tensor, "directions chains parameters"],
) -> LossesAndSlopes:
    """Losses (chains contexts predicted) at each chain's weights, and slopes (directions chains contexts predicted).

    Args:
        model: at w*.
        component: the one that is perturbed.
        inputs: of shape (contexts, ...) where all chains read the same contexts, or (chains, contexts, ...).
        deltas: difference from w* of the component's weights, flat, in the order of `components.weights`.
        directions: in the same order and of any length.

    Raises:
        ValueError: the component is the whole model.
    """
    _check([component])
    shared = inputs.token_ids.ndim == 2
    table = ComponentInputs(*(tensor[None] for tensor in inputs)) if shared else inputs
    at_once = max(1, layer_tangents.ROWS_AT_ONCE[model.device.type] // max(1, table.token_ids[0].numel()))
    parts = []
    for chains in (slice(start, start + at_once) for start in range(0, len(deltas), at_once)):
        read = table if shared else table.take(chains)
        parts.append(_of_chains(model, component, read, deltas[chains], directions[:, chains]))
    losses, slopes = zip(*parts, strict=True)
    return LossesAndSlopes(torch.cat(losses), torch.cat(slopes, dim=1))


@torch.no_grad()
def slopes_at_rest(
    model: GPTNeoX,
    token_ids: Int[Tensor, "contexts positions"],
    directions: Mapping[Component, Float[Tensor, "directions parameters"]],
) -> LossesAndSlopes:
    """Losses (contexts predicted) at w*, and slopes (components directions contexts predicted) in the mapping's order.

    One primal pass serves all components; the tangents of all components below a layer pass through it together.

    Raises:
        ValueError: a component is the whole model.
    """
    _check(directions)
    n_directions = len(next(iter(directions.values())))

    def begin(kind: str, layer: int, normed: Tensor) -> Tensor:
        chosen = [component for component in directions if component[:2] == (kind, layer)]
        begun.extend(chosen)
        tangents = normed.new_empty(len(chosen), n_directions, *normed.shape)
        for component, out in zip(chosen, tangents, strict=True):
            of_one = _component(model, component, normed[None], token_ids[None], None, directions[component][:, None])
            out.copy_(of_one[1][:, 0])
        return tangents.flatten(0, 1)

    begun: list[Component] = []
    x = functional.embedding(token_ids, model.embedding)
    tangents = begin("embed", -1, x)
    for number, layer in enumerate(model.layers[:-1]):
        primal = layer_tangents.run_layer(x, layer, model)
        heads, mlps = begin("head", number, primal.reads.normed), begin("mlp", number, primal.mlp_reads.normed)
        if not model.parallel_residual:
            heads = heads + layer_tangents.through_mlp(
                heads, primal.mlp_reads, layer_tangents.gelu_slope(primal.hidden), layer
            )
        x, tangents = primal.end, torch.cat([layer_tangents.through_layer(tangents, primal, layer, model), heads, mlps])
    top = layer_tangents.top_layer(x, token_ids, model)
    last = model.n_layers - 1
    slopes = [layer_tangents.through_top(tangents, top, model)]
    slopes.append(layer_tangents.dot(begin("head", last, top.primal.reads.normed), top.of_middle))
    slopes.append(layer_tangents.dot(begin("mlp", last, top.primal.mlp_reads.normed), top.of_end))
    found = dict(zip(begun, torch.cat(slopes).split(n_directions)))  # nothing splits into one empty part
    for component in directions.keys() - found.keys():
        normed = gpt_neox.normalize(top.primal.end, model.final_norm, model)
        found[component] = _unembed(model, normed, token_ids, None, directions[component])[1]
    return LossesAndSlopes(top.losses, torch.stack([found[component] for component in directions]))


def _check(chosen: Iterable[Component]) -> None:
    if components.ALL_WEIGHTS in chosen:
        raise ValueError(
            f"slopes belong to one part of the model, got {components.ALL_WEIGHTS.name!r}; "
            f"choose from components.enumerate_components"
        )


def _of_chains(
    model: GPTNeoX, component: Component, inputs: ComponentInputs, deltas: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    token_ids, normed, rest = inputs
    ids = token_ids.expand(len(deltas), -1, -1)
    if component.kind == "unembed":
        reads = normed.expand(len(deltas), -1, -1, -1)
        pairs = [_unembed(model, *of_one) for of_one in zip(reads, ids, deltas, directions.unbind(1), strict=True)]
        return torch.stack([losses for losses, _ in pairs]), torch.stack([slopes for _, slopes in pairs], dim=1)
    added, tangents = _component(model, component, normed, ids, deltas, directions)
    base = normed if component.kind == "embed" else rest
    x, tangents, merged = (base + added).flatten(0, 1), tangents.flatten(1, 2), ids.flatten(0, 1)
    if component.kind == "head" and not model.parallel_residual:
        x, tangents = layer_tangents.past_mlp(x, tangents, model.layers[component.layer], model)
    above = model.layers[component.layer + 1 :]
    for layer in above[:-1]:
        primal = layer_tangents.run_layer(x, layer, model)
        x, tangents = primal.end, layer_tangents.through_layer(tangents, primal, layer, model)
    if above:
        top = layer_tangents.top_layer(x, merged, model)
        losses, slopes = top.losses, layer_tangents.through_top(tangents, top, model)
    else:
        losses, of_end = layer_tangents.end(x, merged, model)
        slopes = layer_tangents.dot(tangents, of_end)
    return losses.unflatten(0, ids.shape[:2]), slopes.unflatten(1, ids.shape[:2])


def _component(
    model: GPTNeoX, component: Component, normed: Tensor, ids: Tensor, deltas: Tensor | None, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """What a component adds (chains contexts positions hidden) and its tangents (directions chains contexts ...)."""
    trained = components.weights(model, component)
    shapes = {name: weight.shape for name, weight in trained.items()}
    moved = {} if deltas is None else components.unflatten(deltas, shapes)
    along = [components.unflatten(direction, shapes) for direction in directions]
    if component.kind == "embed":
        looked = [perturbation.lookup(one["embedding"], ids).to(normed.dtype) for one in (moved, *along) if one]
        return (looked[0] if moved else torch.zeros_like(normed)), torch.stack(looked[-len(along) :])
    weights = {name: _parts(weight, moved.get(name)) for name, weight in trained.items()}
    units = [{name: (part.to(normed.dtype),) for name, part in one.items()} for one in along]
    is_mlp = component.kind == "mlp"
    added, tangents = _mlp(normed, weights, units) if is_mlp else _head(normed, weights, units, model)
    return added.unflatten(1, ids.shape[1:]), torch.stack(tangents).unflatten(2, ids.shape[1:])


def _mlp(normed: Tensor, weights: Parts, units: list[Parts]) -> tuple[Tensor, list[Tensor]]:
    rows = normed.flatten(1, 2)
    hidden = _linear(rows, weights, "up")
    active, curve = functional.gelu(hidden), layer_tangents.gelu_slope(hidden)
    moved = (_linear(_linear(rows, unit, "up") * curve, weights, "down", bias=False) for unit in units)
    tangents = [tangent + _linear(active, unit, "down") for tangent, unit in zip(moved, units, strict=True)]
    return _linear(active, weights, "down"), tangents


def _head(normed: Tensor, weights: Parts, units: list[Parts], model: GPTNeoX) -> tuple[Tensor, list[Tensor]]:
    rows, n_positions = normed.flatten(1, 2), normed.shape[-2]
    stacked = _linear(rows, weights, "query_key_value")
    primal = layer_tangents.attend(stacked.view(-1, n_positions, 1, stacked.shape[-1]), model)
    mixed = primal.mixed.reshape(*stacked.shape[:2], -1)
    tangents = []
    for unit in units:
        of_triple = _linear(rows, unit, "query_key_value").view(-1, n_positions, 1, stacked.shape[-1])
        of_mixed = layer_tangents.attend_tangents(of_triple[None], primal, model).reshape(mixed.shape)
        tangents.append(_linear(of_mixed, weights, "output", bias=False) + _linear(mixed, unit, "output"))
    return _linear(mixed, weights, "output"), tangents


def _parts(trained: Tensor, delta: Tensor | None) -> tuple[Tensor, ...]:
    if delta is None:
        return (trained[None],)
    if trained.dtype != torch.bfloat16:
        return (trained + delta,)
    return trained[None], delta.to(trained.dtype)  # two products: the delta keeps its own exponent


def _linear(x: Float[Tensor, "chains rows inputs"], weights: Parts, name: str, *, bias: bool = True) -> Tensor:
    first, *others = weights[name]
    product = x @ first.transpose(1, 2)
    for part in others:
        product = product + x @ part.transpose(1, 2)
    for part in weights.get(f"{name}_bias", ()) if bias else ():
        product = product + part[:, None]
    return product


def _unembed(
    model: GPTNeoX, normed: Tensor, token_ids: Tensor, delta: Tensor | None, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses (contexts predicted) and slopes (directions contexts predicted) of one chain."""
    trained = model.unembedding
    tables = directions.unflatten(-1, trained.shape).to(trained.dtype)
    if delta is not None and trained.dtype != torch.bfloat16:
        trained = trained + delta.view(trained.shape)
    elif delta is not None:  # as in perturbation.py: concatenated, the delta keeps its own exponent
        trained = torch.cat([trained, delta.view(trained.shape).to(trained.dtype)], dim=-1)
        normed = torch.cat([normed, normed], dim=-1)
    return token_loss.losses_and_slopes(normed, token_ids, trained, tables)
