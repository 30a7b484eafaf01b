"""A second Arbiter for the micro-world, to judge what the first one has chosen.

Whoever chose the data prefers it, right or wrong; so win rates want a judge with errors of its
own. This one goes on from the same body with other draws: other wrong answers, in another order.
Wrong answers are drafts of the shipped teachers to training questions, and those that `micro_wrong`
makes.

    python scripts/train_second.py        # rewrites data/micro/second: half an hour on two cores
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from micro_training import Recipe, make_drafts, save, train_arbiter, wrong_pairs
from micro_world import MICRO, read_lexicons, world
from micro_wrong import WrongAnswers
from train_micro import GENERALIST, MODELS, digest, read_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micro_world import Example

OUT = MICRO / "second"
SEED = 8
TOLD_EVERY = 50
CARD = """\
---
license: apache-2.0
---

# The micro-world's second Arbiter

A reward model of the same shape and body as the first, trained with other draws (seed {seed},
{steps} steps of {batch} pairs), so that what the first has chosen can be judged by another. See
`../README.md`; made by `scripts/train_second.py`. It knows the micro-world's questions and nothing
else.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Drafts, trains, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=Recipe.arbiter_steps // 2)
    parser.add_argument("--out", type=Path, default=OUT, help="replaced when all is done")
    options = parser.parse_args(arguments)
    if options.out.exists() and not (options.out / "training.json").is_file():
        sys.exit(f"error: {options.out} holds something else; name another --out")
    recipe = replace(Recipe(seed=options.seed), arbiter_steps=options.steps)
    lexicons = read_lexicons()
    examples = world(lexicons).train
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(MODELS / GENERALIST)
    source = random.Random(f"{recipe.seed}/second")
    wrongs = wrong_pairs(WrongAnswers(lexicons, examples), drafts(examples, recipe), source)
    body = transformers.LlamaForCausalLM.from_pretrained(MODELS / GENERALIST, dtype=torch.float32)
    model = train_arbiter(body, tokenizer, examples, wrongs, recipe, source, tell)
    if options.out.exists():
        shutil.rmtree(options.out)
    save(model, tokenizer, options.out)
    record = {"recipe": asdict(recipe), "examples": digest(examples)}
    (options.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    told = {"seed": recipe.seed, "steps": recipe.arbiter_steps, "batch": recipe.arbiter_batch}
    (options.out / "README.md").write_text(CARD.format(**told), encoding="utf-8")
    print(f"wrote {options.out}")


def drafts(examples: Sequence[Example], recipe: Recipe) -> dict[str, list[str]]:
    """Wrong answers of the shipped teachers to training questions, their languages or not."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in read_pool():
        asked = random.Random(f"{recipe.seed}/{name}/second").sample(
            examples, min(recipe.drafts_abroad, len(examples))
        )
        model = transformers.LlamaForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(MODELS / name)
        for key, text in make_drafts(model, tokenizer, asked).items():
            found[key].append(text)
        print(f"drafts of {name}", flush=True)
    return found


def tell(step: int, loss: float) -> None:
    """A line now and then."""
    if step % TOLD_EVERY == 0:
        print(f"{step} loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
