"""Says how far an experiment is: `susc-pipeline status`. Sizes of files are compared, not their contents; nothing is written."""

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import dagster as dg

from assets import walk
from resources.storage import Store
from susc_pipeline.messages import plain

STATES = ("current", "stale", "missing", "being made")


class Line(NamedTuple):
    """State of what one computation makes: how many of its shards are in each state, and the seconds noted of its last run."""

    name: str
    counts: Counter[str]
    seconds: float | None


def of(store: Store, definitions: dg.Definitions) -> Iterator[Line]:
    """A line for each computation, in order of the graph."""
    seconds, found = store.seconds(), dict[tuple[str, ...], Counter[str]]()
    for unit in walk.units(definitions, [], None):
        found.setdefault(unit.assets, Counter())[state(store, definitions, unit)] += 1
    for assets, counts in found.items():
        yield Line(" + ".join(assets), counts, seconds.get("+".join(assets)))


def state(store: Store, definitions: dg.Definitions, unit: walk.Unit) -> str:
    """One of STATES."""
    if any(store.is_held(name, unit.shard) for name in unit.assets):
        return "being made"
    if not all(store.manifest_path(name, unit.shard).is_file() for name in unit.assets):
        return "missing"
    return "current" if walk.is_current(store, definitions, unit) else "stale"


def written(line: Line) -> str:
    """Such as `linear_response      20 current, 2 missing     73 s`."""
    states = ", ".join(f"{line.counts[name]} {name}" for name in STATES if line.counts[name])
    return f"{line.name:60.60} {states:34} {'' if line.seconds is None else f'{line.seconds:,.0f} s'}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    """Print the state of each computation, what is next, and what to do; 0 where all is current."""
    parser = argparse.ArgumentParser(prog="susc-pipeline status", description=__doc__)
    parser.add_argument("--experiment", help="name of an experiment, or the path of a TOML file (default: tiny)")
    options = parser.parse_args(arguments)
    if options.experiment:
        os.environ["SUSC_EXPERIMENT"] = options.experiment
    try:
        return status(options.experiment or os.environ.get("SUSC_EXPERIMENT", "tiny"))
    except (ValueError, OSError) as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        return 2


def status(experiment: str) -> int:
    """Print it for the experiment in force."""
    warnings.filterwarnings("ignore", module="dagster")  # previews of features that a pinned Dagster cannot withdraw
    from assets import definitions, partitions  # the experiment in force is read when these are imported
    from resources import experiment as experiments

    store = experiments.store(partitions.EXPERIMENT)
    store.refresh()
    following, total = None, Counter[str]()
    print(f"{store.root}\n{'what is made together':60} {'shards or wholes':34} last took")
    for line in of(store, definitions.defs):
        print(plain(written(line)), flush=True)
        total += line.counts
        if following is None and line.counts["stale"] + line.counts["missing"]:
            following = line.name
    if following is None:
        print("nothing is to be made" if not total["being made"] else "the rest is being made")
    else:
        print(f"next: {following}; `susc-pipeline run --experiment {experiment}` makes what is stale or missing")
    return 0 if total["current"] == total.total() else 1


if __name__ == "__main__":
    sys.exit(main())
