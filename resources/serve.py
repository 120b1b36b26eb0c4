"""Serves an experiment's explorer on loopback: `susc-pipeline explore`."""

import contextlib
import os
import socket
import zlib
from pathlib import Path

import uvicorn

from resources import experiment as experiments
from resources import ports, site_server
from resources.files import StoreError
from resources.storage import Store
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.messages import plain

PORTS = range(20_000, 30_000)  # below those that systems hand out by themselves
N_TRIED = 20


def serve(name: str, port: int | None, *, live: bool) -> int:
    """Serve an experiment's explorer until ctrl-C; 0.

    Raises:
        StoreError: there is nothing to serve.
        ValueError: no such experiment, or no port.
    """
    experiment = experiments.load(name)
    store = experiments.store(experiment)
    page = checked_page(store, name)
    measures = measurer(experiment, store) if live else None
    application = site_server.application(page.parent, measures)
    with bound(port, page) as listener, contextlib.suppress(KeyboardInterrupt):
        address = f"http://{ports.LOOPBACK}:{listener.getsockname()[1]}/"
        print(f"{address}  (or open {plain(str(page))} itself); Ctrl-C ends it", flush=True)
        settings = uvicorn.Config(application, log_level="error", access_log=False, server_header=False)
        uvicorn.Server(settings).run(sockets=[listener])
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
    tried = [own + step for step in range(N_TRIED)] if wanted is None else [wanted]
    for number in tried:
        try:
            listener = ports.listener(number)
        except ValueError:
            if number == tried[-1]:
                raise
            continue
        if number != tried[0]:
            print(f"port {own} is taken, perhaps by the same page served already; this is {number}", flush=True)
        return listener
    raise AssertionError("unreachable: the last port was had or refused")
