"""Points to a symmetric weighted k-nearest-neighbour graph (CSR). Whitening is in representation, clusters in search.py."""

import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy import sparse

BACKENDS = ("auto", "exact", "pynndescent")
KERNELS = ("self_tuning", "gaussian", "inverse_distance", "unit")
EXACT_MAX_POINTS = 30_000
SCALE_NEIGHBOR = 7
SHARPNESS = 2.0


@dataclass(frozen=True)
class KNNSettings:
    """How points become a graph."""

    n_neighbors: int = 45
    """Neighbours of each token, itself not counted."""
    kernel: str = "self_tuning"
    """How an edge's weight falls with distance: self_tuning, gaussian, inverse_distance or unit."""
    backend: str = "auto"
    """How neighbours are found: exact, pynndescent (approximate), or auto: by the number of points."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1, got {self.n_neighbors}; 45 is published")
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, got {self.kernel!r}; self_tuning is the default")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {self.backend!r}; auto is the default")


class Neighbors(NamedTuple):
    """For each token its neighbours, nearest first, and their Euclidean distances; index -1 where one is missing."""

    indices: Int[np.ndarray, "tokens neighbors"]
    distances: Float[np.ndarray, "tokens neighbors"]


def knn_graph(
    points: Float[np.ndarray, "tokens pcs"], settings: KNNSettings, rng: np.random.Generator
) -> sparse.csr_array:
    """Symmetric weighted graph that joins two tokens where either is among the nearest neighbours of the other."""
    return graph_of_neighbors(nearest_neighbors(points, settings, rng), kernel=settings.kernel)


def nearest_neighbors(
    points: Float[np.ndarray, "tokens pcs"], settings: KNNSettings, rng: np.random.Generator
) -> Neighbors:
    """The nearest other tokens of each token, by the backend of the settings."""
    check_points(points, settings.n_neighbors)
    backend = settings.backend
    if backend == "auto":
        backend = "exact" if len(points) <= EXACT_MAX_POINTS else "pynndescent"
    if backend == "exact":
        return exact_neighbors(points, settings.n_neighbors)
    return approximate_neighbors(points, settings.n_neighbors, rng)


def check_points(points: Float[np.ndarray, "tokens pcs"], n_neighbors: int) -> None:
    """Refuse points that are not numbers, and fewer points than neighbours."""
    n_bad = int(np.sum(~np.isfinite(points).all(axis=1)))
    if n_bad:
        raise ValueError(f"points must be finite, got {n_bad} of {len(points)} with nan or infinity; drop those tokens")
    if len(points) <= n_neighbors:
        raise ValueError(
            f"n_neighbors must be less than the number of points, got {n_neighbors} for {len(points)} points; "
            f"lower knn.n_neighbors to at most {max(len(points) - 1, 0)} or cluster more tokens"
        )


def exact_neighbors(points: Float[np.ndarray, "tokens pcs"], n_neighbors: int) -> Neighbors:
    """Nearest neighbours by comparing all pairs."""
    import faiss

    index = faiss.IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(points, np.float32))
    squared, indices = index.search(np.ascontiguousarray(points, np.float32), n_neighbors + 1)
    return without_self(indices, np.sqrt(np.maximum(squared, 0)))


def approximate_neighbors(
    points: Float[np.ndarray, "tokens pcs"], n_neighbors: int, rng: np.random.Generator
) -> Neighbors:
    """Nearest neighbours by NN-descent."""
    import pynndescent

    seed = int(rng.integers(2**31))
    index = pynndescent.NNDescent(points, n_neighbors=n_neighbors + 1, random_state=seed)
    indices, distances = typing.cast("tuple[np.ndarray, np.ndarray]", index.neighbor_graph)
    return without_self(indices, distances)


def without_self(indices: Int[np.ndarray, "tokens found"], distances: Float[np.ndarray, "tokens found"]) -> Neighbors:
    """Neighbours with the token itself taken out, or the farthest where it was not found among its duplicates."""
    is_self = indices == np.arange(len(indices))[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(indices), indices.shape[1] - 1)
    return Neighbors(indices[~is_self].reshape(shape), distances[~is_self].reshape(shape).astype(np.float32))


def graph_of_neighbors(neighbors: Neighbors, *, kernel: str) -> sparse.csr_array:
    """Weighted graph of found neighbours, with mean weighted degree equal to the number of neighbours."""
    n_points, n_neighbors = neighbors.indices.shape
    is_found = neighbors.indices.ravel() >= 0
    sources = np.repeat(np.arange(n_points), n_neighbors)[is_found]
    targets = neighbors.indices.ravel()[is_found]
    weights = edge_weights(neighbors, sources, targets, neighbors.distances.ravel()[is_found], kernel)
    keep = weights > np.finfo(np.float32).eps
    directed = sparse.csr_array((weights[keep], (sources[keep], targets[keep])), shape=(n_points, n_points))
    graph = directed.maximum(directed.T).tocsr()
    graph.sort_indices()
    graph.data = (graph.data * (n_neighbors * n_points / graph.data.sum())).astype(np.float32)
    return graph


def edge_weights(
    neighbors: Neighbors,
    sources: Int[np.ndarray, " edges"],
    targets: Int[np.ndarray, " edges"],
    distances: Float[np.ndarray, " edges"],
    kernel: str,
) -> Float[np.ndarray, " edges"]:
    """Weight of each edge by its length.

    self_tuning: exp(-2 d^2 / (s_i s_j)) with s the distance to a token's seventh neighbour (Zelnik-Manor and Perona 2004,
    whose exponent lacks the 2); gaussian: exp(-2 d^2 / median(s)^2); inverse_distance: 1 / d; unit: 1. A scale taken
    from the farthest neighbour would be that of the surroundings in a cluster of fewer points than neighbours, and the
    factor sharpens what distances in many dimensions tell apart too little.
    """
    distances = distances.astype(np.float64)
    is_near = (neighbors.indices >= 0) & (np.arange(neighbors.indices.shape[1]) < SCALE_NEIGHBOR)
    scale = neighbors.distances.max(axis=1, where=is_near, initial=0).astype(np.float64)
    # Where most points are duplicates the median is zero; the root keeps products of two scales above zero.
    floor = max(np.median(scale) * 1e-3, np.sqrt(np.finfo(np.float64).tiny))
    scale = np.maximum(scale, floor)
    if kernel == "self_tuning":
        return np.exp(-SHARPNESS * distances**2 / (scale[sources] * scale[targets]))
    if kernel == "gaussian":
        return np.exp(-SHARPNESS * distances**2 / max(np.median(scale), floor) ** 2)
    if kernel == "inverse_distance":
        return 1 / (distances + floor)
    return np.ones_like(distances)


def save(graph: sparse.csr_array, folder: Path) -> None:
    """Write config.json and graph.safetensors (CSR arrays) into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(getattr(graph, name)) for name in ("indptr", "indices", "data")}
    save_file(arrays, folder / "graph.safetensors")
    config = {"kind": "knn_graph", "n_vertices": graph.shape[0]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> sparse.csr_array:
    """The graph that `save` wrote, equal to the last bit."""
    stored = open_stored(folder)
    arrays = load_file(folder / "graph.safetensors")
    return sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=2 * (stored.n_vertices,))


@dataclass(frozen=True)
class StoredGraph:
    """A graph that stays in its file, of which some rows are read at a time."""

    folder: Path
    n_vertices: int

    def rows(self, first: int, end: int) -> sparse.csr_array:
        """The rows of the vertices first ... end - 1."""
        with safe_open(self.folder / "graph.safetensors", framework="numpy") as file:
            starts = file.get_slice("indptr")[first : end + 1].astype(np.int64)
            indices, data = (file.get_slice(name)[starts[0] : starts[-1]] for name in ("indices", "data"))
        return sparse.csr_array((data, indices, starts - starts[0]), shape=(end - first, self.n_vertices))


def open_stored(folder: Path) -> StoredGraph:
    """The graph that `save` wrote, not yet read."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("kind") != "knn_graph":
        raise ValueError(f"{folder} must hold a knn_graph, got {config.get('kind')!r}; load it with its own module")
    return StoredGraph(folder, config["n_vertices"])
