"""An OpenAI-compatible server on a thread of its own that misbehaves as told.

Its model writes a text that depends on the conversation and the seed alone and ends with a quality,
`... (0.8312)`; as judge, /classify and /score it reads that number back. What goes wrong is decided
per request by `plan`, a function of the request; it sees how often the same body came before.

    with FaultServer(lambda request: Fault("reset") if request.tries == 1 else None) as server:
        ...  # server.url, server.requests, server.most_at_once
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

QUALITY = re.compile(r"\((\d\.\d{4})\)")


@dataclass(frozen=True)
class Request:
    """One request as it came; `tries` counts requests with this path and body, this one too."""

    path: str
    headers: dict[str, str]
    body: Any
    tries: int

    @property
    def draw(self) -> int:
        """A number that is the same for the same body."""
        data = json.dumps([self.path, self.body], sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "big")


@dataclass(frozen=True)
class Fault:
    """What goes wrong: `kind` is a method of `_Handler` without its underscore; `value` and
    `headers` say more."""

    kind: str
    value: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Plan = Callable[[Request], Fault | None]


class FaultServer:
    """Serves for the time of a `with` block. `hold_s` is what each answer takes."""

    def __init__(self, plan: Plan = lambda request: None, hold_s: float = 0.0) -> None:
        self.plan = plan
        self.hold_s = hold_s
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.at_once = 0
        self._tries: Counter[tuple[str, str]] = Counter()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def note(self, path: str, headers: dict[str, str], raw: str) -> Request:
        """Remembers a request."""
        with self.lock:
            self._tries[path, raw] += 1
            request = Request(path, headers, json.loads(raw), self._tries[path, raw])
            self.requests.append(request)
        return request


class _Server(ThreadingHTTPServer):
    owner: FaultServer
    daemon_threads = True
    request_queue_size = 512


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Is silent."""

    def do_POST(self) -> None:
        """Answers, or does what the plan says."""
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers["content-length"])).decode()
        request = owner.note(self.path, {k.lower(): v for k, v in self.headers.items()}, raw)
        with owner.lock:
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
        try:
            owner.over.wait(owner.hold_s)
        finally:
            with owner.lock:
                owner.at_once -= 1
        fault = owner.plan(request)
        try:
            if fault is None:
                self.send_json(answer_to(request))
            else:
                getattr(self, f"_{fault.kind}")(request, fault)
        except OSError:
            self.close_connection = True  # the client has gone

    def send_json(
        self, body: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer."""
        self.send_bytes(json.dumps(body).encode(), status, {**(headers or {})})

    def send_bytes(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        """A whole answer; its length is told."""
        told = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        self.send_response(status)
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _status(self, request: Request, fault: Fault) -> None:
        words = fault.headers.get("x-words", f"told to say {fault.value}")
        code = fault.headers.get("x-code")
        self.send_json({"error": {"message": words, "code": code}}, fault.value, fault.headers)

    def _echo(self, request: Request, fault: Fault) -> None:
        """An error that repeats the caller's secrets, as some servers do."""
        words = f"bad request with {json.dumps(request.headers)}"
        self.send_json({"error": {"message": words}}, fault.value)

    def _reset(self, request: Request, fault: Fault) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def _hang(self, request: Request, fault: Fault) -> None:
        self.server.owner.over.wait()
        self.close_connection = True

    def _drip(self, request: Request, fault: Fault) -> None:
        """One byte at a time, for ever."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.owner.over.wait(0.02):
            self.wfile.write(b" ")

    def _cut_json(self, request: Request, fault: Fault) -> None:
        """Half of the JSON, told as if it were all."""
        data = json.dumps(answer_to(request)).encode()
        self.send_bytes(data[: len(data) // 2], 200, {})

    def _cut_body(self, request: Request, fault: Fault) -> None:
        """Half of the promised bytes."""
        data = json.dumps(answer_to(request)).encode()
        self.close_connection = True
        self.send_bytes(data[: len(data) // 2], 200, {"Content-Length": str(len(data))})

    def _html(self, request: Request, fault: Fault) -> None:
        self.send_bytes(b"<html>hello</html>", 200, {"Content-Type": "text/html; charset=utf-8"})

    def _huge(self, request: Request, fault: Fault) -> None:
        """`value` bytes of an answer that never ends well."""
        headers = {"Content-Length": str(fault.value)}
        self.send_bytes(b'{"choices": [', 200, headers)
        block = b" " * 2**16
        for _ in range(fault.value // len(block)):
            self.wfile.write(block)
        self.close_connection = True

    def _body(self, request: Request, fault: Fault) -> None:
        """`value`, or what it makes of the right answer."""
        value = fault.value
        self.send_json(value(answer_to(request)) if callable(value) else value)


def answer_to(request: Request) -> dict[str, Any]:
    """The right answer."""
    body = request.body
    if request.path == "/classify":
        logit = quality_in(json.dumps(body.get("messages") or body["input"]))
        return {"model": "served", "data": [{"index": 0, "probs": [logit], "num_classes": 1}]}
    if request.path == "/score":
        score = quality_in(body["text_2"])
        return {"model": "served", "data": [{"index": 0, "object": "score", "score": score}]}
    asked = json.dumps(body["messages"] if "messages" in body else body["prompt"])
    judging = "Score: <number>" in asked
    text = f"It is fair.\nScore: {10 * quality_in(asked):.2f}" if judging else told(body, asked)
    usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(text.split())}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if request.path == "/v1/completions":
        choice["text"] = text
    else:
        choice["message"] = {"role": "assistant", "content": text, "reasoning_content": "hm"}
    return {"model": f"{body['model']}-2026", "choices": [choice], "usage": usage}


def told(body: dict[str, Any], asked: str) -> str:
    """A text with a quality, from model, conversation and seed."""
    key = f"{body['model']}/{asked}/{body['seed']}"
    draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=2).digest(), "big")
    return f"answer {draw} ({draw / 2**16:.4f})"


def quality_in(text: str) -> float:
    """The last quality in a text."""
    found = QUALITY.findall(text)
    return float(found[-1]) if found else 0.0
