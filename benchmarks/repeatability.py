"""How far the clusters depend on chance: rounding, and the order of seeds.

`make bench-repeatability` reads the store that `make run` left and clusters its tokens again, with one thing changed at a time.
Printed are the share of clusters with a match (Jaccard one half) in the other search, both ways, and the adjusted Rand index;
and for clusters by how often they are found again the share that another order of seeds finds.
"""

import argparse
import itertools

import numpy as np
import polars as pl
from scipy import sparse

from resources import experiment as experiments
from resources import tables
from resources.experiment import load as load_experiment
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.clustering import agreement, knn, reading, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import moments, whitening

N_ORDERS = 3
ROUNDING = 1e-6  # of each score: some ten times what float32 rounds by
STABILITIES = ("seed_stability", "point_stability", "chain_stability")


def labels_of(graph, experiment: ExperimentConfig, order: int = 0) -> np.ndarray:
    """Cluster of each vertex, found in one of several orders of seeds."""
    name = ("clusters", str(order)) if order else ("clusters",)
    rng = np.random.default_rng(seeds.sequence(experiment.seed, *name))
    return search.find_clusters(graph, experiment.clustering, rng).labels


def line(name: str, first: np.ndarray, second: np.ndarray, more: str = "") -> None:
    """Print how far two clusterings agree."""
    row = agreement.table({"first": first, "second": second}).row(0, named=True)
    matched = f"{row['first_matched']:.3f} / {row['second_matched']:.3f}"
    counts = f"{row['first_clusters']} and {row['second_clusters']} clusters"
    print(f"{name:46s} matched {matched}; ARI {row['adjusted_rand_index']:.3f}; {counts}{more}", flush=True)


def orders(store: Store, experiment: ExperimentConfig) -> None:
    """Other orders of seeds in the run's graph, and which clusters they find."""
    graph, stored = knn.load(store.path("knn_graph")), stored_labels(store, experiment)
    others = [labels_of(graph, experiment, order) for order in range(1, N_ORDERS + 1)]
    for other in others:
        line("another order of seeds", stored, other)
    is_matched = np.mean([agreement.best_match_jaccard(stored, other) >= agreement.MATCH for other in others], axis=0)
    table = pl.read_parquet(store.table("clusters"))
    size = table["size"].to_numpy()
    for name in STABILITIES:
        values = table[name].to_numpy().round(1)
        parts = [f"{v:.1f}: {is_matched[values == v].mean():.2f} ({np.sum(values == v)})" for v in np.unique(values)]
        print(f"  found by another order, by {name}: {', '.join(parts)}")
    bounds = [0, 30, 60, 120, np.inf]
    rows = [(size >= low) & (size < high) for low, high in itertools.pairwise(bounds)]
    parts = [f"from {low}: {is_matched[r].mean():.2f} ({r.sum()})" for low, r in zip(bounds[:-1], rows, strict=True)]
    print(f"  by tokens, {', '.join(parts)}")
    for name, kept in (("every", is_matched == 1), ("no", is_matched == 0)):
        print(
            f"  found by {name} other order: {kept.mean():.3f}, with {size[kept].sum() / size.sum():.3f} of the tokens"
        )
    missed = agreement.best_match_jaccard(stored, others[0]) < agreement.MATCH
    lost = [np.mean(others[0][stored == cluster] == search.UNCLUSTERED) > 0.5 for cluster in np.flatnonzero(missed)]
    print(f"  of those without a match mostly unclustered by the first other order: {np.mean(lost):.2f}")


def rounding(store: Store, experiment: ExperimentConfig) -> None:
    """The run's vectors, and the same moved by little."""
    keys = tokens.shard_keys(experiment.tokens)
    frames = {shard: tables.scan(store.table("predicted_susceptibilities", shard)) for shard in keys}
    scores = schema.stack(frames, "prediction").values
    noise = 1 + ROUNDING * np.random.default_rng(0).standard_normal(scores.shape)
    plain, moved = (
        labels_of(graph_of(each.astype(np.float32), experiment), experiment) for each in (scores, scores * noise)
    )
    line(f"vectors moved by {ROUNDING:g} of themselves", plain, moved)


def graph_of(scores: np.ndarray, experiment: ExperimentConfig) -> sparse.csr_array:
    """The k-NN graph of scores, whitened."""
    basis = whitening.fit(moments.of(scores), relative_floor=experiment.representation.whitening_floor)
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "knn_graph"))
    return knn.knn_graph(whitening.transform(scores, basis).astype(np.float32), experiment.knn, rng)


def stored_labels(store: Store, experiment: ExperimentConfig) -> np.ndarray:
    """Cluster of each token of the run."""
    keys = tokens.shard_keys(experiment.tokens)
    whitened = {shard: tables.scan(store.table("whitened_susceptibilities", shard)) for shard in keys}
    return reading.labels(pl.read_parquet(store.table("cluster_members")), schema.stack(whitened, "whitened"))


def main() -> None:
    """Both parts, on the store of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    experiment = load_experiment(parser.parse_args().experiment)
    store = experiments.store(experiment)
    orders(store, experiment)
    rounding(store, experiment)


if __name__ == "__main__":
    main()
