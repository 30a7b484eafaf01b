"""What a merge costs beside plain copying, and how much memory it needs, on models of real shapes.

Writes Llama-shaped checkpoints of random bfloat16 numbers (vocabulary of Llama 3, files of 5 GB)
and merges them by `arbitrage merge` in a process of its own. Plain copying reads the same inputs
once and writes one result, in as many threads: what any merge must do at least. Both begin with
nothing of the inputs in the page cache and end with all on the disk; they are measured in turns.
Seconds are of the whole command, its start included; GB/s counts every input and the result once,
though slerp reads its inputs twice, and ties three times.

    python scripts/bench_merge.py --disk 0.6
    python scripts/bench_merge.py --parameters 1e9 --methods linear ties --repeats 3
    python scripts/bench_merge.py --parameters 4e9 --linked    # memory alone, in half the room
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VOCABULARY = 128_256
FILE_BYTES = 5 * 10**9
ITEM_BYTES = 2
POOL_NUMBERS = 1 << 25
COPY_BYTES = 1 << 23
POLL_S = 0.02
MODELS = ("base", "first", "second")
WITHOUT_BASE = ("linear", "slerp")
SETTINGS = {name: {"density": 0.2} for name in ("ties", "dare_linear", "dare_ties")}
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties")


class Shape(NamedTuple):
    """A family of models: the sizes of its layers."""

    hidden: int
    inner: int
    keys: int

    @property
    def layer(self) -> dict[str, tuple[int, ...]]:
        """The tensors of one layer."""
        attention = {"q_proj": self.hidden, "k_proj": self.keys, "v_proj": self.keys}
        return {
            **{f"self_attn.{key}.weight": (size, self.hidden) for key, size in attention.items()},
            "self_attn.o_proj.weight": (self.hidden, self.hidden),
            "mlp.gate_proj.weight": (self.inner, self.hidden),
            "mlp.up_proj.weight": (self.inner, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.inner),
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
        }

    def tensors(self, layers: int) -> dict[str, tuple[int, ...]]:
        """All tensors of a model with so many layers."""
        return {
            "model.embed_tokens.weight": (VOCABULARY, self.hidden),
            **{
                f"model.layers.{number}.{name}": shape
                for number in range(layers)
                for name, shape in self.layer.items()
            },
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (VOCABULARY, self.hidden),
        }


FAMILIES = (
    *(Shape(256, 1024, 128), Shape(1024, 4096, 256)),
    *(Shape(2048, 8192, 512), Shape(3072, 8192, 1024), Shape(4096, 14336, 1024)),
)
"""The last three are those of Llama 3.2 1B and 3B, and of Llama 3.1 8B."""


@dataclass
class Figures:
    """What was measured of one method. Seconds, and bytes of resident memory."""

    method: str
    moved: int
    merging_s: list[float] = field(default_factory=list)
    copying_s: list[float] = field(default_factory=list)
    peak: int = 0


def numbers_of(tensors: dict[str, tuple[int, ...]]) -> int:
    """The parameters of a model."""
    return sum(int(np.prod(shape)) for shape in tensors.values())


def shapes_of(wanted: float) -> tuple[Shape, int]:
    """The family and the layers that come nearest to so many parameters: the widest with eight
    layers or more."""
    fitting = [shape for shape in FAMILIES if numbers_of(shape.tensors(8)) <= wanted]
    shape = fitting[-1] if fitting else FAMILIES[0]
    layer = numbers_of(shape.tensors(1)) - numbers_of(shape.tensors(0))
    return shape, max(1, round((wanted - numbers_of(shape.tensors(0))) / layer))


def write_model(folder: Path, shape: Shape, layers: int, seed: int) -> None:
    """A model of random numbers, the same for the same seed."""
    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    files = list(_files(shape.tensors(layers)))
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        places |= dict.fromkeys(tensors, name)
        _write_file(folder / name, tensors, np.random.default_rng([seed, number]))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers,
        "intermediate_size": shape.inner,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    told = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary}}
    (folder / "tokenizer.json").write_text(json.dumps({**told, "merges": []}))


def _files(tensors: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Tensors by file."""
    group: dict[str, tuple[int, ...]] = {}
    for name, shape in tensors.items():
        if group and (numbers_of(group) + int(np.prod(shape))) * ITEM_BYTES > FILE_BYTES:
            yield group
            group = {}
        group[name] = shape
    yield group


def _write_file(
    path: Path, tensors: dict[str, tuple[int, ...]], source: np.random.Generator
) -> None:
    header, place = {}, 0
    for name, shape in tensors.items():
        end = place + int(np.prod(shape)) * ITEM_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    normal = source.standard_normal(POOL_NUMBERS, dtype=np.float32) * np.float32(0.02)
    pool = (normal.view(np.uint32) >> 16).astype(np.uint16)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = place // ITEM_BYTES
        while left:
            turned = np.roll(pool, int(source.integers(POOL_NUMBERS)))[:left]
            file.write(turned.data)
            left -= len(turned)
        file.flush()
        os.fsync(file.fileno())


def link_model(folder: Path, like: Path) -> None:
    """The same files once more, without taking room for them."""
    folder.mkdir()
    for path in like.iterdir():
        os.link(path, folder / path.name)


def weights_in(folders: Sequence[Path]) -> list[Path]:
    """The files of weights of some models."""
    return [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]


def forget(paths: Sequence[Path]) -> None:
    """Takes files out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_plainly(folders: Sequence[Path], target: Path, threads: int) -> float:
    """Seconds to read all models once and to write the first of them anew."""
    groups = list(zip(*(sorted(folder.glob("*.safetensors")) for folder in folders), strict=True))
    forget(weights_in(folders))
    target.mkdir()
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            reading = [os.open(path, os.O_RDONLY) for path in group]
            size = group[0].stat().st_size
            writing = os.open(target / group[0].name, os.O_WRONLY | os.O_CREAT)
            os.posix_fallocate(writing, 0, size)

            def copy(place: int, reading: list[int] = reading, writing: int = writing) -> None:
                parts = [os.pread(handle, COPY_BYTES, place) for handle in reading]
                os.pwrite(writing, parts[0], place)

            list(pool.map(copy, range(0, size, COPY_BYTES)))
            os.fsync(writing)
            for handle in [*reading, writing]:
                os.close(handle)
    taken = time.perf_counter() - begun
    shutil.rmtree(target)
    return taken


def write_config(
    path: Path, method: str, folders: dict[str, Path], threads: int
) -> dict[str, Path]:
    """A merge's config; gives the models that it reads."""
    known = dict(list(folders.items())[:2]) if method == "slerp" else folders
    models = {name: str(folder) for name, folder in known.items()}
    told = {"method": method, **SETTINGS.get(method, {}), "threads": threads}
    if method not in WITHOUT_BASE:
        told["base"] = models.pop("base")
    else:
        models["origin"] = models.pop("base")
    path.write_text(yaml.safe_dump({**told, "models": models}))
    return known


def merge(config: Path, target: Path) -> tuple[float, int]:
    """Seconds and peak resident memory of one merge. Raises SystemExit where it fails."""
    command = [sys.executable, "-m", "arbitrage.cli"]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "merge", str(config), "-o", str(target), "-q"])  # noqa: S603
    peak = 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(POLL_S)
    taken = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"the merge of {config} failed with exit code {process.returncode}")
    shutil.rmtree(target)
    return taken, peak


def _peak(process: int) -> int:
    """Its peak resident memory so far; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def measure(options: argparse.Namespace, root: Path, folders: dict[str, Path]) -> list[Figures]:
    """All methods, as often as is wanted, beside copying."""
    found: dict[str, Figures] = {}
    for _ in range(options.repeats):
        for method in options.methods:
            config = root / f"{method}.yaml"
            known = list(write_config(config, method, folders, options.threads).values())
            size = sum(path.stat().st_size for path in weights_in(known))
            figures = found.setdefault(method, Figures(method, size + size // len(known)))
            if not options.linked:
                figures.copying_s.append(copy_plainly(known, root / "copied", options.threads))
            forget(weights_in(known))
            taken, peak = merge(config, root / "merged")
            figures.merging_s.append(taken)
            figures.peak = max(figures.peak, peak)
            copied = f", copied in {figures.copying_s[-1]:.1f} s" if figures.copying_s else ""
            print(f"{method}: merged in {taken:.1f} s{copied}", flush=True)
    return list(found.values())


def table_of(found: Sequence[Figures], title: str) -> Table:
    """One row per method; no speeds where inputs are one file in truth."""
    table = Table("method", title=title)
    for name in ("seconds", "GB/s", "copying, s", "of copying", "peak MB"):
        table.add_column(name, justify="right")
    for one in found:
        peak = f"{one.peak / 1e6:,.0f}"
        if not one.copying_s:
            table.add_row(one.method, "-", "-", "-", "-", peak)
            continue
        merging, copying = statistics.median(one.merging_s), statistics.median(one.copying_s)
        speeds = (f"{merging:.1f}", f"{one.moved / merging / 1e9:.2f}", f"{copying:.1f}")
        table.add_row(one.method, *speeds, f"{copying / merging:.0%}", peak)
    return table


def make_models(options: argparse.Namespace, root: Path) -> tuple[dict[str, Path], int]:
    """The inputs, and the parameters of each. Raises SystemExit where the disk is too small."""
    free = shutil.disk_usage(root).free
    copies = 2 if options.linked else len(MODELS) + 1
    wanted = options.parameters or options.disk * free / copies / ITEM_BYTES
    shape, layers = shapes_of(wanted)
    parameters = numbers_of(shape.tensors(layers))
    needed = parameters * ITEM_BYTES * copies
    if needed > 0.95 * free:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    folders = {name: root / name for name in MODELS}
    for number, (name, folder) in enumerate(folders.items()):
        if number and options.linked:
            link_model(folder, folders[MODELS[0]])
        else:
            write_model(folder, shape, layers, number)
        print(f"wrote {name}: {parameters / 1e9:.2f} B parameters, {layers} layers", flush=True)
    return folders, parameters


def main() -> None:
    """Makes the models, measures, prints the table, and removes everything again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, help="of one model, such as 2.5e9")
    parser.add_argument("--disk", type=float, default=0.3, help="or: the share of the free disk")
    parser.add_argument("--methods", nargs="+", default=METHODS[:4], choices=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--linked", action="store_true", help="all inputs are one: memory alone")
    parser.add_argument("--folder", type=Path, help="where the models are made; none: a new one")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    root = Path(tempfile.mkdtemp(prefix="merge-", dir=options.folder))
    try:
        folders, parameters = make_models(options, root)
        title = f"{parameters / 1e9:.2f} B parameters, bfloat16, {options.threads} threads"
        Console().print(table_of(measure(options, root, folders), title))
    finally:
        if options.keep:
            print(f"kept {root}")
        else:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
