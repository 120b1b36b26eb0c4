"""Language model and tokenizer from a folder or a Hub name. What is computed with them is in susc_pipeline/model."""

import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, GPTNeoXForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from susc_pipeline.config import ModelSettings
from susc_pipeline.model import tiny
from susc_pipeline.model.gpt_neox import GPTNeoX

EMBEDDED = Path(tiny.__file__).parent / "embedded"
NEEDED_FILES = ("config.json", "tokenizer.json")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
PATTERNS = ("*.json", "*.safetensors", "README.md")


class LoadedModel(NamedTuple):
    """A model as plain tensors on its device, with its tokenizer."""

    model: GPTNeoX
    tokenizer: PreTrainedTokenizerBase


def locate(settings: ModelSettings) -> Path:
    """Folder that holds the model: the embedded one, a local one, or the Hub's snapshot, fetched if need be.

    Raises:
        ValueError: the folder lacks a file, or holds another architecture.
    """
    if settings.source == "embedded":
        folder = EMBEDDED
    elif Path(settings.source).is_dir():
        folder = Path(settings.source)
    else:
        from huggingface_hub import snapshot_download  # only here: everything else works without a network

        try:
            folder = Path(snapshot_download(settings.source, revision=settings.revision, allow_patterns=list(PATTERNS)))
        except Exception as error:
            raise ValueError(
                f"model.source {settings.source!r} is neither `embedded` nor a local folder, and fetching it as a Hub "
                f"name failed ({type(error).__name__}: {error}); correct the name or give a folder"
            ) from error
    _check(folder)
    return folder


def _check(folder: Path) -> None:
    for name in NEEDED_FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; save model and tokenizer there in Hugging Face format")
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no .safetensors file; convert the weights, pickled ones are never loaded")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "gpt_neox":
        raise ValueError(f"the model in {folder} must be of model_type gpt_neox, got {kind!r}; choose a GPT-NeoX")


def load(folder: Path, settings: ModelSettings) -> LoadedModel:
    """The model in a folder, once a process for each folder, type and device.

    Raises:
        ValueError: the tokenizer knows more tokens than the model.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    return _load(folder, settings.dtype, device, (folder / "config.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _load(folder: Path, dtype: str, device: str, changed: int) -> LoadedModel:
    del changed  # part of the key: a folder written anew is loaded anew
    _check(folder)
    transformers_logging.disable_progress_bar()  # it would tear the lines that the walk prints
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    module = GPTNeoXForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
    )
    model = GPTNeoX.from_module(module.to(device).eval().requires_grad_(False))
    if len(tokenizer) > model.vocabulary_size:
        raise ValueError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, but the model only {model.vocabulary_size}; "
            f"use the tokenizer that belongs to the model"
        )
    return LoadedModel(model, tokenizer)


def token_texts(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> list[str]:
    """Readable text of every token id; bytes that are no UTF-8 by themselves are shown as such: ⟨e2 80⟩."""
    return [_token_text(tokenizer, token) for token in range(vocabulary_size)]


def _token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    piece = tokenizer.convert_ids_to_tokens(token)
    if REPLACEMENT not in text or piece is None or not set(piece) <= set(BYTE_OF):
        return text
    shown = bytes(BYTE_OF[character] for character in piece).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]+", lambda found: f"⟨{' '.join(f'{ord(c) - 0xDC00:02x}' for c in found[0])}⟩", shown)


def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: printable ones themselves, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(rest)}


BYTE_OF = _byte_of()
