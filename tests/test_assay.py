"""`arbitrage arbiter check`: what is scored and paid for, what is kept, and what is refused."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from arbitrage import assay, attacks, cli
from arbitrage.card import Card
from arbitrage.engines.fake import build_scorer
from arbitrage.errors import ItemError, OverWindowError
from arbitrage.usage import Usage, note
from command_line import start

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbitrage.components import Arbiter
    from arbitrage.records import Prompt

ROOT = Path(__file__).resolve().parents[1]
CONFIG: dict[str, Any] = {
    "run": "out",
    "prompts": {"sources": [{"path": "p.jsonl"}]},
    "teachers": {"a": {"engine": "fake", "languages": ["de"]}},
    "arbiter": {"engine": "fake"},
}


def row(number: int, chosen: float, rejected: float, language: str = "de") -> dict[str, Any]:
    """A pair whose fake scores stand in its completions."""
    return {
        "prompt": f"question {number}",
        "chosen": f"right ({chosen:.4f})",
        "rejected": f"the wrong one ({rejected:.4f})",
        "language": language,
    }


ROWS = [
    *(row(n, 0.9, 0.1 + n / 100) for n in range(8)),
    row(8, 0.2, 0.6),
    row(9, 0.5, 0.5, "sw"),
    row(10, 0.7, 0.1, "sw"),
]


class Watched:
    """The fake Arbiter, and what it was asked; `before` may raise. A score costs two tokens."""

    max_in_flight = 4

    def __init__(self, arbiter: Arbiter, before: Callable[[Prompt, str], None]) -> None:
        self._engine = build_scorer(arbiter)
        self._before = before
        self.asked: list[tuple[str, str]] = []
        self.in_flight = self.most = 0
        self.closed = False

    async def score(self, prompt: Prompt, completion: str) -> float:
        self.asked.append((prompt.messages[-1]["content"], completion))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0)
            self._before(prompt, completion)
            note(Usage(prompt_tokens=2))
            return await self._engine.score(prompt, completion)
        finally:
            self.in_flight -= 1

    def provenance(self) -> dict[str, str]:
        return {"engine": "watched"}

    def close(self) -> None:
        self.closed = True


class Desk:
    """A folder with a config and pairs, the command, and the engines that it built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Any, folder: Path) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.folder = folder
        self.before: Callable[[Prompt, str], None] = lambda prompt, completion: None
        self.built: list[Watched] = []
        monkeypatch.chdir(folder)
        monkeypatch.setattr(assay, "build_scorer", self._build)
        self.pairs(*ROWS)
        self.config()

    def _build(self, arbiter: Arbiter) -> Watched:
        self.built.append(Watched(arbiter, self.before))
        return self.built[-1]

    def pairs(self, *rows: dict[str, Any]) -> None:
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (self.folder / "pairs.jsonl").write_text(text)

    def config(self, **changes: Any) -> None:
        (self.folder / "c.yaml").write_text(yaml.safe_dump(CONFIG | changes))

    def check(self, *words: str, code: int = 0) -> str:
        """What the command said: on standard output, or its error."""
        told = ["arbitrage", "arbiter", "check", "c.yaml", "--pairs", "pairs.jsonl", *words]
        self._monkeypatch.setattr(sys, "argv", told)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self._capsys.readouterr()
        assert int(ended.value.code or 0) == code, said.err
        if code:
            assert said.out == ""
            assert said.err.startswith("arbitrage: ")
            assert said.err.count("\n") == 1
        return said.err if code else said.out

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Prompt and completion of every request."""
        return [item for engine in self.built for item in engine.asked]

    def card(self, name: str = "card.json") -> Card:
        return Card.read(self.folder / name)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Desk:
    return Desk(monkeypatch, capsys, tmp_path)


def test_the_card_says_what_the_scores_say(desk: Desk) -> None:
    text = desk.check()
    card = desk.card()
    assert card.accuracy == {"de": 8 / 9, "sw": 1 / 2}
    assert card.languages["sw"].ties == 1
    margins = [0.9 - 0.1 - n / 100 for n in range(8)] + [-0.4, 0.0, 0.6]
    assert card.overall.margin == pytest.approx(sum(margins) / 11)
    assert card.macro.accuracy.value == pytest.approx((8 / 9 + 1 / 2) / 2)
    assert (card.pairs.rows, card.pairs.used, card.arbiter.made_with) == (
        *(11, 11, {"engine": "watched"}),
    )
    assert "below 70 % (<): sw" in text
    assert "scored now: 22 of 22 completions" in text
    wanted = [(r["prompt"], text) for r in ROWS for text in (r["chosen"], r["rejected"])]
    assert Counter(desk.asked) == Counter(wanted)
    assert desk.built[0].most == Watched.max_in_flight
    assert desk.built[0].closed


def test_json_is_the_card(desk: Desk) -> None:
    told = desk.check("--json")
    assert json.loads(told) == json.loads((desk.folder / "card.json").read_text())
    assert told == (desk.folder / "card.json").read_text()


def test_a_completion_is_scored_once_and_never_again(desk: Desk) -> None:
    other = {**ROWS[0], "rejected": "another wrong one (0.3000)"}
    desk.pairs(*ROWS, other)
    desk.check()
    assert len(desk.asked) == 23
    first = (desk.folder / "card.json").read_bytes()
    text = desk.check()
    assert "scored now: 0 of 23" in text
    assert "spent so far: 46 prompt tokens, 0 completion tokens" in text
    assert (desk.folder / "card.json").read_bytes() == first
    assert len(desk.built) == 1, "nothing is missing, so no engine is built"
    desk.pairs(*ROWS, other, row(20, 0.9, 0.8))
    assert "scored now: 2 of 25" in desk.check()
    assert len(desk.asked) == 25


def test_the_same_text_after_another_prompt_is_another_completion(desk: Desk) -> None:
    desk.pairs(ROWS[0], {**ROWS[0], "prompt": "another question"})
    desk.check()
    assert len(desk.asked) == 4


def test_scores_belong_to_one_arbiter(desk: Desk) -> None:
    desk.check()
    first = desk.card()
    desk.config(arbiter={"engine": "fake", "model": "another"})
    desk.check()
    assert len(desk.asked) == 44
    assert desk.card().arbiter.fingerprint != first.arbiter.fingerprint
    desk.config()
    desk.check()
    assert len(desk.asked) == 44
    assert desk.card() == first


def test_what_was_scored_before_a_failure_is_kept(desk: Desk) -> None:
    def fail(prompt: Prompt, completion: str) -> None:
        del prompt, completion
        if len(desk.asked) > 10:
            raise RuntimeError("the device is gone")

    desk.before = fail
    told = desk.check(code=1)
    assert "RuntimeError('the device is gone')" in told
    assert "what has been scored is kept" in told
    assert desk.built[0].closed
    assert not (desk.folder / "card.json").exists()
    desk.before = lambda prompt, completion: None
    text = desk.check()
    again = Counter(desk.asked)
    assert len(again) == 22
    assert again.total() - 22 <= Watched.max_in_flight + 1, "only what was in flight"
    assert f"scored now: {len(desk.built[1].asked)} of 22" in text


def test_a_torn_line_is_scored_again(desk: Desk) -> None:
    desk.check()
    path = desk.folder / "card.json.scores"
    lines = path.read_bytes().splitlines(keepends=True)
    torn = next(n for n, line in enumerate(lines) if b'"done":["' in line and b"made" not in line)
    lines[torn] = lines[torn][: len(lines[torn]) // 2] + b"\n"
    path.write_bytes(b"".join(lines))
    assert "scored now: 1 of 22" in desk.check()


def test_failures_are_told_apart_and_are_no_scores(desk: Desk) -> None:
    def fail(prompt: Prompt, completion: str) -> None:
        number = int(prompt.messages[-1]["content"].split()[1])
        if number == 0:
            raise OverWindowError("99 tokens are more than the window of 9 tokens")
        if number in (1, 2) and completion.startswith("right"):
            raise ItemError("refused")

    desk.before = fail
    text = desk.check()
    result = desk.card().languages["de"]
    assert (result.pairs, result.judged) == (9, 6)
    assert (result.over_window, result.errors) == (1, {"refused": 2})
    assert result.accuracy.count == 5
    assert "pairs over the model's window: 1" in text
    assert "pairs without a score: 2 (refused)" in text
    desk.before = lambda prompt, completion: None
    assert "scored now: 0 of 22" in desk.check()
    assert "scored now: 4 of 22" in desk.check("--again")
    assert desk.card().languages["de"].judged == 9


def test_a_number_that_is_none_is_no_score(desk: Desk) -> None:
    desk.config(arbiter={"engine": "fake", "options": {"lie": "nan"}})
    desk.check()
    assert desk.card().accuracy == {}
    assert desk.card().overall.errors == {"the Arbiter gave nan, which is no score": 11}


def test_attacks_are_scored_beside(desk: Desk) -> None:
    """The fake Arbiter reads a number at the end: so only what ends a text can move it."""
    desk.check("--attacks", "--attack-pairs", "4")
    card = desk.card()
    kinds = list(attacks.texts())
    assert [(a.kind, a.place) for a in card.attacks] == [
        (kind, place) for kind in kinds for place in attacks.PLACES
    ]
    assert {a.passes.total for a in card.attacks} == {4}
    assert len(desk.asked) == 22 + 4 * 2 * len(kinds)
    for found in card.attacks:
        if found.place == "start":
            assert found.moved == 0
            assert found.passes == found.without
    before = card.overall
    desk.check()
    assert desk.card().overall == before
    assert desk.card().attacks == ()
    assert len(desk.built) == 1


def test_attacked_shares_by_hand(desk: Desk) -> None:
    desk.check("--attacks", "--attack-pairs", "11")
    texts = attacks.texts()
    found = {a.kind: a for a in desk.card().attacks if a.place == "end"}
    assert set(found) == set(texts)
    for kind, by_language in texts.items():
        endings = {"\n\n" + text for own in by_language.values() for text in own}
        passed = 0
        for one in ROWS:
            attacked = {one["rejected"] + ending for ending in endings}
            [text] = [t for prompt, t in desk.asked if prompt == one["prompt"] and t in attacked]
            passed += score_of(text) > float(one["chosen"][-7:-1])
        assert found[kind].passes.count == passed
        assert (found[kind].without.count, found[kind].without.total) == (1, 11)


def score_of(text: str) -> float:
    """The fake Arbiter's, asked for this text alone."""
    from arbitrage.configfile import load
    from arbitrage.resolve import resolve

    scorer = build_scorer(resolve(load(Path("c.yaml")).config).arbiter)
    return asyncio.run(scorer.score(None, text))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arbiter", "b"], "no Arbiter is called 'b'; give --arbiter one of arbiter"),
        (["-o", "c.yaml"], "c.yaml is there and is no card; name another file with -o"),
        (["-o", "nowhere/card.json"], "nowhere is no folder that can be written to"),
        (["--pairs", "nowhere.jsonl"], "no file of pairs matches nowhere.jsonl"),
        (["--language", "klingon"], "--language 'klingon' is no known language tag"),
        (
            ["--set", "arbiter.resources.python=/opt/other/bin/python"],
            "call this command with that one, `/opt/other/bin/python -m arbitrage.cli arbiter",
        ),
        (
            [
                *("--set", "arbiter.engine=endpoint", "--set", "arbiter.model=m"),
                *("--set", "arbiter.options.base_url=http://127.0.0.1:1/v1"),
                *("--set", "arbiter.options.api_key_env=NO_SUCH_SECRET"),
                *("--set", "arbiter.options.score_api=judge"),
            ],
            "NO_SUCH_SECRET is not set",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_scored(
    desk: Desk, words: list[str], message: str
) -> None:
    assert message in desk.check(*words, code=2)
    assert desk.built == []
    assert not (desk.folder / "card.json").exists()


def test_the_teachers_need_not_be_there(desk: Desk) -> None:
    absent = {"engine": "transformers", "model": "./nowhere", "languages": ["de"]}
    desk.config(teachers={"a": absent})
    desk.check()
    assert desk.card().overall.judged == 11


def test_what_an_engine_prints_is_no_result(desk: Desk) -> None:
    def talk(prompt: Prompt, completion: str) -> None:
        del prompt, completion
        sys.stdout.write("loading ...\n")

    desk.before = talk
    assert json.loads(desk.check("--json"))["version"] == 1


def test_the_python_of_this_process_is_no_other(desk: Desk) -> None:
    desk.check("--set", f"arbiter.resources.python={sys.executable}")
    assert len(desk.asked) == 22


def test_an_older_card_is_replaced(desk: Desk) -> None:
    old = {"version": 0, "arbiter": {}, "languages": {}}
    (desk.folder / "card.json").write_text(json.dumps(old))
    desk.check()
    assert desk.card().overall.judged == 11


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_pays_for_little_twice(tmp_path: Path, number: signal.Signals) -> None:
    """A slow Arbiter; the other process is ended as soon as some scores are on the disk."""
    slow = {"engine": "fake", "options": {"delay_s": 0.25}}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"arbiter": slow}))
    rows = [row(n, 0.9, 0.1) for n in range(600)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(one) + "\n" for one in rows))
    scores = tmp_path / "card.json.scores"
    words = ("arbiter", "check", config, "--pairs", pairs, "-o", tmp_path / "card.json")
    process = start(*words)
    deadline = time.monotonic() + 60
    while not scores.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert process.returncode == 75
        assert "the same command goes on from there" in said
    kept = scores.read_bytes().count(b'"done"') - 1
    assert 0 < kept < 1200
    config.write_text(yaml.safe_dump(CONFIG | {"arbiter": slow | {"options": {"delay_s": 0.01}}}))
    process = start(*words)
    told, problem = process.communicate(timeout=60)
    assert process.returncode == 0, problem
    assert f"scored now: {1200 - kept} of 1,200" in told.replace(
        f"{1200 - kept:,}", f"{1200 - kept}"
    )


@pytest.mark.engine("transformers")
def test_a_real_arbiter_tells_what_is_over_its_window(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1 + 1?", "chosen": "2.", "rejected": "blue", "language": "en"},
        {"prompt": "1 + 2?", "chosen": "3.", "rejected": "seven " * 2000, "language": "en"},
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(one) + "\n" for one in rows))
    told = start(
        *("arbiter", "check", ROOT / "configs/quickstart.yaml", "--pairs", pairs),
        *("-o", tmp_path / "card.json"),
    )
    problem = told.communicate(timeout=120)[1]
    assert told.returncode == 0, problem
    result = Card.read(tmp_path / "card.json").overall
    assert (result.pairs, result.judged, result.over_window, result.errors) == (2, 1, 1, {})
