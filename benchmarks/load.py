"""A week in an hour: memory over thousands of materializations, and of assets that read many shards.

`--part walk`: a toy experiment of 500 shards by the command that users run, 2,000 materializations in one process, whose
memory is taken after each; the store is read again at the end. `--part daemon`: a backfill by the daemon of `dagster dev`,
memory of each of its processes. `--part memory`: peak memory at 1, 4 and 16 shards, each in a process of its own.
JSON goes to benchmarks/results/load.json, part by part.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import partitions
import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results" / "load.json"
LINE = re.compile(r"\[(\d+)/(\d+)\] (.+?)(?: shard-\d+)? done in")
WARM_UP = 50  # materializations of an asset before its memory counts
FACTORS = (1, 4, 16)
ASSETS = ("pca_basis", "whitening_basis", "predicted_susceptibilities", "whitened_susceptibilities", "knn_graph")
STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  __typename ... on PartitionBackfill { status } } }"""


class Sample(NamedTuple):
    """Memory of a process when so many materializations were done."""

    group: str
    done: int
    mebibytes: float


class Slope(NamedTuple):
    """Growth of memory, and its standard error."""

    mebibytes_a_thousand: float
    standard_error: float
    samples: int


def slope(samples: list[Sample]) -> Slope:
    """Mebibytes a thousand materializations: least squares of memory on their number, each group about its own mean.

    A group is an asset, or a process: what it needs for itself is not growth. Samples follow one another and are not
    independent, so the error is that of ten blocks of each group rather than of single samples (batch means).
    """
    x, y = [], []
    for group in dict.fromkeys(sample.group for sample in samples):
        rows = np.array([(s.done, s.mebibytes) for s in samples if s.group == group])
        means = np.array([block.mean(axis=0) for block in np.array_split(rows, min(10, len(rows)))])
        centred = means - means.mean(axis=0)
        x.append(centred[:, 0])
        y.append(centred[:, 1])
    n_groups, x, y = len(x), np.concatenate(x), np.concatenate(y)
    found = (x @ y) / (x @ x)
    residual = y - found * x
    error = np.sqrt(residual @ residual / (len(x) - n_groups - 1) / (x @ x))
    return Slope(round(1000 * float(found), 3), round(1000 * float(error), 3), len(samples))


def experiment(root: Path, n_shards: int) -> dict[str, str]:
    """A toy experiment of so many shards of six contexts, three of them ground truth, and the environment that names it."""
    env = partitions.environment(root, n_shards, n_documents=5 * n_shards + 200)  # a withheld shard needs several
    toml = Path(env["SUSC_EXPERIMENT"])
    text = re.sub(r"n_ground_truth_shards = \d+", "n_ground_truth_shards = 3", toml.read_text())
    toml.write_text(text.replace("contexts_per_shard = 10", "contexts_per_shard = 6"))
    return env | {"OMP_NUM_THREADS": "1"}


def walk(root: Path, n_shards: int) -> dict:
    """Memory of one walk over the whole graph, sampled after each materialization, and whether its store is whole."""
    env = experiment(root, n_shards)
    command = [sys.executable, "-u", "-m", "assets.cli", "run"]
    started, samples = time.monotonic(), []
    with subprocess.Popen(command, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True) as process:
        guard, seen = psutil.Process(process.pid), {}
        for done, asset in materializations(process):
            (watched,) = guard.children()[:1] or [guard]  # the process that works
            seen[asset] = seen.get(asset, 0) + 1
            if seen[asset] > WARM_UP:
                samples.append(Sample(asset, done, watched.memory_info().rss / 2**20))
    seconds = time.monotonic() - started
    rows = {"finished": process.returncode == 0, "runs": sum(seen.values())}
    rows["seconds"] = round(seconds)
    rows["slope"] = slope(samples)._asdict()
    rows["by_asset"] = {
        name: [round(s.mebibytes, 1) for s in samples if s.group == name][:: max(1, count // 8)]
        for name, count in seen.items()
        if count > 2 * WARM_UP
    }
    rows["history_mebibytes"] = round(size(root / "dagster"), 1)
    return rows | consistency(root, env)


def materializations(process: subprocess.Popen) -> Iterator[tuple[int, str]]:
    """Number and asset of each run of a walk, at its end, from what it prints."""
    text = ""
    while character := process.stdout.read(1):
        text = "" if character == "\n" else text + character
        if character == "n" and (found := LINE.match(text)):
            yield int(found[1]), found[3]
            text = ""


def consistency(root: Path, env: dict[str, str]) -> dict:
    """Whether nothing is left to do, nothing temporary is left, and every artifact has the content that its manifest names."""
    again = subprocess.run(
        [sys.executable, "-m", "assets.cli", "run"], cwd=CHECKOUT, env=env, capture_output=True, text=True
    )
    check = subprocess.run(
        [sys.executable, "-m", "assets.cli", "verify"], cwd=CHECKOUT, env=env, capture_output=True, text=True
    )
    return {
        "second_walk_does_nothing": again.returncode == 0 and "up to date" in again.stdout,
        "temporary_files_left": len(list((root / "data").rglob("*.tmp"))),
        "manifests": len(list((root / "data").rglob("*.manifest.json"))),
        "verify": check.stdout.strip().splitlines()[-1].partition(": ")[2] or check.stdout[-500:],
    }


def size(folder: Path) -> float:
    """Mebibytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def daemon(root: Path, n_shards: int) -> dict:
    """Memory of each process of `dagster dev` while its daemon runs a backfill of so many shards."""
    env = experiment(root, n_shards)
    first = [sys.executable, "-m", "assets.cli", "run", "--select", "language_model", "corpus_documents"]
    subprocess.run(first, cwd=CHECKOUT, env=env, check=True, stdout=subprocess.DEVNULL)
    port, server = partitions.serve(env, "dev")
    try:
        shards = [f"shard-{number:05d}" for number in range(n_shards)]
        launched = partitions.ask(port, partitions.BACKFILL, shards=shards)["launchPartitionBackfill"]["backfillId"]
        started, samples, status = time.monotonic(), [], "REQUESTED"
        while status in ("REQUESTED", "COMPLETING"):
            time.sleep(5)
            done = len(list((root / "data" / "toy" / "token_shards").glob("*.manifest.json")))
            samples += [Sample(name, done, mebibytes) for name, mebibytes in standing(server.pid)]
            status = partitions.ask(port, STATUS, id=launched)["partitionBackfillOrError"]["status"]
    finally:
        partitions.end(server)
    names = list(dict.fromkeys(sample.group for sample in samples))
    # Of a backfill of trivial assets the code server takes about 150 runs until it is as large as it gets.
    steady = [sample for sample in samples if n_shards // 2 <= sample.done < n_shards]
    rows = {"status": status, "materializations": done, "seconds": round(time.monotonic() - started)}
    rows["by_process"] = {
        name: {
            "slope": slope([s for s in steady if s.group == name])._asdict(),
            "mebibytes": [round(s.mebibytes, 1) for s in samples if s.group == name][
                :: max(1, len(samples) // len(names) // 8)
            ],
        }
        for name in names
    }
    return rows


def standing(pid: int) -> Iterator[tuple[str, float]]:
    """Name and mebibytes of the processes of `dagster dev` that outlive a run."""
    kinds = {"daemon run": "daemon", "dagster_webserver": "webserver", "dagster-webserver": "webserver"}
    kinds |= {"api grpc": "code server", "code-server": "code server"}
    by_kind: dict[str, float] = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            words, mebibytes = " ".join(process.cmdline()), process.memory_info().rss / 2**20
        except psutil.Error:  # it ended meanwhile
            continue
        kind = next((name for part, name in kinds.items() if part in words), None)
        if kind:
            by_kind[kind] = by_kind.get(kind, 0.0) + mebibytes
    yield from by_kind.items()


def memory(root: Path) -> dict:
    """Peak of each asset above what its process had before, at 1, 4 and 16 shards."""
    found: dict[str, dict[str, float]] = {}
    for asset in ASSETS:
        for factor in FACTORS:
            command = [sys.executable, __file__, "--probe", asset, str(factor), str(root / f"{asset}-{factor}")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(asset, {})[f"{factor} shards"] = float(done.stdout.split()[-1])
            print(asset, factor, done.stdout.split()[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["walk", "daemon", "memory"], nargs="*", default=["walk", "daemon", "memory"])
    parser.add_argument("--shards", type=int, default=500, help="of the walk; four materializations each")
    parser.add_argument("--backfill", type=int, default=300, help="shards of the backfill")
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        import asset_probes  # only here: the parent needs no assets

        asset, n_shards, folder = options.probe
        print(asset_probes.added_mebibytes(asset, int(n_shards), Path(folder)))
        return
    parts = {"walk": lambda root: walk(root, options.shards), "daemon": lambda root: daemon(root, options.backfill)}
    parts["memory"] = memory
    for part in options.part:
        with tempfile.TemporaryDirectory() as temporary:
            found = parts[part](Path(temporary))
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(kept | {part: found}, indent=1) + "\n")
        print(json.dumps({part: found}, indent=1), flush=True)


if __name__ == "__main__":
    main()
