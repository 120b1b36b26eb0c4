"""Progress of a long asset: a line at most every ten seconds, in the run's log and on the terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import dagster as dg

SECONDS_BETWEEN_LINES = 10.0
Item = TypeVar("Item")


def track(context: dg.AssetExecutionContext, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items one after another; what is done, the rate and the time left are logged on the way."""
    report = reporter(context, what)
    for number, item in enumerate(items):
        yield item
        report(number + 1, total)


def reporter(context: dg.AssetExecutionContext, what: str) -> Callable[[int, int], None]:
    """A function of done and total that logs at most every ten seconds."""
    started = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done > 0 and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = done / (now - started)
            line = f"{done}/{total} {what}, {rate:.3g} a second, {(total - done) / rate:.0f} s to go"
            context.log.info(line)
            print(f"\n      {line} ", end="", flush=True)

    return report
