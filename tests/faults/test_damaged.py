"""A truncated, bit-flipped, foreign or missing file under a finished name: found, named, not read, and made again when asked."""

import shutil

import numpy as np
import pytest

import trials
from resources import component_folder, inventory, manifest

pytestmark = pytest.mark.faults
KINDS = ("truncated", "flipped", "foreign", "missing")


def seeded(*names):
    return np.random.default_rng(int.from_bytes(" ".join(names).encode(), "big"))


def damage(path, kind, rng, other):
    """Damage a file; it is a link to the reference's, so that a new one takes its place."""
    content = bytearray(path.read_bytes())
    path.unlink()
    if kind == "truncated":
        path.write_bytes(content[: int(rng.integers(len(content)))])
    elif kind == "flipped":
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    elif kind == "foreign":
        shutil.copy(other, path)


def files_of(store, assets, shard):
    """Files of these artifacts and their manifests."""
    found = []
    for asset in assets:
        path = store.manifest_path(asset, shard)
        entry = manifest.read(path)
        found += [path, *(path.parent / name for name in entry.files)]
    return found


def chosen(store, assets, rng, kind, without=("\0",)):
    """A shard of these artifacts, a file of it, and another file that looks like it."""
    shards = [found.shard for found in inventory.of(store).manifests.values() if found.asset == assets[0]]
    shard = shards[rng.integers(len(shards))]
    found = [path for path in files_of(store, assets, shard) if not path.name.endswith(without)]
    path = found[rng.integers(len(found))]
    alike = [p for p in store.root.rglob(f"*{path.suffix}") if p.is_file() and p.read_bytes() != path.read_bytes()]
    return shard, path, alike[rng.integers(len(alike))] if kind == "foreign" else path


@pytest.mark.parametrize("assets", trials.units_tried("damaged"), ids="+".join)
def test_damage_is_found_and_named_and_made_good_and_nothing_else_is_made(world, assets):
    kinds = KINDS if trials.N_MOMENTS > 1 else [KINDS[seeded(*assets).integers(len(KINDS))]]
    for kind in kinds:
        rng = seeded(*assets, kind)
        world.restore()
        shard, path, other = chosen(world.store, assets, rng, kind)
        damage(path, kind, rng, other)
        found = world.process.run("--experiment", world.toml, command="verify")
        assert found.status == 1 and path.name.removesuffix(manifest.SUFFIX) in found.output, (kind, path, found.output)
        assert "--verify --select" in found.output and "Traceback" not in found.output
        repaired = world.process.run("--experiment", world.toml, "--verify")
        assert repaired.status == 0, (kind, path, repaired.output[-3000:])
        assert set(trials.made(repaired.output)) == {(asset, shard) for asset in assets}, (kind, path)
        assert not world.differences(), (kind, path)
        whole = world.process.run("--experiment", world.toml, command="verify")
        assert whole.status == 0 and "as it was written" in whole.output, whole.output
    trials.record("damaged", "+".join(assets), found_and_made_good=len(kinds))


@pytest.mark.parametrize("name", sorted({parent for _, parent in trials.edges()}))
def test_no_reader_takes_what_is_damaged(world, name):
    kinds = ("flipped", "foreign") if trials.N_MOMENTS > 1 else [("flipped", "foreign")[len(name) % 2]]
    reader = next(child for child, parent in trials.edges() if parent == name)
    for kind in kinds:
        rng = seeded(name, kind, "read")
        world.restore(without=(reader,))
        # The record beside a component is not read any more once the shard has a manifest.
        _, path, other = chosen(world.store, (name,), rng, kind, without=(component_folder.RECORD,))
        damage(path, kind, rng, other)
        refused = world.process.run("--experiment", world.toml, "--select", reader)
        assert refused.status == 1, (reader, kind, path, refused.output[-2000:])
        assert path.name.removesuffix(manifest.SUFFIX) in refused.output and "again" in refused.output, refused.output
        assert not world.store.manifest_path(reader).exists()
    trials.record("damaged, read", name, refused=len(kinds))


def test_a_damaged_component_of_an_unfinished_shard_does_not_get_into_the_result(world):
    world.restore(without=("sgld_samples",))
    n_events = world.process.run("--experiment", world.toml).n_events
    world.restore(without=("sgld_samples",))
    part = world.process.run("--experiment", world.toml, kill_at=n_events // 2)
    assert part.status == -9
    assert not world.store.manifest_path("sgld_samples", "shard-00002").exists()
    done = sorted(world.store.root.glob("sgld_samples/*/*/*.parquet"))
    assert len(done) >= 3
    for path, kind in zip(done, ("flipped", "truncated", "foreign")):
        damage(path, kind, seeded(kind), done[-1] if path != done[-1] else done[0])
    again = world.process.run("--experiment", world.toml)
    assert again.status == 0 and not world.differences()


def test_a_damaged_warehouse_is_found_and_written_again(world):
    for name in ("warehouse.duckdb", "vocabulary.parquet"):
        world.restore()
        damage(world.store.root / name, "flipped", seeded(name), None)
        found = world.process.run("--experiment", world.toml, command="verify")
        assert found.status == 1 and name in found.output
        assert world.process.run("--experiment", world.toml, "--verify").status == 0
        assert world.process.run("--experiment", world.toml, command="verify").status == 0
