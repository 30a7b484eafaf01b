"""For tests in the driver's environment that use the vLLM of another one.

`ARBITRAGE_VLLM_PYTHON` names its Python. Here are its server, the micro-world's held-out prompts,
and shares that are printed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from arbitrage.engines.vllm_arguments import ENVIRONMENT
from arbitrage.records import Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHON = os.environ.get("ARBITRAGE_VLLM_PYTHON", "")
needs_python = pytest.mark.skipif(
    not PYTHON, reason="ARBITRAGE_VLLM_PYTHON names no Python with vLLM; `make test-vllm` does"
)

MICRO = Path(__file__).resolve().parents[1] / "data/micro"
LANGUAGES = 23
START_S = 300
"""Long enough for a machine that is busy; a server that ends earlier is noticed at once."""


def heldout(per_language: int) -> list[dict[str, Any]]:
    """Rows of the held-out prompts, so many of each language, languages in turn."""
    rows = [json.loads(line) for line in (MICRO / "heldout/prompts.jsonl").open(encoding="utf-8")]
    by_language: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_language.setdefault(row["language"], []).append(row)
    assert len(by_language) == LANGUAGES
    return [many[n] for n in range(per_language) for many in by_language.values()]


def prompts(per_language: int) -> list[Prompt]:
    """The same as an engine gets them."""
    return [
        Prompt(row["id"], row["language"], [{"role": "user", "content": row["prompt"]}])
        for row in heldout(per_language)
    ]


def share(first: Sequence[Any], second: Sequence[Any], what: str) -> float:
    """The share that is equal, place by place; printed."""
    found = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    print(f"{what}: {found:.4f} of {len(first)}")
    return found


class VllmServer:
    """A real vLLM server in processes of its own, for the time of a `with` block.

    It may be killed and started again, on the same port. `wait` returns once it answers.
    """

    def __init__(self, name: str, log: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.name = name
        self.url = f"http://127.0.0.1:{port}/v1"
        self._log = log
        self._command = [
            *(PYTHON, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(MICRO / "models" / name), "--served-model-name", name),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
            *("--enforce-eager", "--distributed-executor-backend", "uni"),
            *arguments,
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the process and does not wait for it."""
        told = {**ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env={**os.environ, **told},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it answers; an end or too long a wait is an error that shows its last lines."""
        deadline = time.monotonic() + START_S
        health = self.url.removesuffix("/v1") + "/health"
        while not _answers(health):
            late = time.monotonic() > deadline
            if late or self.process.poll() is not None:
                lines = self._log.read_text(errors="replace").splitlines()[-20:]
                pytest.fail(f"the server of {self.name} does not answer:\n" + "\n".join(lines))
            time.sleep(0.2)

    def version(self) -> str:
        """What it says it is."""
        told = httpx.get(self.url.removesuffix("/v1") + "/version").json()
        return str(told["version"])

    def kill(self) -> None:
        """SIGKILL to all its processes; nothing is said to anybody."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
