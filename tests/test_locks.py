"""What `make install` installs is pinned by hash, in the versions of constraints.txt, from no index by name."""

import re
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


def test_the_makefile_installs_nothing_without_its_hash():
    recipe = re.search(
        r"^\$\(VENV\)/\.installed:.*?\n\n", (CHECKOUT / "Makefile").read_text(), re.MULTILINE | re.DOTALL
    )[0]
    installs = [line for line in recipe.splitlines() if "install" in line and line.startswith("\t")]
    for line in installs:
        assert "$(HASHED)" in line or "--no-deps --no-build-isolation -e ." in line, line
