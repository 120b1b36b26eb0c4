"""What is wrong with a store: each artifact against its manifest, each manifest against the graph, and what is too much."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from assets import runner
from resources import inventory, manifest
from resources.files import StoreError
from resources.storage import Store

KINDS = {
    "missing": "never finished",
    "stale": "made by other code or settings, or from other inputs",
    "corrupt": "not as it was written",
    "foreign": "no manifest names it",
    "left over": "of a killed run",
    "surplus": "finished, of an asset or shard that the experiment has no more",
}
CLEANED = ("foreign", "left over")
SURPLUS = "to have gc remove one too, remove its manifest first"


class Finding(NamedTuple):
    """Something wrong."""

    kind: str
    place: str
    """An artifact, or a file or folder below the store."""
    what: str
    asset: str | None = None
    """What to make again, where that is the remedy."""


def of(store: Store, definitions: dg.Definitions) -> Iterator[Finding]:
    """Everything wrong with a store; every file of it is read."""
    graph, seen = definitions.resolve_asset_graph(), {store.manifest_path("warehouse")}
    for unit in runner.units(definitions, [], None, on_request=lambda asset: store.manifest_path(asset).is_file()):
        for asset in unit.assets:
            seen.add(store.manifest_path(asset, unit.shard))
            yield from of_artifact(store, asset, unit.shard, graph.get(dg.AssetKey(asset)).code_version)
    yield from of_artifact(store, "warehouse", None, None)
    found = inventory.of(store)
    for path, entry in found.manifests.items():
        if path not in seen:
            name = f"{entry.asset} {entry.shard or ''}".strip()
            yield Finding("surplus", _below(store, path), f"of {name}, which the experiment does not have")
    for path in found.left_over:
        yield Finding("left over", _below(store, path), "of a run that was killed")
    for path in found.unnamed:
        yield Finding("foreign", _below(store, path), f"{inventory.n_bytes(path):,} bytes that no manifest names")


def of_artifact(store: Store, asset: str, shard: str | None, version: str | None) -> Iterator[Finding]:
    """What is wrong with an artifact; its code version is compared where one is given."""
    name = f"{asset} {shard or ''}".strip()
    try:
        found = store.manifest(asset, shard)
    except StoreError as error:
        yield Finding("corrupt", name, str(error), asset)
        return
    if found is None:
        yield Finding("missing", name, "has not been materialized", asset)
        return
    if version not in (None, found.code_version):
        yield Finding("stale", name, f"made by version {found.code_version}, now {version}", asset)
    other = [source for source, recorded in found.inputs.items() if _checksum(store, source) not in (None, recorded)]
    if other:
        yield Finding("stale", name, f"made from another {', '.join(other[:3])}{' ...' * (len(other) > 3)}", asset)
    for path, what in manifest.damages(found, store.manifest_path(asset, shard).parent, thorough=True):
        if (
            store.remote and not path.exists()
        ):  # nothing needed it here; it is read against its checksum when something does
            continue
        yield Finding("corrupt", name, f"{_below(store, path)} {what}", asset)


def remedies(found: list[Finding], experiment: str) -> list[str]:
    """A line for each kind of what was found: how many, and the command that makes it good."""
    chosen, lines = f"--experiment {shlex.quote(experiment)}", []
    for kind, meaning in KINDS.items():
        of_kind = [finding for finding in found if finding.kind == kind]
        assets = sorted({f.asset for f in of_kind if f.asset and f.asset != "warehouse"})
        command = f"susc-pipeline run {chosen} --verify" + f" --select {' '.join(assets)}" * bool(assets)
        command = f"susc-pipeline gc {chosen}" if kind in CLEANED else SURPLUS if kind == "surplus" else command
        if of_kind:
            lines.append(f"{len(of_kind)} {kind} ({meaning}): {command}")
    return lines


def _checksum(store: Store, source: str) -> str | None:
    try:
        return store.checksum(source)
    except StoreError:  # which is a finding of its own, as its absence is
        return None


def _below(store: Store, path: Path) -> str:
    return str(path.relative_to(store.root))
