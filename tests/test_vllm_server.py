"""The endpoint engine against real servers of vLLM: the micro-world's generalist and its Arbiter.

Needs a Python with vLLM in `ARBITRAGE_VLLM_PYTHON`, as `make test-vllm` has, and skips with a
printed reason elsewhere. Shares and differences are printed (`-s`), not only judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage.config import RunConfig, Sampling
from arbitrage.engines import build_generator, build_scorer
from arbitrage.engines.client import SILENCE
from arbitrage.errors import EngineError, ItemError
from arbitrage.records import Completion, Prompt
from arbitrage.resolve import resolve
from command_line import cli, running, write_config
from harness import read_rows
from vllm_python import MICRO, VllmServer, heldout, needs_python, prompts, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = [needs_python, pytest.mark.engine("vllm server")]

GREEDY = Sampling(temperature=0, max_tokens=48)
HOT = Sampling(temperature=2, max_tokens=24)
PER_LANGUAGE = 3
TEMPLATE = (MICRO / "models/generalist/chat_template.jinja").read_text(encoding="utf-8")
"""The Arbiter's too. It is given the conversation alone: so special tokens are written out."""
for name, token in (("{{ bos_token }}", "<bos>"), ("{{ eos_token }}", "<eos>")):
    TEMPLATE = TEMPLATE.replace(name, token)
ASKED = prompts(PER_LANGUAGE)
WINDOW = 256
LONG = Prompt("long", "de", [{"role": "user", "content": "eins zwei drei " * WINDOW}])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmServer, VllmServer]]:
    """Of the generalist and of the Arbiter; they load at the same time."""
    logs = tmp_path_factory.mktemp("servers")
    # Where a prompt may be taken in parts, a request's own seed ends vLLM on CPUs.
    whole = ("--no-enable-chunked-prefill", "--generation-config", "vllm")
    generalist = VllmServer("generalist", logs / "generalist", *whole)
    arbiter = VllmServer("arbiter", logs / "arbiter", "--runner", "pooling")
    with generalist, arbiter:
        generalist.wait()
        arbiter.wait()
        yield generalist, arbiter


@pytest.fixture(scope="module")
def generalist(servers: tuple[VllmServer, VllmServer]) -> VllmServer:
    return servers[0]


@pytest.fixture(scope="module")
def arbiter(servers: tuple[VllmServer, VllmServer]) -> VllmServer:
    return servers[1]


def served(server: VllmServer, **options: Any) -> dict[str, Any]:
    usual = {"base_url": server.url, "server": "vllm"}
    return {"engine": "endpoint", "model": server.name, "options": {**usual, **options}}


def plain(name: str) -> dict[str, Any]:
    model = str(MICRO / "models" / name)
    return {"engine": "transformers", "model": model, "options": {"dtype": "float32"}}


def parts(teacher: dict[str, Any], arbiter: dict[str, Any]) -> Any:
    teachers = {"t": {"languages": "all", **teacher}}
    return resolve(RunConfig(run="r", prompts="p.jsonl", teachers=teachers, arbiter=arbiter))


def ask(told: dict[str, Any], sampling: Sampling = GREEDY, asked: Sequence[Prompt] = ASKED) -> Any:
    """The completions of each prompt, in a list, or what was raised; all asked at once."""

    async def everyone() -> list[Any]:
        engine = build_generator(parts(told, {"engine": "fake"}).teachers[0])
        seeds = [[n * 1024 + k for k in range(sampling.n)] for n in range(len(asked))]
        pairs = zip(asked, seeds, strict=True)
        with contextlib.closing(engine):
            waiting = (engine.generate(prompt, sampling, own) for prompt, own in pairs)
            return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(asyncio.wait_for(everyone(), 240))


def judge(told: dict[str, Any], pairs: Sequence[tuple[Prompt, str]]) -> list[Any]:
    """The score of each pair, or what was raised."""

    async def everyone() -> list[Any]:
        engine = build_scorer(parts({"engine": "fake"}, told).arbiter)
        with contextlib.closing(engine):
            waiting = (engine.score(prompt, answer) for prompt, answer in pairs)
            return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(asyncio.wait_for(everyone(), 240))


@pytest.fixture(scope="module")
def greedy() -> list[list[Completion]]:
    """What transformers answers."""
    found: list[list[Completion]] = ask(plain("generalist"))
    assert len({answers[0].text for answers in found}) > len(found) / 2
    return found


# ---- generation


def test_greedy_answers_reasons_and_counts_are_those_of_the_transformers_engine(
    generalist: VllmServer, greedy: Any
) -> None:
    print(f"server of vllm {generalist.version()}")
    assert share(ask(served(generalist)), greedy, "greedy chat, text and token counts") >= 0.99


def test_the_text_of_the_template_gives_the_same(generalist: VllmServer, greedy: Any) -> None:
    told = served(generalist, api="completions")
    found = ask({**told, "chat_template": TEMPLATE})
    assert share(found, greedy, "greedy completions, text and token counts") >= 0.99


@pytest.mark.parametrize("limits", [{"top_k": 1}, {"min_p": 0.999}, {"top_p": 1e-6}])
def test_limits_of_sampling_reach_the_server(
    generalist: VllmServer, greedy: Any, limits: dict[str, float]
) -> None:
    """However hot: where one token alone is left, it is the greedy one."""
    sampling = GREEDY.model_copy(update={"temperature": 2.0, **limits})
    assert share(ask(served(generalist), sampling), greedy, f"{limits} against greedy") >= 0.97


def test_a_repetition_penalty_means_the_same(generalist: VllmServer, greedy: Any) -> None:
    sampling = GREEDY.model_copy(update={"repetition_penalty": 1.5})
    found = ask(served(generalist), sampling)
    assert share(found, ask(plain("generalist"), sampling), "repetition_penalty 1.5") >= 0.97
    assert share(found, greedy, "the same without") < 0.9


def test_a_seed_repeats_its_answer_and_another_gives_another(generalist: VllmServer) -> None:
    sampling = HOT.model_copy(update={"n": 4})
    first, again = (ask(served(generalist), sampling) for _ in range(2))
    assert all(len(answers) == 4 for answers in first)
    assert share(first, again, "four seeds each, once more") >= 0.95
    assert all(len({answer.text for answer in answers}) == 4 for answers in first)


def test_stop_strings_and_the_limit_end_answers(generalist: VllmServer, greedy: Any) -> None:
    short = GREEDY.model_copy(update={"max_tokens": 2})
    for found, whole in zip(ask(served(generalist), short), greedy, strict=True):
        if whole[0].completion_tokens > 2:
            assert (found[0].finish_reason, found[0].completion_tokens) == ("length", 2)
    stopping = GREEDY.model_copy(update={"stop": (" ",)})
    found, wanted = (ask(told, stopping) for told in (served(generalist), plain("generalist")))
    texts = [[(a[0].text, a[0].finish_reason) for a in many] for many in (found, wanted)]
    assert share(*texts, "cut at the first space") >= 0.99


def test_a_prompt_longer_than_the_window_is_an_item_error(generalist: VllmServer) -> None:
    (sound,), (broken,) = ask(served(generalist), asked=[ASKED[0], LONG])
    assert isinstance(sound, Completion)
    assert isinstance(broken, ItemError)
    assert "HTTP 400: This model's maximum context length is 256 tokens" in str(broken)


def test_an_answer_that_the_window_ends_is_cut_off_and_says_so(generalist: VllmServer) -> None:
    """The server lowers max_tokens to what there is room for: such an answer fails the gate. More
    than the whole window it refuses."""
    told = served(generalist, extra_body={"ignore_eos": True})
    endless, more = (GREEDY.model_copy(update={"max_tokens": WINDOW + n}) for n in (0, 1))
    ((answer,),) = ask(told, endless, ASKED[:1])
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens + answer.completion_tokens == WINDOW
    ((error,),) = ask(told, more, ASKED[:1])
    assert isinstance(error, ItemError)
    assert "HTTP 400: max_tokens=257" in str(error)


def test_further_fields_reach_the_server_which_ignores_those_it_does_not_know(
    generalist: VllmServer, greedy: Any
) -> None:
    longer = ask(served(generalist, extra_body={"min_tokens": 40}), asked=ASKED[:5])
    assert all(answer.completion_tokens >= 40 for (answer,) in longer)
    unknown = ask(served(generalist, extra_body={"min_tokenz": 40}))
    assert share(unknown, greedy, "with a field that vLLM does not have") >= 0.99
    ((wrong,),) = ask(served(generalist, extra_body={"min_tokens": "many"}), asked=ASKED[:1])
    assert isinstance(wrong, ItemError)
    assert "min_tokens" in str(wrong)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_model_that_is_not_there_is_one_sentence(generalist: VllmServer, api: str) -> None:
    told = served(generalist, api=api) | {"model": "someone-else"}
    told |= {"chat_template": TEMPLATE} if api == "completions" else {}
    for error in ask(told):
        assert type(error) is EngineError
        assert "404: The model `someone-else` does not exist" in str(error)
        assert "check `model:`" in str(error)


# ---- scoring


def pairs() -> list[tuple[Prompt, str]]:
    """Each prompt with the right answer and with that of the next."""
    lines = (MICRO / "heldout/answers.jsonl").open(encoding="utf-8")
    right = {row["id"]: row["answer"] for row in map(json.loads, lines)}
    following = [*ASKED[1:], ASKED[0]]
    own = [(prompt, right[prompt.id]) for prompt in ASKED]
    return own + [(a, right[b.id]) for a, b in zip(ASKED, following, strict=True)]


def furthest(first: Sequence[float], second: Sequence[float], what: str) -> float:
    found = max(abs(a - b) for a, b in zip(first, second, strict=True))
    print(f"{what}: furthest {found:.2e} of {len(first)}, {min(second):.2f} to {max(second):.2f}")
    return found


def test_scores_are_the_raw_output_of_the_transformers_engine(arbiter: VllmServer) -> None:
    wanted = judge(plain("arbiter"), pairs())
    assert len(set(wanted)) > len(wanted) / 2
    told = served(arbiter, score_api="classify")
    assert furthest(judge(told, pairs()), wanted, "/classify") < 1e-4
    found = judge({**told, "chat_template": TEMPLATE}, pairs())
    assert furthest(found, wanted, "/classify, with the template's text") < 1e-4


def test_score_is_the_output_on_the_two_texts_one_after_the_other(arbiter: VllmServer) -> None:
    """Without any chat template: of a reward model that has one, it is another number."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = MICRO / "models/arbiter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    wanted = []
    for prompt, answer in pairs():
        texts = [prompt.messages[0]["content"], answer]
        first, second = tokenizer(texts, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            wanted.append(float(model(torch.tensor([first + second])).logits[0, 0]))
    found = judge(served(arbiter, score_api="score"), pairs())
    assert furthest(found, wanted, "/score") < 1e-4
    classified = judge(served(arbiter, score_api="classify"), pairs())
    assert furthest(found, classified, "/score against /classify") > 1


@pytest.mark.parametrize("api", ["classify", "score"])
def test_a_pair_longer_than_the_window_is_never_cut(arbiter: VllmServer, api: str) -> None:
    told = served(arbiter, score_api=api)
    sound, broken, other = judge(told, [pairs()[0], (ASKED[0], "eins " * WINDOW), (LONG, "ja")])
    assert isinstance(sound, float)
    for error in (broken, other):
        assert isinstance(error, ItemError)
        assert "maximum context length is 256 tokens" in str(error)


def test_an_arbiter_that_is_not_there_or_does_not_judge_is_one_sentence(
    generalist: VllmServer, arbiter: VllmServer
) -> None:
    absent = served(arbiter, score_api="classify") | {"model": "someone-else"}
    for told in (absent, served(generalist, score_api="classify")):
        for error in judge(told, pairs()[:3]):
            assert type(error) is EngineError
            assert "HTTP 404" in str(error)
            assert "check `model:` and `base_url:`" in str(error)


# ---- a whole run, and one whose server is killed

RUN_PER_LANGUAGE = 20
SHARD_SIZE = 46
SHARDS = RUN_PER_LANGUAGE * 23 // SHARD_SIZE


def config_for(run: str, teacher: dict[str, Any], arbiter: dict[str, Any]) -> dict[str, Any]:
    greedy = {"languages": "all", "sampling": {"temperature": 0, "max_tokens": 48}}
    return {
        "run": run,
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": SHARD_SIZE},
        "teachers": {"generalist": {**teacher, **greedy}},
        "arbiter": arbiter,
        # every answer is compared, those too that a gate would stop
        "gates": dict.fromkeys(("repetition", "script", "language"), False),
    }


def write_prompts(folder: Path) -> None:
    lines = (json.dumps(row) + "\n" for row in heldout(RUN_PER_LANGUAGE))
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run on transformers."""
    folder = tmp_path_factory.mktemp("plain")
    write_prompts(folder)
    told = config_for("run", plain("generalist"), plain("arbiter"))
    result = cli("run", write_config(folder, told))
    assert result.returncode == 0, result.stderr
    rows = read_rows(folder / "run", "selected")
    assert len({row["language"] for row in rows}) == 23
    return rows


def check_rows(rows: list[dict[str, Any]], wanted: list[dict[str, Any]], what: str) -> None:
    """The same prompts; the same answers but for a rare token, and there the same rewards."""
    ids, others = ([row["prompt_id"] for row in many] for many in (rows, wanted))
    assert ids == others
    assert len(set(ids)) == len(ids) == 23 * RUN_PER_LANGUAGE
    same = [a["completion"] == b["completion"] for a, b in zip(rows, wanted, strict=True)]
    print(f"{what}: {sum(same) / len(same):.4f} of {len(same)} rows with the same answer")
    assert sum(same) >= 0.99 * len(same)
    rewards = [
        (a["reward"], b["reward"]) for a, b, as_b in zip(rows, wanted, same, strict=True) if as_b
    ]
    assert furthest(*zip(*rewards, strict=True), "rewards") < 1e-4


@pytest.mark.cluster
def test_a_run_with_both_behind_servers_gives_the_rows_of_transformers(
    servers: tuple[VllmServer, VllmServer], wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_prompts(tmp_path)
    generalist, arbiter = servers
    told = config_for("run", served(generalist), served(arbiter, score_api="classify"))
    result = cli("run", write_config(tmp_path, told))
    assert result.returncode == 0, result.stderr
    check_rows(read_rows(tmp_path / "run", "selected"), wanted, "a run over two servers")


async def killed_under_load(server: VllmServer) -> list[Any]:
    """What becomes of requests whose server is killed once the first is answered."""
    told = served(server, max_attempts=3, backoff_s=0.05, max_wait_s=0.2)
    engine = build_generator(parts(told, {"engine": "fake"}).teachers[0])
    with contextlib.closing(engine):
        waiting = [asyncio.create_task(engine.generate(one, GREEDY, [0])) for one in prompts(10)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        server.kill()
        return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.cluster
def test_a_server_that_is_killed_ends_the_impatient_and_a_patient_run_goes_on_when_it_is_back(
    servers: tuple[VllmServer, VllmServer], wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_prompts(tmp_path)
    generalist, arbiter = servers
    patient = served(generalist, max_attempts=100, max_wait_s=2.0, max_concurrency=4)
    told = config_for("run", patient, served(arbiter, score_api="classify"))
    made = tmp_path / "run/candidates"
    deadline = time.monotonic() + 120
    with running("run", write_config(tmp_path, told)) as run:
        while not list(made.rglob("*.parquet")):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline, "nothing was made"
            time.sleep(0.01)
        outcomes = asyncio.run(asyncio.wait_for(killed_under_load(generalist), 120))
        assert len(list(made.rglob("*.parquet"))) < SHARDS, "it was killed too late"
        generalist.start()
        generalist.wait()
        out, errors = run.communicate(timeout=240)
    assert run.returncode == 0, (out, errors)
    check_rows(read_rows(tmp_path / "run", "selected"), wanted, "a run whose server was killed")
    assert not read_rows(tmp_path / "run", "quarantine")

    dead = [o for o in outcomes if isinstance(o, EngineError)]
    given_up = [o for o in outcomes if isinstance(o, list) and isinstance(o[0], ItemError)]
    answered = [o for o in outcomes if isinstance(o, list) and isinstance(o[0], Completion)]
    print(f"{len(answered)} answered, {len(given_up)} given up, then {len(dead)} not asked")
    assert len(dead) + len(given_up) + len(answered) == len(outcomes)
    assert answered
    assert len(given_up) < SILENCE < len(dead)
    assert all("answers nothing" in str(error) for error in dead)
    assert all("given up after 3 attempts" in str(error) for (error,) in given_up)
