"""Labelled pairs of the micro-world: the right answer to a held-out question against a wrong one.

Every question with every kind of wrong answer, in all languages, as `arbitrage arbiter check` reads
them. The same file each time it is made.

    python scripts/micro_pairs.py runs/micro_pairs.jsonl
    arbitrage arbiter check configs/quickstart.yaml --pairs runs/micro_pairs.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micro_world import read_lexicons, world
from micro_wrong import KINDS, WrongAnswers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?", default=ROOT / "runs/micro_pairs.jsonl")
    path: Path = parser.parse_args(arguments).path
    rows = [json.dumps(row, ensure_ascii=False) for row in pairs()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"wrote {len(rows):,} pairs to {path}")


def pairs() -> Iterator[dict[str, Any]]:
    """One row per held-out question and kind of wrong answer."""
    lexicons = read_lexicons()
    heldout = world(lexicons).heldout
    wrong = WrongAnswers(lexicons, heldout)
    for example in heldout:
        for kind in KINDS:
            yield {
                "id": f"{example.name}/{kind}",
                "language": example.language,
                "prompt": example.prompt,
                "chosen": example.answer,
                "rejected": wrong.of(example, kind, random.Random(example.name)),
                "category": kind,
            }


if __name__ == "__main__":
    main()
