"""The store that machines share: a folder of an object store, laid out as the store on a machine's own disk, which is its cache.

Content is uploaded first and the manifest that names it last, so an artifact is there whole or not at all. A manifest on a
machine's disk is a copy of the shared one; what it names is fetched when it is needed, and held against its checksums.
Any URL of fsspec will do; credentials come from the environment, as the client of that object store reads them.
"""

import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resources import files
from resources.files import StoreError
from resources.manifest import SUFFIX, FileRecord
from susc_pipeline.messages import has_credentials

REMEDY = "check SUSC_STORE, the credentials in the environment, and that the object store answers"
SECRETS = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True)
class Remote:
    """A folder of an object store. Names of files are paths relative to it, and to the folder on this machine's disk."""

    url: str
    """Such as s3://bucket/prefix/tiny."""

    def __post_init__(self) -> None:
        """Refuse a URL with a password in it, for the place of an artifact is shown everywhere."""
        if has_credentials(self.url):
            raise ValueError("the URL of a store must hold no user or password; give credentials in the environment")

    def place(self, name: str) -> str:
        """URL of a file."""
        return f"{self.url}/{name}"

    def sibling(self, name: str) -> "Remote":
        """The folder of that name beside this one."""
        return Remote(f"{self.url.rpartition('/')[0]}/{name}")

    def publish(self, folder: Path, names: Iterable[str], last: str, content: bytes) -> None:
        """Upload files of a folder and, when all are there, the content of the one that names them.

        Small ones that are there already are left: components of a shard were uploaded one by one.

        Raises:
            StoreError: the object store refuses, or does not answer.
        """
        chosen = list(names)
        there: dict[str, dict[str, Any]] = {}
        for parent in {name.rpartition("/")[0] for name in chosen}:
            there |= self._list(parent)
        self.upload(folder, [name for name in chosen if not _has_tag(folder / name, _tag(there.get(name, {})))])
        with self._explained():
            self.filesystem.pipe_file(self.place(last), content)

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Upload files of a folder.

        Raises:
            StoreError: the object store refuses, or does not answer.
        """
        chosen = list(names)
        if chosen:
            with self._explained():
                self.filesystem.put([str(folder / name) for name in chosen], [self.place(name) for name in chosen])

    def fetch(self, folder: Path, wanted: Mapping[str, FileRecord]) -> None:
        """Download files into a folder, each whole and as recorded, or none.

        Raises:
            StoreError: the object store refuses or does not answer, or holds something else than was recorded.
        """
        with files.temporary_folder(folder, "fetched") as temporary:
            here = {name: temporary / str(number) for number, name in enumerate(wanted)}
            self._get(here)
            for name, path in here.items():
                if files.checksum(path) != wanted[name].sha256:
                    raise StoreError(
                        f"{self.place(name)} is not what its manifest says: somebody replaces it now, or never finished; "
                        f"try again, or materialize {name.partition('/')[0].partition('.')[0]} again"
                    )
            _put_in_place(here, folder)

    def pull_manifests(self, folder: Path) -> None:
        """Make the manifests in a folder those of the object store: fetch new and changed ones, remove others.

        Raises:
            StoreError: the object store refuses or does not answer, or has no such bucket.
        """
        began, there = time.time(), self._manifests()
        for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*/*{SUFFIX}")]:
            # One written meanwhile was published after the object store was asked.
            if path.relative_to(folder).as_posix() not in there and path.stat().st_mtime < began:
                path.unlink(missing_ok=True)
        changed = [name for name, tag in there.items() if not _has_tag(folder / name, tag)]
        if changed:
            with files.temporary_folder(folder, "manifests") as temporary:
                here = {name: temporary / str(number) for number, name in enumerate(changed)}
                self._get(here)
                _put_in_place(here, folder)

    def pull_folder(self, folder: Path, name: str) -> None:
        """Download the files below a folder that are not on this machine's disk, if there are any.

        Raises:
            StoreError: the object store refuses, or does not answer.
        """
        with self._explained():
            found = [self._name(path) for path in self.filesystem.find(self.place(name))]
        missing = [file for file in found if not (folder / file).exists()]
        with files.temporary_folder(folder, "fetched") as temporary:
            here = {file: temporary / str(number) for number, file in enumerate(missing)}
            self._get(here)
            _put_in_place(here, folder)

    @functools.cached_property
    def filesystem(self) -> Any:
        """The client of the object store. Listings are not kept: other machines write there too."""
        import fsspec  # here and in no other module: who has a store on disk needs no client

        try:
            return fsspec.filesystem(self.url.partition("://")[0], use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{self.url} needs a client ({error}); for S3, pip install 'susc-pipeline[s3]'") from error

    def _manifests(self) -> dict[str, str]:
        """Names of all manifests, with the tag of each one's content where the object store gives one."""
        found = self._list("")
        for path in [path for path, info in found.items() if info["type"] == "directory"]:
            found |= self._list(path)
        return {name: _tag(info) for name, info in found.items() if name.endswith(SUFFIX)}

    def _list(self, name: str) -> dict[str, dict[str, Any]]:
        with self._explained():
            try:
                found = self.filesystem.ls(self.place(name).rstrip("/"), detail=True)
            except FileNotFoundError:  # nothing was stored there yet, unless the bucket itself is missing
                with contextlib.suppress(PermissionError):
                    self.filesystem.ls(self._root().partition("/")[0])
                return {}
        return {self._name(info["name"]): info for info in found if self._name(info["name"]) != name}

    def _get(self, here: Mapping[str, Path]) -> None:
        if here:
            with self._explained():
                self.filesystem.get([self.place(name) for name in here], [str(path) for path in here.values()])

    def _root(self) -> str:
        return str(self.filesystem._strip_protocol(self.url))

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root()).strip("/")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn any error of a client into one that says where it came from, and holds no credential."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url}: {_without_secrets(error)}; {REMEDY}") from None


def _put_in_place(here: Mapping[str, Path], folder: Path) -> None:
    for name, path in here.items():
        with files.replacing(folder / name) as content:
            path.rename(content)


def _tag(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag", "")).strip('"')


def _has_tag(path: Path, tag: str) -> bool:
    """Whether a file is the one of that tag, which is the MD5 of most small objects in S3; of others nothing is known."""
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == tag
    except FileNotFoundError:
        return False


def _without_secrets(error: Exception) -> str:
    """An error in a line, with the values of the environment's secrets blotted out."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    for name, value in os.environ.items():
        if SECRETS.search(name) and len(value) >= 4:
            text = text.replace(value, "***")
    return text
