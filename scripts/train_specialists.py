"""Trains a specialist per language family from the shipped generalist, to be merged.

Each family of `data/micro/pool.yaml` gets a short fine-tune in its own languages and in the shared
ones, English, Spanish and French, which every specialist keeps (as in Aya Expanse, arXiv
2412.04261). All start from the same weights and have the same steps, so that they can be merged.
No held-out question is among the examples. What is there with the same record is not trained again.

    python scripts/train_specialists.py                    # writes runs/specialists
    python scripts/train_specialists.py --seed 8 --out runs/specialists-8
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from micro_cards import specialist_card
from micro_training import Recipe, save, train_teacher
from micro_world import LexiconError, read_lexicons, world
from train_micro import GENERALIST, MODELS, RECORD, digest, read_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from micro_world import Example

BASE = MODELS / GENERALIST
OUT = Path(__file__).resolve().parents[1] / "runs/specialists"
SHARED = ("en", "es", "fr")
STEPS, RATE = 200, 1e-3
TOLD_EVERY = 50  # steps


def specialties() -> dict[str, list[str]]:
    """Specialist name to the languages that it is trained in: its family's, and the shared ones."""
    pool = read_pool()
    return {name: sorted({*codes, *SHARED}) for name, codes in pool.items() if name != GENERALIST}


def recipe_of(seed: int, steps: int = STEPS, rate: float = RATE) -> Recipe:
    """As the teachers were trained, but shorter and at a lower rate."""
    return Recipe(seed=seed, teacher_steps=steps, rate=rate)


def train_all(out: Path, recipe: Recipe, workers: int) -> None:
    """What is missing, side by side, into folders of `out`."""
    examples = world(read_lexicons()).train
    context = multiprocessing.get_context("spawn")
    wanted = {}
    for name, codes in specialties().items():
        own = [example for example in examples if example.language in codes]
        record = record_of(recipe, codes, own)
        if is_there(out / name, record):
            print(f"{name} is there")
        else:
            wanted[name] = (own, recipe, record)
    with ProcessPoolExecutor(workers, mp_context=context) as processes:
        jobs = [processes.submit(_train_one, out / name, *told) for name, told in wanted.items()]
        for job in jobs:
            job.result()


def record_of(recipe: Recipe, codes: Sequence[str], own: Sequence[Example]) -> dict[str, Any]:
    """What makes a specialist's weights; equal records are equal models."""
    return {
        "recipe": asdict(recipe),
        "base": hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest(),
        "examples": {"count": len(own), "digest": digest(own)},
        "languages": list(codes),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def is_there(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the folder holds this very specialist. Exits with a sentence where it holds what
    this script has not written."""
    if not folder.exists():
        return False
    path = folder / RECORD
    if not path.is_file():
        sys.exit(f"error: {folder} holds something else than a specialist; name another --out")
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known == record


def _train_one(
    folder: Path, own: Sequence[Example], recipe: Recipe, record: dict[str, Any]
) -> None:
    """Trains, and gives the folder its name when it is complete."""
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(BASE)
    model = transformers.LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    source = random.Random(f"{recipe.seed}/{folder.name}/specialist")
    tell = _teller(folder.name, recipe.teacher_steps)
    train_teacher(model, tokenizer, own, recipe, recipe.teacher_steps, source, tell)
    work = folder.with_name(f".{folder.name}.training")
    shutil.rmtree(work, ignore_errors=True)
    save(model, tokenizer, work)
    card = specialist_card(folder.name, record["languages"], recipe)
    (work / "README.md").write_text(card, encoding="utf-8")
    (work / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    work.rename(folder)


def _teller(name: str, steps: int) -> Callable[[int, float], None]:
    def tell(step: int, loss: float) -> None:
        if step % TOLD_EVERY == 0 or step == steps:
            print(f"{name} {step}/{steps} loss {loss:.3f}", flush=True)

    return tell


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE, help="the highest of the schedule")
    parser.add_argument("--workers", type=int, default=2, help="models trained at the same time")
    parser.add_argument("--out", type=Path, default=OUT, help="a folder per specialist")
    options = parser.parse_args(arguments)
    recipe = recipe_of(options.seed, options.steps, options.rate)
    options.out.mkdir(parents=True, exist_ok=True)
    train_all(options.out, recipe, options.workers)
    print(f"the specialists are in {options.out}")


if __name__ == "__main__":
    try:
        main()
    except LexiconError as error:
        sys.exit(f"error: {error}")
