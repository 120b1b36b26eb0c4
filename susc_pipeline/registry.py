"""Registries that a file joins by lying in a folder: estimators, samplers and families of models."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def collected(package: ModuleType, table: str) -> dict[str, Any]:
    """Entries of the dictionaries called `table` of a package's modules, by name of the entry; modules in order of name.

    A module without such a dictionary adds nothing.

    Raises:
        ValueError: two modules give an entry of one name.
    """
    found: dict[str, Any] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        entries = getattr(importlib.import_module(f"{package.__name__}.{name}"), table, {})
        twice = found.keys() & entries.keys()
        if twice:
            raise ValueError(
                f"{package.__name__}.{name} gives {min(twice)!r}, as another file does; rename one of them"
            )
        found |= entries
    return found
