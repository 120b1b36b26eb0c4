"""Serves an experiment's explorer on loopback: `python -m resources.serve --experiment tiny`."""

import argparse
import os
import socket
import sys
import zlib
from pathlib import Path

import uvicorn

from resources import experiment as experiments
from resources import site_server
from resources.files import StoreError
from resources.storage import Store
from susc_pipeline.config import ExperimentConfig

ADDRESS = "127.0.0.1"
PORTS = range(20_000, 30_000)  # below those that systems hand out by themselves
N_TRIED = 20


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; 1 where there is nothing to serve, or no port."""
    parser = argparse.ArgumentParser(prog="python -m resources.serve", description=__doc__)
    parser.add_argument("--experiment", help="name of an experiment, or the path of a TOML file (default: tiny)")
    parser.add_argument("--port", type=int, help="port on loopback (default: one that stays the experiment's)")
    parser.add_argument(
        "--live", action="store_true", help="measure text of your own in the page `Text`; loads the model"
    )
    options = parser.parse_args(arguments)
    try:
        experiment = experiments.load(options.experiment)
        store = experiments.store(experiment)
        page = checked_page(store, options.experiment or experiment.name)
        live = measurer(experiment, store) if options.live else None
        application = site_server.application(page.parent, live)
        with bound(options.port, page) as listener:
            print(f"http://{ADDRESS}:{listener.getsockname()[1]}/  (or open {page} itself); Ctrl-C ends it", flush=True)
            settings = uvicorn.Config(application, log_level="error", access_log=False, server_header=False)
            uvicorn.Server(settings).run(sockets=[listener])
    except (StoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def checked_page(store: Store, experiment: str) -> Path:
    """First page of the site.

    Raises:
        StoreError: it was not made.
    """
    page = store.page()
    store.refresh()
    if store.remote and store.manifest("explorer"):
        store.checked("explorer")
    if not page.is_file():
        raise StoreError(f"{page} is missing; make run EXPERIMENT={experiment} writes it")
    return page


def measurer(experiment: ExperimentConfig, store: Store) -> site_server.Measurer:
    """What measures text of one's own, with what it reads said as it is read."""
    from resources import live  # only here: the site alone needs no torch

    return live.load(experiment, store, report=lambda message: print(f"{message} …", flush=True))


def bound(wanted: int | None, page: Path) -> socket.socket:
    """A listening socket: on the wanted port, else on the one that stays the page's, else on the next that is free.

    Raises:
        ValueError: the wanted port is taken or is none, or so many in a row are taken.
    """
    own = PORTS.start + zlib.crc32(os.fsencode(page.resolve())) % len(PORTS)
    ports = [own + step for step in range(N_TRIED)] if wanted is None else [wanted]
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a page just closed would hold the port
        try:
            listener.bind((ADDRESS, port))
            listener.listen()
        except (OSError, OverflowError):
            listener.close()
            continue
        if port != ports[0]:
            print(f"port {own} is taken, perhaps by the same page served already; this is {port}", flush=True)
        return listener
    raise ValueError(f"port {ports[0]} cannot be had; give another by --port")


if __name__ == "__main__":
    sys.exit(main())
