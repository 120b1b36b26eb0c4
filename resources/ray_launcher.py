"""Runs of Dagster's daemon as jobs of a Ray cluster, that outlive a dashboard which does not answer for a while.

dagster-ray calls a run whose job it cannot ask after `UNKNOWN`, and Dagster's monitoring ends a run that is not known to be well.
On a busy cluster a request fails now and then, and a run that goes on would be marked as failed.
"""

import functools
import time
from collections.abc import Callable

from dagster import DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_ray import RayRunLauncher  # pyright: ignore[reportMissingImports]

PATIENCE = 600.0  # seconds without an answer, after which a run counts as lost


class PatientRayLauncher(RayRunLauncher):
    """dagster-ray's launcher, with PATIENCE for a dashboard that does not answer."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    @functools.cached_property
    def silent_since(self) -> dict[str, float]:
        """When the job of each run first gave no answer, by id of the run."""
        return {}

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """As dagster-ray has it; unknown only where nothing was heard of the job for PATIENCE seconds."""
        found = super().check_run_worker_health(run)
        if found.status != WorkerStatus.UNKNOWN:
            self.silent_since.pop(run.run_id, None)
            return found
        if self.clock() - self.silent_since.setdefault(run.run_id, self.clock()) < PATIENCE:
            return CheckRunHealthResult(WorkerStatus.RUNNING, found.msg)
        return found
