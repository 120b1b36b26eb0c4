"""Readouts: what an observable reads of the model, contexts and a number that is made of the losses of their tokens.

The observable phi of the run is the mean loss of the population. An experiment may name others: the loss of a corpus or of one
text, the logit difference of minimal pairs, or a function of its own. All are functions of token losses: a logit difference is a
difference of losses after the same prompt. How the response directions of a readout are found is in observable_directions.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from susc_pipeline.messages import require, shown
from susc_pipeline.model import decoder
from susc_pipeline.model.decoder import Decoder

KINDS = {"corpus": ("documents", "file"), "text": ("text",), "pairs": ("file",), "function": ("text", "file")}
MAX_CONTEXTS = 64  # of a readout that every draw reads as a whole
Function = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Observable:
    """An observable beside the run's own, the mean loss of the population; `kind` says what it reads."""

    name: str
    """By which tables and pages show it."""
    kind: str
    """`corpus` (mean loss of `documents` or of a `file`), `text` (mean loss of a `text`), `pairs` (mean logit difference,
    good less bad, of the pairs in a `file`), or `function` (what a `function` of yours makes of the losses of a `text` or a
    `file`)."""
    documents: str = ""
    """Documents of the population whose names match, such as `asyncio/*`; `*` is the run's own observable."""
    file: str = ""
    """Texts that `corpus.path` could name, relative to the experiment's file. For pairs: JSON lines with prompt, good and bad."""
    text: str = ""
    """A text of at most one context."""
    function: str = ""
    """A Python file with one function, relative to the experiment's file. It takes a list of tensors, the losses of each
    context's tokens, and returns one number as a tensor with a gradient. It is code that runs: name only a file you trust."""

    def __post_init__(self) -> None:
        """Check the values."""
        require(self.kind in KINDS, f"observables {self.name!r}: kind", self.kind, f"one of {tuple(KINDS)}")
        given = [key for key in ("documents", "file", "text") if getattr(self, key)]
        rule = f"given exactly one of {' and '.join(KINDS[self.kind])}, for its kind is {self.kind!r}"
        require(len(given) == 1 and given[0] in KINDS[self.kind], f"observables {self.name!r}", given, rule)
        rule = "a Python file for kind 'function', and not given for another"
        require(bool(self.function) == (self.kind == "function"), "observables.function", self.function, rule)


class Readout(NamedTuple):
    """Contexts of each chain, and how the losses of their tokens make a number."""

    name: str
    parts: tuple[Int[np.ndarray, "contexts positions"], ...]
    """Of each chain; shorter contexts are filled up behind."""
    weights: tuple[Float[np.ndarray, "contexts predicted"], ...]
    """Of each loss in the number, zero where a context was filled up; for a function, one where there is a loss."""
    function: Function | None = None
    is_sampled: bool = False
    """Whether a step of the chains reads a few of the contexts, others at each; else it reads them all."""

    def batch(self, first: int, n_contexts: int) -> "Readout":
        """What a step reads: the next contexts of every part from number `first` on, their weights raised to stand for all."""
        if not self.is_sampled:
            return self
        rows = [np.arange(first, first + n_contexts) % len(part) for part in self.parts]
        parts = tuple(part[row] for part, row in zip(self.parts, rows, strict=True))
        weights = tuple(
            weight[row] * np.float32(len(weight) / n_contexts) for weight, row in zip(self.weights, rows, strict=True)
        )
        return self._replace(parts=parts, weights=weights)

    def value(
        self, losses: Float[Tensor, "contexts predicted"], weights: Float[Tensor, "contexts predicted"]
    ) -> Float[Tensor, ""]:
        """The number, of one chain's losses."""
        if self.function is None:
            return (losses * weights).sum()
        return self.function([row[weight != 0] for row, weight in zip(losses, weights, strict=True)])


def of_texts(
    name: str,
    texts: Sequence[Int[np.ndarray, " _"]],
    *,
    context_length: int,
    function: Function | None = None,
    is_sampled: bool = False,
) -> Readout:
    """A readout of texts that all chains read: their mean loss over tokens, or a function of the losses.

    Args:
        name: of the observable.
        texts: of two tokens or more; a longer one than a context is cut.
        context_length: tokens of a context.
        function: of the losses; none: the mean.
        is_sampled: whether a step reads a few contexts only.

    Raises:
        ValueError: there are more contexts than a step can read.
    """
    length = context_length
    pieces = [text[start : start + length] for text in texts for start in range(0, len(text) - 1, length)]
    ids, known = padded(pieces)
    weights = known if function else known / known.sum(dtype=np.float32)
    if not is_sampled:
        require_few(name, len(ids))
    return Readout(name, (ids,), (weights.astype(np.float32),), function, is_sampled)


def of_population(name: str, parts: Sequence[Int[np.ndarray, "contexts positions"]]) -> Readout:
    """The mean loss of whole contexts; each chain has its own, or all chains the same where one part is given."""
    weights = tuple(
        np.full((len(part), part.shape[1] - 1), 1 / (len(part) * (part.shape[1] - 1)), np.float32) for part in parts
    )
    return Readout(name, tuple(parts), weights, is_sampled=True)


class Pair(NamedTuple):
    """A prompt in tokens, and two ways in which it may go on."""

    prompt: Int[np.ndarray, " prompt"]
    good: Int[np.ndarray, " good"]
    bad: Int[np.ndarray, " bad"]


def of_pairs(name: str, pairs: Sequence[Pair], *, context_length: int) -> Readout:
    """Mean over pairs of log p(good | prompt) - log p(bad | prompt): for answers of one token the difference of their logits.

    Raises:
        ValueError: a pair is longer than a context, its answers are the same, or there are more pairs than a step can read.
    """
    texts, signs = [], []
    for number, pair in enumerate(pairs):
        where = f"pair {number + 1} of observable {name!r}"
        if np.array_equal(pair.good, pair.bad):
            raise ValueError(f"{where} has the same answer twice; give a good one and a bad one")
        for answer, sign in ((pair.good, -1), (pair.bad, 1)):
            text = np.concatenate([pair.prompt, answer])
            if not len(pair.prompt) or not len(answer) or len(text) > context_length:
                raise ValueError(
                    f"{where} must have a prompt and answers, together at most {context_length} tokens; shorten it"
                )
            texts.append(text)
            signs.append(np.r_[np.zeros(len(pair.prompt) - 1), np.full(len(answer), sign / len(pairs))])
    ids, _ = padded(texts)
    require_few(name, len(ids))
    weights = np.zeros((len(ids), ids.shape[1] - 1), np.float32)
    for row, sign in zip(weights, signs, strict=True):
        row[: len(sign)] = sign
    return Readout(name, (ids,), (weights,))


def padded(
    texts: Sequence[Int[np.ndarray, " _"]],
) -> tuple[Int[np.ndarray, "contexts positions"], Float[np.ndarray, "contexts predicted"]]:
    """The texts filled up to the longest with their last token, which changes no loss before, and one where there is a loss."""
    length = max(map(len, texts))
    ids = np.stack([np.pad(text, (0, length - len(text)), mode="edge") for text in texts]).astype(np.int64)
    known = np.arange(1, length)[None] < np.array([len(text) for text in texts])[:, None]
    return ids, known.astype(np.float32)


def require_few(name: str, n_contexts: int) -> None:
    """Refuse a readout that every draw reads as a whole and that is too long for that."""
    if n_contexts > MAX_CONTEXTS:
        raise ValueError(
            f"observable {name!r} has {n_contexts} contexts, but every draw reads them all: {MAX_CONTEXTS} at most; shorten its "
            f"file, or take kind 'corpus', of which a draw reads a few"
        )


def require_finite(readout: Readout, model: Decoder) -> None:
    """Refuse a readout without a finite number and gradient at w*, or a function that fails or returns something else.

    Raises:
        ValueError: it is.
    """
    first = readout.batch(0, min(4, len(readout.parts[0])))
    losses = decoder.token_losses(model, torch.as_tensor(first.parts[0])).float().requires_grad_()
    try:
        with torch.enable_grad():
            found = first.value(losses, torch.as_tensor(first.weights[0], device=losses.device))
            if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
                raise TypeError(f"it returned {shown(found)}")
            (gradient,) = torch.autograd.grad(found, losses)
    except Exception as error:  # a user's function may raise anything
        raise ValueError(
            f"observable {readout.name!r} failed on the losses at the trained weights ({type(error).__name__}: "
            f"{str(error)[:200]}); its function must return one number as a tensor through which gradients pass: no "
            f"float(), item() or detach()"
        ) from error
    for what, values in (("", found.detach()), (" in its gradient", gradient)):
        if not torch.isfinite(values).all():
            odd = float(values[~torch.isfinite(values)][0])
            raise ValueError(
                f"observable {readout.name!r} is {odd}{what} at the trained weights; correct what it reads"
            )
