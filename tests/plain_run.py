"""What the files of a run say, by plain pandas: to hold against what the package says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from harness import Run


def product_of(made: Run) -> pd.DataFrame:
    """The selected rows; a teacher that was asked again goes by its own name."""
    files = sorted(made.store.root.glob("selected/best-*/*.parquet"))
    table = pd.concat(map(pd.read_parquet, files))
    return table.assign(teacher=table["teacher"].str.removesuffix(".retry"))


def lost_of(made: Run) -> pd.DataFrame:
    """The prompts in quarantine."""
    return pd.concat(map(pd.read_parquet, sorted(made.store.root.glob("quarantine/select/*/*"))))


def candidates_of(product: pd.DataFrame) -> pd.DataFrame:
    """One row per candidate of a selected prompt, with the prompt's `owner` and `chosen` reward."""
    rows = [
        {
            "prompt_id": row.prompt_id,
            "language": row.language,
            "owner": row.teacher,
            "chosen": row.reward,
            **one,
        }
        for row in product.itertuples()
        for one in row.candidates
    ]
    table = pd.DataFrame(rows)
    usable = table["reward"].notna() & table["error"].isna() & (table["gates"].map(len) == 0)
    return table.assign(usable=usable, teacher=table["teacher"].str.removesuffix(".retry"))


def stored_of(made: Run) -> pd.DataFrame:
    """Every stored candidate with its teacher's name, those that were asked for again too."""
    languages = made.frame("prompts").set_index("prompt_id")["language"]
    parts = []
    for path in sorted(made.store.root.glob("candidates/*/*.parquet")):
        name = path.parent.name.rsplit("-", 1)[0].removesuffix(".retry")
        parts.append(pd.read_parquet(path).assign(teacher=name))
    table = pd.concat(parts)
    return table.assign(language=table["prompt_id"].map(languages))
