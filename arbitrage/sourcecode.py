"""Functions that a config names by import path, `package.module:name`, and what makes them what
they are: their source.

A name is looked up as Python does, in what is installed and on PYTHONPATH; neither the config's
folder nor the current one is added. Where replicas run on other machines, or in another Python
environment, the module must be found there too.

    python -c "from arbitrage import sourcecode as s; print(s.located('arbitrage.rules:length'))"
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage.errors import ConfigError
from arbitrage.identity import FINGERPRINT_HEX, digest, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def located(path: str) -> Callable[..., Any]:
    """The function that a path names; imports its module. Raises ConfigError, one sentence."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"function {path!r}: there is no module {error.name!r}; install it or put its folder "
            "on PYTHONPATH"
        ) from error
    except Exception as error:  # a module runs whatever it likes
        raise ConfigError(f"function {path!r}: its module fails: {_told(error)}") from error
    if not callable(found):
        raise ConfigError(f"function {path!r}: module {module!r} has no function {name!r}")
    return found  # type: ignore[no-any-return]


def require_takes(path: str, given: int, arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError where the function cannot be called with `given` values and these
    arguments by name."""
    try:
        inspect.signature(located(path)).bind(*range(given), **arguments)
    except TypeError as error:
        raise ConfigError(f"function {path!r} does not suit `arguments:`: {error}") from error
    except ValueError:  # a builtin that does not say what it takes
        return


def source_digest(path: str) -> str:
    """What the source is: of the module that is named, and of the one that defines the function.

    Other modules that these import do not count. Raises ConfigError, also for a module without
    source: what it does could change without a trace.
    """
    function = inspect.unwrap(located(path))
    modules = {path.partition(":")[0], getattr(function, "__module__", None)} - {None}
    return fingerprint([_digest_of(path, str(module)) for module in sorted(map(str, modules))])


def _digest_of(path: str, module: str) -> str:
    spec = importlib.util.find_spec(module)
    origin = Path(spec.origin) if spec and spec.origin and spec.has_location else None
    if origin is None or origin.suffix != ".py" or not origin.is_file():
        raise ConfigError(
            f"function {path!r}: module {module!r} has no Python source, which is what names a "
            "rule; wrap the function in a module of your own"
        )
    return digest(origin.read_bytes(), FINGERPRINT_HEX)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
