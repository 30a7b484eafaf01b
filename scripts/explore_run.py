"""A first look at what a run did, cell by cell: who wins where, by how much, and what was lost.

Editors that know `# %%` run one cell at a time. The comments show what the quickstart prints.

    python scripts/explore_run.py runs/quickstart
"""

# %%
import sys

import pandas as pd

import arbitrage
from arbitrage.tables import harmless

PLACE = sys.argv[1] if len(sys.argv) == 2 and not sys.argv[1].startswith("-") else "runs/quickstart"


def table(rows: pd.DataFrame) -> None:
    """Prints it; models may have written control characters, which a terminal would obey."""
    told = rows.round(2).to_string(index=False, max_colwidth=44, na_rep="")
    print(harmless(told).plain if len(rows) else "none", end="\n\n")


run = arbitrage.open(PLACE)
print(run)
# <Run runs/quickstart: 1,012 prompts, 1,012 selected, 4 shards, 7 teachers>

# %% Who wins where: the two best teachers of each language, by the prompts that they won.
results = run.results()
results["won"] = (results["wins"] / results["prompts"]).map("{:.0%}".format)
ranked = results.sort_values(["language", "wins"], ascending=[True, False])
winners = ranked.groupby("language").head(2)
table(winners[["language", "prompts", "teacher", "won", "alone"]].head(8))
# language  prompts       teacher won  alone
#       ar       44    west-asian 59%  -7.87
#       ar       44    generalist 41%  -9.58
#       cs       44 east-european 52%  -5.74
#       cs       44    generalist 48%  -5.93

# %% Where choosing per prompt adds most to the best single teacher, with a 95 % interval.
best = results.loc[results.groupby("language")["alone"].idxmax()]
table(best.nlargest(5, "gain")[["language", "teacher", "alone", "gain", "gain_low", "gain_high"]])
# language       teacher  alone  gain  gain_low  gain_high
#       ko    east-asian  -6.66  0.86     -0.39       2.12
#       tr    west-asian  -7.87  0.67      0.10       1.23
#       ar    west-asian  -7.87  0.60     -0.09       1.29

# %% The longest margins: where one answer was much better than the next best text.
rows = run.selected(columns=["prompt_id", "language", "teacher", "reward", "margin", "completion"])
longest = rows.nlargest(5, "margin")
table(longest.drop(columns="prompt_id"))
# language       teacher  reward  margin  completion
#       ja    east-asian   -0.85   35.56  ...
#       ko    generalist  -10.06   25.73  ...

# %% What the candidates of the first of these prompts look like, best first.
if len(longest):
    shown = run.show(longest["prompt_id"].iloc[0])
    print(harmless(shown.prompt["messages"][-1]["content"]).plain)
    table(pd.DataFrame(shown.candidates)[["teacher", "sample", "score", "gates", "completion"]])
#    teacher  sample  score gates  completion
# east-asian       0  -0.85    []  ...
# generalist       0 -36.41    []  ...

# %% What was lost, and why.
lost = run.quarantine(columns=["stage", "reason"])
table(lost.value_counts().reset_index())
# none

# %% Gates that candidates failed, by teacher; most of these prompts have another answer.
failed = run.gates(columns=["teacher", "failed"]).explode("failed").dropna()
table(failed.value_counts(sort=False).reset_index())
#    teacher     failed  count
# generalist   language      1
# generalist repetition      1
# generalist     script      1
# west-asian repetition      1
