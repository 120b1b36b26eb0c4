"""The fuzzer's targets read whole files, and what it once found is refused as it should be."""

from pathlib import Path

import pytest

import fuzz_targets
from fuzz_targets import TARGETS

FOUND = sorted((Path(__file__).parent / "fuzz" / "found").iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_a_whole_file_is_read_and_past_findings_obey_the_law(tmp_path, name):
    target = TARGETS[name]
    target.make(tmp_path)
    assert fuzz_targets.holds(target, tmp_path, (tmp_path / target.file).read_bytes()) is not None
    for path in FOUND:
        fuzz_targets.holds(target, tmp_path, path.read_bytes())
