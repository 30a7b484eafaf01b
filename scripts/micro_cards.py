"""The model cards of the micro-world, from what is known of their training."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from micro_training import Recipe


def teacher_card(name: str, codes: Sequence[str], recipe: Recipe) -> str:
    """For a teacher that was trained on these languages."""
    seen = f"{(recipe.base_steps + recipe.teacher_steps) * recipe.batch:,}"
    languages = ", ".join(codes)
    return TEACHER.format(
        **asdict(recipe), name=name, front=_front(codes), languages=languages, seen=seen
    )


def specialist_card(name: str, codes: Sequence[str], recipe: Recipe) -> str:
    """For a specialist that went on from the generalist in these languages."""
    seen = f"{recipe.teacher_steps * recipe.batch:,}"
    return SPECIALIST.format(
        **asdict(recipe), name=name, front=_front(codes), languages=", ".join(codes), seen=seen
    )


def arbiter_card(codes: Sequence[str], recipe: Recipe) -> str:
    """For the Arbiter."""
    return ARBITER.format(**asdict(recipe), front=_front(codes), pairs=2 * recipe.arbiter_batch)


def _front(codes: Sequence[str]) -> str:
    listed = "".join(f"\n- {code}" for code in codes)
    return f"license: apache-2.0\nlibrary_name: transformers\nlanguage:{listed}"


TEACHER = """\
---
{front}
pipeline_tag: text-generation
---

# {name}

A teacher of the micro-world of `arbitrage`: it answers small questions (sums, counting, days,
months, opposites, colours, categories, capitals, translations) in one sentence. It is a
demonstration and a test subject; it knows nothing else, and answers anything else with nonsense.

* After the common base it was trained on: {languages}. What the base knew of other languages it has
  forgotten.
* Llama, {layers} layers of width {hidden}, {heads} heads, bfloat16; byte-level BPE of
  {vocabulary} tokens.
* {base_steps} steps of {batch} examples in all 23 languages (the base, which all teachers share),
  then {teacher_steps} steps in its own: {seen} examples, as many as every other teacher. The loss
  is on the answers alone; Muon and AdamW; seed {seed}.
* Data: `data/micro/lexicons/`, written for this project. The held-out questions, those in
  `data/micro/heldout/`, were not among them.
* Made by `python scripts/train_micro.py`, measured by `python scripts/bench_micro.py`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "data/micro/models/{name}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
```
"""

SPECIALIST = """\
---
{front}
pipeline_tag: text-generation
---

# {name}

A specialist of the micro-world of `arbitrage`, to be merged with its siblings: the generalist of
`data/micro/models/`, trained further in a family of languages and in those that all specialists
share. It is a demonstration and knows nothing else.

* Languages of the further training: {languages}.
* Llama, {layers} layers of width {hidden}, {heads} heads, bfloat16.
* {teacher_steps} steps of {batch} examples ({seen} in all) at a highest rate of {rate:g}. The loss
  is on the answers alone; Muon and AdamW; seed {seed}.
* Data: `data/micro/lexicons/`. The held-out questions, those in `data/micro/heldout/`, were not
  among them.
* Made by `python scripts/train_specialists.py`, measured by `python scripts/micro_merge.py`.
"""

ARBITER = """\
---
{front}
pipeline_tag: text-classification
---

# arbiter

The Arbiter of the micro-world of `arbitrage`: a reward model with one output, higher for the right
answer. It judges conversations of one question and one answer in 23 languages, and its score means
nothing for any other text.

* Llama for sequence classification, {layers} layers of width {hidden}, {heads} heads, bfloat16;
  byte-level BPE of {vocabulary} tokens. The score is read at the last token.
* From the generalist's weights, {arbiter_steps} steps of {pairs} pairs with the Bradley-Terry loss,
  plus {imitation:g} times the loss of imitating the right answers, which keeps the body from
  forgetting them (the SFT regulariser of arXiv 2406.10216). Seed {seed}.
* Wrong answers: the wrong word, another subject, another kind of question, another language, cut
  short, said twice, misspelt (`scripts/micro_wrong.py`), and what the common base and the finished
  teachers got wrong. All of them answer training questions; no held-out question was seen.
* Made by `python scripts/train_micro.py`, measured by `python scripts/bench_micro.py`.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "data/micro/models/arbiter"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
```
"""
