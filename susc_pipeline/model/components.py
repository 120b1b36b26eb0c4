"""Components of a decoder whose weights are shaken one at a time, and the weights that belong to each.

A head owns its rows of the stacked query-key-value matrix and bias and its columns of the output matrix, but neither the
output bias nor a norm; an MLP owns its matrices and biases, its gate among them (Baker et al. 2025). Where heads share
keys and values, a head owns its query rows alone, and the rows of a shared key and value are a component of their own.
Tied ends are one component, `embed`. Norms and learned positions belong to no component. What a perturbed component
does to the losses is in perturbation.py.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from susc_pipeline.model import decoder_weights
from susc_pipeline.model.decoder import Decoder

OF_ATTENTION = ("head", "key_value")
MATRICES_OF = {
    "head": ("query_key_value", "query_key_value_bias", "dense"),
    "key_value": ("query_key_value", "query_key_value_bias"),
    "mlp": ("up", "up_bias", "down", "down_bias", "gate", "gate_bias"),
}


class Component(NamedTuple):
    """One part: `head`, `key_value`, `mlp`, `embed` or `unembed`; layer and head count from zero, -1 where none.

    The head of a `key_value` is the number of its group. The kind `all_weights` is the whole model, norms included; it is
    no part, and not enumerated with them.
    """

    kind: str
    layer: int = -1
    head: int = -1

    def __str__(self) -> str:
        """Its name."""
        return self.name

    @property
    def name(self) -> str:
        """Such as L2H0, L2KV0, L2MLP, embed, unembed."""
        match self.kind:
            case "head":
                return f"L{self.layer}H{self.head}"
            case "key_value":
                return f"L{self.layer}KV{self.head}"
            case "mlp":
                return f"L{self.layer}MLP"
            case _:
                return self.kind


ALL_WEIGHTS = Component("all_weights")


class Blocks(NamedTuple):
    """Neighbouring rows or columns: a component's own, and those before and after it that are computed with them."""

    before: slice
    own: slice
    after: slice

    @property
    def widths(self) -> list[int]:
        """Number of rows or columns of each."""
        return [block.stop - block.start for block in self]


class Part(NamedTuple):
    """The part of a layer's attention that a component changes."""

    name: str
    """Of the component's own rows in `weights`."""
    rows: Blocks
    """Of the stacked query-key-value matrix; together whole groups, or one head with its key and value."""
    columns: Blocks
    """Of the output matrix."""
    n_groups: int


def enumerate_components(model: Decoder) -> list[Component]:
    """All components in order: embed, then layer by layer heads, shared keys and values, MLP, then unembed if it is apart.

    For Pythia-1.4B: 24 layers of 16 heads and an MLP, embed and unembed, 410 in all.
    """
    shape, layers = model.description, []
    n_shared = shape.n_groups if shape.n_queries > 1 else 0
    for layer in range(model.n_layers):
        layers += [Component("head", layer, head) for head in range(shape.n_heads)]
        layers += [Component("key_value", layer, group) for group in range(n_shared)]
        layers.append(Component("mlp", layer))
    return [Component("embed"), *layers, *([] if shape.tied else [Component("unembed")])]


def chosen(model: Decoder, patterns: Sequence[str] = ()) -> list[Component]:
    """The components whose names match a pattern such as `L*H*` or `L12MLP`, in the model's order; all without a pattern.

    Raises:
        ValueError: a pattern matches no component.
    """
    found = enumerate_components(model)
    for pattern in patterns:
        if not any(fnmatchcase(component.name, pattern) for component in found):
            names = ", ".join(component.name for component in found)
            raise ValueError(f"no component matches {pattern!r} of model.components; the model has {names}")
    return [c for c in found if not patterns or any(fnmatchcase(c.name, pattern) for pattern in patterns)]


def by_name(model: Decoder, name: str) -> Component:
    """The component of that name.

    Raises:
        ValueError: the model has no such component.
    """
    found = {component.name: component for component in enumerate_components(model)}
    if name not in found:
        raise ValueError(f"the model has no component {name!r}; it has {', '.join(found)}")
    return found[name]


def weights(model: Decoder, component: Component) -> dict[str, Tensor]:
    """The component's weights at w*, as views of the model's where that is possible.

    Raises:
        ValueError: the component is none of this model.
    """
    if component == ALL_WEIGHTS:
        return decoder_weights.named_weights(model)
    if not _belongs(model, component):
        raise ValueError(
            f"the model has no component {component.name!r}: {model.n_layers} layers x {model.n_heads} heads"
        )
    if component.kind in ("embed", "unembed"):
        name = f"{component.kind}ding"
        return {name: getattr(model, name)}
    layer = model.layers[component.layer]
    if component.kind == "mlp":
        return {name: weight for name in MATRICES_OF["mlp"] if (weight := getattr(layer, name)) is not None}
    own = part(model, component)
    found = {own.name: layer.query_key_value[own.rows.own]}
    if component.kind == "head":
        found["output"] = layer.dense[:, own.columns.own]
    if layer.query_key_value_bias is not None:
        found[f"{own.name}_bias"] = layer.query_key_value_bias[own.rows.own]
    return found


def _belongs(model: Decoder, component: Component) -> bool:
    """Whether the component is among those that are enumerated."""
    shape = model.description
    heads = {"head": shape.n_heads, "key_value": shape.n_groups if shape.n_queries > 1 else 0}
    match component.kind:
        case "embed":
            return component == Component("embed")
        case "unembed":
            return component == Component("unembed") and not shape.tied
        case "mlp":
            return 0 <= component.layer < model.n_layers and component.head == -1
        case kind:
            return 0 <= component.layer < model.n_layers and 0 <= component.head < heads.get(kind, 0)


def part(model: Decoder, component: Component) -> Part:
    """The rows and columns of a component of attention, and those that have to be computed with them."""
    shape = model.description
    blocks_of = {"key_value": _key_value, "head": _head if shape.n_queries == 1 else _query}[component.kind]
    name, rows, columns = blocks_of(component.head, shape.n_queries)
    if not shape.wide_head_norms:
        return Part(name, _blocks(rows, shape.head_size), _blocks(columns, shape.head_size), 1)
    # One norm for the queries of all heads: each of them changes with any.
    rows, columns = _around(rows[1], shape.n_groups * (shape.n_queries + 2)), _around(columns[1], shape.n_heads)
    return Part(name, _blocks(rows, shape.head_size), _blocks(columns, shape.head_size), shape.n_groups)


# Rows and columns in heads, from and to; a group has n rows of heads for its queries, then its key, then its value.
Edges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
NONE = (0, 0)


def _head(head: int, n: int) -> tuple[str, Edges, Edges]:
    return "query_key_value", (NONE, (3 * head, 3 * head + 3), NONE), (NONE, (head, head + 1), NONE)


def _query(head: int, n: int) -> tuple[str, Edges, Edges]:
    group, number = divmod(head, n)
    first = group * (n + 2)
    rows = NONE, (first + number, first + number + 1), (first + n, first + n + 2)
    return "query", rows, (NONE, (head, head + 1), NONE)


def _key_value(group: int, n: int) -> tuple[str, Edges, Edges]:
    first = group * (n + 2)
    rows = (first, first + n), (first + n, first + n + 2), NONE
    return "key_value", rows, ((group * n, group * n + n), NONE, NONE)


def _around(own: tuple[int, int], n_all: int) -> Edges:
    return (0, own[0]), own, (own[1], n_all)


def _blocks(edges: Edges, size: int) -> Blocks:
    return Blocks(*(slice(first * size, last * size) for first, last in edges))


def holders(model: Decoder, chosen: Sequence[Component]) -> list[str]:
    """Names, as `weights.named_weights` gives them, of the matrices and biases that hold the components' weights."""
    wanted = set()
    for c in chosen:
        of_layer = {f"{c.layer}.{field}" for field in MATRICES_OF.get(c.kind, ())}
        wanted |= of_layer or {f"{c.kind}ding"}
    return [name for name in decoder_weights.named_weights(model) if name in wanted]


def n_parameters(model: Decoder, component: Component) -> int:
    """Number of weights that belong to a component."""
    return sum(weight.numel() for weight in weights(model, component).values())


def flatten(named: dict[str, Tensor]) -> Float[Tensor, " parameters"]:
    """The named weights of a component as one vector, in float32: what `unflatten` takes apart."""
    return torch.cat([weight.reshape(-1).float() for weight in named.values()])


def unflatten(
    flat: Float[Tensor, "chains parameters"], shapes: dict[str, torch.Size]
) -> dict[str, Float[Tensor, "chains ..."]]:
    """Views of flat vectors, one a chain, as the named weights of a component."""
    pieces = flat.split([shape.numel() for shape in shapes.values()], dim=1)
    return {name: piece.view(-1, *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
