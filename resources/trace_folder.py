"""Loss traces of a shard: a Parquet file a component, each with a record of its checksum beside it.

A shard takes hours, so its components are kept one by one: what is whole when a run is killed is not sampled again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from resources import files, manifest, tables
from resources.files import StoreError
from resources.manifest import FileRecord

RECORD = ".sha256.json"


@dataclass(frozen=True)
class TraceFolder:
    """Where the traces of a shard are."""

    path: Path
    recorded: Mapping[Path, FileRecord] | None = None
    """What the manifest of a finished shard says of each file; without, the record beside each counts."""
    share: Callable[[list[Path]], None] | None = None
    """Hands files that were written to other machines."""

    def file(self, component: str) -> Path:
        """File of a component's traces."""
        return self.path / f"{component}.parquet"

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

    def write(self, component: str, frame: pl.DataFrame) -> None:
        """Store a component's traces; the record goes first, so that no file ever stands without one."""
        with files.replacing(self.file(component)) as temporary:
            frame.write_parquet(temporary, compression="zstd")
            (entry,) = manifest.record(temporary, "").values()
            files.write_json(entry._asdict(), self._record_path(component))
        if self.share:
            self.share([self.file(component), self._record_path(component)])

    def read(self, component: str) -> pl.DataFrame:
        """A component's traces.

        Raises:
            StoreError: they are missing, or not as they were written.
        """
        what = self.damage(component)
        if what:
            asset, shard = self.path.parent.parent.name, self.path.parent.name
            raise StoreError(
                f"{self.file(component)} {what}; materialize {asset} {shard} again, which keeps the whole ones"
            )
        return tables.scan(self.file(component)).collect()

    def record(self, component: str) -> FileRecord | None:
        """The record of a component's file, or nothing where there is none that can be read: then it is sampled again."""
        if self.recorded is not None:
            return self.recorded.get(self.file(component))
        try:
            return FileRecord(**json.loads(self._record_path(component).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _record_path(self, component: str) -> Path:
        return self.path / f"{component}{RECORD}"
