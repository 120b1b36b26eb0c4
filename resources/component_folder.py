"""An artifact that is made a component at a time: a file each, with a record of its checksum beside it.

It takes hours, so what is whole when a run is killed is not made again. What the files mean is their asset's affair.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from resources import files, manifest, tables
from resources.files import StoreError
from resources.manifest import FileRecord

RECORD = ".sha256.json"
SUFFIXES = (".parquet", ".safetensors")


@dataclass(frozen=True)
class ComponentFolder:
    """Where the files of the components are."""

    path: Path
    name: str
    """Of the artifact, such as `sgld_samples shard-00003`."""
    suffix: str = ".parquet"
    recorded: Mapping[Path, FileRecord] | None = None
    """What the manifest of a finished artifact says of each file; without, the record beside each counts."""
    share: Callable[[list[Path]], None] | None = None
    """Hands files that were written to other machines."""

    def file(self, component: str) -> Path:
        """File of a component."""
        return self.path / f"{component}{self.suffix}"

    def components(self) -> list[str]:
        """Components on record, in order of name."""
        paths = self.path.glob(f"*{RECORD}") if self.recorded is None else self.recorded
        return sorted(path.name.removesuffix(RECORD) for path in paths if path.name.endswith(RECORD))

    def damage(self, component: str) -> str | None:
        """What is wrong with a component's file, read against its record; nothing if it is whole."""
        entry = self.record(component)
        if entry is None:
            return "has no record" if self.file(component).exists() else "is missing"
        return manifest.damage(self.file(component), entry, thorough=True)

    @contextlib.contextmanager
    def writing(self, component: str) -> Iterator[Path]:
        """A temporary place for a component's file; at the end its record goes first, so that no file stands without one."""
        with files.replacing(self.file(component)) as temporary:
            yield temporary
            (entry,) = manifest.record(temporary, "").values()
            files.write_json(entry._asdict(), self._record_path(component))
        if self.share:
            self.share([self.file(component), self._record_path(component)])

    def write(self, component: str, frame: pl.DataFrame) -> None:
        """Store a component's table."""
        with self.writing(component) as temporary:
            frame.write_parquet(temporary, compression="zstd")

    def whole(self, component: str) -> Path:
        """A component's file, which is as it was written.

        Raises:
            StoreError: it is missing or damaged.
        """
        what = self.damage(component)
        if what:
            raise StoreError(
                f"{self.file(component)} {what}; materialize {self.name} again, which keeps the whole ones"
            )
        return self.file(component)

    def read(self, component: str) -> pl.DataFrame:
        """A component's table.

        Raises:
            StoreError: it is missing, or not as it was written.
        """
        return tables.scan(self.whole(component)).collect()

    def scan(self, component: str, columns: list[str]) -> pl.DataFrame:
        """Some columns of a component's table. The others are read for its checksum alone, as fast as the disk.

        Raises:
            StoreError: it is missing, or not as it was written.
        """
        return tables.scan(self.whole(component)).select(columns).collect()

    def remove(self, component: str) -> None:
        """Remove a component's file and then its record."""
        self.file(component).unlink(missing_ok=True)
        self._record_path(component).unlink(missing_ok=True)

    def record(self, component: str) -> FileRecord | None:
        """The record of a component's file, or nothing where there is none that can be read: then it is made again."""
        if self.recorded is not None:
            return self.recorded.get(self.file(component))
        try:
            return FileRecord(**json.loads(self._record_path(component).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _record_path(self, component: str) -> Path:
        return self.path / f"{component}{RECORD}"
