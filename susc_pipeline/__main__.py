"""The `susc-pipeline` command: hands over to the application of a checkout, which this package knows nothing of but its place.

Only the package is installed; assets/ and resources/ are run from the checkout beside it, or from the working directory.
"""

import os
import sys
from pathlib import Path

COMMANDS = {
    "init": ("resources.new_experiment", "write an experiment that fits your model, your text and your hours"),
    "run": ("assets.run", "materialize everything that is not up to date"),
    "status": ("assets.status", "say how far an experiment is: current, stale, missing, being made"),
    "verify": ("assets.verify", "check a store: what is missing, stale, corrupt, foreign or left over"),
    "gc": ("resources.garbage", "list what no manifest names, and remove it with --yes"),
    "explore": ("resources.serve", "serve the explorer on loopback"),
    "report": ("resources.report", "write the figures of a finished run, or check those that are written"),
    "price": ("resources.price", "what an experiment takes: hours, disk and memory of each asset"),
    "check-model": (
        "resources.check_model",
        "is a model computed as transformers computes it, and what are its components",
    ),
}


def main() -> int:
    """Run a command of the checkout in place of this process; 2 where there is no such command or no checkout."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        print(
            "usage: susc-pipeline COMMAND [--help]\n",
            *(f"  {n:12} {text}" for n, (_, text) in COMMANDS.items()),
            sep="\n",
        )
        return 0 if name in ("-h", "--help") else 2
    checkout = find_checkout([Path(__file__).resolve().parent.parent, Path.cwd()])
    if checkout is None:
        print("error: no checkout of susc-pipeline here; change into one", file=sys.stderr)
        return 2
    path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(sys.executable, [sys.executable, "-m", COMMANDS[name][0], *arguments], os.environ | {"PYTHONPATH": path})


def find_checkout(places: list[Path]) -> Path | None:
    """The first of these folders that holds the application."""
    return next((place for place in places if (place / "assets" / "definitions.py").is_file()), None)


if __name__ == "__main__":
    sys.exit(main())
