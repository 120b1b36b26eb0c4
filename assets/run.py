"""Materialize everything that is not up to date, without a daemon: `susc-pipeline run`.

Dagster has no single command for a graph in which only some assets are partitioned; this walks it in order, one
in-process run for each asset and shard, so that the UI shows afterwards what happened.
"""

import os
import shutil
import time
import warnings
from pathlib import Path


def run(
    selected: list[str],
    shard: str | None,
    *,
    thorough: bool = False,
    verbose: bool = False,
    with_controls: bool = False,
) -> int:
    """Materialize in order of the graph what is missing, stale or, if it is to be thorough, damaged; say what there is to see.

    Returns:
        0, the exit code.

    Raises:
        ValueError: a setting, the model, the corpus or an asset; says which.
    """
    warnings.filterwarnings("ignore", module="dagster")  # previews of features that a pinned Dagster cannot withdraw
    from assets import definitions, walk  # the experiment in force is read when these are imported

    if not selected and shard is None:
        say_the_price()
    home = dagster_home()
    started = time.monotonic()
    how = {"thorough": thorough, "verbose": verbose, "with_controls": with_controls}
    n_done = walk.materialize(definitions, home, selected=selected, shard=shard, **how)
    walk.report(definitions, n_done, time.monotonic() - started, shard=shard, thorough=thorough)
    return 0


def say_the_price() -> None:
    """Print what the whole experiment takes; nothing where its model is not known, of which the walk says more.

    Raises:
        ValueError: an asset needs more memory than there is, or a setting cannot be obeyed; names the keys to change.
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
