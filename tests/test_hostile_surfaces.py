"""What a run shows and where its servers listen: no credentials, no terminal codes, loopback only, no file beside the site."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import conftest
import psutil
import pytest

from resources import experiment

CHECKOUT = Path(__file__).resolve().parent.parent
SECRETS = {"HF_TOKEN": "hf_sesame1", "AWS_SECRET_ACCESS_KEY": "sesame2", "SUSC_DATABASE_PASSWORD": "sesame3"}
LOOPBACK = {"127.0.0.1", "::1"}


def environment(root):
    places = {"SUSC_STORE": str(root / "data"), "DAGSTER_HOME": str(root / "dagster"), "PYTHONPATH": str(CHECKOUT)}
    return os.environ | SECRETS | places | {"OMP_NUM_THREADS": "1"}


def recipe(target, *variables):
    """The last command of a target of the Makefile, as users run it."""
    command = [
        "make",
        "-n",
        "--no-print-directory",
        target,
        *variables,
    ]  # as printed where make itself runs the tests, too
    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    return printed.strip().splitlines()[-1]


def listening(process):
    """Addresses on which a process and those that it started listen."""
    found = []
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found += [c for c in each.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    return {(connection.laddr.ip, connection.laddr.port) for connection in found}


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_errors_hold_nothing_that_a_terminal_obeys(tmp_path):
    toml = tmp_path / "\x1b[2J\x07.toml"
    toml.write_text("name = 1")
    # In a process of its own: definitions are read once in each.
    command = [sys.executable, "-m", "assets.cli", "run", "--experiment", str(toml)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "name must be of type str" in done.stderr and "\x1b" not in done.stderr and "\x07" not in done.stderr


@pytest.mark.slow
def test_no_credential_of_the_environment_reaches_logs_metadata_or_the_store(tmp_path, toy_folders):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    command = [
        sys.executable,
        "-m",
        "assets.cli",
        "run",
        "--experiment",
        str(toml),
        "--select",
        "language_model",
        "corpus_documents",
    ]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(tmp_path), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    toml.write_text(toml.read_text().replace(str(toy_folders[0]), "https://user:sesame@example.org/corpus"))
    refused = subprocess.run(command, cwd=CHECKOUT, env=environment(tmp_path), capture_output=True, timeout=300)
    assert refused.returncode == 1 and b"corpus.path holds the user or password" in refused.stderr
    written = [path for place in ("data", "dagster") for path in (tmp_path / place).rglob("*") if path.is_file()]
    shown = [done.stdout, done.stderr, refused.stdout, refused.stderr, *(path.read_bytes() for path in written)]
    assert len(written) > 5 and not any(b"sesame" in content for content in shown)


@pytest.mark.slow
def test_the_user_interface_listens_on_loopback_only(tmp_path, toy_folders):
    toml, port = conftest.write_toml(tmp_path / "toy.toml", *toy_folders), free_port()
    command = recipe("ui", f"PORT={port}", f"EXPERIMENT={toml}")
    env = environment(tmp_path)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(shlex.split(command), cwd=CHECKOUT, env=env, start_new_session=True, **quiet) as server:
        try:
            process = psutil.Process(server.pid)
            wait_for(lambda: port in {number for _, number in listening(process)}, 180)
            assert {address for address, _ in listening(process)} <= LOOPBACK
        finally:
            os.killpg(server.pid, signal.SIGTERM)


@pytest.fixture
def explorer(tmp_path, toy_folders):
    """The port of the explorer's server, as make explore starts it, beside whose site lies a secret."""
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    site = tmp_path / "data" / "toy" / "explorer"
    site.mkdir(parents=True)
    (site / "index.html").write_text("page")
    (site.parent / "secret").write_text("sesame")
    command = shlex.split(recipe("explore", f"EXPERIMENT={toml}"))
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment(tmp_path), stdout=subprocess.PIPE) as server:
        try:
            process = psutil.Process(server.pid)
            wait_for(lambda: listening(process), 60)
            yield listening(process)
        finally:
            server.terminate()


@pytest.mark.slow
def test_the_explorer_is_served_on_loopback_and_nothing_beside_it(explorer):
    assert {address for address, _ in explorer} <= LOOPBACK
    ((_, port),) = explorer

    def fetch(path, host="127.0.0.1"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b""))

    assert b"page" in fetch("/index.html") and b"page" not in fetch("/index.html", host="rebound.example")
    for path in (
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "//../secret",
        "/./../secret",
        "/..\\secret",
        "/way-out/secret",
    ):
        assert b"sesame" not in fetch(path), path


def test_the_store_of_an_experiment_is_below_the_folder_that_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SUSC_STORE", str(tmp_path))
    assert experiment.store(experiment.load("tiny")).root == tmp_path / "tiny"
