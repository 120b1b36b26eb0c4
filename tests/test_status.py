"""How far an experiment is: what is held, and what a line says."""

import subprocess
import sys
from collections import Counter

from assets import states
from resources import locks
from resources.storage import Store


def test_a_lock_is_seen_while_it_is_held_and_not_after_its_holder_was_killed(tmp_path):
    store = Store(tmp_path / "toy")
    assert not store.is_held("clusters")
    with store.lock("clusters"):
        assert store.is_held("clusters") and not store.is_held("clusters", "shard-00000")
    assert not store.is_held("clusters")
    path = tmp_path / "killed.lock"
    program = (
        "import os, pathlib, signal\nfrom resources import locks\n"
        f"with locks.held(pathlib.Path({str(path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode != 0
    assert path.read_bytes() and not locks.is_held(path)


def test_a_line_counts_states_in_order_and_leaves_out_what_there_is_none_of():
    line = states.Line("linear_response", Counter({"missing": 2, "current": 20}), 73.4)
    assert states.written(line).split() == ["linear_response", "20", "current,", "2", "missing", "73", "s"]
    assert states.written(states.Line("clusters", Counter(missing=1), None)).split() == ["clusters", "1", "missing"]
