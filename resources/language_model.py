"""Where the language model comes from: a folder or a Hub name. Loading a folder is in susc_pipeline/model/pretrained.py."""

import functools
from dataclasses import dataclass
from pathlib import Path

from susc_pipeline.model import pretrained
from susc_pipeline.model.pretrained import LoadedModel, ModelSettings

PATTERNS = ("*.json", "*.safetensors", "README.md")


@dataclass(frozen=True)
class LanguageModelFolder:
    """A stored language model."""

    path: Path

    def load(self, settings: ModelSettings) -> LoadedModel:
        """Model and tokenizer on the device of the settings."""
        return load(self.path, settings)

    def outline(self, settings: ModelSettings) -> LoadedModel:
        """The model without its weights, and its tokenizer: for who needs names, sizes and texts alone."""
        return outline(self.path, settings)


def locate(settings: ModelSettings) -> Path:
    """Folder that holds the model: the embedded one, a local one, or the Hub's snapshot, fetched if need be.

    Raises:
        ValueError: the folder lacks a file, or holds another architecture.
    """
    folder = folder_of(settings)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download  # only here: everything else works without a network

        try:
            folder = Path(snapshot_download(settings.source, revision=settings.revision, allow_patterns=list(PATTERNS)))
        except Exception as error:
            raise ValueError(
                f"model.source {settings.source!r} is neither `embedded` nor a local folder, and fetching it as a Hub "
                f"name failed ({type(error).__name__}: {error}); correct the name or give a folder"
            ) from error
    pretrained.check(folder)
    return folder


def folder_of(settings: ModelSettings) -> Path:
    """The folder that the source names; if there is none, the source is a Hub name."""
    return pretrained.EMBEDDED if settings.source == "embedded" else Path(settings.source).expanduser()


def fetched(settings: ModelSettings, name: str) -> str:
    """Place of one file of a Hub name, fetched if need be.

    Raises:
        ValueError: there is no such file, or no hub.
    """
    from huggingface_hub import hf_hub_download  # only here: everything else works without a network

    try:
        return hf_hub_download(settings.source, name, revision=settings.revision)
    except Exception as error:
        raise ValueError(f"fetching {name} failed: {type(error).__name__}") from error


def load(folder: Path, settings: ModelSettings) -> LoadedModel:
    """The model in a folder, read once a process for each folder, type and device.

    Raises:
        ValueError: the folder holds no model that can be loaded.
    """
    pretrained.check(folder)
    return _load(folder, settings.dtype, settings.device, (folder / "config.json").stat().st_mtime_ns)


def outline(folder: Path, settings: ModelSettings) -> LoadedModel:
    """The model in a folder without its weights, and its tokenizer, read once a process; errors as `load`."""
    pretrained.check(folder)
    return _outline(folder, settings.dtype, (folder / "config.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _load(folder: Path, dtype: str, device: str, changed: int) -> LoadedModel:
    del changed  # part of the key: a folder written anew is loaded anew
    return pretrained.load(folder, dtype=dtype, device=device)


@functools.lru_cache(maxsize=2)
def _outline(folder: Path, dtype: str, changed: int) -> LoadedModel:
    del changed
    return pretrained.outline(folder, dtype=dtype)
