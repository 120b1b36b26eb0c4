"""Interval of a statistic of tokens by leaving out groups of documents. What is measured is in leakage.py.

For statistics of nearest neighbours this is the honest one of the usual ways: a bootstrap draws documents with repetition,
and copies of a token are its nearest neighbours in every space (Abadie and Imbens 2008 on why it fails there).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

N_GROUPS = 20


class Interval(NamedTuple):
    """A statistic of all tokens, and the ends of its 95 % interval."""

    estimate: float
    low: float
    high: float


def document_groups(
    documents: Int[np.ndarray, " tokens"], rng: np.random.Generator, *, n_groups: int = N_GROUPS
) -> Int[np.ndarray, " tokens"]:
    """A group for each token, 0 ... : documents whole and in random order, so that groups have about equally many."""
    _, document = np.unique(documents, return_inverse=True)
    n_documents = int(document.max()) + 1
    if n_documents < 2:
        raise ValueError("an interval over documents needs at least 2 documents, got 1; withhold more of them")
    return (rng.permutation(n_documents) % min(n_groups, n_documents))[document]


def interval(
    measure: Callable[[Bool[np.ndarray, " tokens"]], float], groups: Int[np.ndarray, " tokens"], *, level: float = 0.95
) -> Interval:
    """The statistic of all tokens, give or take Student's t times the delete-a-group jackknife's standard error.

    error^2 = (G - 1) / G * sum_g (without_g - mean)^2, with G - 1 degrees of freedom (Tukey 1958; Shao and Tu 1995): rather
    too large than too small (Efron and Stein 1981), by a third for shared neighbours on the tests' toy. That a statistic
    changes with the number of tokens does not matter, for it does so alike in all groups.

    Args:
        measure: the statistic of the tokens that are true.
        groups: of each token, as `document_groups` gives them.
        level: how often the interval should hold the statistic's mean over samples of this size.
    """
    return intervals(lambda kept: np.array([measure(kept)]), groups, level=level)[0]


def intervals(
    measure: Callable[[Bool[np.ndarray, " tokens"]], Float[np.ndarray, " statistics"]],
    groups: Int[np.ndarray, " tokens"],
    *,
    level: float = 0.95,
) -> list[Interval]:
    """The same of several statistics of the same tokens, which are measured together."""
    n_groups = int(groups.max()) + 1
    without = np.stack([measure(groups != group) for group in range(n_groups)])
    error = np.sqrt((n_groups - 1) * np.var(without, axis=0))
    width = scipy.stats.t.ppf((1 + level) / 2, n_groups - 1) * error
    estimate = measure(np.ones(len(groups), dtype=bool))
    ends = zip(estimate.tolist(), (estimate - width).tolist(), (estimate + width).tolist(), strict=True)
    return [Interval(*each) for each in ends]
