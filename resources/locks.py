"""Locks between processes, on files; the operating system lets go of one when its process dies, however it dies."""

import contextlib
import fcntl
import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from resources import files
from resources.files import StoreError

# Seconds that who holds a lock may take to write its name into it, which it does at once.
PATIENCE = 2.0


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
        handle = path.open("ab+", buffering=0)
    with handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(_holder(handle)) from error
        if not shared:
            _sign(handle, f"process {os.getpid()} of {socket.gethostname()}\n")
        try:
            yield
        finally:
            if not shared:
                _sign(handle, "")  # nobody is to read our name when somebody else holds it


def is_held(path: Path) -> bool:
    """Whether somebody holds a lock alone, by the name that is in it: a look takes no lock, so it is in nobody's way.

    A process that was killed leaves its name; that it is gone is found by whether the lock can be shared.
    """
    try:
        handle = path.open("rb", buffering=0)
    except OSError:  # nobody ever held it
        return False
    with handle:
        if not handle.read(1):
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _sign(handle: io.FileIO, name: str) -> None:
    """Leave a name in a lock, as far as there is room: on a full disk it holds without one."""
    with contextlib.suppress(OSError):
        handle.truncate(0)
        handle.write(name.encode())


def _holder(handle: io.FileIO) -> str:
    """Who holds a lock: a lock is taken first and signed then, and one that is shared is not signed at all."""
    end = time.monotonic() + PATIENCE
    while True:
        handle.seek(0)
        name = handle.read().decode(errors="replace")
        if name.endswith("\n"):
            return name.strip()
        if time.monotonic() > end:
            return "another process"
        time.sleep(0.01)
