"""Trains the models of the micro-world: a tokenizer, teachers, and the Arbiter. Saves them.

Everything comes from training examples and a seed. Nothing here knows which models the pool has, or
where and when they are trained; that is `train_micro.py`.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, softplus
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from micro_wrong import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from micro_world import Example
    from micro_wrong import WrongAnswers

    Progress = Callable[[int, float], None]
    """Told the steps done and the latest loss."""
    Batches = Iterator[list[Example]]

WINDOW = 256
PAD, BOS, EOS, SYSTEM, USER, ASSISTANT = SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<system>",
    "<user>",
    "<assistant>",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
BUCKETS = 16
"""Batches that are drawn together, to be sorted by length."""

DECAY = 0.01
DRAFT_BATCH, DRAFT_TOKENS = 128, 48
PIECES = 4
REMEMBERED = 1 << 16  # rows, some 30 MB

WORDS = Regex(r"\p{Han}| ?[\p{L}\p{M}\u200c\u2019]+| ?[^\s\p{L}\p{M}]|\s")
"""A Han character stands alone, and combining marks stay with their letters."""


@dataclass(frozen=True)
class Recipe:
    """What fixes the weights, beside the examples. Steps are batches."""

    seed: int = 7
    vocabulary: int = 4096
    hidden: int = 160
    intermediate: int = 432
    layers: int = 4
    heads: int = 5
    batch: int = 64
    base_steps: int = 400
    teacher_steps: int = 1000
    arbiter_steps: int = 3600
    arbiter_batch: int = 48
    drafts_of_base: int = 8000
    drafts_abroad: int = 1500
    rate: float = 4e-3
    arbiter_rate: float = 3e-3
    imitation: float = 1.0


def make_tokenizer(examples: Iterable[Example], recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the examples' texts: no text is ever unknown."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [text for example in examples for text in (example.prompt, example.answer)]
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )


def new_teacher(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """Untrained."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(_config(tokenizer, recipe))


def train_teacher(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    recipe: Recipe,
    steps: int,
    source: random.Random,
    progress: Progress,
) -> None:
    """Continues `model` on the examples; the loss is on the answers alone."""
    row_of = lru_cache(REMEMBERED)(partial(encode, tokenizer))
    sampler = _Sampler(examples, source)
    optimizer = _Optimizer(model, recipe.rate, steps)
    model.train()
    batches = sampler.batches(recipe.batch, steps, row_of)
    for step, drawn in enumerate(batches, 1):
        rows = [row_of(example.prompt, example.answer) for example in drawn]
        loss = _imitation_loss(model.model, model.lm_head.weight, rows)
        progress(step, optimizer.step(loss))
    model.eval()


def train_arbiter(
    body: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    wrongs: Callable[[Example], list[str]],
    recipe: Recipe,
    source: random.Random,
    progress: Progress,
) -> LlamaForSequenceClassification:
    """A reward model from `body`: Bradley-Terry loss over each right answer and its `wrongs`.

    The loss of imitating the right answers is added, so that the body keeps learning what is right
    (the SFT regulariser of Yang et al., arXiv 2406.10216); the head for it is not kept.
    """
    row_of = lru_cache(REMEMBERED)(partial(encode, tokenizer))
    sampler = _Sampler(examples, source)
    torch.manual_seed(recipe.seed)
    model = LlamaForSequenceClassification(_config(tokenizer, recipe, num_labels=1))
    model.model.load_state_dict(body.model.state_dict())
    optimizer = _Optimizer(model, recipe.arbiter_rate, recipe.arbiter_steps)
    model.train()
    batches = sampler.batches(recipe.arbiter_batch, recipe.arbiter_steps, row_of)
    for step, drawn in enumerate(batches, 1):
        columns = zip(*([example.answer, *wrongs(example)] for example in drawn), strict=True)
        rows = [
            row_of(example.prompt, answer)
            for column in columns
            for example, answer in zip(drawn, column, strict=True)
        ]
        loss = _arbiter_loss(model, rows, len(drawn), recipe.imitation)
        progress(step, optimizer.step(loss))
    return model.eval()


def wrong_pairs(
    wrong: WrongAnswers, drafts: Mapping[str, Sequence[str]], source: random.Random
) -> Callable[[Example], list[str]]:
    """Draws two wrong answers: a wrong word, which is the hardest to see, and one of any kind.

    Half of the latter are `drafts`, wrong answers that models gave, by example name.
    """

    def draw(example: Example) -> list[str]:
        drafted = drafts.get(example.name)
        if drafted and source.random() < 0.5:
            other = source.choice(drafted)
        else:
            other = wrong.of(example, source.choice(list(KINDS)), source)
        return [wrong.of(example, "wrong word", source), other]

    return draw


def make_drafts(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Iterable[Example]
) -> dict[str, str]:
    """The model's own wrong answers, greedy, by example name; only those that it ended itself."""
    rows = [(example, encode(tokenizer, example.prompt, "")) for example in examples]
    rows.sort(key=lambda row: row[1].answer)
    found: dict[str, str] = {}
    for at in range(0, len(rows), DRAFT_BATCH):
        batch = rows[at : at + DRAFT_BATCH]
        length = batch[-1][1].answer
        ids = torch.full((len(batch), length), int(tokenizer.pad_token_id))
        for number, (_, row) in enumerate(batch):
            ids[number, length - row.answer :] = torch.tensor(row.tokens[: row.answer])
        made = model.generate(
            input_ids=ids,
            attention_mask=(ids != tokenizer.pad_token_id).long(),
            generation_config=_greedy(tokenizer, max_new_tokens=DRAFT_TOKENS),
        )
        texts = tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)
        ended = (made[:, length:] == tokenizer.eos_token_id).any(dim=1).tolist()
        for (example, _), text, whole in zip(batch, texts, ended, strict=True):
            if whole and text != example.answer:
                found[example.name] = text
    return found


def _greedy(tokenizer: PreTrainedTokenizerFast, **more: Any) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in bfloat16 as safetensors, with the tokenizer and its chat template."""
    model.to(torch.bfloat16)
    if isinstance(model, LlamaForCausalLM):
        model.generation_config = _greedy(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=WINDOW,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        **more,
    )


@dataclass(frozen=True)
class Row:
    """Tokens of a conversation; the answer starts at `answer`."""

    tokens: list[int]
    answer: int


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Row:
    """A question with its answer, in the tokens that the chat template makes of them."""
    question, told = tokenizer(
        [f"{BOS}{USER}{prompt}{ASSISTANT}", f"{answer}{EOS}"], add_special_tokens=False
    )["input_ids"]
    return Row(question + told, len(question))


class _Sampler:
    """Draws batches: every language equally often, a task by the root of its size.

    Examples of like length share a batch, which halves the padding.
    """

    def __init__(self, examples: Sequence[Example], source: random.Random) -> None:
        self._source = source
        groups: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            groups[example.language][example.task].append(example)
        self._groups = [list(tasks.values()) for _, tasks in sorted(groups.items())]
        self._weights = [[math.sqrt(len(task)) for task in tasks] for tasks in self._groups]

    def batches(self, size: int, count: int, row_of: Callable[[str, str], Row]) -> Batches:
        """`count` batches of `size` examples."""

        def length(example: Example) -> int:
            return len(row_of(example.prompt, example.answer).tokens)

        while count > 0:
            drawn = sorted((self._draw() for _ in range(size * BUCKETS)), key=length)
            batches = [drawn[at : at + size] for at in range(0, len(drawn), size)]
            self._source.shuffle(batches)
            yield from batches[:count]
            count -= len(batches)

    def _draw(self) -> Example:
        language = self._source.randrange(len(self._groups))
        [task] = self._source.choices(self._groups[language], self._weights[language])
        return self._source.choice(task)


def _padded(rows: Sequence[Row]) -> torch.Tensor:
    """(rows, longest) token ids, padded on the right, where causal attention never looks."""
    ids = torch.zeros(len(rows), max(len(row.tokens) for row in rows), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.tokens)] = torch.tensor(row.tokens)
    return ids


def _imitation_loss(body: Any, head: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens."""
    return _next_token_loss(_answers_seen(_hidden(body, rows), rows), head, rows)


def _hidden(body: Any, rows: Sequence[Row]) -> torch.Tensor:
    """(rows, longest, width)"""
    found: torch.Tensor = body(input_ids=_padded(rows), use_cache=False).last_hidden_state
    return found


def _answers_seen(hidden: torch.Tensor, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Per row, what the answer's tokens are foretold from: (answer, width)."""
    return [hidden[at, row.answer - 1 : len(row.tokens) - 1] for at, row in enumerate(rows)]


def _next_token_loss(
    seen: Sequence[torch.Tensor], head: torch.Tensor, rows: Sequence[Row]
) -> torch.Tensor:
    wanted = [token for row in rows for token in row.tokens[row.answer :]]
    return cross_entropy(torch.cat(list(seen)) @ head.T, torch.tensor(wanted))


def _arbiter_loss(
    model: LlamaForSequenceClassification, rows: Sequence[Row], prompts: int, imitation: float
) -> torch.Tensor:
    """`rows` are the right answers of all prompts, then as many wrong ones, and so on.

    Rows go through the model in pieces of like length: wrong answers can be long.
    """
    order = sorted(range(len(rows)), key=lambda at: len(rows[at].tokens))
    size = -(-len(rows) // PIECES)
    ends: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        piece = [rows[number] for number in numbers]
        hidden = _hidden(model.model, piece)
        ends |= {n: hidden[at, len(rows[n].tokens) - 1] for at, n in enumerate(numbers)}
        seen |= dict(zip(numbers, _answers_seen(hidden, piece), strict=True))
    scores = model.score(torch.stack([ends[n] for n in range(len(rows))])).view(-1, prompts)
    bradley_terry = softplus(scores[1:] - scores[:1]).mean()
    right = [seen[number] for number in range(prompts)]
    head = model.model.embed_tokens.weight
    return bradley_terry + imitation * _next_token_loss(right, head, rows[:prompts])


class _Optimizer:
    """Muon for the matrices inside the layers, AdamW for the rest, both on one one-cycle rate."""

    def __init__(self, model: Any, rate: float, steps: int) -> None:
        self._parameters = list(model.parameters())
        inner = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
        known = {id(weight) for weight in inner}
        outer = [weight for weight in self._parameters if id(weight) not in known]
        self._parts = [
            torch.optim.Muon(inner, lr=rate, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(outer, lr=rate, weight_decay=DECAY, betas=(0.9, 0.98), fused=True),
        ]
        self._rates = [
            torch.optim.lr_scheduler.OneCycleLR(
                part, max_lr=rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
            )
            for part in self._parts
        ]

    def step(self, loss: torch.Tensor) -> float:
        """Changes the weights; the loss as a number."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for part, rate in zip(self._parts, self._rates, strict=True):
            part.step()
            rate.step()
            part.zero_grad()
        return float(loss.item())
