"""Fixtures of the fault harness: the finished toy store."""

import shutil

import conftest as toys_conftest
import pytest

import trials
import warm
from resources.storage import Store


@pytest.fixture(scope="session")
def world(toy_folders, tmp_path_factory):
    """A finished toy store and a warm process to make parts of it again."""
    root = tmp_path_factory.mktemp("faults")
    toml = toys_conftest.write_toml(root / "toy.toml", *toy_folders)
    process = warm.Warm(toml, root / "data", root / "dagster")
    done = process.run("--experiment", toml)
    assert done.status == 0, done.output[-3000:]
    store = Store(root / "data" / "toy")
    # The explorer shows what assets took: made once more without that note, it is the same whenever it is made.
    (store.root / "seconds.json").unlink()
    shutil.rmtree(store.path("explorer"))
    assert process.run("--experiment", toml).status == 0
    (store.root / "seconds.json").unlink()
    shutil.copytree(store.root, root / "reference")
    yield trials.World(process, store, root / "reference", toml)
    process.close()
