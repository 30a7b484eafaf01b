"""What makes two things the same: fingerprints, prompt ids, seeds, digests of model folders.

Knows nothing of configs or stores. Invariants: equal values give equal names on every machine and
Python version; a value without a deterministic form is refused rather than guessed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from arbitrage.records import Message

FINGERPRINT_HEX = 12
PROMPT_ID_HEX = 32
SETTLED_S = 2.0
"""A file that changed later than this may change again within one tick of the clock."""
MAX_SEED = 2**31
"""Seeds stay below this: every engine and every OpenAI-compatible server takes them."""


def canonical(value: Any) -> bytes:
    """The one JSON form of plain data: sorted keys, no spaces, no NaN.

    Raises TypeError for anything but None, bool, int, finite float, str, list, tuple and dict with
    string keys: a set, an object or an infinity would name the same thing differently each time.
    """
    _check_plain(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{key!r} is no string, so this mapping has no fixed form")
            _check_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(f"{type(value).__name__} has no deterministic form; use plain data")


def digest(data: bytes, hex_chars: int = FINGERPRINT_HEX) -> str:
    """BLAKE2b of some bytes, as `hex_chars` (even) hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=hex_chars // 2).hexdigest()


def fingerprint(value: Any) -> str:
    """The name of plain data: 12 hexadecimal digits of its canonical form."""
    return digest(canonical(value))


def prompt_id(messages: Sequence[Message]) -> str:
    """The id of a prompt is the hash of its content: role and text of every turn, nothing else."""
    turns = [[message["role"], message["content"]] for message in messages]
    return digest(
        json.dumps(turns, ensure_ascii=False).encode("utf-8", "surrogatepass"), PROMPT_ID_HEX
    )


def derive_seed(seed: int, prompt: str, teacher: str, sample: int) -> int:
    """The seed of one request, from what it is and never from when it runs; 0 <= seed < 2**31."""
    key = f"{seed}/{prompt}/{teacher}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") % MAX_SEED


def directory_digest(folder: Path) -> str:
    """Content digest of a model folder: names and bytes of all files but hidden ones.

    A folder holds a model when it can be copied elsewhere and still be that model, so neither its
    place nor its times count. Reads every byte once (about 1 GB/s); the result is remembered in the
    user's cache for as long as names, sizes and times of the files stay as they are.
    """
    files = {path.relative_to(folder).as_posix(): path for path in visible_files(folder)}
    memo, changed = _memo(folder, files)
    if (known := _remembered(memo)) is not None:
        return known
    total = hashlib.blake2b(digest_size=FINGERPRINT_HEX // 2)
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    if changed < time.time() - SETTLED_S:
        _remember(memo, total.hexdigest())
    return total.hexdigest()


def known_digest(folder: Path) -> str | None:
    """The content digest of a model folder, where it was made before and nothing has changed since;
    reads no weights."""
    files = {path.relative_to(folder).as_posix(): path for path in visible_files(folder)}
    return _remembered(_memo(folder, files)[0])


def _memo(folder: Path, files: dict[str, Path]) -> tuple[Path, float]:
    """Where a folder's digest is remembered, and when the last of its files changed."""
    stats = {name: path.stat() for name, path in files.items()}
    states = {n: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in stats.items()}
    changed = max((stat.st_ctime for stat in stats.values()), default=0.0)
    name = fingerprint([str(folder.resolve()), states])
    return _cache_folder() / f"{name}.digest", changed


def _remembered(memo: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        known = memo.read_text(encoding="ascii")
        if len(known) == FINGERPRINT_HEX and bytes.fromhex(known):
            return known
    return None


def visible_files(folder: Path) -> list[Path]:
    """All files of a folder, at any depth, but hidden ones."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [p for p in paths if not any(x.startswith(".") for x in p.relative_to(folder).parts)]


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "arbitrage" / "models"


def _remember(memo: Path, text: str) -> None:
    """Without a cache (a read-only home, say) the digest is only computed again."""
    with contextlib.suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        part = memo.with_name(f"{memo.name}.{os.getpid()}")
        part.write_text(text, encoding="ascii")
        part.replace(memo)


def changes(old: Any, new: Any, place: str = "") -> list[str]:
    """Which fields differ between two identities, as `field: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in changes(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in changes(a, b, f"{place}.{i}")]
    return [] if old == new else [f"{place}: {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    return "default" if value is None else f"{value!r:.60}"


def nearest_identity(new: dict[str, Any], others: Iterable[dict[str, Any]]) -> list[str]:
    """The shortest account of how `new` differs from something that is already there."""
    accounts = [changes(other, new) for other in others]
    return min(accounts, key=len, default=[])
