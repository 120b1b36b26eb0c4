"""The experiment in words, for the UI: settings, digest, and what it takes. Prices are in resources/price_table.py."""

import dataclasses

from resources import language_model, price_table
from resources.storage import Store
from susc_pipeline import price as prices
from susc_pipeline.config import ExperimentConfig
from susc_pipeline.messages import plain
from susc_pipeline.plan import Plan

ESCAPED = str.maketrans({character: f"&#{ord(character)};" for character in "&<>\"'\\`*_[]()|~"})  # what Markdown obeys


def plan(experiment: ExperimentConfig, store: Store) -> Plan | None:
    """The experiment on its model; None where neither the store nor a folder here says the sizes. Nothing is fetched."""
    folders = store.path("language_model"), language_model.folder_of(experiment.model)
    config = next((path for folder in folders if (path := folder / "config.json").is_file()), None)
    try:
        return price_table.plan_of(experiment, config) if config else None
    except (OSError, ValueError):
        return None


def description(experiment: ExperimentConfig, store: Store) -> str:
    """Markdown of the experiment: digest, price, seconds of the last runs, and every setting that is not the default."""
    rows = [("experiment", experiment.name), ("digest of all settings", experiment.digest()), ("seed", experiment.seed)]
    if not store.remote and (planned := plan(experiment, store)):  # of a remote model nothing is fetched for a page
        whole = prices.total(prices.prices(planned))
        rows += [
            ("operations", f"{whole.operations:.2g}"),
            (
                "disk; memory at most",
                f"{price_table.size(whole.disk)}; {price_table.size(price_table.PROCESS_BYTES + whole.memory)}",
            ),
        ]
    if seconds := store.seconds():
        rows.append(("last runs of all assets together", price_table.duration(sum(seconds.values()))))
    rows += [tuple(plain(line).split(" = ", 1)) for line in changed_settings(experiment)]
    cells = ("| " + " | ".join(str(cell).translate(ESCAPED) for cell in row) + " |" for row in rows)
    hours = f"Hours on this machine: `susc-pipeline price {experiment.name}`."
    return "\n".join(["| what, and every setting that is not the default | value |", "|---|---|", *cells, "", hours])


def changed_settings(experiment: ExperimentConfig) -> list[str]:
    """Lines such as `sampling.step_size = 2.0`, of every setting whose value is not the default."""
    default, lines = ExperimentConfig(name=experiment.name), []
    for section in dataclasses.fields(experiment):
        here, usual = getattr(experiment, section.name), getattr(default, section.name)
        if dataclasses.is_dataclass(here):
            names = [field.name for field in dataclasses.fields(here)]
            pairs = ((name, getattr(here, name)) for name in names if getattr(here, name) != getattr(usual, name))
            lines += [f"{section.name}.{name} = {value!r}" for name, value in pairs]
    return lines
