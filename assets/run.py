"""Materialize everything that is not up to date, without a daemon: `python -m assets.run --experiment tiny`.

Dagster has no single command for a graph in which only some assets are partitioned; this walks it in order, one
in-process run for each asset and shard, so that the UI shows afterwards what happened.
"""

import argparse
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

from assets import guard
from susc_pipeline.messages import plain


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, walk the graph, and report; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m assets.run", description=__doc__)
    parser.add_argument("--experiment", help="name of an experiment, or the path of a TOML file (default: tiny)")
    parser.add_argument("--select", nargs="*", default=[], metavar="ASSET", help="only these assets")
    parser.add_argument("--shard", help="only this token shard of partitioned assets")
    parser.add_argument(
        "--verify", action="store_true", help="read every file against its checksum, and make again what is damaged"
    )
    parser.add_argument(
        "--controls", action="store_true", help="also the controls of the clusters, which a plain run leaves out"
    )
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.experiment:
        os.environ["SUSC_EXPERIMENT"] = options.experiment
    try:
        how = {"thorough": options.verify, "verbose": options.verbose, "with_controls": options.controls}
        run(options.select, options.shard, **how)
    except (ValueError, OSError, MemoryError) as error:
        if options.verbose:
            raise
        print(f"error: {plain(str(error) or 'there was no memory left')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run again, it goes on from what is finished", file=sys.stderr)
        return 130
    return 0


def run(
    selected: list[str],
    shard: str | None,
    *,
    thorough: bool = False,
    verbose: bool = False,
    with_controls: bool = False,
) -> None:
    """Materialize in order of the graph what is missing, stale or, if it is to be thorough, damaged; say what there is to see."""
    warnings.filterwarnings("ignore", module="dagster")  # previews of features that a pinned Dagster cannot withdraw
    from assets import definitions, walk  # the experiment in force is read when these are imported

    if not selected and shard is None:
        say_the_price()
    home = dagster_home()
    started = time.monotonic()
    how = {"thorough": thorough, "verbose": verbose, "with_controls": with_controls}
    n_done = walk.materialize(definitions, home, selected=selected, shard=shard, **how)
    walk.report(definitions, n_done, time.monotonic() - started, shard=shard, thorough=thorough)


def say_the_price() -> None:
    """Print what the whole experiment takes; nothing where its model is not known, of which the walk says more.

    Raises:
        ValueError: an asset needs more memory than there is; names the keys to lower.
    """
    from assets import overview
    from assets.partitions import EXPERIMENT
    from resources import experiment as experiments
    from resources import price

    plan = overview.plan(EXPERIMENT, experiments.store(EXPERIMENT))
    if plan is None:
        return
    price.refuse_what_cannot_fit(plan, price.memory_of(EXPERIMENT.model))
    rate = price.measured_rate(EXPERIMENT.model)
    print(f"{EXPERIMENT.name}, if nothing were there yet: {price.summary(plan, rate)}", flush=True)


def dagster_home() -> Path:
    """DAGSTER_HOME, by default in the checkout so that history and lineage outlive the run."""
    checkout = Path(__file__).resolve().parent.parent
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(checkout / ".dagster_home")))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(checkout / "deploy" / "dagster.yaml", home / "dagster.yaml")
    return home


if __name__ == "__main__":
    sys.exit(guard.watched(main))
