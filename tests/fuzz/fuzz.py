"""Coverage-guided fuzzing of every reader of outside data: `python tests/fuzz/fuzz.py TARGET [libFuzzer options]`.

Each target of tests/fuzz_targets.py hands bytes to a reader, which must give a value or raise its documented error with a
remedy in it; anything else, ten seconds for one input or two gigabytes of memory is a finding, and its input is kept.
`all` runs every target for `--seconds` each. What was found once lies in tests/fuzz/found and is tried again each time.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
for place in (HERE.parent.parent, HERE.parent):
    sys.path.insert(0, str(place))
with atheris.instrument_imports(include=["susc_pipeline", "resources", "json", "tomllib"]):
    import fuzz_targets
    from fuzz_targets import TARGETS
LIMITS = ["-timeout=10", "-rss_limit_mb=2500", "-print_final_stats=1"]


def fuzz(name: str, options: list[str], findings: Path) -> None:
    """Fuzz one target until its time is over, or something is found."""
    target = TARGETS[name]
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, seeds = Path(temporary) / "folder", Path(temporary) / "seeds"
        folder.mkdir()
        seeds.mkdir()
        target.make(folder)
        (seeds / "whole").write_bytes((folder / target.file).read_bytes())
        places = [f"-artifact_prefix={findings}/{name}-", str(seeds), str(HERE / "found")]
        atheris.Setup(
            [sys.argv[0], *LIMITS, *options, *places], lambda content: fuzz_targets.holds(target, folder, content)
        )
        atheris.Fuzz()


def fuzz_all(seconds: int, findings: Path) -> int:
    """Fuzz every target in a process of its own; the number of those with a finding."""
    n_failed = 0
    for name in TARGETS:
        command = [sys.executable, __file__, name, "--seconds", str(seconds), "--findings", str(findings)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        counts = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        verdict = f"a finding:\n{done.stderr[-3000:]}" if done.returncode else "nothing found"
        print(f"{name}: {counts[-1] if counts else '?'} inputs, {verdict}", flush=True)
        n_failed += done.returncode != 0
    return n_failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["all", *TARGETS])
    parser.add_argument("--seconds", type=int, default=60, help="time of each target")
    parser.add_argument("--findings", type=Path, default=HERE.parent.parent / "build" / "fuzz")
    options, others = parser.parse_known_args()
    if options.target == "all":
        return min(1, fuzz_all(options.seconds, options.findings))
    fuzz(options.target, [f"-max_total_time={options.seconds}", *others], options.findings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
