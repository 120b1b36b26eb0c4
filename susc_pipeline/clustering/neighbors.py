"""Nearest neighbours of points, for a block of them at a time. Making a graph of them is in knn.py and blocks.py."""

import math
import typing
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

BACKENDS = ("auto", "exact", "ivf", "pynndescent")
# Above it NN-descent is faster. On two cores, in 22 to 100 dimensions, all pairs of 100,000 points take 18 to 23 s, of 200,000
# 65 to 100; NN-descent takes 10 to 19 and 23 to 37, after 50 s of compilation that each process pays anew.
EXACT_MAX_POINTS = 120_000
# Inverted file: cells of about this many points, as many points to train each cell, and cells looked into.
POINTS_PER_CELL = 256
TRAINING_POINTS_PER_CELL = 64
CELLS_LOOKED_INTO = 32
POINTS_AT_ONCE_ON_GPU = 1 << 18
QUERIES_AT_ONCE_ON_GPU = 1 << 12


class Neighbors(NamedTuple):
    """For each token its neighbours, nearest first, and their Euclidean distances; index -1 where one is missing."""

    indices: Int[np.ndarray, "tokens neighbors"]
    distances: Float[np.ndarray, "tokens neighbors"]


Finder = Callable[[slice], Neighbors]
"""What finds the neighbours of a block of the points among all of them."""


def nearest_neighbors(
    points: Float[np.ndarray, "tokens pcs"], n_neighbors: int, backend: str, rng: np.random.Generator
) -> Neighbors:
    """The nearest other tokens of each token, by one of BACKENDS; auto: exact for few points, else pynndescent."""
    check_points(points, n_neighbors)
    if backend == "auto":
        backend = "exact" if len(points) <= EXACT_MAX_POINTS else "pynndescent"
    if backend == "pynndescent":
        return approximate_neighbors(points, n_neighbors, rng)
    return finder(points, n_neighbors, backend, rng)(slice(0, len(points)))


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


def finder(points: Float[np.ndarray, "tokens pcs"], n_neighbors: int, backend: str, rng: np.random.Generator) -> Finder:
    """What finds neighbours block by block, `exact` or `ivf`: the result does not depend on the blocks.

    `exact` compares all pairs, on a GPU where there is one. `ivf` searches the nearest cells of an inverted file
    (Sivic and Zisserman 2003; faiss): it misses neighbours in the bulk of the cloud and few inside clusters.
    """
    if backend == "exact" and torch.cuda.is_available():
        return lambda rows: exact_by_products(points, rows, n_neighbors, torch.device("cuda"))
    index = _inverted_file(points, rng) if backend == "ivf" else _flat(points)

    def find(rows: slice) -> Neighbors:
        squared, indices = index.search(np.ascontiguousarray(points[rows], np.float32), n_neighbors + 1)
        return without_self(indices, np.sqrt(np.maximum(squared, 0)), first=rows.start)

    return find


def exact_neighbors(points: Float[np.ndarray, "tokens pcs"], n_neighbors: int) -> Neighbors:
    """Nearest neighbours by comparing all pairs."""
    return finder(points, n_neighbors, "exact", np.random.default_rng(0))(slice(0, len(points)))


def _flat(points: np.ndarray) -> typing.Any:
    import faiss

    index = faiss.IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(points, np.float32))
    return index


def _inverted_file(points: np.ndarray, rng: np.random.Generator) -> typing.Any:
    import faiss

    n_cells = max(1, min(len(points) // POINTS_PER_CELL, 1 << 16))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(points.shape[1]), points.shape[1], n_cells)
    index.nprobe = CELLS_LOOKED_INTO
    n_training = min(len(points), TRAINING_POINTS_PER_CELL * n_cells)
    chosen = np.sort(rng.choice(len(points), n_training, replace=False))
    index.train(np.ascontiguousarray(points[chosen], np.float32))
    index.add(np.ascontiguousarray(points, np.float32))
    return index


@torch.no_grad()
def exact_by_products(
    points: Float[np.ndarray, "tokens pcs"], rows: slice, n_neighbors: int, device: torch.device
) -> Neighbors:
    """The same as `exact` by matrix products, |a|^2 - 2 a.b + |b|^2: what a GPU does best; points may be a memory map."""
    parts = []
    for start in range(rows.start, rows.stop, QUERIES_AT_ONCE_ON_GPU):
        block = slice(start, min(start + QUERIES_AT_ONCE_ON_GPU, rows.stop))
        queries = _tensor(points[block], device)
        nearest = torch.full((len(queries), n_neighbors + 1), math.inf, device=device)
        indices = torch.full(nearest.shape, -1, dtype=torch.int64, device=device)
        for first in range(0, len(points), POINTS_AT_ONCE_ON_GPU):
            others = _tensor(points[first : first + POINTS_AT_ONCE_ON_GPU], device)
            squared = torch.addmm(others.square().sum(dim=1), queries, others.T, alpha=-2)
            found = squared.topk(min(n_neighbors + 1, len(others)), dim=1, largest=False)
            nearest, chosen = torch.cat([nearest, found.values], 1).topk(n_neighbors + 1, dim=1, largest=False)
            indices = torch.cat([indices, found.indices + first], 1).gather(1, chosen)
        squared = (nearest + queries.square().sum(dim=1, keepdim=True)).clamp_(min=0)
        parts.append(without_self(indices.cpu().numpy(), squared.sqrt().cpu().numpy(), first=start))
    return Neighbors(*(np.concatenate(part) for part in zip(*parts)))


def _tensor(block: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(block, np.float32)).to(device)


def approximate_neighbors(
    points: Float[np.ndarray, "tokens pcs"], n_neighbors: int, rng: np.random.Generator
) -> Neighbors:
    """Nearest neighbours by NN-descent, of all points at once."""
    import pynndescent

    seed = int(rng.integers(2**31))
    index = pynndescent.NNDescent(points, n_neighbors=n_neighbors + 1, random_state=seed)
    indices, distances = typing.cast("tuple[np.ndarray, np.ndarray]", index.neighbor_graph)
    return without_self(indices, distances)


def without_self(
    indices: Int[np.ndarray, "tokens found"], distances: Float[np.ndarray, "tokens found"], *, first: int = 0
) -> Neighbors:
    """Neighbours with the token itself taken out, or the farthest where it was not found among its duplicates.

    Args:
        indices: of what was found for the tokens first, first + 1, ...
        distances: to it.
        first: number of the first token.
    """
    is_self = indices == np.arange(first, first + len(indices))[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(indices), indices.shape[1] - 1)
    return Neighbors(indices[~is_self].reshape(shape), distances[~is_self].reshape(shape).astype(np.float32))
