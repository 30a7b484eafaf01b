"""Trains the pool of the micro-world and its Arbiter, and writes them to data/micro/models/.

One tokenizer and one base for all; from the base each teacher of `data/micro/pool.yaml` goes on in
its own languages, all for the same number of steps. The Arbiter goes on from the generalist, on
right and wrong answers. Held-out examples are seen by none of them, not even to be answered
wrongly. The same seed makes the same weights on one machine.

    python scripts/train_micro.py            # two processes, under an hour on two cores
    python scripts/train_micro.py --workers 8
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch
import transformers
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arbitrage import languages
from micro_cards import arbiter_card, teacher_card
from micro_training import (
    Recipe,
    make_drafts,
    make_tokenizer,
    new_teacher,
    save,
    train_arbiter,
    train_teacher,
    wrong_pairs,
)
from micro_world import MICRO, Example, Lexicon, LexiconError, read_lexicons, world
from micro_wrong import WrongAnswers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Tell = Callable[[str, int, int, float], None]
    """Gets a model's name, its steps done, its steps in all, and the latest loss."""

MODELS = MICRO / "models"
ARBITER, BASE, GENERALIST = "arbiter", "base", "generalist"
THREADS = 2  # for what is trained alone; what is trained side by side has one each
RECORD = "training.json"
PLAIN_EVERY = 200  # steps, where no bar can be drawn


def read_pool(path: Path = MICRO / "pool.yaml") -> dict[str, list[str]]:
    """Teacher name to the languages of the micro-world that it is trained on."""
    families: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    codes = sorted(read_lexicons())
    table = languages.table()
    return {
        name: [code for code in codes if wanted == "all" or table[code].family in wanted]
        for name, wanted in families.items()
    }


def digest(examples: Iterable[Example]) -> str:
    """What was trained on, in one word: a hash over every text, in order."""
    told = hashlib.blake2b(digest_size=16)
    for example in examples:
        told.update(json.dumps([example.name, example.prompt, example.answer]).encode())
    return told.hexdigest()


def train(out: Path, recipe: Recipe, workers: int, tell: Tell) -> None:
    """Everything, into `out`."""
    lexicons = read_lexicons()
    examples = world(lexicons).train
    pool = read_pool()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Manager() as manager:
        base, drafts = Path(folder) / BASE, Path(folder) / "drafts"
        drafts.mkdir()
        make_tokenizer(examples, recipe).save_pretrained(base)
        queue = manager.Queue()
        listener = Thread(target=_listen, args=(queue, tell), daemon=True)
        listener.start()
        with ProcessPoolExecutor(workers, mp_context=context) as processes:
            processes.submit(_train_base, base, examples, recipe, queue).result()
            asked = random.Random(f"{recipe.seed}/{BASE}/drafts").sample(
                examples, min(recipe.drafts_of_base, len(examples))
            )
            jobs = [processes.submit(_draft, base, asked, drafts)]
            for name, codes in pool.items():
                told = (base, out / name, examples, codes, recipe, drafts, queue)
                jobs.append(processes.submit(_train_one, *told))
            for job in jobs:
                job.result()
            last = (out, examples, lexicons, recipe, drafts, queue)
            processes.submit(_train_arbiter, *last).result()
        queue.put(None)
        listener.join()
    write_record(out, recipe, examples, pool)


def _listen(queue: Any, tell: Tell) -> None:
    for told in iter(queue.get, None):
        tell(*told)


def _train_base(folder: Path, examples: Sequence[Example], recipe: Recipe, queue: Any) -> None:
    torch.set_num_threads(THREADS)
    tokenizer = _tokenizer(folder)
    model = new_teacher(tokenizer, recipe)
    tell = _teller(queue, BASE, recipe.base_steps)
    source = random.Random(f"{recipe.seed}/{BASE}")
    train_teacher(model, tokenizer, examples, recipe, recipe.base_steps, source, tell)
    model.save_pretrained(folder)


def _train_one(
    base: Path,
    out: Path,
    examples: Sequence[Example],
    codes: Sequence[str],
    recipe: Recipe,
    drafts: Path,
    queue: Any,
) -> None:
    torch.set_num_threads(1)
    name = out.name
    tokenizer, model = _tokenizer(base), _model(base)
    own = [example for example in examples if example.language in codes]
    tell = _teller(queue, name, recipe.teacher_steps)
    source = random.Random(f"{recipe.seed}/{name}")
    train_teacher(model, tokenizer, own, recipe, recipe.teacher_steps, source, tell)
    save(model, tokenizer, out)
    _draft(out, _abroad(examples, codes, recipe, name), drafts)


def _abroad(
    examples: Sequence[Example], codes: Sequence[str], recipe: Recipe, name: str
) -> list[Example]:
    """Questions in languages that a teacher was not trained on: what does it say there?"""
    foreign = [example for example in examples if example.language not in codes]
    source = random.Random(f"{recipe.seed}/{name}/abroad")
    return source.sample(foreign, min(recipe.drafts_abroad, len(foreign)))


def _draft(folder: Path, examples: Sequence[Example], drafts: Path) -> None:
    """Writes the wrong answers of a model, as it will be shipped, to training questions."""
    torch.set_num_threads(1)
    found = make_drafts(_model(folder), _tokenizer(folder), examples)
    path = drafts / f"{folder.name}.json"
    path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def _train_arbiter(
    models: Path,
    examples: Sequence[Example],
    lexicons: dict[str, Lexicon],
    recipe: Recipe,
    drafts: Path,
    queue: Any,
) -> None:
    """Goes on from the generalist, the one that knows something of every language."""
    torch.set_num_threads(THREADS)
    tokenizer = _tokenizer(models / GENERALIST)
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(drafts.iterdir()):
        for name, text in json.loads(path.read_text(encoding="utf-8")).items():
            found[name].append(text)
    source = random.Random(f"{recipe.seed}/{ARBITER}")
    wrongs = wrong_pairs(WrongAnswers(lexicons, examples), found, source)
    tell = _teller(queue, ARBITER, recipe.arbiter_steps)
    body = _model(models / GENERALIST)
    model = train_arbiter(body, tokenizer, examples, wrongs, recipe, source, tell)
    save(model, tokenizer, models / ARBITER)


def _model(folder: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _tokenizer(folder: Path) -> Any:
    transformers.logging.disable_progress_bar()
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def _teller(queue: Any, name: str, steps: int) -> Callable[[int, float], None]:
    def tell(step: int, loss: float) -> None:
        if step % 10 == 0 or step == steps:
            queue.put((name, step, steps, loss))

    return tell


def write_record(
    out: Path, recipe: Recipe, examples: Sequence[Example], pool: dict[str, list[str]]
) -> None:
    """What made the weights: for machines in training.json, for readers in each model's card."""
    record = {
        "recipe": asdict(recipe),
        "examples": {"count": len(examples), "digest": digest(examples)},
        "languages": pool,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    cards = {name: teacher_card(name, codes, recipe) for name, codes in pool.items()}
    everything = sorted({example.language for example in examples})
    for name, card in {**cards, ARBITER: arbiter_card(everything, recipe)}.items():
        (out / name / "README.md").write_text(card, encoding="utf-8")


def check_replaceable(out: Path) -> None:
    """Only what this script wrote is ever deleted. Exits with a sentence for anything else."""
    if out.exists() and not (out / RECORD).is_file() and (out.is_file() or any(out.iterdir())):
        sys.exit(f"error: {out} holds something else than trained models; name another --out")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, trains, and shows a bar per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--workers", type=int, default=2, help="models trained at the same time")
    parser.add_argument("--out", type=Path, default=MODELS, help="replaced when all is done")
    options = parser.parse_args(arguments)
    check_replaceable(options.out)
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bars, tempfile.TemporaryDirectory() as folder:
        bars_of: dict[str, Any] = {}

        def tell(name: str, step: int, steps: int, loss: float) -> None:
            if name not in bars_of:
                bars_of[name] = bars.add_task(name, total=steps, loss=loss)
            bars.update(bars_of[name], completed=step, loss=loss)
            if not bars.console.is_terminal and (step == steps or step % PLAIN_EVERY == 0):
                print(f"{name} {step}/{steps} loss {loss:.3f}", flush=True)

        fresh = Path(folder) / "models"
        fresh.mkdir()
        train(fresh, Recipe(seed=options.seed), options.workers, tell)
        check_replaceable(options.out)
        if options.out.exists():
            shutil.rmtree(options.out)
        shutil.copytree(fresh, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    try:
        main()
    except LexiconError as error:
        sys.exit(f"error: {error}")
