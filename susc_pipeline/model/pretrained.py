"""A language model and its tokenizer from a folder in Hugging Face format: safetensors only, no code of the folder's.

Where the folder comes from is not decided here.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from tokenizers import Tokenizer

from susc_pipeline.messages import require
from susc_pipeline.model import checkpoint
from susc_pipeline.model.decoder import Decoder

if TYPE_CHECKING:
    import transformers  # slow to load

EMBEDDED = Path(__file__).parent / "embedded"
NEEDED_FILES = ("config.json", "tokenizer.json")
MAX_TOKENIZER_BYTES = 1 << 27
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
FALLBACK = re.compile("<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class ModelSettings:
    """Which language model, and how it is held in memory."""

    source: str = "embedded"
    """`embedded`, a local folder in Hugging Face format, or a Hub name."""
    revision: str = "main"
    """Hub revision (branch, tag or commit); not used for a local folder."""
    dtype: str = "float32"
    """Floating-point type of the weights: float32 or bfloat16."""
    device: str = "auto"
    """Torch device; `auto` takes the first GPU, else the CPU."""
    components: tuple[str, ...] = ()
    """Patterns of the components to measure, such as "L*H*", "L12MLP", "embed"; none named: all of the model's."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.dtype in ("float32", "bfloat16"), "model.dtype", self.dtype, "float32 or bfloat16")
        rule = "auto, cpu, or cuda, if need be with a number such as cuda:1"
        require(DEVICE.fullmatch(self.device) is not None, "model.device", self.device, rule)


class LoadedModel(NamedTuple):
    """A model as plain tensors on its device, with its tokenizer."""

    model: Decoder
    tokenizer: "transformers.PreTrainedTokenizerBase"


def check(folder: Path) -> None:
    """Refuse a folder that lacks a file, holds no safetensors, or another architecture.

    Raises:
        ValueError: names the folder and what is wrong.
    """
    for name in NEEDED_FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; save model and tokenizer there in Hugging Face format")
    if not checkpoint.weight_files(folder):
        raise ValueError(f"{folder} has no .safetensors file; convert the weights, pickled ones are never loaded")
    checkpoint.read_config(folder)


def copy(folder: Path, destination: Path) -> None:
    """Copy what a model is read from, and nothing else that may lie beside it, into a new folder."""
    destination.mkdir(parents=True)
    for path in (*(folder / name for name in NEEDED_FILES), *checkpoint.weight_files(folder)):
        shutil.copyfile(path, destination / path.name)


def load(folder: Path, *, dtype: str = "float32", device: str = "auto") -> LoadedModel:
    """The model in a folder, and its tokenizer.

    Args:
        folder: in Hugging Face format.
        dtype: float32 or bfloat16.
        device: of torch; `auto` takes the first GPU, else the CPU.

    Raises:
        ValueError: no model of a known family in safetensors, damaged weights, or a tokenizer of more tokens than the model has.
    """
    check(folder)
    tokenizer = _fitting_tokenizer(folder)  # before the weights: it is refused in a moment
    model = checkpoint.read(folder, dtype=getattr(torch, dtype), device=torch_device(device))
    return LoadedModel(model, tokenizer)


def outline(folder: Path, *, dtype: str = "float32") -> LoadedModel:
    """The model in a folder without its weights, and its tokenizer: enough for names, sizes and texts; errors as `load`."""
    check(folder)
    return LoadedModel(checkpoint.outline(folder, dtype=dtype), _fitting_tokenizer(folder))


def beginning(tokenizer: "transformers.PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The tokens that the tokenizer puts before a text, such as Gemma's <bos>: without them its losses mean nothing."""
    plain, whole = (tokenizer("a", add_special_tokens=added, verbose=False)["input_ids"] for added in (False, True))
    places = range(len(whole) - len(plain) + 1)
    return tuple(next((whole[:place] for place in places if whole[place:][: len(plain)] == plain), ()))


def _fitting_tokenizer(folder: Path) -> "transformers.PreTrainedTokenizerFast":
    n_rows = checkpoint.read_config(folder).vocabulary_size
    tokenizer = _tokenizer(folder / "tokenizer.json", n_rows)
    n_tokens = 1 + max(tokenizer.get_vocab().values(), default=0)
    if n_tokens > n_rows:
        raise ValueError(
            f"the tokenizer in {folder} has {n_tokens} tokens, but the model only {n_rows}; "
            f"use the tokenizer that belongs to the model"
        )
    return tokenizer


def _tokenizer(path: Path, vocabulary_size: int) -> "transformers.PreTrainedTokenizerFast":
    """The tokenizer of `tokenizer.json` alone: tokenizer_config.json may name classes and code.

    What training left in the file is taken out: truncation, padding, and the dropout of merges, which would give other ids each
    time. So are added tokens that the model has no row for: Gemma 3 of texts has one of images. Their text is read as any other.
    """
    from transformers import PreTrainedTokenizerFast  # here: it is slow to load

    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path} has more than {MAX_TOKENIZER_BYTES} bytes; fetch it again")
    try:
        found = _within(Tokenizer.from_buffer(path.read_bytes()), vocabulary_size)
        found.no_truncation()
        found.no_padding()
        if getattr(found.model, "dropout", None):
            found.model.dropout = None
        return PreTrainedTokenizerFast(tokenizer_object=found)
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path} is no tokenizer ({str(error)[:200]}); fetch it again") from error


def _within(tokenizer: Tokenizer, vocabulary_size: int) -> Tokenizer:
    if all(token < vocabulary_size for token in tokenizer.get_added_tokens_decoder()):
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < vocabulary_size]
    return Tokenizer.from_str(json.dumps(content))


def torch_device(setting: str) -> str:
    """The device that a setting means in this process: `auto` is the first GPU, else the CPU."""
    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"


def token_texts(tokenizer: "transformers.PreTrainedTokenizerBase", vocabulary_size: int) -> list[str]:
    """Readable text of every token id; bytes that are no UTF-8 by themselves are shown as such: ⟨e2 80⟩."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(backend.to_str())["decoder"], ensure_ascii=False) if backend else ""
    has_spaces = SPACE in decoder or '"Metaspace"' in decoder
    return [_token_text(tokenizer, token, has_spaces=has_spaces) for token in range(vocabulary_size)]


def _token_text(tokenizer: "transformers.PreTrainedTokenizerBase", token: int, *, has_spaces: bool) -> str:
    piece = tokenizer.convert_ids_to_tokens(token)
    if has_spaces and isinstance(piece, str):  # decoded alone, a token of SentencePiece would lose its space
        byte = FALLBACK.fullmatch(piece)
        if byte is None:
            return piece.replace(SPACE, " ")
        return chr(int(byte[1], 16)) if int(byte[1], 16) < 0x80 else f"⟨{byte[1].lower()}⟩"
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
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
