"""The proof that nothing is lost: runs are disturbed at random moments, started again until they
are complete, and compared with one that nobody disturbed.

Every run is `arbitrage run` over the command line, each start with other resources. Moments are a
Poisson process, so that each second of a run is as likely as any other: start-up, reading,
publishing, the very end. When a run directory is complete it is judged and the next one begun,
until all disturbances are done; the last one is then left to finish. Exit code 1 when a row is
lost, doubled or wrong, a data file differs, a start fails that nobody disturbed, or a run hangs.

    python scripts/chaos.py --kills 200
    python scripts/chaos.py --kills 40 --engine transformers --faults "kill replica" "kill driver"
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from chaos_faults import KINDS, Scene, tree
from chaos_workload import Verdict, Workload, compare, make_workload

HANG_S = 300.0
LOOK_S = 0.1
FAILURES = 3
"""So many starts in a row may fail, undisturbed, before a run directory is given up."""
WHOLE = "whole"


class Size(NamedTuple):
    """How much work a run is, and the mean time between disturbances."""

    prompts: int
    gap_s: float


SIZES = {"fake": Size(1200, 4.0), "transformers": Size(240, 10.0)}


class Hung(Exception):  # noqa: N818 - an outcome, not a mistake
    """A run makes no progress any more."""


@dataclass
class Campaign:
    """All disturbances of one call, and what became of them."""

    workload: Workload
    kinds: tuple[str, ...]
    kills: int
    gap_s: float
    draw: random.Random
    deck: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    restarted: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    starts: int = 0
    begun: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Disturbs one run directory after the other until all is done."""
        while self.done.total() < self.kills and not self.defects:
            run = f"{len(self.verdicts):03d}"
            self.complete(run)
            self.judge(run)

    def complete(self, run: str) -> None:
        """Starts a run again and again until it is complete."""
        failures = 0
        while failures < FAILURES:
            before = self.done.total()
            code = self.start(run)
            if code == 0:
                return
            failures = failures + 1 if self.done.total() == before else 0
        self.defects.append(f"{run}: {FAILURES} starts that nobody disturbed failed")

    def start(self, run: str) -> int:
        """One start of a run, disturbed until it ends; its exit code."""
        self.starts += 1
        path = self.workload.folder / f"log-{run}-{self.starts:03d}"
        with path.open("w", encoding="utf-8") as log:
            process = self.workload.start(run, log, self.draw)
        scene = Scene(self.workload, run, process, self.draw, path)
        suffered: list[str] = []
        try:
            code = self.disturb(scene, suffered)
        except Hung:
            self.defects.append(f"{run}: no progress for {HANG_S:.0f} s, see {path}")
            code = -1
        finally:
            leave(scene)
        if code and suffered:
            self.restarted[suffered[-1]] += 1
        self.note(scene, code, suffered)
        return code

    def disturb(self, scene: Scene, suffered: list[str]) -> int:
        """Waits and disturbs in turn until the driver ends; its exit code."""
        while (code := wait(scene, self.next_moment())) is None:
            name = self.next_kind()
            if not KINDS[name].disturb(scene):
                self.deck.append(name)  # there was nothing to disturb; at the next moment
                continue
            suffered.append(name)
            self.done[name] += 1
            total = self.done.total()
            spent = time.monotonic() - self.begun
            print(f"{spent:6.0f} s  {total:3d}/{self.kills}  run {scene.run}  {name}", flush=True)
            if KINDS[name].codes:
                return self.stopped(scene, name)
        return code

    def stopped(self, scene: Scene, name: str) -> int:
        """The exit code of a driver that cannot go on, or was asked not to."""
        code = wait(scene, None)
        if code is None:
            raise Hung
        if code not in KINDS[name].codes:
            scene.remarks.append(f"{name} ended with {code}")
        return code

    def next_moment(self) -> float | None:
        """Seconds until the next disturbance; none when all are done."""
        if self.done.total() >= self.kills:
            return None
        return self.draw.expovariate(1 / self.gap_s)

    def next_kind(self) -> str:
        """From a shuffled deck: each kind once at first, then by weight."""
        if not self.deck:
            weights = {name: KINDS[name].weight if self.done else 1 for name in self.kinds}
            self.deck = [name for name, weight in weights.items() for _ in range(weight)]
            self.draw.shuffle(self.deck)
        return self.deck.pop()

    def note(self, scene: Scene, code: int, suffered: list[str]) -> None:
        """Keeps what should not be, with the end of the log."""
        text = scene.log.read_text(encoding="utf-8", errors="replace")
        after = f"start {self.starts} of run {scene.run}, after {suffered or 'nothing'}"
        if "Traceback (most recent call last)" in text and suffered[-1:] != ["SIGINT"]:
            scene.remarks.append(f"a traceback, exit code {code}: {last_line(text)}")
        elif code > 0 and not suffered:
            scene.remarks.append(f"exit code {code}: {last_line(text)}")
        self.remarks += [f"{after}: {remark}" for remark in scene.remarks]
        told = last_line(text) if code else ""
        print(f"{'':9} start {self.starts} of run {scene.run} ended with {code} {told}", flush=True)

    def judge(self, run: str) -> None:
        """Compares a complete run and removes it if it is as it should be."""
        verdict = compare(self.workload.runs / WHOLE, self.workload.runs / run)
        self.verdicts[run] = verdict
        print(f"{'':9} run {run}: {verdict.told()}", flush=True)
        if verdict.is_good:
            shutil.rmtree(self.workload.runs / run)

    @property
    def is_good(self) -> bool:
        """Whether every run is as it should be."""
        return not self.defects and all(v.is_good for v in self.verdicts.values())

    def table(self) -> str:
        """What happened, a line per kind, and the verdict."""
        lines = [f"{'disturbance':16} {'times':>6} {'went on':>8} {'started again':>14}"]
        rows = [(name, self.done[name], self.restarted[name]) for name in self.kinds]
        rows.append(("all", self.done.total(), self.restarted.total()))
        for name, times, again in rows:
            lines.append(f"{name:16} {times:6} {times - again:8} {again:14}")
        asked = sum(self.workload.asked(run) for run in self.verdicts)
        needed = self.workload.asked(WHOLE) * len(self.verdicts)
        lines.append(
            f"{asked:,} completions asked for, {needed:,} needed: "
            f"{asked / max(1, needed) - 1:.1%} of the work was repeated"
        )
        lines.append(f"{self.starts} starts of {len(self.verdicts)} runs, "
                     f"{time.monotonic() - self.begun:.0f} s")  # fmt: skip
        lines += [f"remark: {remark}" for remark in self.remarks]
        lines += [f"defect: {defect}" for defect in self.defects]
        total = Verdict()
        for verdict in self.verdicts.values():
            total.add(verdict)
        lines.append(f"{'good' if self.is_good else 'BAD'}: {total.told()}")
        return "\n".join(lines)


def wait(scene: Scene, seconds: float | None) -> int | None:
    """The driver's exit code, or none after so many seconds; Hung when nothing happens at all."""
    begun = time.monotonic()
    diary = scene.workload.runs / scene.run / "events.jsonl"
    seen, since = -1, begun
    while (code := scene.process.poll()) is None:
        now = time.monotonic()
        if seconds is not None and now - begun >= seconds:
            return None
        size = diary.stat().st_size if diary.exists() else 0
        if size != seen:
            seen, since = size, now
        elif now - since > HANG_S:
            raise Hung
        left = seconds - (now - begun) if seconds is not None else LOOK_S
        time.sleep(min(LOOK_S, left))
    return code


def leave(scene: Scene) -> None:
    """Ends what is left of a start: a hung driver and its tree, and what was frozen for good."""
    pids = [scene.process.pid, *tree(scene.process.pid)] if scene.alive else []
    for pid in [*pids, *scene.frozen]:
        scene.kill(pid, signal.SIGKILL)
    scene.process.wait()
    scene.workload.fault.unlink(missing_ok=True)


def last_line(text: str) -> str:
    """The last line that says something, short."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


def undisturbed(workload: Workload) -> None:
    """The run that all others are held against."""
    path = workload.folder / "log-whole"
    begun = time.monotonic()
    with path.open("w", encoding="utf-8") as log:
        code = workload.start(WHOLE, log, None).wait()
    if code:
        sys.exit(f"the undisturbed run ended with {code}: {last_line(path.read_text())}")
    print(f"undisturbed: {time.monotonic() - begun:.0f} s, {workload.asked(WHOLE):,} completions")


def arguments(words: list[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    usual = [name for name, kind in KINDS.items() if kind.usual]
    parser.add_argument("--kills", type=int, default=200, help="disturbances in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=sorted(SIZES), default="fake")
    parser.add_argument("--faults", nargs="+", choices=list(KINDS), default=usual, metavar="KIND",
                        help=f"kinds of disturbance: {', '.join(KINDS)}")  # fmt: skip
    parser.add_argument("--prompts", type=int, help="of one run")
    parser.add_argument("--gap", type=float, help="mean seconds between disturbances")
    parser.add_argument(
        "--keep", type=Path, help="leave runs that differ, and logs, in this folder"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Disturbs, compares, prints; the exit code."""
    args = arguments(words)
    size = SIZES[args.engine]
    with tempfile.TemporaryDirectory(prefix="arbitrage-chaos-") as name:
        folder = (args.keep or Path(name)).resolve()
        workload = make_workload(folder, args.engine, args.prompts or size.prompts)
        undisturbed(workload)
        draw = random.Random(args.seed)
        gap_s = args.gap or size.gap_s
        campaign = Campaign(workload, tuple(args.faults), args.kills, gap_s, draw)
        campaign.run()
        print(campaign.table())
        return 0 if campaign.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
