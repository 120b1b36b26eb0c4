"""Every token of a text measured by linear response, as the corpus was. Near tokens and clusters are in neighborhood.py.

A text longer than a context is read through windows of one context, each half a context after the one before. A token's
values come from the first window that holds it, so it has at least half a context before it, and only the first of a text is not
predicted. A text of one context is that context.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from susc_pipeline import corpus
from susc_pipeline.model import pretrained
from susc_pipeline.model.components import Component
from susc_pipeline.model.decoder import Decoder
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.representation import pca, whitening
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.representation.whitening import WhiteningBasis
from susc_pipeline.susceptibility import linear_response
from susc_pipeline.susceptibility.direction_files import StoredDirections
from susc_pipeline.susceptibility.linear_response import LinearResponse

if TYPE_CHECKING:
    import transformers  # slow to load

MAX_CHARACTERS = 20_000
MAX_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class Instrument:
    """What measures a text."""

    loaded: LoadedModel
    halves: Mapping[Component, StoredDirections]
    """Mean directions of both halves of the chains, of `direction_files.halves`; components in the order of the basis."""
    basis: PCABasis
    whitening: WhiteningBasis
    context_length: int
    """Tokens of a context of the corpus."""


class Halved(NamedTuple):
    """A value of each token, and half of what the two halves of the chains differ by: its size is the error."""

    value: Float[np.ndarray, "tokens columns"]
    half_difference: Float[np.ndarray, "tokens columns"]
    """(a - b) / 2, with its sign: a difference of two tokens has the difference of both for its error."""


class Measured(NamedTuple):
    """The predicted tokens of a text."""

    losses: Float[np.ndarray, " tokens"]
    """In nats."""
    responses: Halved
    """Linear response to each component, in standard deviations of the basis from its mean token."""
    scores: Halved
    """The same on each principal component of the basis."""
    whitened: Float[np.ndarray, "tokens directions"]


class Progress(NamedTuple):
    """How far a measurement is."""

    done: int
    total: int
    """Windows."""


def token_ids(tokenizer: "transformers.PreTrainedTokenizerBase", text: str) -> Int[np.ndarray, " tokens"]:
    """The tokens of a text, read as the corpus was: special tokens come with the contexts.

    Raises:
        ValueError: the text has fewer than two tokens or too many, or half a surrogate pair, which is no character.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"A text may have {MAX_CHARACTERS:,} characters; this one has {len(text):,}. Shorten it.")
    if not corpus.is_text(text):
        raise ValueError("The text holds half of a surrogate pair, which is no character. Take it out.")
    try:
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:  # the library raises nothing more special, and its message may hold the text
        raise ValueError(f"The tokenizer cannot read this text ({type(error).__name__}).") from None
    found = np.asarray(encoded, dtype=np.int64)
    if not 2 <= len(found) <= MAX_TOKENS:
        raise ValueError(
            f"A text must have 2 to {MAX_TOKENS:,} tokens, for the first is not predicted; this one has {len(found):,}."
        )
    return found


def windows(n_tokens: int, length: int) -> Int[np.ndarray, " windows"]:
    """Where the windows of a text begin: half a window apart, the last at the end of the text."""
    last = max(n_tokens - length, 0)
    return np.append(np.arange(0, last, max(length // 2, 1)), last)


def new_tokens(starts: Int[np.ndarray, " windows"], length: int) -> list[slice]:
    """Of each window's predicted tokens those that no window before holds; a window's first token is not predicted."""
    known = np.concatenate([[1], starts[:-1] + length])  # the text's own first token counts as known
    return [slice(int(first), None) for first in known - starts - 1]


def whole_document(
    model: Decoder,
    halves: Mapping[Component, StoredDirections],
    tokens: Int[np.ndarray, " tokens"],
    *,
    context_length: int,
    beginning: Sequence[int] = (),
) -> LinearResponse:
    """Linear responses of all tokens of a text but the first, in nats squared; the text may be as long as it likes.

    Args:
        model: at w*.
        halves: as of `direction_files.halves`.
        tokens: of the text, two or more.
        context_length: tokens of a window, its beginning included.
        beginning: of each window, as of `pretrained.beginning`.
    """
    length = min(context_length - len(beginning), len(tokens))
    starts = windows(len(tokens), length)
    contexts = np.stack([np.r_[beginning, tokens[start : start + length]] for start in starts]).astype(tokens.dtype)
    found = linear_response.estimate(model, contexts, halves)
    rows = np.arange(found.losses.size).reshape(len(starts), -1)[:, len(beginning) :]
    new = np.concatenate([row[part] for row, part in zip(rows, new_tokens(starts, length), strict=True)])
    return LinearResponse(found.losses[new], found.half_a[new], found.half_b[new])


def measure(instrument: Instrument, tokens: Int[np.ndarray, " tokens"]) -> Iterator[Progress | Measured]:
    """Progress after each window, and last what was measured of all tokens but the first."""
    beginning = pretrained.beginning(instrument.loaded.tokenizer)
    length = min(instrument.context_length - len(beginning), len(tokens))
    starts, parts = windows(len(tokens), length), []
    for number, (start, new) in enumerate(zip(starts, new_tokens(starts, length), strict=True)):
        context = np.r_[beginning, tokens[start : start + length]].astype(tokens.dtype)[None]
        found = linear_response.estimate(instrument.loaded.model, context, instrument.halves)
        own = (array[len(beginning) :][new] for array in (found.losses, found.half_a, found.half_b))
        parts.append(tuple(own))
        yield Progress(number + 1, len(starts))
    losses, half_a, half_b = (np.concatenate(arrays) for arrays in zip(*parts))
    yield placed(instrument, losses, half_a, half_b)


def placed(
    instrument: Instrument,
    losses: Float[np.ndarray, " tokens"],
    half_a: Float[np.ndarray, "tokens components"],
    half_b: Float[np.ndarray, "tokens components"],
) -> Measured:
    """Linear responses by either half, in nats squared, in the coordinates of the corpus."""
    basis = instrument.basis
    value, difference = (half_a + half_b) / 2, (half_a - half_b) / 2
    responses = Halved((value - basis.mean) / basis.scale, difference / basis.scale)
    scores = Halved(pca.transform(value, basis), responses.half_difference @ basis.components.T)
    # Whitened susceptibilities are made of stored scores, which have four bytes.
    whitened = whitening.transform(scores.value.astype(np.float32), instrument.whitening)
    return Measured(losses, responses, scores, whitened)
