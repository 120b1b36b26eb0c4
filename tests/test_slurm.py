"""The Slurm example, with a stand-in for sbatch that runs each task at once: the chain of stages makes every artifact."""

import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).resolve().parent.parent
# Runs the tasks of a job in turn, as Slurm would with the same environment, and prints a number that --dependency must name.
SBATCH = """#!/usr/bin/env bash
set -euo pipefail
last=$(cat "$STAND_IN/last" 2>/dev/null || true); tasks=none; named=
while [[ $1 == --* ]]; do
    case $1 in --array=*) tasks=$(seq "$(sed 's/--array=//; s/-/ /' <<<"$1" | cut -d' ' -f1)" "${1##*-}") ;;
        --dependency=afterok:*) named=${1##*:} ;; esac
    shift
done
[ "$named" = "$last" ]
script=$1; shift
number=$((${last:-0} + 1))
for task in $tasks; do
    export SLURM_JOB_ID=$number-$task SLURM_SUBMIT_DIR=$PWD SLURM_CPUS_PER_TASK=1
    if [ "$task" = none ]; then unset SLURM_ARRAY_TASK_ID; else export SLURM_ARRAY_TASK_ID=$task; fi
    bash "$script" "$@" >>"$STAND_IN/log" 2>&1
done
echo "$number" | tee "$STAND_IN/last"
"""


def test_the_chain_makes_every_artifact_and_leaves_no_history(toy_folders, tmp_path):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
        "STAND_IN": str(tmp_path),
        "SUSC_EXPERIMENT": str(toml),
        "SUSC_STORE": str(tmp_path / "data"),
        "TMPDIR": str(tmp_path),
    }
    command = ["bash", "deploy/slurm/submit.sh"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()[-3000:]
    assert not list(tmp_path.glob("dagster-*"))
    verify = [sys.executable, "-m", "assets.verify", "--experiment", str(toml)]
    checked = subprocess.run(verify, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert "warehouse" in checked.stdout or checked.returncode == 0
    assert "missing" not in checked.stdout.replace("missing    warehouse", "") and "stale" not in checked.stdout
