"""The explorer over HTTP on loopback: its files and, where a run can measure, `POST /live` for a reader's own text.

A page of another origin can neither read the files nor post: the host must be loopback (against rebound names), the origin
must be this very server's, and files are for it alone. Nothing of a text is stored or logged.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
MAX_BYTES = 1 << 19
"""Of a request: two texts of the longest kind with every character escaped."""
POLICY = "default-src 'none'; "
"""How the policy of the page begins; only a page that may call the server gets one more source."""
HEADERS = {
    b"cache-control": b"no-cache",  # the address stays while runs replace the files
    b"content-security-policy": b"frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",  # data are scripts, which any page could load
    b"x-content-type-options": b"nosniff",
}


class Measurer(Protocol):
    """What measures texts: resources/live.py."""

    def facts(self) -> dict[str, Any]:
        """What the page must know of it."""
        ...

    def token_ids(self, texts: list[str]) -> list[Any]:
        """The tokens of each text, or ValueError with a sentence for the reader."""
        ...

    def answers(self, texts: list[Any]) -> Iterator[dict[str, Any]]:
        """Progress, and last the result."""
        ...


class Refused(Exception):
    """A request that is not answered, with its status and a sentence for the reader."""

    def __init__(self, status: int, sentence: str) -> None:
        """With the status of HTTP."""
        super().__init__(sentence)
        self.status = status


class Headers:
    """Adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        """Around the application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


def application(folder: Path, live: Measurer | None = None) -> Starlette:
    """The site in the folder and, with something that measures, `live.js`, `POST /live` and a page that may call it."""
    routes: list[Route | Mount] = [Mount("/", StaticFiles(directory=folder, html=True))]
    if live is not None:
        page = (folder / "index.html").read_text(encoding="utf-8")
        if POLICY not in page or "live.js" not in page:
            raise ValueError(f"{folder / 'index.html'} is of an older version; make run writes it again")
        page = page.replace(POLICY, f"{POLICY}connect-src 'self'; ", 1)
        script = f'"use strict";\nexplorer.live = {json.dumps(live.facts())};\n'
        routes = [
            *(Route(path, lambda _: HTMLResponse(page)) for path in ("/", "/index.html")),
            Route("/live.js", lambda _: Response(script, media_type="text/javascript")),
            Route("/live", Measuring(live), methods=["POST"]),
            *routes,
        ]
    middleware = [Middleware(Headers), Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)]
    return Starlette(routes=routes, middleware=middleware)


class Measuring:
    """`POST /live` with {"texts": [one or two]}: lines of JSON, each progress, the result, or an error as a sentence."""

    def __init__(self, live: Measurer) -> None:
        """By what measures."""
        self.live, self.lock = live, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; it waits while another is measured."""
        request = Request(scope, receive)
        try:
            check_origin(request)
            texts = texts_of(await body_of(request))
            response: Response = StreamingResponse(
                self.lines(await run_in_threadpool(self.live.token_ids, texts)), media_type="application/x-ndjson"
            )
        except Refused as error:
            response = JSONResponse({"error": str(error)}, error.status)
        except ValueError as error:
            response = JSONResponse({"error": str(error)}, 400)
        await response(scope, receive, send)

    async def lines(self, texts: list[Any]) -> AsyncIterator[str]:
        """Progress, and last the result. A reader who leaves ends it after the window that is being measured."""
        async with self.lock:
            answers = self.live.answers(texts)
            try:
                while (answer := await run_in_threadpool(next, answers, None)) is not None:
                    yield json.dumps(answer) + "\n"
            except Exception as error:  # whatever it is, the reader gets a sentence, and no log the text
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(f"error: {type(error).__name__} in {where.filename}:{where.lineno}", file=sys.stderr)
                yield json.dumps({"error": f"Measuring failed ({type(error).__name__}); the server says where."}) + "\n"


def check_origin(request: Request) -> None:
    """Refuse what no page of this server sent."""
    own = f"http://{request.headers.get('host', '')}"
    if request.headers.get("origin") != own or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Refused(403, f"Only a page of {own} may ask; send it as the header Origin.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "The request must be of type application/json.")


async def body_of(request: Request) -> bytes:
    """The body, if it is not too long; else it is read and dropped, so that the sentence arrives."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= MAX_BYTES:
            parts.append(part)
        elif size > 32 * MAX_BYTES:
            break
    if size > MAX_BYTES:
        raise Refused(413, f"The request has more than {MAX_BYTES:,} bytes. Shorten the text.")
    return b"".join(parts)


def texts_of(body: bytes) -> list[str]:
    """One or two texts of a request's JSON."""
    try:
        texts = json.loads(body)["texts"]
    except (ValueError, TypeError, KeyError, RecursionError):
        texts = None
    if not isinstance(texts, list) or len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, 'The request must be JSON with one or two strings: {"texts": ["one", "two"]}.')
    return texts
