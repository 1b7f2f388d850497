"""A row for each image that `align-iqa score` was asked to score."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from align_iqa_plugin.data.uris import is_uri

OWN_COLUMNS = ('image', 'score', 'std', 'kept', 'prompt', 'width', 'height', 'error')
"""What the columns of an output are called whose values are ours. The samples, which no table names, also have `mos`."""


@dataclass
class Row:
    """An image: found, then scored or failed (`error` says why), and kept or not if there is a choice (choose.py)."""

    image: str  # as the user named it, or as it was found
    path: Path | str  # a URI is a text
    prompt: str | None = None
    mos: float | None = None
    score: float | None = None
    std: float | None = None  # of the error of the score; None where the metric states none
    width: int | None = None
    height: int | None = None
    error: str = ''
    no_prompt: str = ''  # why it has none although prompts were given: an error for a network that reads prompts
    columns: dict[str, str] = field(default_factory=dict)  # the further ones of its image table; none is in OWN_COLUMNS
    kept: bool | None = None  # None: nothing was chosen

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells rows apart, wherever the command is given: absolute path or URI, and prompt, both as valid UTF-8."""
        place = str(self.path) if is_uri(self.path) else os.path.abspath(self.path)
        return utf8(place), None if self.prompt is None else utf8(self.prompt)

    @property
    def done(self) -> bool:
        return self.score is not None or self.error != ''


def further_columns(rows: Iterable[Row]) -> list[str]:
    """The names of the further columns, those of the first table first."""
    return list(dict.fromkeys(name for row in rows for name in row.columns))


Engine = Callable[[list[Row]], Iterator[Row]]
"""Gives each row its score or its error, and gives it out as soon as it has one, in no order."""


def utf8(text: str) -> str:
    """As valid UTF-8: a file's name need not be it, but what is written must be."""
    return text.encode('utf-8', 'backslashreplace').decode()


def score_rows(metric, rows: list[Row], *, batch_size: int, workers: int = 0) -> Iterator[Row]:
    """Score rows in this process: an `Engine`, once metric (see `metric.py`) and batch size are given.

    Args:
        workers: processes that decode; 0 decodes in this one.
    """
    from align_iqa_plugin.archs.views import MINIMUM_SIDE
    from align_iqa_plugin.score.run import BatchScorer, score_images

    yield from fail_without_prompts(metric, rows)
    rows = [row for row in rows if not row.error]
    scorer = BatchScorer(metric, metric.device)
    images = [(row.path, row.prompt) for row in rows]
    for result in score_images(images, scorer, batch_size=batch_size, workers=workers, minimum_side=MINIMUM_SIDE):
        row = rows[result.index]
        row.score, row.std, row.error = result.score, result.std, result.reason
        row.width, row.height = result.decoded.full_size or (None, None)
        yield row


def fail_without_prompts(metric, rows: Iterable[Row]) -> list[Row]:
    """The rows without a prompt, where prompts were given and the metric reads them: each gets its reason as an error."""
    lacking = [row for row in rows if row.no_prompt and getattr(metric, 'reads_prompts', True)]
    for row in lacking:
        row.error = row.no_prompt
    return lacking
