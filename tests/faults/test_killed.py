"""SIGKILL of the run that makes an asset, for every asset: run again, the store is as if nothing had happened.

The moments are seeded fractions of an uninterrupted run, in time and, as writing takes little of it, in file operations.
"""

import pytest

import trials

pytestmark = pytest.mark.faults
UNITS = trials.unit_names()


@pytest.fixture(scope="module")
def counts():
    """What is counted for each asset; written beside if all moments of the slow target were tried."""
    return {}


@pytest.mark.parametrize("assets", UNITS, ids="+".join)
def test_a_killed_run_costs_nothing_but_what_it_had_not_finished(world, assets, n_moments, counts):
    name = "+".join(assets)
    world.restore(without=assets)
    whole = world.process.run("--experiment", world.toml)
    assert whole.status == 0, whole.output[-3000:]
    assert not world.differences(), "an uninterrupted run gives other bytes"
    count = {"trials": 0, "killed": 0, "units_kept": 0, "units_made_again": 0, "components_kept": 0}
    tried = [{"kill_after": f * whole.seconds} for f in trials.moments(name, n_moments)]
    tried += [{"kill_at": int(f * whole.n_events)} for f in trials.moments(name + " files", n_moments)]
    for how in tried:
        world.restore(without=assets)
        first = world.process.run("--experiment", world.toml, **how)
        assert first.status in (-9, 0), (how, first.output[-3000:])
        kept, components = trials.finished(world.store, assets)
        again = world.process.run("--experiment", world.toml)
        assert again.status == 0, (how, again.output[-3000:])
        assert not world.differences(), (how, world.differences())
        assert not world.temporaries(), (how, world.temporaries())
        repeated = kept & set(trials.made(again.output))
        assert not repeated, (how, repeated)
        changed = [path for path, number in components.items() if path.stat().st_ino != number]
        assert not changed, (how, changed)
        count["trials"] += 1
        count["killed"] += first.status == -9
        count["units_kept"] += len(kept)
        count["units_made_again"] += len(set(trials.made(again.output)))
        count["components_kept"] += len(components) if "sgld_samples" in assets else 0
    counts[name] = count
    assert count["killed"], "no moment fell into the run"
