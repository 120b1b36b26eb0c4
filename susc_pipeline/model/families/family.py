"""What a family of models is: how config.json describes it, and how its checkpoints name the weights of a Decoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from susc_pipeline.model.decoder import MATRICES, NORMS, Decoder, Layer, Norm
from susc_pipeline.model.description import Description
from susc_pipeline.model.families.values import Values

WRAPPERS = ("_orig_mod.", "module.")  # prefixes that compiled and parallel training leave behind


@dataclass(frozen=True)
class Family:
    """Names in a checkpoint, without the prefix that the base model may have."""

    describe: Callable[[Values], Description]
    prefix: str
    """Of all weights but the unembedding."""
    embedding: str
    final_norm: str
    unembedding: str
    layers: str
    layer: Mapping[str, str | tuple[str, ...]]
    """By field of Layer; several names for the queries, keys and values of all heads."""
    positions: str | None = None
    grouped: bool = False
    """The stacked matrix already stands group by group; else all queries come first, then all keys, then all values."""
    transposed: bool = False
    """Matrices are stored inputs by outputs (Conv1D)."""
    also_named: Mapping[str, str] | None = None
    """Other names that a weight has in some checkpoints."""


def shapes(family: Family, description: Description) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a checkpoint must hold."""
    width = description.hidden_size
    table = {family.embedding: (description.vocabulary_size, width)}
    if family.positions is not None:
        table[family.positions] = (description.max_positions, width)
    found = {f"{family.prefix}.{name}.weight": shape for name, shape in table.items()}
    found |= {} if description.tied else {f"{family.unembedding}.weight": (description.vocabulary_size, width)}
    found |= _norm_shapes(description, f"{family.prefix}.{family.final_norm}", width)
    for number in range(description.n_layers):
        for field, name in _fields(family, description):
            found |= _field_shapes(family, description, field, _place(family, number, name))
    return found


def readable(family: Family, description: Description) -> dict[str, tuple[int, ...]]:
    """The same, and where both ends are tied the unembedding, which some checkpoints hold too, or instead."""
    wanted, (first, last) = shapes(family, description), ends(family)
    return wanted | ({last: wanted[first]} if description.tied else {})


def ends(family: Family) -> tuple[str, str]:
    """Names of the embedding and of the unembedding."""
    return f"{family.prefix}.{family.embedding}.weight", f"{family.unembedding}.weight"


def resolved(family: Family, name: str, wanted: Mapping[str, Any]) -> str | None:
    """The wanted weight that a stored name means: prefixes of wrappers may stand before it, that of the base model lack."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    name = (family.also_named or {}).get(name, name)
    candidates = (name, f"{family.prefix}.{name}")
    return next((candidate for candidate in candidates if candidate in wanted), None)


def build(family: Family, description: Description, named: dict[str, Tensor]) -> Decoder:
    """The model of weights under the names that `shapes` gives; it shares what needs no other order of rows."""
    first, last = ends(family)
    embedding = named[first]
    unembedding = embedding if description.tied else named[last]
    final_norm = _norm(named, f"{family.prefix}.{family.final_norm}")
    positions = named[f"{family.prefix}.{family.positions}.weight"] if family.positions else None
    layers = tuple(_layer(family, description, named, number) for number in range(description.n_layers))
    return Decoder(description, embedding, layers, final_norm, unembedding, positions)


def _fields(family: Family, description: Description) -> list[tuple[str, str | tuple[str, ...]]]:
    wanted = {*description.norms, "query_key_value", "dense", "up", "down", *(["gate"] if description.gated else [])}
    return [(field, name) for field, name in family.layer.items() if field in wanted]


def _place(family: Family, number: int, name: str | tuple[str, ...]) -> list[str]:
    names = (name,) if isinstance(name, str) else name
    return [f"{family.prefix}.{family.layers}.{number}.{one}" for one in names]


def _norm_shapes(description: Description, name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight",) if description.root_mean_square else ("weight", "bias")
    return {f"{name}.{part}": (width,) for part in parts}


def _head_rows(description: Description) -> tuple[int, int, int]:
    """Rows of all queries, keys and values."""
    of_groups = description.n_groups * description.head_size
    return description.n_heads * description.head_size, of_groups, of_groups


def _field_shapes(family: Family, description: Description, field: str, names: list[str]) -> dict[str, tuple[int, ...]]:
    if field in NORMS:
        return _norm_shapes(description, names[0], _norm_width(description, field))
    rows, width, inner = _head_rows(description), description.hidden_size, description.inner_size
    of_field = {"dense": (width, rows[0]), "up": (inner, width), "gate": (inner, width), "down": (width, inner)}
    stacked = [(n, width) for n in (rows if len(names) > 1 else (sum(rows),))]
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in zip(names, stacked if field == "query_key_value" else [of_field[field]], strict=True):
        found[f"{name}.weight"] = shape[::-1] if family.transposed else shape
        found |= {f"{name}.bias": shape[:1]} if field in description.biases else {}
    return found


def _norm_width(description: Description, field: str) -> int:
    if field not in ("query_norm", "key_norm"):
        return description.hidden_size
    n_heads = {"query_norm": description.n_heads, "key_norm": description.n_groups}[field]
    return description.head_size * (n_heads if description.wide_head_norms else 1)


def _norm(named: Mapping[str, Tensor], name: str) -> Norm:
    return Norm(named[f"{name}.weight"], named.get(f"{name}.bias"))


def _layer(family: Family, description: Description, named: Mapping[str, Tensor], number: int) -> Layer:
    found: dict[str, Any] = dict.fromkeys((*MATRICES, *NORMS))
    for field, name in _fields(family, description):
        names = _place(family, number, name)
        if field in NORMS:
            found[field] = _norm(named, names[0])
        else:
            found[field] = _matrix(family, description, field, [named[f"{one}.weight"] for one in names])
            biases = [named[f"{one}.bias"] for one in names if field in description.biases]
            found[f"{field}_bias"] = _rows(family, description, field, biases) if biases else None
    return Layer(**found, kind=description.attention[number])


def _matrix(family: Family, description: Description, field: str, pieces: list[Tensor]) -> Tensor:
    return _rows(family, description, field, [piece.T if family.transposed else piece for piece in pieces])


def _rows(family: Family, description: Description, field: str, pieces: list[Tensor]) -> Tensor:
    """The pieces as they are, or stacked and then regrouped: a group's queries, its key, its value."""
    if field != "query_key_value" or family.grouped:
        return pieces[0]
    parts = torch.cat(pieces).split(_head_rows(description))
    return torch.cat([part.unflatten(0, (description.n_groups, -1)) for part in parts], dim=1).flatten(0, 1)
