"""Trials of the fault harness: a finished toy store, in which one asset is made again while something goes wrong."""

import fcntl
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import numpy as np

import warm
from resources import files, inventory
from resources.storage import Store

# Not the same in any two runs: what assets took, and a database that has an identity of its own (its views are compared).
DIFFERENT = {"seconds.json", "warehouse.duckdb", "warehouse.manifest.json"}
FAULTS = ("damaged", "full disk", "memory", "race", "clock")  # beside being killed
N_MOMENTS = int(os.environ.get("FAULT_MOMENTS", "1"))
RESULTS = os.environ.get("FAULT_RESULTS")
# What a failed check says may stand between a unit's name and that it is done.
DONE = re.compile(r"^\[\d+/\d+\] (\w+(?: \+ \w+)*(?: shard-\d+)?) (?:(?!^\[\d).)*?done in", re.MULTILINE | re.DOTALL)


def unit_names():
    """Assets that are made together, for each computation of the graph, in order; a new asset is among them by itself."""
    from assets import definitions, runner

    return list(dict.fromkeys(unit.assets for unit in runner.units(definitions.defs, [], None)))


def units_tried(fault=None):
    """All of them, or one of each kind of artifact (its types, sharded or not) where few moments are tried.

    Every kind is killed; each of FAULTS meets every second kind, odd or even ones by turns.
    """
    from assets import definitions

    if N_MOMENTS > 1:
        return unit_names()
    graph, kinds = definitions.defs.resolve_asset_graph(), {}
    for names in unit_names():
        node = graph.get(dg.AssetKey(names[0]))
        outputs = node.assets_def.op.output_defs
        kinds.setdefault((node.is_partitioned, *(str(one.dagster_type.typing_type) for one in outputs)), names)
    found = list(kinds.values())
    return found if fault is None else found[FAULTS.index(fault) % 2 :: 2]


def edges():
    """Each asset with each that it reads; not those made on request, nor those of which it reads some shards alone."""
    from assets import definitions, runner

    graph = definitions.defs.resolve_asset_graph()
    keys = sorted(graph.get_all_asset_keys())
    found = [(key, parent) for key in keys for parent in sorted(graph.get(key).parent_keys)]
    some = dg.SpecificPartitionsPartitionMapping
    return [
        (key.path[-1], parent.path[-1])
        for key, parent in found
        if not isinstance(graph.get(key).partition_mappings.get(parent), some)
        and not any(runner.is_on_request(graph.get(one).tags) for one in (key, parent))
    ]


class World(NamedTuple):
    """A warm process, the store in which it works, and what that store is when nothing goes wrong."""

    process: warm.Warm
    store: Store
    reference: Path
    toml: Path

    def restore(self, without=(), into=False):
        """Make the store the finished one but for some assets.

        Files are links to the reference's, which no run may change, or copies where the folder is a disk of its own.
        """
        if not into:
            shutil.rmtree(self.store.root, ignore_errors=True)
        copy = shutil.copy2 if into else os.link
        shutil.copytree(self.reference, self.store.root, copy_function=copy, dirs_exist_ok=into)
        for asset in without:
            place = self.store.path(asset)
            for path in (place, self.store.table(asset), self.store.manifest_path(asset)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def differences(self):
        """Files that are not those of the reference."""
        mine, theirs = digests(self.store.root), digests(self.reference)
        return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))

    def temporaries(self):
        return list(files.temporaries(self.store.root))


def digests(root):
    """Checksums of the files below a folder, without locks and what differs in any two runs."""
    paths = [path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts]
    named = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: _digest(path) for name, path in named.items() if name not in DIFFERENT}


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finished(store, assets):
    """Shards of these assets that are finished, as (asset, shard) pairs, and whole component files with their numbers.

    What is made together is finished together: one of two tables is made again with the other, to the same bytes.
    """
    shards, components = {}, {}
    kept = inventory.of(store)
    assert not kept.unreadable, kept.unreadable
    for found in kept.manifests.values():
        if found.asset in assets:
            shards.setdefault(found.shard, set()).add(found.asset)
    units = {(asset, shard) for shard, whole in shards.items() if whole == set(assets) for asset in whole}
    for pattern in (
        "sgld_samples/*/*/*.parquet",
        "response_directions/*/[!r]*.safetensors",
    ):  # not the gradients at rest
        components |= {path: path.stat().st_ino for path in store.root.glob(pattern)}
    return units, components


def made(output):
    """Units that a run made, as (asset, shard) pairs."""
    found = []
    for name in DONE.findall(output):
        *assets, last = name.split(" + ")
        last, _, shard = last.partition(" ")
        found += [(asset, shard or None) for asset in (*assets, last)]
    return found


def moments(name, number):
    """Seeded fractions of a run, in [0, 1)."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).random(number).tolist()


def record(fault, name, **counts):
    """Note what was counted in the file that the slow target keeps, one entry for each fault and asset; workers take turns."""
    if RESULTS:
        with Path(RESULTS).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            found = json.loads(file.read() or "{}")
            found.setdefault(fault, {})[name] = counts
            file.truncate(0)
            file.write(json.dumps(found, indent=1, sort_keys=True) + "\n")
