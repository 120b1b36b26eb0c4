"""The TOML files of experiments: which there are, and which one a name means. Their content is read in experiment.py.

Nothing large is imported here, so the command line can refuse or complete a name at once.
"""

import os
from pathlib import Path

from susc_pipeline.messages import shown

EXPERIMENTS = Path(__file__).resolve().parent / "experiments"
SUFFIX = ".toml"
VARIABLE, DEFAULT = "SUSC_EXPERIMENT", "tiny"


def known() -> list[str]:
    """Names of the experiments that come with the project."""
    return sorted(path.stem for path in EXPERIMENTS.glob(f"*{SUFFIX}"))


def path_of(name_or_path: str | None = None) -> Path:
    """The file of that name or path; without one, of what SUSC_EXPERIMENT says, else of `tiny`.

    Raises:
        ValueError: there is no such file.
    """
    wanted = name_or_path or os.environ.get(VARIABLE, DEFAULT)
    is_path = wanted.endswith(SUFFIX)
    path = Path(wanted) if is_path else EXPERIMENTS / f"{wanted}{SUFFIX}"
    if not (path.is_file() if is_path else wanted in known()):
        raise ValueError(
            f"unknown experiment {shown(wanted)}; known are {', '.join(known())}, or give the path of a .toml file"
        )
    return path


def beside(path: str) -> Path:
    """A file that the experiment in force names, relative to the experiment's own file."""
    return path_of().parent / Path(path).expanduser()
