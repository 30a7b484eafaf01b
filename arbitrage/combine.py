"""Makes one number of the scores of several Arbiters, and takes the length of an answer out of it.

Pure numpy; knows no files, configs or texts. Scores are never compared between prompts: whatever is
computed here of a candidate depends on the candidates of its own prompt alone. No result depends on
the order of the candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


class _Groups(NamedTuple):
    """Candidates sorted by prompt, then score: `order`, where each prompt begins, its size, and the
    number of its prompt within the sorted ones, per candidate."""

    order: Ints
    starts: Ints
    sizes: Ints
    group: Ints


def combined(scores: Floats, prompt: Ints, weights: Any, method: str) -> Floats:
    """One number per candidate from `scores` (candidates, Arbiters; nan where there is none).

    `prompt` (candidates,) is an int that is the same for all candidates of a prompt. `weights` >= 0
    of shape (Arbiters,) or (candidates, Arbiters), alike for all candidates of a prompt; an Arbiter
    with weight 0 does not count. `method` is a key of `METHODS`: each Arbiter's scores are brought
    to one scale within the prompt, and their weighted mean is the result. Where one Arbiter alone
    counts, the result is its plain score. A candidate that lacks the score of an Arbiter that
    counts, or for which none counts, has none (nan) and takes no part in the scale of the others.
    Raises ValueError for an unknown method or weights that are negative or differ in a prompt.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; methods are {', '.join(METHODS)}")
    share = _shares(scores, prompt, weights)
    counts = share > 0
    number = counts.sum(axis=1)
    lacking = (number == 0) | (np.isnan(scores) & counts).any(axis=1)
    result = np.full(len(scores), np.nan)
    plain = ~lacking & (number == 1)
    result[plain] = scores[plain, counts[plain].argmax(axis=1)]
    several = ~lacking & (number > 1)
    total = np.zeros(int(several.sum()))
    for arbiter in range(scores.shape[1]):
        here = counts[several, arbiter]
        which = np.flatnonzero(several)[here]
        scaled = METHODS[method](scores[which, arbiter], prompt[which])
        total[here] += share[which, arbiter] * scaled
    result[several] = total
    return result


def _shares(scores: Floats, prompt: Ints, weights: Any) -> Floats:
    """The weights as parts of 1, one row per candidate; all 0 where none counts."""
    given = np.asarray(weights, np.float64)
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError("every weight of an Arbiter must be a finite number of 0 or more")
    wide = np.broadcast_to(given, scores.shape)
    if given.ndim == 2 and len(prompt):
        _, first, group = np.unique(prompt, return_index=True, return_inverse=True)
        if not np.array_equal(wide, wide[first[group]]):
            raise ValueError("the weights of the Arbiters must be the same within a prompt")
    total = wide.sum(axis=1, keepdims=True)
    share: Floats = np.divide(wide, total, out=np.zeros(scores.shape), where=total > 0)
    return share


def _grouped(score: Floats, prompt: Ints) -> _Groups:
    """Sorted by score too, so that sums do not depend on the order in which candidates come."""
    order = np.lexsort((score, prompt))
    by_prompt = prompt[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = by_prompt[1:] != by_prompt[:-1]
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(order)))
    return _Groups(order, starts, sizes, np.cumsum(new) - 1)


def _mean(values: Floats, groups: _Groups) -> Floats:
    """Of sorted values, the mean of its prompt at each."""
    sums = np.bincount(groups.group, values, len(groups.starts))
    means: Floats = (sums / groups.sizes)[groups.group]
    return means


def zscore(score: Floats, prompt: Ints) -> Floats:
    """Distance to the mean of the prompt in population standard deviations; 0 where all are equal.

    Both arguments are (candidates,), and no score is nan.
    """
    groups = _grouped(score, prompt)
    values = score[groups.order]
    least = values[groups.starts][groups.group]
    spread = values[groups.starts + groups.sizes - 1][groups.group] - least
    varies = spread > 0
    # On a scale of 0 to 1 neither tiny nor huge scores lose their digits.
    scaled = np.divide(values - least, spread, out=np.zeros(len(values)), where=varies)
    centred = scaled - _mean(scaled, groups)
    deviation = np.sqrt(_mean(centred**2, groups))
    result = np.zeros(len(values))
    result[groups.order] = np.divide(centred, deviation, out=np.zeros(len(values)), where=varies)
    return result


def rank(score: Floats, prompt: Ints) -> Floats:
    """The share of the prompt's other candidates that it beats less the share that beats it.

    -1 to 1, equal scores alike, 0 where all are equal. Both arguments are (candidates,), and no
    score is nan.
    """
    groups = _grouped(score, prompt)
    values = score[groups.order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (values[1:] != values[:-1]) | (groups.group[1:] != groups.group[:-1])
    runs = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    below = runs[run] - groups.starts[groups.group]
    upto = np.append(runs[1:], len(values))[run] - groups.starts[groups.group]
    size = groups.sizes[groups.group]
    result = np.zeros(len(values))
    result[groups.order] = (below - (size - upto)) / np.maximum(size - 1, 1)
    return result


METHODS: dict[str, Callable[[Floats, Ints], Floats]] = {"zscore": zscore, "rank": rank}


def residualised(score: Floats, length: Ints, language: Ints, slopes: Floats) -> Floats:
    """Length control: the score less what its length alone brings in its language.

    That is `score` - `slopes`[`language`] * log(1 + `length`). `score` (candidates,), `length`
    (characters, candidates), `language` (candidates, index into `slopes`), `slopes` (languages,
    as the Arbiter's card tells them; nan leaves the scores of a language as they are). Why: Dubois
    et al., Length-Controlled AlpacaEval (arXiv 2404.04475).
    """
    steep = np.nan_to_num(slopes, nan=0.0)[language]
    result: Floats = np.where(steep == 0, score, score - steep * np.log1p(length))
    return result
