"""What `make install` installs is pinned by hash, in the versions of constraints.txt, from no index by name."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name):
    text = (CHECKOUT / "locks" / f"{name}.txt").read_text()
    entries = re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}[ \\]*)+)$", text, re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), f"an entry of {name} has no hash"
    assert "://" not in text
    return {normal(package): version for package, version, _ in entries}


def test_every_package_that_is_needed_is_locked_in_the_version_of_the_constraints():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in wanted}
    base, torch = locked("base"), locked("torch")
    assert names - {"torch"} <= base.keys() and "torch" in torch and "torch" not in base
    lines = [line.split("==") for line in (CHECKOUT / "constraints.txt").read_text().split()]
    pinned = {normal(name): version for name, version in lines}
    found = base | torch
    both = found.keys() & pinned.keys()
    assert {name: found[name] for name in both} == {name: pinned[name] for name in both}
    assert locked("torch-cpu")["torch"] == f"{pinned['torch']}+cpu"


def refused_by(version, project):
    found = runpy.run_path(str(CHECKOUT / ".ci" / "python_version.py"))
    return found["refusal"](version, project)


def test_an_interpreter_that_the_project_does_not_name_is_refused_in_a_sentence():
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert refused_by(sys.version_info[:2], project) is None
    for version in ((3, 10), (3, 14), (2, 7), (4, 0)):
        said = refused_by(version, project)
        assert said.startswith("error: susc-pipeline needs Python 3.11") and "PYTHON=/path/to/python3.11" in said
        assert f"is Python {version[0]}.{version[1]};" in said and "\n" not in said
    wider = 'requires-python = ">=3.11,<3.14"'
    assert refused_by((3, 13), wider) is None and "needs Python 3.11 to 3.13," in refused_by((3, 14), wider)


def test_the_makefile_asks_for_the_version_before_it_makes_or_downloads_anything():
    command = ["make", "-n", "-B", "--no-print-directory", "install", "PYTHON=/some/python"]
    lines = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "/some/python .ci/python_version.py" and lines[1].startswith("/some/python -m venv")


def test_the_makefile_installs_nothing_without_its_hash():
    recipe = re.search(
        r"^\$\(VENV\)/\.installed:.*?\n\n", (CHECKOUT / "Makefile").read_text(), re.MULTILINE | re.DOTALL
    )[0]
    installs = [line for line in recipe.splitlines() if "install" in line and line.startswith("\t")]
    for line in installs:
        assert "$(HASHED)" in line or "--no-deps --no-build-isolation -e ." in line, line
