"""Dagster's history in PostgreSQL: backfills of many concurrent runs, through the server's restart."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from test_dagster_services import BIN, CHECKOUT, ask, free_port, wait_for

from resources import postgres
from resources.postgres import Server
from resources.storage import Store

pytestmark = pytest.mark.slow
pytest.importorskip("dagster_postgres", reason="install the extra `postgres` to keep Dagster's history in PostgreSQL")
if not (shutil.which("initdb") or list(postgres.DEBIAN.glob("*/bin/initdb"))):
    pytest.skip("PostgreSQL is not installed; apt-get install postgresql", allow_module_level=True)
LAUNCH = """mutation($shards: [String!]) { launchPartitionBackfill(backfillParams: {
  assetSelection: [{path: ["part"]}], partitionNames: $shards}) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""


@pytest.fixture
def server():
    """A server in a folder that its user can enter, unlike pytest's own."""
    home = Path(tempfile.mkdtemp(prefix="dagster-home-"))
    home.chmod(0o755)
    server = Server(home)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home)


class Backfills:
    """Dagster's server and daemon on tests/backfilled.py, and what they have done."""

    def __init__(self, home, n_shards, seconds, shards_a_run=1):
        self.home, self.store = home, Store(home / "data")
        self.shards = [f"shard-{number:05d}" for number in range(n_shards)]
        self.port = free_port()
        self.environment = os.environ | {
            "PYTHONPATH": str(CHECKOUT),
            "DAGSTER_HOME": str(home),
            "BACKFILL_ROOT": str(self.store.root),
            "BACKFILL_SHARDS": str(n_shards),
            "BACKFILL_SECONDS": str(seconds),
            "BACKFILL_SHARDS_A_RUN": str(shards_a_run),
        }

    @contextlib.contextmanager
    def served(self):
        where = ["-f", CHECKOUT / "tests" / "backfilled.py", "-h", "127.0.0.1", "-p", self.port]
        with (self.home / "dagster.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in (BIN / "dagster", "dev", *where)], env=self.environment, stdout=log, stderr=log
            )
            try:
                wait_for(lambda: ask(self.port, "{ assetNodes { id } }")["assetNodes"], 400, "loading the definitions")
                yield
            finally:
                process.terminate()
                process.wait(timeout=60)

    @contextlib.contextmanager
    def instance(self):
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance

    def launch(self, shards):
        found = ask(self.port, LAUNCH, shards=shards)["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return found["backfillId"]

    def wait(self, backfill, seconds):
        def ended():
            with self.instance() as instance:
                status = instance.get_backfill(backfill).status
            return status if status in END else None

        return wait_for(ended, seconds, f"the end of backfill {backfill}")

    def failures(self):
        """What Dagster stored of each run that did not succeed: the reason, where a test says that all should."""
        with self.instance() as instance:
            runs = [run for run in instance.get_runs() if run.status != dg.DagsterRunStatus.SUCCESS]
            told = [
                f"{run.run_id} {run.status.value}: {entry.user_message or entry.message}"
                for run in runs
                for entry in instance.all_logs(run.run_id)
            ]
        return "\n".join(told)

    def finished(self):
        return [shard for shard in self.shards if self.store.manifest("part", shard)]

    def recorded(self):
        with self.instance() as instance:
            return sorted(instance.get_materialized_partitions(dg.AssetKey("part")))


END = {BulkActionStatus.COMPLETED_SUCCESS, BulkActionStatus.COMPLETED_FAILED, BulkActionStatus.FAILED}


def assert_whole(backfills):
    for shard in backfills.shards:
        backfills.store.checked("part", shard)
        assert pl.read_parquet(backfills.store.table("part", shard))["number"].to_list() == [int(shard[-5:])]
    assert backfills.recorded() == backfills.shards
    assert not list(backfills.store.root.rglob("*.tmp"))


def most_at_once(instance):
    """The largest number of runs that were under way at one time, from their launch: that is what Dagster limits."""
    records = instance.get_run_records()
    launched = [(instance.get_run_stats(r.dagster_run.run_id).launch_time, 1) for r in records]
    changes = launched + [(r.end_time, -1) for r in records]
    under_way, most = 0, 0
    for _, change in sorted(changes):
        under_way += change
        most = max(most, under_way)
    return most


def test_forty_shards_in_four_concurrent_runs(server):
    # Ten seconds of work a run: shorter ones end before the daemon, on a busy machine, has launched four.
    backfills = Backfills(server.home, 40, seconds=2, shards_a_run=5)
    with backfills.served():
        backfill = backfills.launch(backfills.shards)
        assert backfills.wait(backfill, 1800) == BulkActionStatus.COMPLETED_SUCCESS, backfills.failures()
    assert_whole(backfills)
    with backfills.instance() as instance:
        assert instance.get_runs_count() == 8 and most_at_once(instance) == 4


def test_a_backfill_lives_through_a_restart_of_the_server(server):
    backfills = Backfills(server.home, 12, seconds=3)
    with backfills.served():
        backfill = backfills.launch(backfills.shards)
        wait_for(lambda: len(backfills.finished()) >= 4, 300, "the first shards")
        server.restart()
        before = backfills.finished()
        backfills.wait(backfill, 600)
        missing = sorted(set(backfills.shards) - set(backfills.recorded()))
        if missing:
            assert backfills.wait(backfills.launch(missing), 600) == BulkActionStatus.COMPLETED_SUCCESS, (
                backfills.failures()
            )
    assert_whole(backfills)
    assert set(before) <= set(backfills.finished())


def test_the_password_is_for_the_owner_alone_and_the_server_for_this_machine(server):
    for path in (server.home / "dagster.yaml", server.data):
        assert path.stat().st_mode & 0o077 == 0, path
    assert not server.home.joinpath("postgres.password").exists()
    settings = (server.data / "postgresql.conf").read_text()
    assert "listen_addresses = '127.0.0.1'" in settings and "unix_socket_directories = ''" in settings
    command = [sys.executable, "-m", "resources.postgres", "restart"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | {"DAGSTER_HOME": str(server.home)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and server.is_running()
    password = (server.home / "dagster.yaml").read_text().partition("dagster:")[2].partition("@")[0]
    assert len(password) == 48 and password not in done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another user")
def test_a_folder_that_the_servers_user_cannot_enter_is_refused_with_the_remedy(tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(ValueError, match=r"user \w+ cannot reach .*; choose a DAGSTER_HOME in a folder"):
        Server(tmp_path / "home").start()
