"""What lies in a store: what its manifests name, what dead runs left, and what nobody names. Nothing is written or followed.

Traces of a shard that is not finished are named by the record beside each: they are work done, which a run will go on with.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resources import component_folder, files, manifest
from resources.component_folder import ComponentFolder
from resources.files import StoreError
from resources.manifest import Manifest
from resources.storage import Store


class Inventory(NamedTuple):
    """Everything in a store."""

    manifests: dict[Path, Manifest]
    """Those that can be read, by place."""
    unreadable: dict[Path, str]
    """Manifests that cannot, and why."""
    left_over: list[Path]
    """Temporary folders whose writers are dead."""
    unnamed: list[Path]
    """Files that no manifest names; not those of which a manifest that cannot be read may tell."""


def of(store: Store) -> Inventory:
    """Look at every file of a store once."""
    manifests, unreadable, others = {}, {}, []
    for path in _files(store.root):
        if not path.name.endswith(manifest.SUFFIX):
            others.append(path)
            continue
        try:
            found = manifest.read(path)
        except StoreError as error:
            unreadable[path] = str(error)
        else:
            manifests |= {path: found} if found else {}
    named = {path.parent / name for path, found in manifests.items() for name in found.files}
    named |= set(store.notes())
    untold = {path.with_name(path.name.removesuffix(manifest.SUFFIX)) for path in unreadable}
    unnamed = [path for path in others if path not in named and not _is_trace(path)]
    unnamed = [path for path in unnamed if not untold & {path.with_suffix(""), *path.parents}]
    left_over = [folder for folder in files.temporaries(store.root) if not files.is_in_use(folder)]
    return Inventory(manifests, unreadable, left_over, unnamed)


def n_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.lstat().st_size for file in ([path] if not path.is_dir() else _files(path)))


def _files(root: Path) -> Iterator[Path]:
    """Files and links below a folder, but for locks and temporary folders."""
    for place, folders, names in os.walk(root):
        hidden = [
            name for name in folders if name.startswith(".") and (name.endswith(files.SUFFIX) or name == ".locks")
        ]
        folders[:] = sorted(set(folders) - set(hidden))
        yield from (Path(place, name) for name in sorted(names))


def _is_trace(path: Path) -> bool:
    """Whether a file is the traces of a component, with its record, or that record."""
    component = path.name.removesuffix(component_folder.RECORD)
    for suffix in component_folder.SUFFIXES:
        folder = ComponentFolder(path.parent, "", suffix)
        component = component.removesuffix(suffix)
        entry = folder.record(component)
        if entry is not None and manifest.damage(folder.file(component), entry, thorough=False) is None:
            return True
    return False
