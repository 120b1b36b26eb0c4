"""How far the clusters depend on chance: the numbering of the tokens, rounding, and which half of the chains is read.

`make bench-repeatability` reads the store that `make run` left and clusters its tokens again, with one thing changed at a time.
Printed are the share of clusters with a match (Jaccard one half) in the other search, both ways, and the adjusted mutual
information over all tokens; then, by reproducibility, how many clusters keep their match when the vectors are rounded.
"""

import argparse

import numpy as np
import polars as pl
from scipy import sparse

from resources import experiment as experiments
from resources import tables
from resources.experiment import load as load_experiment
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.clustering import agreement, knn, membership, reproducibility, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import moments, whitening

N_ORDERS = 3
ROUNDING = 1e-6  # of each score: some ten times what float32 rounds by
BOUNDS = (0.25, 0.5, 0.75)


def renumbered(graph: sparse.csr_array, experiment: ExperimentConfig, number: int) -> np.ndarray:
    """Cluster of each vertex, found after the vertices are numbered, and so searched, in another order."""
    order = np.random.default_rng(number).permutation(graph.shape[0])
    labels = np.empty(graph.shape[0], np.int32)
    labels[order] = search.find_clusters(graph[order][:, order], experiment.clustering).labels
    return labels


def line(name: str, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Print how far two clusterings agree; the lesser share matched, and the adjusted mutual information."""
    tokens_alike, rng = np.zeros(len(first), np.int64), np.random.default_rng(0)
    row = reproducibility.table({"first": first, "second": second}, tokens_alike, rng).row(0, named=True)
    matched, information = (row["first_matched"], row["second_matched"]), row["adjusted_mutual_information"]
    counts = f"{row['first_clusters']} and {row['second_clusters']} clusters"
    print(f"{name:46s} matched {matched[0]:.3f} / {matched[1]:.3f}; AMI {information:.3f}; {counts}", flush=True)
    return min(matched), information


def rounding(store: Store, experiment: ExperimentConfig) -> None:
    """The run's vectors, and the same moved by little."""
    frames = {
        shard: tables.scan(store.table("predicted_susceptibilities", shard))
        for shard in tokens.shard_keys(experiment.tokens)
    }
    scores = schema.stack(frames, "prediction").values
    noise = 1 + ROUNDING * np.random.default_rng(0).standard_normal(scores.shape)
    graphs = (graph_of(each.astype(np.float32), experiment) for each in (scores, scores * noise))
    plain, moved = (search.find_clusters(graph, experiment.clustering).labels for graph in graphs)
    line(f"vectors moved by {ROUNDING:g} of themselves", plain, moved)
    again = pl.read_parquet(store.table("clusters"))["reproducibility"].to_numpy()
    is_matched = (
        agreement.best_match(stored_labels(store, experiment), moved, n_clusters=len(again)).jaccard >= agreement.MATCH
    )
    level = np.digitize(again, BOUNDS)
    for number, low in enumerate((0, *BOUNDS)):
        here = level == number
        print(
            f"  reproducibility from {low}: {here.sum()} clusters, {is_matched[here].mean():.2f} found in the moved ones"
        )


def graph_of(scores: np.ndarray, experiment: ExperimentConfig) -> sparse.csr_array:
    """The k-NN graph of scores, whitened."""
    basis = whitening.fit(moments.of(scores), relative_floor=experiment.representation.whitening_floor)
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "knn_graph"))
    return knn.knn_graph(whitening.transform(scores, basis).astype(np.float32), experiment.knn, rng)


def stored_labels(store: Store, experiment: ExperimentConfig, name: str = "cluster_members") -> np.ndarray:
    """Cluster of each token of the run, or by half of its chains."""
    keys = tokens.shard_keys(experiment.tokens)
    whitened = {shard: tables.scan(store.table("whitened_susceptibilities", shard)) for shard in keys}
    return membership.labels(pl.read_parquet(store.table(name)), schema.stack(whitened, "whitened"))


def orders(store: Store, experiment: ExperimentConfig) -> tuple[float, float]:
    """The least share matched and the least information over other orders of the vertices."""
    graph, stored = knn.load(store.path("knn_graph")), stored_labels(store, experiment)
    found = [
        line(f"another order of the tokens ({number})", stored, renumbered(graph, experiment, number))
        for number in range(1, N_ORDERS + 1)
    ]
    return min(share for share, _ in found), min(information for _, information in found)


def main() -> None:
    """All parts, on the store of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    experiment = load_experiment(parser.parse_args().experiment)
    store = experiments.store(experiment)
    matched, information = orders(store, experiment)
    halves = [stored_labels(store, experiment, f"half_{half}_cluster_members") for half in "ab"]
    halves_matched, _ = line("half a of the chains beside half b", *halves)
    rounding(store, experiment)
    print(f"order_matched={matched:.3f}\norder_ami={information:.3f}\nhalves_matched={halves_matched:.3f}")


if __name__ == "__main__":
    main()
