"""A JSON client for a server that may be slow, busy, broken or gone.

Whether a request is sent again is decided by the type of what happened, never by its words:

* `Again`: it may go well next time (busy, 5xx, connection lost, half an answer); a bounded number
  of times, with growing waits, and a Retry-After is kept to;
* ItemError: this request is refused, or its answer is of no use; it would be so again;
* EngineError: no request can go well (key, address, model, money).

A request that used up its attempts is an ItemError only while the server answers others: one that
is dead, or refuses all it is asked, is an EngineError, so that it never fills a shard with errors.
Secrets are read from the environment and taken out of every text that comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx

from arbitrage import __version__
from arbitrage.engines.pacing import Window, backoff_s, retry_after_s
from arbitrage.errors import EngineError, ItemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbitrage.options import EndpointOptions
from arbitrage.pulse import beat

R = TypeVar("R")

MB = 2**20
ERROR_BYTES = 64 * 1024
"""How much of an error's body is read."""
TOLD_CHARS = 200
SILENCE = 5
"""Requests in a row, each with all its attempts used up, after which a server counts as dead."""
REFUSALS = 32
"""Refused requests, without one that was answered, after which it is not about the requests."""
TIMEOUT_ATTEMPTS = 2
"""An answer that takes too long is paid for each time."""
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


class Again(Exception):  # noqa: N818 - a decision, not a fault
    """The attempt failed, and another may go well. `busy`: the server wants fewer at once."""

    def __init__(
        self, cause: str, *, busy: bool = False, wait_s: float = 0.0, most: int | None = None
    ) -> None:
        super().__init__(cause)
        self.busy = busy
        self.wait_s = wait_s
        self.most = most


class _Turns:
    """Lets no more requests in than the window is wide, first come first served; and none before
    the time that the server asked for."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0
        self.closed_until_s = 0.0

    async def __aenter__(self) -> None:
        while self.in_flight >= self._window.width:
            await self._stand_in_line()
        self.in_flight += 1
        try:
            while (wait_s := self.closed_until_s - time.monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(wait_s)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def close_for(self, wait_s: float, now_s: float) -> None:
        """Holds everyone back."""
        if wait_s:
            self.closed_until_s = max(self.closed_until_s, now_s + wait_s)

    async def _stand_in_line(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._wake()  # the turn goes to the next
            raise

    def _leave(self) -> None:
        self.in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        for _ in range(self._window.width - self.in_flight):
            if not self._waiting:
                return
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)


class Client:
    """Posts JSON to one server; raises ItemError and EngineError only."""

    def __init__(self, options: EndpointOptions) -> None:
        self._options = options
        self.server = urlsplit(options.base_url).netloc
        self._headers = _secret_headers(options)
        self._window = Window(options.max_concurrency)
        self._turns = _Turns(self._window)
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answered = self._refused = self._silent = 0
        self._end: str | None = None

    async def post(
        self, path: str, body: dict[str, Any], read: Callable[[Any], R], work: Callable[[R], int]
    ) -> R:
        """What `read` makes of the answer; it may raise ItemError, EngineError and `Again` itself.
        `work` measures a result, so that the server's pace can be told from long answers."""
        attempt = 0
        while True:
            attempt += 1
            try:
                result = await self._paced(path, body, read, work)
            except Again as failure:
                most = min(self._options.max_attempts, failure.most or self._options.max_attempts)
                if attempt >= most:
                    raise self._given_up(attempt, failure) from None
                wait_s = self._wait_s(attempt, failure)
            except ItemError as error:
                raise self._refusal(error) from None
            except EngineError as error:
                self._end = str(error)
                raise
            else:
                self._answered += 1
                self._silent = 0
                return result
            await asyncio.sleep(wait_s)

    def _wait_s(self, attempt: int, failure: Again) -> float:
        options = self._options
        chance = random.random()  # noqa: S311 - spreads requests, and no output depends on it
        return failure.wait_s + backoff_s(attempt, options.backoff_s, options.max_wait_s, chance)

    def _given_up(self, attempts: int, failure: Again) -> ItemError | EngineError:
        self._silent += 1
        if self._answered + self._refused and self._silent < SILENCE:
            return ItemError(f"given up after {attempts} attempts: {failure}")
        self._end = (
            f"server {self.server} answers nothing ({failure}); see that it runs and that "
            "`base_url:` is right, then run again"
        )
        return EngineError(self._end)

    def _refusal(self, error: ItemError) -> ItemError | EngineError:
        self._silent = 0
        self._refused += 1
        if self._answered or self._refused < REFUSALS:
            return error
        self._end = (
            f"server {self.server} has refused each of the first {REFUSALS} requests ({error}); "
            "see that the model takes what the config asks for"
        )
        return EngineError(self._end)

    async def _paced(
        self, path: str, body: dict[str, Any], read: Callable[[Any], R], work: Callable[[R], int]
    ) -> R:
        """One attempt, in its turn; the window learns from it."""
        async with self._turns:
            if self._end is not None:
                raise EngineError(self._end)
            sent_s = time.monotonic()
            try:
                result = read(await self._attempt(path, body))
            except Again as failure:
                now_s = time.monotonic()
                if failure.busy:
                    self._window.overloaded(sent_s, now_s)
                    self._turns.close_for(failure.wait_s, now_s)
                raise
            now_s = time.monotonic()
            pace_s = (now_s - sent_s) / work(result)
            self._window.answered(sent_s, now_s, pace_s, self._turns.in_flight)
            return result

    async def _attempt(self, path: str, body: dict[str, Any]) -> Any:
        options = self._options
        try:
            async with (
                asyncio.timeout(options.total_timeout_s),
                self._connection().stream("POST", self._url(path), json=body) as response,
            ):
                return await self._open(response)
        except TimeoutError:
            cause = f"no whole answer in {options.total_timeout_s:g} s"
            raise Again(cause, busy=True, most=TIMEOUT_ATTEMPTS) from None
        except httpx.ConnectTimeout:
            raise Again(f"no connection in {options.connect_timeout_s:g} s") from None
        except httpx.TimeoutException:
            cause = f"nothing was heard for {options.read_timeout_s:g} s"
            raise Again(cause, busy=True, most=TIMEOUT_ATTEMPTS) from None
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise EngineError(f"server {self.server} cannot be asked; check `base_url:`") from None
        except httpx.TransportError as error:
            raise Again(self.told(str(error) or type(error).__name__)) from None
        finally:
            beat()  # a server that fails is no engine that hangs: its limits are its own

    def _url(self, path: str) -> str:
        """A path that starts with a slash is beside the API, not below its version."""
        base = self._options.base_url
        return base.removesuffix("/v1") + path if path.startswith("/") else f"{base}/{path}"

    def _connection(self) -> httpx.AsyncClient:
        """Made on first use, in the loop that it belongs to."""
        if self._http is None:
            options = self._options
            self._loop = asyncio.get_running_loop()
            self._http = httpx.AsyncClient(
                headers={
                    **self._headers,
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",  # else a small body could unpack to a huge one
                    "User-Agent": f"arbitrage/{__version__}",
                },
                timeout=httpx.Timeout(options.read_timeout_s, connect=options.connect_timeout_s),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            )
        return self._http

    async def _open(self, response: httpx.Response) -> Any:
        """The JSON of a good answer. Raises what another answer means."""
        if response.status_code != httpx.codes.OK:
            raise self._meaning(response, await _start_of(response))
        kind = response.headers.get("content-type", "application/json").split(";")[0].strip()
        if kind != "application/json" and not kind.endswith("+json"):
            raise Again(f"the answer is {self.told(kind)}, not JSON")
        data = await self._whole(response)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise Again("the answer is no valid JSON") from None

    async def _whole(self, response: httpx.Response) -> bytes:
        most = int(self._options.max_body_mb * MB)
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > most:
                raise ItemError(f"the answer is larger than {self._options.max_body_mb:g} MB")
        return bytes(data)

    def _meaning(self, response: httpx.Response, start: bytes) -> Exception:
        """What a status other than 200 says about sending it again."""
        status = response.status_code
        words, code = _error_of(start)
        told = f"HTTP {status}" + (f": {self.told(words)}" if words else "")
        engine = EngineError(f"server {self.server} refuses: {told}; {_ADVICE.get(status, _OTHER)}")
        if status in _ADVICE or status < httpx.codes.BAD_REQUEST or code in NO_MONEY:
            return engine
        if status == httpx.codes.FORBIDDEN and not self._answered:
            return engine
        if status in (408, 409, 425, 429) or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            asked = response.headers.get("retry-after")
            wait_s = retry_after_s(asked, datetime.now(UTC), self._options.max_wait_s)
            return Again(told, busy=status in (429, 503, 529), wait_s=wait_s)
        return ItemError(told)

    def told(self, words: str) -> str:
        """On one line and short, without the secrets that a server may repeat."""
        for secret in self._headers.values():
            words = words.replace(secret.removeprefix(_BEARER), "***")
        words = "".join(c if c.isprintable() else " " for c in words)
        return " ".join(words.split())[:TOLD_CHARS]

    def close(self) -> None:
        """Ends the connections, where their loop still can."""
        http, loop, self._http = self._http, self._loop, None
        self._end = "the engine is closed"
        if http is None or loop is None or loop.is_closed():
            return
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(http.aclose(), loop)
        else:
            loop.run_until_complete(http.aclose())


_ADVICE = {
    401: "check the key that `api_key_env:` names",
    402: "the account has no money left",
    404: "check `model:` and `base_url:`, which usually ends in /v1",
    405: "check `base_url:`, which usually ends in /v1",
}
_BEARER = "Bearer "
_OTHER = "check the key, the account, `model:` and `base_url:`"


def _secret_headers(options: EndpointOptions) -> dict[str, str]:
    """Raises EngineError, which never tells a value."""
    key = options.api_key_env
    headers = {name: _secret(variable) for name, variable in options.headers_env.items()}
    return headers | ({"Authorization": _BEARER + _secret(key)} if key else {})


def _secret(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        raise EngineError(f"the environment variable {variable} is not set to a usable value")
    return value


async def _start_of(response: httpx.Response) -> bytes:
    data = bytearray()
    with contextlib.suppress(httpx.TransportError):  # the status says enough
        async for part in response.aiter_raw():
            data += part
            if len(data) > ERROR_BYTES:
                break
    return bytes(data)


def _error_of(body: bytes) -> tuple[str, str]:
    """The message and code of an error's body, in the forms that servers use."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return (error if isinstance(error, str) else ""), ""
    words = error.get("message") or error.get("detail") or ""
    return (words if isinstance(words, str) else json.dumps(words)), str(error.get("code") or "")
