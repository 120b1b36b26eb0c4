"""A checkpoint's folder, `config.json` and safetensors, as a GPT-NeoX: only numbers are taken from it, whoever packed it.

The library's own loader would follow what a configuration asks for: code, kernels and adapters from a hub, weight files
by any path, random weights for missing ones. The tokenizer is read in pretrained.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GPTNeoXConfig

from susc_pipeline.messages import shown
from susc_pipeline.model.gpt_neox import GPTNeoX

MAX_CONFIG_BYTES = 1 << 20
MAX_SIZE = 1 << 24
SIZES = {name: MAX_SIZE for name in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings")}
SIZES |= {"num_attention_heads": 10_000, "num_hidden_layers": 1_000}
FLAGS = {"use_parallel_residual": True, "attention_bias": True, "tie_word_embeddings": False}
FLOATING = ("F64", "F32", "F16", "BF16")


def read(folder: Path, *, dtype: torch.dtype, device: str) -> GPTNeoX:
    """The model in a folder.

    Raises:
        ValueError: another architecture, or weights that are missing, damaged, of another shape or not finite.
    """
    config = read_config(folder)
    weights = _weights(folder, _shapes(config), dtype, device)
    weights.setdefault("embed_out.weight", weights["gpt_neox.embed_in.weight"])  # tied
    return GPTNeoX.from_weights(weights, config)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights: `model.safetensors`, or else all there are."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def read_config(folder: Path) -> GPTNeoXConfig:
    """Sizes and switches of the model; whatever else config.json says is not looked at.

    Raises:
        ValueError: not JSON, another architecture, or a value that no GPT-NeoX can have.
    """
    path = folder / "config.json"
    content = _json(path)
    kind = content.get("model_type")
    if kind != "gpt_neox":
        raise ValueError(f"the model in {folder} must be of model_type gpt_neox, got {shown(kind)}; choose a GPT-NeoX")
    if content.get("hidden_act", "gelu") != "gelu":
        raise ValueError(
            f"{path} must have hidden_act 'gelu', got {shown(content['hidden_act'])}; choose another model"
        )
    sizes = {name: _size(content.get(name), largest, name, path) for name, largest in SIZES.items()}
    flags = {name: _flag(content.get(name, default), name, path) for name, default in FLAGS.items()}
    epsilon = _number(content.get("layer_norm_eps", 1e-5), "layer_norm_eps", 1.0, path)
    rotary = _rotary(content, path)
    head_size, left = divmod(sizes["hidden_size"], sizes["num_attention_heads"])
    if left or int(head_size * rotary["partial_rotary_factor"]) % 2:
        raise ValueError(f"{path} must divide hidden_size into heads whose rotary part is even; correct it")
    return GPTNeoXConfig(**sizes, **flags, layer_norm_eps=epsilon, rope_parameters=rotary)


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        content = json.loads(text.decode("utf-8")) if len(text) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be one JSON object of at most {MAX_CONFIG_BYTES} bytes; fetch it again")
    return content


def _size(value: object, largest: int, name: str, path: Path) -> int:
    if type(value) is not int or not 1 <= value <= largest:
        raise ValueError(f"{name} must be an integer from 1 to {largest}, got {shown(value)}; correct {path}")
    return value


def _flag(value: object, name: str, path: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}; correct {path}")
    return value


def _number(value: object, name: str, largest: float, path: Path) -> float:
    if type(value) not in (int, float) or not 0 < value <= largest:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"{name} must be a number above 0 and at most {largest:g}, got {shown(value)}; correct {path}")
    return float(value)  # pyright: ignore[reportArgumentType]


def _rotary(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Rotary positions as `rope_parameters` says, or in the older words that Pythia's checkpoints have."""
    said = content.get("rope_parameters") or content.get("rope_scaling") or {}
    kind = said.get("rope_type", said.get("type", "default")) if isinstance(said, dict) else said
    if kind != "default":
        raise ValueError(f"{path} must have unscaled rotary positions, got {shown(kind)}; choose another model")
    share = said.get("partial_rotary_factor", content.get("rotary_pct", 0.25))
    base = said.get("rope_theta", content.get("rotary_emb_base", 10_000))
    share, base = _number(share, "rotary_pct", 1.0, path), _number(base, "rotary_emb_base", 1e15, path)
    return {"rope_type": "default", "partial_rotary_factor": share, "rope_theta": base}


def _shapes(config: GPTNeoXConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that the model needs of its files."""
    width, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    linear = {
        "attention.query_key_value": (3 * width, width),
        "attention.dense": (width, width),
        "mlp.dense_h_to_4h": (inner, width),
        "mlp.dense_4h_to_h": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (vocabulary, width)}
    shapes |= {} if config.tie_word_embeddings else {"embed_out.weight": (vocabulary, width)}
    shapes |= {f"gpt_neox.final_layer_norm.{part}": (width,) for part in ("weight", "bias")}
    for layer in (f"gpt_neox.layers.{number}" for number in range(config.num_hidden_layers)):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{layer}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        for name, shape in linear.items():
            shapes[f"{layer}.{name}.weight"] = shape
            if config.attention_bias or name.startswith("mlp"):
                shapes[f"{layer}.{name}.bias"] = shape[:1]
    return shapes


def _weights(folder: Path, wanted: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as stored:
                parts = {name: stored.get_slice(name) for name in wanted.keys() & set(stored.keys())}
                if twice := parts.keys() & found.keys():
                    raise ValueError(f"{folder} holds {min(twice)} in two files; remove one of them")
                for name, part in parts.items():
                    _check(name, part.get_shape(), part.get_dtype(), wanted[name], path)
                # Copied: a map of the file would change with it, and end the process where the file is cut.
                found |= {name: stored.get_tensor(name).to(device, dtype, copy=True) for name in parts}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{folder} lacks {len(missing)} weights, {missing[0]} among them; fetch the model again")
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise ValueError(f"{folder} holds nan or infinite values in {name}; fetch the model again")
    return found


def _check(name: str, shape: list[int], dtype: str, wanted: tuple[int, ...], path: Path) -> None:
    if list(shape) != list(wanted) or dtype not in FLOATING:
        raise ValueError(
            f"{name} in {path} must be {list(wanted)} floating-point numbers, as config.json has it, got {dtype} "
            f"{list(shape)}; fetch both files again"
        )
