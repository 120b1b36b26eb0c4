"""LocalGraphClustering 0.6.1 (PyPI): its own C++ sources, compiled with optimization, for one seed's push and its sweep.

Its wheel ships a library built without optimization, which also lacks a symbol that its Python side asks for; the sources
in the same wheel are complete, so they are compiled here and called directly. This spares the peer its Python side too.
"""

import ctypes
import functools
import importlib.util
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

SOURCES = ("aclpagerank.cpp", "aclpagerank_weighted.cpp", "sweepcut.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++11", "-w", "-fPIC", "-shared")
MAX_STEPS = 2**31 - 1


class PeerGraph(NamedTuple):
    """A graph in the peer's types: 32-bit vertices, 64-bit offsets, float64 weights."""

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    degrees: np.ndarray


class PeerCut(NamedTuple):
    """The vertices with PageRank and its values over degree, and the best prefix with its conductance."""

    vertices: np.ndarray
    values: np.ndarray
    members: np.ndarray
    conductance: float


def is_installed() -> bool:
    """Whether the package's sources are there."""
    return importlib.util.find_spec("localgraphclustering") is not None


@functools.cache
def library() -> ctypes.CDLL:
    """The peer's push and sweep, compiled once a process."""
    spec = importlib.util.find_spec("localgraphclustering")
    if spec is None or spec.origin is None:
        raise ValueError("localgraphclustering is not installed; run make bench-clustering, which installs it")
    folder = Path(spec.origin).parent / "src" / "lib"
    with tempfile.TemporaryDirectory() as built:
        target = Path(built) / "libgraph.so"
        subprocess.run(["g++", *FLAGS, "-o", target, *(folder / name for name in SOURCES)], check=True)
        return ctypes.CDLL(str(target))


def graph(ours: sparse.csr_array) -> PeerGraph:
    """The same graph as the peer reads it."""
    degrees = np.asarray(ours.sum(axis=1, dtype=np.float64)).ravel()
    return PeerGraph(
        ours.indptr.astype(np.int64), ours.indices.astype(np.uint32), ours.data.astype(np.float64), degrees
    )


def pagerank(
    ours: PeerGraph, seed: int, *, teleport_probability: float, tolerance: float, weighted: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and PageRank, not divided by degree; `weighted` false takes every edge as 1, which the peer does faster."""
    n = len(ours.indptr) - 1
    vertices, values = np.empty(n, np.uint32), np.empty(n)
    seeds = np.array([seed], np.uint32)
    size, real = ctypes.c_uint32, ctypes.c_double
    arrays = (ours.indptr, ours.indices) + ((ours.weights,) if weighted else ())
    call = library().aclpagerank_weighted32_64 if weighted else library().aclpagerank32_64
    call.restype = ctypes.c_uint32
    found = call(
        size(n),
        *(_pointer(array) for array in arrays),
        size(0),
        real(teleport_probability),
        real(tolerance),
        _pointer(seeds),
        size(1),
        size(MAX_STEPS),
        _pointer(vertices),
        size(n),
        _pointer(values),
    )
    return vertices[:found], values[:found]


def sweep(ours: PeerGraph, ordering: np.ndarray) -> tuple[np.ndarray, float]:
    """The prefix of least conductance (over the smaller side's volume) and its conductance."""
    n = len(ours.indptr) - 1
    ordering = np.ascontiguousarray(ordering, np.uint32)
    members, least = np.empty(len(ordering), np.uint32), np.zeros(1)
    call = library().sweepcut_without_sorting32_64
    call.restype = ctypes.c_uint32
    size = call(
        *(_pointer(array) for array in (ordering, members)),
        ctypes.c_uint32(len(ordering)),
        ctypes.c_uint32(n),
        *(_pointer(array) for array in (ours.indptr, ours.indices, ours.weights)),
        ctypes.c_uint32(0),
        _pointer(least),
        _pointer(ours.degrees),
        ctypes.c_int(1),
    )
    return members[:size], float(least[0])


def look(ours: PeerGraph, seed: int, *, teleport_probability: float, tolerance: float, weighted: bool) -> PeerCut:
    """Push and sweep from one seed."""
    vertices, values = pagerank(
        ours, seed, teleport_probability=teleport_probability, tolerance=tolerance, weighted=weighted
    )
    normalized = values / ours.degrees[vertices]
    order = np.argsort(-normalized)
    members, least = sweep(ours, vertices[order])
    return PeerCut(vertices[order], normalized[order], members, least)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
