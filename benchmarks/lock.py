"""Write locks/: every package that `make install` installs, pinned, with the hashes of all its published files.

Run by `make lock`, which puts uv beside it: that asks the index which files there are of each version in constraints.txt.
`base.txt` is everything but torch, of which there are several builds: `torch.txt` is the published one, with what only that
needs; `torch-cpu.txt` is one for CPUs only, if such a wheel lies in PIP_FIND_LINKS, and else stays as it was. `docs.txt` is
MkDocs with the Material theme, for `make docs`.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LOCKS = CHECKOUT / "locks"
OF_CUDA = re.compile(r"(nvidia-|cuda-|triton)")
HEAD = "# Written by make lock from pyproject.toml and constraints.txt; not by hand.\n"


def resolved(requirements: str, *sources: str) -> str:
    """Requirements with hashes of these, a line each, and of the sources; constraints.txt decides versions that it names."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.in"
        own.write_text(f"{requirements}\n")
        options = ["--constraint", "constraints.txt", "--generate-hashes", "--python-version", "3.11"]
        options += ["--universal", "--no-annotate", "--no-header", "--quiet", "--emit-build-options"]
        command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", str(own), *sources, *options]
        return subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True).stdout


def entries(text: str) -> dict[str, str]:
    """Each requirement with its hashes, by name, in order of name."""
    found = re.split(r"\n(?=\S)", "\n" + text.strip())
    return {re.split(r"[=\[ ;]", entry)[0]: entry.strip() + "\n" for entry in found if re.match(r"[A-Za-z0-9]", entry)}


def local_wheels(name: str) -> dict[str, list[str]]:
    """Hashes of the wheels of a package in the folders where pip looks too, by the version in their names."""
    places = [Path(place) for place in os.environ.get("PIP_FIND_LINKS", "").split()]
    found: dict[str, list[str]] = {}
    for wheel in sorted(wheel for place in places if place.is_dir() for wheel in place.glob(f"{name}-*.whl")):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        found.setdefault(wheel.name.split("-")[1], []).append(f"--hash=sha256:{digest}")
    return found


def write(name: str, requirements: Iterable[str]) -> None:
    """Write one of the files."""
    LOCKS.mkdir(exist_ok=True)
    (LOCKS / f"{name}.txt").write_text(HEAD + "".join(requirements))


def main() -> None:
    found = entries(resolved("setuptools>=77", "pyproject.toml", "--extra", "dev"))
    version = re.split(r"[ ;]", found["torch"])[0].partition("==")[2]
    of_torch = {name: entry for name, entry in found.items() if name == "torch" or OF_CUDA.match(name)}
    write("base", (entry for name, entry in found.items() if name not in of_torch))
    write("torch", of_torch.values())
    # Later ones need Python 3.11.5, and a file of two versions of one package would lose one.
    write("docs", entries(resolved("mkdocs-material>=9.7,<10\npymdown-extensions<13")).values())
    if hashes := local_wheels("torch").get(f"{version}+cpu"):
        write("torch-cpu", [" \\\n    ".join([f"torch=={version}+cpu", *hashes]) + "\n"])
    print(f"{len(found) - len(of_torch)} packages, {len(of_torch)} for the published build of torch")


if __name__ == "__main__":
    main()
