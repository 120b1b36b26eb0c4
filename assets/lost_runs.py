"""Lost runs: those whose process was killed, or whose machine went down, before they could say that they ended.

Dagster's daemon notices a run that does not begin, and a code server that a process of its own ended. After a power cut neither
is left who knows: the run stays "started", its backfill waits for it, and it holds its place among the runs at once, for ever.

A retry can be lost too. Dagster stores that a run failed, then its status, then that it is to be retried. A daemon that reads
in between takes the run for one that has not failed, and never reads it again.
"""

import datetime
import json
import os
import socket
from typing import NamedTuple

import dagster as dg
import psutil
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, GRPC_INFO_TAG, WILL_RETRY_TAG

PROCESS_TAG = "susc/process"
LOOPBACK = ("localhost", "127.0.0.1")
# Seconds by which a clock may be set while a run goes on: when a process began is told by the clock of now. A number that another
# process gets within them hides a lost run, but numbers come round only after a reboot or in a new container.
TOLERANCE = 60.0
# The daemon looks for failed runs every 5 seconds. A failure that is older than a day has been seen to by its user.
PATIENCE, FORGOTTEN = datetime.timedelta(seconds=30), datetime.timedelta(days=1)


class Process(NamedTuple):
    """A process of this machine that was there at some time, in seconds of the epoch."""

    pid: int
    seen: float

    def is_alive(self) -> bool:
        """Whether it is still there; another may have its number by now."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= self.seen + TOLERANCE
        except psutil.NoSuchProcess:
            return False


def process_name() -> str:
    """This process, as recorded with the runs that it carries out itself."""
    return f"{socket.gethostname()} {os.getpid()}"


def bury(instance: dg.DagsterInstance, *, launched_here: bool) -> list[str]:
    """Mark runs as failed whose process is gone; their ids. The pool slots of all runs that have ended are free then.

    A daemon that retries lost runs runs them again. A run of another machine, and one by a launcher of Ray or Kubernetes, which
    know themselves what became of it, is left alone.

    Args:
        instance: Dagster's history.
        launched_here: whether the runs of its daemon are processes of this machine; they do not say of which they are.
    """
    buried = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        run_id = record.dagster_run.run_id
        process = _process(instance, record, launched_here=launched_here)
        if process is None or process.is_alive():
            continue
        # Asked again: a run says that it ended before its process ends.
        run = instance.get_run_by_id(run_id)
        if run is None or run.status != dg.DagsterRunStatus.STARTED:
            continue
        instance.report_run_failed(run, f"the process {process.pid} that ran it was killed; finished files were kept")
        buried.append(run_id)
    _free_slots_of_ended_runs(instance)
    return buried


def _free_slots_of_ended_runs(instance: dg.DagsterInstance) -> None:
    """Free the pool slots of runs that have ended, or that were deleted.

    A run ends with its slots where an error falls between its steps, as that of a memory that is short does. Only a daemon frees
    them by itself.
    """
    slots = instance.event_log_storage
    for run_id in slots.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            slots.free_concurrency_slots_for_run(run_id)


def repeat_failures(instance: dg.DagsterInstance) -> list[str]:
    """Say once more that a run failed where its retry was promised and never launched; the ids of these runs.

    The daemon launches the retry when it reads the second event: by then status and promise are stored.
    """
    now = datetime.datetime.now(tz=datetime.UTC)
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"}, updated_after=now - FORGOTTEN
    )
    repeated = []
    for record in instance.get_run_records(failed):
        run = record.dagster_run
        ours = PROCESS_TAG in run.tags  # no daemon launched it, and its user was told
        if ours or AUTO_RETRY_RUN_ID_TAG in run.tags or record.update_timestamp > now - PATIENCE:
            continue
        if len(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)) == 1:
            instance.report_run_failed(run, "it failed, and the retry that was promised was not launched")
            repeated.append(run.run_id)
    return repeated


def _process(instance: dg.DagsterInstance, record: dg.RunRecord, *, launched_here: bool) -> Process | None:
    """The process that carries out a run, where it is of this machine and known."""
    run = record.dagster_run
    if PROCESS_TAG in run.tags:
        host, _, pid = run.tags[PROCESS_TAG].rpartition(" ")
        return Process(int(pid), record.create_timestamp.timestamp()) if host == socket.gethostname() else None
    if not launched_here or json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("host") not in LOOPBACK:
        return None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        metadata = entry.get_dagster_event().engine_event_data.metadata
        if "pid" in metadata:  # the first that has one is the run's own; those of its steps follow
            return Process(int(str(metadata["pid"].value)), entry.timestamp)
    return None


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Mark runs as failed whose process is gone: the daemon runs them again, and what they had finished is kept.

    It also asks again for a retry that the daemon promised and did not launch.
    """
    found = {"lost": bury(context.instance, launched_here=True), "retry lost": repeat_failures(context.instance)}
    said = [f"{what}: {', '.join(runs)}" for what, runs in found.items() if runs]
    return dg.SkipReason("; ".join(said) or "no run is lost")
