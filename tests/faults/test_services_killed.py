"""SIGKILL of Dagster's daemon and webserver, and of everything, in a backfill: started again, it goes on where it was."""

import contextlib
import os
import signal
import subprocess
import time

import dagster as dg
import psutil
import pytest
import test_dagster_services as services

import trials

pytestmark = pytest.mark.faults
RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { status tags { key value } } } } }"""
AT_LENGTH = pytest.mark.skipif(trials.N_MOMENTS == 1, reason="make test-faults-slow tries it")
SERVICES = ("dagster dev", "daemon run", "webserver")


@pytest.fixture
def serve(world, tmp_path):
    """A function that starts `dagster dev` on the store, and gives its port and one that gives its services."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((services.CHECKOUT / "deploy" / "dagster.yaml").read_bytes())
    set_to(home / "dagster.yaml", "max_concurrent_runs: 4", "max_concurrent_runs: 1")  # each starts by loading PyTorch
    environment = services.environment(tmp_path, world.toml) | {"SUSC_STORE": str(world.store.root.parent)}
    groups = []

    def serve():
        port = services.free_port()
        command = [services.BIN / "dagster", "dev", "-w", services.CHECKOUT / "workspace.yaml", "-h", "127.0.0.1"]
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                list(map(str, [*command, "-p", port])),
                cwd=tmp_path,
                env=environment,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        groups.append(process.pid)
        services.wait_for(lambda: loaded(port), 400, "loading the definitions")
        return port, lambda: services_of(process)

    yield serve
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def loaded(port):
    entries = services.ask(port, services.LOADED)["workspaceOrError"]["locationEntries"]
    return {(entry["locationOrLoadError"] or {}).get("__typename") for entry in entries} == {"RepositoryLocation"}


def services_of(process):
    """The daemon, the webserver and what started them, that first; the processes of runs are not among them."""
    parent = psutil.Process(process.pid)
    found = []
    for candidate in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if any(name in " ".join(candidate.cmdline()) for name in SERVICES):
                found.append(candidate)
    lines = [" ".join(one.cmdline()) for one in found]
    assert any("daemon" in line for line in lines) and any("webserver" in line for line in lines), lines
    return found


def kill(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def wait_without_pause(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


def processes_of(home):
    """Whatever works for a Dagster home: services, code servers, runs and their steps."""

    def works_for_it(process):
        with contextlib.suppress(psutil.Error):
            return process.environ().get("DAGSTER_HOME") == str(home)

    return [process for process in psutil.process_iter() if works_for_it(process)]


def launch(port, shards):
    launched = services.ask(port, services.BACKFILL, shards=shards)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return launched["backfillId"]


def ended_well(port, backfill):
    """Wait for the end of a backfill; the runs that it took."""

    def ended():
        status = services.ask(port, services.STATUS, id=backfill)["partitionBackfillOrError"]["status"]
        return status if status not in ("REQUESTED", "COMPLETING") else None

    # A test takes 4 minutes alone; runs import for minutes where other tests hold the cores.
    assert services.wait_for(ended, 600, "the backfill") == "COMPLETED_SUCCESS"
    return services.ask(port, RUNS, id=backfill)["runsOrError"]["results"]


def shards_of(runs, status):
    return sorted(
        tag["value"]
        for run in runs
        if run["status"] == status
        for tag in run["tags"]
        if tag["key"] == "dagster/partition"
    )


SHARDS = [f"shard-{number:05d}" for number in range(5)]


def set_to(settings, old, new):
    text = settings.read_text()
    assert text.count(old) == 1
    settings.write_text(text.replace(old, new))


@pytest.mark.parametrize("moment", [pytest.param("in the first launch", marks=AT_LENGTH), "after 2 shards"])
def test_a_backfill_outlives_the_daemon_and_the_webserver(world, serve, tmp_path, moment):
    world.restore(without=("token_shards",))
    settings, folder = tmp_path / "dagster" / "dagster.yaml", world.store.path("token_shards")
    if moment == "in the first launch":  # Dagster waits three minutes for a run to begin
        set_to(settings, "poll_interval_seconds: 5", "poll_interval_seconds: 5\n  start_timeout_seconds: 90")
    port, found = serve()
    doomed = found()
    backfill = launch(port, SHARDS)
    if moment == "in the first launch":
        with dg.DagsterInstance.from_config(str(settings.parent)) as instance:
            wait_without_pause(lambda: instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])), 600)
    else:
        services.wait_for(lambda: len(list(folder.glob("*.parquet"))) >= 2, 600, "2 shards")
    kill(doomed)
    port, _ = serve()
    runs = ended_well(port, backfill)
    assert not world.differences() and not world.temporaries()
    assert shards_of(runs, "SUCCESS") == SHARDS, "each shard in one run, which succeeded"
    # A run that the daemon had taken from its queue and not yet handed over never begins; after a while it is launched again.
    reasons = [tag["value"] for run in runs for tag in run["tags"] if tag["key"] == "dagster/failure_reason"]
    assert reasons == ["START_TIMEOUT"] * (len(runs) - len(SHARDS)) and len(reasons) <= 1, runs
    trials.record("services killed", moment, runs=len(runs), shards=len(SHARDS))


def test_a_backfill_outlives_its_machine(world, serve, tmp_path):
    """As after a power cut: nobody is left who knows of the run that had begun."""
    world.restore(without=("token_shards",))
    settings = tmp_path / "dagster" / "dagster.yaml"
    port, _ = serve()
    backfill = launch(port, SHARDS)
    with dg.DagsterInstance.from_config(str(settings.parent)) as instance:
        begun = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        (lost,) = services.wait_for(lambda: instance.get_runs(begun), 600, "a run")
        kill(processes_of(settings.parent))
        assert [run.run_id for run in instance.get_runs(begun)] == [lost.run_id]
    port, _ = serve()
    runs = ended_well(port, backfill)
    assert not world.differences() and not world.temporaries()
    assert shards_of(runs, "SUCCESS") == SHARDS
    assert shards_of(runs, "FAILURE") == [lost.tags["dagster/partition"]] and len(runs) == 6
    trials.record("machine down", "a run begun", runs=len(runs), shards=len(SHARDS))


@AT_LENGTH
def test_a_code_server_that_was_halted_for_a_while_goes_on(world, serve, tmp_path):
    """With Dagster's own patience of 30 s it ends itself, and a backfill waits for ever."""
    world.restore(without=("token_shards",))
    port, _ = serve()
    halted = [process for process in processes_of(tmp_path / "dagster") if "grpc" in process.cmdline()]
    assert halted
    for process in halted:
        process.suspend()
    time.sleep(45)
    for process in halted:
        process.resume()
    time.sleep(35)
    assert all(process.is_running() for process in halted)
    runs = ended_well(port, launch(port, SHARDS[:1]))
    assert shards_of(runs, "SUCCESS") == SHARDS[:1]
