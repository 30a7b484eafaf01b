"""What a replica's process does beside its tasks: it makes ready for the role that comes next."""

from __future__ import annotations

import asyncio
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from arbitrage import readahead
from arbitrage.desk import Desk
from arbitrage.readahead import available_bytes, read_ahead
from arbitrage.resolve import resolve
from arbitrage.store import Store
from arbitrage.worker import Worker
from harness import fake, make_config

CHUNK = 1000
SIZES = {"model.safetensors": 10 * CHUNK + 7, "config.json": 12, "more/a.safetensors": CHUNK}
ALL = sum(SIZES.values())


def write(folder: Path, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
    return folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that are read in small chunks, with memory enough."""
    monkeypatch.setattr(readahead, "CHUNK_BYTES", CHUNK)
    remember(tmp_path, monkeypatch, 10 * ALL)
    return write(tmp_path / "model", {**SIZES, ".cache/hidden": 99})


def remember(folder: Path, monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    """The system tells so many bytes of memory."""
    told = folder / "meminfo"
    told.write_text(f"MemTotal: 999999999 kB\nMemAvailable:   {available // 1024} kB\n")
    monkeypatch.setattr(readahead, "MEMORY", told)


def worker(folder: Path, teacher: dict[str, Any]) -> tuple[Worker, str]:
    """A worker at work, and a role that it does not serve."""
    config = make_config(folder, {"a": fake(), "next": {"languages": "all", **teacher}})
    components = resolve(config)
    desk = Desk(Store(folder), config, components)
    desk.engine = object()  # type: ignore[assignment]
    return Worker(desk), components.teachers[1].fingerprint


class Watched(io.FileIO):
    """A file that tells what is read of it."""

    told: Counter[str]

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        self.told[Path(str(self.name)).name] += count
        return count


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes that are read without a buffer, by the name of the file."""
    found: Counter[str] = Counter()
    monkeypatch.setattr(Watched, "told", found, raising=False)
    usual = Path.open

    def watched(path: Path, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
        if buffering == 0:
            return Watched(path, mode)
        return usual(path, mode, buffering, *more, **named)

    monkeypatch.setattr(Path, "open", watched)
    return found


def test_the_model_and_the_adapter_of_the_next_role_are_read_whole(
    tmp_path: Path, model: Path, read: Counter[str]
) -> None:
    adapter = write(tmp_path / "adapter", {"adapter.safetensors": 2 * CHUNK})
    told = {"engine": "vllm", "model": str(model), "options": {"lora": str(adapter)}}
    vllm, owner = worker(tmp_path, told)
    assert asyncio.run(vllm.prepare(owner)) == ALL + 2 * CHUNK
    whole = {Path(name).name: size for name, size in SIZES.items()}
    assert read == whole | {"adapter.safetensors": 2 * CHUNK}


def test_an_arbiter_is_prepared_too(tmp_path: Path, model: Path) -> None:
    config = make_config(
        tmp_path, {"a": fake()}, arbiter={"engine": "transformers", "model": str(model)}
    )
    components = resolve(config)
    replica = Worker(Desk(Store(tmp_path), config, components))
    assert asyncio.run(replica.prepare(components.arbiter.fingerprint)) == ALL


def test_nothing_is_read_for_a_model_that_is_not_loaded_from_a_folder_here(
    tmp_path: Path, model: Path, read: Counter[str]
) -> None:
    served = {"options": {"base_url": "http://host.example/v1"}, "model": str(model)}
    for teacher in (
        fake(model=str(model), options={"voice": "other"}),
        {"engine": "endpoint", **served},
        {"engine": "transformers", "model": "org/model"},
    ):
        replica, owner = worker(tmp_path, teacher)
        assert asyncio.run(replica.prepare(owner)) == 0
    assert not read


def test_a_folder_that_is_gone_or_cannot_be_read_is_left_to_the_load(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, owner = worker(tmp_path, {"engine": "transformers", "model": str(model)})

    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("arbitrage.readahead._chunks", broken)
        assert asyncio.run(replica.prepare(owner)) == 0
    monkeypatch.setattr(readahead, "MEMORY", tmp_path / "not there")
    assert asyncio.run(replica.prepare(owner)) == 0
    model.rename(tmp_path / "elsewhere")
    assert asyncio.run(replica.prepare(owner)) == 0


def test_reading_ahead_needs_twice_the_memory_of_what_is_left(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(tmp_path, monkeypatch, 2 * ALL - 1024)
    assert read_ahead([model], lambda: True) == 0
    remember(tmp_path, monkeypatch, 2 * ALL + 1024)
    assert read_ahead([model], lambda: True) == ALL
    asked: list[int] = []

    def shrinks() -> bool:
        """Something else takes all the memory after three chunks."""
        asked.append(1)
        if len(asked) == 4:
            remember(tmp_path, monkeypatch, 0)
        return True

    assert read_ahead([model], shrinks) == 12 + 2 * CHUNK


@pytest.mark.parametrize("ends", ["halted", "unloaded"])
def test_reading_ahead_ends_with_the_turn(tmp_path: Path, model: Path, ends: str) -> None:
    replica, owner = worker(tmp_path, {"engine": "transformers", "model": str(model)})
    engine, asked = Closing(), iter(range(100))
    replica._desk.engine = engine  # type: ignore[assignment]

    async def interrupted() -> int:
        loop = asyncio.get_running_loop()

        def end() -> None:
            done = replica.halt() if ends == "halted" else replica.unload()
            asyncio.run_coroutine_threadsafe(done, loop).result(10)

        def available() -> int:
            if next(asked) == 2:
                end()
            return 10 * ALL

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(readahead, "available_bytes", available)
            return await replica.prepare(owner)

    assert asyncio.run(interrupted()) == 12 + 2 * CHUNK
    assert engine.closed is (ends == "unloaded")


class Closing:
    """An engine of which only the end matters."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_file_that_shrinks_while_it_is_read_is_no_endless_loop(model: Path) -> None:
    asked = iter(range(100))

    def goes_on() -> bool:
        if next(asked) == 2:
            os.truncate(model / "model.safetensors", CHUNK)
        return True

    assert read_ahead([model], goes_on) == 12 + CHUNK + CHUNK


def test_the_memory_of_this_machine_is_told() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes() <= whole
