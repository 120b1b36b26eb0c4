"""The command line of what reads one experiment's store: its option, the experiment in force, errors in a line."""

import argparse
import os
import sys
from collections.abc import Callable

from susc_pipeline.messages import plain


def run(
    look: Callable[[str], int], program: str, about: str | None, arguments: list[str] | None, *, failed: int = 1
) -> int:
    """What `look` returns for the experiment that is named, else for SUSC_EXPERIMENT or `tiny`; `failed` where it cannot look.

    The experiment is put in force first: modules that hold its partitions read it when they are imported, so `look` imports them.
    """
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--experiment", help="name of an experiment, or the path of a TOML file (default: tiny)")
    options = parser.parse_args(arguments)
    if options.experiment:
        os.environ["SUSC_EXPERIMENT"] = options.experiment
    try:
        return look(options.experiment or os.environ.get("SUSC_EXPERIMENT", "tiny"))
    except (ValueError, OSError) as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        return failed
