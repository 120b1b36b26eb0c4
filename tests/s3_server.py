"""An S3 server on loopback (moto's), which may refuse some requests as a busy one does."""

import contextlib
import threading

import numpy as np
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

BUSY = "<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Busy:
    """A WSGI application that answers 503 to a share of the requests, and counts both."""

    def __init__(self, application, share, seed=0):
        self.application, self.share = application, share
        self.rng, self.lock = np.random.default_rng(seed), threading.Lock()
        self.n_requests = self.n_refused = 0

    def __call__(self, environ, start_response):
        with self.lock:
            refused = self.rng.random() < self.share
            self.n_requests += 1
            self.n_refused += refused
        if not refused:
            return self.application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        return Response(BUSY, 503, content_type="application/xml")(environ, start_response)


@contextlib.contextmanager
def served(share_refused=0.0):
    """The server's application and its URL, while it runs."""
    application = Busy(DomainDispatcherApplication(create_backend_app), share_refused)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield application, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
