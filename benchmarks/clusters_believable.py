"""Can one believe the clusters? Halves, labels and planted truth in one place; the last lines are read by scripts.

`make bench-clusters-believable` runs every part within 45 minutes on two idle cores; `--part` one or several of them:

- run: of the store that `make run` left: clusters of half a matched by half b (Jaccard one half) and by chance; of the clusters
  that the explorer lists by default, the share that each half matches, the share whose two matches match each other, and how
  many labels beat the token's text on the half of the documents that they were not learned on.
- planted: three worlds of 50,000 points with clusters of four kinds: recovered and false ones.
- shapes: clusters drawn out along directions, two worlds of 20,000 points, and three clouds without clusters.
- order: the run's graph with its vertices in another order: matched clusters and adjusted mutual information.
- chains: halves of one chain each and of two, where the run's have four: what more documents of the population would give.

No part needs another package than the project's own.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

import planted  # noqa: E402
from benchmarks import repeatability, stored  # noqa: E402
from resources import experiment as experiments  # noqa: E402
from resources import tables  # noqa: E402
from resources.storage import Store  # noqa: E402
from susc_pipeline import tokens  # noqa: E402
from susc_pipeline.clustering import agreement, knn, local_cluster, search  # noqa: E402
from susc_pipeline.config import ExperimentConfig  # noqa: E402
from susc_pipeline.model import components, pretrained  # noqa: E402
from susc_pipeline.representation import moments, pca, whitening  # noqa: E402
from susc_pipeline.susceptibility import direction_files, linear_response  # noqa: E402
from susc_pipeline.susceptibility.direction_files import StoredDirections  # noqa: E402

RECOVERED, FALSE = 0.8, 0.3
LISTED = 0.5  # reproducibility from which the explorer lists a cluster by default, DEFAULTS in view-clusters.js
WORLDS = ((16, 201), (32, 202), (64, 203))
Figures = dict[str, float | int]


def part_run(store: Store, experiment: ExperimentConfig) -> Figures:
    chance = tables.scan(store.table("cluster_reproducibility")).filter(first="half a", second="half b").collect()
    shares = dict(chance.select("is_chance", "first_matched").iter_rows())
    labels = tables.scan(store.table("cluster_labels")).select("cluster", "gain", "gain_low").collect()
    clusters = tables.scan(store.table("clusters")).select("cluster", "reproducibility").collect()
    known = clusters.join(labels, on="cluster").sort("cluster")
    listed = (known["reproducibility"] >= LISTED).to_numpy()
    found, *halves = (
        repeatability.stored_labels(store, experiment, name)
        for name in ("cluster_members", "half_a_cluster_members", "half_b_cluster_members")
    )
    of_halves = [agreement.best_match(found, half, n_clusters=known.height) for half in halves]
    between = agreement.best_match(*halves, n_clusters=int(halves[0].max()) + 1)
    both = np.minimum(*(match.jaccard for match in of_halves)) >= agreement.MATCH
    partners = [match.partner for match in of_halves]
    agree = (between.partner[partners[0]] == partners[1]) & (between.jaccard[partners[0]] >= agreement.MATCH) & both
    return {
        "halves_matched": shares[False],
        "halves_chance": shares[True],
        "clusters": known.height,
        "listed": int(listed.sum()),
        "listed_matched": float(both[listed].mean()),
        "listed_halves_agree": float(agree[listed].mean()),
        "listed_scored": known.filter(listed)["gain"].count(),
        "beyond_token_positive": int((known.filter(listed)["gain"] > 0).sum()),
        "beyond_token": int((known.filter(listed)["gain_low"] > 0).sum()),
        "beyond_token_of_all": int((known["gain_low"] > 0).sum()),
    }


def clustered(points: np.ndarray) -> np.ndarray:
    """Cluster of each point, by whitening, graph and search with the defaults."""
    basis = whitening.fit(moments.of(points), relative_floor=0.0)
    graph = knn.knn_graph(
        whitening.transform(points, basis).astype(np.float32), knn.KNNSettings(), np.random.default_rng(0)
    )
    return search.find_clusters(graph, local_cluster.SearchSettings()).labels


def shares(worlds: list[planted.Planted]) -> tuple[float, float]:
    """Of all worlds the share of planted clusters that are recovered, and of found ones that are none of them."""
    matched, of_found = [], []
    for world in worlds:
        truth, labels = world.labels.astype(np.int32), clustered(world.points)
        matched.append(agreement.best_match_jaccard(truth, labels))
        of_found.append(agreement.best_match_jaccard(labels, truth))
        print(f"  {np.mean(matched[-1] >= RECOVERED):.3f} of {len(matched[-1])}, found {len(of_found[-1])}", flush=True)
    return float(np.mean(np.concatenate(matched) >= RECOVERED)), float(np.mean(np.concatenate(of_found) < FALSE))


def part_planted(store: Store, experiment: ExperimentConfig) -> Figures:
    del store, experiment
    worlds = [planted.plant(50_000, n, 60, np.random.default_rng(seed)) for n, seed in WORLDS]
    recovered, false = shares(worlds)
    return {"recovered": recovered, "false_clusters": false}


def part_shapes(store: Store, experiment: ExperimentConfig) -> Figures:
    del store, experiment
    worlds = [planted.stretched(20_000, n, 60, np.random.default_rng(300 + n)) for n in (16, 32)]
    recovered, false = shares(worlds)
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(size=(4000, 8)), rng.normal(size=(6000, 4)), planted.student_cloud(20_000, 16, rng)]
    n_found = sum(int(clustered(points.astype(np.float32)).max()) + 1 for points in clouds)
    return {"elongated_recovered": recovered, "elongated_false": false, "empty_cloud_clusters": n_found}


def part_order(store: Store, experiment: ExperimentConfig) -> Figures:
    graph, labels = knn.load(store.path("knn_graph")), repeatability.stored_labels(store, experiment)
    matched, information = repeatability.line(
        "another order of the tokens", labels, repeatability.renumbered(graph, experiment, 1)
    )
    return {"order_matched": matched, "order_ami": information}


def part_chains(store: Store, experiment: ExperimentConfig) -> Figures:
    model = pretrained.load(store.path("language_model")).model
    basis = pca.load(store.path("pca_basis"))
    ids = np.concatenate([stored.contexts(store, shard) for shard in tokens.shard_keys(experiment.tokens)])
    place, digest = stored.folder(store, "response_directions"), direction_files.model_digest(model)
    found = {}
    for n_chains in (1, 2):
        halves = {}
        for component in components.chosen(model, experiment.model.components):
            path = place / f"{component.name}{direction_files.SUFFIX}"
            known = direction_files.load(path, model, component, digest=digest)
            means = torch.stack([known.directions[rank::2][:n_chains].mean(dim=0) for rank in (0, 1)])
            # The slope of the population loss is one number for all tokens, which whitening takes out.
            halves[component] = StoredDirections(means, np.zeros(2, np.float32), known.localization)
        response = linear_response.estimate(model, ids, halves)
        a, b = (clustered(pca.transform(half, basis)) for half in (response.half_a, response.half_b))
        shares = [float(np.mean(agreement.best_match_jaccard(*pair) >= agreement.MATCH)) for pair in ((a, b), (b, a))]
        found[f"halves_matched_{n_chains}"] = float(np.mean(shares))
        by_component = [np.corrcoef(x, y)[0, 1] for x, y in zip(response.half_a.T, response.half_b.T, strict=True)]
        found[f"halves_r_{n_chains}"] = float(np.mean(by_component))
        print(f"  halves of {n_chains} chains: {found}", flush=True)
    return found


PARTS: dict[str, Callable[[Store, ExperimentConfig], Figures]] = {
    "run": part_run,
    "planted": part_planted,
    "shapes": part_shapes,
    "order": part_order,
    "chains": part_chains,
}


def main() -> None:
    """The parts asked for; their figures together at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="tiny")
    parser.add_argument("--part", choices=PARTS, action="append")
    options = parser.parse_args()
    experiment = experiments.load(options.experiment)
    store, figures = experiments.store(experiment), {}
    for name in options.part or PARTS:
        started = time.process_time()
        figures |= PARTS[name](store, experiment)
        print(f"part {name}: {time.process_time() - started:.0f} s of processor time", flush=True)
    if missing := [name for name in PARTS if name not in (options.part or PARTS)]:
        print(f"not run: {', '.join(missing)}")
    for name, value in figures.items():
        print(f"{name}={value:.4f}" if isinstance(value, float) else f"{name}={value}")


if __name__ == "__main__":
    main()
