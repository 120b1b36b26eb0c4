"""Writes docs/configuration.md, every key of an experiment: `python -m resources.configuration`. Words are in the dataclasses."""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from susc_pipeline.config import ExperimentConfig

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

An experiment is one TOML file. Each section of it is a stage, each key a field of the stage's dataclass. A key that is not
given has its default. An unknown key, a value of the wrong type and a value out of range are refused by name.
`resources/experiments/` holds examples; `susc-pipeline init` writes a file that fits your model and your text. Written from
`susc_pipeline/config.py` by `python -m resources.configuration`.
"""


def markdown() -> str:
    """A table of the keys at the top, then a section for each stage."""
    fields = dataclasses.fields(ExperimentConfig)
    stages = {field.name: field.type for field in fields if dataclasses.is_dataclass(field.type)}
    lists = {field.name: kind for field in fields if dataclasses.is_dataclass(kind := _element(field.type))}
    top = _table(ExperimentConfig, leave_out=(*stages, *lists))
    parts = [HEAD.strip(), "## At the top of the file", top]
    for name, stage in stages.items():
        parts += [f"## [{name}]", inspect.cleandoc(stage.__doc__ or ""), _table(stage)]
    for name, kind in lists.items():
        parts += [f"## [[{name}]]", " ".join(inspect.cleandoc(kind.__doc__ or "").split()), _table(kind)]
    return "\n\n".join(parts) + "\n"


def _element(kind: Any) -> Any:
    """The type of the elements of a tuple, such as a list of sections."""
    return next(iter(get_args(kind)), None) if get_origin(kind) is tuple else None


def meanings(stage: type) -> Iterator[tuple[str, str]]:
    """Each field of a dataclass with the string literal below it, on one line; empty where there is none."""
    body = ast.parse(textwrap.dedent(inspect.getsource(stage))).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
    for item, below in zip(body, [*body[1:], None]):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            words = below.value if isinstance(below, ast.Expr) else None
            said = words.value if isinstance(words, ast.Constant) and isinstance(words.value, str) else ""
            yield item.target.id, " ".join(said.split())


def _table(stage: type, leave_out: tuple[str, ...] = ()) -> str:
    said, rows = dict(meanings(stage)), ["| key | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(stage):
        if field.name not in leave_out:
            rows.append(f"| `{field.name}` | {_default(field)} | {_literal(said[field.name])} |")
    return "\n".join(rows)


def _literal(words: str) -> str:
    """The words with what Markdown would read as emphasis or as the end of a cell made literal, outside code."""
    parts = words.split("`")
    return "`".join(part if number % 2 else re.sub(r"([*|<])", r"\\\1", part) for number, part in enumerate(parts))


def _default(field: dataclasses.Field) -> str:
    """The default as TOML writes it."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "must be given"
    return "not given" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    DOCUMENT.write_text(markdown(), encoding="utf-8")
