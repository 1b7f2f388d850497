"""Ratings of one's own: a table of images and scores, or of pairs of images and which is better."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from align_iqa_plugin.data.image_table import IMAGE_COLUMNS, in_folder
from align_iqa_plugin.data.tables import Table, TableError, list_problems, read_table
from align_iqa_plugin.data.uris import is_uri
from align_iqa_plugin.runtime.files import expand_home

SCORE_COLUMNS = ('score', 'rating', 'mos')
PAIR_COLUMNS = ('image_a', 'image_b', 'better')
BETTER = {'a': 1.0, 'b': -1.0, 'tie': 0.0}


@dataclass(frozen=True)
class Ratings:
    """What was rated, and how.

    Attributes:
        source: the table.
        paths: of the images, each once.
        prompts: of each image, '' where there is none.
        first: of each rating: the image, by its index.
        second: of each rating: the image that it was compared with; None where images were rated alone.
        values: of each rating: a score, or 1 where the first image is better, -1 where the second is, 0 for a tie.
        raters: of each rating; None where the table does not say.
    """

    source: str
    paths: list[str]
    prompts: list[str]
    first: list[int]
    second: list[int] | None
    values: list[float]
    raters: list[str] | None


def read_ratings(source: str | Path, images: str | Path | None = None) -> Ratings:
    """Read a table of ratings (.csv, .xlsx, .parquet), and look for every image.

    Args:
        source: a table with the columns image and score, or image_a, image_b and better ('a', 'b' or 'tie'); prompt and rater
            where there are any. An image may be rated any number of times.
        images: the folder of the images; by default the table's.

    Raises:
        TableError: the table cannot be used; the message names it, and every row that is a problem.
    """
    table = read_table(expand_home(source))
    folder = str(expand_home(images)) if images else os.path.dirname(table.source)
    pairs = PAIR_COLUMNS[0] in table.header
    names = [table.column(name) for name in PAIR_COLUMNS[:2]] if pairs else [table.column(*IMAGE_COLUMNS)]
    cells = table.column(PAIR_COLUMNS[2]) if pairs else table.column(*SCORE_COLUMNS)
    prompts = table.column('prompt') if 'prompt' in table.header else [''] * len(cells)
    problems = list(table.problems)
    places: dict[str, int] = {}
    prompt_of: list[str] = []
    columns: list[list[int]] = [[] for _ in names]
    for row, (number, _) in enumerate(table.rows):
        for column, given in zip(columns, names, strict=True):
            path = _path(folder, given[row].strip(), number, problems)
            if path not in places:
                places[path] = len(places)
                prompt_of.append(prompts[row].strip())
            elif prompts[row].strip() != prompt_of[places[path]]:
                problems.append((number, f'{given[row].strip()} has another prompt than in a row before.'))
            column.append(places[path])
        if pairs and columns[0][-1] == columns[1][-1]:
            problems.append((number, 'image_a and image_b are the same image.'))
    values = [_value(cell, number, problems, pairs) for cell, (number, _) in zip(cells, table.rows, strict=True)]
    if problems:
        raise TableError(list_problems(table.source, problems))
    return Ratings(
        source=table.source,
        paths=list(places),
        prompts=prompt_of,
        first=columns[0],
        second=columns[1] if pairs else None,
        values=values,
        raters=_raters(table),
    )


def _path(folder: str, name: str, number: int, problems: list[tuple[int, str]]) -> str:
    path = in_folder(folder, name)
    if not name:
        problems.append((number, 'the name of the image is missing.'))
    elif not is_uri(path) and not os.path.isfile(path):
        problems.append((number, f"'{path}' is not there; --images names the folder of the images."))
    return path


def _value(cell: str, number: int, problems: list[tuple[int, str]], pairs: bool) -> float:
    cell = cell.strip()
    if pairs:
        if cell.lower() not in BETTER:
            problems.append((number, f'better is {cell!r}, not one of {", ".join(BETTER)}.'))
        return BETTER.get(cell.lower(), math.nan)
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.append((number, f'the score is {cell!r}, not a number.'))
    return value


def _raters(table: Table) -> list[str] | None:
    raters: Iterable[str] = (rater.strip() for rater in table.column('rater')) if 'rater' in table.header else ()
    found = list(raters)
    return found if any(found) else None
