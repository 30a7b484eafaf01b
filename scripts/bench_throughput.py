"""What `arbitrage run` makes of vLLM, beside a bare vLLM script that does the same work.

The same prompts go through the same models: (a) one script, one model after the other, then the
reward model, the best answer per prompt into one Parquet file; (b) `arbitrage run`. Both sides take
the CPU build of vLLM as it runs here, with the same engine arguments. Of (a) there are two kinds:
vLLM as it comes, whose engine lives in a process of its own, and the faster one with the engine in
the script's own process. Printed are, per round and side:

* wall: the whole, from the command to its last file, start-up included;
* steady: made tokens per second of the time in which models were generating or scoring, without
  the time before the first and without loading on the bare side;
* the ratios (b)/(a), pair by pair, with the median last.

The prompts are the micro-world's; the models are made on the spot, with random weights (they answer
to the last token, so that both sides make as many tokens), or `--models` names others.

    python scripts/bench_throughput.py --python .venv-vllm/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "data/micro/heldout/prompts.jsonl"
TOKENIZER = ROOT / "data/micro/models/generalist"
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "tie_word_embeddings": True,
}
WINDOW = 1024
KV_CACHE_GB = 1
TOKENS_OF_A_CORE = 2048
"""What an Arbiter on one core takes at once: vLLM's own 4,096 suit two cores, and cost one 15 %."""
KINDS = {"as it comes": False, "own process": True}
"""Of the bare script: whether the engine lives in its process."""


@dataclass(frozen=True)
class Work:
    """What both sides do; folders and files."""

    teachers: tuple[str, ...]
    arbiter: str
    prompts: str
    max_tokens: int
    compiled: bool


@dataclass(frozen=True)
class Figures:
    """One side in one round. `answers` maps (teacher, prompt) to text."""

    wall_s: float
    busy_s: float
    tokens: int
    answers: dict[tuple[str, str], str]

    @property
    def steady(self) -> float:
        """Tokens per second of busy time."""
        return self.tokens / self.busy_s


def bare(work: Work, out: Path) -> None:
    """The script that one would write without arbitrage; runs in vLLM's environment."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = read_prompts(work.prompts)
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    tokens, busy_s, answers = bare_answers(work, turns)
    scores, scoring_s = bare_scores(work, turns, answers)
    best = [max(range(len(scores)), key=lambda t: scores[t][n]) for n in range(len(prompts))]
    chosen = [answers[t][n] for n, t in enumerate(best)]
    table = pa.table([prompts, chosen, best], ["prompt", "answer", "teacher"])
    pq.write_table(table, out / "bare.parquet")
    told = {"tokens": tokens, "busy_s": busy_s + scoring_s, "answers": answers}
    (out / "bare.json").write_text(json.dumps(told))


def bare_answers(work: Work, turns: Sequence[Any]) -> tuple[int, float, list[list[str]]]:
    """Tokens, seconds after loading, and per teacher its answers."""
    import vllm
    from vllm.distributed import cleanup_dist_env_and_memory

    greedy = vllm.SamplingParams(temperature=0, max_tokens=work.max_tokens)
    answers: list[list[str]] = []
    tokens, busy_s = 0, 0.0
    for model in work.teachers:
        llm = vllm.LLM(model, **settings(work))
        start = time.perf_counter()
        done = llm.chat(turns, greedy, use_tqdm=False)
        busy_s += time.perf_counter() - start
        tokens += sum(len(one.outputs[0].token_ids) for one in done)
        answers.append([one.outputs[0].text for one in done])
        del llm, done
        cleanup_dist_env_and_memory()
    return tokens, busy_s, answers


def bare_scores(
    work: Work, turns: Sequence[Any], answers: Sequence[Sequence[str]]
) -> tuple[list[list[float]], float]:
    """Per teacher its scores; and the seconds after loading."""
    import vllm

    llm = vllm.LLM(work.arbiter, runner="pooling", dtype="float32", **settings(work))
    start = time.perf_counter()
    tokenizer = llm.get_tokenizer()
    raw = vllm.PoolingParams(task="classify", use_activation=False)
    scores = []
    for texts in answers:
        pairs = [
            [*asked, {"role": "assistant", "content": text}]
            for asked, text in zip(turns, texts, strict=True)
        ]
        whole = tokenizer.apply_chat_template(pairs, tokenize=False)
        tokens = tokenizer(whole, add_special_tokens=False)["input_ids"]
        asked = [{"prompt_token_ids": one} for one in tokens]
        judged = llm.encode(asked, raw, pooling_task="classify", use_tqdm=False)
        scores.append([float(one.outputs.data.item()) for one in judged])
    return scores, time.perf_counter() - start


def settings(work: Work) -> dict[str, Any]:
    """Engine arguments that both sides share."""
    return {"enforce_eager": not work.compiled, "kv_cache_memory_bytes": KV_CACHE_GB * 2**30}


def read_prompts(path: str) -> list[str]:
    """The texts of a JSONL file."""
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


def run_bare(python: str, work: Work, *, own: bool) -> Figures:
    """The bare script as a process; `own`: with the engine in it."""
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if own else "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        (out / "work.json").write_text(json.dumps(asdict(work)))
        wall_s = timed([python, __file__, "--bare", name], environment)
        told = json.loads((out / "bare.json").read_text())
    prompts = read_prompts(work.prompts)
    answers = {
        (Path(teacher).name, prompt): text
        for teacher, texts in zip(work.teachers, told["answers"], strict=True)
        for prompt, text in zip(prompts, texts, strict=True)
    }
    return Figures(wall_s, told["busy_s"], told["tokens"], answers)


def run_arbitrage(python: str, work: Work, shard_size: int) -> Figures:
    """`arbitrage run` as a process, its replicas in vLLM's environment."""
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "bench.yaml"
        config.write_text(json.dumps(config_of(python, work, shard_size)))
        command = [sys.executable, "-m", "arbitrage.cli", "run", str(config), "--quiet"]
        wall_s = timed(command, dict(os.environ))
        run = Path(name) / "run"
        events = [json.loads(line) for line in (run / "events.jsonl").open()]
        answers = stored_answers(run)
    done = [event for event in events if event["event"] == "task_done"]
    worked = [event for event in done if event["stage"] in ("generate", "score")]
    spans = [(event["time"] - event["seconds"], event["time"]) for event in worked]
    tokens = sum(event["completion_tokens"] for event in worked)
    return Figures(wall_s, covered(spans), tokens, answers)


def config_of(python: str, work: Work, shard_size: int) -> dict[str, Any]:
    """The same models; one core for each replica."""
    arguments: dict[str, Any] = {"enforce_eager": not work.compiled}
    served = {
        "engine": "vllm",
        "options": {"kv_cache_gb": KV_CACHE_GB, "engine_args": arguments},
        "resources": {"cpus": 1, "replicas": 2, "python": python},
    }
    batch = {"max_num_batched_tokens": TOKENS_OF_A_CORE}
    judging = {"kv_cache_gb": KV_CACHE_GB, "engine_args": arguments | batch}
    greedy = {"temperature": 0, "max_tokens": work.max_tokens}
    teachers = {
        Path(model).name: {**served, "model": model, "languages": "all", "sampling": greedy}
        for model in work.teachers
    }
    return {
        "run": "run",
        "prompts": {"sources": [{"path": work.prompts}], "shard_size": shard_size},
        "teachers": teachers,
        "arbiter": {**served, "model": work.arbiter, "options": judging},
        "gates": {"truncated": False},  # made models never end by themselves
    }


def stored_answers(run: Path) -> dict[tuple[str, str], str]:
    """What the run's teachers said, by teacher and prompt."""
    rows = table_of(run / "prompts", "prompt_id", "messages")
    text = {key: turns[-1]["content"] for key, turns in rows}
    found = {}
    for folder in (path for path in (run / "candidates").iterdir() if path.is_dir()):
        teacher = folder.name.rpartition("-")[0]
        for key, completion in table_of(folder, "prompt_id", "completion"):
            found[teacher, text[key]] = completion
    return found


def table_of(folder: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a folder's Parquet files."""
    import pyarrow.dataset as ds

    files = sorted(str(path) for path in folder.glob("*.parquet"))
    table = ds.dataset(files).to_table(columns=list(columns))
    return zip(*(table[name].to_pylist() for name in columns), strict=True)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which at least one of the spans was running."""
    total, end = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, end))
        end = max(end, ended)
    return total


def timed(command: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of a process; ends this one with its last words if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    wall_s = time.perf_counter() - start
    if done.returncode:
        sys.exit(
            f"{command[1]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}"
        )
    return wall_s


def make_models(folder: Path, teachers: int) -> list[str]:
    """Folders of teachers and an Arbiter, 6 million random weights each."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos")}
    shape = {**SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": WINDOW, **ends}
    names = [*(f"teacher{number}" for number in range(teachers)), "arbiter"]
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        if name == "arbiter":
            config = transformers.LlamaConfig(**shape, num_labels=1, dtype="float32")
            model = transformers.LlamaForSequenceClassification(config)
        else:
            config = transformers.LlamaConfig(**shape, dtype="bfloat16")
            model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return [str(folder / name) for name in names]


def equal_share(one: Figures, other: Figures) -> float:
    """The share of answers that are the same text."""
    same = sum(other.answers[key] == text for key, text in one.answers.items())
    return same / len(one.answers)


def compare(python: str, work: Work, rounds: int, shard_size: int, kinds: Sequence[str]) -> None:
    """Runs both sides in turn and prints their figures and ratios."""
    ratios: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    print(f"{'':24} {'wall s':>7} {'steady tokens/s':>16} {'tokens':>9}   ratio b/a: wall  steady")
    for _ in range(rounds):
        b = run_arbitrage(python, work, shard_size)
        show("(b) arbitrage run", b)
        for kind in kinds:
            a = run_bare(python, work, own=KINDS[kind])
            ratio = (b.wall_s / a.wall_s, b.steady / a.steady)
            ratios[kind].append(ratio)
            show(f"(a) bare, {kind}", a, f"{ratio[0]:17.2f} {ratio[1]:7.2f}")
    for kind, pairs in ratios.items():
        wall, steady = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"median b/a, bare {kind}: wall {wall:.2f}, steady tokens/s {steady:.2f}")
    print(f"answers equal in b and a: {equal_share(b, a):.1%} of {len(a.answers):,}")


def show(name: str, figures: Figures, more: str = "") -> None:
    """One line."""
    print(
        f"{name:24} {figures.wall_s:7.1f} {figures.steady:16,.0f} {figures.tokens:9,} {more}",
        flush=True,
    )


def main() -> None:
    """Makes what is missing and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="the interpreter of an environment with vLLM")
    parser.add_argument("--prompts", type=int, default=640, help="how many of the micro-world's")
    parser.add_argument("--teachers", type=int, default=3, help="how many are made")
    parser.add_argument("--models", nargs="+", help="model folders instead, the Arbiter's last")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--shard-size", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--compiled", action="store_true", help="let vLLM compile the models")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        told = json.loads((Path(args.bare) / "work.json").read_text())
        bare(Work(**told), Path(args.bare))
        return
    if not args.python:
        parser.error("--python is needed; `make test-vllm` makes .venv-vllm/bin/python")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = args.models or make_models(folder, args.teachers)
        rows = PROMPTS.read_text(encoding="utf-8").splitlines()
        random.Random(0).shuffle(rows)
        chosen = folder / "prompts.jsonl"
        chosen.write_text("\n".join(rows[: args.prompts]) + "\n", encoding="utf-8")
        *teachers, arbiter = (str(Path(model).resolve()) for model in models)
        work = Work(tuple(teachers), arbiter, str(chosen), args.max_tokens, args.compiled)
        python = str(Path(args.python).absolute())
        compare(python, work, args.rounds, args.shard_size, args.against)


if __name__ == "__main__":
    main()
