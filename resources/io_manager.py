"""The I/O manager: how an asset's value becomes files and a manifest, and comes back. Where they lie is in storage.py."""

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin

import dagster as dg
import polars as pl
from scipy import sparse

from resources import files, manifest, tables
from resources.component_folder import ComponentFolder
from resources.files import StoreError
from resources.language_model import LanguageModelFolder
from resources.manifest import FileRecord, Manifest
from resources.storage import OPTIONAL, Store
from susc_pipeline.clustering import knn
from susc_pipeline.clustering.knn import StoredGraph
from susc_pipeline.explorer import site
from susc_pipeline.explorer.site import Site
from susc_pipeline.model import pretrained
from susc_pipeline.representation import auxiliary, pca, whitening
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.representation.whitening import WhiteningBasis

FOLDERS: dict[Any, tuple[Any, Any]] = {
    PCABasis: (pca.save, pca.load),
    WhiteningBasis: (whitening.save, whitening.load),
    AuxModel: (auxiliary.save, auxiliary.load),
    sparse.csr_array: (knn.save, knn.load),
    StoredGraph: (None, knn.open_stored),  # the same folder, for readers of some rows
    Site: (site.save, Path),  # nothing reads a site but a browser
}


class ArtifactIOManager(dg.IOManager):
    """Reads and writes by the type that an asset declares: tables, models, bases, graphs and traces.

    A table is taken as `pl.DataFrame` (read) or `pl.LazyFrame` (scanned), or as `pl.DataFrame | None` where the reader can do
    without it; all shards of an asset as a dict of them, sorted by shard, also where there is but one. What a step makes is held
    from its first input to its last output.
    """

    def __init__(self, store: Store, facts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Manage the artifacts of one store; the facts are shown in Dagster with each of them."""
        self.store = store
        self.facts = facts
        self._read: dict[str, dict[str, Manifest]] = {}
        self._optional: dict[str, dict[str, str]] = {}
        self._held: dict[tuple[str, str | None], contextlib.ExitStack] = {}

    @contextlib.contextmanager
    def holding(self, assets: tuple[str, ...], shard: str | None) -> Iterator[None]:
        """Hold what is about to be made by runs of this process.

        Raises:
            StoreError: another process holds one of them.
        """
        try:
            for asset in assets:
                self._hold(asset, shard)
            yield
        finally:
            for asset in assets:
                self._release(asset, shard)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store an asset's value, then its manifest: an artifact without a manifest is not there."""
        asset, shard = context.asset_key.path[-1], context.partition_key if context.has_asset_partitions else None
        self._hold(asset, shard)
        found = self._write(asset, shard, obj)
        inputs = self._read.get(self._reader(context), {})
        version = context.asset_spec.code_version or ""
        lineage = [version, *sorted({f"{name.partition('/')[0]} {m.lineage}" for name, m in inputs.items()})]
        made = Manifest(
            asset=asset,
            shard=shard,
            code_version=version,
            lineage=hashlib.sha256("\n".join(lineage).encode()).hexdigest()[:16],
            inputs={name: m.sha256 for name, m in inputs.items()} | self._optional.get(self._reader(context), {}),
            files=found,
            rows=obj.height if isinstance(obj, pl.DataFrame) else None,
        )
        self.store.publish(made)
        self._release(asset, shard)
        context.add_output_metadata({**self.facts, **_figures(context, made)})

    def _write(self, asset: str, shard: str | None, obj: Any) -> dict[str, FileRecord]:
        described_by = self.store.manifest_path(asset, shard)
        if isinstance(obj, ComponentFolder):
            described_by.unlink(missing_ok=True)
            for other in obj.path.parent.iterdir():
                if other != obj.path and other.is_dir() and not other.is_symlink():
                    shutil.rmtree(other)
            return manifest.record(obj.path, f"{shard or asset}/{obj.path.name}")
        path = self.store.table(asset, shard) if isinstance(obj, pl.DataFrame) else self.store.path(asset, shard)
        with files.replacing(path, described_by=described_by) as temporary:
            if isinstance(obj, pl.DataFrame):
                obj.write_parquet(temporary, compression="zstd")
            elif isinstance(obj, LanguageModelFolder):
                pretrained.copy(obj.path, temporary)
            else:
                FOLDERS[type(obj)][0](obj, temporary)
            return manifest.record(temporary, path.name)

    def load_input(self, context: dg.InputContext) -> Any:
        """An upstream asset's value, in the type that the reader declares."""
        for made in context.step_context.get_output_asset_keys():
            step = context.step_context
            self._hold(made.path[-1], step.partition_key if step.entity_partitions_def else None)
        if self._reader(context) not in self._read:  # the first input of a step
            self.store.refresh()
        asset = context.asset_key.path[-1]
        wanted = context.dagster_type.typing_type
        if type(None) in get_args(wanted):
            return self._load_optional(context, asset, get_args(wanted)[0])
        shards = sorted(context.asset_partition_keys) if context.has_asset_partitions else [None]
        self._record(context, asset, shards)
        if get_origin(wanted) is dict:
            return {shard: self._load(asset, shard, get_args(wanted)[1]) for shard in shards}
        return self._load(asset, shards[0], wanted)

    def _load_optional(self, context: dg.InputContext, asset: str, wanted: Any) -> Any:
        """An asset without shards, or None where it is not there or out of date; the reader's manifest remembers which."""
        checksum, reader = self.store.optional_checksum(asset), self._reader(context)
        if reader not in self._optional:  # as in _record
            self._optional = {reader: {}}
        self._optional[reader][asset + OPTIONAL] = checksum
        return self._load(asset, None, wanted) if checksum else None

    def _load(self, asset: str, shard: str | None, wanted: Any) -> Any:
        if wanted is ComponentFolder:  # hours of work: each component is read against its record when it is needed
            return self.store.finished_components(asset, shard)
        self.store.checked(asset, shard)
        if wanted is pl.LazyFrame:
            return tables.scan(self.store.table(asset, shard))
        if wanted is pl.DataFrame:
            return tables.scan(self.store.table(asset, shard)).collect()
        path = self.store.path(asset, shard)
        return LanguageModelFolder(path) if wanted is LanguageModelFolder else FOLDERS[wanted][1](path)

    def _record(self, context: dg.InputContext, asset: str, shards: list[Any]) -> None:
        """Remember what was read for the manifest of what is made of it; refuse shards of mixed origin."""
        found = {}
        for shard in shards:
            made = self.store.manifest(asset, shard)
            if made is None:
                raise StoreError(f"{asset} {shard or ''} has not been materialized; materialize it first")
            found[f"{asset}/{shard}" if shard else asset] = made
        by_lineage: dict[str, list[str]] = {}
        for name, made in found.items():
            by_lineage.setdefault(made.lineage, []).append(name)
        if len(by_lineage) > 1:
            current = context.upstream_output.asset_spec.code_version if context.upstream_output else None
            stale = [name for name, m in found.items() if m.code_version != current] or min(
                by_lineage.values(), key=len
            )
            raise StoreError(
                f"{asset} mixes shards made with different settings or inputs; materialize again: {', '.join(stale)}"
            )
        reader = self._reader(context)
        if reader not in self._read:  # kept until the next step, for a step may have several outputs
            self._read = {reader: {}}
        self._read[reader].update(found)

    def _hold(self, asset: str, shard: str | None) -> None:
        """Keep others from making an artifact, and sweep away what a dead run left of it."""
        if (asset, shard) in self._held:
            return
        stack = contextlib.ExitStack()
        stack.enter_context(self.store.lock(asset, shard))
        self._held[asset, shard] = stack
        place = self.store.path(asset, shard)
        for temporary in [*place.parent.glob(f".{place.name}.*{files.SUFFIX}"), *files.temporaries(place)]:
            files.remove_if_left_over(temporary)

    def _release(self, asset: str, shard: str | None) -> None:
        stack = self._held.pop((asset, shard), None)
        if stack is not None:
            stack.close()

    @staticmethod
    def _reader(context: dg.InputContext | dg.OutputContext) -> str:
        return f"{context.step_context.run_id} {context.step_context.step.key}"


def _figures(context: dg.OutputContext, made: Manifest) -> dict[str, int | float]:
    """Numbers of every artifact, which Dagster plots over time: seconds since its step began, bytes on disk, rows of a table."""
    step = context.step_context
    stats = step.instance.get_run_step_stats(step.run_id, [step.step.key])
    began = [one.start_time for one in stats if one.start_time]
    figures: dict[str, int | float] = {"bytes": sum(record.n_bytes for record in made.files.values())}
    figures |= {"seconds": round(time.time() - began[0], 2)} if began else {}
    return figures | ({} if made.rows is None else {"dagster/row_count": made.rows})
