"""What `chaos.py` runs, over and over: a config, its prompts, and how two runs are compared.

The same config with the same seed gives the same rows, however often it was interrupted and with
however many replicas; `compare` holds a disturbed run against an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[1]
FAULTS = Path(__file__).resolve().parent / "faults"
LANGUAGES = ("de", "en", "fr", "sw")
REPLICAS = (1, 2, 3)
CPUS = (2, 3, 4)
EXAMPLES = 5
HANG_S = 8
GCS_PATIENCE_S = 10
"""Ray itself waits a minute for a gcs_server that was killed; most of a campaign would be that."""
LEFTOVERS = (".tmp-*", ".journal-*")
KEYS = {
    "candidates": ("prompt_id", "sample"),
    "selected": ("prompt_id",),
    "quarantine": ("stage", "reason", "prompt_id", "source", "line", "detail"),
}
"""What tells the rows of one folder apart."""


@dataclass(frozen=True)
class Workload:
    """A config in a folder of its own. Below `runs` lie the run directories."""

    folder: Path
    teachers: tuple[str, ...]

    @property
    def runs(self) -> Path:
        """Where the store fails on demand."""
        return self.folder / "runs"

    @property
    def fault(self) -> Path:
        """The file that makes the store fail, see `faults/sitecustomize.py`."""
        return self.folder / "fault.json"

    def asked(self, run: str) -> int:
        """Completions that the teachers were asked for in a run, wasted ones too."""
        path = self.folder / f"asked-{run}"
        return path.stat().st_size if path.exists() else 0

    def start(self, run: str, log: IO[str], draw: random.Random | None) -> subprocess.Popen[str]:
        """Starts `arbitrage run`, with resources by chance where `draw` is given."""
        command = [sys.executable, "-m", "arbitrage.cli", "run", str(self.folder / "chaos.yaml")]
        command += ["-q", "--set", f"run={self.runs / run}"]
        if draw is not None:
            command += ["--set", f"cluster.cpus={draw.choice(CPUS)}"]
            for name in self.teachers:
                command += ["--set", f"teachers.{name}.resources.replicas={draw.choice(REPLICAS)}"]
        paths = [str(FAULTS), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        told = {
            "PYTHONPATH": os.pathsep.join(paths),
            "ARBITRAGE_CHAOS_FAULT": str(self.fault),
            "ARBITRAGE_CHAOS_ASKED": str(self.folder / f"asked-{run}"),
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(GCS_PATIENCE_S),
        }
        return subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdout=log,
            stderr=log,
            text=True,
            env=os.environ | told,
            start_new_session=True,
        )


def make_workload(folder: Path, engine: str, prompts: int) -> Workload:
    """Writes the config and its prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    make = {"fake": _fake, "transformers": _transformers}[engine]
    rows, config = make(prompts)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    for served in (config["arbiter"], *config["teachers"].values()):
        served["resources"] = {"cpus": 1, "hang_s": HANG_S, **served.get("resources", {})}
    told = {"run": "runs/whole", "seed": 5, **config, "cluster": {"cpus": 4}}
    (folder / "chaos.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return Workload(folder, tuple(config["teachers"]))


def _fake(prompts: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Three teachers, sampling groups, gates that fail, prompts that fail."""
    rows = [
        {
            "id": f"u{n}",
            "language": LANGUAGES[n % len(LANGUAGES)],
            "prompt": f"q {n}",
            "topic": n % 7,
        }
        for n in range(prompts)
    ]
    options: dict[str, dict[str, Any]] = {
        "a": {"delay_s": 0.5},
        "b": {"delay_s": 0.6, "fail": 0.05, "truncate": 0.1},
        "c": {"delay_s": 0.4, "empty": 0.1, "truncate": 0.2, "load_s": 0.5},
    }
    teachers: dict[str, Any] = {
        name: {"engine": "fake", "languages": "all", "options": {"voice": name, **told}}
        for name, told in options.items()
    }
    teachers["a"]["sampling"] = [{"temperature": 0}, {"n": 2}]
    teachers["b"]["languages"] = ["de", "fr"]
    teachers["c"]["languages"] = ["de", "en", "fr"]
    return rows, {
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 50},
        "teachers": teachers,
        "arbiter": {"engine": "fake", "options": {"delay_s": 0.05, "fail": 0.03}},
    }


def _transformers(prompts: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The demonstration's models on some of its prompts, with short answers."""
    micro = ROOT / "data" / "micro"
    lines = (micro / "heldout" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(0).sample(lines, min(prompts, len(lines)))]
    common = {"engine": "transformers", "options": {"dtype": "float32"}}
    asked: dict[str, dict[str, Any]] = {
        "generalist": {"languages": "all"},
        "germanic": {"families": ["germanic"]},
        "romance": {"families": ["romance"]},
    }
    groups = [{"temperature": 0, "max_tokens": 16}, {"n": 2, "max_tokens": 16}]
    teachers = {
        name: {
            **common,
            **told,
            "model": str(micro / "models" / name),
            "sampling": groups,
            "resources": {"batch_size": 16},
        }
        for name, told in asked.items()
    }
    arbiter = {**common, "model": str(micro / "models/arbiter"), "resources": {"batch_size": 16}}
    sources = [{"path": "prompts.jsonl"}]
    prompt_set = {"sources": sources, "shard_size": 24, "contradiction": "ignore"}
    return rows, {"prompts": prompt_set, "teachers": teachers, "arbiter": arbiter}


@dataclass
class Verdict:
    """What a disturbed run has other than an undisturbed one; rows of all kinds in `KEYS`."""

    rows: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    files: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing differs."""
        return not (self.lost or self.doubled or self.wrong or self.files or self.leftovers)

    def add(self, other: Verdict) -> None:
        """Counts another run in."""
        self.rows += other.rows
        self.lost += other.lost
        self.doubled += other.doubled
        self.wrong += other.wrong
        self.files += other.files
        self.leftovers += other.leftovers
        self.examples = (self.examples + other.examples)[:EXAMPLES]

    def told(self) -> str:
        """One line, and the first differences."""
        line = (
            f"{self.rows:,} rows: {self.lost} lost, {self.doubled} doubled, {self.wrong} wrong; "
            f"{len(self.files)} data files differ, {len(self.leftovers)} left half-written"
        )
        return "\n  ".join(
            [line, *self.examples, *self.files[:EXAMPLES], *self.leftovers[:EXAMPLES]]
        )


def compare(whole: Path, run: Path) -> Verdict:
    """Holds a finished run against an undisturbed one, row by row and byte by byte."""
    wanted, found = rows_of(whole), rows_of(run)
    verdict = Verdict(rows=sum(map(len, wanted.values())))
    for key in sorted(wanted.keys() | found.keys()):
        _judge(key, wanted.get(key, []), found.get(key, []), verdict)
    ours, theirs = digests(whole), digests(run)
    verdict.files = sorted({path for path, _ in ours.items() ^ theirs.items()})
    left = [path for name in LEFTOVERS for path in run.rglob(name)]
    verdict.leftovers = sorted(str(path.relative_to(run)) for path in left)
    return verdict


def _judge(key: str, wanted: list[str], found: list[str], verdict: Verdict) -> None:
    if Counter(wanted) == Counter(found):
        return
    missing = len(wanted) - len(found)
    if missing > 0:
        word = "lost"
        verdict.lost += missing
    elif missing < 0 and wanted:
        word = "doubled"
        verdict.doubled -= missing
    else:
        word = "wrong"
        verdict.wrong += len(found)
    if len(verdict.examples) < EXAMPLES:
        verdict.examples.append(f"{word}: {key}: {wanted} became {found}")


def rows_of(run: Path) -> dict[str, list[str]]:
    """All rows as JSON, by folder and key, of every kind in `KEYS`."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in data_files(run):
        folder = path.relative_to(run).parent.as_posix()
        names = KEYS.get(folder.split("/", 1)[0])
        for row in pq.read_table(path).to_pylist() if names else ():
            key = json.dumps([folder, *(row[name] for name in names or ())])
            found[key].append(json.dumps(row, sort_keys=True, default=str))
    return dict(found)


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every data file, by relative path."""
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data_files(run)
    }


def data_files(run: Path) -> list[Path]:
    """Every data file once; `selected/latest` only leads to some of them."""
    return [path for path in sorted(run.rglob("*.parquet")) if "latest" not in path.parts]
