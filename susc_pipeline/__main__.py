"""The `susc-pipeline` command: hands over to the application of a checkout, which this package knows nothing of but its place.

Only the package is installed; assets/ and resources/ are run from the checkout beside it, or from the working directory.
"""

import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command line of the checkout in place of this process; 2 where there is no checkout."""
    checkout = find_checkout([Path(__file__).resolve().parent.parent, Path.cwd()])
    if checkout is None:
        print("error: no checkout of susc-pipeline here; change into one", file=sys.stderr)
        return 2
    path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(sys.executable, [sys.executable, "-m", "assets.cli", *sys.argv[1:]], os.environ | {"PYTHONPATH": path})


def find_checkout(places: list[Path]) -> Path | None:
    """The first of these folders that holds the application."""
    return next((place for place in places if (place / "assets" / "definitions.py").is_file()), None)


if __name__ == "__main__":
    sys.exit(main())
