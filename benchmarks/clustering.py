"""Clustering against planted truth, against its peers, and at scale; JSON in benchmarks/results/clustering.json.

`make bench-clustering` runs every part; `--part` one of them, keeping the results of the others. Parts:

- speed: seeds a second of push and sweep, ours and LocalGraphClustering's (its own C++ compiled with -O3, its faster
  method for unit weights), interleaved on the same seeds of the same unit-weight graphs, one thread; edge visits a second
  beside the machine's random accesses a second, and two threads against one.
- truth: planted clusters of each kind recovered, and false ones, with the defaults, over worlds of several sizes.
- shapes: clusters drawn out along one to three directions, twins, and clouds without clusters: the same two shares.
- baselines: HDBSCAN, EVoC, Leiden and k-means on the same whitened points, quality and time.
- choices: kernels, neighbours and the approximate graph on the same worlds.
- scale: whitening, graph and search at growing size, each in a process of its own: seconds and peak memory.
- blocks: the same vectors as a graph in memory and as one built and searched in files: clusters, seconds, memory.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import local_graph_clustering as peer
import numba
import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

import planted  # noqa: E402
from susc_pipeline.clustering import agreement, blocks, conductance, knn, local_cluster, neighbors, pagerank, search  # noqa: E402
from susc_pipeline.representation import moments, whitening  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "clustering.json"
TELEPORTS = (0.001, 0.01, 0.1)
TOLERANCES = (1e-4, 1e-5, 1e-6)
NEIGHBORS = (20, 45)
SECONDS_PER_SIDE = 0.7
CLUSTERS_PER_POINT = 60 / 50_000


def whitened(world: planted.Planted) -> np.ndarray:
    basis = whitening.fit(moments.of(world.points), relative_floor=0.0)
    return whitening.transform(world.points, basis).astype(np.float32)


def world_of(n_points: int, n_dimensions: int, seed: int) -> planted.Planted:
    n_clusters = max(4, round(CLUSTERS_PER_POINT * n_points))
    return planted.plant(n_points, n_dimensions, n_clusters, np.random.default_rng(seed))


def quality(world: planted.Planted, labels: np.ndarray) -> dict:
    """Share of planted clusters with a match of Jaccard at least 0.8, by kind, and share of found ones without any of 0.3."""
    truth, labels = world.labels.astype(np.int32), labels.astype(np.int32)
    matched, of_found = (agreement.best_match_jaccard(a, b) for a, b in ((truth, labels), (labels, truth)))
    kinds = np.array(world.kinds)
    return {
        "recovered": int(np.sum(matched >= 0.8)),
        "planted": len(matched),
        "false": int(np.sum(of_found < 0.3)),
        "found": len(of_found),
        "by_kind": {
            k: [int(np.sum(matched[kinds == k] >= 0.8)), int(np.sum(kinds == k))] for k in dict.fromkeys(world.kinds)
        },
        "adjusted_rand_index": agreement.adjusted_rand_index(truth, labels),
    }


def graph_of_size(n_points: int, n_dimensions: int):
    """Neighbours, for the speed of what follows: by NN-descent whatever the size."""
    world = world_of(n_points, n_dimensions, 0)
    return neighbors.nearest_neighbors(whitened(world), max(NEIGHBORS), "pynndescent", np.random.default_rng(0))


def part_speed(options) -> dict:
    rows = []
    for n_points in options.speed_sizes:
        found = graph_of_size(n_points, 32)
        for k in NEIGHBORS:
            near = neighbors.Neighbors(found.indices[:, :k], found.distances[:, :k])
            graph = knn.graph_of_neighbors(near, kernel="unit")
            graph.data[:] = 1.0
            theirs, ours = peer.graph(graph), pagerank.walk(graph)
            space = pagerank.workspace(ours)
            for teleport in TELEPORTS:
                for tolerance in TOLERANCES:
                    rows.append(_race(n_points, k, teleport, tolerance, theirs, ours, space, options.repeats))
                    print(json.dumps(rows[-1]), flush=True)
    ratios = [row["ratio"] for row in rows]
    return {
        "rows": rows,
        "geometric_mean": math.exp(statistics.mean(map(math.log, ratios))),
        "median": statistics.median(ratios),
        "least": min(ratios),
    }


def _race(n_points, k, teleport, tolerance, theirs, ours, space, n_repeats) -> dict:
    """Interleaved repeats on the same seeds: as many as the peer does in a while, and ours as often as takes as long."""
    order = np.random.default_rng(k).permutation(n_points)
    settings = local_cluster.SearchSettings(teleport_probability=teleport, tolerance=tolerance)
    push_and_sweep(ours, order[:1], settings, space)
    peer.library()  # compiled before the clock runs
    ratios, peers, own, visits = [], [], [], []
    place = 0
    for _ in range(n_repeats):
        started, n_seeds = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS_PER_SIDE:
            peer.look(
                theirs,
                int(order[place + n_seeds]),
                teleport_probability=teleport,
                tolerance=tolerance,
                weighted=False,
            )
            n_seeds += 1
        peer_seconds = (time.perf_counter() - started) / n_seeds
        started, n_visited = time.perf_counter(), push_and_sweep(ours, order[place : place + n_seeds], settings, space)
        seconds = (time.perf_counter() - started) / n_seeds
        ratios.append(peer_seconds / seconds)
        peers.append(1 / peer_seconds)
        own.append(1 / seconds)
        visits.append(n_visited / n_seeds / seconds)
        place += n_seeds
    return {
        "points": n_points,
        "neighbors": k,
        "teleport_probability": teleport,
        "tolerance": tolerance,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "peer_seeds_per_second": statistics.median(peers),
        "seeds_per_second": statistics.median(own),
        "edge_visits_per_second": statistics.median(visits),
        "random_accesses_per_second": random_accesses_per_second(len(ours.degrees)),
    }


@numba.njit(cache=True, nogil=True)
def _push_and_sweep(walk, space, seeds, teleport, tolerance, profile):
    n_visited, total_volume = 0, walk.degrees.sum()
    for seed in seeds:
        pagerank.push(walk, space, seed, teleport, tolerance)
        n_visited += space.counts[2]
        pushed = space.pushed[: space.counts[1]]
        ordering = pushed[np.argsort(-space.pagerank[pushed], kind="mergesort")]
        conductance.sweep_pushed(space, ordering, total_volume, profile)
    return n_visited


def push_and_sweep(walk, seeds, settings, space) -> int:
    """Edges visited from these seeds; every pushed vertex is swept, as the peer does."""
    teleport = pagerank.plain_teleport(settings.teleport_probability)
    return _push_and_sweep(walk, space, seeds, teleport, settings.tolerance, np.empty(len(walk.degrees)))


@numba.njit(cache=True)
def _chase(values, places):
    total = 0.0
    for place in places:
        values[place] += 1.0
        total += values[place]
    return total


def random_accesses_per_second(n_vertices: int) -> float:
    """Read-modify-writes a second at random places of one float64 a vertex: what an edge visit costs without a cache."""
    values, places = np.zeros(n_vertices), np.random.default_rng(0).integers(n_vertices, size=4_000_000)
    _chase(values, places[:10])
    started = time.perf_counter()
    _chase(values, places)
    return len(places) / (time.perf_counter() - started)


def part_threads(options) -> dict:
    """Wall time of the same seeds on one thread and on two, interleaved."""
    near = graph_of_size(options.speed_sizes[0], 32)
    walk = pagerank.walk(knn.graph_of_neighbors(near, kernel="self_tuning"))
    settings = local_cluster.SearchSettings(tolerance=1e-5)
    seeds = np.random.default_rng(0).permutation(len(walk.degrees))[:2000]
    spaces = [pagerank.workspace(walk) for _ in range(2)]
    ratios = []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        push_and_sweep(walk, seeds, settings, spaces[0])
        alone = time.perf_counter() - started
        started = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: push_and_sweep(walk, seeds[job::2], settings, spaces[job]), range(2)))
        ratios.append(alone / (time.perf_counter() - started))
    return {"ratio": statistics.median(ratios[1:]), "range": [min(ratios[1:]), max(ratios[1:])]}


def cluster(points: np.ndarray, settings: knn.KNNSettings | None = None, **changes) -> tuple[search.Clustering, dict]:
    """Graph and search with the defaults but for the changes, and the seconds of each."""
    started = time.perf_counter()
    graph = knn.knn_graph(points, settings or knn.KNNSettings(), np.random.default_rng(0))
    between = time.perf_counter()
    found = search.find_clusters(graph, local_cluster.SearchSettings(**changes))
    return found, {"graph_seconds": between - started, "search_seconds": time.perf_counter() - between}


def part_truth(options) -> dict:
    rows = []
    for number, n_points in enumerate(options.truth_sizes, start=options.first_seed):
        world = world_of(n_points, (16, 32, 64)[number % 3], number)
        found, seconds = cluster(whitened(world))
        row = {"points": n_points, "dimensions": world.points.shape[1], "seed": number}
        row |= {**quality(world, found.labels), **seconds, "edges_visited": found.n_visited}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"rows": rows, **summary(rows)}


def summary(rows: list[dict]) -> dict:
    total = {name: sum(row[name] for row in rows) for name in ("recovered", "planted", "false", "found")}
    return {
        "recovered": total["recovered"] / total["planted"],
        "false_clusters": total["false"] / max(total["found"], 1),
        "by_kind": {
            kind: sum(row["by_kind"][kind][0] for row in rows) / sum(row["by_kind"][kind][1] for row in rows)
            for kind in rows[0]["by_kind"]
        },
    }


def part_shapes(options) -> dict:
    """Stretched clusters, twins, and clouds without clusters, two worlds of each in 16 and 32 dimensions."""
    found = {}
    for name, plant, n_clusters in (("elongated", planted.stretched, 60), ("twins", planted.nested, 40)):
        rows = []
        for number, n_dimensions in enumerate(2 * (16, 32)):
            world = plant(options.shapes_size, n_dimensions, n_clusters, np.random.default_rng(300 + number))
            clustering, seconds = cluster(whitened(world))
            rows.append({"dimensions": n_dimensions, **quality(world, clustering.labels), **seconds})
            rows[-1]["with_parent"] = int(np.sum(clustering.parent_size > 0))
            print(name, json.dumps(rows[-1]), flush=True)
        found[name] = {"rows": rows, **summary(rows)}
    rng = np.random.default_rng(0)
    clouds = [
        rng.uniform(size=(4000, 8)),
        rng.normal(size=(6000, 4)),
        planted.student_cloud(options.shapes_size, 16, rng),
    ]
    empty = [len(cluster(points.astype(np.float32))[0].members) for points in clouds]
    return {**found, "empty_cloud_clusters": empty}


def part_baselines(options) -> dict:
    """Each method on the same whitened points; those that take a graph take ours."""
    import evoc
    import igraph
    import leidenalg
    from fast_hdbscan import HDBSCAN
    from sklearn.cluster import MiniBatchKMeans

    def leiden(points):
        graph = knn.knn_graph(points, knn.KNNSettings(), np.random.default_rng(0)).tocoo()
        upper = graph.row < graph.col
        edges = np.stack([graph.row[upper], graph.col[upper]], axis=1)
        network = igraph.Graph(n=len(points), edges=edges)
        partition = leidenalg.find_partition(
            network,
            leidenalg.RBConfigurationVertexPartition,
            weights=graph.data[upper].tolist(),
            resolution_parameter=20.0,
            seed=0,
        )
        labels = np.array(partition.membership)
        return np.where(np.bincount(labels)[labels] >= 20, labels, -1)

    methods = {
        "ours": lambda points, world: cluster(points)[0].labels,
        "HDBSCAN (fast_hdbscan)": lambda points, world: HDBSCAN(min_cluster_size=20).fit_predict(points),
        "EVoC": lambda points, world: evoc.EVoC(base_min_cluster_size=20, random_state=0).fit_predict(points),
        "Leiden (resolution 20)": lambda points, world: leiden(points),
        "k-means (true number)": lambda points, world: MiniBatchKMeans(len(world.kinds), random_state=0).fit_predict(
            points
        ),
    }
    rows: dict[str, list] = {name: [] for name in methods}
    for number in range(options.baseline_worlds):
        world = world_of(options.baseline_size, (16, 32, 64)[number % 3], 100 + number)
        points = whitened(world)
        for name, method in methods.items():
            started = time.perf_counter()
            labels = np.unique(np.append(method(points, world), -1), return_inverse=True)[1][:-1] - 1
            rows[name].append({**quality(world, labels), "seconds": time.perf_counter() - started})
            print(name, json.dumps(rows[name][-1]), flush=True)
    return {
        name: {**summary(found), "seconds": statistics.median(row["seconds"] for row in found)}
        for name, found in rows.items()
    }


def part_choices(options) -> dict:
    """Kernels and numbers of neighbours on exact neighbours; approximate neighbours against them."""
    worlds = [world_of(options.choice_size, dimensions, 200 + dimensions) for dimensions in (16, 64)]
    rows: dict[str, list] = {}
    for world in worlds:
        points = whitened(world)
        exact = neighbors.nearest_neighbors(points, 45, "exact", np.random.default_rng(0))
        reference = None
        for name, k, kernel in [
            ("self_tuning, k 45", 45, "self_tuning"),
            ("self_tuning, k 30", 30, "self_tuning"),
            ("self_tuning, k 20", 20, "self_tuning"),
            *((f"{kernel}, k 45", 45, kernel) for kernel in ("gaussian", "inverse_distance", "unit")),
        ]:
            near = neighbors.Neighbors(exact.indices[:, :k], exact.distances[:, :k])
            found = search.find_clusters(knn.graph_of_neighbors(near, kernel=kernel), local_cluster.SearchSettings())
            reference = found.labels if reference is None else reference
            rows.setdefault(name, []).append(quality(world, found.labels))
            print(name, json.dumps(rows[name][-1]), flush=True)
        for backend in ("pynndescent", "ivf"):
            started = time.perf_counter()
            near = neighbors.nearest_neighbors(points, 45, backend, np.random.default_rng(0))
            seconds = time.perf_counter() - started
            shared = np.array([len(np.intersect1d(a, b)) / 45 for a, b in zip(near.indices, exact.indices)])
            found = search.find_clusters(
                knn.graph_of_neighbors(near, kernel="self_tuning"), local_cluster.SearchSettings()
            )
            row = quality(world, found.labels) | {
                "seconds": seconds,
                "recall": float(shared.mean()),
                "recall_in_clusters": float(shared[world.labels >= 0].mean()),
                "ari_with_exact": agreement.adjusted_rand_index(found.labels, reference),
            }
            rows.setdefault(f"{backend}, k 45", []).append(row)
            print(backend, json.dumps(row), flush=True)
    extra = ("seconds", "recall", "recall_in_clusters", "ari_with_exact")
    return {
        name: summary(found) | {key: [row[key] for row in found] for key in extra if key in found[0]}
        for name, found in rows.items()
    }


def one_size(n_points: int) -> None:
    """Whitening, graph and search of one world in this process; a JSON line with seconds and peak memory."""
    world = world_of(n_points, 64, 1)
    started = time.perf_counter()
    points = whitened(world)
    seconds = {"whitening_seconds": time.perf_counter() - started}
    found, others = cluster(points)
    seconds |= others
    row = {"points": n_points, **quality(world, found.labels), **seconds, "total_seconds": sum(seconds.values())}
    row |= {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    row |= {"cuts": found.n_cuts, "edges_visited": found.n_visited}
    print(json.dumps(row), flush=True)


def part_scale(options) -> dict:
    rows = []
    for n_points in options.scale_sizes:
        command = [sys.executable, __file__, "--one-size", str(n_points)]
        rows.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
        print(json.dumps(rows[-1]), flush=True)
    sizes = np.log([row["points"] for row in rows])
    names = ("graph_seconds", "search_seconds", "total_seconds", "peak_gib")
    fits = {name: float(np.polyfit(sizes, np.log([row[name] for row in rows]), 1)[0]) for name in names}
    return {"rows": rows, "exponents": fits if len(rows) > 1 else {}}


def anonymous_gib(*, peak: bool = False) -> float:
    """Memory of this process that is no file's, in GiB: now, or at most so far (all of it, less what is mapped now)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now = {name: int(fields[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile", "VmHWM")}
    return max(now["RssAnon"], now["VmHWM"] - now["RssFile"]) if peak else now["RssAnon"]


def one_way(n_points: int, rows_at_once: int) -> None:
    """Graph and search of one world in this process, in memory or by blocks; labels to a file, a JSON line on the way."""
    points = whitened(world_of(n_points, 64, 1))
    settings = knn.KNNSettings(backend="ivf", rows_at_once=rows_at_once)
    anonymous = anonymous_gib()
    with tempfile.TemporaryDirectory(dir=RESULTS.parent) as folder:
        started = time.perf_counter()
        graph = blocks.knn_graph(points, settings, np.random.default_rng(0), Path(folder) / "graph")
        between = time.perf_counter()
        found = search.find_clusters(graph, local_cluster.SearchSettings())
        row = {"graph_seconds": between - started, "search_seconds": time.perf_counter() - between}
        row |= {"rows_at_once": rows_at_once, "clusters": len(found.size), "edges": graph.nnz}
        row |= {"graph_gib": (graph.data.nbytes + graph.indices.nbytes + graph.indptr.nbytes) / 2**30}
    row |= {
        "anonymous_gib": anonymous_gib(peak=True) - anonymous,
        "labels": hashlib.sha256(found.labels).hexdigest()[:16],
    }
    np.save(labels_file(rows_at_once), found.labels, allow_pickle=False)
    print(json.dumps(row), flush=True)


def labels_file(rows_at_once: int) -> Path:
    return Path(tempfile.gettempdir()) / f"labels-{rows_at_once}.npy"


def part_blocks(options) -> dict:
    """The same vectors as a graph in memory and as one built and searched in files."""
    rows = []
    for rows_at_once in (0, options.blocks_size // 20):
        command = [sys.executable, __file__, "--one-way", str(options.blocks_size), str(rows_at_once)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    whole, parted = (np.load(labels_file(row["rows_at_once"]), allow_pickle=False) for row in rows)
    return {
        "points": options.blocks_size,
        "rows": rows,
        "adjusted_rand_index": agreement.adjusted_rand_index(whole, parted),
        "tokens_labelled_alike": float(np.mean((whole >= 0) == (parted >= 0))),
    }


PARTS = {
    "truth": part_truth,
    "shapes": part_shapes,
    "speed": part_speed,
    "threads": part_threads,
    "baselines": part_baselines,
    "choices": part_choices,
    "scale": part_scale,
    "blocks": part_blocks,
}


def main() -> None:
    """The parts asked for, added to what is stored, and a table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--speed-sizes", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--truth-sizes", type=int, nargs="+", default=[50_000] * 19 + [200_000])  # 1M: part scale
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scale-sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--shapes-size", type=int, default=50_000)
    parser.add_argument("--baseline-size", type=int, default=50_000)
    parser.add_argument("--baseline-worlds", type=int, default=3)
    parser.add_argument("--choice-size", type=int, default=20_000)
    parser.add_argument("--blocks-size", type=int, default=200_000)
    parser.add_argument("--one-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one-way", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_way:
        one_way(*options.one_way)
        return
    if options.one_size:
        one_size(options.one_size)
        return
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stored["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "numba": numba.__version__}
    stored["settings"] = {"knn": dataclasses.asdict(knn.KNNSettings())}
    stored["settings"]["clustering"] = dataclasses.asdict(local_cluster.SearchSettings())
    for name in options.part or PARTS:
        stored[name] = PARTS[name](options)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    table(stored)


def table(stored: dict) -> None:
    """What is stored, in words; the last lines are those that a script reads."""
    for row in stored.get("speed", {}).get("rows", []):
        print(
            f"{row['points']:>8} k {row['neighbors']} teleport {row['teleport_probability']:<5} "
            f"tolerance {row['tolerance']:.0e}: {row['seeds_per_second']:8.1f} seeds/s, "
            f"peer {row['peer_seeds_per_second']:6.1f}, "
            f"ratio {row['ratio']:6.1f} ({row['ratio_range'][0]:.1f}-{row['ratio_range'][1]:.1f}), "
            f"{row['edge_visits_per_second'] / 1e6:4.0f}M visits/s, "
            f"{row['random_accesses_per_second'] / 1e6:4.0f}M random/s"
        )
    for name, row in {**stored.get("baselines", {}), **stored.get("choices", {})}.items():
        print(f"{name:28s} recovered {row['recovered']:.3f} false {row['false_clusters']:.3f} {row['by_kind']}")
    for row in stored.get("scale", {}).get("rows", []):
        print(f"{row['points']:>8} points: {row['total_seconds']:.0f} s, {row['peak_gib']:.2f} GiB")
    truth, speed = stored.get("truth", {}), stored.get("speed", {})
    if shapes := stored.get("shapes"):
        print(f"elongated_recovered={shapes['elongated']['recovered']:.4f}")
        print(f"elongated_false={shapes['elongated']['false_clusters']:.4f}")
        print(f"twins_recovered={shapes['twins']['recovered']:.4f}")
        print(f"empty_cloud_clusters={sum(shapes['empty_cloud_clusters'])}")
    print(f"recovered={truth.get('recovered', math.nan):.4f}")
    print(f"false_clusters={truth.get('false_clusters', math.nan):.4f}")
    print(f"speedup={speed.get('median', math.nan):.2f}")


if __name__ == "__main__":
    main()
