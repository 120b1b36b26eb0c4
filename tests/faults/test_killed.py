"""SIGKILL of the run that makes an asset: run again, the store is as if nothing had happened.

`make test-faults` tries an asset of each kind, `make test-faults-slow` all of them.

The moments are seeded fractions of an uninterrupted run, in time and, as writing takes little of it, in file operations.
"""

import collections

import pytest

import trials

pytestmark = pytest.mark.faults
N_FILE_MOMENTS = -(-trials.N_MOMENTS // 2)


@pytest.mark.parametrize("assets", trials.units_tried(), ids="+".join)
def test_a_killed_run_costs_nothing_but_what_it_had_not_finished(world, assets):
    name = "+".join(assets)
    world.restore(without=assets)
    whole = world.process.run("--experiment", world.toml)
    assert whole.status == 0, whole.output[-3000:]
    assert not world.differences(), "an uninterrupted run gives other bytes"
    tried = [{"kill_after": share * whole.seconds} for share in trials.moments(name, trials.N_MOMENTS)]
    tried += [{"kill_at": int(share * whole.n_events)} for share in trials.moments(f"{name} files", N_FILE_MOMENTS)]
    count = collections.Counter(moments=len(tried))
    for how in tried:
        world.restore(without=assets)
        killed = world.process.run("--experiment", world.toml, **how)
        assert killed.status in (-9, 0), (how, killed.output[-3000:])
        kept, components = trials.finished(world.store, assets)
        left = len(world.temporaries())
        again = world.process.run("--experiment", world.toml)
        assert again.status == 0, (how, again.output[-3000:])
        assert not world.differences(), (how, world.differences())
        assert not world.temporaries(), (how, world.temporaries())
        made = set(trials.made(again.output))
        assert not kept & made, (how, "made again though it was finished")
        changed = [path for path, number in components.items() if path.stat().st_ino != number]
        assert not changed, (how, "sampled again though it was whole")
        count.update(killed=killed.status == -9, left_temporary_folders=left, finished_kept=len(kept), made=len(made))
        if {"sgld_samples", "response_directions"} & set(assets):
            count.update(components_kept=len(components))
    assert count["killed"], "no moment fell into the run"
    trials.record("killed", name, **count)
