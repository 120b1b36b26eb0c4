"""The Slurm example, with a stand-in for sbatch that runs each task at once: the chain of stages makes every artifact."""

import os
import subprocess
import sys
from pathlib import Path

import conftest
import dagster as dg
import pytest

from assets import definitions, runner

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


def test_each_stage_reads_only_what_it_or_a_stage_before_it_makes():
    graph, made = definitions.defs.resolve_asset_graph(), set()
    script = (CHECKOUT / "deploy" / "slurm" / "submit.sh").read_text()
    for line in (line for line in script.splitlines() if line.startswith("submit ")):
        nodes = [graph.get(dg.AssetKey(name)) for name in line.split(" -- ")[1].split()]
        made |= {key for node in nodes for key in node.execution_set_asset_keys}
        read = {parent for node in nodes for parent in node.parent_keys}
        early = {key.to_user_string() for key in read - made if not runner.is_on_request(graph.get(key).tags)}
        assert not early, line
    wanted = {key for key in graph.get_all_asset_keys() if not runner.is_on_request(graph.get(key).tags)}
    assert {key.to_user_string() for key in wanted ^ made} == set()


@pytest.mark.slow
def test_the_chain_makes_every_artifact_and_leaves_no_history(toy_folders, tmp_path):
    toml = conftest.write_toml(tmp_path / "toy.toml", *toy_folders)
    fewer = (
        toml.read_text()
        .replace("n_shards = 5\n", "n_shards = 2\n")
        .replace("n_ground_truth_shards = 3", "n_ground_truth_shards = 2")
    )
    toml.write_text(fewer)  # each task starts Python anew
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
    verify = [sys.executable, "-m", "assets.cli", "verify", "--experiment", str(toml)]
    checked = subprocess.run(verify, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert "warehouse" in checked.stdout or checked.returncode == 0
    assert "missing" not in checked.stdout.replace("missing    warehouse", "") and "stale" not in checked.stdout
