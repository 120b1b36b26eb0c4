"""Families of models, a file each: how config.json describes a decoder, and how a checkpoint names its weights.

A new family is a file here with a dictionary FAMILIES. Reading files is in checkpoint.py.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from susc_pipeline import registry
from susc_pipeline.messages import shown
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.description import Description
from susc_pipeline.model.families.family import Family, build, ends, readable, resolved, shapes
from susc_pipeline.model.families.values import Values

FAMILIES: dict[str, Family] = registry.collected(sys.modules[__name__], "FAMILIES")
"""By model_type of config.json."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
UNKNOWN_FEATURES = {**dict.fromkeys(EXPERTS, "a mixture of experts"), "is_encoder_decoder": "an encoder"}
UNKNOWN_FEATURES |= {"use_bidirectional_attention": "attention to later tokens"}


def family_of(content: Mapping[str, Any], place: object) -> Family:
    """The family that config.json names.

    Raises:
        ValueError: none, or one that is not computed here; names it.
    """
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"the model in {place} must be of a model_type among {', '.join(FAMILIES)}, got {shown(kind)}; "
            f"choose another model"
        )
    return FAMILIES[kind]


def describe(family: Family, values: Values) -> Description:
    """The description that a family gives of config.json.

    Raises:
        ValueError: a feature that is not computed here, or a value out of bounds; names it.
    """
    for name, feature in UNKNOWN_FEATURES.items():
        values.absent(name, feature)
    if not values.flag("is_causal", True):
        raise ValueError(
            f"{values.path} has is_causal false, but attention to later tokens is not computed here; choose another model"
        )
    return family.describe(values)


def from_module(module: torch.nn.Module) -> Decoder:
    """A PreTrainedModel as plain tensors, which it shares with the module where the family stores them as we do.

    Its class is not named in the signature: to import it takes a quarter of the time in which a process starts.

    Raises:
        ValueError: a family or a feature that is not computed here, or weights in float16.
    """
    held: Any = module
    content, place = held.config.to_dict(), Path(type(module).__name__)
    family = family_of(content, place)
    if held.dtype == torch.float16:
        raise ValueError("weights must be float32 or bfloat16, got float16, which ends at 65504; load them as float32")
    description = describe(family, Values(content, place))
    wanted = shapes(family, description)
    pairs = ((resolved(family, name, wanted), tensor) for name, tensor in module.state_dict().items())
    return build(family, description, {name: tensor for name, tensor in pairs if name is not None})


__all__ = [
    "FAMILIES",
    "Family",
    "Values",
    "build",
    "describe",
    "ends",
    "family_of",
    "from_module",
    "readable",
    "resolved",
    "shapes",
]
