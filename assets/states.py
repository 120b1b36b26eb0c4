"""How far each computation of an experiment is: how many of its shards are current, stale, missing or being made."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import dagster as dg

from assets import runner
from resources.storage import Store

STATES = ("current", "stale", "missing", "being made")


class Line(NamedTuple):
    """State of what one computation makes: how many of its shards are in each state, and the seconds noted of its last run."""

    name: str
    counts: Counter[str]
    seconds: float | None


def of(store: Store, definitions: dg.Definitions) -> Iterator[Line]:
    """A line for each computation, in order of the graph."""
    seconds, found = store.seconds(), dict[tuple[str, ...], Counter[str]]()
    for unit in runner.units(definitions, [], None, on_request=lambda asset: store.manifest_path(asset).is_file()):
        found.setdefault(unit.assets, Counter())[state(store, definitions, unit)] += 1
    for assets, counts in found.items():
        yield Line(" + ".join(assets), counts, seconds.get("+".join(assets)))


def state(store: Store, definitions: dg.Definitions, unit: runner.Unit) -> str:
    """One of STATES."""
    if any(store.is_held(name, unit.shard) for name in unit.assets):
        return "being made"
    if not all(store.manifest_path(name, unit.shard).is_file() for name in unit.assets):
        return "missing"
    return "current" if runner.is_current(store, definitions, unit) else "stale"


def written(line: Line) -> str:
    """Such as `linear_response      20 current, 2 missing     73 s`."""
    states = ", ".join(f"{line.counts[name]} {name}" for name in STATES if line.counts[name])
    return f"{line.name:60.60} {states:34} {'' if line.seconds is None else f'{line.seconds:,.0f} s'}".rstrip()
