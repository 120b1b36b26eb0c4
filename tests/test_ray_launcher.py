"""Runs of the daemon as jobs of a Ray cluster, by deploy/ray/dagster.yaml: a backfill spread over it, and where it listens."""

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from test_dagster_services import BIN, CHECKOUT, free_port, wait_for
from test_postgres import Backfills, Server, assert_whole

pytestmark = pytest.mark.slow
pytest.importorskip("dagster_ray", reason="install the extra `ray` to launch runs on a cluster")


@pytest.fixture
def home(monkeypatch):
    """Dagster's folder, with its history in a server whose address, as Ray's token, only the environment knows."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder = Path(tempfile.mkdtemp(prefix="dagster-home-"))
    folder.chmod(0o755)
    server = Server(folder)
    server.start()
    settings = folder / "dagster.yaml"
    address = re.search(r"postgres_url: (\S+)", settings.read_text())[1]
    settings.write_text(settings.read_text().replace(address, "{env: DAGSTER_POSTGRES_URL}"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", address)
    yield folder
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def cluster(home):
    """Address of the jobs of a cluster of one machine, and its folder, of a short name for the sake of its sockets."""
    folder, ports = tempfile.mkdtemp(prefix="ray-"), [free_port() for _ in range(2)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [BIN / "ray", "start", "--head", f"--port={ports[0]}", "--num-cpus=4", f"--temp-dir={folder}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}"]
    subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True, timeout=120)
    mine = [p for p in psutil.process_iter(["cmdline"]) if any(folder in part for part in p.info["cmdline"] or [])]
    yield f"http://127.0.0.1:{ports[1]}", Path(folder)
    for process in mine:
        process.kill()
    psutil.wait_procs(mine, timeout=30)
    shutil.rmtree(folder)


class Dashboard:
    """Answers that the job runs, or not at all."""

    is_up = True

    def get_job_status(self, _):
        from ray.job_submission import JobStatus

        if not self.is_up:
            raise RuntimeError("Request failed with status code 500")
        return JobStatus.RUNNING


def test_a_dashboard_that_does_not_answer_for_a_while_ends_no_run():
    from resources import ray_launcher

    launcher, dashboard, now = ray_launcher.PatientRayLauncher("http://127.0.0.1:1"), Dashboard(), [0.0]
    with dg.DagsterInstance.ephemeral() as instance:
        launcher.register_instance(instance)
        launcher.__dict__["client"], launcher.clock = dashboard, lambda: now[0]
        run = dg.DagsterRun("everything", status=dg.DagsterRunStatus.STARTED)
        found = []
        for dashboard.is_up, passed in (
            (True, 0),
            (False, 5),
            (False, 500),
            (True, 200),
            (False, 500),
            (False, 599),
            (False, 2),
        ):
            now[0] += passed
            found.append(launcher.check_run_worker_health(run).status.value)
        assert found == ["RUNNING"] * 6 + ["UNKNOWN"]


def is_ready(address):
    """Whether the cluster takes a job: for a while after its start no agent is there to run one."""
    command = [str(BIN / "ray"), "job", "submit", "--address", address, "--no-wait", "--", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_backfill_runs_as_jobs_of_the_cluster(cluster, home):
    cluster, folder = cluster
    wait_for(lambda: is_ready(cluster), 120, "a cluster that takes jobs")
    launcher = (CHECKOUT / "deploy" / "ray" / "dagster.yaml").read_text().replace("http://127.0.0.1:8265", cluster)
    with (home / "dagster.yaml").open("a") as file:
        file.write(
            launcher.replace(
                "SUSC_STORE]",
                "SUSC_STORE, PYTHONPATH, BACKFILL_ROOT, BACKFILL_SHARDS, BACKFILL_SECONDS, BACKFILL_SHARDS_A_RUN]",
            )
        )
    settings = (home / "dagster.yaml").read_text()
    monitored = "run_monitoring:\n  enabled: true\n"
    assert monitored in settings
    # On a busy machine a job takes minutes until it reaches Dagster.
    (home / "dagster.yaml").write_text(settings.replace(monitored, f"{monitored}  start_timeout_seconds: 900\n"))
    backfills = Backfills(home, 4, seconds=1)
    with backfills.served():
        backfill = backfills.launch(backfills.shards)
        assert backfills.wait(backfill, 1000) == BulkActionStatus.COMPLETED_SUCCESS, backfills.failures()
    assert_whole(backfills)
    token = os.environ["RAY_AUTH_TOKEN"]
    asked = urllib.request.Request(f"{cluster}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    jobs = urllib.request.urlopen(asked).read().decode()
    of_runs = [job for job in json.loads(jobs) if "dagster/run-id" in (job["metadata"] or {})]
    assert [job["status"] for job in of_runs] == ["SUCCEEDED"] * 4
    wait_for(lambda: listening(cluster) == {"127.0.0.1"}, 5, "the dashboard's address")
    password = os.environ["DAGSTER_POSTGRES_URL"].partition("dagster:")[2].partition("@")[0]
    logs = [
        path.read_text(errors="replace") for path in (folder / "session_latest" / "logs").glob("*") if path.is_file()
    ]
    assert len(password) == 48 and any("execute_run" in text for text in logs)
    for secret in (password, token):
        assert not any(secret in text for text in [jobs, *logs])
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster}/api/jobs/")


def listening(cluster):
    port = int(cluster.rpartition(":")[2])
    return {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
