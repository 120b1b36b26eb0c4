"""SIGKILL of Dagster's daemon and webserver in the middle of a backfill: started again, it goes on where it was."""

import contextlib
import os
import signal
import subprocess

import psutil
import pytest
import test_dagster_services as services

import trials

pytestmark = pytest.mark.faults
RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { status tags { key value } } } } }"""
SERVICES = ("dagster dev", "daemon run", "webserver")


@pytest.fixture
def serve(world, tmp_path):
    """A function that starts `dagster dev` on the store, and gives its port and a function that kills its services."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((services.CHECKOUT / "dagster.yaml").read_bytes())
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
        services.wait_for(lambda: loaded(port), 180, "loading the definitions")
        return port, lambda: kill_services(process)

    yield serve
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def loaded(port):
    entries = services.ask(port, services.LOADED)["workspaceOrError"]["locationEntries"]
    return {(entry["locationOrLoadError"] or {}).get("__typename") for entry in entries} == {"RepositoryLocation"}


def kill_services(process):
    """SIGKILL the daemon, the webserver and what started them; the processes of runs are left alone."""
    parent = psutil.Process(process.pid)
    killed = []
    for found in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            line = " ".join(found.cmdline())
            if any(name in line for name in SERVICES):
                found.kill()
                killed.append(line)
    process.wait()
    assert any("daemon" in line for line in killed) and any("webserver" in line for line in killed), killed


@pytest.mark.parametrize("n_before", [0, 2])
def test_a_backfill_outlives_the_daemon_and_the_webserver(world, serve, n_before):
    world.restore(without=("token_shards",))
    shards = [f"shard-{number:05d}" for number in range(5)]
    folder = world.store.path("token_shards")
    port, kill = serve()
    launched = services.ask(port, services.BACKFILL, shards=shards)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    services.wait_for(lambda: len(list(folder.glob("*.parquet"))) >= n_before, 240, f"{n_before} shards")
    kill()
    port, _ = serve()

    def ended():
        status = services.ask(port, services.STATUS, id=launched["backfillId"])["partitionBackfillOrError"]["status"]
        return status if status not in ("REQUESTED", "COMPLETING") else None

    assert services.wait_for(ended, 300, "the backfill") == "COMPLETED_SUCCESS"
    assert not world.differences() and not world.temporaries()
    runs = services.ask(port, RUNS, id=launched["backfillId"])["runsOrError"]["results"]
    made = sorted(tag["value"] for run in runs for tag in run["tags"] if tag["key"] == "dagster/partition")
    assert made == shards, "each shard in one run, which succeeded"
    assert {run["status"] for run in runs} == {"SUCCESS"}
    trials.record("services killed", f"after {n_before} shards", runs=len(runs), shards=len(made))
