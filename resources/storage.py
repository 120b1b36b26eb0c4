"""The layout of stored artifacts: where each lies, what is recorded of it, and who may write it now.

Below an experiment's folder: `<asset>.parquet` or `<asset>/<shard>.parquet` for tables, `<asset>/` for models, bases
and graphs (config.json and safetensors), `sgld_samples/<shard>/<digest>/<component>.parquet` for traces. Beside each
artifact lies `<name>.manifest.json` (manifest.py). How values become files is in io_manager.py.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resources import files, locks, manifest
from resources.files import StoreError
from resources.locks import Busy
from resources.manifest import Manifest
from resources.trace_folder import TraceFolder


@dataclass(frozen=True)
class Store:
    """Where an experiment's artifacts are."""

    root: Path

    def path(self, asset: str, shard: str | None = None) -> Path:
        """Place of an artifact without its suffix."""
        return self.root / asset / shard if shard else self.root / asset

    def table(self, asset: str, shard: str | None = None) -> Path:
        """Place of a table."""
        place = self.path(asset, shard)
        return place.with_name(place.name + ".parquet")

    def traces(self, shard: str, digest: str) -> TraceFolder:
        """Loss traces of a shard by chains that the digest describes; older ones of the shard stay until it is done."""
        return TraceFolder(self.path("sgld_samples", shard) / digest)

    def page(self) -> Path:
        """First page of the explorer."""
        return self.path("explorer") / "index.html"

    def warehouse(self) -> Path:
        """The DuckDB file."""
        return self.root / "warehouse.duckdb"

    def notes(self) -> tuple[Path, ...]:
        """Files that belong to no artifact and are worth keeping: seconds of each asset."""
        return (self._seconds_path(),)

    def sibling(self, experiment: str) -> "Store":
        """Where another experiment's artifacts are."""
        return Store(self.root.parent / experiment)

    def manifest_path(self, asset: str, shard: str | None = None) -> Path:
        """Place of an artifact's manifest."""
        place = self.path(asset, shard)
        return place.with_name(place.name + manifest.SUFFIX)

    def manifest(self, asset: str, shard: str | None = None) -> Manifest | None:
        """What is recorded of an artifact, or nothing where it was never finished.

        Raises:
            StoreError: the manifest is damaged, or another artifact's.
        """
        path = self.manifest_path(asset, shard)
        found = manifest.read(path)
        if found is not None and (found.asset, found.shard) != (asset, shard):
            raise StoreError(f"{path} is of {found.asset} {found.shard or ''}; make {asset} {shard or ''} again")
        return found

    def checked(self, asset: str, shard: str | None = None, *, thorough: bool = True) -> Manifest:
        """What is recorded of an artifact whose files are as recorded.

        Raises:
            StoreError: it was never finished, or a file is missing, cut short, changed or another one.
        """
        name = f"{asset} {shard or ''}".strip()
        found = self.manifest(asset, shard)
        if found is None:
            raise StoreError(f"{name} has not been materialized; materialize it first")
        for path, what in manifest.damages(found, self.manifest_path(asset, shard).parent, thorough=thorough):
            raise StoreError(
                f"{path} {what}; materialize {name} again, or have `susc-pipeline run --verify` find all such"
            )
        return found

    def seconds(self) -> dict[str, float]:
        """Seconds that each asset took when it was last made; a note for readers, begun anew where it cannot be read."""
        try:
            return json.loads(self._seconds_path().read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def note_seconds(self, seconds: dict[str, float]) -> None:
        """Note what assets took."""
        rounded = {name: round(value, 2) for name, value in seconds.items()}
        files.write_json({**self.seconds(), **rounded}, self._seconds_path())

    def _seconds_path(self) -> Path:
        return self.root / "seconds.json"

    @contextlib.contextmanager
    def scratch(self, asset: str) -> Iterator[Path]:
        """A folder for what an asset writes on the way. What is still mapped at the end stays until its map goes.

        Raises:
            StoreError: the disk is full, or must not be written to.
        """
        place = self.root / asset
        with files.explained(place), files.temporary_folder(self.root, asset) as folder, files.explained(place):
            yield folder

    @contextlib.contextmanager
    def lock(self, asset: str, shard: str | None = None) -> Iterator[None]:
        """Hold an artifact, to materialize it.

        Raises:
            StoreError: another run holds it, or the store is being cleaned.
        """
        name = f"{asset} {shard or ''}".strip()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.held(self._lock_path("store"), shared=True))
                stack.enter_context(locks.held(self._lock_path(f"{asset}-{shard or 'all'}")))
            except Busy as error:
                raise StoreError(
                    f"{name} is being materialized by another run ({error}); wait for it, or terminate it in the UI"
                ) from error
            yield

    @contextlib.contextmanager
    def lock_all(self) -> Iterator[None]:
        """Hold the whole store, for what must not happen while anything is materialized.

        Raises:
            StoreError: an artifact is held.
        """
        try:
            stack = contextlib.ExitStack()
            stack.enter_context(locks.held(self._lock_path("store")))
        except Busy as error:
            raise StoreError(f"{self.root} is in use: something is being materialized; wait for it") from error
        with stack:
            yield

    def _lock_path(self, name: str) -> Path:
        return self.root / ".locks" / f"{name}.lock"
