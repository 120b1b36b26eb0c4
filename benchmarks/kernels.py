"""Edge kernels and numbers of neighbours on the vectors of a real run, where no truth is planted.

`make bench-kernels` reads the store that `make run` left: the whitened predictions of all tokens, and those by one half of the
chains. Of each choice it says how many clusters there are, of how many tokens, how many of their members find them, how many
come again from the same kind of graph by half of the chains, and how alike the clusters are to the default's (adjusted Rand
index). On planted worlds `benchmarks/clustering.py --part choices` does the same. JSON in benchmarks/results.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from resources import experiment as experiments
from resources import tables
from resources.experiment import load as load_experiment
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.clustering import agreement, knn, neighbors, search
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.representation import moments, whitening

RESULTS = Path(__file__).parent / "results" / "kernels.json"
CHOICES = tuple(("self_tuning", k) for k in (45, 30, 20)) + tuple((kernel, 45) for kernel in knn.KERNELS[1:])


def near(points: np.ndarray, experiment: ExperimentConfig) -> neighbors.Neighbors:
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "knn_graph"))
    return neighbors.nearest_neighbors(points, experiment.knn.n_neighbors, experiment.knn.backend, rng)


def whitened_points(store: Store, experiment: ExperimentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Whitened predictions of all tokens: by all chains, as stored, and by one half of them."""
    keys = tokens.shard_keys(experiment.tokens)
    stored = {
        asset: {shard: tables.scan(store.table(asset, shard)) for shard in keys}
        for asset in ("whitened_susceptibilities", "half_a_predictions")
    }
    scores = schema.stack(stored["half_a_predictions"], "prediction").values
    basis = whitening.fit(moments.of(scores), relative_floor=experiment.representation.whitening_floor)
    whole = schema.stack(stored["whitened_susceptibilities"], "whitened").values
    return whole, whitening.transform(scores, basis).astype(np.float32)


def main() -> None:
    """Every choice, on the store of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    experiment = load_experiment(parser.parse_args().experiment)
    lists = [near(points, experiment) for points in whitened_points(experiments.store(experiment), experiment)]
    rows, default = [], None
    for kernel, k in CHOICES:
        graphs = [
            knn.graph_of_neighbors(neighbors.Neighbors(each.indices[:, :k], each.distances[:, :k]), kernel=kernel)
            for each in lists
        ]
        found, half = (search.find_clusters(graph, experiment.clustering) for graph in graphs)
        default = found.labels if default is None else default
        again = agreement.best_match_jaccard(found.labels, half.labels) >= agreement.MATCH
        row = {"kernel": kernel, "neighbors": k, "clusters": len(found.size), "tokens": int(found.size.sum())}
        row |= {"median_size": float(np.median(found.size)), "largest": int(found.size.max(initial=0))}
        row |= {"found_by_members": float(found.met.mean()), "by_half_of_the_chains": float(again.mean())}
        row |= {"adjusted_rand_index_with_default": agreement.adjusted_rand_index(found.labels, default)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
