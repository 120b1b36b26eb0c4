"""The tokens to which each component responds most, kept while all tokens pass by a block at a time."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from susc_pipeline.explorer import payload

VALUES = ("response", "response_error", "measured", "measured_error")


class Extremes(NamedTuple):
    """Of each component the tokens of the largest keys so far, in no order; places that no token has taken have no number.

    `token` numbers all predicted tokens of the corpus; `values` are VALUES, in standard deviations over tokens.
    """

    key: Float32[np.ndarray, "components kept"]
    token: Int64[np.ndarray, "components kept"]
    token_id: Int64[np.ndarray, "components kept"]
    values: Float32[np.ndarray, "components kept values"]


def empty(n_components: int, n_kept: int) -> Extremes:
    """No token yet."""
    shape = n_components, n_kept
    values = np.full((*shape, len(VALUES)), np.nan, np.float32)
    return Extremes(np.full(shape, -np.inf, np.float32), np.full(shape, -1), np.full(shape, -1), values)


def add(
    found: Extremes,
    key: Float[np.ndarray, "tokens components"],
    token: Int[np.ndarray, " tokens"],
    token_id: Int[np.ndarray, " tokens"],
    values: Float[np.ndarray, "tokens components values"],
) -> None:
    """Take the tokens of a block, in place, where their keys are larger than the least that is kept; nan never is."""
    n_kept = found.key.shape[1]
    component, row = np.nonzero((key > found.key.min(axis=1)).T)
    numbers, starts = np.unique(component, return_index=True)
    for number, rows in zip(numbers.tolist(), np.split(row, starts[1:]), strict=False):
        own = key[rows, number], token[rows], token_id[rows], values[rows, number]
        both = [np.concatenate([kept[number], new]) for kept, new in zip(found, own, strict=True)]
        best = np.lexsort((both[1], -both[0]))[:n_kept]  # of equal keys the earlier token, however the blocks are cut
        for kept, merged in zip(found, both, strict=True):
            kept[number] = merged[best]


def listed(found: Extremes, component: int) -> dict[str, Any]:
    """One component's tokens as the page reads them, largest key first; beside them the commonest token ids with counts."""
    taken = np.flatnonzero(found.token[component] >= 0)
    order = taken[np.argsort(-found.key[component, taken], kind="stable")]
    ids, counts = np.unique(found.token_id[component, order], return_counts=True)
    most = np.lexsort((ids, -counts))[:3]
    return {
        "token": payload.packed(found.token[component, order]),
        "values": payload.quantized(found.values[component, order]),
        "commonest": [[int(ids[place]), int(counts[place])] for place in most],
    }
