"""A proxy in front of a storage server that does to requests what networks and servers do.

Every fault is counted when it is made, so that a test can say that it was met.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

BEFORE = ("503", "429", "500", "reset_before")
"""The server never hears of the request."""
REFUSED = "403"
"""Likewise, but it would be no use to try again; only met where it is planned."""
AFTER = ("reply_lost", "reset_after")
"""A write is applied, and nobody is told: the connection ends, or is reset, before the reply."""
BODY = ("cut", "stalled", "corrupted")
"""The content of an object comes short, drop by drop, or with a flipped bit."""
FAULTS = BEFORE + AFTER + BODY


class Request(NamedTuple):
    """What a client asks for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def reads_content(self) -> bool:
        return self.method == "GET" and "alt=media" in self.path

    def can_meet(self, fault: str) -> bool:
        """Whether the fault makes sense for such a request."""
        if fault in BODY:
            return self.reads_content
        return fault not in AFTER or self.method != "GET"


class Planned(NamedTuple):
    """A fault for the next request that it suits and whose line contains a text."""

    fault: str
    text: str


class FaultProxy:
    """Passes requests on; some meet a fault.

    Args:
        upstream: the server's address, http://HOST:PORT.
        share: share of the requests that meet a fault, out of `faults`, those least met first. The
            content of an object is corrupted once only.
        stall_seconds: how long a stalled body drips before it ends.
    """

    def __init__(
        self,
        upstream: str,
        share: float = 0.0,
        faults: Sequence[str] = FAULTS,
        seed: int = 7,
        stall_seconds: float = 4.0,
    ) -> None:
        self.upstream, self.share, self.faults = upstream, share, faults
        self.stall_seconds = stall_seconds
        self.hits: Counter[str] = Counter()
        self.requests = 0
        self.lines: list[str] = []
        self.planned: list[Planned] = []
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._corrupted: set[str] = set()
        self.url = ""

    def plan(self, *faults: str, text: str = "") -> None:
        """Faults for the next requests that they suit, one each, in this order."""
        self.planned += [Planned(fault, text) for fault in faults]

    def fault_of(self, request: Request) -> str:
        """Which fault a request meets, if any; counts it."""
        with self._lock:
            self.requests += 1
            self.lines.append(f"{request.method} {request.path}")
            fault = self._planned(request) or self._drawn(request)
            if fault:
                self.hits[fault] += 1
            if fault == "corrupted":
                self._corrupted.add(request.path)
            return fault

    def _planned(self, request: Request) -> str:
        for planned in self.planned:
            if request.can_meet(planned.fault) and planned.text in self.lines[-1]:
                self.planned.remove(planned)
                return planned.fault
        return ""

    def _drawn(self, request: Request) -> str:
        if self._random.random() >= self.share:
            return ""
        suited = [fault for fault in self.faults if request.can_meet(fault)]
        if request.path in self._corrupted:
            suited = [fault for fault in suited if fault != "corrupted"]
        return min(suited, key=lambda f: (self.hits[f], self._random.random()), default="")


@contextlib.contextmanager
def serving(proxy: FaultProxy) -> Iterator[FaultProxy]:
    """Runs the proxy; `proxy.url` is its address."""

    class Handler(_Handler):
        plan = proxy

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # a stalled body may outlast the test

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away, or a connection that was reset here."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: FaultProxy

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, dict(self.headers), body)
        fault = self.plan.fault_of(request)
        if fault == "reset_before":
            self._reset()
        elif fault in (*BEFORE, REFUSED):
            self._refuse(int(fault))
        else:
            reply = self._passed_on(request)
            if fault == "reset_after":
                self._reset()
            elif fault == "reply_lost":
                self.close_connection = True
            else:
                self._answer(*reply, fault)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _passed_on(self, request: Request) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(urlsplit(self.plan.upstream).netloc, timeout=30)
        with contextlib.closing(upstream):
            dropped = ("host", "connection", "content-length", "transfer-encoding")
            headers = {n: v for n, v in request.headers.items() if n.lower() not in dropped}
            upstream.request(request.method, request.path, request.body, headers)
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str) -> None:
        if fault == "corrupted":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                # where a large upload goes on
                self.send_header(name, value.replace(self.plan.upstream, self.plan.url))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("cut", "stalled"):
            self.close_connection = True
            half = len(body) // 2
            self.wfile.write(body[:half])
            if fault == "stalled":
                self._drip(body[half:-1])
        else:
            self.wfile.write(body)

    def _drip(self, body: bytes) -> None:
        """Sends a byte now and then: no pause is long enough for a limit on pauses."""
        ends, pause = time.monotonic() + self.plan.stall_seconds, self.plan.stall_seconds / 40
        for byte in body:
            if time.monotonic() > ends:
                return
            self.wfile.write(bytes([byte]))
            time.sleep(pause)
