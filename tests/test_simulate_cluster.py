"""The simulated cluster against what can be known without simulating; the tasks are those of the real definitions."""

import math

import numpy as np
import pytest

from assets import definitions, partitions, runner
from benchmarks import simulate_cluster
from benchmarks.simulate_cluster import Task, simulate


def random_tasks(seed, n_tasks=60):
    rng = np.random.default_rng(seed)
    needs = [rng.choice(number, size=min(number, rng.integers(0, 4)), replace=False) for number in range(n_tasks)]
    return [Task(str(number), rng.exponential(10.0), tuple(map(int, before))) for number, before in enumerate(needs)]


@pytest.mark.parametrize("machines", [1, 3, 7, 100])
def test_equal_tasks_that_need_nothing_run_in_rounds(machines):
    found = simulate([Task(str(number), 5.0) for number in range(20)], machines)
    assert found.makespan == 5.0 * math.ceil(20 / machines) and found.lost == 0 and found.failures == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_makespan_lies_between_the_bounds_of_graham(seed):
    tasks = random_tasks(seed)
    work, longest = sum(task.seconds for task in tasks), simulate_cluster.critical_path(tasks).max()
    for machines in (1, 2, 5, 20):
        found = simulate(tasks, machines)
        assert max(work / machines, longest) <= found.makespan * (1 + 1e-9)
        assert found.makespan <= (work / machines + (1 - 1 / machines) * longest) * (1 + 1e-9)
        assert found.utilisation == pytest.approx(work / machines / found.makespan)
    assert simulate(tasks, 1).makespan == pytest.approx(work)
    assert simulate(tasks, len(tasks)).makespan == pytest.approx(longest)


def test_a_chain_of_tasks_takes_the_sum_however_many_machines_there_are():
    tasks = [Task(str(number), 2.0, (number - 1,) if number else ()) for number in range(10)]
    assert simulate(tasks, 8).makespan == 20.0


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_failures_cost_what_the_closed_form_says(share):
    """A task of length t, begun anew at each failure: (1/rate + repair) (exp(rate t) - 1) seconds on one machine."""
    length, repair, n_tasks = 100.0, 30.0, 4000
    rate = share / length
    tasks = [Task(str(number), length) for number in range(n_tasks)]
    found = simulate(tasks, 1, between_failures=1 / rate, repair=repair, rng=np.random.default_rng(0))
    expected = (1 / rate + repair) * math.expm1(rate * length)
    error = math.sqrt(math.exp(2 * share) - 1 - 2 * share * math.exp(share)) / rate + repair * math.exp(share)
    assert found.makespan / n_tasks == pytest.approx(expected, abs=4 * error / math.sqrt(n_tasks))
    if share < 0.1:  # to first order half a task is lost at each failure, and the machine is away
        assert found.makespan / n_tasks == pytest.approx(length + share * (length / 2 + repair), rel=0.01)
    assert found.lost <= found.failures * length
    assert found.failures == pytest.approx(n_tasks * math.expm1(share), rel=0.35 if share < 0.1 else 0.1)


def test_more_failures_never_help_and_all_work_is_done():
    tasks = random_tasks(1)
    times = [
        simulate(tasks, 3, between_failures=b, repair=5.0, rng=np.random.default_rng(2)) for b in (np.inf, 300.0, 30.0)
    ]
    assert (
        times[0].makespan < times[1].makespan < times[2].makespan and times[0].lost == 0 < times[1].lost < times[2].lost
    )


def test_the_real_definitions_become_one_task_a_shard_and_one_a_component():
    seconds = dict.fromkeys(
        (key.to_user_string() for key in definitions.defs.resolve_asset_graph().get_all_asset_keys()), 1.0
    )
    units = list(runner.units(definitions.defs, [], None))
    tasks = simulate_cluster.tasks_of(definitions.defs, units, seconds, 22)
    names = [task.name for task in tasks]
    n_sampled = sum(unit.assets == ("sgld_samples",) for unit in units)
    ground_truth = partitions.GROUND_TRUTH_SHARDS.get_partition_keys()
    assert n_sampled == len(ground_truth) and len(tasks) == len(units) + 22 * (n_sampled + 1)
    assert len(set(names)) == len(names)
    assert all(need < number for number, task in enumerate(tasks) for need in task.needs)
    by_name = {task.name: {names[need] for need in task.needs} for task in tasks}
    assert by_name["token_shards shard-00004"] == {"language_model", "corpus_documents"}
    assert by_name["pca_basis"] == {
        f"chain_products + ground_truth_susceptibilities {shard}" for shard in ground_truth[:-1]
    }
    assert len(by_name["whitening_basis"]) == len(partitions.SHARDS.get_partition_keys())
