"""Runs whose process is gone are marked as failed; all others are left alone."""

import datetime
import json
import os
import socket
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, GRPC_INFO_TAG, WILL_RETRY_TAG
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import filter_runs_to_should_retry

from assets import lost_runs

LOCAL = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": "/tmp/socket"})}


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@dg.job
def nothing():
    pass


def started(instance, tags, pid=None):
    """A run that has begun, carried out by a process that a code server started if `pid` is given."""
    run = instance.create_run_for_job(nothing, tags=tags)
    if pid is not None:
        instance.report_engine_event("Started process", run, EngineEventData.in_process(pid))
        instance.report_engine_event("Executing steps", run, EngineEventData.in_process(os.getpid()))
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, nothing.name)
    instance.report_dagster_event(event, run.run_id)
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED
    return run.run_id


def status(instance, run_id):
    return instance.get_run_by_id(run_id).status


def test_a_run_is_lost_with_its_process(instance, dead):
    here = socket.gethostname()
    ours = started(instance, {lost_runs.PROCESS_TAG: f"{here} {dead}"})
    launched = started(instance, LOCAL, dead)
    assert set(lost_runs.bury(instance, launched_here=True)) == {ours, launched}
    assert status(instance, ours) == status(instance, launched) == dg.DagsterRunStatus.FAILURE
    said = [entry.message for entry in instance.all_logs(launched, of_type=dg.DagsterEventType.RUN_FAILURE)]
    assert said == [f"the process {dead} that ran it was killed; finished files were kept"]
    assert lost_runs.bury(instance, launched_here=True) == []


def test_the_pool_slot_of_a_lost_run_is_free(instance, dead):
    slots = instance.event_log_storage
    slots.set_concurrency_slots("gpu", 1)
    lost = started(instance, LOCAL, dead)
    assert slots.claim_concurrency_slot("gpu", lost, "step").is_claimed
    assert not slots.claim_concurrency_slot("gpu", "another", "step").is_claimed
    lost_runs.bury(instance, launched_here=True)
    assert slots.claim_concurrency_slot("gpu", "another", "step").is_claimed


def test_the_pool_slots_of_an_ended_or_deleted_run_are_free_and_those_of_others_are_not(instance):
    slots = instance.event_log_storage
    ended, deleted, goes_on = (started(instance, LOCAL, os.getpid()) for _ in range(3))
    for pool, run_id in (("gpu", ended), ("memory", deleted), ("disk", goes_on)):
        slots.set_concurrency_slots(pool, 1)
        assert slots.claim_concurrency_slot(pool, run_id, "step").is_claimed
    instance.report_run_failed(instance.get_run_by_id(ended), "an error between two steps")
    instance.run_storage.delete_run(deleted)
    assert not slots.claim_concurrency_slot("gpu", "another", "step").is_claimed
    slots.free_concurrency_slots_for_run("another")  # it no longer waits
    assert lost_runs.bury(instance, launched_here=True) == []
    free = [slots.claim_concurrency_slot(pool, "another", "step").is_claimed for pool in ("gpu", "memory", "disk")]
    assert free == [True, True, False]


@pytest.mark.parametrize("launched_here", [True, False])
def test_a_run_that_may_go_on_is_left_alone(instance, dead, launched_here):
    started(instance, {lost_runs.PROCESS_TAG: lost_runs.process_name()})
    started(instance, {lost_runs.PROCESS_TAG: f"another-host {dead}"})
    started(instance, LOCAL, os.getpid())
    started(instance, LOCAL)  # its process is not known yet
    started(instance, {GRPC_INFO_TAG: json.dumps({"host": "code-server", "port": 4000})}, dead)
    started(instance, {}, dead)  # of a launcher of its own
    assert lost_runs.bury(instance, launched_here=launched_here) == []


def test_whose_processes_runs_are_is_not_guessed(instance, dead):
    started(instance, LOCAL, dead)
    assert lost_runs.bury(instance, launched_here=False) == []


def test_a_process_that_has_the_number_of_a_lost_one_is_another():
    now = time.time()
    assert lost_runs.Process(os.getpid(), now).is_alive()
    assert not lost_runs.Process(os.getpid(), now - 10 * 24 * 3600).is_alive()


def test_a_zombie_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not lost_runs.Process(process.pid, time.time()).is_alive()
    process.wait()


@pytest.fixture
def retrying(tmp_path):
    """A history whose daemon retries runs, as a file so that what it stores last can be left out."""
    overrides = {"run_retries": {"enabled": True, "max_retries": 2}}
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path), overrides=overrides)) as instance:
        yield instance


def failures(instance, cursor=None):
    """Failed runs of which the daemon hears after `cursor`, and those of them that it would run again."""
    events = instance.event_log_storage.get_logs_for_all_runs_by_log_id(
        after_cursor=cursor or -1, dagster_event_type={dg.DagsterEventType.RUN_FAILURE}
    )
    records = instance.get_run_records(dg.RunsFilter(run_ids=[event.run_id for event in events.values()] or ["none"]))
    retried = filter_runs_to_should_retry([record.dagster_run for record in records], instance)
    return max(events, default=cursor), [run.run_id for run in retried]


def test_a_retry_that_the_daemon_missed_is_asked_for_once_more(retrying, monkeypatch):
    run_id, seen = started(retrying, {}), []
    storage, handle = retrying.run_storage, type(retrying.run_storage).handle_run_event

    def daemon_looks_first(*arguments):
        seen.append(failures(retrying))
        handle(storage, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "handle_run_event", daemon_looks_first)
        retrying.report_run_failed(retrying.get_run_by_id(run_id))
    [(cursor, retried)] = seen
    assert retried == [] and retrying.get_run_by_id(run_id).tags[WILL_RETRY_TAG] == "true"
    assert failures(retrying, cursor) == (cursor, []), "Dagster now hears of it by itself: delete repeat_failures"
    assert lost_runs.repeat_failures(retrying) == [], "the daemon has not had its time yet"
    monkeypatch.setattr(lost_runs, "PATIENCE", datetime.timedelta(0))
    assert lost_runs.lost_runs(dg.build_sensor_context(retrying)) == dg.SkipReason(f"retry lost: {run_id}")
    assert failures(retrying, cursor)[1] == [run_id]
    assert lost_runs.repeat_failures(retrying) == [], "once is enough"


def test_failures_that_need_no_reminder_are_left_alone(retrying, monkeypatch):
    monkeypatch.setattr(lost_runs, "PATIENCE", datetime.timedelta(0))
    of_make_run = {lost_runs.PROCESS_TAG: lost_runs.process_name()}
    launched, last, own = (started(retrying, tags) for tags in ({}, {"dagster/max_retries": "0"}, of_make_run))
    for run_id in (launched, last, own):
        retrying.report_run_failed(retrying.get_run_by_id(run_id))
    retrying.add_run_tags(launched, {AUTO_RETRY_RUN_ID_TAG: "another"})
    assert lost_runs.repeat_failures(retrying) == []
    monkeypatch.setattr(lost_runs, "FORGOTTEN", datetime.timedelta(0))
    forgotten = started(retrying, {})
    retrying.report_run_failed(retrying.get_run_by_id(forgotten))
    assert lost_runs.repeat_failures(retrying) == []


def test_the_sensor_is_on_and_says_what_it_found(instance, dead):
    assert lost_runs.lost_runs.default_status is dg.DefaultSensorStatus.RUNNING
    assert lost_runs.lost_runs(dg.build_sensor_context(instance)) == dg.SkipReason("no run is lost")
    lost = started(instance, LOCAL, dead)
    assert lost_runs.lost_runs(dg.build_sensor_context(instance)) == dg.SkipReason(f"lost: {lost}")
