"""Every weight of a decoder under a name of its own, and the same decoder with other weights."""

import dataclasses

import torch
from torch import Tensor

from susc_pipeline.model.decoder import MATRICES, NORMS, Decoder, Norm


def named_weights(model: Decoder) -> dict[str, Tensor]:
    """Every weight of the model under a name of its own, in a fixed order; tied ends are one weight, `embedding`."""
    ends = {"embedding": model.embedding, "unembedding": model.unembedding, "positions": model.positions}
    tied = {"unembedding"} if model.description.tied else set()
    named = {name: weight for name, weight in ends.items() if weight is not None and name not in tied}
    for number, layer in enumerate(model.layers):
        pairs = ((field, getattr(layer, field)) for field in MATRICES)
        named |= {f"{number}.{field}": weight for field, weight in pairs if weight is not None}
    return named | _named_norms(model)


def _named_norms(model: Decoder) -> dict[str, Tensor]:
    norms = {"final_norm": model.final_norm}
    norms |= {
        f"{number}.{field}": getattr(layer, field) for number, layer in enumerate(model.layers) for field in NORMS
    }
    parts = ((name, norm._asdict()) for name, norm in norms.items() if norm is not None)
    return {f"{name}.{part}": value for name, norm in parts for part, value in norm.items() if value is not None}


def with_weights(model: Decoder, named: dict[str, Tensor]) -> Decoder:
    """The same model with other weights, under the names that `named_weights` gives."""

    def norm(name: str) -> Norm | None:
        return Norm(named[f"{name}.scale"], named.get(f"{name}.shift")) if f"{name}.scale" in named else None

    layers = tuple(
        layer._replace(
            **{field: named.get(f"{number}.{field}") for field in MATRICES},
            **{field: norm(f"{number}.{field}") for field in NORMS},
        )
        for number, layer in enumerate(model.layers)
    )
    ends = {"unembedding": named["embedding"], "positions": None} | {
        name: named[name] for name in ("embedding", "unembedding", "positions") if name in named
    }
    return dataclasses.replace(model, layers=layers, final_norm=norm("final_norm"), **ends)


def to(model: Decoder, device: torch.device | str) -> Decoder:
    """The same model on a device."""
    return with_weights(model, {name: weight.to(device) for name, weight in named_weights(model).items()})
