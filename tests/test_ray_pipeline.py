"""The experiment on a Ray cluster, through the command that users run: the same store, whoever is killed, and the same errors."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import conftest
import psutil
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="install the extra `ray` to sample on workers")
CHECKOUT = Path(__file__).resolve().parent.parent
SHARD = "shard-00000"
ON_RAY = '[execution]\nexecutor = "ray"\n'


def start(root, *arguments, **streams):
    environment = os.environ | {
        "PYTHONPATH": str(CHECKOUT),
        "SUSC_STORE": str(root / "data"),
        "DAGSTER_HOME": str(root / "dagster"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "assets.cli", "run", "--experiment", root / "toy.toml", *arguments]
    return subprocess.Popen(list(map(str, command)), cwd=CHECKOUT, env=environment, text=True, **streams)


def run(root, *arguments):
    process = start(root, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def traces(root):
    return {path.name: path.read_bytes() for path in (root / "data" / "toy" / "sgld_samples").rglob("*.parquet")}


def directions(root):
    found = (root / "data" / "toy" / "response_directions").rglob("*.safetensors")
    return {path.name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def prepared(toy_folders, tmp_path_factory):
    """A store in which everything is made but what is sampled."""
    root = tmp_path_factory.mktemp("prepared")
    conftest.write_toml(root / "toy.toml", *toy_folders)
    code, out, err = run(root, "--select", "language_model", "corpus_documents", "population_contexts", "token_shards")
    assert code == 0, out + err
    return root


@pytest.fixture
def worlds(prepared, tmp_path):
    """A function that copies the store, with additions to the experiment."""

    def make(name, *additions):
        root = shutil.copytree(prepared, tmp_path / name)
        toml = root / "toy.toml"
        toml.write_text(toml.read_text().replace("n_draws = 2", "n_draws = 12", 1) + "\n" + "\n".join(additions))
        return root

    return make


def ray_workers(driver):
    """Processes of the driver's cluster that sample."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found += [process] if any("_Worker" in part for part in process.cmdline()) else []
    return found


def test_the_store_is_that_of_a_local_run_though_a_worker_is_killed(worlds):
    local, remote = worlds("local"), worlds("ray", ON_RAY)
    for root in (local, remote):
        code, out, err = run(root, "--select", "response_directions")
        assert code == 0, out + err
    assert len(directions(remote)) == 11 and directions(remote) == directions(local)
    arguments = ["--shard", SHARD, "--select", "sgld_samples"]
    assert run(local, *arguments)[0] == 0
    with (remote / "output").open("w") as output:
        process = start(remote, *arguments, stdout=output, stderr=output)
        deadline = time.monotonic() + 120
        while len(traces(remote)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        ray_workers(process.pid)[0].send_signal(signal.SIGKILL)
        assert len(traces(remote)) < 11
        assert process.wait(timeout=300) == 0, (remote / "output").read_text()
    assert len(traces(remote)) == 11 and traces(remote) == traces(local)
    assert not list(remote.rglob("*.tmp"))


def test_a_run_that_is_killed_leaves_no_process_and_the_next_one_goes_on_from_its_files(worlds):
    root = worlds("killed", ON_RAY)
    assert run(root, "--select", "response_directions")[0] == 0
    arguments = ["--shard", SHARD, "--select", "sgld_samples"]
    process = start(root, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while len(traces(root)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(cluster, timeout=120)  # workers end at once, two agents of Ray look less often
    assert cluster and not alive
    # What has another name than it will have is not finished, and goes.
    found = (root / "data").rglob("sgld_samples/**/*.parquet")
    kept = {path: path.stat().st_mtime_ns for path in found if not path.parent.name.endswith(".tmp")}
    assert kept and run(root, *arguments)[0] == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())


def test_an_error_in_a_component_is_that_of_a_local_run_and_other_files_are_kept(worlds):
    too_long = "step_size = 20.0", "n_beta = 500.0"
    local, remote = worlds("local"), worlds("ray", ON_RAY)
    messages = []
    for root in (local, remote):
        toml = root / "toy.toml"
        toml.write_text(toml.read_text().replace("step_size = 0.5\n", "\n".join(too_long) + "\n", 1))
        code, out, err = run(root, "--select", "response_directions")
        assert code == 1, out + err
        messages.append(err.strip().splitlines()[-1])
    assert messages[0] == messages[1] and "sampling.step_size must be at most" in messages[0]
