"""Are clusters found again by chains that share no noise? Both halves of the chains, beside the figure of the run.

`make bench-chain-stability` reads the store that `make run` left, where chain_stability comes from the graph by one half of the
chains. It makes that of the other half too, and prints how often clusters are found again in each, and from how many of
their members both halves, which share no chain, find the same set (Jaccard one half).
"""

import argparse

import numpy as np
import polars as pl
from auxiliary import split_of
from scipy import sparse

from resources import experiment as experiments
from resources import tables
from resources.experiment import load as load_experiment
from resources.storage import Store
from susc_pipeline import schema, seeds, tokens
from susc_pipeline.clustering import knn, reading, stability
from susc_pipeline.clustering.looks import LookPool, is_found_again
from susc_pipeline.clustering.search import Clustering
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.model import gpt_neox, pretrained
from susc_pipeline.representation import auxiliary, moments, whitening
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.evaluation import Split

N_LOOKS = 5


def other_half(store: Store, experiment: ExperimentConfig) -> sparse.csr_array:
    """The graph that half_chain_knn_graph would be by the other half of the chains."""
    data, _ = split_of(store, experiment, "half_b")
    width = pretrained.load(store.path("language_model")).model.hidden_size
    return graph_of(auxiliary.predict(trained(data, experiment, width), features(store, experiment)), experiment)


def trained(data: Split, experiment: ExperimentConfig, width: int, *start: str) -> AuxModel:
    """The auxiliary model as the asset trains it, or from another start: other initial weights and order of tokens."""
    return auxiliary.train(
        *data.training[:2],
        stopping_activations=data.stopping.activations,
        stopping_targets=data.stopping.scores,
        settings=experiment.aux,
        hidden_width=experiment.aux.hidden_multiplier * width,
        rng=np.random.default_rng(seeds.sequence(experiment.seed, "aux_model", *start)),
    ).model


def graph_of(scores: np.ndarray, experiment: ExperimentConfig) -> sparse.csr_array:
    """The k-NN graph of predicted scores, whitened."""
    basis = whitening.fit(moments.of(scores), relative_floor=experiment.representation.whitening_floor)
    rng = np.random.default_rng(seeds.sequence(experiment.seed, "knn_graph"))
    return knn.knn_graph(whitening.transform(scores, basis).astype(np.float32), experiment.knn, rng)


def features(store: Store, experiment: ExperimentConfig) -> np.ndarray:
    """What the auxiliary model reads of every token: residual streams and the gradient of its loss."""
    model, inputs = pretrained.load(store.path("language_model")).model, []
    for shard in tokens.shard_keys(experiment.tokens):
        ids = schema.token_ids(tables.scan(store.table("token_shards", shard)).collect())
        found = gpt_neox.activations(model, ids, layers=experiment.representation.layers)
        inputs.append(np.concatenate([found.features, found.loss_gradients], axis=1))
    return np.concatenate(inputs)


def stored_clusters(store: Store, experiment: ExperimentConfig) -> Clustering:
    """What of the run's clusters a look for them needs: labels, sizes and volumes."""
    keys = tokens.shard_keys(experiment.tokens)
    whitened = {shard: tables.scan(store.table("whitened_susceptibilities", shard)) for shard in keys}
    table = pl.read_parquet(store.table("clusters"))
    labels = reading.labels(pl.read_parquet(store.table("cluster_members")), schema.stack(whitened, "whitened"))
    size, volume = (table[name].to_numpy() for name in ("size", "volume"))
    return Clustering(labels, [], size, volume, volume, volume, size, 0, 0, 0)


def agreeing(pools: list[LookPool], clusters: Clustering, rng: np.random.Generator) -> np.ndarray:
    """For each cluster 1 where a look from the same random member finds the same set in both graphs."""
    members = stability.random_members(clusters.labels, rng)
    found = [
        [set(vertices.tolist()) for vertices in stability.looks_from(pool, members, clusters.volume)] for pool in pools
    ]
    return np.array(
        [is_found_again(len(a & b), len(a), len(b)) and len(a | b) > 0 for a, b in zip(*found, strict=True)]
    )


def line(name: str, shares: np.ndarray, size: np.ndarray) -> None:
    by_size = ((size < 30, "below 30"), ((size >= 30) & (size < 100), "30 to 100"), (size >= 100, "from 100"))
    parts = ", ".join(f"{what} {shares[rows].mean():.2f}" for rows, what in by_size if rows.any())
    print(f"{name:52s} {shares.mean():.3f}; of clusters with {parts} tokens", flush=True)


def main() -> None:
    """All of it, on the store of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    experiment = load_experiment(parser.parse_args().experiment)
    store, rng = experiments.store(experiment), np.random.default_rng(0)
    clusters = stored_clusters(store, experiment)
    whole, half = (knn.load(store.path(name)) for name in ("knn_graph", "half_chain_knn_graph"))
    halves = [half, other_half(store, experiment)]
    for name, graph in zip(("other members, all chains", "one half", "the other half"), (whole, *halves), strict=True):
        found = stability.found_again(graph, clusters, experiment.clustering, rng, n_looks=N_LOOKS)
        line(f"found again by {name}", found, clusters.size)
    with LookPool(halves[0], experiment.clustering) as one, LookPool(halves[1], experiment.clustering) as other:
        found = np.mean([agreeing([one, other], clusters, rng) for _ in range(N_LOOKS)], axis=0)
    line("the same set by both halves, which share no chain", found, clusters.size)


if __name__ == "__main__":
    main()
