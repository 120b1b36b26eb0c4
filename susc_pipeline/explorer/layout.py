"""The map: tokens laid out in two dimensions so that those joined by strong edges lie near each other.

UMAP's layout (McInnes, Healy and Melville 2018) of the k-NN graph that the clusters come from, so that the picture and
the clusters rest on the same neighbours. Distances between far points mean nothing.
"""

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy import sparse

MIN_DISTANCE = 0.05
SPREAD = 1.0
NEGATIVE_SAMPLES = 5


def sample(n_tokens: int, max_points: int, rng: np.random.Generator) -> Int[np.ndarray, " points"]:
    """The tokens on the map, in order: all, or a random sample."""
    if n_tokens <= max_points:
        return np.arange(n_tokens)
    return np.sort(rng.choice(n_tokens, max_points, replace=False))


def layout(
    graph: sparse.csr_array, start: Float[np.ndarray, "points 2"], *, n_epochs: int, rng: np.random.Generator
) -> Float32[np.ndarray, "points 2"]:
    """Places of the graph's vertices.

    Args:
        graph: symmetric, weights as similarities; of a sample of tokens, the edges within it.
        start: where the vertices begin, such as two directions of the whitened vectors.
        n_epochs: passes over the edges.
        rng: source of the seed.
    """
    from umap.umap_ import find_ab_params, simplicial_set_embedding  # two seconds, for this asset alone

    similarity = sparse.coo_matrix(graph, dtype=np.float32)
    strongest = max(float(similarity.max()), np.finfo(np.float32).tiny) if similarity.nnz else 1.0
    similarity = sparse.coo_matrix(similarity / strongest, dtype=np.float32)
    spread = np.abs(start).max(axis=0)
    scaled = np.ascontiguousarray(10 * start / np.where(spread > 0, spread, 1), dtype=np.float32)
    a, b = find_ab_params(SPREAD, MIN_DISTANCE)
    places, _ = simplicial_set_embedding(
        data=scaled,
        graph=similarity,
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=NEGATIVE_SAMPLES,
        n_epochs=n_epochs,
        init=scaled,
        random_state=np.random.RandomState(int(rng.integers(2**31))),
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
        parallel=False,  # threads move vertices as they come: no two runs of them give one picture
    )
    return np.asarray(places, dtype=np.float32)
