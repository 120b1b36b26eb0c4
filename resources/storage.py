"""The layout of stored artifacts: where each lies, what is recorded of it, and who may write it now.

Below an experiment's folder: `<asset>.parquet` or `<asset>/<shard>.parquet` for tables, `<asset>/` for models, bases
and graphs (config.json and safetensors), `sgld_samples/<shard>/<digest>/<component>.parquet` for traces,
`response_directions/<digest>/<component>.safetensors` for directions. Beside each
artifact lies `<name>.manifest.json` (manifest.py). How values become files is in io_manager.py.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resources import component_folder, files, locks, manifest
from resources.component_folder import ComponentFolder
from resources.files import StoreError
from resources.locks import Busy
from resources.manifest import Manifest
from resources.remote import Remote
from susc_pipeline.config import NAME
from susc_pipeline.messages import shown

OPTIONAL = "?"  # behind the name of an input, in a manifest, that its reader can do without


@dataclass(frozen=True)
class Store:
    """Where an experiment's artifacts are."""

    root: Path
    remote: Remote | None = None
    """The store that machines share, of which the root is this one's copy; none where the root is all there is."""

    def path(self, asset: str, shard: str | None = None) -> Path:
        """Place of an artifact without its suffix.

        Raises:
            StoreError: the name of the asset or shard is none, and could lead out of the store.
        """
        for name in (asset,) if shard is None else (asset, shard):
            if not NAME.fullmatch(name):
                raise StoreError(f"{shown(name)} is no name of an asset or shard; choose one that the experiment has")
        return self.root / asset / shard if shard else self.root / asset

    def table(self, asset: str, shard: str | None = None) -> Path:
        """Place of a table."""
        place = self.path(asset, shard)
        return place.with_name(place.name + ".parquet")

    def components(self, asset: str, shard: str | None, digest: str, *, suffix: str = ".parquet") -> ComponentFolder:
        """Files of components, made by what the digest describes; older ones of the artifact stay until it is done.

        Each component goes to the store that machines share as soon as it is made, and comes from there.
        """
        folder = self.path(asset, shard) / digest
        name = f"{asset} {shard or ''}".strip()
        if self.remote is None:
            return ComponentFolder(folder, name, suffix)
        self.remote.pull_folder(self.root, self._name(folder))
        return ComponentFolder(folder, name, suffix, share=self.share)

    def finished_components(self, asset: str, shard: str | None = None) -> ComponentFolder:
        """Files of components of a finished artifact; each is read against the manifest's record when it is needed.

        Raises:
            StoreError: it was never finished, or a file is missing or has another size.
        """
        found = self.checked(asset, shard, thorough=False)
        recorded = {self.manifest_path(asset, shard).parent / name: entry for name, entry in found.files.items()}
        first = next(path for path in recorded if path.suffix in component_folder.SUFFIXES)
        return ComponentFolder(first.parent, f"{asset} {shard or ''}".strip(), first.suffix, recorded)

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
        return Store(self.root.parent / experiment, self.remote and self.remote.sibling(experiment))

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

    def optional_checksum(self, asset: str) -> str:
        """Checksum of an artifact that a reader can do without; empty where it is not there, or made from what has changed since.

        Raises:
            StoreError: its manifest is damaged.
        """
        found = self.manifest(asset)
        if found is None or any(self.checksum(source) != recorded for source, recorded in found.inputs.items()):
            return ""
        return found.sha256

    def checksum(self, source: str) -> str | None:
        """Checksum of an artifact as manifests name it, `asset` or `asset/shard`; nothing where it was never finished.

        One that its reader can do without is named `asset?`, and has an empty checksum where it is absent or out of date.
        """
        if source.endswith(OPTIONAL):
            return self.optional_checksum(source.removesuffix(OPTIONAL))
        asset, _, shard = source.partition("/")
        found = self.manifest(asset, shard or None)
        return found.sha256 if found else None

    def checked(self, asset: str, shard: str | None = None, *, thorough: bool = True) -> Manifest:
        """What is recorded of an artifact whose files are as recorded.

        Raises:
            StoreError: it was never finished, or a file is missing, cut short, changed or another one.
        """
        name = f"{asset} {shard or ''}".strip()
        found = self.manifest(asset, shard)
        if found is None:
            raise StoreError(f"{name} has not been materialized; materialize it first")
        folder = self.manifest_path(asset, shard).parent
        damages = list(manifest.damages(found, folder, thorough=thorough))
        if damages and self.remote:
            wanted = {self._name(damage.path): damage.path.relative_to(folder).as_posix() for damage in damages}
            self.remote.fetch(self.root, {name: found.files[own] for name, own in wanted.items()})
            damages = list(manifest.damages(found, folder, thorough=thorough))
        for path, what in damages:
            raise StoreError(
                f"{path} {what}; materialize {name} again, or have `susc-pipeline run --verify` find all such"
            )
        return found

    def available(self, asset: str, shard: str | None = None, *, thorough: bool) -> Manifest:
        """What is recorded of an artifact that can be had; of one that machines share, nothing need be here.

        Raises:
            StoreError: it was never finished or, where no other machine has it, is damaged.
        """
        found = self.manifest(asset, shard)
        if self.remote is None or found is None:
            return self.checked(asset, shard, thorough=thorough)
        return found

    def refresh(self) -> None:
        """Learn what other machines have made and replaced."""
        if self.remote:
            self.remote.pull_manifests(self.root)

    def publish(self, made: Manifest) -> None:
        """Write the manifest of an artifact, by which it is there: for other machines first, after its files."""
        path = self.manifest_path(made.asset, made.shard)
        if self.remote:
            names = [self._name(path.parent / name) for name in made.files]
            self.remote.publish(self.root, names, self._name(path), made.text().encode())
        made.write(path)

    def url(self, path: Path) -> str:
        """Where every machine finds a file of the store."""
        return self.remote.place(self._name(path)) if self.remote else str(path)

    def share(self, paths: list[Path]) -> None:
        """Hand files to other machines that no manifest names yet."""
        if self.remote:
            self.remote.upload(self.root, [self._name(path) for path in paths])

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

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
            except Busy as error:
                raise StoreError(f"the store is being cleaned ({error}); materialize {name} when it is done") from error
            try:
                stack.enter_context(locks.held(self._lock_path(f"{asset}-{shard or 'all'}")))
            except Busy as error:
                raise StoreError(
                    f"{name} is being materialized by another run ({error}); wait for it, or terminate it in the UI"
                ) from error
            yield

    def is_held(self, asset: str, shard: str | None = None) -> bool:
        """Whether a run on this machine is materializing the artifact at this moment; nothing is written or waited for."""
        return locks.is_held(self._lock_path(f"{asset}-{shard or 'all'}"))

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
