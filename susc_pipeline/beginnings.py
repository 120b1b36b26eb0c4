"""The tokens with which a tokenizer begins a text, such as <bos>, before each context. Which they are, pretrained.py says.

Llama, Mistral and Gemma never saw a text without them in training. Contexts are cut in tokens.py.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from susc_pipeline.messages import require
from susc_pipeline.tokens import TokenizedDocument


def begun(
    documents: Sequence[TokenizedDocument], beginning: Sequence[int], context_length: int
) -> list[TokenizedDocument]:
    """The documents as contexts are cut from them: each context's worth of tokens after those that begin a text."""
    return [
        document._replace(token_ids=with_beginnings(document.token_ids, beginning, context_length))
        for document in documents
    ]


def with_beginnings(
    token_ids: Int[np.ndarray, " tokens"], beginning: Sequence[int], context_length: int
) -> Int[np.ndarray, " longer"]:
    """A text's tokens with the beginning before each context: pieces of `context_length` are the contexts.

    Args:
        token_ids: of the text, without special tokens.
        beginning: as of `pretrained.beginning`; none for most models.
        context_length: tokens of a context, those of the beginning included.

    Raises:
        ValueError: the beginning leaves no room for a token of the text.
    """
    if not beginning:
        return token_ids
    n_own = context_length - len(beginning)
    rule = f"at least {len(beginning) + 1}: the tokenizer begins a text with {len(beginning)} tokens of its own"
    require(n_own >= 1, "tokens.context_length", context_length, rule)
    before = np.asarray(beginning, token_ids.dtype)
    pieces = [part for start in range(0, len(token_ids), n_own) for part in (before, token_ids[start : start + n_own])]
    return np.concatenate(pieces) if pieces else token_ids
