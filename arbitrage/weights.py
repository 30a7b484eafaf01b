"""What the weights in a local folder are, from the headers of their safetensors files alone.

A header is 8 bytes (its length, little-endian) and so many bytes of JSON: name -> dtype, shape and
place. Reads no weight, needs no torch, and knows nothing of runs. A name counts once however many
files hold it, and so does a place in a file.

    python -c "from arbitrage import weights as w; print(w.parameters('data/micro/models/romance'))"
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from arbitrage.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100_000_000
"""Bytes; the format's own limit."""
OUTPUT = "lm_head.weight"
INPUTS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
"""How names of input embeddings end that an output layer may be tied to."""


class Weight(NamedTuple):
    """One tensor: where it lies (`start` and `end` in bytes after the header) and what it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def numbers(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)


def weights(folder: Path | str) -> list[Weight]:
    """All tensors of a folder, by name, each once. Raises InputError for a broken file."""
    found: dict[str, Weight] = {}
    for path in files(Path(folder)):
        place = path.relative_to(folder).as_posix()
        for weight in header(path):
            found.setdefault(weight.name, weight._replace(file=place))
    return [found[name] for name in sorted(found)]


def files(folder: Path) -> list[Path]:
    """The files that hold a model: those of the index, or the one, or all; none where it has none.
    Raises InputError where the index cannot be read or names a file that is not there."""
    index = folder / INDEX
    if index.is_file():
        told = read_json(index).get("weight_map")
        if not isinstance(told, dict):
            raise InputError(f"{index} has no `weight_map`; download it again")
        outside = [name for name in map(str, told.values()) if not _is_inside(name)]
        if outside:
            raise InputError(f"{index} names {outside[0]!r}, which is not in its folder")
        named = [folder / name for name in sorted(set(map(str, told.values())))]
        lacking = [path.name for path in named if not path.is_file()]
        if lacking:
            raise InputError(f"{folder} lacks {lacking[0]}, which its index names; fetch it again")
        return named
    single = folder / SINGLE
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def header(path: Path) -> list[Weight]:
    """The tensors of one file, in the order of its header. Raises InputError for a broken one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(HEADER_LIMIT, path.stat().st_size - 8):
                raise InputError(f"{path} is no safetensors file, or it is cut off")
            told = json.loads(file.read(length), object_pairs_hook=_unique)
        return [_weight(name, one, path) for name, one in told.items() if name != "__metadata__"]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(f"{path} is no safetensors file: its header is not as it should be") from (
            error
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _weight(name: str, told: dict[str, Any], path: Path) -> Weight:
    start, end = told["data_offsets"]
    shape = tuple(int(size) for size in told["shape"])
    return Weight(name, str(told["dtype"]), shape, path.name, int(start), int(end))


def parameters(folder: Path | str) -> int | None:
    """How many numbers a model has; none where the folder has no safetensors files, or the weights
    are quantized, so that numbers are packed. Raises InputError for a broken file.

    An output layer that the model's config ties to its input is no parameter of its own.
    """
    config = read_json(Path(folder) / "config.json")
    found = weights(folder)
    if not found or config.get("quantization_config"):
        return None
    places = {(w.file, w.start, w.end, w.name if w.start == w.end else ""): w for w in found}
    total = sum(weight.numbers for weight in places.values())
    return total - _tied(found, config)


def _tied(found: list[Weight], config: dict[str, Any]) -> int:
    """The numbers of an output layer that is the input's once more."""
    text = config.get("text_config")
    nested = text if isinstance(text, dict) else {}
    if not config.get("tie_word_embeddings", nested.get("tie_word_embeddings", False)):
        return 0
    outputs = [weight for weight in found if weight.name.endswith(OUTPUT)]
    inputs = {weight.shape: weight for weight in found if weight.name.endswith(INPUTS)}
    return sum(w.numbers for w in outputs if w.shape in inputs and not _same(w, inputs[w.shape]))


def _same(one: Weight, other: Weight) -> bool:
    """Whether it is one place in one file, which counts once anyway."""
    return (one.file, one.start, one.end) == (other.file, other.start, other.end)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file. Raises InputError for one that is none."""
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON; fetch it again") from error
    if not isinstance(told, dict):
        raise InputError(f"{path} should hold a JSON object")
    return told
