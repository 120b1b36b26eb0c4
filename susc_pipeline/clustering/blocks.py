"""A k-NN graph larger than memory: built block by block of tokens, kept in files, searched through a memory map.

In memory are the points, one block's neighbours and edges, and a few numbers a token. What the edges weigh is in knn.py.
Edges go both ways: each is written to a file of its source's block and, turned round, to one of its target's; a block's
rows are then what its file holds, sorted. So the graph is that of knn.knn_graph to float rounding, whatever the blocks.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import sparse

from susc_pipeline import arrays
from susc_pipeline.buckets import Buckets
from susc_pipeline.clustering import knn, neighbors
from susc_pipeline.clustering.knn import KNNSettings
from susc_pipeline.clustering.neighbors import Neighbors

EDGE = np.dtype([("source", "<i4"), ("target", "<i4"), ("weight", "<f4")])


class _Rows(NamedTuple):
    """What is known of the rows before they are put in one file."""

    counts: np.ndarray
    """Edges of each token."""
    total_weight: float


def knn_graph(
    points: Float[np.ndarray, "tokens pcs"],
    settings: KNNSettings,
    rng: np.random.Generator,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> sparse.csr_array:
    """The graph of knn.knn_graph, in memory where rows_at_once is zero, else as a memory map of files in the folder.

    Args:
        points: a memory map is read block by block, but for the index that approximate neighbours need.
        settings: with rows_at_once, `auto` and `pynndescent`, which wants all points at once, become exact or ivf.
        rng: of the index.
        folder: where the graph stays, as `knn.load` reads it; what is written on the way is gone at the end.
        progress: called with tokens done and all tokens.

    Raises:
        ValueError: points that are not finite, or too few of them.
    """
    if settings.rows_at_once == 0:
        return knn.knn_graph(points, settings, rng)
    neighbors.check_points(points, settings.n_neighbors)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".blocks.") as scratch:
        blocks = _Blocks(len(points), settings, Path(scratch))
        blocks.find_neighbors(points, rng, progress)
        blocks.part_edges()
        rows = blocks.sort_rows()
        blocks.join(rows, folder)
    knn.write_config(folder, len(points))
    return knn.load(folder)


class _Blocks:
    """The steps of one build, each of which reads what the last one left in the scratch folder."""

    def __init__(self, n_points: int, settings: KNNSettings, scratch: Path) -> None:
        self.n_points, self.settings, self.scratch = n_points, settings, scratch
        self.scale = np.zeros(n_points)
        self.parted, self.sorted = (Buckets(scratch / name, EDGE) for name in ("parted", "sorted"))

    def starts(self) -> Iterator[tuple[int, slice]]:
        """Number and tokens of each block."""
        size = self.settings.rows_at_once
        for number in range(math.ceil(self.n_points / size)):
            yield number, slice(number * size, min((number + 1) * size, self.n_points))

    def find_neighbors(self, points: np.ndarray, rng: np.random.Generator, progress: Callable) -> None:
        """Neighbours of every block, and the scale of every token, which weights need of both ends of an edge."""
        backend = self.settings.backend
        if backend in ("auto", "pynndescent"):
            backend = "exact" if len(points) <= neighbors.EXACT_MAX_POINTS else "ivf"
        find = neighbors.finder(points, self.settings.n_neighbors, backend, rng)
        for number, rows in self.starts():
            found = find(rows)
            self.scale[rows] = knn.local_scale(found)
            for name, part in found._asdict().items():
                np.save(self.scratch / f"{name}-{number}.npy", part, allow_pickle=False)
            progress(rows.stop, self.n_points)

    def part_edges(self) -> None:
        """Every edge to the file of its source's block and, turned round, to that of its target's."""
        scale = knn.floored(self.scale)
        for number, rows in self.starts():
            names = [self.scratch / f"{name}-{number}.npy" for name in Neighbors._fields]
            found = Neighbors(*(np.load(name, allow_pickle=False) for name in names))
            sources, targets, distances = knn.edges(found, first=rows.start)
            weights = knn.edge_weights(distances, sources, targets, scale, self.settings.kernel)
            keep = weights > np.finfo(np.float32).eps
            for one, other in ((sources, targets), (targets, sources)):
                self._append(one[keep], other[keep], weights[keep])
            for name in names:
                name.unlink()

    def _append(self, sources: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        edges = np.empty(len(sources), EDGE)
        edges["source"], edges["target"], edges["weight"] = sources, targets, weights
        self.parted.add(sources // self.settings.rows_at_once, edges)

    def sort_rows(self) -> _Rows:
        """Each block's edges in order of source and target, of two between the same tokens the heavier."""
        counts, total = np.zeros(self.n_points, np.int64), 0.0
        for number, rows in self.starts():
            edges = self.parted.whole(number)
            edges = edges[np.lexsort((-edges["weight"], edges["target"], edges["source"]))]
            first = np.ones(len(edges), bool)
            first[1:] = np.any([edges[end][1:] != edges[end][:-1] for end in ("source", "target")], axis=0)
            edges = edges[first]
            counts[rows] = np.bincount(edges["source"] - rows.start, minlength=rows.stop - rows.start)
            total += float(edges["weight"].sum(dtype=np.float64))
            self.sorted.add(np.full(len(edges), number), edges)
            self.parted.drop(number)
        return _Rows(counts, total)

    def join(self, rows: _Rows, folder: Path) -> None:
        """All blocks in one file, weights scaled to a mean weighted degree of the number of neighbours."""
        n_edges = int(rows.counts.sum())
        types = {"indptr": np.dtype("<i8"), "indices": np.dtype("<i4"), "data": np.dtype("<f4")}
        sizes = {"indptr": self.n_points + 1, "indices": n_edges, "data": n_edges}
        stored = arrays.create(folder / "graph.safetensors", {k: (types[k], (sizes[k],)) for k in types})
        np.cumsum(rows.counts, out=stored["indptr"][1:])
        factor = self.settings.n_neighbors * self.n_points / rows.total_weight
        for number, block in self.starts():
            edges = self.sorted.whole(number)
            place = slice(*stored["indptr"][[block.start, block.stop]])
            stored["indices"][place] = edges["target"]
            stored["data"][place] = edges["weight"] * factor
            self.sorted.drop(number)
