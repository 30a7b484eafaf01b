"""How a run chooses: who answers what, what a candidate must pass, and which of them is taken.

Each field once, with its bounds and meaning beside it, as in `config`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from arbitrage.blocks import Block
from arbitrage.languages import parse_tag

Number = TypeVar("Number", int, float)


def in_language(value: Number | dict[str, Number] | None, language: str) -> Number | None:
    """The number for a language, where one serves all or each may have its own; or none."""
    if isinstance(value, dict):
        return value.get(language, value.get("default"))
    return value


def _by_code(value: Any) -> Any:
    """The keys of a mapping as codes of languages; ValueError for one that is no language."""
    if not isinstance(value, dict):
        return value
    found = {}
    for tag, item in value.items():
        code = tag if tag == "default" else parse_tag(tag)
        if code is None:
            raise ValueError(f"{tag!r} is no known language; use a tag such as de, deu or pt-BR")
        if code in found:
            raise ValueError(f"{tag!r} names a language that is already there; drop one of them")
        found[code] = item
    return found


Numbers = Annotated[float | dict[str, float], AfterValidator(_by_code)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[Count | dict[str, Count], AfterValidator(_by_code)]
"""One for all languages, or one per language; the key `default` serves those not named."""


class RoutingConfig(Block):
    """Who answers what. By itself the router `all`: every teacher that covers the language."""

    router: str = "all"

    @field_validator("router")
    @classmethod
    def _known_router(cls, name: str) -> str:
        if name not in ROUTINGS:
            near = difflib.get_close_matches(name, list(ROUTINGS), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"routers are {', '.join(ROUTINGS)}"
            raise ValueError(f"unknown router {name!r}; {hint}")
        return name


class FixedRouting(RoutingConfig):
    """A table, by language, by family or `default`, in this order; or a file with one.

    Languages without a row are asked of all teachers that cover them.
    """

    router: Literal["fixed"] = "fixed"
    table: dict[str, tuple[str, ...]] = Field(
        {}, description="a language, a family or `default` -> names of teachers"
    )
    file: str | None = Field(None, description="made by `arbitrage route fit --router fixed`")

    @field_validator("table", mode="before")
    @classmethod
    def _one_name_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: [v] if isinstance(v, str) else v for k, v in value.items()}

    @field_validator("table")
    @classmethod
    def _names_somebody(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for place, names in value.items():
            if not names:
                raise ValueError(f"{place!r} names no teacher; name one or drop the line")
        return _codes_for_tags(value)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.table) == (self.file is not None):
            raise ValueError("the router 'fixed' needs either `table:` or `file:`")
        return self


class RandomRouting(RoutingConfig):
    """Some of the covering teachers, drawn by the hash of the prompt's id."""

    router: Literal["random"] = "random"
    count: int = Field(1, ge=1, description="teachers per prompt")


class LearnedRouting(RoutingConfig):
    """Looks at the prompt alone; learned from an earlier run's rewards."""

    router: Literal["learned"] = "learned"
    file: str = Field(description="made by `arbitrage route fit`")
    count: int = Field(1, ge=1, description="teachers per prompt, those most likely to be best")
    mass: float | None = Field(
        None, gt=0, le=1, description="as many teachers more as it takes to reach this probability"
    )


class CascadeRouting(RoutingConfig):
    """One teacher after the other, until a reward reaches the threshold."""

    router: Literal["cascade"] = "cascade"
    order: tuple[str, ...] = Field((), description="names of teachers; left out: cheapest first")
    threshold: Numbers = Field(
        description="a reward that is good enough; one for all, or by language with `default`"
    )

    @field_validator("order")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ValueError(f"the order names {twice[0]!r} twice; drop one")
        return value


class AdaptiveRouting(RoutingConfig):
    """Learns from the run's own scores, and spends a given share of all generations.

    The first `lag` shards are routed knowing nothing, so that shards are best kept small: about
    `warm_up` prompts of each language in `lag` shards.
    """

    router: Literal["adaptive"] = "adaptive"
    budget: float = Field(0.4, gt=0, le=1, description="share of what asking all would take")
    explore: float = Field(0.1, ge=0, le=1, description="share of the budget for what is not known")
    lag: int = Field(2, ge=1, description="shards that are on their way while the next is routed")
    warm_up: int = Field(
        12, ge=1, description="prompts per language asked of all while nothing is known"
    )


ROUTINGS: dict[str, type[RoutingConfig]] = {
    "all": RoutingConfig,
    "fixed": FixedRouting,
    "random": RandomRouting,
    "learned": LearnedRouting,
    "cascade": CascadeRouting,
    "adaptive": AdaptiveRouting,
}
"""What each router can be told."""


def _of_its_router(value: Any) -> Any:
    """The block of the router that is named; ValueError for a key that belongs to another."""
    if not isinstance(value, dict):
        return value
    name = value.get("router", "all")
    kind = ROUTINGS.get(name) if isinstance(name, str) else None
    if kind is None:
        return RoutingConfig.model_validate({"router": name})
    for key in value:
        owners = [repr(n) for n, other in ROUTINGS.items() if key in other.model_fields]
        if owners and key not in kind.model_fields:
            raise ValueError(
                f"the router {name!r} has no `{key}:`, only {' and '.join(owners)}; "
                "drop it or name another router"
            )
    return kind.model_validate(value)


Routing = Annotated[SerializeAsAny[RoutingConfig], BeforeValidator(_of_its_router)]
"""The `routing:` of a config: one block per router, told apart by `router:`."""


def _codes_for_tags(value: dict[str, Any]) -> dict[str, Any]:
    """Keys that are tags of languages as codes; ValueError where two are one language."""
    known = {parse_tag(key) or key: item for key, item in value.items()}
    if len(known) < len(value):
        raise ValueError(f"two of {', '.join(value)} are one language")
    return known


class GatesConfig(Block):
    """Checks that a candidate must pass to be chosen. All are recorded, enforced or not.

    The switches say which are enforced, the numbers where each begins to fail. Changing either
    measures nothing anew, but for `refusal` and `refusals`: these are looked for where asked for.
    """

    truncated: bool = Field(True, description="the engine ended the answer, not the model")
    empty: bool = Field(True, description="no text but white space")
    repetition: bool = Field(True, description="words said again and again, see `max_repetition`")
    script: bool = Field(True, description="letters of a foreign script, see `max_foreign_letters`")
    language: bool = Field(True, description="lines in another language, see `max_wrong_lines`")
    refusal: bool = Field(False, description="the answer opens with a refusal, see `refusals`")
    instruction: bool = Field(True, description="text that tries to instruct whoever judges it")
    max_repetition: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of the words that may repeat what stands right before them",
    )
    max_foreign_letters: int = Field(
        2, ge=0, description="letters of a script that neither the language nor the prompt has"
    )
    max_wrong_lines: float = Field(
        0.2, ge=0, le=1, description="share of the lines that may be surely in another language"
    )
    equal_languages: tuple[tuple[str, ...], ...] = Field(
        (),
        description="groups of languages that count as one, besides those no detector can tell",
    )
    refusals: tuple[str, ...] = Field(
        (), description="more beginnings of a refusal, besides those that come with the package"
    )

    @field_validator("equal_languages")
    @classmethod
    def _known_languages(cls, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return tuple(_group(group) for group in groups)

    @field_validator("refusals")
    @classmethod
    def _some_text(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        if not all(phrase.strip() for phrase in phrases):
            raise ValueError("a refusal has no text; write what an answer begins with, or drop it")
        return phrases

    def enforced(self) -> tuple[str, ...]:
        """Names of the gates that keep a candidate from being chosen."""
        switches = (name for name in type(self).model_fields if getattr(self, name) is True)
        return tuple(switches)

    def limits(self) -> dict[str, Any]:
        """Where gates begin, as far as it is not where they do by default."""
        facts = ("refusals",)
        found = self.identity().items()
        return {k: v for k, v in found if k not in facts and not isinstance(v, bool)}


def _group(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The codes of a group of equal languages. Raises ValueError."""
    for tag in tags:
        if parse_tag(tag) is None:
            raise ValueError(f"{tag!r} is not a language we know; use a code such as 'id' or 'ms'")
    codes = tuple(dict.fromkeys(code for tag in tags if (code := parse_tag(tag))))
    if len(codes) < 2:
        raise ValueError(f"{list(tags)} must name two languages or more that count as one")
    return codes


class SelectionConfig(Block):
    """Which of a prompt's candidates are taken, and from how many prompts.

    Identical candidates of a prompt count as one. A shard's rows depend on those before it where
    there is a quota or a cap, and then shards are chosen from in order.
    """

    rule: Literal["best", "top_k", "pairs"] = "best"
    k: int = Field(2, ge=1, description="of top_k: at most so many rows per prompt")
    min_reward: Numbers | None = Field(None, description="what is below it is not taken")
    min_margin: Numbers | None = Field(
        None, description="least distance to the next best, of pairs to the rejected one"
    )
    quota: Counts | None = Field(None, description="so many prompts of a language, and no more")
    max_teacher_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="part of a language's rows that one teacher may have, also where it is alone",
    )

    @property
    def chained(self) -> bool:
        """Whether what is taken of a shard depends on what was taken of those before it."""
        return self.quota is not None or self.max_teacher_share is not None

    @model_validator(mode="after")
    def _k_is_for_top_k(self) -> Self:
        if self.k != type(self).model_fields["k"].default and self.rule != "top_k":
            raise ValueError("`k:` belongs to `rule: top_k`; give that rule or drop k")
        return self


ColumnName = str | tuple[str, ...] | None
"""One, or several of which the first that a row has counts."""


def names_in(column: ColumnName) -> tuple[str, ...]:
    """All names that a column may have."""
    return (column,) if isinstance(column, str) else column or ()


class Columns(Block):
    """Which column of the input holds what; every other column is carried along."""

    prompt: ColumnName = "prompt"
    messages: ColumnName = Field(
        "messages", description="a list of {role, content}; where a row has it, it wins over prompt"
    )
    id: ColumnName = "id"
    language: str | None = "language"
