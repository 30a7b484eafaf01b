"""A fair sample of a run to look at: prompts with every candidate, small enough for one page.

Which prompts, says `lots`; from which shards, `closeup`. Texts are cut, and every cut one tells how
many characters are missing: the longest are cut first until all of it fits. Text stays what it was,
so it is as hostile as its authors; whoever shows it escapes it. Knows no markup.
Invariants: the same run gives the same sample, and as JSON it is never larger than it may be.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from arbitrage import closeup, lots
from arbitrage.records import RAW_CHARS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from arbitrage.closeup import Closeup, Extent, Made
    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.plan import Planner, ShardState
    from arbitrage.store import Store

PROMPTS = 600
CHARS = 1500
MAX_BYTES = 4_000_000
LEAST_CHARS = 60
"""Before texts are cut shorter than this, fewer prompts are shown."""
_SUMMARY_BYTES = 250
"""About what a candidate takes without its text, for a first guess of how many prompts fit."""
_LEFT_OUT_BYTES = 9
"""By so much the number of characters left out may grow."""


class Cut(TypedDict):
    """A text as far as it is shown, and how many characters were left out at its end."""

    text: str
    left_out: int


@dataclass(frozen=True)
class Sampled:
    """Prompts to look at, language by language and in each those by lot first.

    Each is plain data: `prompt_id`, `user_id`, `language`, `family`, `why` (one of `lots.WHY`),
    `messages` (`role` and `content`, which is a `Cut`), `reward` and `margin` of the chosen answer,
    `chosen` (`teacher` and `sample`, or none), `quarantined` (the reason, or none), and
    `candidates`, best first: `teacher`, `sample`, `rank` (of those chosen, from 1), `reward` (the
    number that was compared), `scores` by Arbiter, `gates` that it fails, `error`,
    `finish_reason`, `completion_tokens`, `completion` and `reasoning` (a `Cut`, or none).

    `chars` is the length that texts were cut to, `asked_chars` what it should have been. Of
    `user_id` and `error` no more than `records.RAW_CHARS` characters are kept.
    """

    samples: list[dict[str, Any]]
    extent: Extent
    chars: int
    asked_chars: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "samples": self.samples,
            "extent": self.extent.as_dict(),
            "chars": self.chars,
            "asked_chars": self.asked_chars,
        }


def samples_of(
    store: Store,
    components: Components,
    planner: Planner,
    shards: Sequence[ShardState],
    config: RunConfig,
    *,
    prompts: int = PROMPTS,
    chars: int = CHARS,
    max_bytes: int = MAX_BYTES,
    most_shards: int = closeup.MOST_SHARDS,
) -> Sampled:
    """Chooses prompts and reads them with all their candidates, from a bounded part of the run."""
    everything = closeup.made(store, planner, shards)
    looked_at = closeup.spread(everything, most_shards)
    offers = closeup.offers_of(store, looked_at)
    width = sum(offer.candidates for offer in offers) / max(1, len(offers))
    most = min(prompts, int(max_bytes / (_SUMMARY_BYTES * max(1.0, width))))
    why = lots.choose(offers, most)
    seen: list[Made] = []
    looks = closeup.closeups(store, looked_at, components, config, seen)
    gathered = {one["prompt_id"]: one for one in gather(looks, why, components, chars)}
    rows = sum(shard.rows for shard in shards)
    extent = closeup.extent_of(seen, everything, rows, len(shards))
    samples = _in_order(why, gathered)
    room = max_bytes - json_bytes(Sampled([], extent, chars, chars).as_dict())
    while (cap := fitting(samples, chars, room)) is None:
        most = most * 3 // 4
        why = lots.choose(offers, most)
        samples = _in_order(why, gathered)
    for sample in samples:
        for cut in _cuts(sample):
            cut.update(cut_to(cut["text"], cap, cut["left_out"]))
    return Sampled(samples, extent, cap, chars)


def gather(
    shards: Iterable[Closeup], wanted: dict[str, str], components: Components, chars: int
) -> Iterator[dict[str, Any]]:
    """The wanted prompts (ids, each with why) of some shards, as `Sampled` describes them."""
    for shard in shards:
        ids = shard.prompts["prompt_id"].to_pylist()
        for row, prompt_id in enumerate(ids):
            if prompt_id in wanted:
                yield _sample(shard, row, wanted[prompt_id], components, chars)


def _sample(
    shard: Closeup, row: int, why: str, components: Components, chars: int
) -> dict[str, Any]:
    prompt = shard.prompts.slice(row, 1).to_pylist()[0]
    chosen = shard.chosen.get(prompt["prompt_id"], [])
    candidates = _candidates(shard, row, chosen, components, chars)
    best = next((one for one in candidates if one["rank"] == 1), None)
    return {
        "prompt_id": prompt["prompt_id"],
        "user_id": prompt["user_id"] and prompt["user_id"][:RAW_CHARS],
        "language": prompt["language"],
        "family": components.families[prompt["language"]],
        "why": why,
        "messages": [
            {"role": turn["role"], "content": cut_to(turn["content"], chars)}
            for turn in prompt["messages"]
        ],
        "reward": chosen[0]["reward"] if chosen else None,
        "margin": chosen[0]["margin"] if chosen else None,
        "chosen": {"teacher": best["teacher"], "sample": best["sample"]} if best else None,
        "quarantined": shard.lost.get(prompt["prompt_id"]),
        "candidates": candidates,
    }


def _candidates(
    shard: Closeup,
    row: int,
    chosen: Sequence[dict[str, Any]],
    components: Components,
    chars: int,
) -> list[dict[str, Any]]:
    ranks = {(one["teacher_fingerprint"], one["sample"]): one["rank"] or 1 for one in chosen}
    prints = shard.lineup.field.teachers
    return [
        {
            "teacher": told["teacher"],
            "sample": told["sample"],
            "rank": ranks.get((prints[told["owner"]], told["sample"])),
            "reward": told["score"],
            "scores": {
                arbiter.name: told[f"score {number}"]
                for number, arbiter in enumerate(components.arbiters)
            },
            "gates": told["gates"],
            "error": told["error"] and told["error"][:RAW_CHARS],
            "finish_reason": told["finish_reason"],
            "completion_tokens": told["completion_tokens"],
            **{
                name: None if told[name] is None else cut_to(told[name], chars)
                for name in ("completion", "reasoning")
            },
        }
        for told in shard.candidates(row)
    ]


def _in_order(why: dict[str, str], gathered: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples that were chosen, by language, why, and lot."""
    found = [{**gathered[key], "why": told} for key, told in why.items() if key in gathered]
    return sorted(
        found,
        key=lambda one: (
            one["language"],
            lots.WHY.index(one["why"]),
            lots.draw(one["prompt_id"]),
        ),
    )


def cut_to(text: str, chars: int, left_out: int = 0) -> Cut:
    """The start of a text, of which so many characters are missing already."""
    return {"text": text[:chars], "left_out": left_out + max(0, len(text) - chars)}


def _cuts(sample: dict[str, Any]) -> Iterator[Cut]:
    """All texts of a sample that may be cut."""
    for turn in sample["messages"]:
        yield turn["content"]
    for candidate in sample["candidates"]:
        yield from (candidate[n] for n in ("completion", "reasoning") if candidate[n] is not None)


def json_bytes(value: Any) -> int:
    """How long plain data is as JSON in a page: UTF-8 without spaces, and what could end or open
    something in HTML or JavaScript escaped in six characters."""
    told = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    escaped = 5 * sum(map(told.count, "<>&")) + 3 * sum(map(told.count, "\u2028\u2029"))
    return len(told.encode("utf-8", "surrogatepass")) + escaped


def fitting(samples: Sequence[dict[str, Any]], chars: int, max_bytes: int) -> int | None:
    """The greatest length, up to `chars`, that texts may be cut to so that all fits; none where
    even starts of `LEAST_CHARS` are too much."""
    texts = [cut["text"] for sample in samples for cut in _cuts(sample)]
    beside = json_bytes(samples) - sum(map(json_bytes, texts)) + _LEFT_OUT_BYTES * len(texts)

    def fits(cap: int) -> bool:
        return beside + sum(json_bytes(text[:cap]) for text in texts) <= max_bytes

    least, most = min(LEAST_CHARS, chars), chars
    if samples and not fits(least):
        return None
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return most
