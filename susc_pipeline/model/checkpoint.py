"""A checkpoint's folder, `config.json` and safetensors, as a Decoder: only numbers are taken from it, whoever packed it.

The library's own loader would follow what a configuration asks for: code, kernels and adapters from a hub, weight files
by any path, random weights for missing ones. What a configuration means is in families/; the tokenizer is read in
pretrained.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from susc_pipeline.messages import shown
from susc_pipeline.model import families
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.description import Description
from susc_pipeline.model.families import Family, Values

MAX_CONFIG_BYTES = 1 << 20
MAX_INDEX_BYTES = 1 << 26
INDEX = "model.safetensors.index.json"
FLOATING = ("F64", "F32", "F16", "BF16")


def read(folder: Path, *, dtype: torch.dtype, device: str) -> Decoder:
    """The model in a folder.

    Raises:
        ValueError: an unknown family or feature, or weights that are missing, damaged, of another shape or not finite.
    """
    family, description = described(folder)
    weights = _weights(folder, family, families.readable(family, description), dtype, device)
    if description.tied:
        weights = _tied(folder, weights, *families.ends(family))
    if missing := sorted(families.shapes(family, description).keys() - weights.keys()):
        raise ValueError(f"{folder} lacks {len(missing)} weights, {missing[0]} among them; fetch the model again")
    return families.build(family, description, weights)


def shaped(content: Mapping[str, Any], place: Path, *, dtype: str = "float32") -> Decoder:
    """A decoder without weights, on torch's device `meta`: names and sizes of components are those of the model.

    Args:
        content: of config.json.
        place: where it stands, for messages.
        dtype: of the weights that are not there.

    Raises:
        ValueError: a family or a feature that is not computed here; see families.
    """
    family = families.family_of(content, place)
    return _without_weights(family, families.describe(family, Values(content, place)), dtype)


def outline(folder: Path, *, dtype: str = "float32") -> Decoder:
    """The model in a folder without its weights: config.json alone is read; errors as `read`."""
    return _without_weights(*described(folder), dtype)


def _without_weights(family: Family, description: Description, dtype: str) -> Decoder:
    kind = getattr(torch, dtype)
    named = {
        name: torch.empty(shape, device="meta", dtype=kind)
        for name, shape in families.shapes(family, description).items()
    }
    return families.build(family, description, named)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights: `model.safetensors`, or those of the index, or else all there are.

    Raises:
        ValueError: an index that is damaged, or names a file that is not in the folder.
    """
    whole, index = folder / "model.safetensors", folder / INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    names = _json(index, MAX_INDEX_BYTES).get("weight_map")
    names = set(names.values()) if isinstance(names, dict) and all(map(_is_name, names.values())) else {"?"}
    if absent := sorted(name for name in names if not (folder / name).is_file()):
        raise ValueError(f"{index} must name files of {folder}, got {shown(absent[0])}; fetch the model again")
    return [folder / name for name in sorted(names)]


def read_config(folder: Path) -> Description:
    """Sizes and switches of the model; whatever else config.json says is not looked at.

    Raises:
        ValueError: not JSON, an unknown family, or a value or feature that is not computed here.
    """
    return described(folder)[1]


def described(folder: Path) -> tuple[Family, Description]:
    """The model's family, and what `read_config` gives; errors as there."""
    path = folder / "config.json"
    content = config(path)
    family = families.family_of(content, folder)
    return family, families.describe(family, Values(content, path))


def config(path: Path) -> dict[str, Any]:
    """The object in a config.json.

    Raises:
        ValueError: no JSON, no object, or too long a file; names it.
    """
    return _json(path, MAX_CONFIG_BYTES)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _json(path: Path, most: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
        content = json.loads(text.decode("utf-8")) if len(text) <= most else None
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be one JSON object of at most {most} bytes; fetch it again")
    return content


def _weights(
    folder: Path, family: Family, wanted: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as stored:
                for stored_name in stored.keys():  # noqa: SIM118 (no mapping)
                    name = families.resolved(family, stored_name, wanted)
                    if name is None:
                        continue
                    if name in found:
                        raise ValueError(f"{folder} holds {name} twice; remove one of them")
                    part = stored.get_slice(stored_name)
                    _check(name, part.get_shape(), part.get_dtype(), wanted[name], path)
                    # Copied: a map of the file would change with it, and end the process where the file is cut.
                    found[name] = stored.get_tensor(stored_name).to(device, dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise ValueError(f"{folder} holds nan or infinite values in {name}; fetch the model again")
    return found


def _tied(folder: Path, weights: dict[str, Tensor], embedding: str, unembedding: str) -> dict[str, Tensor]:
    """The weights with one end for both: some checkpoints hold the matrix twice, or under the other name."""
    if unembedding not in weights:
        return weights
    kept = {name: weight for name, weight in weights.items() if name != unembedding}
    kept.setdefault(embedding, weights[unembedding])
    if not torch.equal(kept[embedding], weights[unembedding]):
        raise ValueError(
            f"config.json of {folder} ties {embedding} and {unembedding}, but the files hold different ones; set "
            f"tie_word_embeddings to false, or fetch the model again"
        )
    return kept


def _check(name: str, shape: list[int], dtype: str, wanted: tuple[int, ...], path: Path) -> None:
    if list(shape) != list(wanted) or dtype not in FLOATING:
        raise ValueError(
            f"{name} in {path} must be {list(wanted)} floating-point numbers, as config.json has it, got {dtype} "
            f"{list(shape)}; fetch both files again"
        )
