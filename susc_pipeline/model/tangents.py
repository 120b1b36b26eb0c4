"""Slopes of token losses along directions in one component's weights: forward-mode derivatives beside the activations.

A tangent is the derivative of an activation along a direction (a JVP); the tangents of all directions share one primal
pass. How they pass through a layer is in layer_tangents.py. Gradients by the weights are in derivatives.py.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from susc_pipeline.model import components, decoder, layer_primal, layer_tangents, perturbation, token_loss
from susc_pipeline.model.components import Component, Part
from susc_pipeline.model.decoder import Decoder, Layer
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
    model: Decoder,
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
    table = perturbation.by_chain(inputs) if shared else inputs
    n_rows = max(1, table.token_ids[0].numel())
    at_once = max(1, layer_tangents.ROWS_AT_ONCE[model.device.type] // n_rows)
    at_once = 1 if _moves_both_ends(model, component) else at_once
    parts = []
    for chains in (slice(start, start + at_once) for start in range(0, len(deltas), at_once)):
        read = table if shared else table.take(chains)
        parts.append(_of_chains(model, component, read, deltas[chains], directions[:, chains]))
    losses, slopes = zip(*parts, strict=True)
    return LossesAndSlopes(torch.cat(losses), torch.cat(slopes, dim=1))


@torch.no_grad()
def slopes_at_rest(
    model: Decoder,
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

    def begin_layer(number: int, primal: layer_primal.Primal) -> tuple[Tensor, Tensor]:
        heads = [begin(kind, number, primal.reads.normed) for kind in components.OF_ATTENTION]
        return torch.cat(heads), begin("mlp", number, primal.mlp.reads.normed)

    begun: list[Component] = []
    x = decoder.embed(model, token_ids)
    tangents = begin("embed", -1, x)
    for number, layer in enumerate(model.layers[:-1]):
        primal = layer_tangents.run_layer(x, layer, model)
        heads, mlps = begin_layer(number, primal)
        heads = layer_tangents.behind(heads, primal.attended, layer.attention_post_norm, model)
        mlps = layer_tangents.behind(mlps, primal.mlp.lifted, layer.mlp_post_norm, model)
        if not model.parallel_residual:
            bends = layer_tangents.curves(primal.mlp.bent, model)
            heads = heads + layer_tangents.through_mlp(heads, primal.mlp, bends, layer, model)
        x, tangents = primal.end, torch.cat([layer_tangents.through_layer(tangents, primal, layer, model), heads, mlps])
    top = layer_tangents.top_layer(x, token_ids, model)
    heads, mlps = begin_layer(model.n_layers - 1, top.primal)
    slopes = [layer_tangents.through_top(tangents, top, model)]
    slopes += [layer_tangents.dot(heads, top.of_attended), layer_tangents.dot(mlps, top.of_lifted)]
    found = dict(zip(begun, torch.cat(slopes).split(n_directions)))  # nothing splits into one empty part
    for component in (one for one in directions if _moves_the_end(model, one)):
        normed = decoder.normalize(top.primal.end, model.final_norm, model)
        of_end = _unembed(model, normed, token_ids, None, directions[component])[1]
        found[component] = of_end + found[component] if component in found else of_end
    return LossesAndSlopes(top.losses, torch.stack([found[component] for component in directions]))


def _moves_both_ends(model: Decoder, component: Component) -> bool:
    return component.kind == "embed" and model.description.tied


def _moves_the_end(model: Decoder, component: Component) -> bool:
    return component.kind == "unembed" or _moves_both_ends(model, component)


def _check(chosen: Iterable[Component]) -> None:
    if components.ALL_WEIGHTS in chosen:
        raise ValueError(
            f"slopes belong to one part of the model, got {components.ALL_WEIGHTS.name!r}; "
            f"choose from components.enumerate_components"
        )


def _of_chains(
    model: Decoder, component: Component, inputs: ComponentInputs, deltas: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    token_ids, normed, _, _ = inputs
    ids = token_ids.expand(len(deltas), -1, -1)
    if component.kind == "unembed":
        reads = normed.expand(len(deltas), -1, -1, -1)
        pairs = [_unembed(model, *of_one) for of_one in zip(reads, ids, deltas, directions.unbind(1), strict=True)]
        return torch.stack([losses for losses, _ in pairs]), torch.stack([slopes for _, slopes in pairs], dim=1)
    x, tangents = _begun(model, component, inputs, ids, deltas, directions)
    x, tangents, merged = x.flatten(0, 1), tangents.flatten(1, 2), ids.flatten(0, 1)
    if component.kind in components.OF_ATTENTION and not model.parallel_residual:
        x, tangents = layer_tangents.past_mlp(x, tangents, model.layers[component.layer], model)
    losses, slopes = _through(model, component, x, tangents, merged, deltas, directions)
    return losses.unflatten(0, ids.shape[:2]), slopes.unflatten(1, ids.shape[:2])


def _begun(
    model: Decoder, component: Component, inputs: ComponentInputs, ids: Tensor, deltas: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """The stream that the component has added to, and its tangents."""
    _, normed, rest, beside = inputs
    added, tangents = _component(model, component, normed, ids, deltas, directions)
    if component.kind == "embed":
        return normed + added, tangents
    layer = model.layers[component.layer]
    norm = layer.mlp_post_norm if component.kind == "mlp" else layer.attention_post_norm
    output = layer_tangents.normalize(added if beside is None else beside + added, norm, model)
    return rest + output.normed, layer_tangents.behind(tangents, output, norm, model)


def _through(
    model: Decoder, component: Component, x: Tensor, tangents: Tensor, ids: Tensor, deltas: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses and slopes from the stream after the component's layer; of one chain where it moves both ends."""
    both = _moves_both_ends(model, component)
    moved = deltas.view(model.unembedding.shape) if both else None
    above = model.layers[component.layer + 1 :]
    for layer in above[:-1]:
        primal = layer_tangents.run_layer(x, layer, model)
        x, tangents = primal.end, layer_tangents.through_layer(tangents, primal, layer, model)
    if not above:
        losses, of_end = layer_tangents.end(x, ids, model, moved)
        return losses, layer_tangents.dot(tangents, of_end)
    top = layer_tangents.top_layer(x, ids, model, moved)
    slopes = layer_tangents.through_top(tangents, top, model)
    if both:
        normed = decoder.normalize(top.primal.end.detach(), model.final_norm, model)
        slopes = slopes + _unembed(model, normed, ids, deltas[0], directions[:, 0])[1]
    return top.losses, slopes


def _component(
    model: Decoder, component: Component, normed: Tensor, ids: Tensor, deltas: Tensor | None, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """What a component gives (chains contexts positions hidden) and its tangents (directions chains contexts ...)."""
    trained = components.weights(model, component)
    shapes = {name: weight.shape for name, weight in trained.items()}
    moved = {} if deltas is None else components.unflatten(deltas, shapes)
    along = [components.unflatten(direction, shapes) for direction in directions]
    if component.kind == "embed":
        looked = [perturbation.lookup(one["embedding"], ids).to(normed.dtype) for one in (moved, *along) if one]
        looked = [model.embedding_scale * one for one in looked]
        return (looked[0] if moved else torch.zeros_like(normed)), torch.stack(looked[-len(along) :])
    weights = {name: _parts(weight, moved.get(name)) for name, weight in trained.items()}
    units = [{name: (part.to(normed.dtype),) for name, part in one.items()} for one in along]
    of_kind = _mlp if component.kind == "mlp" else _heads
    added, tangents = of_kind(normed, weights, units, model, component)
    return added.unflatten(1, ids.shape[1:]), torch.stack(tangents).unflatten(2, ids.shape[1:])


def _mlp(
    normed: Tensor, weights: Parts, units: list[Parts], model: Decoder, component: Component
) -> tuple[Tensor, list[Tensor]]:
    rows = normed.flatten(1, 2)
    gate = _linear(rows, weights, "gate") if "gate" in weights else None
    bent = layer_tangents.bend(_linear(rows, weights, "up"), gate, model)
    curves, tangents = layer_tangents.curves(bent, model), []
    for unit in units:
        moved = functools.reduce(torch.add, (_linear(rows, unit, name).mul_(c) for name, c in curves.items()))
        tangents.append(_linear(moved, weights, "down", bias=False) + _linear(bent.active, unit, "down"))
    return _linear(bent.active, weights, "down"), tangents


def _heads(
    normed: Tensor, weights: Parts, units: list[Parts], model: Decoder, component: Component
) -> tuple[Tensor, list[Tensor]]:
    """What the heads that a component changes give, and its tangents."""
    rows, part, layer = normed.flatten(1, 2), components.part(model, component), model.layers[component.layer]
    stacked = _stacked(rows, weights, part, layer)
    by_group = (-1, normed.shape[-2], part.n_groups, stacked.shape[-1] // part.n_groups)
    primal = layer_tangents.attend(stacked.view(by_group), layer, model)
    mixed = primal.mixed.reshape(*stacked.shape[:2], -1)
    tangents = []
    for unit in units:
        of_own = functional.pad(_linear(rows, unit, part.name), (part.rows.widths[0], part.rows.widths[2]))
        of_stacked = of_own.expand_as(stacked).reshape(by_group)
        of_mixed = layer_tangents.attend_tangents(of_stacked[None], primal, layer, model).reshape(mixed.shape)
        of_output = [_output(of_mixed, weights, part, layer), *_own_output(mixed, unit, part)]
        tangents.append(functools.reduce(torch.add, of_output))
    return _output(mixed, weights, part, layer), tangents


def _stacked(rows: Tensor, weights: Parts, part: Part, layer: Layer) -> Tensor:
    """Queries, keys and values of the part, of which the component moves its own rows."""
    own = _linear(rows, weights, part.name)
    if not part.rows.widths[0] + part.rows.widths[2]:
        return own
    before, after = (perturbation.still(rows, layer, block) for block in (part.rows.before, part.rows.after))
    return torch.cat([before.expand(*own.shape[:-1], -1), own, after.expand(*own.shape[:-1], -1)], dim=-1)


def _output(mixed: Tensor, weights: Parts, part: Part, layer: Layer) -> Tensor:
    """What the output matrix makes of all heads of the part."""
    before, _, after = mixed.split(part.columns.widths, dim=-1)
    still = [(x, block) for x, block in ((before, part.columns.before), (after, part.columns.after)) if x.shape[-1]]
    products = [functional.linear(x, layer.dense[:, block]) for x, block in still]
    return functools.reduce(torch.add, products + _own_output(mixed, weights, part))


def _own_output(mixed: Tensor, weights: Parts, part: Part) -> list[Tensor]:
    """What the component's own columns make of it; a shared key and value has none."""
    own = mixed.split(part.columns.widths, dim=-1)[1]
    return [_linear(own, weights, "output")] if "output" in weights else []


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
    model: Decoder, normed: Tensor, token_ids: Tensor, delta: Tensor | None, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses (contexts predicted) and slopes (directions contexts predicted) of one chain."""
    trained, tables = model.unembedding, directions.unflatten(-1, model.unembedding.shape).to(model.unembedding.dtype)
    if delta is not None:
        normed, trained = token_loss.moved_end(normed, trained, delta.view(trained.shape))
    return token_loss.losses_and_slopes(normed, token_ids, trained, tables, cap=model.description.final_cap)
