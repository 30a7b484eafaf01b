"""The benchmark of selection: what it makes up is the same in any shards, and adds up."""

from __future__ import annotations

import bench_selection as bench
import pytest


@pytest.mark.parametrize("rule", bench.RULES)
def test_every_rule_is_measured_on_the_same_candidates_in_any_shards(rule: str) -> None:
    components = bench.pool()
    told = {}
    for size in (50, 300):
        shards = list(bench.shards_of(300, size, components))
        assert sum(shard.prompts.num_rows for shard in shards) == 300
        told[size] = bench.measured(rule, shards, components)
        assert told[size].rows > 0
        assert told[size].lost < 300
    if not bench.RULES[rule].selection.chained:
        assert (told[50].rows, told[50].lost) == (told[300].rows, told[300].lost)


def test_a_line_is_printed_for_every_rule_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--candidates", "700", "--shard-size", "40"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "700 candidates of 7 teachers for 100 prompts"
    assert "3 shards of 40 prompts" in lines
    assert "1 shards of 100 prompts" in lines
    for rule in bench.RULES:
        assert sum(line.startswith(f"{rule}  ") for line in lines) == 2
