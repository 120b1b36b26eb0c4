"""An edit of the experiment's file, told to Dagster's web server, which then reloads the definitions as by its own button."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

LOCATION = "susc_pipeline"  # the name that workspace.yaml gives
RELOAD = "mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"


def stamp(file: Path) -> tuple[int, int] | None:
    """Time and size of a file; None while it is not there, as when an editor replaces it."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def reload(address: str) -> bool:
    """Whether the web server took the request; it shows by itself what came of it."""
    body = json.dumps({"query": RELOAD, "variables": {"name": LOCATION}}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return "errors" not in json.load(response)
    except (OSError, ValueError):
        return False


def watch(file: Path, address: str, server: int, interval: float = 1.0) -> None:
    """Ask for a reload after each edit of a file, until the process `server`, which began this one, has ended."""
    seen = stamp(file)
    while os.getppid() == server:
        time.sleep(interval)
        now = stamp(file)
        if now not in (seen, None) and reload(address):
            seen = now


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2], os.getppid())
