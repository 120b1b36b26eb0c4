"""Materialize everything that is not up to date, without a daemon: `susc-pipeline run`.

Dagster has no single command for a graph in which only some assets are partitioned; assets/runner.py goes through it in
order, one in-process run for each asset and shard, so that the UI shows afterwards what happened.
"""

import warnings


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
    from assets import definitions, runner  # the experiment in force is read when these are imported

    how = {"thorough": thorough, "verbose": verbose, "with_controls": with_controls}
    runner.run(definitions.defs, selected, shard, **how)
    return 0
