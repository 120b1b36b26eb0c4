"""Dagster's web server and daemon on loopback, for one experiment: `susc-pipeline ui`."""

import os
import sys
from pathlib import Path

from resources import ports

CHECKOUT = Path(__file__).resolve().parent.parent


def serve(port: int) -> int:
    """Become `dg dev` on a port of loopback; it does not return.

    Raises:
        ValueError: the port is taken.
    """
    from assets import runner  # the experiment in force is read when this is imported

    runner.dagster_home()
    ports.listener(port).close()  # Dagster would say it in thirty lines
    program = Path(sys.executable).with_name("dg")
    arguments = ["dev", "-w", str(CHECKOUT / "workspace.yaml"), "-h", ports.LOOPBACK, "-p", str(port)]
    os.execv(program, [str(program), *arguments])
