"""Manifest of an artifact: by what and from what it was made, and which files with which content it is.

It lies beside what it names and names it by paths relative to its own folder. Three things are checked of an artifact:
that its manifest is as it was written (its seal); that its files are there with the recorded sizes, which costs a look at
each and is done whenever somebody asks whether it is there; and that their content is the recorded one. Files are read
against their SHA-256 six times as fast as zstd-compressed Parquet is decoded (97 MB of `tiny`, one core), so every artifact
is when another asset takes it, once a process. `make run` on a store in which nothing is to be made reads no content, for
that may be terabytes: `susc-pipeline verify` does.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from resources import files
from resources.files import StoreError

SUFFIX = ".manifest.json"


class FileRecord(NamedTuple):
    """What a file's content is."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is recorded of an artifact."""

    asset: str
    shard: str | None
    code_version: str
    """Version of the code and digest of the settings by which it was made."""
    lineage: str
    """Digest of the code versions of it and of all that it was made from."""
    inputs: dict[str, str]
    """Checksum of each artifact, `asset` or `asset/shard`, that it was made from."""
    files: dict[str, FileRecord]
    """Its files, by path relative to the manifest's folder."""
    rows: int | None

    @property
    def sha256(self) -> str:
        """Checksum of the whole: of the list of the files' checksums and names, as the sha256sum command prints it."""
        lines = (f"{record.sha256}  {name}\n" for name, record in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def text(self) -> str:
        """What its file holds, sealed."""
        content = dataclasses.asdict(self) | {"files": {name: list(record) for name, record in self.files.items()}}
        return files.json_text(content | {"seal": _seal(content)})

    def write(self, path: Path) -> None:
        """Write it atomically."""
        files.write_text(self.text(), path)


class Damage(NamedTuple):
    """A file that is not what a manifest says of it."""

    path: Path
    what: str


def read(path: Path) -> Manifest | None:
    """The manifest in a file, or nothing where there is none.

    Raises:
        StoreError: it is not as it was written.
    """
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("seal")
        found = Manifest(**content | {"files": {name: FileRecord(*entry) for name, entry in content["files"].items()}})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path} is damaged or no manifest ({str(error)[:80]}); make what it describes again"
        ) from error
    if seal != _seal(content) or not _is_sound(found):
        raise StoreError(f"{path} is not as it was written; make what it describes again")
    return found


def record(path: Path, place: PurePosixPath | str) -> dict[str, FileRecord]:
    """Records of a file, or of the files of a folder, as they will be named below `place`."""
    found = {}
    for file in files.files_of(path):
        name = PurePosixPath(place) / file.relative_to(path)
        found[str(name)] = FileRecord(file.stat().st_size, files.checksum(file))
    return found


def damages(found: Manifest, folder: Path, *, thorough: bool) -> Iterator[Damage]:
    """The files of an artifact, whose manifest lies in `folder`, that are not as recorded: by size, or also by content."""
    for name, entry in found.files.items():
        what = damage(folder / name, entry, thorough=thorough)
        if what:
            yield Damage(folder / name, what)


def damage(path: Path, entry: FileRecord, *, thorough: bool) -> str | None:
    """What is wrong with a file, if anything is."""
    try:
        n_bytes = path.stat().st_size
        if not path.is_file():
            return "is no file"
        if n_bytes != entry.n_bytes:
            return f"has {n_bytes:,} bytes where {entry.n_bytes:,} were written"
        if thorough and files.checksum(path) != entry.sha256:
            return "has other content than was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _seal(content: dict[str, Any]) -> str:
    """A digest that a changed digit anywhere in the manifest changes; it is no signature."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_sound(found: Manifest) -> bool:
    """Whether the values have their types and no file lies elsewhere, which a seal does not promise of a foreign manifest."""
    texts = [found.asset, found.shard or "", found.code_version, found.lineage, *found.inputs.values()]
    texts += [entry.sha256 for entry in found.files.values()]
    paths = [PurePosixPath(name) for name in found.files]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(entry.n_bytes, int) for entry in found.files.values())
        and not any(path.is_absolute() or ".." in path.parts for path in paths)
    )
