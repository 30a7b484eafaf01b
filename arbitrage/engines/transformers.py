"""Hugging Face transformers on any machine: the embedded default for teachers and Arbiters.

A request's result is the same to the bit whatever runs beside it. On one machine the numbers of a
row depend on the shape of its batch, never on its neighbours: so a batch always has the same number
of rows (spare ones repeat the first), its length is a function of the request's own length, and
chance comes from the row's own seed. `resources.batch_size`, the number of threads, another device
or other versions may change last digits; they are in `provenance()`.

Sampling applies repetition_penalty, temperature, top_k, top_p and min_p in this order, the
library's own; nothing is taken from the model's generation_config.json but the ids that end an
answer. Completion tokens are counted up to and including the one that ended the answer.

A longrope model keeps to the length it was first trained on unless `options.max_length` says
otherwise: beyond it the longest row of a batch changes the positions of all.
"""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import huggingface_hub
import torch
import transformers

from arbitrage.config import for_language
from arbitrage.engines.chat import Asked, Chat, token_ids
from arbitrage.engines.microbatch import MicroBatcher, padded_length
from arbitrage.errors import EngineError, ItemError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.components import Arbiter, Teacher
    from arbitrage.config import Reasoning, Sampling, Served
    from arbitrage.options import TransformersOptions
from arbitrage.pulse import beat
from arbitrage.records import Completion, Prompt

R = TypeVar("R")

_ROWS = 16
_ROWS_MULTIPLE = 8
_BATCHES_IN_FLIGHT = 16


def build_generator(teacher: Teacher) -> TransformersGenerator:
    """A teacher. Raises EngineError."""
    return TransformersGenerator(teacher)


def build_scorer(arbiter: Arbiter) -> TransformersScorer:
    """A reward model with one output. Raises EngineError."""
    return TransformersScorer(arbiter)


class _Engine:
    """A loaded model with its tokenizer, and what both uses of one share."""

    _batcher: MicroBatcher[Any, Any, Any]

    def __init__(self, config: Served, auto_class: Any, reasoning: Reasoning | None = None) -> None:
        options = cast("TransformersOptions", config.options)
        _be_quiet()
        self._name = str(config.model)
        self._tokenizer, self._model = _load(config, auto_class, options)
        self._chat = Chat(self._tokenizer, self._name, reasoning)
        self._device: torch.device = self._model.device
        self._text_config = self._model.config.get_text_config()
        self._window = options.max_length or _own_window(self._text_config)
        wanted = config.resources.batch_size or _ROWS
        self._rows = -(-wanted // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
        self.max_in_flight = _BATCHES_IN_FLIGHT * self._rows

    def provenance(self) -> dict[str, str]:
        """Versions, and what else may change last digits."""
        cuda = self._device.type == "cuda"
        return {
            "engine": "transformers",
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
            "device": torch.cuda.get_device_name(self._device) if cuda else str(self._device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "batch_size": str(self._rows),
            "threads": str(torch.get_num_threads()),
            "parameters": str(self._model.num_parameters()),
        }

    def _tensors(
        self, rows: list[list[int]], length: int, fill: Sequence[int], *, left: bool
    ) -> dict[str, torch.Tensor]:
        """Token ids and attention mask of shape (rows, length), padded with each row's fill."""
        ids = torch.tensor(fill).unsqueeze(1).repeat(1, length)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            place = slice(length - len(row), None) if left else slice(len(row))
            ids[number, place] = torch.tensor(row)
            mask[number, place] = 1
        return {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}

    def _filled(self, rows: list[R]) -> list[R]:
        return rows + rows[:1] * (self._rows - len(rows))

    def close(self) -> None:
        """Ends the thread and frees the device."""
        self._batcher.close()
        del self._model
        gc.unfreeze()  # a replica freezes what it has loaded
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _Row(NamedTuple):
    asked: Asked
    seed: int


class TransformersGenerator(_Engine):
    """Answers prompts with a causal language model."""

    def __init__(self, teacher: Teacher) -> None:
        config = teacher.config
        super().__init__(config, transformers.AutoModelForCausalLM, config.reasoning)
        self._templates = config.chat_template
        languages = teacher.languages
        self._chat.check_templates([for_language(self._templates, code) for code in languages])
        own, tokenizer = self._model.generation_config, self._tokenizer
        self._ends = token_ids(own.eos_token_id) | token_ids(tokenizer.eos_token_id)
        pad = min(token_ids(tokenizer.pad_token_id) or self._ends, default=0)
        self._special = {"eos_token_id": sorted(self._ends) or None, "pad_token_id": pad}
        # `generate` fills whatever a request leaves open from the model's own config.
        self._model.generation_config = transformers.GenerationConfig()
        self._batcher = MicroBatcher(self._answer, self._rows)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """One completion for each seed; `completion_tokens` counts the ending token too."""
        template = for_language(self._templates, prompt.language)
        asked = self._chat.ask(prompt.messages, template, sampling.max_tokens, self._window)
        like = sampling.model_copy(update={"n": 1, "seed": None})
        group = (padded_length(len(asked.tokens), self._window), like)
        rows = (self._batcher.submit(group, _Row(asked, seed)) for seed in seeds)
        return list(await asyncio.gather(*rows))

    def _answer(
        self, group: tuple[int, Sampling], rows: list[_Row]
    ) -> list[Completion | Exception]:
        length, sampling = group
        filled = self._filled(rows)
        prompts, seeds = [row.asked.tokens for row in filled], [row.seed for row in filled]
        # Padding is masked, but the repetition penalty sees it: so it is a token of the row.
        inputs = self._tensors(prompts, length, [row[0] for row in prompts], left=True)
        spare = torch.arange(self._rows, device=self._device) >= len(rows)
        ending = _Ending(self._chat, sampling, length, spare)
        choice = _Choice(_steps(sampling, seeds, length, self._device), torch.zeros_like(spare))
        config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=sampling.max_tokens, **self._special
        )
        with torch.inference_mode():
            whole = self._model.generate(
                **inputs,
                generation_config=config,
                logits_processor=transformers.LogitsProcessorList([choice]),
                stopping_criteria=transformers.StoppingCriteriaList([ending]),
            )
        return [
            ItemError("the model gave a logit that is no number")
            if broken
            else self._chat.completion(row.asked, made[:at], self._ends, sampling.stop)
            for row, made, at, broken in zip(
                rows, whole[:, length:].tolist(), ending.at, choice.broken.tolist(), strict=False
            )
        ]


class TransformersScorer(_Engine):
    """Judges completions with a sequence-classification model that has one output."""

    def __init__(self, arbiter: Arbiter) -> None:
        super().__init__(arbiter.config, transformers.AutoModelForSequenceClassification)
        if self._model.config.num_labels != 1:
            raise EngineError(
                f"model {self._name} has {self._model.config.num_labels} outputs; the Arbiter "
                "needs a reward model with one"
            )
        self._template = arbiter.config.chat_template
        self._chat.check_templates([self._template])
        self._pad = self._text_config.pad_token_id
        self._text_config.use_cache = False
        self._batcher = MicroBatcher(self._judge, self._rows)

    async def score(self, prompt: Prompt, completion: str) -> float:
        """The model's output as it is."""
        tokens = self._chat.encode_answered(prompt, completion, self._template, self._window)
        length = padded_length(len(tokens), self._window)
        # Attention takes another path where no row has padding, so such rows keep to themselves.
        score: float = await self._batcher.submit((length, len(tokens) == length), tokens)
        return score

    def _judge(self, group: tuple[int, bool], rows: list[list[int]]) -> list[float | Exception]:
        pairs = self._filled(rows)
        # The model pools the last token that is not this one. Where it names none, any will do that
        # ends no row; the tokenizer's would not, as it is often the one that ends every row.
        pad = self._pad
        if pad is None or pad < 0:
            last = {pair[-1] for pair in pairs}
            pad = next(token for token in range(len(last) + 1) if token not in last)
        self._text_config.pad_token_id = pad
        inputs = self._tensors(pairs, group[0], [pad] * len(pairs), left=False)
        with torch.inference_mode():
            scores = self._model(**inputs).logits.float()
        beat(len(scores))
        return cast("list[float | Exception]", scores[: len(rows), 0].tolist())


class _Choice:
    """Takes the steps; `broken` remembers which rows once had a logit that is no number."""

    def __init__(self, steps: list[Any], broken: torch.Tensor) -> None:
        self._steps, self.broken = steps, broken

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.broken |= ~scores.amax(-1).isfinite()
        beat(len(scores))
        for step in self._steps:
            scores = step(input_ids, scores)
        return scores


class _Draw:
    """Leaves one token per row, drawn from the softmax of its logits.

    Inverts the cumulative distribution at one uniform number per token. A row's numbers come from
    its own seed, at once and on the CPU, so that they are the same on every device and cost nothing
    as the vocabulary grows. A token without probability is never drawn.
    """

    def __init__(self, seeds: Sequence[int], start: int, count: int, device: torch.device) -> None:
        self._start = start
        source = torch.Generator()
        rows = [
            torch.rand(count, generator=source.manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
        self._uniform = torch.stack(rows, dim=1).to(device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = input_ids.shape[1] - self._start
        heaped = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
        heaped = heaped / heaped[:, -1:]
        drawn = torch.searchsorted(heaped, self._uniform[position].unsqueeze(1), right=True)
        drawn = drawn.clamp(max=scores.shape[1] - 1)  # not a number: the row is lost already
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


class _Ending:
    """Ends spare rows at once, and a row when its text holds a stop string; `at` says where."""

    def __init__(self, chat: Chat, sampling: Sampling, start: int, ended: torch.Tensor) -> None:
        self._chat, self._stop, self._start = chat, sampling.stop, start
        self._tail = 1 + max((len(stop.encode()) for stop in self._stop), default=0)
        self._ended = ended
        self.at: list[int | None] = [None] * len(ended)

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        if self._stop:
            made = input_ids[:, self._start :].tolist()
            for number in (~self._ended).nonzero().flatten().tolist():
                if self._stopped(made[number]):
                    self.at[number] = len(made[number])
                    self._ended[number] = True
        return self._ended

    def _stopped(self, made: list[int]) -> bool:
        """Looks at the tail first: a stop string has no more tokens than bytes."""
        return all(
            any(stop in self._chat.text(tokens) for stop in self._stop)
            for tokens in (made[-self._tail :], made)
        )


def _steps(sampling: Sampling, seeds: Sequence[int], start: int, device: torch.device) -> list[Any]:
    """What changes the logits and then draws; nothing that is at its default."""
    heat, penalty = sampling.temperature, sampling.repetition_penalty
    steps = (
        (penalty != 1, transformers.RepetitionPenaltyLogitsProcessor, penalty),
        (heat not in (0, 1), transformers.TemperatureLogitsWarper, heat),
        (heat and sampling.top_k, transformers.TopKLogitsWarper, sampling.top_k),
        (heat and sampling.top_p < 1, transformers.TopPLogitsWarper, sampling.top_p),
        (heat and sampling.min_p, transformers.MinPLogitsWarper, sampling.min_p),
    )
    found: list[Any] = [make(value) for wanted, make, value in steps if wanted]
    return [*found, _Draw(seeds, start, sampling.max_tokens, device)] if heat else found


def _be_quiet() -> None:
    """No bars, chatter or telemetry from the libraries; and the threads that the slot was given."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))


def _load(config: Served, auto_class: Any, options: TransformersOptions) -> tuple[Any, Any]:
    """Tokenizer and model. Raises EngineError, also where trained weights are missing."""
    origin = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(config.model, **origin)
        model, report = auto_class.from_pretrained(
            config.model,
            **origin,
            dtype=options.dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
            model.set_attn_implementation("eager")  # up to 5.19 sdpa leaves the cap out, silently
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(usual if options.device == "auto" else options.device).eval()
    except Exception as error:  # a model's files and code raise whatever they like
        cause = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise EngineError(
            f"model {config.model} cannot be loaded ({cause}); check `model:`, `revision:`, its "
            "files (safetensors only) and `options:`"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise EngineError(
            f"model {config.model} has no weights for {missing[0]}, which would be random; use a "
            f"checkpoint made for {auto_class.__name__}"
        )
    return tokenizer, model


def _own_window(config: Any) -> int | None:
    """The model's window in tokens, none where it does not say."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope" and rope.get("original_max_position_embeddings"):
        return int(rope["original_max_position_embeddings"])
    return getattr(config, "max_position_embeddings", None)
