"""What the machinery itself costs: many prompts, three fake teachers that answer at once.

Prints rows/s (a row is one scored completion) after start-up and in all, beside a plain loop in one
process that does the same work without files between the stages, the processor time of all
processes together (which other work on the machine hardly changes), and the peak memory of the
driver and of the whole tree (resident set; shared pages count once per process). Shards are large,
as they should be where an answer takes no time.

    python scripts/bench_overhead.py --prompts 20000 200000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from arbitrage.configfile import load
from arbitrage.engines import build_generator, build_scorer
from arbitrage.errors import ItemError
from arbitrage.identity import derive_seed, prompt_id
from arbitrage.records import Prompt
from arbitrage.resolve import resolve

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
POLL_S = 0.25
SHARD_SIZE = 4096
SENTENCES = {
    "en": "Please explain to my younger sister in simple words how a {} works and why we need one.",
    "de": "Bitte schreibe mir eine kurze Geschichte, in der ein {} und ein Kapitaen vorkommen.",
    "fr": "Pourriez-vous me dire comment choisir un bon {} sans trop depenser cette annee ?",
    "es": "Necesito que me ayudes a escribir una carta sobre el {} que he comprado esta semana.",
    "it": "Vorrei sapere quali sono i vantaggi di un {} moderno rispetto a quelli di una volta.",
    "nl": "Kun je mij uitleggen waarom een {} in de winter langzamer werkt dan in de zomer?",
}


@dataclass
class Result:
    """One run's figures; times in seconds, memory in MB."""

    prompts: int
    rows: int
    wall_s: float
    working_s: float
    cpu_s: float
    driver_mb: float
    tree_mb: float


def write_prompts(path: Path, count: int) -> None:
    """Distinct prompts with a declared language, from one seed."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            language, text = draw.choice(list(SENTENCES.items()))
            prompt = text.format(f"{draw.randrange(10**6):06d}-{number}")
            row = {"id": number, "language": language, "prompt": prompt}
            file.write(json.dumps(row) + "\n")


def write_config(folder: Path) -> Path:
    """Three fake teachers for all languages and a fake Arbiter."""
    teachers = "".join(
        f"  t{n}: {{engine: fake, languages: all, options: {{voice: v{n}, skill: 0.{n + 4}}}}}\n"
        for n in range(3)
    )
    path = folder / "bench.yaml"
    path.write_text(
        f"run: run\nprompts: {{sources: [{{path: prompts.jsonl}}], shard_size: {SHARD_SIZE}}}\n"
        f"teachers:\n{teachers}arbiter: {{engine: fake}}\n"
    )
    return path


def plain_loop(config: Path, prompts: Path) -> float:
    """Seconds that one process takes for the same answers, scores, choices and a Parquet file."""
    components = resolve(load(config).config)
    generators = [(t, build_generator(t)) for t in components.teachers]
    scorer = build_scorer(components.arbiter)
    start = time.perf_counter()

    async def work() -> list[tuple[str, str, str, float]]:
        rows = []
        for line in prompts.open(encoding="utf-8"):
            fields = json.loads(line)
            messages = [{"role": "user", "content": fields["prompt"]}]
            prompt = Prompt(prompt_id(messages), fields["language"], messages)  # type: ignore[arg-type]
            found = []
            for teacher, generator in generators:
                sampling = teacher.config.sampling[0]
                seed = derive_seed(0, prompt.id, teacher.fingerprint, 0)
                answer = (await generator.generate(prompt, sampling, [seed]))[0]
                if isinstance(answer, ItemError):
                    raise answer
                score = await scorer.score(prompt, answer.text)
                found.append((score, teacher.name, answer.text))
            score, name, text = max(found)
            rows.append((prompt.id, name, text, score))
        return rows

    rows = asyncio.run(work())
    columns = [pa.array(list(column)) for column in zip(*rows, strict=True)]
    pq.write_table(
        pa.table(columns, ["id", "teacher", "text", "score"]), config.parent / "p.parquet"
    )
    return time.perf_counter() - start


def measure(config: Path, prompts: int) -> Result:
    """Runs the command line in a process of its own and watches its memory."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "arbitrage.cli", "run", str(config), "--quiet"]
    process = subprocess.Popen(command)  # noqa: S603 - our own command
    driver = tree = 0.0
    cpu: dict[int, float] = {}
    while process.poll() is None:
        usage = tree_usage(process.pid)
        driver = max(driver, usage.get(process.pid, Usage(0, 0)).resident_mb)
        tree = max(tree, sum(one.resident_mb for one in usage.values()))
        cpu |= {pid: one.cpu_s for pid, one in usage.items()}
        time.sleep(POLL_S)
    wall = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"the run failed with exit code {process.returncode}")
    events = [json.loads(line) for line in (config.parent / "run/events.jsonl").open()]
    done = [event for event in events if event["event"] == "task_done"]
    begun = min(event["time"] - event["seconds"] for event in done)
    working = max(event["time"] for event in done) - begun
    rows = sum(event["rows"] for event in done if event["stage"] == "score")
    return Result(prompts, rows, wall, working, sum(cpu.values()), driver, tree)


class Usage(NamedTuple):
    """What one process holds and has used."""

    resident_mb: float
    cpu_s: float


def tree_usage(root: int) -> dict[int, Usage]:
    """Memory and processor time of a process and all below it."""
    parents: dict[int, int] = {}
    found: dict[int, Usage] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            pages = int((entry / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        parents[int(entry.name)] = int(state[1])
        used_s = (int(state[11]) + int(state[12])) / TICKS_PER_S
        found[int(entry.name)] = Usage(pages * PAGE_BYTES / 1e6, used_s)
    inside = {root}
    while grown := {pid for pid, parent in parents.items() if parent in inside} - inside:
        inside |= grown
    return {pid: found[pid] for pid in inside if pid in found}


def main() -> None:
    """Measures every size asked for, in one call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--keep", type=Path, help="leave the last run in this folder")
    args = parser.parse_args()
    print(f"{'prompts':>9} {'rows':>9} {'wall s':>7} {'work s':>7} {'rows/s':>8} "
          f"{'loop/s':>8} {'ratio':>6} {'CPU s':>6} {'driver MB':>10} {'tree MB':>8}")  # fmt: skip
    for count in args.prompts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_prompts(folder / "prompts.jsonl", count)
            config = write_config(folder)
            loop = 3 * count / plain_loop(config, folder / "prompts.jsonl")
            r = measure(config, count)
            rate = r.rows / r.working_s
            print(f"{count:9,} {r.rows:9,} {r.wall_s:7.1f} {r.working_s:7.1f} {rate:8,.0f} "
                  f"{loop:8,.0f} {rate / loop:6.2f} {r.cpu_s:6.1f} {r.driver_mb:10.0f} "
                  f"{r.tree_mb:8.0f}", flush=True)  # fmt: skip
            if args.keep:
                shutil.rmtree(args.keep, ignore_errors=True)
                shutil.copytree(folder, args.keep, symlinks=True)


if __name__ == "__main__":
    main()
