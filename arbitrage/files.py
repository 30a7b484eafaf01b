"""How bytes get to the place where a run lives, and back: a local or shared folder, or an object
store through `pyarrow.fs`.

Knows nothing of what the bytes are. Invariants: whoever reads a file sees it whole; what was
written or appended is durable when the call returns. Errors are the operating system's, so that
`patiently` can tell those that pass from those that stay.

    files_of("s3://bucket/run?region=eu-west-1")
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import fs

from arbitrage.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

TEMPORARY = ".tmp-"
SEGMENTS = ".segments"
"""What was appended to `x` on an object store are the objects of the folder `x.segments`."""

OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss")
SECRET_WORDS = ("key", "secret", "token", "password", "credential", "signature", "sas")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

TRANSIENT = frozenset(
    {
        *(errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EINTR),
        *(errno.ENOSPC, errno.EDQUOT, errno.EBUSY),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
        *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
    }
)
FULL = (errno.ENOSPC, errno.EDQUOT)
LASTING = (
    *("ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND"),
    *("INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE_DOES_NOT_MATCH"),
    *("UNRECOGNIZED_CLIENT", "EXPIRED_TOKEN", "MISSING_AUTHENTICATION", "PERMISSION_DENIED"),
    *("HTTP status 301", "HTTP Status 400", "HTTP Status 401", "HTTP Status 403"),
)
"""Words of errors that no waiting mends; pyarrow hands on an object store's errors as text."""


class Entry(NamedTuple):
    """One name directly in a folder."""

    name: str
    is_folder: bool


class Files(Protocol):
    """Files below one root, by relative path with `/`. All raise OSError, FileNotFoundError where
    there is nothing to read."""

    def address(self, relative: str) -> str:
        """The full address of a file, as pandas and pyarrow take it."""

    def write(self, relative: str, data: bytes | memoryview) -> None:
        """Makes or replaces a file in one step."""

    def read(self, relative: str) -> bytes:
        """A whole file."""

    def tail(self, relative: str, count: int) -> bytes:
        """The last bytes of a file, at most `count`; reads no others."""

    def size(self, relative: str) -> int | None:
        """In bytes; none where there is no such file."""

    def remove(self, relative: str) -> None:
        """Removes a file and all that was appended to it; one that is gone is no error."""

    def entries(self, folder: str) -> list[Entry]:
        """All that is directly in a folder, hidden names too; nothing where there is none."""

    def append(self, relative: str, data: bytes, *, sync: bool = True) -> None:
        """Adds to a file, of which there is one writer. Without `sync` a power cut may take it."""

    def appended(self, relative: str) -> bytes:
        """All that was appended so far, in order; nothing where there is no such file."""

    def point(self, relative: str, name: str) -> None:
        """Makes a pointer lead to its neighbour `name`, in one step."""

    def pointed(self, relative: str) -> str | None:
        """Where a pointer leads."""

    def sweep(self) -> int:
        """Removes what killed writers left half-written; gives their number."""

    def sync(self) -> None:
        """Makes every name so far survive a power cut; the contents already do."""


@dataclass(frozen=True)
class LocalFiles(Files):
    """A folder of this machine, or one that machines share."""

    root: Path

    def address(self, relative: str) -> str:
        return str(self.root / relative)

    def write(self, relative: str, data: bytes | memoryview) -> None:
        target = self.root / relative
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def read(self, relative: str) -> bytes:
        return (self.root / relative).read_bytes()

    def tail(self, relative: str, count: int) -> bytes:
        with (self.root / relative).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - count))
            return file.read()

    def size(self, relative: str) -> int | None:
        try:
            return (self.root / relative).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, relative: str) -> None:
        (self.root / relative).unlink(missing_ok=True)

    def entries(self, folder: str) -> list[Entry]:
        try:
            with os.scandir(self.root / folder) as found:
                return [Entry(one.name, one.is_dir(follow_symlinks=False)) for one in found]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def append(self, relative: str, data: bytes, *, sync: bool = True) -> None:
        target = self.root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(start)  # else a second try would leave a part twice
                raise

    def appended(self, relative: str) -> bytes:
        try:
            return self.read(relative)
        except FileNotFoundError:
            return b""

    def point(self, relative: str, name: str) -> None:
        link = self.root / relative
        if self.pointed(relative) == name:
            return
        temporary = link.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            temporary.symlink_to(name)
            temporary.rename(link)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def pointed(self, relative: str) -> str | None:
        link = self.root / relative
        return str(link.readlink()) if link.is_symlink() else None

    def sweep(self) -> int:
        found = self.root.rglob(f"{TEMPORARY}*")
        leftovers = [path for path in found if path.is_symlink() or not path.is_dir()]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def sync(self) -> None:
        for folder in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@dataclass
class ObjectFiles(Files):
    """A prefix of an object store, where one PUT is atomic by itself.

    The connection is opened in each process when it is first needed. Credentials come from the
    environment, as the store's own tools take them.
    """

    uri: str
    _segments: dict[str, int] = field(default_factory=dict, init=False, compare=False, repr=False)
    _writer: str = field(default_factory=secrets.token_hex, init=False, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "_segments": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _writer=secrets.token_hex())

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            system, root = fs.FileSystem.from_uri(self.uri)
        except ValueError as error:  # pyarrow's own sentence
            raise UsageError(f"{self.uri} is no address of an object store: {error}") from error
        return system, root.rstrip("/")

    @property
    def _system(self) -> Any:
        return self._place[0]

    def _path(self, relative: str) -> str:
        return f"{self._place[1]}/{relative}".rstrip("/")

    def address(self, relative: str) -> str:
        address, mark, query = self.uri.partition("?")
        return f"{address.rstrip('/')}/{relative}".rstrip("/") + mark + query

    def write(self, relative: str, data: bytes | memoryview) -> None:
        with self._system.open_output_stream(self._path(relative), compression=None) as stream:
            stream.write(data)

    def read(self, relative: str) -> bytes:
        with self._system.open_input_file(self._path(relative)) as file:
            return bytes(file.read())

    def tail(self, relative: str, count: int) -> bytes:
        with self._system.open_input_file(self._path(relative)) as file:
            size = file.size()
            return bytes(file.read_at(min(count, size), max(0, size - count)))

    def size(self, relative: str) -> int | None:
        info = self._system.get_file_info(self._path(relative))
        return info.size if info.type == fs.FileType.File else None

    def remove(self, relative: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(self._path(relative))
        if self._segment_names(relative):
            self._system.delete_dir(self._path(relative + SEGMENTS))
        self._segments.pop(relative, None)

    def entries(self, folder: str) -> list[Entry]:
        found = []
        for info in self._listed(folder):
            is_folder = info.type == fs.FileType.Directory
            appended = is_folder and info.base_name.endswith(SEGMENTS)
            name = info.base_name.removesuffix(SEGMENTS) if appended else info.base_name
            found.append(Entry(name, is_folder and not appended))
        return found

    def _listed(self, folder: str) -> list[Any]:
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        return list(self._system.get_file_info(selector))

    def _segment_names(self, relative: str) -> list[str]:
        found = self._listed(relative + SEGMENTS)
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def append(self, relative: str, data: bytes, *, sync: bool = True) -> None:
        """A segment of its own each time, also beside a writer that should be dead; a PUT is
        durable with or without `sync`."""
        del sync
        if relative not in self._segments:
            names = self._segment_names(relative)
            self._segments[relative] = int(names[-1].split("-")[0]) + 1 if names else 0
        number = self._segments[relative]
        self.write(f"{relative}{SEGMENTS}/{number:010d}-{self._writer[:8]}", data)
        self._segments[relative] = number + 1

    def appended(self, relative: str) -> bytes:
        names = self._segment_names(relative)
        return b"".join(self.read(f"{relative}{SEGMENTS}/{name}") for name in names)

    def point(self, relative: str, name: str) -> None:
        """There are no links: a small object beside, `<pointer>.json`, holds the name."""
        if self.pointed(relative) != name:
            self.write(f"{relative}.json", f'{{"folder": "{name}"}}\n'.encode())

    def pointed(self, relative: str) -> str | None:
        try:
            text = self.read(f"{relative}.json").decode(errors="replace")
        except FileNotFoundError:
            return None
        return text.removeprefix('{"folder": "').partition('"')[0]

    def sweep(self) -> int:
        """An upload that was cut off is never visible; a bucket's own rules remove it."""
        return 0

    def sync(self) -> None:
        """Every object is durable already."""


def has_scheme(place: str) -> bool:
    """Whether a place is written as an address, and not as a path."""
    return "://" in place


def files_of(place: Path | str) -> LocalFiles | ObjectFiles:
    """The files of a folder or of an address. Raises UsageError for an address that holds a secret
    or that no run can live at."""
    if isinstance(place, Path) or not has_scheme(place):
        return LocalFiles(Path(place))
    refuse_secrets(place)
    scheme = urlsplit(place).scheme
    if scheme == "file":
        return LocalFiles(Path(unquote(urlsplit(place).path)))
    if scheme not in OBJECT_STORES:
        raise UsageError(
            f"a run cannot live at {scheme}://; give a folder, or an address that begins with "
            f"{', '.join(f'{name}://' for name in OBJECT_STORES)}"
        )
    return ObjectFiles(place)


def refuse_secrets(place: str) -> None:
    """Raises UsageError, which does not repeat it, for an address with credentials in it."""
    if not has_scheme(place):
        return
    parts = urlsplit(place)
    asked = [key.lower() for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    owner = parts.netloc.rpartition("@")[0]  # abfs names its container before the @
    said = ":" in owner or (owner and not parts.scheme.startswith("abfs"))
    if said or any(word in key for key in asked for word in SECRET_WORDS):
        raise UsageError(
            "the address of the run holds credentials; take them out and give them in the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say)"
        )


def is_transient(error: OSError) -> bool:
    """Whether it may go well a moment later. An error without a number is an object store's."""
    if error.errno is not None:
        return error.errno in TRANSIENT
    text = str(error).upper()
    return not any(word.upper() in text for word in LASTING)


def patiently(
    action: Callable[[], T],
    patience_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Does it, again and again for `patience_s` seconds while the error may pass; each pause is
    about twice as long as the one before. Raises the last OSError."""
    deadline = clock() + patience_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except OSError as error:
            left = deadline - clock()
            if left <= 0 or not is_transient(error):
                raise
        pause(min(left, pause_s * random.uniform(0.5, 1.0)))  # noqa: S311 - no secret
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def reason_of(error: OSError) -> str:
    """Why it failed, in one line, with what to do where that is known."""
    if error.errno in FULL:
        return f"{error.strerror}; free some space and run again; all that was made is kept"
    return error.strerror or " ".join(str(error).split())
