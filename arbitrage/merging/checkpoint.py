"""A model folder as a merge sees it: config, tokenizer, and the headers of its safetensors files.

Nothing here reads a weight until it is asked for a block of one, and no architecture is known: a
tensor is its name, shape and dtype. An output layer that the config ties to the input is no tensor
of its own, and is left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage import weights
from arbitrage.errors import ConfigError, InputError
from arbitrage.identity import fingerprint
from arbitrage.merging.elements import SIZES, read_bytes, to_float32
from arbitrage.weights import INDEX, INPUTS, OUTPUT, Weight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from arbitrage.merging.config import MergedModel
    from arbitrage.merging.methods import Array

CONFIG, TOKENIZER, CARD = "config.json", "tokenizer.json", "README.md"
TOKENIZER_CONFIG = "tokenizer_config.json"
HUB_FILES = (
    *("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"),
    *("README.md", "LICENSE*"),
)
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template*", "generation_config.json", "*processor_config.json", "*.tiktoken"),
    *("*.model", "*.jinja", "tekken.json", "additional_chat_templates/*.jinja", "LICENSE*"),
)
"""What of a model's folder goes along, beside its config."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """One model's folder: tensors by name, and how it is called in the merge."""

    name: str
    folder: Path
    tensors: dict[str, Weight]
    config: dict[str, Any]
    tied: tuple[str, ...] = ()
    """Names of tensors that are left out, as they are others once more."""

    @cached_property
    def starts(self) -> dict[str, int]:
        """Where the data begins in each file, in bytes."""
        files = {weight.file for weight in self.tensors.values()}
        return {name: 8 + _header_length(self.folder / name) for name in files}

    @property
    def vocabulary_size(self) -> int | None:
        """Rows of the embedding, as the config tells it."""
        size = self.config.get("vocab_size", self.text_config.get("vocab_size"))
        return size if isinstance(size, int) else None

    @property
    def has_twin_of_vocabulary(self) -> bool:
        """Whether the config tells the vocabulary's size of something else too."""
        told = {**self.config, **self.text_config}
        return any(
            value == self.vocabulary_size and isinstance(value, int)
            for key, value in told.items()
            if key != "vocab_size" and not key.endswith("_token_id")
        )

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of the config about text, of models that see pictures too."""
        told = self.config.get("text_config")
        return told if isinstance(told, dict) else {}

    def read(self, name: str, start: int, count: int) -> Array:
        """A run of elements of a tensor as float32. Raises OSError, EOFError."""
        weight = self.tensors[name]
        return to_float32(self.read_raw(name, start, count), weight.dtype)

    def read_raw(self, name: str, start: int, count: int) -> NDArray[np.uint8]:
        """A run of elements of a tensor as bytes. Raises OSError, EOFError."""
        weight = self.tensors[name]
        size = SIZES[weight.dtype]
        place = self.starts[weight.file] + weight.start + start * size
        return read_bytes(self.folder / weight.file, place, count * size)

    def papers(self) -> list[str]:
        """The files that go along with the weights, beside the config; code only where a config
        asks for it."""
        asks = "auto_map" in self.config or "auto_map" in _text(self.folder / TOKENIZER_CONFIG)
        patterns = [*COPIED, *(["*.py"] if asks else [])]
        found = {path for pattern in patterns for path in self.folder.glob(pattern)}
        return sorted(p.relative_to(self.folder).as_posix() for p in found if p.is_file())

    def stamp(self) -> str:
        """What the files that a merge takes were when they were looked at: names, sizes, times."""
        found = []
        known = [name for name in (CONFIG, CARD, INDEX) if (self.folder / name).is_file()]
        for name in sorted({*known, *self.papers(), *self.starts}):
            state = (self.folder / name).stat()
            found.append([name, state.st_size, state.st_mtime_ns, state.st_ino])
        return fingerprint([os.fspath(self.folder.resolve()), found])

    def files_now(self) -> dict[str, tuple[int, ...]]:
        """Size, time and inode of the files with its weights. Raises OSError."""
        states = {name: (self.folder / name).stat() for name in sorted(self.starts)}
        return {n: (one.st_size, one.st_mtime_ns, one.st_ino) for n, one in states.items()}


def _text(path: Path) -> str:
    """A text; none where there is no file that can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def open_checkpoint(name: str, model: MergedModel) -> Checkpoint:
    """A model of a merge. Raises ConfigError where it is not there, InputError where it is broken
    or holds no safetensors files."""
    folder = _folder(name, model)
    if (folder / ADAPTER).is_file() and _is_adapter(folder):
        raise InputError(
            f"{name}: {folder} holds an adapter (LoRA, say), not a model; merge it into its base "
            "first (PEFT: `merge_and_unload()`, then `save_pretrained`)"
        )
    found = weights.weights(folder)
    if not found:
        raise InputError(f"{name}: {_lacking(folder)}")
    config = weights.read_json(folder / CONFIG)
    tied = _tied(found, config)
    return Checkpoint(name, folder, {w.name: w for w in found if w.name not in tied}, config, tied)


def _folder(name: str, model: MergedModel) -> Path:
    folder = Path(model.model).expanduser()
    if folder.is_dir():
        if model.revision is not None:
            raise ConfigError(
                f"{name}: {folder} is a folder, which has no `revision:`; drop it, or name the "
                "model as the hub does"
            )
        return folder
    if model.model.startswith(("/", ".", "~")):
        raise ConfigError(f"{name}: there is no model folder {model.model}")
    return _from_hub(name, model)


def _from_hub(name: str, model: MergedModel) -> Path:
    """A model's snapshot in the hub's cache, which is filled where the hub can be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(model.model, revision=model.revision, allow_patterns=list(HUB_FILES))
        )
    except HFValidationError as error:
        raise ConfigError(f"{name}: there is no model folder {model.model}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: {model.model} is no folder here, and could not be had from the hub "
            f"({type(error).__name__}); fetch it, or give a folder"
        ) from error


def _is_adapter(folder: Path) -> bool:
    """Whether the only weights are those of an adapter."""
    return all(path.name.startswith("adapter_") for path in folder.glob("*.safetensors"))


def _lacking(folder: Path) -> str:
    """Why a folder without safetensors files cannot be merged."""
    if any(True for pattern in PICKLES for _ in folder.glob(pattern)):
        return f"{folder} has pickled weights only; save them as safetensors, then merge"
    if any(True for _ in folder.glob("*.safetensors")):
        return f"{folder} has safetensors files without a tensor; fetch them again"
    return f"{folder} has no safetensors files"


def _tied(found: list[Weight], config: dict[str, Any]) -> tuple[str, ...]:
    """Output layers that the config says are the input once more."""
    text = config.get("text_config")
    nested = text if isinstance(text, dict) else {}
    if not config.get("tie_word_embeddings", nested.get("tie_word_embeddings", False)):
        return ()
    inputs = {weight.shape for weight in found if weight.name.endswith(INPUTS)}
    return tuple(w.name for w in found if w.name.endswith(OUTPUT) and w.shape in inputs)


def _header_length(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")
