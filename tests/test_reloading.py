"""The watcher of the experiment's file: one request for each edit, and none is lost while the server is not up."""

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from assets import reloading

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def server():
    """A web server that notes the locations that it is asked to reload; its first answer is an error."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["variables"]["name"])
            self.send_response(200 if len(asked) > 1 else 503)
            self.end_headers()
            self.wfile.write(b'{"data": {}}')

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}", asked
        made.shutdown()


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_each_edit_asks_once_and_is_asked_again_where_it_was_not_heard(server, tmp_path):
    address, asked = server
    file = tmp_path / "mine.toml"
    file.write_text("a = 1\n")
    process = subprocess.Popen([sys.executable, "-m", "assets.reloading", str(file), address], cwd=CHECKOUT)
    try:
        time.sleep(3)
        assert asked == []
        file.unlink()  # as an editor does that writes another file in its place
        time.sleep(1.5)
        file.write_text("a = 22\n")
        wait_for(lambda: len(asked) == 2)
        time.sleep(3)
        assert asked == [reloading.LOCATION] * 2
    finally:
        process.kill()
        process.wait()


def test_it_ends_with_the_process_that_began_it(server, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("a = 1\n")
    command = [sys.executable, "-m", "assets.reloading", str(file), server[0]]
    begin = f"import subprocess, time; print(subprocess.Popen({command}).pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", begin], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    watcher = psutil.Process(int(parent.stdout.readline()))
    time.sleep(2)
    assert watcher.is_running()
    parent.kill()
    parent.wait()
    wait_for(lambda: not watcher.is_running() or watcher.status() == psutil.STATUS_ZOMBIE)


def test_the_name_is_that_of_the_workspace():
    assert f"location_name: {reloading.LOCATION}" in (CHECKOUT / "workspace.yaml").read_text()
