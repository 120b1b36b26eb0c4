"""Removes from a store what no manifest names: `susc-pipeline gc`. What that is is in inventory.py.

Only with --yes, only below the store's folder, never through a link, and never while anything is materialized.
"""

import contextlib
import shutil
from pathlib import Path

from resources import experiment as experiments
from resources import inventory
from resources.files import StoreError
from resources.storage import Store
from susc_pipeline.messages import plain


def clean(experiment: str, *, is_told_to: bool) -> int:
    """List what no manifest names with its size, and remove it if told to; 0.

    Raises:
        StoreError: there is no store, it is in use, or it cannot be read.
    """
    store = experiments.store(experiments.load(experiment))
    with store.lock_all():
        found = unnamed(store)
        total = sum(inventory.n_bytes(path) for path in found)
        for path in found:
            print(f"{inventory.n_bytes(path):>15,} bytes  {plain(str(path.relative_to(store.root)))}")
        if is_told_to:
            remove(store, found)
    done = "removed" if is_told_to else "to remove with --yes"
    print(
        f"{total:>15,} bytes in {len(found)} files and folders that no manifest names, {done}"
        if found
        else "nothing to remove"
    )
    return 0


def unnamed(store: Store) -> list[Path]:
    """Files and temporary folders of a store that nobody needs.

    Raises:
        StoreError: it has no manifest at all, so it may be no store, or one of them cannot be read.
    """
    found = inventory.of(store)
    if found.unreadable:
        raise StoreError(
            f"{next(iter(found.unreadable.values()))}; what it names cannot be told from what nobody needs"
        )
    if not found.manifests:
        raise StoreError(f"{store.root} has no manifest: it is no store, or an empty one")
    return [*found.left_over, *found.unnamed]


def remove(store: Store, paths: list[Path]) -> None:
    """Remove files and folders below the store, and folders that this leaves empty.

    Raises:
        StoreError: one of them lies elsewhere by now.
    """
    root = store.root.resolve()
    for path in paths:
        if path.parent.resolve() != root / path.parent.relative_to(store.root):
            raise StoreError(f"{path} is reached through a link and stays; remove the link, or the file itself")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        for folder in path.parents:
            if folder == store.root:
                break
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
