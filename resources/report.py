"""Writes the figures of a finished run: `susc-pipeline report --experiment tiny`. No figure of docs/results.md is typed by hand.

For `tiny` it writes docs/results.md and the values of the README's table; `--check` says which of them are stale instead. For
another experiment it prints the page. Whether the run is up to date is not asked: `susc-pipeline status` says it. What the
figures are is in headline.py.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from resources import experiment as experiments
from resources import headline
from resources.headline import Figure
from resources.storage import Store
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.messages import plain

CHECKOUT = Path(__file__).resolve().parent.parent
DOCUMENT, README = CHECKOUT / "docs" / "results.md", CHECKOUT / "README.md"
RESULTS = CHECKOUT / "benchmarks" / "results"
SHOWN = "tiny"  # the experiment that docs/results.md and the README tell of
HEADER = "| figure | value |"
MAX_ROWS = 24  # of a table of a benchmark; the file has the rest
ROW = re.compile(r"^\| (?P<name>.+?) \| ?(?P<value>.*?) ?\|$")


def report(name: str, *, check: bool) -> int:
    """Write, print or check the report of an experiment; 1 where a figure is stale.

    Raises:
        ValueError, OSError: there is no such experiment, or the run is not finished.
    """
    experiment = experiments.load(name)
    store = experiments.store(experiment)
    store.refresh()
    figures = headline.figures(store, experiment, RESULTS)
    if check:
        pages = (path for path in (README, DOCUMENT) if path.is_file())
        found = [f"{path.name}: {line}" for path in pages for line in stale(path.read_text(encoding="utf-8"), figures)]
        print("\n".join(found) or "every figure is that of the store")
        return 1 if found else 0
    page = markdown(store, experiment, figures)
    if experiment.name != SHOWN:
        print(page, end="")
        return 0
    DOCUMENT.write_text(page, encoding="utf-8")
    README.write_text(renewed(README.read_text(encoding="utf-8"), figures), encoding="utf-8")
    print(f"wrote {DOCUMENT} and the figures of {README}")
    return 0


def stale(page: str, figures: list[Figure]) -> list[str]:
    """The rows of a page's table of figures whose value is another than the store's, or that the store has not.

    A figure that differs from run to run, such as seconds, is never stale.
    """
    found, known = [], {_words(figure.name): figure.value for figure in figures}
    varying = {_words(figure.name) for figure in figures if figure.varies}
    for row in _rows(page):
        value = known.get(_words(row["name"]))
        if value != row["value"] and _words(row["name"]) not in varying:
            now = "in no table of the store" if value is None else f"now {value}"
            found.append(f"{_words(row['name'])} | {row['value']} | {now}")
    return found


def renewed(page: str, figures: list[Figure]) -> str:
    """The page with the store's values in its table of figures; its choice of rows and its words stay."""
    known = {_words(figure.name): figure.value for figure in figures}
    for row in _rows(page):
        value = known.get(_words(row["name"]), row["value"])
        page = page.replace(row[0], f"| {row['name']} | {value} |")
    return page


def markdown(store: Store, experiment: ExperimentConfig, figures: list[Figure]) -> str:
    """The page: headline figures, every component and PC, controls, seconds, and the results of benchmarks."""
    parts = [
        f"# Results of `{experiment.name}`",
        f"Written by `susc-pipeline report --experiment {experiment.name}` at commit {commit()}, from the tables of a\n"
        f"finished run and from `benchmarks/results/`; the digest of the experiment's settings was {experiment.digest()}.\n"
        "[columns.md](columns.md) says what a column means. Intervals are of 95 %. `--check` compares the headline figures\n"
        "here and in the README with the store.",
        "## Headline figures",
        "\n".join([HEADER, "|---|---|", *(f"| {figure.name} | {figure.value} |" for figure in figures)]),
        *_tables(store),
        "## Seconds of each asset",
        "When it was last made, beside other work. Assets joined by + are made together.",
        _table(pl.DataFrame({"asset": list(store.seconds()), "seconds": list(store.seconds().values())})),
        "## Benchmarks",
        *_benchmarks(RESULTS),
    ]
    return "\n\n".join(parts) + "\n"


def commit() -> str:
    """The commit of the checkout, and whether files differ from it."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"`{found.stdout.strip()}`" if found.returncode == 0 else "unknown (no git checkout)"


def _rows(page: str) -> Iterator[re.Match]:
    """The rows of the table of figures: from its header to the first line that is no row."""
    for line in page.partition(f"{HEADER}\n|---|---|\n")[2].splitlines():
        if not (row := ROW.match(line)):
            return
        yield row


def _words(name: str) -> str:
    """A name without the links and code marks that a page may give it."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", name).replace("`", "")


def _tables(store: Store) -> Iterator[str]:
    reliability = headline.table(store, "reliability")
    yield "## Reliability of sampled susceptibilities, by component"
    yield _table(reliability.filter(kind="component").drop("kind"))
    yield "## Correlation with withheld susceptibilities, by PC"
    yield _table(headline.table(store, "aux_correlation"))
    yield "## Clusters found again"
    yield _table(headline.table(store, "cluster_reproducibility"))
    for name, title in (("negative_control", "Negative control"), ("cluster_controls", "Controls of the clusters")):
        if store.table(name).is_file():
            yield f"## {title}"
            yield _table(headline.table(store, name))


def _benchmarks(folder: Path) -> Iterator[str]:
    """The single figures and the tables of each file of results, and the script whose name the file's begins with."""
    scripts = [path.stem for path in (CHECKOUT / "benchmarks").glob("*.py")]
    for path in sorted(folder.glob("*.json")):
        script = max((one for one in scripts if path.stem.startswith(one)), key=len, default=None)
        written = f", which `benchmarks/{script}.py` writes" if script else ""
        yield f"### {path.stem}\n\nFrom `benchmarks/results/{path.name}`{written}."
        yield from _values(json.loads(path.read_bytes()), "")


def _values(value: object, where: str) -> Iterator[str]:
    """Tables of what a result holds: one of the single values of a mapping, one of each list or mapping of like mappings."""
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        rows = [_singles(row) for row in value]
        more = f"\n\n{len(rows) - MAX_ROWS} more rows are in the file." if len(rows) > MAX_ROWS else ""
        if rows and any(rows):
            head = f"`{where}`:\n\n" if where else ""
            yield head + _table(pl.DataFrame(rows[:MAX_ROWS], infer_schema_length=None, strict=False)) + more
    elif isinstance(value, dict):
        single = _singles(value)
        if single:
            head = f"`{where}`:\n\n" if where else ""
            yield head + _table(
                pl.DataFrame({"name": list(single), "value": [_cell(cell) for cell in single.values()]})
            )
        deeper = {name: cell for name, cell in value.items() if not _is_single(cell)}
        below = {name: _singles(cell) for name, cell in deeper.items() if isinstance(cell, dict)}
        if len(below) > 1 and all(below.values()) and len({tuple(cells) for cells in below.values()}) == 1:
            yield from _values([{"name": name, **cells} for name, cells in below.items()], where)
            for name, cells in below.items():
                deeper[name] = {key: cell for key, cell in deeper[name].items() if key not in cells}
        for name, cell in deeper.items():
            yield from _values(cell, f"{where}.{name}".lstrip("."))


def _singles(row: dict) -> dict:
    return {name: cell for name, cell in row.items() if _is_single(cell)}


def _is_single(cell: object) -> bool:
    return cell is None or isinstance(cell, str | int | float)


def _table(frame: pl.DataFrame) -> str:
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in frame.iter_rows()]
    return "\n".join([f"| {' | '.join(map(str, frame.columns))} |", "|" + "---|" * frame.width, *rows])


def _cell(cell: object) -> str:
    """A value for a table: three significant digits of a fraction, nothing that Markdown or HTML would read."""
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    shown = "" if cell is None else plain(str(cell))
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", shown)
