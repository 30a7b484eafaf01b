"""One driver at a time, on one host and across hosts.

In a folder, `flock` decides among the drivers of one host: the kernel lets go of it when a driver
dies. Across hosts, and on object stores, there is a lease: the holder writes its note anew every
few seconds. Whoever finds another's note watches it: when it changes, the holder lives; when it
does not change for `LEASE_S` of the watcher's own clock, the holder is dead. So the clocks of two
hosts are never compared.

Object stores have no atomic create here, so each driver first puts up a claim, and goes on only
when, after that, it saw no other claim. Of two drivers at least one sees the other. A claim is
taken down only after the note is written, and the note is read after the claims.

A holder that slept so long that another took over finds that out at its next beat.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from arbitrage.errors import LockedError, StoreError
from arbitrage.files import TEMPORARY, LocalFiles, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.files import Files

LEASE_BEAT_S = 5.0
LEASE_S = 30.0
LOOK_S = 1.0
NOTE = "lease.json"
CLAIMS = "claims"
LOCK_TRIES = 10
LOCK_PAUSE_S = 0.1
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class Times(NamedTuple):
    """Seconds of the lease, and what they are measured with; the clock runs on in a sleep."""

    beat_s: float = LEASE_BEAT_S
    lease_s: float = LEASE_S
    look_s: float = LOOK_S
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


@dataclass
class Held:
    """The lock as its holder has it; `lost` is set when another driver has taken over."""

    token: str
    place: str
    lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises StoreError when another driver has taken over."""
        if self.lost.is_set():
            raise StoreError(_taken_over(self.place))


def _taken_over(place: str) -> str:
    return f"another driver has taken over {place}; this one stops, all that was made is kept"


class Lock:
    """The lock of one run."""

    def __init__(self, files: Files, times: Times | None = None) -> None:
        self._files = files
        self._times = times or Times()
        self._place = files.address("")
        self._me = _me()

    @contextlib.contextmanager
    def hold(self) -> Iterator[Held]:
        """Holds the run for the time of a `with` block. Raises LockedError, which names the holder,
        and StoreError where the place cannot be written."""
        with contextlib.ExitStack() as stack:
            try:
                alone = stack.enter_context(self._flock())
                held = self.acquire(alone=alone)
            except OSError as error:
                raise StoreError(f"{self._place} cannot be made: {reason_of(error)}") from error
            stack.callback(self.release, held)
            stop = threading.Event()
            beat = threading.Thread(target=self._beat, args=(held, stop), daemon=True)
            beat.start()
            stack.callback(beat.join, self._times.beat_s)
            stack.callback(stop.set)
            yield held

    def acquire(self, *, alone: bool) -> Held:
        """Takes the lease. `alone`: no other driver of this host holds the run."""
        token = secrets.token_hex(8)
        claim = f"{CLAIMS}/{token}"
        try:
            self._wait_for_turn(token, claim, alone=alone)
            self._write_note(token, 0)
        finally:
            self._files.remove(claim)
        if self.note().get("token") != token:
            raise LockedError(self._refusal())
        return Held(token, self._place)

    def _wait_for_turn(self, token: str, claim: str, *, alone: bool) -> None:
        """Returns when no other claims the run and its last holder is gone."""
        times = self._times
        watch = _Watch(times)
        first = self.note()
        for count in itertools.count():
            claimed = times.clock()
            self._files.write(claim, self._told(token, count))
            others = [name for name, told in self._claims(token) if watch.is_living(name, told)]
            if others and min(others) < token:
                raise LockedError(self._refusal("another driver that starts now"))
            note = self.note()
            if not others:
                if _is_free(note, alone=alone) or not watch.is_living(NOTE, json.dumps(note)):
                    if times.clock() - claimed < times.lease_s / 2:
                        return
                    continue  # it slept, and others may have taken the claim for a dead one's
                if note != first:
                    raise LockedError(self._refusal())
            times.pause(times.look_s)

    def _claims(self, token: str) -> list[tuple[str, str]]:
        """The other drivers' claims that are not known to be dead, with what they tell."""
        found = []
        for name in sorted(entry.name for entry in self._files.entries(CLAIMS)):
            if name == token or name.startswith(TEMPORARY):
                continue
            with contextlib.suppress(FileNotFoundError):  # just withdrawn
                told = self._files.read(f"{CLAIMS}/{name}").decode(errors="replace")
                if not _is_dead(_parsed(told)):
                    found.append((name, told))
        return found

    def _refusal(self, who: str | None = None) -> str:
        holder = who or holder_of(self.note()) or "another driver"
        return f"{self._place} is in use by {holder}; wait for it, or stop it"

    def _told(self, token: str, count: int, *, released: bool = False) -> bytes:
        told = {**self._me, "token": token, "count": count, "released": released}
        return json.dumps({**told, "time": round(time.time(), 3)}).encode()

    def _write_note(self, token: str, count: int, *, released: bool = False) -> None:
        self._files.write(NOTE, self._told(token, count, released=released))

    def note(self) -> dict[str, Any]:
        """What the last holder tells: host, boot, space, pid, start, token, count, released, time
        (seconds since 1970 on the holder's clock); nothing where there was none."""
        try:
            return _parsed(self._files.read(NOTE).decode(errors="replace"))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def beat(self, held: Held, count: int) -> None:
        """Writes the holder's note anew, unless another has taken over: then the lock is lost. A
        store that fails now is asked again at the next beat."""
        with contextlib.suppress(OSError):
            if self.note().get("token") != held.token:
                held.lost.set()
            else:
                self._write_note(held.token, count)

    def _beat(self, held: Held, stop: threading.Event) -> None:
        count = 0
        while not held.lost.is_set() and not stop.wait(self._times.beat_s):
            count += 1
            self.beat(held, count)

    def release(self, held: Held) -> None:
        """Marks the note as released, if it is still this driver's."""
        with contextlib.suppress(OSError):
            if self.note().get("token") == held.token:
                self._write_note(held.token, 0, released=True)

    def is_held(self) -> bool:
        """Whether a living driver holds the run, as far as one look can tell: the note of another
        host counts while it is young by this host's clock."""
        if isinstance(self._files, LocalFiles) and _is_locked(self._files.root / "lock"):
            return True
        note = self.note()
        if _is_free(note, alone=isinstance(self._files, LocalFiles)):
            return False
        if _is_here(note):
            return True
        return abs(time.time() - float(note.get("time", 0))) < self._times.lease_s

    @contextlib.contextmanager
    def _flock(self) -> Iterator[bool]:
        """Whether this host's other drivers are kept out; false where no file can be locked."""
        if not isinstance(self._files, LocalFiles):
            yield False
            return
        self._files.root.mkdir(parents=True, exist_ok=True)
        with (self._files.root / "lock").open("a+", encoding="utf-8") as file:
            try:
                taken = _acquire(file)
            except OSError as error:
                if error.errno not in NO_FLOCK:
                    raise
                yield False
                return
            if not taken:
                raise LockedError(self._refusal())
            yield True


class _Watch:
    """Tells what changes from what does not, by one clock."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._seen: dict[str, tuple[str, float]] = {}

    def is_living(self, name: str, told: str) -> bool:
        """False once it has told the same for the time of a lease."""
        before, since = self._seen.get(name, (None, 0.0))
        if before != told:
            self._seen[name] = told, self._times.clock()
            return True
        return self._times.clock() - since < self._times.lease_s


def holder_of(note: dict[str, Any]) -> str | None:
    """Who took the lock last, in words."""
    return f"process {note['pid']} on {note['host']}" if {"pid", "host"} <= set(note) else None


def _parsed(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        told = json.loads(text)
        return told if isinstance(told, dict) else {}
    return {}


@cache
def _identity_of(pid: int) -> dict[str, Any]:
    """Which process of which boot this is; `boot` is empty where the system does not tell."""
    told = {"host": socket.gethostname(), "pid": pid, "boot": "", "space": "", "start": ""}
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        told |= {"boot": boot, "space": space, "start": _start_of(pid)}
    return told


def _me() -> dict[str, Any]:
    return _identity_of(os.getpid())


def _start_of(pid: int) -> str:
    """When a process was started, in the kernel's ticks: a number may be given out again."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return stat.rpartition(")")[2].split()[19]


def _is_here(note: dict[str, Any]) -> bool:
    """Whether its writer is, or was, a process that could be seen from here."""
    me = _me()
    return bool(me["boot"]) and all(note.get(name) == me[name] for name in ("boot", "space"))


def _is_dead(note: dict[str, Any]) -> bool:
    """Whether its writer is known to be dead; false where that cannot be seen from here."""
    if not _is_here(note):
        return False
    try:
        return bool(_start_of(int(note["pid"])) != note["start"])
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, KeyError, ValueError):
        return False


def _is_free(note: dict[str, Any], *, alone: bool) -> bool:
    """Nobody's, released, or of a driver that is known to be dead."""
    if not note or note.get("released"):
        return True
    me = _me()
    same = note.get("boot") == me["boot"] and note.get("host") == me["host"]
    return (alone and same) or _is_dead(note)


def _acquire(file: IO[str]) -> bool:
    """Tries for a moment: `status` looks at the lock by holding it for an instant."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
