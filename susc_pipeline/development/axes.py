"""Principal axes of one checkpoint beside those of another: matched by |cosine| of loadings, with their chance level."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

N_PERMUTATIONS = 200


class Matched(NamedTuple):
    """Pairs of axes, one of each checkpoint, by falling |cosine|."""

    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    cosine: Float[np.ndarray, " pairs"]
    """Of the loadings, without its sign, which means nothing."""


def matched(first: Float[np.ndarray, "axes components"], second: Float[np.ndarray, "others components"]) -> Matched:
    """The one-to-one matching of unit axes with the largest sum of |cosine| (Kuhn 1955)."""
    cosine = np.abs(first @ second.T)
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    order = np.argsort(-cosine[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    return Matched(rows, columns, np.minimum(cosine[rows, columns], 1.0))


def chance(
    first: Float[np.ndarray, "axes components"],
    second: Float[np.ndarray, "others components"],
    rng: np.random.Generator,
    *,
    n_permutations: int = N_PERMUTATIONS,
) -> Float[np.ndarray, "permutations pairs"]:
    """|Cosine| by rank of the pair after the components of `second` are renamed at random, which keeps its axes orthonormal."""
    shuffled = (second[:, rng.permutation(second.shape[1])] for _ in range(n_permutations))
    return np.stack([matched(first, other).cosine for other in shuffled])


def shared_subspace(
    first: Float[np.ndarray, "axes components"], second: Float[np.ndarray, "others components"]
) -> tuple[float, float]:
    """Share of the first's axes that lies in the span of the second's, 0 to 1, and its expectation for random axes.

    It is the mean squared cosine of principal angles, |AB'|^2 / axes, for orthonormal rows; by chance others / components.
    """
    return float(np.square(first @ second.T).sum() / len(first)), len(second) / second.shape[1]
