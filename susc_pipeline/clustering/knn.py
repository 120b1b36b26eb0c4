"""Points to a symmetric weighted k-nearest-neighbour graph (CSR), and its file.

Whitening is in representation, the search for neighbours in neighbors.py, graphs larger than memory in blocks.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from jaxtyping import Float, Int
from scipy import sparse

from susc_pipeline import arrays, folders
from susc_pipeline.clustering import neighbors
from susc_pipeline.clustering.neighbors import BACKENDS, Neighbors
from susc_pipeline.messages import shown

KIND = "knn_graph"
PARTS = {"indptr": "i", "indices": "i", "data": "f"}  # and the kinds of their numbers
KERNELS = ("self_tuning", "gaussian", "inverse_distance", "unit")
SCALE_NEIGHBOR = 7
SHARPNESS = 2.0
MAPPED_SHARE = 0.5
# Peak of the graph's making for each neighbour of each token: lists, edges both ways, their weights and the sparse sum of
# both. Measured at 45 neighbours in 64 dimensions: 79 and 96 by NN-descent at 50,000 and 200,000 tokens, 109 by ivf at
# 200,000; the rest is room for larger ones, of which none was measured.
BYTES_OF_A_NEIGHBOR = 130
COPIED_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class KNNSettings:
    """How points become a graph."""

    n_neighbors: int = 45
    """Neighbours of each token, itself not counted."""
    kernel: str = "self_tuning"
    """How an edge's weight falls with distance: self_tuning, gaussian, inverse_distance or unit."""
    backend: str = "auto"
    """How neighbours are found: exact, ivf or pynndescent (both approximate), or auto: exact up to 120,000 points."""
    rows_at_once: int = 0
    """Tokens whose neighbours and edges are in memory at once, the graph being built in files; zero: all, in memory."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1, got {self.n_neighbors}; 45 is published")
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, got {shown(self.kernel)}; self_tuning is the default")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {shown(self.backend)}; auto is the default")
        if self.rows_at_once < 0:
            raise ValueError(f"rows_at_once must be zero or more, got {self.rows_at_once}; zero holds all in memory")


def knn_graph(
    points: Float[np.ndarray, "tokens pcs"], settings: KNNSettings, rng: np.random.Generator
) -> sparse.csr_array:
    """Symmetric weighted graph that joins two tokens where either is among the nearest neighbours of the other.

    Raises:
        ValueError: points that are not finite, or too few of them, or more than memory holds the making of.
    """
    check_memory(points.shape[0], points.shape[1], settings)
    found = neighbors.nearest_neighbors(points, settings.n_neighbors, settings.backend, rng)
    return graph_of_neighbors(found, kernel=settings.kernel)


def check_memory(n_points: int, n_dimensions: int, settings: KNNSettings) -> None:
    """Refuse to make a graph in memory that has no room there.

    Raises:
        ValueError: about how much is needed, how much there is, and what to set.
    """
    needed = n_points * (settings.n_neighbors * BYTES_OF_A_NEIGHBOR + n_dimensions * np.dtype(np.float32).itemsize)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ValueError(
            f"a graph of {n_points:,} tokens with {settings.n_neighbors} neighbours needs about {needed / 2**30:.1f} GiB to be "
            f"made in memory, but {available / 2**30:.1f} GiB are free; set knn.rows_at_once, such as 200000, to make it in files"
        )


def graph_of_neighbors(found: Neighbors, *, kernel: str) -> sparse.csr_array:
    """Weighted graph of found neighbours, with mean weighted degree equal to the number of neighbours."""
    n_points, n_neighbors = found.indices.shape
    sources, targets, distances = edges(found)
    weights = edge_weights(distances, sources, targets, floored(local_scale(found)), kernel)
    keep = weights > np.finfo(np.float32).eps
    directed = sparse.csr_array((weights[keep], (sources[keep], targets[keep])), shape=(n_points, n_points))
    graph = directed.maximum(directed.T).tocsr()
    graph.sort_indices()
    graph.data = (graph.data * (n_neighbors * n_points / graph.data.sum())).astype(np.float32)
    return graph


def edges(
    found: Neighbors, *, first: int = 0
) -> tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " edges"], Float[np.ndarray, " edges"]]:
    """Source, target and length of the edge to each neighbour found, of the tokens first, first + 1, ..."""
    n_points, n_neighbors = found.indices.shape
    is_found = found.indices.ravel() >= 0
    sources = np.repeat(np.arange(first, first + n_points), n_neighbors)[is_found]
    return sources, found.indices.ravel()[is_found], found.distances.ravel()[is_found]


def local_scale(found: Neighbors) -> Float[np.ndarray, " tokens"]:
    """Distance to each token's seventh neighbour: the width of its surroundings.

    A scale taken from the farthest neighbour would be that of the surroundings in a cluster of fewer points than neighbours.
    """
    is_near = (found.indices >= 0) & (np.arange(found.indices.shape[1]) < SCALE_NEIGHBOR)
    return found.distances.max(axis=1, where=is_near, initial=0).astype(np.float64)


def floored(scale: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " tokens"]:
    """Scales, none of them zero: where most points are duplicates their median is, and the root keeps products above zero."""
    return np.maximum(scale, max(np.median(scale) * 1e-3, np.sqrt(np.finfo(np.float64).tiny)))


def edge_weights(
    distances: Float[np.ndarray, " edges"],
    sources: Int[np.ndarray, " edges"],
    targets: Int[np.ndarray, " edges"],
    scale: Float[np.ndarray, " tokens"],
    kernel: str,
) -> Float[np.ndarray, " edges"]:
    """Weight of each edge by its length.

    self_tuning: exp(-2 d^2 / (s_i s_j)) with s the tokens' scales (Zelnik-Manor and Perona 2004, whose exponent lacks
    the 2, which sharpens what distances in many dimensions tell apart too little); gaussian: exp(-2 d^2 / median(s)^2);
    inverse_distance: 1 / d; unit: 1.
    """
    distances = distances.astype(np.float64)
    if kernel == "self_tuning":
        return np.exp(-SHARPNESS * distances**2 / (scale[sources] * scale[targets]))
    if kernel == "gaussian":
        return np.exp(-SHARPNESS * distances**2 / np.median(scale) ** 2)
    if kernel == "inverse_distance":
        return 1 / (distances + scale.min())
    return np.ones_like(distances)


def save(graph: sparse.csr_array, folder: Path) -> None:
    """Write config.json and graph.safetensors (CSR arrays) into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: getattr(graph, name) for name in ("indptr", "indices", "data")}
    stored = arrays.create(folder / "graph.safetensors", {k: (v.dtype, v.shape) for k, v in parts.items()})
    for name, part in parts.items():
        for start in range(0, len(part), COPIED_AT_ONCE):
            stored[name][start : start + COPIED_AT_ONCE] = part[start : start + COPIED_AT_ONCE]
    write_config(folder, graph.shape[0])


def write_config(folder: Path, n_vertices: int) -> None:
    """Say beside the arrays what they are."""
    config = {"kind": KIND, "n_vertices": n_vertices}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> sparse.csr_array:
    """The graph that `save` wrote, equal to the last bit: in memory if it takes little of it, else as a memory map.

    Raises:
        ValueError: there is none, or it is damaged: the search would follow an edge to nowhere out of its memory.
    """
    graph = open_stored(folder)
    stored = graph.parts()
    n_vertices = graph.n_vertices
    if sum(part.nbytes for part in stored.values()) < MAPPED_SHARE * psutil.virtual_memory().available:
        stored = {name: part.copy() for name, part in stored.items()}
    for start in range(0, len(stored["indices"]), COPIED_AT_ONCE):
        graph.check_targets(stored["indices"][start : start + COPIED_AT_ONCE])
    return sparse.csr_array((stored["data"], stored["indices"], stored["indptr"]), shape=(n_vertices, n_vertices))


@dataclass(frozen=True)
class StoredGraph:
    """A graph that stays in its file, of which some rows are read at a time."""

    folder: Path
    n_vertices: int

    def rows(self, first: int, end: int) -> sparse.csr_array:
        """The rows of the vertices first ... end - 1."""
        stored = self.parts()
        starts = stored["indptr"][first : end + 1].astype(np.int64)
        indices, data = (stored[name][starts[0] : starts[-1]].copy() for name in ("indices", "data"))
        self.check_targets(indices)
        return sparse.csr_array((data, indices, starts - starts[0]), shape=(end - first, self.n_vertices))

    def parts(self) -> dict[str, np.ndarray]:
        """Starts of the rows, targets and weights of the edges, as a memory map."""
        path = self.folder / "graph.safetensors"
        stored = arrays.read(path)
        kinds = {name: stored[name].dtype.kind if name in stored and stored[name].ndim == 1 else "" for name in PARTS}
        if kinds != PARTS or not self._has_rows(stored):
            raise ValueError(f"{path} holds no graph of {self.n_vertices} vertices; materialize it again")
        return {name: stored[name] for name in PARTS}

    def _has_rows(self, stored: dict[str, np.ndarray]) -> bool:
        starts, n_edges = stored["indptr"], len(stored["data"])
        return (
            len(starts) == self.n_vertices + 1
            and len(stored["indices"]) == n_edges
            and (starts[0], starts[-1]) == (0, n_edges)
            and bool(np.all(starts[1:] >= starts[:-1]))
        )

    def check_targets(self, indices: Int[np.ndarray, " edges"]) -> None:
        """Refuse edges to vertices that are not there."""
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.n_vertices):
            raise ValueError(f"{self.folder} holds edges to vertices that are not there; materialize it again")


def open_stored(folder: Path) -> StoredGraph:
    """The graph that `save` wrote, not yet read.

    Raises:
        ValueError: there is none.
    """
    return StoredGraph(folder, folders.number(folders.read_config(folder, KIND), "n_vertices", int, folder))
