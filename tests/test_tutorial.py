"""The tutorial, the notebook and the page of commands: what they tell a reader to type works as it is typed."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from resources import notebook

CHECKOUT = Path(__file__).resolve().parent.parent
TUTORIAL = (CHECKOUT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMAND = ".venv/bin/susc-pipeline "
STORE = CHECKOUT / "data" / "tiny"
WITHOUT_CHAINS = ("language_model", "corpus_documents", "token_shards", "population_contexts")  # what takes seconds


def blocks(language, text=TUTORIAL):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lines():
    return [line for block in blocks("sh") for line in block.splitlines()]


def run(arguments, folder):
    """A command as typed, in a folder that looks like the checkout and has a store of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(CHECKOUT),
        "SUSC_STORE": str(folder / "data"),
        "DAGSTER_HOME": str(folder / "dagster"),
    }
    command = [sys.executable, "-m", "susc_pipeline", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)


def test_every_command_of_the_tutorial_and_of_the_page_of_commands_exists():
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    page = (CHECKOUT / "docs" / "command-line.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
    typed = {line.removeprefix(COMMAND).split()[0] for line in lines() if line.startswith(COMMAND)}
    made = {line.split()[1] for line in lines() if line.startswith("make ")}
    assert len(typed) + len(made) >= 6 and made <= targets and typed <= named
    assert all(line.startswith(("make ", COMMAND)) for line in lines())
    known = set(re.findall(r"[a-z][a-z-]+", run(["--help"], CHECKOUT).stdout))
    assert named <= known, "the page names a command that there is not"


@pytest.mark.slow
def test_the_python_of_the_tutorial_runs_in_order(capsys, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    namespace, python = {}, blocks("python")
    needs_run = next(number for number, block in enumerate(python) if "data/tiny" in block)
    for block in python if STORE.is_dir() else python[:needs_run]:
        exec(block, namespace)  # the page itself, not a copy
    shown = capsys.readouterr().out
    assert "'L1H2'" in shown and re.search(r"\d+ of \d+ tokens are sure", shown)
    if STORE.is_dir():
        assert namespace["responses"].height == namespace["table"].height * namespace["store"].components().height


@pytest.mark.slow
def test_an_experiment_is_written_priced_and_begun_as_the_tutorial_types_it(tmp_path):
    (tmp_path / "docs").symlink_to(CHECKOUT / "docs")
    typed = [shlex.split(line.removeprefix(COMMAND)) for line in lines() if line.startswith(COMMAND)]
    by_name = {arguments[0]: arguments for arguments in typed}
    for name in ("init", "price"):
        done = run(by_name[name], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    begun = run([*by_name["run"], "--select", *WITHOUT_CHAINS], tmp_path)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert list((tmp_path / "data" / "my-notes" / "token_shards").glob("*.parquet"))


def notebook_cells():
    return notebook.cells(notebook.SOURCE.read_text(encoding="utf-8"))


def test_the_notebook_is_that_of_its_script_with_outputs_and_small():
    assert notebook.NOTEBOOK.stat().st_size < 200_000
    stored = json.loads(notebook.NOTEBOOK.read_bytes())
    kinds = {True: "code", False: "markdown"}
    shown = [(cell["cell_type"], "".join(cell["source"])) for cell in stored["cells"]]
    expected = [(kinds[cell.is_code], cell.source) for cell in notebook_cells()]
    assert shown == expected, "python -m resources.notebook writes it anew"
    outputs = [output["output_type"] for cell in stored["cells"] for output in cell.get("outputs", [])]
    assert sorted(set(outputs)) == ["display_data", "stream"]


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_and_print_what_is_stored(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    stored, made = json.loads(notebook.NOTEBOOK.read_bytes()), notebook.executed(notebook_cells())
    for old, new in zip(stored["cells"], made["cells"], strict=True):
        kinds = [[output["output_type"] for output in cell.get("outputs", [])] for cell in (old, new)]
        assert kinds[0] == kinds[1]
    (printed,) = [
        "".join(o["text"]) for c in made["cells"] for o in c.get("outputs", []) if o["output_type"] == "stream"
    ]
    assert "standard_error" in printed
    (picture,) = [o["data"]["image/png"] for c in made["cells"] for o in c.get("outputs", []) if "data" in o]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
