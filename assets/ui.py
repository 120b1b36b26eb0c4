"""Dagster's web server and daemon on loopback, for one experiment: `susc-pipeline ui`."""

import os
import subprocess
import sys
from pathlib import Path

from assets import reloading
from resources import experiment_files, ports

CHECKOUT = Path(__file__).resolve().parent.parent
# Dagster's code server ends itself where its keeper is silent for half a minute, as on a machine that halts or is short of
# processors, and nobody starts it again: every run, sensor and backfill then waits for ever. The keeper, which ends it by command
# and is itself started again, keeps its half minute.
SERVICES = {"DAGSTER_GRPC_PROXY_HEARTBEAT_TTL_SECONDS": "86400"}


def serve(port: int) -> int:
    """Become `dg dev` on a port of loopback; it does not return. An edit of the experiment's file reloads the definitions.

    Raises:
        ValueError: the port is taken.
    """
    from assets import runner  # the experiment in force is read when this is imported

    runner.dagster_home()
    ports.listener(port).close()  # Dagster would say it in thirty lines
    watched = str(experiment_files.path_of().resolve()), f"http://{ports.LOOPBACK}:{port}"
    subprocess.Popen([sys.executable, "-m", reloading.__name__, *watched], cwd=CHECKOUT)  # it ends with this process
    program = Path(sys.executable).with_name("dg")
    arguments = ["dev", "-w", str(CHECKOUT / "workspace.yaml"), "-h", ports.LOOPBACK, "-p", str(port)]
    os.execve(program, [str(program), *arguments], SERVICES | os.environ)
