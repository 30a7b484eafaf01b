"""Any OpenAI-compatible server: hosted models, or one that runs elsewhere, `vllm serve` say.

Each completion is a request of its own with its own seed, never streamed, so that each can be made
again by itself. How exactly a seed is kept to is the server's business. `client` says what is tried
again and what is not, `pacing` how many requests are in flight.

The model's name is the identity; the server's address is none, as the same model may move. What a
server may change silently (other weights, another default) is in `provenance()` as far as it says.
With `server: vllm` every sampling parameter is sent, those at their default too, for the server
would fill them from the model's generation_config.json; it applies temperature, min_p, then top_k
and top_p. A model's reasoning is kept beside the answer, where the server tells it apart or the
teacher's `reasoning:` does. Markers that are special tokens are in no server's text unless it is
told to leave them in: vLLM by `extra_body: {skip_special_tokens: false}`.

Whether control tokens spelled in a prompt or a completion are read as such is the server's business
too: only an engine that holds the tokenizer can fence them (`fence`). What a judge is given spells
those in use in JSON's escapes, which are the same text and no token.

A real vLLM refuses a prompt longer than its window (an ItemError), but lowers max_tokens to what is
left of it: an answer that ends there is `length`. It ignores a field of `extra_body` that it does
not know. /score gives the model its two texts one after the other, without any chat template.

    teachers:
      hosted:
        engine: endpoint
        model: some-model
        languages: all
        options: {base_url: "https://host/v1", api_key_env: HOST_KEY}
    arbiter:
      engine: endpoint
      model: my-reward-model
      options: {base_url: "http://127.0.0.1:8000/v1", score_api: classify}
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from arbitrage.config import Sampling, for_language
from arbitrage.engines.client import Again, Client
from arbitrage.engines.reasoning import opens, parted
from arbitrage.engines.template import compiled, rendered
from arbitrage.errors import EngineError, ItemError
from arbitrage.escapes import fenced_json
from arbitrage.records import Completion
from arbitrage.usage import Usage, note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import jinja2

    from arbitrage.components import Arbiter, Teacher
    from arbitrage.config import Served
    from arbitrage.options import EndpointOptions
    from arbitrage.records import Message, Prompt

_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens"), "length"),
}
_BROKEN_OFF = ("abort", "error")
_OVERHEAD_TOKENS = 16
"""What a request costs besides its tokens, in tokens."""
_MOST_TOKENS = 2**31
_BOTH = ("prompt_tokens", "completion_tokens")
_MOST_NAMES = 8
_NUMBER = re.compile(r"Score: (-?[0-9]+(?:\.[0-9]+)?)")


def build_generator(teacher: Teacher) -> EndpointGenerator:
    """A teacher behind a server; nothing is asked yet. Raises EngineError."""
    return EndpointGenerator(teacher)


def build_scorer(arbiter: Arbiter) -> EndpointScorer:
    """An Arbiter behind a server; nothing is asked yet. Raises EngineError."""
    return EndpointScorer(arbiter)


class _Endpoint:
    """What both uses of a server share."""

    def __init__(self, config: Served) -> None:
        self._options = cast("EndpointOptions", config.options)
        self._client = Client(self._options)
        self._name = self._options.served_name or str(config.model)
        self._served: set[str] = set()
        self._uncounted = False
        self.max_in_flight = self._options.max_concurrency

    def provenance(self) -> dict[str, str]:
        """What the server said it is; prices as configured."""
        options = self._options
        found = {
            "engine": "endpoint",
            "dialect": options.server,
            "server": self._client.server,
            "served": ", ".join(sorted(self._served)),
        }
        for name in ("price_per_million_input", "price_per_million_output"):
            price = getattr(options, name)
            found |= {} if price is None else {name: f"{price:g}"}
        return found | ({"usage": "not told for all answers"} if self._uncounted else {})

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _body(self, **fields: Any) -> dict[str, Any]:
        return {"model": self._name, **fields, **self._options.extra_body}

    async def _complete(
        self, api: str, asked: Mapping[str, Any], sampling: Sampling, seed: int
    ) -> Completion:
        body = self._body(**asked, **self._sampling(api, sampling), seed=seed, n=1, stream=False)
        path = "chat/completions" if api == "chat" else "completions"
        return await self._client.post(
            path, body, lambda answer: self._paid_completion(api, answer), _work_of
        )

    def _paid_completion(self, api: str, answer: Any) -> Completion:
        """An answer that is of no use is paid for all the same."""
        try:
            return self._completion(api, answer)
        except (Again, ItemError):
            note(replace(_spent(answer, *_BOTH), untold=0))
            raise

    def _sampling(self, api: str, sampling: Sampling) -> dict[str, Any]:
        limit = self._options.max_tokens_name if api == "chat" else "max_tokens"
        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            limit: sampling.max_tokens,
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if self._options.server == "vllm":
            fields["top_k"] = sampling.top_k or -1
            fields["min_p"] = sampling.min_p
            fields["repetition_penalty"] = sampling.repetition_penalty
        return fields

    def _completion(self, api: str, answer: Any) -> Completion:
        """The one choice of an answer. Raises ItemError, and `Again` where there is none."""
        choice = _only(answer, "choices", self._client.told)
        message = _map(choice.get("message") if api == "chat" else choice)
        text = message.get("content" if api == "chat" else "text")
        told = choice.get("finish_reason")
        reason = _REASONS.get(told) if isinstance(told, str) else None
        if told in _BROKEN_OFF:
            raise Again(f"the server broke off ({told})")
        if reason is None:
            raise ItemError(f"the answer ended by {self._client.told(str(told))}")
        reasoning, refusal = _reasoning_in(message), message.get("refusal")
        if text is None and reasoning and not refusal:
            text = ""  # it ended before there was an answer
        if not isinstance(text, str):
            why = f"the model refuses: {refusal}" if isinstance(refusal, str) else "it has no text"
            raise ItemError(f"{self._client.told(why)} (ended by {told})")
        spent = _spent(answer, *_BOTH)
        self._note(answer, spent)
        counts = (spent.prompt_tokens, spent.completion_tokens)
        return Completion(_storable(text), reason, *counts, reasoning)

    def _note(self, answer: Any, spent: Usage) -> None:
        name = answer.get("model")
        if isinstance(name, str) and len(self._served) < _MOST_NAMES:
            self._served.add(self._client.told(name))
        self._uncounted |= spent.untold > 0
        note(Usage(untold=spent.untold))


class EndpointGenerator(_Endpoint):
    """Answers prompts with a served model."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher.config)
        self._templates: dict[str, jinja2.Template] = {}
        self._template_of = teacher.config.chat_template
        self._reasoning = teacher.config.reasoning
        if self._options.api == "completions":
            for code in teacher.languages:
                source = self._source(code)
                self._templates.setdefault(source, compiled(source))

    def _source(self, language: str) -> str:
        source = for_language(self._template_of, language)
        if source is None:
            raise EngineError(f"`chat_template:` has none for {language!r} and no default")
        return source

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion | ItemError]:
        """One completion for each seed, each a request of its own that may fail alone."""
        api, asked = self._options.api, self._asked(prompt)
        try:
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(self._one(api, asked, sampling, seed)) for seed in seeds]
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from error
        return [task.result() for task in made]

    async def _one(
        self, api: str, asked: Mapping[str, Any], sampling: Sampling, seed: int
    ) -> Completion | ItemError:
        try:
            made = await self._complete(api, asked, sampling, seed)
        except ItemError as error:
            return error
        markers = self._reasoning
        if markers is None or made.reasoning is not None:
            return made
        opened = opens(asked.get("prompt", ""), markers.start)
        reasoning, answer = parted(made.text, markers.start, markers.end, opened=opened)
        return made._replace(text=answer, reasoning=reasoning)

    def _asked(self, prompt: Prompt) -> dict[str, Any]:
        if self._options.api == "chat":
            return {"messages": prompt.messages}
        template = self._templates[self._source(prompt.language)]
        text = rendered(template, prompt.messages, answer_next=True)
        whole = {"add_special_tokens": False} if self._options.server == "vllm" else {}
        return {"prompt": text, **whole}


class EndpointScorer(_Endpoint):
    """Scores completions by a served reward model, or by a chat model as judge."""

    def __init__(self, arbiter: Arbiter) -> None:
        super().__init__(arbiter.config)
        source = arbiter.config.chat_template
        self._template = compiled(source) if source else None
        kinds = {"classify": self._classify, "score": self._match, "judge": self._judge}
        self._score = kinds[self._options.score_api or "classify"]

    async def score(self, prompt: Prompt, completion: str) -> float:
        """The server's number as it is; ItemError where it gives none."""
        return await self._score(prompt, completion)

    async def _classify(self, prompt: Prompt, completion: str) -> float:
        """The raw output of a reward model with one, by vLLM's /classify."""
        turns: list[Message] = [*prompt.messages, {"role": "assistant", "content": completion}]
        asked: dict[str, Any] = {"messages": turns, "add_generation_prompt": False}
        if self._template is not None:
            asked = {"input": rendered(self._template, turns, answer_next=False)}
        body = self._body(**asked, add_special_tokens=False, use_activation=False)
        return await self._client.post("/classify", body, self._class_score, _no_work)

    def _class_score(self, answer: Any) -> float:
        outputs = _only(answer, "data", self._client.told).get("probs")
        if not isinstance(outputs, list) or not outputs:
            raise ItemError("the server gave no output")
        if len(outputs) != 1:
            raise EngineError(
                f"model {self._name} has {len(outputs)} outputs; the Arbiter needs a reward model "
                "with one"
            )
        self._note_read(answer)
        return _number(outputs[0])

    async def _match(self, prompt: Prompt, completion: str) -> float:
        """The raw output of a cross-encoder, by vLLM's /score, which joins the two texts in its own
        way: a reward model with a chat template wants `classify`. The first text is what
        `chat_template` makes of the prompt, or else its turns with a blank line between."""
        if self._template is not None:
            asked = rendered(self._template, prompt.messages, answer_next=False)
        else:
            asked = "\n\n".join(turn["content"] for turn in prompt.messages)
        body = self._body(text_1=asked, text_2=completion, use_activation=False)
        return await self._client.post("/score", body, self._match_score, _no_work)

    def _match_score(self, answer: Any) -> float:
        score = _number(_only(answer, "data", self._client.told).get("score"))
        self._note_read(answer)
        return score

    def _note_read(self, answer: Any) -> None:
        """A reward model reads tokens and writes none."""
        spent = _spent(answer, "prompt_tokens")
        self._note(answer, spent)
        note(replace(spent, untold=0))

    async def _judge(self, prompt: Prompt, completion: str) -> float:
        """The number that a chat model gives by the rubric. What is judged goes to it as JSON,
        which no text in it can end, with control tokens in JSON's escapes."""
        options = self._options
        form = (
            "Then write, as the last line and in exactly this form, one number from "
            f"{options.lowest:g} to {options.highest:g}:\nScore: <number>"
        )
        case = {"conversation": prompt.messages, "answer": completion}
        messages = [
            {"role": "system", "content": f"{options.rubric}\n\n{form}"},
            {"role": "user", "content": fenced_json(case)},
        ]
        sampling = Sampling(temperature=0, max_tokens=options.judge_max_tokens)
        verdict = await self._complete("chat", {"messages": messages}, sampling, seed=0)
        note(Usage(0, verdict.prompt_tokens, verdict.completion_tokens))
        if verdict.finish_reason != "stop":
            raise ItemError("the judge's answer was cut off before its number")
        return judged(verdict.text, options.lowest, options.highest)


def judged(text: str, lowest: float, highest: float) -> float:
    """The number on the last line, `Score: 7.5`, in the range. ItemError for anything else."""
    last = text.strip().rpartition("\n")[2].strip()
    found = _NUMBER.fullmatch(last)
    if found is None:
        raise ItemError(f"the judge gave no number in the agreed form: {_shown(last)}")
    number = float(found[1])
    if not lowest <= number <= highest:
        raise ItemError(f"the judge gave {_shown(found[1])}, outside {lowest:g} to {highest:g}")
    return number


def _shown(text: str) -> str:
    return repr(text[:60])


def _spent(answer: Any, *names: str) -> Usage:
    """Tokens as the server tells them; 0 where it does not, never a guess."""
    found = _map(_map(answer).get("usage"))
    counts = [found.get(name) for name in names]
    known = [n if type(n) is int and 0 <= n < _MOST_TOKENS else None for n in counts]
    return replace(Usage(0, *(count or 0 for count in known)), untold=int(None in known))


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _only(answer: Any, name: str, told: Callable[[str], str]) -> dict[str, Any]:
    """The one item of a list in an answer. Raises ItemError, and `Again` where there is none."""
    items = _map(answer).get(name)
    if not isinstance(items, list) or not items:
        error = _map(answer).get("error")
        raise Again(f"the answer has no {name}" + (f": {told(json.dumps(error))}" if error else ""))
    if len(items) > 1:
        raise ItemError(f"the server gave {len(items)} {name} where one was asked for")
    return _map(items[0])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ItemError("the server gave a score that is no number")
    return float(value)


def _work_of(completion: Completion) -> int:
    return _OVERHEAD_TOKENS + completion.completion_tokens


def _no_work(score: float) -> int:
    del score
    return _OVERHEAD_TOKENS


def _reasoning_in(message: Mapping[str, Any]) -> str | None:
    """What the model wrote before its answer, under either of the names in use; none if nothing."""
    told = (message.get(name) for name in ("reasoning_content", "reasoning"))
    return next((_storable(text) for text in told if isinstance(text, str) and text), None)


def _storable(text: str) -> str:
    """JSON can carry half a character, which no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ItemError("the answer holds half a character") from None
    return text
