"""Files and folders that are there whole or not at all, and their checksums. Where they lie is in storage.py.

What is being written has a temporary name, `.<name>.<random>.tmp`, in the folder where it will stay. Its writer holds a lock
in it, of which the operating system lets go when the process dies: what nobody holds is left over, and is swept away.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
# Not every library says why its write failed; where so little is left it was this.
FULL_BELOW_BYTES = 1 << 16
HELD = "held"
SUFFIX = ".tmp"


class StoreError(ValueError):
    """An artifact is missing, damaged, foreign, in use, or mixed with those of another experiment, or cannot be written."""


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder beside what will be called `name`, gone at the end; a mapped file in it stays until its map goes."""
    parent.mkdir(parents=True, exist_ok=True)
    folder, handle = _held_folder(parent, name)
    with handle:
        try:
            yield folder
        finally:
            _remove(folder)


def _held_folder(parent: Path, name: str) -> tuple[Path, IO[str]]:
    """A new temporary folder and the open file whose lock says that it is in use."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=SUFFIX, dir=parent))
        try:
            handle = (folder / HELD).open("w")
        except FileNotFoundError:  # a sweep came between, for nobody held it yet
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle.fileno()).st_nlink:
            return folder, handle
        handle.close()


def _remove(folder: Path) -> None:
    """Remove a temporary folder, the lock last: if this is cut short, the rest can still be told to be left over."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != HELD:
            child.unlink()
    (folder / HELD).unlink(missing_ok=True)
    folder.rmdir()


def temporaries(root: Path) -> Iterator[Path]:
    """Temporary folders anywhere below `root`, in use or left over; links are not followed."""
    for place, folders, _ in os.walk(root):
        found = [name for name in folders if name.startswith(".") and name.endswith(SUFFIX)]
        yield from (Path(place, name) for name in sorted(found))
        folders[:] = [name for name in folders if name not in found]


def is_in_use(temporary: Path) -> bool:
    """Whether the writer of a temporary folder is alive; nothing is written to find out."""
    try:
        with (temporary / HELD).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def remove_if_left_over(temporary: Path) -> bool:
    """Remove a temporary folder whose writer is dead; whether it was."""
    try:
        handle = (temporary / HELD).open("r+")
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # not empty, or gone: no folder of ours whose writer can be told to be dead
            temporary.rmdir()
            return True
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _remove(temporary)
    return True


@contextlib.contextmanager
def replacing(path: Path, *, described_by: Path | None = None) -> Iterator[Path]:
    """A temporary place beside `path`, which takes its name if the body succeeds and vanishes if it does not.

    Args:
        path: of a file or a folder.
        described_by: a file that tells of the old content. It goes once the new content is on the disk and before it
            takes the name, so that a process killed in between never leaves the new under what tells of the old.

    Raises:
        StoreError: the disk is full, or must not be written to.
    """
    with explained(path), temporary_folder(path.parent, path.name) as temporary:
        content = temporary / path.name
        with explained(path):  # while what filled the disk is still there
            yield content
            for file in files_of(content):
                synchronize(file)
        if described_by is not None:
            described_by.unlink(missing_ok=True)
        if path.is_dir():
            path.rename(temporary / "old")
        os.replace(content, path)
        synchronize(path.parent)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the error of a full or read-only disk, whichever library raises it, into one that says so."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        number = error_number(error)
        if number in FULL or (number is None and _is_full(path.parent)):
            raise StoreError(f"no space left to write {path}; nothing was changed, free some and try again") from error
        named = getattr(error, "filename", None) or path
        if number in READ_ONLY and str(named).startswith(str(path.parent)):
            raise StoreError(
                f"{path.parent} cannot be written to ({os.strerror(number)}); nothing was changed, give write access or "
                f"another SUSC_STORE"
            ) from error
        raise


def error_number(error: Exception) -> int | None:
    """The operating system's number of an error; libraries written in Rust tell it in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found.group(1)) if found else None


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BELOW_BYTES
    except OSError:
        return False


def synchronize(path: Path) -> None:
    """Have the operating system put a file's content, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_of(path: Path) -> list[Path]:
    """A file, or the files anywhere below a folder, in order of name."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def json_text(content: dict[str, Any]) -> str:
    """JSON as it is stored."""
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def write_text(text: str, path: Path) -> None:
    """Write a text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON atomically."""
    write_text(json_text(content), path)


def checksum(path: Path) -> str:
    """SHA-256 of a file; read once a process unless the file changes."""
    found = path.stat()
    return _checksum(path, found.st_size, found.st_mtime_ns, found.st_ino)


@functools.lru_cache(maxsize=1 << 14)
def _checksum(path: Path, size: int, changed: int, number: int) -> str:
    del size, changed, number  # part of the key: a file written anew is read anew
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
