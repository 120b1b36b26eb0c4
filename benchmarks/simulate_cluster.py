"""The asset graph on a cluster whose machines fail: makespan, utilisation and work lost, by discrete events.

The graph is that of the real definitions for an experiment of the wanted number of shards; how long a task takes comes from
benchmarks/scale.py and a rate that is given, for none was measured on a GPU. A task runs on one machine at a time; a machine
fails at random while it works (exponentially), and what is lost is the task it was at: a component's file, or a shard of
another asset, for everything finished is kept. `python benchmarks/simulate_cluster.py` prints the table of docs/scale.md.
"""

import argparse
import heapq
import itertools
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg
import numpy as np
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from benchmarks import scale
from resources import experiment_files
from susc_pipeline import price
from susc_pipeline.plan import Plan

if TYPE_CHECKING:
    from assets.runner import Unit

RESULTS = Path(__file__).resolve().parent / "results" / "simulate_cluster.json"
PYTHIA = experiment_files.EXPERIMENTS / "pythia-1.4b.toml"
BY_COMPONENT = (("response_directions",), ("sgld_samples",))
REPAIR = 600.0  # seconds that a failed machine is away: assumed


class Task(NamedTuple):
    """Work that one machine does without a break, once all tasks that it needs are done."""

    name: str
    seconds: float
    needs: tuple[int, ...] = ()


class Outcome(NamedTuple):
    """What a simulated run took."""

    makespan: float
    """Seconds from the first task's beginning to the last one's end."""
    utilisation: float
    """Share of the machines' time in which they did work that was kept."""
    lost: float
    """Machine-seconds of work that was not kept."""
    failures: int


def critical_path(tasks: Sequence[Task]) -> np.ndarray:
    """Seconds from the beginning of each task to the end of the longest chain that waits for it; needs come before."""
    remaining = np.zeros(len(tasks))
    for number in reversed(range(len(tasks))):
        remaining[number] += tasks[number].seconds  # what waits for it has been added already
        for need in tasks[number].needs:
            remaining[need] = max(remaining[need], remaining[number])
    return remaining


def simulate(
    tasks: Sequence[Task],
    machines: int,
    *,
    between_failures: float = np.inf,
    repair: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Outcome:
    """Run the tasks on so many equal machines, of those ready first the one with the longest chain behind it.

    Args:
        tasks: in an order in which each comes after those that it needs.
        machines: how many work.
        between_failures: mean seconds of work between two failures of one machine.
        repair: seconds that a failed machine is away.
        rng: of the failures.
    """
    rank, waiting, unmet = critical_path(tasks), [[] for _ in tasks], [len(task.needs) for task in tasks]
    for number, task in enumerate(tasks):
        for need in task.needs:
            waiting[need].append(number)
    ready = [(-rank[number], number) for number in range(len(tasks)) if not unmet[number]]
    heapq.heapify(ready)
    events: list[tuple[float, int, int]] = []  # time, what ends (a task, or -1 for a repair), whether it succeeded
    free, now, lost, failures, left = machines, 0.0, 0.0, 0, len(tasks)
    while left:
        while free and ready:
            _, number = heapq.heappop(ready)
            until_failure = rng.exponential(between_failures) if rng and np.isfinite(between_failures) else np.inf
            seconds = tasks[number].seconds
            succeeds = until_failure >= seconds
            heapq.heappush(events, (now + min(seconds, until_failure), number, succeeds))
            lost += 0.0 if succeeds else until_failure
            free -= 1
        now, number, succeeded = heapq.heappop(events)
        if number < 0:
            free += 1
        elif not succeeded:
            failures += 1
            heapq.heappush(ready, (-rank[number], number))
            heapq.heappush(events, (now + repair, -1, True))
        else:
            free, left = free + 1, left - 1
            for other in waiting[number]:
                unmet[other] -= 1
                if not unmet[other]:
                    heapq.heappush(ready, (-rank[other], other))
    kept = sum(task.seconds for task in tasks)
    return Outcome(now, kept / (machines * now) if now else 1.0, lost, failures)


def tasks_of(
    definitions: dg.Definitions, units: Iterable["Unit"], seconds: Mapping[str, float], n_components: int
) -> list[Task]:
    """Tasks of a graph's units: one for each, but one for each component where components are kept as they are made.

    Args:
        definitions: the graph.
        units: assets and shards in an order in which each comes after what it is made from (assets/runner.py); what is not
            among them, for it is made on request alone, is not waited for.
        seconds: of a shard of each asset, or of the whole where it has no shards.
        n_components: parts of response_directions and of a shard of sgld_samples.
    """
    graph, tasks, done = definitions.resolve_asset_graph(), [], {}
    for unit in units:
        sought = {key for name in unit.assets for key in sources(graph, name, unit.shard)}
        needs = {done[key] for key in sought if key in done}
        length = sum(seconds[name] for name in unit.assets)
        if unit.assets in BY_COMPONENT:
            parts = range(len(tasks), len(tasks) + n_components)
            tasks += [Task(f"{unit} {part}", length / n_components, tuple(needs)) for part in parts]
            needs, length = parts, 0.0
        tasks.append(Task(str(unit), length, tuple(needs)))
        done |= {(name, unit.shard): len(tasks) - 1 for name in unit.assets}
    return tasks


def sources(graph: BaseAssetGraph, name: str, shard: str | None) -> Iterator[tuple[str, str | None]]:
    """Asset and shard of everything that an asset's shard is made from."""
    node = graph.get(dg.AssetKey(name))
    for key in node.parent_keys:
        defined, mapping = graph.get(key).partitions_def, node.partition_mappings.get(key)
        keys = list(defined.get_partition_keys()) if defined else [None]
        if isinstance(mapping, dg.SpecificPartitionsPartitionMapping):
            keys = list(mapping.partition_keys)
        elif defined and shard is not None and not isinstance(mapping, dg.AllPartitionMapping):
            keys = [shard]
        yield from ((key.to_user_string(), each) for each in keys)


def durations(plan: Plan, teraflops: float, gigabytes_a_second: float) -> dict[str, float]:
    """Seconds of each asset, of one shard where it has shards: operations over a rate, or what it reads over a rate.

    The search and the graphs take what they take in proportion on the two cores of the run in the README.
    """
    steps, evaluations = price.sampling_operations(plan)
    count = {name: one.operations for name, one in price.prices(plan).items()}
    read, disk, counts = scale.read_bytes(plan), gigabytes_a_second * 1e9, plan.experiment.tokens
    search, graph = plan.n_tokens / scale.SEARCH_TOKENS_A_SECOND, plan.n_tokens / scale.GRAPH_TOKENS_A_SECOND
    found = defaultdict(float)
    of_shard = ("linear_response", "activations", "predict_susceptibilities")
    found |= {name: count[name] / counts.n_shards / (teraflops * 1e12) for name in of_shard}
    found["predicted_susceptibilities"] = found.pop("predict_susceptibilities")
    found |= {name: count[name] / (teraflops * 1e12) for name in ("response_directions", "aux_model")}
    return found | {
        "sgld_samples": (steps + evaluations) / (teraflops * 1e12),
        "ground_truth_susceptibilities": read["ground_truth_susceptibilities"] / counts.n_ground_truth_shards / disk,
        "pca_basis": read["pca_basis, reliability"] / disk,
        "knn_graph": graph,
        "half_a_knn_graph": graph,
        "half_b_knn_graph": graph,
        "clusters": search,
        "unwhitened_cluster_members": graph + search,
    }


def real_tasks(plan: Plan, teraflops: float, gigabytes_a_second: float) -> list[Task]:
    """Tasks of the project's own definitions for the plan's shards."""
    text = re.sub(r"(?m)^n_(shards|ground_truth_shards|validation_shards) = .*$", "", PYTHIA.read_text())
    wanted = plan.experiment.tokens
    counts = (
        f"n_shards = {wanted.n_shards}\nn_ground_truth_shards = {wanted.n_ground_truth_shards}\nn_validation_shards = 1"
    )
    text = text.replace("[tokens]", f"[tokens]\n{counts}", 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.toml"
        path.write_text(text)
        os.environ["SUSC_EXPERIMENT"] = str(path)
        from assets import definitions, runner  # the experiment in force is read when these are imported

        units = list(runner.units(definitions.defs, [], None))
        return tasks_of(definitions.defs, units, durations(plan, teraflops, gigabytes_a_second), len(plan.chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", choices=scale.plans(), default="1.4B")
    parser.add_argument("--teraflops", type=float, default=125, help="that a GPU achieves: assumed")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="a second that a machine reads: assumed")
    parser.add_argument(
        "--hours", type=float, nargs="*", default=[float("inf"), 1000, 100], help="between failures of a machine"
    )
    parser.add_argument("--machines", type=int, nargs="*", default=[1, 8, 64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=20, help="runs with failures, of which means are shown")
    options = parser.parse_args()
    tasks = real_tasks(scale.plans()[options.plan], options.teraflops, options.gigabytes)
    work, longest = sum(task.seconds for task in tasks) / 3600, critical_path(tasks).max() / 3600
    print(f"{len(tasks)} tasks, {work:,.0f} machine-hours, critical path {longest:.1f} h")
    rows = []
    for machines, between in itertools.product(options.machines, options.hours):
        n_repeats = options.repeats if np.isfinite(between) else 1  # without failures all are alike
        rngs = [np.random.default_rng([machines, number]) for number in range(n_repeats)]
        found = [simulate(tasks, machines, between_failures=between * 3600, repair=REPAIR, rng=rng) for rng in rngs]
        makespans = [outcome.makespan / 3600 for outcome in found]
        row = {
            "machines": machines,
            "hours between failures": between if np.isfinite(between) else None,
            "runs": n_repeats,
        }
        row |= {"makespan hours": round(float(np.mean(makespans)), 1), "longest": round(max(makespans), 1)}
        row |= {"utilisation": round(float(np.mean([outcome.utilisation for outcome in found])), 3)}
        row |= {"lost machine-hours": round(float(np.mean([outcome.lost for outcome in found])) / 3600, 2)}
        rows.append(row | {"failures": round(float(np.mean([outcome.failures for outcome in found])), 1)})
        print(json.dumps(rows[-1]), flush=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    assumed = {"teraflops": options.teraflops, "gigabytes a second": options.gigabytes, "repair seconds": REPAIR}
    head = {
        "assumed": assumed,
        "tasks": len(tasks),
        "machine-hours": round(work),
        "critical path hours": round(longest, 2),
    }
    RESULTS.write_text(json.dumps(kept | {options.plan: head | {"rows": rows}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
