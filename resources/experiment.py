"""The experiment in force: its settings, and where its artifacts go. What the values mean is in susc_pipeline/config.py."""

import os
import re
from pathlib import Path

from resources import experiment_files
from resources.remote import Remote
from resources.storage import Store
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.messages import has_credentials, shown

CHECKOUT = Path(__file__).resolve().parent.parent


def load(name_or_path: str | None = None) -> ExperimentConfig:
    """The experiment of that name or TOML file; without one, what SUSC_EXPERIMENT says, else `tiny`.

    Raises:
        ValueError: no such experiment, or a file with a mistake.
    """
    return ExperimentConfig.from_toml(experiment_files.path_of(name_or_path))


def store(experiment: ExperimentConfig) -> Store:
    """The experiment's artifacts: below SUSC_STORE, else below `data` in the checkout.

    Where SUSC_STORE is a URL, such as s3://bucket/prefix, machines share that folder of an object store, and what they need of it
    is kept below SUSC_CACHE, else below `data/cache`.

    Raises:
        ValueError: SUSC_STORE holds a password, which every message about an artifact would repeat.
    """
    place = os.environ.get("SUSC_STORE", str(CHECKOUT / "data")).rstrip("/")
    if has_credentials(place):
        raise ValueError(
            f"SUSC_STORE {shown(place)} holds a user or password; give those in variables of their own, take them out of it"
        )
    if "://" not in place:
        return Store(Path(place) / experiment.name)
    remote = Remote(f"{place}/{experiment.name}")
    cache = Path(os.environ.get("SUSC_CACHE", CHECKOUT / "data" / "cache"))
    return Store(cache / re.sub(r"[^A-Za-z0-9.-]+", "-", place) / experiment.name, remote)
