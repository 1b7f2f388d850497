"""Chooses among scored rows: the best of each prompt, folder or other group, those that score enough, or both."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from align_iqa_plugin.data.uris import is_uri
from align_iqa_plugin.runtime.interval import is_tie
from align_iqa_plugin.runtime.names import suggest
from align_iqa_plugin.score.rows import Row, further_columns


def folder_of(row: Row) -> str:
    """The folder of a row's image, as an absolute path or a URI."""
    return row.key[0].rpartition('/')[0] if is_uri(row.path) else os.path.dirname(row.key[0])


GROUPS: dict[str, Callable[[Row], str | None]] = {'prompt': lambda row: row.prompt, 'folder': folder_of, 'all': lambda row: ''}
"""What the rows of a group may have in common, beside the further columns of image tables."""


@dataclass(frozen=True)
class Choice:
    """What to keep. Both conditions: what fulfils both.

    Attributes:
        best: how many of each group, at most; None: any number.
        per: what the rows of a group have in common: 'prompt', 'folder', 'all', or a further column, which comes first where it
            has one of these names. None: the prompt where an image has one, else all are one group.
        min_score: the lowest score that is kept; None: any.
    """

    best: int | None = None
    per: str | None = None
    min_score: float | None = None

    def __bool__(self) -> bool:
        return self.best is not None or self.min_score is not None


def choose(rows: Iterable[Row], choice: Choice) -> list[Row]:
    """The rows that are kept: the groups as they come, each with its best row first.

    A row without a score is never kept. Of equal scores, the row that comes first is the better one, so a group keeps `best`
    rows even where the next one has the same score. Rows whose column is empty, or that have no prompt, are one group.

    Raises:
        ValueError: the rows have no such groups; the message is a sentence that says which there are.
    """
    return [row for group in _sorted_groups(rows, choice) for row in group[: choice.best]]


def ties(rows: Iterable[Row], choice: Choice) -> tuple[int, int]:
    """Of how many groups the last row that `best` keeps and the next one are a tie, and how many have a next one."""
    ends = [group[choice.best - 1 : choice.best + 1] for group in _sorted_groups(rows, choice) if choice.best]
    pairs = [pair for pair in ends if len(pair) == 2 and None not in (pair[0].std, pair[1].std)]
    return sum(bool(is_tie(one.score, one.std, other.score, other.std)) for one, other in pairs), len(pairs)


def mark_kept(rows: Iterable[Row], choice: Choice) -> list[Row]:
    """The rows that are kept, as `choose` gives them; `kept` of each row says whether it is one of them."""
    rows = list(rows)
    kept = choose(rows, choice)
    for row in rows:
        row.kept = False
    for row in kept:
        row.kept = True
    return kept


def describe(rows: Iterable[Row], choice: Choice) -> str:
    """What is kept of these rows, in a few words, such as 'the best 4 for each prompt'; raises as `choose` does."""
    name = _grouping(list(rows), choice)[0]
    groups = 'of all' if name == 'all' else f'for each {name}'
    best = 'those' if choice.best is None else f'the best {choice.best} {groups}'
    return best if choice.min_score is None else f'{best} with a score of at least {choice.min_score:g}'


def _sorted_groups(rows: Iterable[Row], choice: Choice) -> list[list[Row]]:
    """The rows with a score that is high enough: the groups as they come, each with its best row first."""
    rows = list(rows)
    group_of = _grouping(rows, choice)[1]
    lowest = -inf if choice.min_score is None else choice.min_score
    groups: dict[str | None, list[Row]] = {}
    for row in rows:
        if row.score is not None and row.score >= lowest:
            groups.setdefault(group_of(row), []).append(row)
    return [sorted(group, key=lambda row: -(row.score or 0)) for group in groups.values()]


def _grouping(rows: list[Row], choice: Choice) -> tuple[str, Callable[[Row], str | None]]:
    """What the rows of a group have in common, and the function that gives it."""
    has_prompts = any(row.prompt is not None for row in rows)
    if choice.best is None:
        return 'all', GROUPS['all']
    per = choice.per or ('prompt' if has_prompts else 'all')
    columns = further_columns(rows)
    if per in columns:
        return per, lambda row: row.columns.get(per, '')
    if per not in GROUPS:
        raise ValueError(f"the images have no '{per}' to choose by{suggest(per, {*GROUPS, *columns})}")
    if per == 'prompt' and not has_prompts:
        raise ValueError('no image has a prompt to choose by; choose by folder, by all, or by a column of an image table.')
    return per, GROUPS[per]
