"""A process that has imported everything, and forks a child for each run, which may be killed or limited.

Start-up takes six seconds of imports, most trials less. Nothing has run before the fork: the pools of threads of polars and
torch do not survive it. Threads that only tidy up the memory and the spilled files of an idle polars are not missed.
"""

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from assets import cli, guard

CHECKOUT = Path(__file__).resolve().parent.parent
LONGEST = 900.0  # seconds of a run, after which it hangs
# What functions import when they need it: a fork would do so each time.
LATE = ("arviz_stats.base", "duckdb", "matplotlib.figure", "scipy.stats", "sklearn.metrics", "sklearn.tree")
LATE += ("transformers", "umap.umap_")
HOUSEKEEPING = ("python", "jemalloc", "polars-ooc")
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "tempfile.mkdtemp")


class Ended(NamedTuple):
    """How a run ended."""

    status: int
    """Exit code, or minus the signal."""
    seconds: float
    output: str
    n_events: int
    """File operations below the store, as far as Python is told of them."""


class Warm:
    """Client of the warm process: `run` runs `susc-pipeline run`, or another command, in a fork of it."""

    def __init__(self, toml, store, home, log="log.txt", **environ):
        self.store = Path(store)
        self.log = self.store.parent / log
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")]),
            "SUSC_EXPERIMENT": str(toml),
            "SUSC_STORE": str(store),
            "DAGSTER_HOME": str(home),
            "PYTHONUNBUFFERED": "1",
            **environ,
        }
        environment |= {name: "1" for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *arguments, **how):
        """Run to the end, or until `kill_after` seconds or before file operation `kill_at`, under `limits` of resources.

        Another `command` than run is given by its name. If it is to be `guarded`, it has a guard as users' runs do.
        """
        task = {"arguments": list(map(str, arguments)), "log": str(self.log), "store": str(self.store), **how}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the warm process died"
        return Ended(**json.loads(answer), output=self.log.read_text(errors="replace"))

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=300)


def serve():
    """Fork a child for each task of the standard input, and tell how it ended."""
    for late in LATE:
        importlib.import_module(late)
    from assets import definitions, faults, run, runner, verify  # noqa: F401

    names = {Path("/proc/self/task", thread, "comm").read_text().strip() for thread in os.listdir("/proc/self/task")}
    assert not {name for name in names if not name.startswith(HOUSEKEEPING)}, names
    for line in sys.stdin:
        task = json.loads(line)
        counted = Path(task["log"]).with_suffix(".events")
        counted.write_bytes(b"")
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(task, counted)
        status = wait(pid, started, task.get("kill_after", LONGEST))
        seconds = time.monotonic() - started
        answer = {"status": os.waitstatus_to_exitcode(status), "seconds": seconds, "n_events": counted.stat().st_size}
        print(json.dumps(answer), flush=True)


def wait(pid, started, kill_after):
    """Status of a child that is killed once it has run so long."""
    handle = os.pidfd_open(pid)
    ended, _, _ = select.select([handle], [], [], max(0.0, started + kill_after - time.monotonic()))
    if not ended:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    return os.waitpid(pid, 0)[1]


def child(task, counted):
    """Carry out a task: run the pipeline under the task's limits; it does not return."""
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    watch_files(task["store"], counted, task.get("kill_at"))
    for name, limit in task.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    status = 70
    try:
        if not task.get("guarded"):
            guard.watched = lambda work: work()
        status = cli.main([task.get("command", "run"), *task["arguments"]])
    except SystemExit as error:
        status = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def watch_files(root, counted, kill_at):
    """Count file operations below a folder; die before the one of that number."""
    handle = os.open(counted, os.O_WRONLY | os.O_APPEND)
    n_seen = 0

    def hook(event, arguments):
        nonlocal n_seen
        if event in EVENTS and arguments and str(arguments[0]).startswith(root):
            if n_seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            n_seen += 1
            os.write(handle, b".")

    sys.addaudithook(hook)


if __name__ == "__main__":
    serve()
