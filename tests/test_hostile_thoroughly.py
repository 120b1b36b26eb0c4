"""The laws of hostile input again, for thousands of random examples each instead of some dozens that are always the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAWS = sorted(path for path in Path(__file__).parent.glob("test_hostile_*.py") if path != Path(__file__))


@pytest.mark.slow
@pytest.mark.parametrize("laws", LAWS, ids=lambda path: path.stem)
def test_laws_hold_for_many_more_examples(laws):
    environment = os.environ | {"HYPOTHESIS_PROFILE": "thorough"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(laws)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
