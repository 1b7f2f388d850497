"""Image tables: CSV, Excel or Parquet in place of a folder, with a column `image` (or `name`) and, if wanted, `prompt`."""

import os

from align_iqa_plugin.data.tables import TableError, find_file, list_problems, read_table
from align_iqa_plugin.data.uris import is_uri

IMAGE_COLUMNS = ('image', 'name')


def read_image_table(source: str) -> list[tuple[str, str | None]]:
    """Image and prompt of each row; the prompt is None where the table has no such column.

    Images are paths or URIs; a relative one counts from the folder of the table.

    Args:
        source: path or URI of the table.

    Raises:
        TableError: the table cannot be used; the message names it, and every row that is a problem.
    """
    table = read_table(source, columns=(*IMAGE_COLUMNS, 'prompt'))
    images = table.column(*IMAGE_COLUMNS)
    prompts = table.column('prompt') if 'prompt' in table.header else [None] * len(images)
    folder = source.rpartition('/')[0] if is_uri(source) else os.path.dirname(source)
    rows, problems = [], list(table.problems)
    for (number, _), image, prompt in zip(table.rows, images, prompts, strict=True):
        if not image.strip():
            problems.append((number, 'the name of the image is missing.'))
        if prompt is not None and not prompt.strip():
            problems.append((number, 'the prompt is empty; fill it in, or leave out the column.'))
        rows.append((_in_folder(folder, image.strip()), prompt))
    if problems:
        raise TableError(list_problems(source, problems))
    return rows


def _in_folder(folder: str, image: str) -> str:
    if is_uri(image) or os.path.isabs(image):
        return image
    if is_uri(folder):
        return f'{folder}/{image}'
    return find_file(folder, image) or os.path.join(folder, image)
