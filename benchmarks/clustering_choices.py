"""Choices of the cluster search tried on planted data: edge kernel, conductance threshold, teleport probability.

`python benchmarks/clustering_choices.py` prints, for each choice, the share of planted clusters recovered with Jaccard
at least 0.8 and the share of found clusters that match no planted one (Jaccard under 0.3), over a few worlds.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

import planted  # noqa: E402
from susc_pipeline.clustering import agreement, knn, search  # noqa: E402

BASE = search.SearchSettings(teleport_probability=0.01, tolerance=1e-5)
SEARCHES = {f"max_conductance {c}": dataclasses.replace(BASE, max_conductance=c) for c in (0.3, 0.4, 0.5, 0.6)}
SEARCHES |= {
    "teleport 0.05": dataclasses.replace(BASE, teleport_probability=0.05, max_conductance=0.4),
    "teleport 0.001": dataclasses.replace(BASE, teleport_probability=0.001, max_conductance=0.4),
    "tolerance 1e-6": dataclasses.replace(BASE, tolerance=1e-6, max_conductance=0.4),
}


def measure(world, graph, settings):
    """Recovered share, false share and seconds of one search."""
    started = time.perf_counter()
    found = search.find_clusters(graph, settings, np.random.default_rng(0))
    truth = world.labels.astype(np.int32)
    recovered = np.mean(agreement.best_match_jaccard(truth, found.labels) >= 0.8)
    false = np.mean(agreement.best_match_jaccard(found.labels, truth) < 0.3) if len(found.size) else 0.0
    return recovered, false, time.perf_counter() - started


def main():
    """Print one line for each kernel and each search."""
    worlds = [planted.plant(12000, 16, 40, np.random.default_rng(s), size_range=(30, 300)) for s in range(2)]
    for kernel in knn.KERNELS:
        settings = knn.KNNSettings(n_neighbors=30, kernel=kernel)
        graphs = [knn.knn_graph(world.points, settings, np.random.default_rng(0)) for world in worlds]
        for name, chosen in (
            SEARCHES.items() if kernel == "self_tuning" else [("max_conductance 0.4", SEARCHES["max_conductance 0.4"])]
        ):
            figures = np.mean([measure(w, g, chosen) for w, g in zip(worlds, graphs, strict=True)], axis=0)
            print(
                f"{kernel:17s} {name:20s} recovered {figures[0]:.2f} false {figures[1]:.2f} in {figures[2]:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
