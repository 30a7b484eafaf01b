"""Engines: what generates completions and what scores them, behind two small Protocols.

Stages hand over one item at a time and never see a batch size: batching is the engine's business.
Each engine imports its library when it is built, and a missing one gives a sentence that says what
to install. A new engine is one module, one line in `ENGINES` and its options in `options.OPTIONS`.

Contract of every engine:

* deterministic: the same request gives the same result whatever else is in flight;
* raises ItemError when this one item cannot be done, any other exception when the engine is broken;
* `max_in_flight` is how many items it can make use of at once;
* whatever it produces, each token or at least each answer, it tells `pulse.beat`: an engine that
  is at work and tells nothing for long is taken to hang;
* tokens that it pays for and gives no Completion for (a judge's, say) it tells `usage.note`.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol

from arbitrage.errors import EngineError, UsageError
from arbitrage.options import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from arbitrage.blocks import Block
    from arbitrage.components import Arbiter, Teacher
    from arbitrage.config import Sampling
    from arbitrage.errors import ItemError
    from arbitrage.records import Completion, Prompt


class Engine(Protocol):
    """What generators and scorers share."""

    max_in_flight: int

    def provenance(self) -> dict[str, str]:
        """Versions and device, for the footers of what it makes."""
        ...

    def close(self) -> None:
        """Frees the device."""
        ...


class Generator(Engine, Protocol):
    """Answers prompts."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> Sequence[Completion | ItemError]:
        """`sampling.n` completions, one for each of the seeds (0 <= seed < 2**31), in order.

        Where one alone cannot be had, an ItemError stands in its place and the others are kept.
        """
        ...


class Scorer(Engine, Protocol):
    """Judges completions."""

    async def score(self, prompt: Prompt, completion: str) -> float:
        """Higher is better; comparable between completions of one prompt."""
        ...


class Entry(NamedTuple):
    """Where an engine lives, the libraries it needs and the extra that brings them, and what CPUs
    a replica usually takes."""

    module: str
    libraries: tuple[str, ...]
    extra: str
    cpus: float


ENGINES: dict[str, Entry] = {
    "fake": Entry("arbitrage.engines.fake", (), "", 0.1),
    "transformers": Entry("arbitrage.engines.transformers", ("torch", "transformers"), "hf", 1.0),
    "endpoint": Entry("arbitrage.engines.endpoint", (), "", 0.25),
    "vllm": Entry("arbitrage.engines.vllm", ("vllm",), "vllm", 2.0),
    "rule": Entry("arbitrage.engines.rule", (), "", 1.0),
}

REPLICA_LIBRARIES = ("ray", "pyarrow", "pydantic", "numpy", "jinja2")
"""What a replica needs besides its engine. In another environment the package itself need not be
installed: the driver lends its own."""

_PROBE = """
import importlib.metadata, importlib.util, json, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
ray = "" if "ray" in missing else importlib.metadata.version("ray")
print(json.dumps([missing, ray, sys.version_info[:2]]))
"""
_PROBE_S = 120


def require(engine: str, python: str | None = None) -> None:
    """Raises UsageError, before anything is started, when an engine's libraries are missing.

    `python` is the interpreter of another environment that its replicas run in, if not this one.
    """
    entry = ENGINES[engine]
    if python is not None:
        _require_there(engine, python)
        return
    missing = [name for name in entry.libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"engine {engine!r} needs {' and '.join(missing)}; "
            f"`pip install 'arbitrage[{entry.extra}]'` brings it"
        )


def require_variables(options: Block) -> None:
    """Raises UsageError, before anything is started, when a secret is not in the environment."""
    names = options.variables() if isinstance(options, EngineOptions) else ()
    if missing := [name for name in names if not os.environ.get(name, "").strip()]:
        raise UsageError(
            f"the environment variable {missing[0]} is not set; the config names it for a secret"
        )


def _require_there(engine: str, python: str) -> None:
    """The environment must have the engine's libraries, and Ray exactly as the driver has it."""
    ray = importlib.metadata.version("ray")
    missing, its_ray, its_python = _probe(python, (*ENGINES[engine].libraries, *REPLICA_LIBRARIES))
    if tuple(its_python) != sys.version_info[:2]:
        raise UsageError(
            f"`resources.python` {python} is Python {its_python[0]}.{its_python[1]}; Ray needs the "
            f"driver's {sys.version_info[0]}.{sys.version_info[1]} in every environment"
        )
    if missing or its_ray != ray:
        wanted = [f"ray=={ray}" if name == "ray" else name for name in missing]
        wanted += [] if "ray" in missing or its_ray == ray else [f"ray=={ray}"]
        raise UsageError(
            f"engine {engine!r} cannot run in {python}; `{python} -m pip install "
            f"{' '.join(wanted)}` brings what it needs"
        )


def _probe(python: str, libraries: Sequence[str]) -> tuple[list[str], str, list[int]]:
    """What an environment lacks, its version of Ray, and of Python."""
    command = [python, "-c", _PROBE, *libraries]
    try:
        told = subprocess.run(command, capture_output=True, check=True, timeout=_PROBE_S)  # noqa: S603
        missing, ray, version = json.loads(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(f"`resources.python` {python} is no Python that runs ({error})") from error
    return missing, ray, version


def build_generator(teacher: Teacher) -> Generator:
    """Builds a teacher's engine in this process; slow. Raises EngineError."""
    generator: Generator = _module(teacher.config.engine).build_generator(teacher)
    return generator


def build_scorer(arbiter: Arbiter) -> Scorer:
    """Builds the Arbiter's engine in this process; slow. Raises EngineError."""
    scorer: Scorer = _module(arbiter.config.engine).build_scorer(arbiter)
    return scorer


def _module(engine: str) -> ModuleType:
    entry = ENGINES[engine]
    try:
        module = importlib.import_module(entry.module)
    except ImportError as error:
        raise EngineError(f"engine {engine!r} cannot be imported: {error}") from error
    gc.freeze()  # a million objects of libraries, which no collection needs to look at again
    return module
