"""The layout of stored artifacts, and the I/O manager that reads and writes them.

Below an experiment's folder: `<asset>.parquet` or `<asset>/<shard>.parquet` for tables, `<asset>/` for models, bases
and graphs (config.json and safetensors), `sgld_samples/<shard>/<digest>/<component>.parquet` for traces. Beside each
artifact lies `<name>.manifest.json`: what it was made by and from. Every write goes to a temporary name first.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import dagster as dg
import polars as pl
from scipy import sparse

from resources import language_model
from susc_pipeline import schema
from susc_pipeline.clustering import knn
from susc_pipeline.clustering.knn import StoredGraph
from susc_pipeline.config import NAME, ModelSettings
from susc_pipeline.explorer import site
from susc_pipeline.explorer.site import Site
from susc_pipeline.messages import shown
from susc_pipeline.model import pretrained
from susc_pipeline.model.pretrained import LoadedModel
from susc_pipeline.representation import auxiliary, pca, whitening
from susc_pipeline.representation.auxiliary import AuxModel
from susc_pipeline.representation.pca import PCABasis
from susc_pipeline.representation.whitening import WhiteningBasis

MANIFEST_KEYS = {"asset", "shard", "code_version", "lineage", "inputs", "sha256"}


@dataclass(frozen=True)
class LanguageModelFolder:
    """A stored language model."""

    path: Path

    def load(self, settings: ModelSettings) -> LoadedModel:
        """Model and tokenizer on the device of the settings."""
        return language_model.load(self.path, settings)


@dataclass(frozen=True)
class TraceFolder:
    """Loss traces of a shard, one Parquet file a component."""

    path: Path

    def file(self, component: str) -> Path:
        """File of a component's traces."""
        return self.path / f"{component}.parquet"

    def has(self, component: str) -> bool:
        """Whether the component's traces are there, whole: files get their name when they are complete."""
        return self.file(component).exists()

    def write(self, component: str, frame: pl.DataFrame) -> None:
        """Store a component's traces."""
        write_table(frame, self.file(component))

    def read(self, component: str) -> pl.DataFrame:
        """A component's traces."""
        return scan_table(self.file(component)).collect()


class StoreError(ValueError):
    """An artifact is missing, damaged, foreign, in use, or mixed with those of another experiment."""


@dataclass(frozen=True)
class Store:
    """Where an experiment's artifacts are."""

    root: Path

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

    def traces(self, shard: str, digest: str) -> TraceFolder:
        """Loss traces of a shard by chains that the digest describes; older ones of the shard stay until it is done."""
        return TraceFolder(self.path("sgld_samples", shard) / digest)

    def page(self) -> Path:
        """First page of the explorer."""
        return self.path("explorer") / "index.html"

    def seconds(self) -> Path:
        """Seconds that each asset took when it was last made."""
        return self.root / "seconds.json"

    def sibling(self, experiment: str) -> "Store":
        """Where another experiment's artifacts are."""
        return Store(self.root.parent / experiment)

    def manifest_path(self, asset: str, shard: str | None = None) -> Path:
        """Place of an artifact's manifest."""
        place = self.path(asset, shard)
        return place.with_name(place.name + ".manifest.json")

    def manifest(self, asset: str, shard: str | None = None) -> dict[str, Any] | None:
        """What is recorded of an artifact, or nothing where it was never finished."""
        path = self.manifest_path(asset, shard)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} is damaged ({str(error)[:80]}); make what it describes again") from error
        if not isinstance(content, dict) or not content.keys() >= MANIFEST_KEYS:
            raise StoreError(f"{path} is no manifest; make what it describes again")
        return content

    @contextlib.contextmanager
    def scratch(self, asset: str) -> Iterator[Path]:
        """A folder for what an asset writes on the way. A file that is still mapped at the end stays until its map goes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=f".{asset}.", suffix=".tmp") as folder:
            yield Path(folder)

    @contextlib.contextmanager
    def lock(self, asset: str, shard: str | None = None) -> Iterator[None]:
        """Hold an artifact; the operating system lets go of it if the process dies.

        Raises:
            StoreError: another run holds it.
        """
        path = self.root / ".locks" / f"{asset}-{shard or 'all'}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"{asset} {shard or ''} is being materialized by another run; wait for it, or terminate it in the UI"
                ) from error
            yield


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary place beside `path`, which takes its name if the body succeeds and vanishes if it does not.

    Raises:
        StoreError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        content = temporary / path.name
        yield content
        if content.is_file():
            with content.open("rb") as handle:
                os.fsync(handle.fileno())
        elif path.is_dir():
            path.rename(temporary / "old")
        os.replace(content, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(
                f"no space left to write {path}; nothing was changed, free some space and try again"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write a table so that the file is either the old one or the whole new one."""
    with replacing(path) as temporary:
        frame.write_parquet(temporary, compression="zstd")


def scan_table(path: Path) -> pl.LazyFrame:
    """A stored table, not yet read.

    Raises:
        StoreError: it is missing, cut short, or no Parquet.
    """
    remedy = f"materialize {path.parent.name if path.parent.name != path.stem else path.stem} again"
    if not path.is_file():
        raise StoreError(f"{path} is missing; {remedy}")
    try:
        frame = pl.scan_parquet(path, glob=False)  # or a folder with brackets in its name would be a pattern
        frame.collect_schema()
    # What the reader did not foresee is a panic of Rust, which is no Exception to Python.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise StoreError(f"{path} is cut short or no Parquet file ({str(error)[:120]}); {remedy}") from error
    return frame


class ClusteredTokens(NamedTuple):
    """Tokens by document and place in it, which other runs share, and those in clusters."""

    tokens: pl.DataFrame
    members: pl.DataFrame


def clustered_tokens(store: Store) -> ClusteredTokens:
    """The tokens of a finished run, and the members of its clusters.

    Raises:
        StoreError: the run has no clusters.
    """
    paths = sorted(store.path("token_shards").glob("*.parquet"))
    if not paths:
        raise StoreError(f"{store.root} has no token_shards; run that experiment first")
    contexts = pl.concat([scan_table(path).collect() for path in paths])
    places = contexts.select("context_id", "start")
    tokens = schema.token_key_frame(contexts).join(places, on="context_id", how="left", maintain_order="left")
    placed = tokens.with_columns(offset=pl.col("start") + pl.col("position"))
    members = scan_table(store.table("cluster_members")).select("cluster", "context_id", "position").collect()
    found = members.join(placed, on=["context_id", "position"], how="left", maintain_order="left")
    keys = ["document_id", "offset"]
    return ClusteredTokens(placed.select(keys), found.select("cluster", *keys))


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


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

    A table is taken as `pl.DataFrame` (read) or `pl.LazyFrame` (scanned); all shards of an asset as a dict of them,
    sorted by shard, also where there is but one.
    """

    def __init__(self, store: Store) -> None:
        """Manage the artifacts of one store."""
        self.store = store
        self._read: dict[str, dict[str, Any]] = {}

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store an asset's value, then its manifest: an artifact without a manifest is not there."""
        asset, shard = context.asset_key.path[-1], context.partition_key if context.has_asset_partitions else None
        path = self._write(asset, shard, obj)
        inputs = self._read.get(self._reader(context), {})
        version = context.asset_spec.code_version or ""
        lineage = [version, *sorted({f"{name.partition('/')[0]} {m['lineage']}" for name, m in inputs.items()})]
        manifest = {
            "asset": asset,
            "shard": shard,
            "code_version": version,
            "lineage": hashlib.sha256("\n".join(lineage).encode()).hexdigest()[:16],
            "inputs": {name: m["sha256"] for name, m in inputs.items()},
            "sha256": checksum(path),
            "rows": obj.height if isinstance(obj, pl.DataFrame) else None,
        }
        write_json(manifest, self.store.manifest_path(asset, shard))

    def _write(self, asset: str, shard: str | None, obj: Any) -> Path:
        if isinstance(obj, pl.DataFrame):
            path = self.store.table(asset, shard)
            write_table(obj, path)
            return path
        if isinstance(obj, TraceFolder):
            for other in obj.path.parent.iterdir():
                if other != obj.path:
                    shutil.rmtree(other)
            return obj.path
        path = self.store.path(asset, shard)
        with replacing(path) as temporary:
            if isinstance(obj, LanguageModelFolder):
                pretrained.copy(obj.path, temporary)
            else:
                FOLDERS[type(obj)][0](obj, temporary)
        return path

    def load_input(self, context: dg.InputContext) -> Any:
        """An upstream asset's value, in the type that the reader declares."""
        asset = context.asset_key.path[-1]
        wanted = context.dagster_type.typing_type
        shards = sorted(context.asset_partition_keys) if context.has_asset_partitions else [None]
        self._record(context, asset, shards)
        if get_origin(wanted) is dict:
            return {shard: self._load(asset, shard, get_args(wanted)[1]) for shard in shards}
        return self._load(asset, shards[0], wanted)

    def _load(self, asset: str, shard: str | None, wanted: Any) -> Any:
        if wanted is pl.LazyFrame:
            return scan_table(self.store.table(asset, shard))
        if wanted is pl.DataFrame:
            return scan_table(self.store.table(asset, shard)).collect()
        path = self.store.path(asset, shard)
        if wanted is LanguageModelFolder:
            return LanguageModelFolder(path)
        if wanted is TraceFolder:
            return TraceFolder(next(child for child in sorted(path.iterdir()) if child.is_dir()))
        return FOLDERS[wanted][1](path)

    def _record(self, context: dg.InputContext, asset: str, shards: list[Any]) -> None:
        """Remember what was read for the manifest of what is made of it; refuse shards of mixed origin."""
        found = {}
        for shard in shards:
            manifest = self.store.manifest(asset, shard)
            if manifest is None:
                raise StoreError(f"{asset} {shard or ''} has not been materialized; materialize it first")
            found[f"{asset}/{shard}" if shard else asset] = manifest
        by_lineage: dict[str, list[str]] = {}
        for name, manifest in found.items():
            by_lineage.setdefault(manifest["lineage"], []).append(name)
        if len(by_lineage) > 1:
            current = context.upstream_output.asset_spec.code_version if context.upstream_output else None
            stale = [name for name, m in found.items() if m["code_version"] != current] or min(
                by_lineage.values(), key=len
            )
            raise StoreError(
                f"{asset} mixes shards made with different settings or inputs; materialize again: {', '.join(stale)}"
            )
        reader = self._reader(context)
        if reader not in self._read:  # kept until the next step, for a step may have several outputs
            self._read = {reader: {}}
        self._read[reader].update(found)

    @staticmethod
    def _reader(context: dg.InputContext | dg.OutputContext) -> str:
        return f"{context.step_context.run_id} {context.step_context.step.key}"
