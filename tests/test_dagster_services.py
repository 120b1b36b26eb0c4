"""Dagster as users start it: its own checks of the definitions, and the UI's server and daemon running a backfill."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import conftest
import dagster as dg
import psutil
import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import SensorExecutionArgs

from assets import ui

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
BACKFILL = """mutation($shards: [String!]) { launchPartitionBackfill(backfillParams: {
  assetSelection: [{path: ["token_shards"]}], partitionNames: $shards}) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  __typename ... on PartitionBackfill { status } } }"""
STALENESS = """query { assetNodes { assetKey { path } staleStatus } }"""
LOADED = """query { workspaceOrError { __typename ... on Workspace { locationEntries { loadStatus
  locationOrLoadError { __typename } } } } }"""


def environment(root, toml):
    return (
        ui.SERVICES
        | os.environ
        | {
            "PYTHONPATH": str(CHECKOUT),
            "SUSC_EXPERIMENT": str(toml),
            "SUSC_STORE": str(root / "data"),
            "DAGSTER_HOME": str(root / "dagster"),
            "OMP_NUM_THREADS": "1",
        }
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, query, **variables):
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError:  # the server is not up yet
            pass
        time.sleep(1)
    pytest.fail(f"{what} did not happen within {seconds} s")


@pytest.fixture
def served(toy_folders, tmp_path):
    """A function that starts `susc-pipeline ui` on the toy experiment from a foreign directory, and gives its port."""
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((CHECKOUT / "deploy" / "dagster.yaml").read_bytes())
    (tmp_path / "elsewhere").mkdir()
    started = []

    def serve():
        port = free_port()
        command = [sys.executable, "-m", "assets.cli", "ui", "--experiment", toml, "--port", port]
        log = (tmp_path / "server.log").open("ab")
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=tmp_path / "elsewhere",
            env=environment(tmp_path, toml),
            start_new_session=True,
            stdout=log,
            stderr=log,
        )
        started.append(process)

        def loaded():
            entries = ask(port, LOADED)["workspaceOrError"]["locationEntries"]
            kinds = {entry["locationOrLoadError"]["__typename"] for entry in entries if entry["locationOrLoadError"]}
            return kinds == {"RepositoryLocation"}

        wait_for(loaded, 400, "loading the definitions")
        return port

    def stop():
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        started.clear()

    yield tmp_path, toml, serve
    stop()


@pytest.mark.parametrize(
    "command", [["dagster", "definitions", "validate", "-w", "workspace.yaml"], ["dg", "check", "defs"]]
)
def test_dagster_finds_nothing_wrong_with_the_definitions(command, tmp_path):
    env = os.environ | {"DAGSTER_HOME": str(tmp_path), "SUSC_STORE": str(tmp_path / "data")}
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_backfill_from_the_ui_runs_and_a_changed_experiment_shows_as_stale(served):
    root, toml, serve = served
    first = [sys.executable, "-m", "assets.cli", "run", "--experiment", str(toml), "--select"]
    first += ["language_model", "corpus_documents"]
    assert subprocess.run(first, cwd=CHECKOUT, env=environment(root, toml), timeout=200).returncode == 0
    port = serve()
    shards = ["shard-00000", "shard-00002"]
    launched = ask(port, BACKFILL, shards=shards)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def finished():
        status = ask(port, STATUS, id=launched["backfillId"])["partitionBackfillOrError"]["status"]
        return status if status not in ("REQUESTED", "COMPLETING") else None

    assert wait_for(finished, 600, "the backfill") == "COMPLETED_SUCCESS"
    written = sorted(path.stem for path in (root / "data" / "toy" / "token_shards").glob("*.parquet"))
    assert written == shards

    def stale():
        return [
            node["assetKey"]["path"][-1]
            for node in ask(port, STALENESS)["assetNodes"]
            if node["staleStatus"] == "STALE"
        ]

    assert stale() == []
    toml.write_text(toml.read_text().replace('source = "', 'revision = "other"\nsource = "'))
    wait_for(lambda: "language_model" in stale(), 300, "noticing the edit")


def test_a_code_server_does_not_grow_with_what_it_is_asked(toy_folders, tmp_path):
    """Each look of a sensor leaves as much of Dagster's garbage as a run does, which must not wait for its collection."""
    (tmp_path / "dagster").mkdir()
    env = environment(tmp_path, conftest.write_toml(tmp_path / "toy.toml", *toy_folders))
    with tempfile.TemporaryDirectory() as short, dg.DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance:
        socket_file = f"{short}/socket"
        command = [
            BIN / "dagster",
            "api",
            "grpc",
            "--socket",
            socket_file,
            "-f",
            CHECKOUT / "assets" / "definitions.py",
        ]
        server = subprocess.Popen(list(map(str, command)), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            client, process = DagsterGrpcClient(socket=socket_file), psutil.Process(server.pid)
            wait_for(lambda: answers(client), 120, "starting the code server")
            repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
            look = SensorExecutionArgs(repository, instance.get_ref(), "lost_runs")
            mebibytes = []
            for _ in range(2):
                for _ in range(150):
                    assert "no run is lost" in client.external_sensor_execution(look)
                mebibytes.append(process.memory_info().rss / 2**20)
        finally:
            server.terminate()
            server.wait(60)
    assert mebibytes[1] - mebibytes[0] < 6, mebibytes  # 16 where nothing is collected


def answers(client):
    try:
        return client.list_repositories()
    except DagsterUserCodeUnreachableError:
        return None
