"""A real S3 server on loopback (moto's, in a process of its own), behind a proxy that fails.

The fixture ``s3`` in conftest gives each test a bucket of its own and the environment that names
the proxy as the endpoint, for processes and for the test itself.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests end, however they end
"""

FaultKind = Literal["drop", "status", "stall", "deaf", "slow", "corrupt", "etag", "short"]
"""The connection ends, the server refuses, says nothing, does not even listen, answers slowly,
gets other bytes than were sent, gives another ETag than the MD5 (as encrypted buckets do), or an
answer that is cut short."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the proxy heard: the path has no query, and begins with a slash and the bucket."""

    method: str
    path: str
    query: str
    bytes_in: int


@dataclass(slots=True)
class Fault:
    """What goes wrong, with which requests, how often. Made by ``Proxy.fail``."""

    kind: FaultKind
    matches: Callable[[Request], bool]
    times: int | None = None
    """Requests that suffer it; None: all."""
    after_bytes: int = 0
    """``drop``: bytes of the answer's body that get through before the connection ends.

    ``short``: bytes of a body that claims to be whole.
    """
    before_server: bool = False
    """``drop``: the server never hears of the request; else only its answer is lost."""
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 60.0
    """``stall``: how long nothing comes; ``slow``: pause after each ``after_bytes``."""
    struck: int = 0
    """Requests that suffered it so far."""


@dataclass(slots=True)
class Proxy:
    """Hands requests on to the server, or does not. ``requests`` are those heard so far."""

    endpoint: str
    server_port: int
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: what stalls ends."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    delay_seconds: float = 0.0
    """What each answer waits for, as on a long way."""
    served: Counter[str] = field(default_factory=Counter)
    """Bytes of the bodies that were sent, by path."""

    def fail(
        self,
        kind: FaultKind,
        *,
        methods: str = "GET PUT POST HEAD DELETE",
        path: str = "",
        query: str = "",
        **more: Any,
    ) -> Fault:
        """From now on, requests with one of ``methods`` and these parts of path and query fail."""
        wanted = methods.split()

        def matches(request: Request) -> bool:
            return request.method in wanted and path in request.path and query in request.query

        fault = Fault(kind, matches, **more)
        with self.lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Nothing fails or waits any more, and what stalls ends."""
        with self.lock:
            self.faults.clear()
            self.delay_seconds = 0.0
        self.released.set()
        self.released = threading.Event()

    def heard(self, method: str, path: str = "", query: str = "") -> list[Request]:
        """Requests with a method and these parts of path and query."""
        with self.lock:
            return [
                request
                for request in self.requests
                if request.method == method and path in request.path and query in request.query
            ]

    def hear(self, request: Request) -> Fault | None:
        """Note a request; the fault that it is to suffer."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                left = fault.times is None or fault.struck < fault.times
                if left and fault.matches(request):
                    fault.struck += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _serve(self) -> None:
        bytes_in = int(self.headers.get("Content-Length", 0))
        path, _, query = self.path.partition("?")
        fault = self.proxy.hear(Request(self.command, path, query, bytes_in))
        if self.proxy.delay_seconds:
            time.sleep(self.proxy.delay_seconds)
        if fault is not None and fault.kind == "deaf":
            self.proxy.released.wait(fault.seconds)
            self.close_connection = True
            return
        body = self.rfile.read(bytes_in)
        if fault is None:
            self._answer(*self._ask(body))
        elif fault.kind == "etag":
            status, headers, data = self._ask(body)
            others = [h for h in headers if h[0].lower() != "etag"]
            self._answer(status, [*others, ("ETag", f'"{"0" * 32}"')], data)
        elif fault.kind == "status":
            self._refuse(fault)
        elif fault.kind == "stall":
            self.proxy.released.wait(fault.seconds)
            self.close_connection = True
        elif fault.kind == "corrupt":
            self._answer(*self._ask(bytes([body[0] ^ 1]) + body[1:] if body else body))
        elif fault.kind == "drop" and fault.before_server:
            self.close_connection = True
        elif fault.kind == "short":
            status, headers, answer = self._ask(body)
            self._answer(status, headers, answer[: fault.after_bytes])
        else:
            self._answer(*self._ask(body), fault)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer."""
        server = http.client.HTTPConnection("127.0.0.1", self.proxy.server_port, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            server.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "keep-alive"):
                if name.lower() == "content-length" and self.command != "HEAD":
                    continue
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        if fault is not None and fault.kind == "drop" and not fault.after_bytes:
            self.close_connection = True  # nothing at all comes back
            self._headers_buffer: list[bytes] = []
            return
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.proxy.lock:
            self.proxy.served[self.path.partition("?")[0]] += len(body)
        if fault is None:
            self.wfile.write(body)
        elif fault.kind == "slow":
            step = fault.after_bytes or 1024
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
                if self.proxy.released.wait(fault.seconds):
                    break
        else:
            self.wfile.write(body[: fault.after_bytes])
            self.close_connection = True

    def _refuse(self, fault: Fault) -> None:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{fault.code}</Code><Message>{_MESSAGES.get(fault.code, fault.code)}"
            "</Message><RequestId>1</RequestId></Error>"
        )
        self._answer(fault.status, [("Content-Type", "application/xml")], text.encode())


_MESSAGES = {
    "SlowDown": "Please reduce your request rate.",
    "ExpiredToken": "The provided token has expired.",
    "AccessDenied": "Access Denied",
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A bucket of one test, on the server behind the proxy."""

    proxy: Proxy
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def call(self, method: str, name: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask the server itself, past the proxy: status and body of the answer."""
        server = http.client.HTTPConnection("127.0.0.1", self.proxy.server_port, timeout=60)
        try:
            server.request(method, f"/{self.bucket}/{name}", body, _UNSIGNED)
            answer = server.getresponse()
            return answer.status, answer.read()
        finally:
            server.close()

    def put(self, name: str, data: bytes) -> None:
        """Put an object, whatever is there."""
        status, answer = self.call("PUT", name, data)
        assert status == 200, answer

    def get(self, name: str) -> bytes:
        """Content of an object."""
        status, data = self.call("GET", name)
        assert status == 200, f"{name}: {status}"
        return data

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.call("DELETE", name)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object under ``prefix``, by the rest of its key."""
        return {name[len(prefix) :]: self.get(name) for name in self.names(prefix)}

    def names(self, prefix: str = "") -> list[str]:
        """Keys under ``prefix``, sorted."""
        from xml.etree import ElementTree

        found: list[str] = []
        while True:
            after = f"&start-after={found[-1]}" if found else ""
            status, text = self.call("GET", f"?list-type=2&prefix={prefix}{after}")
            assert status == 200, text
            tree = ElementTree.fromstring(text)
            page = [key.text or "" for key in tree.iterfind("{*}Contents/{*}Key")]
            found += page
            if tree.findtext("{*}IsTruncated") != "true" or not page:
                return sorted(found)

    def unfinished_uploads(self) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        from xml.etree import ElementTree

        status, text = self.call("GET", "?uploads")
        assert status == 200, text
        return [e.text or "" for e in ElementTree.fromstring(text).iterfind("{*}Upload/{*}Key")]


_UNSIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto's server in a process of its own; gives its port on 127.0.0.1."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **environment,
            "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(64 << 20),
            "S3_UPLOAD_PART_MIN_SIZE": "1",  # small parts, so that small files have several
        },
        text=True,
        start_new_session=True,  # a Ctrl-C of a test is not meant for it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.strip().isdigit(), "moto's server did not start"
        yield int(line)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


@contextmanager
def proxy_before(server_port: int) -> Iterator[Proxy]:
    """Run the proxy in threads of this process."""
    server = _Server(("127.0.0.1", 0), _Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}", server_port)
    server.RequestHandlerClass = type("_Bound", (_Handler,), {"proxy": proxy})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.heal()
        server.shutdown()
        server.server_close()
        thread.join()


def environment_of(proxy: Proxy, **config: Any) -> Mapping[str, str]:
    """Environment of a process that finds the proxy; ``config`` is botocore's, by fsspec."""
    import json

    fsspec_s3 = json.dumps({"config_kwargs": config}) if config else "{}"
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy.endpoint, "FSSPEC_S3": fsspec_s3}


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
