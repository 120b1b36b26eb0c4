"""Runs over the asset graph: which artifacts are up to date, their materialization in order, and the report."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import polars as pl
from dagster._core.storage.runs import SqliteRunStorage
from dagster._utils.error import SerializableErrorInfo

from assets import lost_runs, overview, partitions
from resources import experiment as experiments
from resources import files, language_model, named_texts, price_table, tables, warehouse
from resources.files import StoreError
from resources.language_model import LanguageModelFolder
from resources.storage import Store
from susc_pipeline.clustering import membership
from susc_pipeline.messages import plain
from susc_pipeline.model.pretrained import token_texts
from susc_pipeline.patterning import wanted_changes

# Dagster's words on the terminal: none but for a traceback where it is asked for; the UI has them all.
QUIET, TRACEBACKS = ({"loggers": {"console": {"config": {"log_level": level}}}} for level in ("CRITICAL", "ERROR"))


class Unit(NamedTuple):
    """What one run makes: an asset, or the assets of one computation, for one shard or without shards."""

    assets: tuple[str, ...]
    shard: str | None

    def __str__(self) -> str:
        """Such as `token_shards shard-00003`."""
        return f"{' + '.join(self.assets)} {self.shard or ''}".strip()


def units(
    definitions: dg.Definitions,
    selected: list[str],
    shard: str | None,
    *,
    on_request: Callable[[str], bool] = lambda asset: False,
) -> Iterator[Unit]:
    """All units in order of the graph; those of one asset in order of shard.

    Of assets that are made on request only those that are selected, or that the function says yes to.
    """
    graph = definitions.resolve_asset_graph()
    known = sorted(key.to_user_string() for key in graph.get_all_asset_keys())
    for name in selected:
        if name not in known:
            raise ValueError(f"unknown asset {name!r}; known are {', '.join(known)}")
    shards = partitions.SHARDS.get_partition_keys()
    if shard is not None and shard not in shards:
        raise ValueError(f"unknown shard {shard!r}; the experiment has {shards[0]} ... {shards[-1]}")
    seen: set[str] = set()
    for level in graph.toposorted_asset_keys_by_level:
        for key in sorted(level, key=lambda k: k.to_user_string()):
            node = graph.get(key)
            names = tuple(sorted(k.to_user_string() for k in node.execution_set_asset_keys))
            if names[0] in seen or (selected and not set(selected) & set(names)):
                continue
            if not selected and is_on_request(node.tags) and not on_request(names[0]):
                continue
            seen.update(names)
            keys = node.partitions_def.get_partition_keys() if node.partitions_def else [None]
            if shard is not None and node.partitions_def and shard not in keys and selected:
                raise ValueError(f"{names[0]} has no shard {shard!r}; it has {keys[0]} ... {keys[-1]}")
            yield from (Unit(names, k) for k in keys if shard is None or k in (None, shard))


def is_on_request(tags: Mapping[str, str]) -> bool:
    """Whether the tags are of an asset that a plain run leaves out."""
    return partitions.ON_REQUEST.items() <= tags.items()


def is_current(store: Store, definitions: dg.Definitions, unit: Unit, *, thorough: bool = False) -> bool:
    """Whether every artifact of the unit is there, made by today's code and settings from today's inputs.

    Its files have the size that was recorded; what is in them is read only where it should be thorough.
    """
    graph = definitions.resolve_asset_graph()
    try:
        for name in unit.assets:
            found = store.available(name, unit.shard, thorough=thorough)
            if found.code_version != graph.get(dg.AssetKey(name)).code_version:
                return False
            if any(store.checksum(source) != recorded for source, recorded in found.inputs.items()):
                return False
    except StoreError:  # missing or damaged: both are made good by making it
        return False
    return True


def run(definitions: dg.Definitions, selected: list[str], shard: str | None, **how: bool) -> None:
    """Materialize what is not current and say what there is to see; `how` is that of `materialize`.

    Raises:
        ValueError: an asset needs more memory than there is, or a run failed.
        KeyboardInterrupt: a user stopped it.
    """
    if not selected and shard is None:
        say_the_price()
    home, started = dagster_home(), time.monotonic()
    n_done = materialize(definitions, home, selected=selected, shard=shard, **how)
    report(definitions, n_done, time.monotonic() - started, shard=shard, thorough=how.get("thorough", False))


def say_the_price() -> None:
    """Print what the whole experiment takes; nothing where its model is not known, of which the run says more.

    Raises:
        ValueError: an asset needs more memory than there is; names the keys to lower.
    """
    experiment = partitions.EXPERIMENT
    plan = overview.plan(experiment, experiments.store(experiment))
    if plan is None:
        return
    price_table.refuse_what_cannot_fit(plan, price_table.memory_of(experiment.model))
    if experiment.data_changes or experiment.observables:
        named_texts.check(experiment, LanguageModelFolder(language_model.locate(experiment.model)))
    wanted_changes.require_known(experiment.wanted_changes, [component.name for component in plan.chosen])
    rate = price_table.measured_rate(plan)
    print(f"{experiment.name}, if nothing were there yet: {price_table.summary(plan, rate)}", flush=True)


def dagster_home() -> Path:
    """DAGSTER_HOME, by default in the checkout so that history and lineage outlive the run."""
    checkout = Path(__file__).resolve().parent.parent
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(checkout / ".dagster_home")))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(checkout / "deploy" / "dagster.yaml", home / "dagster.yaml")
    return home


def materialize(
    definitions: dg.Definitions,
    home: Path,
    *,
    selected: list[str],
    shard: str | None,
    thorough: bool = False,
    verbose: bool = False,
    with_controls: bool = False,
) -> int:
    """Run every unit that is not current, one after another, with the controls of the clusters if asked; the number of runs.

    Raises:
        ValueError: a run failed, with the message of what failed in it.
        KeyboardInterrupt: a user stopped it.
    """
    store = experiments.store(partitions.EXPERIMENT)
    store.refresh()
    for temporary in files.temporaries(store.root):
        files.remove_if_left_over(temporary)
    todo = list(units(definitions, selected, shard, on_request=lambda _: with_controls))
    seconds: dict[str, float] = {}
    n_done = 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        # A history in SQLite is of one machine; whose processes the runs in a database are, only its daemon knows.
        lost_runs.bury(instance, launched_here=isinstance(instance.run_storage, SqliteRunStorage))
        for number, unit in enumerate(todo):
            if is_current(store, definitions, unit, thorough=thorough):
                continue
            with definitions.resources["io_manager"].holding(unit.assets, unit.shard):
                if is_current(store, definitions, unit, thorough=thorough):  # another run was faster
                    continue
                started = time.monotonic()
                print(f"[{number + 1}/{len(todo)}] {unit} ", end="", flush=True)
                _run(definitions, instance, unit, TRACEBACKS if verbose else QUIET)
                taken = time.monotonic() - started
            print(f"done in {taken:.1f} s", flush=True)
            name = "+".join(unit.assets)
            seconds[name] = seconds.get(name, 0.0) + taken
            store.note_seconds(seconds)
            n_done += 1
    return n_done


def run_tags(unit: Unit) -> dict[str, str]:
    """By which runs are searched in the UI: experiment, what is made, shard."""
    tags = {"experiment": partitions.EXPERIMENT.name, "made": "+".join(unit.assets)}
    return tags | ({} if unit.shard is None else {"shard": unit.shard})


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, unit: Unit, run_config: dict) -> None:
    """Materialize a unit in this process, with its checks.

    Raises:
        ValueError: it failed.
        KeyboardInterrupt: a user stopped it.
    """
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey(name) for name in unit.assets],
        partition_key=unit.shard,
        tags=run_tags(unit) | {lost_runs.PROCESS_TAG: lost_runs.process_name()},
        instance=instance,
        run_config=run_config,
        raise_on_error=False,
    )
    if not result.success:
        if any(error.cls_name == "DagsterExecutionInterruptedError" for error in _errors(result)):
            raise KeyboardInterrupt
        raise ValueError(f"{unit}: {_failure(result)}")
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            print(f"\n      check {check.check_name} failed: {check.description}", flush=True)


def _errors(result: dg.ExecuteInProcessResult) -> Iterator[SerializableErrorInfo]:
    for event in result.all_events:
        if error := getattr(event.event_specific_data, "error", None):
            yield error


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """Message of the error of a failed run, out of Dagster's wrapping; its own causes are told in it."""
    error = next(_errors(result), None)
    if error is None:
        return "failed without a message; run again with --verbose"
    while error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    return error.message.strip().partition(": ")[2] or error.message.strip()


def report(
    definitions: dg.Definitions, n_done: int, seconds: float, *, shard: str | None, thorough: bool = False
) -> None:
    """Refresh the warehouse if anything changed, and print the best clusters and where to look.

    A run of one shard leaves the warehouse alone: it may be one of many at once, and another makes what is of all shards.
    """
    experiment = partitions.EXPERIMENT
    store = experiments.store(experiment)
    folder = LanguageModelFolder(store.path("language_model"))
    made: dict[str, list[str | None]] = {}
    for unit in units(definitions, [], None, on_request=lambda asset: store.manifest_path(asset).is_file()):
        for asset in unit.assets:
            if store.manifest_path(asset, unit.shard).is_file():
                made.setdefault(asset, []).append(unit.shard)
    if not n_done:
        print(f"everything of experiment {experiment.name} is up to date ({seconds:.1f} s)")
    if "language_model" in made and shard is None:
        store.checked("language_model")
        warehouse.refresh(store, folder.outline(experiment.model), made, thorough=thorough)
        if {"cluster_members", "clusters", "token_shards"} <= set(made):
            _print_best(store, folder, made["token_shards"])
    if store.page().is_file():
        print(f"\nexplorer:  {store.page()}  (or make explore)", end="")
    print(f"\nartifacts: {store.root}\nSQL:       duckdb {store.warehouse()}\nlineage:   make ui")


def _print_best(store: Store, folder: LanguageModelFolder, shards: list[str | None]) -> None:
    for key in (("clusters",), ("cluster_members",), *(("token_shards", shard) for shard in shards)):
        store.checked(*key)
    table, members = (tables.scan(store.table(name)).collect() for name in ("clusters", "cluster_members"))
    contexts = pl.concat([tables.scan(store.table("token_shards", shard)).collect() for shard in shards])
    loaded = folder.outline(partitions.EXPERIMENT.model)
    texts = token_texts(loaded.tokenizer, loaded.model.vocabulary_size)
    print(f"\n{table.height} clusters; the ten of least conductance, with three of their tokens ⟦in context⟧:")
    for row in table.head(10).iter_rows(named=True):
        print(f"  cluster {row['cluster']}: {row['size']} tokens, conductance {row['conductance']:.3f}")
        for example in membership.examples(members, contexts, texts, cluster=row["cluster"], n_examples=3):
            print(f"    {visible(example.before)}⟦{visible(example.token)}⟧{visible(example.after)}")


def visible(text: str) -> str:
    """Text from a corpus on one line, with nothing in it that a terminal would obey."""
    return plain(text.replace("\n", "⏎").replace("\t", "⇥"))
