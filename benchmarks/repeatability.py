"""How far the clusters depend on chance: rounding, the order of seeds, the initial weights of the auxiliary model.

`make bench-repeatability` reads the store that `make run` left and clusters its tokens again, with one thing changed at a time.
Printed are the share of clusters with a match (Jaccard one half) in the other search, both ways, and the adjusted Rand index;
for clusters by how often they are found again the share that another order of seeds finds; and whether averaging several
auxiliary models helps.
"""

import argparse
import itertools

import numpy as np
import polars as pl
from auxiliary import split_of
from chain_stability import features, graph_of, stored_clusters, trained

from resources import experiment as experiments
from resources.experiment import load as load_experiment
from resources.storage import Store
from susc_pipeline import seeds
from susc_pipeline.clustering import agreement, knn, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import pretrained
from susc_pipeline.representation import auxiliary, metrics

N_ORDERS = 3
N_AVERAGED = (1, 2, 4)
ROUNDING = 1e-6  # of each prediction: some ten times what float32 rounds by
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
    graph, stored = knn.load(store.path("knn_graph")), stored_clusters(store, experiment).labels
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


def models(store: Store, experiment: ExperimentConfig) -> None:
    """Auxiliary models that differ in their initial weights and the order of their batches, alone and averaged."""
    data, _ = split_of(store, experiment)
    width = pretrained.load(store.path("language_model")).model.hidden_size
    everything, tested, predicted = features(store, experiment), [], []
    for number in range(2 * max(N_AVERAGED)):
        model = trained(data, experiment, width, *([str(number)] if number else []))
        tested.append(auxiliary.predict(model, data.test.activations))
        predicted.append(auxiliary.predict(model, everything))
    noise = 1 + ROUNDING * np.random.default_rng(0).standard_normal(predicted[0].shape)
    plain, moved = (
        labels_of(graph_of(scores, experiment), experiment)
        for scores in (predicted[0], (predicted[0] * noise).astype(np.float32))
    )
    line(f"predictions moved by {ROUNDING:g} of themselves", plain, moved)
    for count in N_AVERAGED:
        halves = [slice(0, count), slice(max(N_AVERAGED), max(N_AVERAGED) + count)]
        r = [metrics.correlation_per_column(np.mean(tested[h], axis=0), data.test.scores).mean() for h in halves]
        found = [labels_of(graph_of(np.mean(predicted[h], axis=0), experiment), experiment) for h in halves]
        what = "other initial weights" if count == 1 else f"{count} models averaged, and {count} others"
        line(what, *found, more=f"; r {r[0]:.3f} and {r[1]:.3f}")


def main() -> None:
    """Both parts, on the store of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    experiment = load_experiment(parser.parse_args().experiment)
    store = experiments.store(experiment)
    orders(store, experiment)
    models(store, experiment)


if __name__ == "__main__":
    main()
