"""What a run's guard says of its death, and what it passes on in both directions."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
WORKS = {
    "aborts": "os.abort()",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "returns 3": "return 3",
    "exits with 4": "sys.exit(4)",
    "has no memory for a thread": "os._exit(127)",
    "waits": "print(os.getpid(), flush=True); time.sleep(60)",
    "hears ctrl-C": "try:\n  print(os.getpid(), flush=True); time.sleep(60)\n except KeyboardInterrupt: return 5",
}
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a guard on Linux only")


def start(does):
    code = f"import os, signal, sys, time\nfrom assets import guard\ndef work():\n {WORKS[does]}\nsys.exit(guard.watched(work))"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=conftest.hear_interrupts
    )


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        ("aborts", 128 + signal.SIGABRT, "compiled library, as they do when they find no memory (SIGABRT)"),
        ("is killed", 128 + signal.SIGKILL, "killed from outside, as the system does when memory is short"),
        ("returns 3", 3, ""),
        ("exits with 4", 4, ""),
        (
            "has no memory for a thread",
            127,
            "error: the run was ended by the C library, which had no memory for a thread",
        ),
    ],
)
def test_a_death_is_explained_and_a_code_is_handed_on(does, code, said):
    process = start(does)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in error and bool(error) == bool(said)


def test_what_is_sent_to_the_guard_reaches_the_run():
    process = start("hears ctrl-C")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 5
    process = start("waits")
    process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert "run again" in process.stderr.read()


def test_a_run_does_not_outlive_its_guard():
    process = start("waits")
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(500):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return
    pytest.fail(f"process {pid} still runs")


def test_nothing_large_is_imported_before_the_guard_is_forked():
    code = "import sys; from assets import cli, guard, run\n"
    code += "print([n for n in ('dagster', 'torch', 'numpy', 'polars') if n in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "[]"
