"""Materialize everything that is not up to date, without a daemon: `python -m assets.run --experiment tiny`.

Dagster has no single command for a graph in which only some assets are partitioned; this walks it in order, one
in-process run for each asset and shard, so that the UI shows afterwards what happened.
"""

import argparse
import os
import sys
import warnings

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
    from assets import definitions, runner  # the experiment in force is read when these are imported

    how = {"thorough": thorough, "verbose": verbose, "with_controls": with_controls}
    runner.run(definitions.defs, selected, shard, **how)


if __name__ == "__main__":
    sys.exit(guard.watched(main))
