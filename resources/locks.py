"""Locks between processes, on files; the operating system lets go of one when its process dies, however it dies."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from resources import files
from resources.files import StoreError


class Busy(StoreError):
    """Somebody else holds a lock; the message says who."""


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock alone, or together with all who want it shared.

    Raises:
        Busy: somebody else holds it; nobody waits.
    """
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    with handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise Busy(handle.read() or "another process") from error
        if not shared:
            with files.explained(path):
                handle.truncate(0)
                handle.write(f"process {os.getpid()} of {socket.gethostname()}")
                handle.flush()
        yield
