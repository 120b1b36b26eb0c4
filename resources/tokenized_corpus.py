"""The experiment's corpus as tokenized documents, read once a process."""

import functools
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from resources import language_model
from susc_pipeline import corpus, tokens
from susc_pipeline.corpus import CorpusSettings, Document
from susc_pipeline.model import pretrained
from susc_pipeline.model.pretrained import ModelSettings
from susc_pipeline.tokens import TokenizedDocument


def documents(settings: CorpusSettings) -> Iterator[Document]:
    """Documents of the corpus that the settings name."""
    match settings.kind:
        case "python_standard_library":
            return corpus.python_standard_library(Path(sysconfig.get_path("stdlib")))
        case "files":
            place, longest = Path(settings.path).expanduser(), settings.max_document_characters
            return corpus.local_files(place, text_column=settings.text_column, max_document_characters=longest)
        case _:
            return corpus.hub_dataset(
                settings.path,
                revision=settings.revision,
                split=settings.split,
                text_column=settings.text_column,
                max_documents=settings.max_documents,
            )


def fingerprint(settings: CorpusSettings) -> str:
    """What changes when the corpus does, as far as that can be told without reading it.

    The standard library changes with the interpreter, a Hub data set with its revision, which is among the settings.
    """
    match settings.kind:
        case "python_standard_library":
            return platform.python_version()
        case "files":
            return corpus.fingerprint(Path(settings.path).expanduser())
        case _:
            return settings.revision


@functools.lru_cache(maxsize=1)
def tokenized(
    settings: CorpusSettings, model_folder: Path, model: ModelSettings, fingerprint: str
) -> list[TokenizedDocument]:
    """The corpus in tokens of the model in `model_folder`; `fingerprint` is part of the key under which it is kept."""
    del fingerprint
    return tokens.tokenize(documents(settings), language_model.outline(model_folder, model).tokenizer)


def beginning(model_folder: Path, model: ModelSettings) -> tuple[int, ...]:
    """The tokens that begin a context, as the tokenizer in `model_folder` has them."""
    return pretrained.beginning(language_model.outline(model_folder, model).tokenizer)
