"""A table of images in place of a folder: CSV or Parquet with a column `image` (or `name`) and, if wanted, `prompt`."""

import csv
import io
import os
from pathlib import Path

from align_iqa_plugin.data.uris import is_uri, read_uri

ENDINGS = ('.csv', '.parquet')


def read_image_table(table: str) -> list[tuple[str, str | None]]:
    """Image and prompt of each row; the prompt is None where the table has no such column.

    Images are paths or addresses; a relative one counts from the folder of the table.

    Args:
        table: path or address of the table.

    Raises:
        ValueError: the table cannot be used; the message names it, and the row.
    """
    try:
        content = read_uri(table) if is_uri(table) else Path(table).read_bytes()
    except OSError as error:
        raise ValueError(f"the table '{table}' cannot be read: {error.strerror or error}.") from error
    columns = (_parquet if table.lower().endswith('.parquet') else _csv)(table, content)
    name = 'image' if 'image' in columns else 'name'
    if name not in columns:
        raise ValueError(f"the table '{table}' needs a column image (or name); it has: {', '.join(columns) or 'none'}.")
    folder = table.rpartition('/')[0] if is_uri(table) else os.path.dirname(table)
    rows = []
    for number, image in enumerate(columns[name], 2):
        prompt = columns['prompt'][number - 2] if 'prompt' in columns else None
        if not image.strip():
            raise ValueError(f"row {number} of '{table}' names no image.")
        if prompt is not None and not prompt.strip():
            raise ValueError(f"row {number} of '{table}' has an empty prompt; fill it, or leave out the column.")
        rows.append((_below(folder, image.strip()), prompt))
    return rows


def _below(folder: str, image: str) -> str:
    if is_uri(image) or os.path.isabs(image):
        return image
    return f'{folder}/{image}' if is_uri(folder) else os.path.join(folder, image)


def _csv(table: str, content: bytes) -> dict[str, list[str]]:
    try:
        header, *rows = csv.reader(io.StringIO(content.decode('utf-8-sig'), newline=''), strict=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"the table '{table}' is not a CSV in UTF-8: {error}.") from error
    except ValueError as error:
        raise ValueError(f"the table '{table}' is empty.") from error
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            raise ValueError(f"row {number} of '{table}' does not have {len(header)} cells; quote its commas.")
    return {name: [cells[place] for cells in rows] for place, name in enumerate(header)}


def _parquet(table: str, content: bytes) -> dict[str, list[str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        read = parquet.ParquetFile(io.BytesIO(content))
        names = read.schema_arrow.names
        columns = read.read([name for name in names if name in ('image', 'name', 'prompt')])  # others may be large
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"the table '{table}' is not a sound Parquet file: {' '.join(str(error).split())}.") from error
    texts = {name: ['' if cell is None else str(cell) for cell in columns[name].to_pylist()] for name in columns.column_names}
    return dict.fromkeys(names, []) | texts
