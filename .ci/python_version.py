"""Refuses an interpreter that pyproject.toml does not name, before anything is installed or downloaded; used by the Makefile."""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def refusal(version, project):
    """One sentence where the version, such as (3, 13), is not within requires-python; nothing where it is."""
    least, below = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    if (3, int(least)) <= version < (3, int(below)):
        return None
    wanted = f"Python 3.{least}"
    if int(below) - int(least) > 1:
        wanted += f" to 3.{int(below) - 1}"
    found = f"{sys.executable} is Python {version[0]}.{version[1]}"
    return f"error: susc-pipeline needs {wanted}, and {found}; name another: make run PYTHON=/path/to/python3.{least}"


if __name__ == "__main__":
    sys.exit(refusal(sys.version_info[:2], PROJECT.read_text()))
