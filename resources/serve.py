"""Serves an experiment's explorer on loopback: `python -m resources.serve --experiment tiny`."""

import argparse
import functools
import http.server
import sys

from resources import experiment as experiments

ADDRESS = "127.0.0.1"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files of the site and nothing else; a request is not worth a line."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; 1 where there is no site yet."""
    parser = argparse.ArgumentParser(prog="python -m resources.serve", description=__doc__)
    parser.add_argument("--experiment", help="name of an experiment, or the path of a TOML file (default: tiny)")
    parser.add_argument("--port", type=int, default=0, help="port on loopback (default: a free one)")
    options = parser.parse_args(arguments)
    experiment = experiments.load(options.experiment)
    store = experiments.store(experiment)
    page = store.page()
    store.refresh()
    if store.remote and store.manifest("explorer"):
        store.checked("explorer")
    if not page.is_file():
        print(f"error: {page} is missing; make run EXPERIMENT={experiment.name} writes it", file=sys.stderr)
        return 1
    handler = functools.partial(QuietHandler, directory=str(page.parent))
    with http.server.ThreadingHTTPServer((ADDRESS, options.port), handler) as server:
        print(f"http://{ADDRESS}:{server.server_port}/  (or open {page} itself); Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
