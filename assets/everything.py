"""The whole pipeline as one job. Which artifacts are up to date and how one is made is in runner.py."""

from collections.abc import Callable

import dagster as dg

from assets import runner


def job(definitions: Callable[[], dg.Definitions]) -> dg.JobDefinition:
    """The job; the definitions are asked for when it runs, for it is one of them."""

    @dg.op(out=dg.Out(dg.Nothing))
    def walk_the_graph() -> None:
        """Materialize every asset and shard that is missing or stale, in order, each in a run of its own, as `make run` does."""
        runner.run(definitions(), [], None)

    @dg.job
    def everything() -> None:
        """All assets of the experiment, for all shards.

        Dagster wants one partitions definition a job, and the graph has three: token shards, ground-truth shards, none. So
        this is one step that walks the graph; the runs that it makes are listed beside it, and a failed one is named in its
        error.
        """
        walk_the_graph()

    return everything
