"""Two runs of the same unit at once: one makes it, the other says so; and a clock that goes backwards changes nothing."""

import concurrent.futures
import subprocess

import pytest

import trials
import warm

pytestmark = pytest.mark.faults
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
#include <stdlib.h>
/* The time of day runs backwards, ten seconds for each that passes; clocks that only measure durations are left alone. */
static int (*real)(clockid_t, struct timespec *);
static struct timespec first;
__attribute__((constructor)) static void begin(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_REALTIME, &first);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int status = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec = first.tv_sec - 10 * (now->tv_sec - first.tv_sec);
    return status;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec; now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *place) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (place) *place = found.tv_sec;
    return found.tv_sec;
}
"""


@pytest.fixture(scope="module")
def rival(world):
    """A second warm process on the same store and the same Dagster home."""
    process = warm.Warm(world.toml, world.store.root.parent, world.toml.parent / "dagster", log="rival.txt")
    yield process
    process.close()


@pytest.mark.parametrize("assets", trials.units_tried("race"), ids="+".join)
def test_of_two_runs_of_the_same_asset_one_makes_it_and_the_other_says_so(world, rival, assets):
    world.restore(without=assets)
    arguments = ("--experiment", world.toml, "--select", *assets)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(process.run, *arguments) for process in (world.process, rival)]
    ended = [run.result() for run in runs]
    assert 0 in [run.status for run in ended], [run.output[-2000:] for run in ended]
    made = [unit for run in ended for unit in trials.made(run.output)]
    assert len(made) == len(set(made)), "made twice"
    for run in ended:
        said = "is being materialized by another run (process" in run.output
        assert run.status == 0 or (run.status == 1 and said), run.output[-2000:]
    assert world.process.run("--experiment", world.toml).status == 0
    assert not world.differences() and not world.temporaries()
    trials.record("race", "+".join(assets), made_by_one=len(made), refused=[run.status for run in ended].count(1))


def test_a_clock_that_runs_backwards_changes_nothing(world, tmp_path):
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no gcc to build the clock with")
    home = world.toml.parent / "dagster"
    process = warm.Warm(world.toml, world.store.root.parent, home, log="clock.txt", LD_PRELOAD=str(library))
    try:
        for assets in trials.units_tried("clock"):
            world.restore(without=assets)
            killed = process.run("--experiment", world.toml, kill_at=20)
            assert killed.status in (-9, 0), killed.output[-2000:]
            again = process.run("--experiment", world.toml)
            assert again.status == 0, again.output[-3000:]
            assert not world.differences() and not world.temporaries(), assets
            done = process.run("--experiment", world.toml)
            assert done.status == 0 and not trials.made(done.output), "not all was current"
            trials.record("clock backwards", "+".join(assets), killed=killed.status == -9, same=True)
    finally:
        process.close()
