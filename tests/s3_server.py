"""An S3 server on this machine for tests, and a proxy before it that fails and dawdles."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bucket"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
DROPPED = ("connection", "transfer-encoding", "content-length", "keep-alive", "date", "server")


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """A port with an S3 server that has one bucket; credentials are in the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        with patch.dict(os.environ, ENVIRONMENT):
            _, port = server.get_host_and_port()
            client = boto3.client(
                "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1"
            )
            client.create_bucket(Bucket=BUCKET)
            yield port
            # What is stored belongs to the process, so the next server would have it too.
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", b"").close()
    finally:
        server.stop()


def address(port: int, name: str) -> str:
    """Where a run of this name lives."""
    place = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    return f"s3://{BUCKET}/{name}?{place}"


class Faults:
    """How often the proxy answers 503, and how often it takes its time; counts both."""

    def __init__(self, fail: float, slow: float, slow_s: float) -> None:
        self.fail, self.slow, self.slow_s = fail, slow, slow_s
        self.failed = self.slowed = 0
        self.down = False
        self._draw = random.Random(5)
        self._mutex = threading.Lock()

    def next(self) -> tuple[bool, float]:
        """Whether the next request fails, and for how long it waits."""
        with self._mutex:
            fails = self.down or self._draw.random() < self.fail
            waits = self._draw.random() < self.slow
            self.failed += fails
            self.slowed += waits
        return fails, self.slow_s if waits else 0.0


@contextlib.contextmanager
def proxy(target: int, faults: Faults) -> Iterator[int]:
    """A port that hands requests on to `target`, with faults."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _hand_on(self) -> None:
            body = self._body()
            fails, wait_s = faults.next()
            if wait_s:
                time.sleep(wait_s)
            if fails:
                self._reply(503, [], b"")
                return
            connection = http.client.HTTPConnection("127.0.0.1", target, timeout=30)
            kept = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            kept["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, kept)
            answer = connection.getresponse()
            told = [(k, v) for k, v in answer.getheaders() if k.lower() not in DROPPED]
            length = answer.getheader("Content-Length")
            self._reply(answer.status, told, answer.read(), length)
            connection.close()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _reply(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            length: str | None = None,
        ) -> None:
            self.send_response(status)
            for key, value in headers:
                self.send_header(key, value)
            told = length if self.command == "HEAD" and length else str(len(body))
            self.send_header("Content-Length", told)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _hand_on  # noqa: N815

        def log_message(self, *args: object) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
