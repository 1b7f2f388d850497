"""Image tables: CSV, Excel or Parquet in place of a folder, with a column `image` (or `name`) and, if wanted, `prompt`."""

import os
from typing import NamedTuple

from align_iqa_plugin.data.tables import TableError, find_file, list_problems, read_table
from align_iqa_plugin.data.uris import is_uri

IMAGE_COLUMNS = ('image', 'name')


class TableImage(NamedTuple):
    """A row of an image table."""

    image: str  # path or URI
    prompt: str | None  # None: the table has no such column, or the cell is empty
    columns: dict[str, str]  # the further columns, as text, in their order
    no_prompt: str = ''  # why there is none, though the table has a column of prompts


def read_image_table(source: str) -> tuple[list[TableImage], list[str]]:
    """The rows of a table, and the names of the columns that were left out: they have no name, or binary or nested values.

    Images are paths or URIs; a relative one counts from the folder of the table.

    Args:
        source: path or URI of the table.

    Raises:
        TableError: the table cannot be used; the message names it, and every row that is a problem.
    """
    table = read_table(source)
    images = table.column(*IMAGE_COLUMNS)
    prompts = table.column('prompt') if 'prompt' in table.header else [None] * len(images)
    own = {next(name for name in IMAGE_COLUMNS if name in table.header), 'prompt'}
    left_out = [name for name in table.header if not name or name in table.unread]
    further = {name: table.position(name) for name in table.header if name not in {*own, *left_out}}
    folder = source.rpartition('/')[0] if is_uri(source) else os.path.dirname(source)
    rows, problems = [], list(table.problems)
    for (number, cells), image, prompt in zip(table.rows, images, prompts, strict=True):
        if not image.strip():
            problems.append((number, 'the name of the image is missing.'))
        empty = prompt is not None and not prompt.strip()
        reason = f"has no prompt: its cell in row {number} of '{source}' is empty." if empty else ''
        columns = {name: cells[position] for name, position in further.items()}
        rows.append(TableImage(in_folder(folder, image.strip()), None if empty else prompt, columns, reason))
    if problems:
        raise TableError(list_problems(source, problems))
    return rows, left_out


def in_folder(folder: str, image: str) -> str:
    """Path or URI of an image that a table in a folder names."""
    if is_uri(image) or os.path.isabs(image):
        return image
    if is_uri(folder):
        return f'{folder}/{image}'
    return find_file(folder, image) or os.path.join(folder, image)
