"""A full disk, a disk that must not be written to, and too little memory: a clear error, and nothing wrong afterwards."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import trials

pytestmark = pytest.mark.faults
PAGE = 4096
MEGABYTE = 1 << 20


@pytest.fixture
def disk(world):
    """The store's folder as a file system of its own; a function sets how many bytes are free, or that it is read-only."""
    root = world.store.root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", root], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no right to mount a small file system: {tried.stderr.strip()}")

    def options(text):
        subprocess.run(["mount", "-o", f"remount,{text}", root], check=True)

    def free(n_bytes):
        found = shutil.disk_usage(root)
        options(f"size={found.used + n_bytes // PAGE * PAGE}")

    yield free, options
    subprocess.run(["umount", root], check=True)


def fill(world, without):
    for path in world.store.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    world.restore(without=without, into=True)


@pytest.mark.parametrize("assets", trials.units_tried("full disk"), ids="+".join)
def test_a_full_disk_is_an_error_that_says_so_and_more_room_makes_it_good(world, disk, assets):
    free, options = disk
    fill(world, assets)
    before = shutil.disk_usage(world.store.root).used
    assert world.process.run("--experiment", world.toml).status == 0
    needed = shutil.disk_usage(world.store.root).used - before
    refused = 0
    shares = (0.0, 0.3, 0.6, 0.9) if trials.N_MOMENTS > 1 else (0.3,)
    for share in shares:
        options("size=1g")
        fill(world, assets)
        free(int(share * needed))
        full = world.process.run("--experiment", world.toml)
        assert full.status in (0, 1), (share, full.output[-3000:])
        if full.status:
            refused += 1
            assert "no space left to write" in full.output and "Traceback" not in full.output, (share, full.output)
        assert not world.temporaries(), share
        kept, _ = trials.finished(world.store, assets)
        options("size=1g")
        again = world.process.run("--experiment", world.toml)
        assert again.status == 0, (share, again.output[-3000:])
        assert not world.differences() and not kept & set(trials.made(again.output)), share
    assert refused
    trials.record("full disk", "+".join(assets), tried=len(shares), refused=refused)


def test_a_read_only_store_is_an_error_that_says_so_for_every_asset_and_a_finished_one_can_be_checked(world, disk):
    _, options = disk
    for assets in trials.unit_names():
        options("rw")
        fill(world, assets)
        options("ro")
        refused = world.process.run("--experiment", world.toml, "--select", assets[0])
        assert refused.status == 1 and "cannot be written to" in refused.output, (assets, refused.output[-3000:])
        assert "Traceback" not in refused.output
        assert {name.split("/")[0].split(".")[0] for name in world.differences()} <= set(assets)
    options("rw")
    fill(world, ())
    options("ro")
    assert world.process.run("--experiment", world.toml, command="verify").status == 0
    assert world.process.run("--experiment", world.toml).status == 0


def outcome(ended):
    """How a run ended, in a few words; folders are left out."""
    if ended.status > 128:
        return f"the guard told of {signal.Signals(ended.status - 128).name}"
    return re.sub(r"/\S*/", "", ended.output.strip().splitlines()[-1])[:120] if ended.status else "done"


@pytest.mark.parametrize("assets", trials.units_tried("memory"), ids="+".join)
def test_too_little_memory_is_an_error_or_no_matter_and_never_a_wrong_number(world, assets):
    used = int(Path(f"/proc/{world.process.process.pid}/statm").read_text().split()[0]) * PAGE
    outcomes = {}
    for megabytes in (16, 64, 256, 1024) if trials.N_MOMENTS > 1 else (64,):
        world.restore(without=assets)
        limit = used + megabytes * MEGABYTE
        limited = world.process.run("--experiment", world.toml, guarded=True, limits={"RLIMIT_AS": limit})
        # A process that was aborted may leave temporary folders, which the next run sweeps away.
        left = tuple(f"{path.relative_to(world.store.root).as_posix()}/" for path in world.temporaries())
        wrong = {name for name in world.differences() if not name.startswith(left)}
        assert {name.split("/")[0].split(".")[0] for name in wrong} <= set(assets) | {"vocabulary"}, (megabytes, wrong)
        # In words, whatever it was that died: the guard's, ours, or those of an exception.
        last = (limited.output.strip().splitlines() or [""])[-1]
        assert limited.status == 0 or re.search(r"\b(error|\w+Error)\b", last), (megabytes, limited)
        outcomes[f"{megabytes} MB"] = outcome(limited)
        again = world.process.run("--experiment", world.toml)
        assert again.status == 0 and not world.differences(), (megabytes, again.output[-3000:])
    trials.record("memory", "+".join(assets), **outcomes)
