"""Independent work, here or on a real Ray cluster of several worker processes: the same results, whoever dies meanwhile."""

import dataclasses
import functools
import os
import signal
import time

import numpy as np
import pytest
import torch

import toys
from resources import executor as executors
from resources.executor import WorkerLostError
from susc_pipeline import seeds
from susc_pipeline.config import ExecutionSettings
from susc_pipeline.model import components, decoder_weights, families
from susc_pipeline.sampling import chains, token_draws
from susc_pipeline.sampling import task as tasks
from susc_pipeline.sampling.observables import Population
from susc_pipeline.sampling.posterior import SamplingSettings

SETTINGS = SamplingSettings(
    step_size=0.5, n_chains=4, n_draws=3, n_burn_in=1, n_steps_between_draws=1, batch_size=2, localization=50.0
)
LOCAL = executors.of(ExecutionSettings())


@pytest.fixture(scope="module")
def task():
    population = Population(tuple(toys.toy_tokens(5, seed=chain + 1) for chain in range(SETTINGS.n_chains)))
    contexts = {"shard": toys.toy_tokens(6), "population": population}
    model = families.from_module(toys.toy_module())
    return tasks.SamplingTask(
        model,
        "cpu",
        SETTINGS,
        **contexts,
        own_slopes=True,
        slopes=True,
        responses=True,
        seed=7,
        names=("sgld_samples", "shard-00000"),
    )


def direction_of(model, component):
    """Something that only this process has, to be handed over with the component."""
    rng = np.random.default_rng(component.layer + 1)
    direction = rng.normal(size=(SETTINGS.n_chains, components.n_parameters(model, component))).astype(np.float32)
    return tasks.Directed(
        SETTINGS.localization * (2 + component.layer), 1.0, direction
    )  # of the embedding the layer is -1


@pytest.fixture(scope="module")
def ray_executor():
    """An executor on a cluster of two machines, processes of this one, with room for two workers each."""
    pytest.importorskip("ray", reason="install the extra `ray` to test workers")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    yield executors.of(ExecutionSettings(executor="ray", address=cluster.address, threads=1))
    import ray

    ray.shutdown()
    cluster.shutdown()


def squares():
    return lambda number, _: number**2


def test_items_come_in_order_and_work_is_prepared_once_or_not_at_all():
    prepared = []
    prepare = lambda: prepared.append(1) or squares()  # noqa: E731
    assert list(LOCAL.map(prepare, [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)] and prepared == [1]
    assert list(LOCAL.map(prepare, [])) == [] and prepared == [1]


def test_what_is_attached_to_an_item_is_asked_for_when_its_turn_comes():
    asked = []

    def attach(item):
        asked.append(item)
        return 10 * item

    found = LOCAL.map(lambda: lambda item, attached: item + attached, [3, 1], attach)
    assert next(found) == (3, 33) and asked == [3]
    assert list(found) == [(1, 11)] and asked == [3, 1]
    assert list(LOCAL.map(lambda: lambda item, attached: attached, [1])) == [(1, None)]


def test_the_number_of_threads_holds_for_the_work_and_no_longer():
    before = torch.get_num_threads()
    executor = executors.of(ExecutionSettings(threads=before + 1))
    assert dict(executor.map(lambda: lambda *_: torch.get_num_threads(), ["item"])) == {"item": before + 1}
    with pytest.raises(ZeroDivisionError):
        list(executor.map(lambda: lambda item, _: 1 / item, [0]))
    assert torch.get_num_threads() == before


def test_a_task_samples_what_its_seed_and_contexts_say(task):
    model, component = task.model, components.Component("head", 1, 0)
    directed = direction_of(model, component)
    settings = dataclasses.replace(SETTINGS, localization=directed.localization)
    seed = seeds.sequence(7, "sgld_samples", "shard-00000", "L1H0")
    options = {"direction": torch.as_tensor(directed.direction), "own_slopes": True, "responses": True}
    by_hand = token_draws.sample(model, component, settings, task.shard, task.population, seed, **options)
    by_task = tasks.sampler(task)(component, directed)
    assert all(np.array_equal(a, b) for a, b in zip(by_hand, by_task, strict=True))


def test_chains_of_all_weights_have_no_mirror_images(task):
    everything = tasks.sampler(task)(components.ALL_WEIGHTS, None)
    assert not everything.mirror.any() and not everything.own_slopes.size


def test_a_moved_model_has_all_its_weights_there_and_none_is_copied_without_need(task):
    names = decoder_weights.named_weights(task.model).keys()
    moved, stayed = (
        decoder_weights.named_weights(decoder_weights.to(task.model, "meta")),
        decoder_weights.to(task.model, "cpu"),
    )
    assert moved.keys() == names and {weight.device.type for weight in moved.values()} == {"meta"}
    assert all(
        decoder_weights.named_weights(stayed)[name] is decoder_weights.named_weights(task.model)[name] for name in names
    )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_workers_sample_what_this_process_samples_to_the_bit(task, ray_executor, threads):
    settings = dataclasses.replace(ray_executor.settings, threads=threads)
    found = components.enumerate_components(task.model)
    prepare = functools.partial(tasks.sampler, task)
    attach = functools.partial(direction_of, task.model)
    here = dict(executors.of(dataclasses.replace(settings, executor="local")).map(prepare, found, attach))
    there = dict(executors.of(settings).map(prepare, found, attach))
    assert set(here) == set(there) == set(found)
    for component in found:
        assert all(np.array_equal(a, b) for a, b in zip(here[component], there[component], strict=True)), component


def working(folder, seconds=0.0):
    """Squares, by a function that says in a file who does what, and takes its time."""

    def prepare():
        def work(item, _):
            (folder / f"{item}-{os.getpid()}").touch()
            time.sleep(seconds)
            return item**2

        return work

    return prepare


def meeting(folder, act):
    """Items, by a function that waits until all four workers are at something, and then acts."""

    def prepare():
        def work(item, _):
            (folder / str(item)).touch()
            while len(list(folder.iterdir())) < 4:
                time.sleep(0.1)
            act(item)
            return item

        return work

    return prepare


@pytest.mark.slow
def test_four_workers_share_the_items(ray_executor, tmp_path):
    begun, at_work = tmp_path / "begun", tmp_path / "at_work"
    begun.mkdir()
    at_work.mkdir()
    shared = meeting(begun, lambda item: (at_work / str(os.getpid())).touch())
    assert dict(ray_executor.map(shared, range(12))) == {n: n for n in range(12)}
    workers = {path.name for path in at_work.iterdir()}
    assert len(workers) == 4 and str(os.getpid()) not in workers


@pytest.mark.slow
def test_what_a_killed_worker_was_at_is_done_by_another(ray_executor, tmp_path):
    found, killed = {}, None
    for item, result in ray_executor.map(working(tmp_path, 1.0), range(8)):
        found[item] = result
        # Of those begun less than half a second ago none is about to end; there may be none when the first results come.
        begun = [path.name for path in tmp_path.iterdir() if time.time() - path.stat().st_mtime < 0.5]
        at_work = [name for name in begun if int(name.partition("-")[0]) not in found]
        if killed is None and at_work:
            killed, pid = map(int, at_work[0].split("-"))
            os.kill(pid, signal.SIGKILL)
    assert found == {n: n**2 for n in range(8)}
    assert len(list(tmp_path.glob(f"{killed}-*"))) == 2


@pytest.mark.slow
def test_an_item_that_kills_every_worker_is_named_and_the_others_are_handed_out(ray_executor, tmp_path):
    def act(item):
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    found = []
    with pytest.raises(
        WorkerLostError, match=r"4 Ray workers died at 1, the last one so: .*; if they were short of memory"
    ):
        found.extend(ray_executor.map(meeting(tmp_path, act), range(4)))
    assert {item for item, _ in found} == {0, 2, 3}


@pytest.mark.slow
def test_an_error_is_that_of_this_process_and_what_others_were_at_is_handed_out(ray_executor, tmp_path):
    def act(item):
        if item == 1:
            raise chains.ChainDivergedError(f"chain 0 of L0H{item} diverged")
        time.sleep(1)

    found = []
    with pytest.raises(ValueError) as raised:
        found.extend(ray_executor.map(meeting(tmp_path, act), range(100)))
    assert type(raised.value) is chains.ChainDivergedError and str(raised.value) == "chain 0 of L0H1 diverged"
    assert {item for item, _ in found} == {0, 2, 3}


@pytest.mark.slow
def test_an_error_in_preparing_ends_the_work(ray_executor):
    with pytest.raises(ValueError, match="no such model"):
        list(ray_executor.map(lambda: (_ for _ in ()).throw(ValueError("no such model")), range(4)))


@pytest.mark.slow
@pytest.mark.parametrize("needs", [{"threads": 3}, {"threads": 1, "gpu": True}])
def test_workers_that_no_machine_can_hold_are_refused(ray_executor, needs):
    settings = dataclasses.replace(ray_executor.settings, **needs)
    with pytest.raises(
        ValueError, match=r"the machines of the cluster have 2 CPUs and 0 GPUs, 2 CPUs and 0 GPUs; lower"
    ):
        list(executors.of(settings).map(squares, [1]))


@pytest.mark.slow
def test_workers_with_other_code_are_refused(ray_executor, monkeypatch):
    real, driver = executors._code, os.getpid()
    monkeypatch.setattr(executors, "_code", lambda: real() | ({"torch": "0.1"} if os.getpid() == driver else {}))
    with pytest.raises(ValueError, match=r"numbers may differ between them: install the same everywhere"):
        list(ray_executor.map(squares, [1]))
