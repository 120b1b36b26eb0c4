"""Writes docs/head-tokens.ipynb from docs/head-tokens.py, executed: `python -m resources.notebook`. No Jupyter is needed for it.

The script's cells begin with `# %%`, as editors have it. They are executed in order in one namespace; what a cell prints and the
figures that it leaves open are stored as its outputs.
"""

import base64
import contextlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCE, NOTEBOOK = CHECKOUT / "docs" / "head-tokens.py", CHECKOUT / "docs" / "head-tokens.ipynb"
MARKDOWN = " [markdown]"


class Cell(NamedTuple):
    """A cell of the script."""

    is_code: bool
    source: str


def cells(script: str) -> list[Cell]:
    """The cells of a script in percent format; Markdown is what its comments say."""
    found = []
    for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        kind, _, body = part.partition("\n")
        if kind == MARKDOWN:
            body = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
        found.append(Cell(kind != MARKDOWN, body.strip()))
    return found


def executed(found: list[Cell]) -> dict[str, object]:
    """The notebook, format 4.5, with the outputs of its code cells; it is run in the working directory."""
    matplotlib.use("Agg")
    namespace: dict[str, object] = {}
    made = []
    for number, cell in enumerate(found):
        entry = {"id": f"cell-{number}", "metadata": {}, "source": cell.source.splitlines(keepends=True)}
        if cell.is_code:
            entry |= {"cell_type": "code", "execution_count": number, "outputs": _outputs(cell.source, namespace)}
        else:
            entry |= {"cell_type": "markdown"}
        made.append(entry)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _outputs(code: str, namespace: dict[str, object]) -> list[dict[str, object]]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, SOURCE.name, "exec"), namespace)
    outputs: list[dict[str, object]] = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
        )
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    plt.close("all")
    return outputs


if __name__ == "__main__":
    made = executed(cells(SOURCE.read_text(encoding="utf-8")))
    NOTEBOOK.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
