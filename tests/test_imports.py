"""What loading the definitions imports: every run, the UI's server and each of its refreshes pays for it."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LATE = {"arviz_stats", "duckdb", "matplotlib", "pandas", "pyarrow", "scipy.stats", "sklearn", "transformers", "umap"}


def test_the_definitions_load_no_library_that_only_some_assets_need():
    code = "import sys, assets.definitions; print(*sys.modules)"
    environment = {"PYTHONPATH": str(CHECKOUT), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not LATE & set(done.stdout.split())
