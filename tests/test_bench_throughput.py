"""The parts of the throughput benchmark that need no vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import bench_throughput as bench
from arbitrage.configfile import load
from arbitrage.resolve import resolve

spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda s: (s[0], s[0] + s[1]))
)


@given(spans)
def test_each_second_is_counted_once(drawn: list[tuple[int, int]]) -> None:
    seconds = {second for begun, ended in drawn for second in range(begun, ended)}
    assert bench.covered(drawn) == len(seconds)


def test_both_sides_are_given_the_same_models_and_settings(tmp_path: Path) -> None:
    *teachers, arbiter = bench.make_models(tmp_path, 2)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "hello", "language": "en"}) + "\n")
    work = bench.Work(tuple(teachers), arbiter, str(prompts), 8, compiled=False)
    path = tmp_path / "bench.yaml"
    path.write_text(json.dumps(bench.config_of(sys.executable, work, 4)))
    config = load(path).config
    assert [t.name for t in resolve(config).teachers] == [Path(name).name for name in teachers]
    for served in (*config.teachers.values(), config.arbiter):
        told = served.options.model_dump()
        shared = bench.settings(work)
        assert told["engine_args"]["enforce_eager"] == shared["enforce_eager"]
        assert told["kv_cache_gb"] * 2**30 == shared["kv_cache_memory_bytes"]
    assert {t.sampling[0].max_tokens for t in config.teachers.values()} == {8}
