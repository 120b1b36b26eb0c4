"""Who does independent pieces of work: this process, or the workers of a Ray cluster. What the work is stays out.

The work is prepared once by everyone who takes part in it, for a model is large and items are many. Results come back to
this process, which alone writes to the store: workers need neither the store's disk nor its lock, nor any configuration
but the same code. What they send is small beside the time that it takes to compute (of a component of Pythia-1.4B, for
100,000 tokens and 400 draws, 0.3 GB).
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from susc_pipeline.config import ExecutionSettings
from susc_pipeline.model.pretrained import ModelSettings

MAX_LOSSES = 3
Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


class WorkerLostError(ValueError):
    """Workers died over one item so often that it is taken to be the item's doing."""


class Executor(Protocol):
    """Does independent pieces of work."""

    def held(self, settings: ModelSettings) -> ModelSettings:
        """How this process holds a model that is part of the work."""
        ...

    def map(
        self,
        prepare: Callable[[], Callable[[Item, Any], Result]],
        items: Sequence[Item],
        attach: Callable[[Item], Any] = lambda item: None,
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, as they are finished, in any order.

        Args:
            prepare: gives the function of an item and what is attached to it; called once by everyone who takes part.
            items: different from each other.
            attach: what this process, which alone has the store, hands over with an item.

        Raises:
            Exception: the first that the function raised; what others were at is finished and handed out before.
        """
        ...


def of(settings: ExecutionSettings) -> Executor:
    """The executor that the settings name."""
    return RayExecutor(settings) if settings.executor == "ray" else LocalExecutor(settings)


@dataclasses.dataclass(frozen=True)
class LocalExecutor:
    """This process, one item after another."""

    settings: ExecutionSettings

    def held(self, settings: ModelSettings) -> ModelSettings:
        """As it is computed with."""
        return settings

    def map(
        self,
        prepare: Callable[[], Callable[[Item, Any], Result]],
        items: Sequence[Item],
        attach: Callable[[Item], Any] = lambda item: None,
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, in their order."""
        if items:
            with _threads(self.settings.threads):
                function = prepare()
                for item in items:
                    yield item, function(item, attach(item))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class RayExecutor:
    """Workers of a Ray cluster, as many as it has room for; a lost one is replaced and its item done again."""

    settings: ExecutionSettings

    def held(self, settings: ModelSettings) -> ModelSettings:
        """In memory that every machine has; workers move it to their own device."""
        return dataclasses.replace(settings, device="cpu")

    def map(
        self,
        prepare: Callable[[], Callable[[Item, Any], Result]],
        items: Sequence[Item],
        attach: Callable[[Item], Any] = lambda item: None,
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, as they are finished.

        Raises:
            ValueError: no machine of the cluster has room for a worker, or runs other code than this one.
            WorkerLostError: workers died over one item again and again.
        """
        if items:
            with contextlib.closing(_Crew(prepare, self.settings)) as crew:
                yield from crew.work(items, attach)


class _Crew:
    """The workers of one piece of work."""

    def __init__(self, prepare: Callable[[], Any], settings: ExecutionSettings) -> None:
        self.ray = _connected(settings.address)
        n_threads = settings.threads or (1 if settings.gpu else torch.get_num_threads())
        self.n_workers = _room(self.ray.nodes(), n_threads, settings)
        needs = {"num_cpus": n_threads, "num_gpus": int(settings.gpu)}
        self.worker = self.ray.remote(_Worker).options(**needs)
        self.prepared = [self.ray.put(prepare)], n_threads, _code()
        self.doing: dict[
            Any, tuple[Any, Any]
        ] = {}  # what is awaited -> worker, and its item or, while it prepares, nothing

    def work(self, items: Sequence[Any], attach: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
        """Hand out the items, one to each worker that is ready, until all are done or one has failed."""
        waiting, losses, failure = deque(items), Counter(), None
        for _ in range(min(self.n_workers, len(items))):
            self._hire()
        while (waiting and not failure) or any(item is not None for _, item in self.doing.values()):
            (finished,), _ = self.ray.wait(list(self.doing), num_returns=1)
            worker, item = self.doing.pop(finished)
            try:
                result = self.ray.get(finished)
            except self.ray.exceptions.RayTaskError as error:  # what the function raised, or preparing it
                expected = isinstance(error.cause, ValueError)  # its message says all; of another the trace is wanted
                failure = failure or (error.cause if expected else error)
                continue
            except self.ray.exceptions.RayActorError as error:
                losses[item] += 1
                if losses[item] > MAX_LOSSES:
                    failure = failure or _lost(item, error)
                else:
                    waiting.extendleft([] if item is None else [item])
                    self._hire()
                continue
            if item is not None:
                yield item, result
            if waiting and not failure:
                taken = waiting.popleft()
                self.doing[worker.run.remote(taken, attach(taken))] = worker, taken
            else:
                self.ray.kill(worker)  # its CPUs or GPU are somebody else's now
        if failure:
            raise failure

    def _hire(self) -> None:
        worker = self.worker.remote()
        self.doing[worker.prepare.remote(*self.prepared)] = worker, None

    def close(self) -> None:
        """End the workers that are left, which frees their machines."""
        for worker, _ in self.doing.values():
            self.ray.kill(worker)


class _Worker:
    """Runs in a process of the cluster. Ray is handed this class itself, so that machines need susc_pipeline alone."""

    def prepare(self, shared: list[Any], n_threads: int, code: dict[str, str]) -> None:
        """Make ready for items."""
        found = _code()
        if found != code:
            raise ValueError(
                f"a worker on {os.uname().nodename} has {found}, this process {code}; numbers may differ between them: "
                f"install the same everywhere"
            )
        import ray  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(n_threads)
        self.function = cast(Any, ray.get(shared[0]))()

    def run(self, item: Any, attached: Any) -> Any:
        """The result of an item."""
        return self.function(item, attached)


def _code() -> dict[str, str]:
    """What decides numbers: the versions of the libraries that compute, and a digest of this package's source."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    spec, digest = importlib.util.find_spec("susc_pipeline"), hashlib.sha256()
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return {**found, "susc_pipeline": digest.hexdigest()[:12] if spec else "missing"}


def _lost(item: Any, error: Exception) -> WorkerLostError:
    what = "before it could begin" if item is None else f"at {item}"
    return WorkerLostError(
        f"{MAX_LOSSES + 1} Ray workers died {what}, the last one so: {' '.join(str(error).split())[:300]}; if they were "
        f"short of memory, lower sampling.evaluation_batch_size or raise execution.threads, so that fewer share a machine"
    )


def _room(nodes: list[dict[str, Any]], n_threads: int, settings: ExecutionSettings) -> int:
    """How many workers the machines of the cluster can hold.

    Raises:
        ValueError: none; Ray would wait for ever.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    by_cpu = [int(machine.get("CPU", 0) // n_threads) for machine in machines]
    by_gpu = [int(machine.get("GPU", 0)) for machine in machines]
    found = sum(min(pair) if settings.gpu else pair[0] for pair in zip(by_cpu, by_gpu))
    if not found:
        needs = f"{n_threads} CPUs" + " and a GPU" * settings.gpu
        has = ", ".join(f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in machines)
        raise ValueError(
            f"a Ray worker needs {needs}, but the machines of the cluster have {has or 'nothing'}; lower "
            f"execution.threads, set execution.gpu = false, or add machines"
        )
    return found


def _connected(address: str) -> Any:
    """Ray, connected to the cluster at the address, or to one of this process's own that ends with it.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray import cloudpickle  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "execution.executor 'ray' needs Ray; pip install 'susc-pipeline[ray]', or choose 'local'"
        ) from error
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    if not ray.is_initialized():
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", include_dashboard=False, **quiet)
        except (ConnectionError, RuntimeError) as error:
            raise ValueError(
                f"no Ray cluster answers at execution.address {address!r} ({error}); start one with `ray start --head`, or "
                f"leave the address empty"
            ) from error
    return ray
