"""Matches prompts to images: one prompt for all, or a CSV that names the images."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from align_iqa_plugin.data.image_table import IMAGE_COLUMNS
from align_iqa_plugin.data.tables import read_table
from align_iqa_plugin.data.uris import is_uri
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.score.rows import Row

Parts = tuple[str, ...]
"""The folders and the name of an image: ('a', 'b.png') for a/b.png."""


def add_prompts(rows: list[Row], prompt: str | None, file: Path | None) -> list[str]:
    """Give each row the prompt, or its prompt from the file; gives sentences about what was left out, and what has none.

    Raises:
        ValueError: the file cannot be used, or the rows have prompts already, from an image table.
    """
    if (prompt is not None or file is not None) and any(row.prompt is not None for row in rows):
        raise ValueError('the image table brings prompts of its own; leave out --prompt and --prompts.')
    notes = [] if file is None else match_prompts(rows, file)
    if prompt is not None:
        for row in rows:
            row.prompt, row.no_prompt = prompt, ''
    lacking = [row for row in rows if row.no_prompt and not row.error]
    if lacking:
        notes.append(f"Images without a prompt: {len(lacking)}. The first, '{lacking[0].image}', {lacking[0].no_prompt}")
    return notes


def match_prompts(rows: list[Row], file: Path) -> list[str]:
    """Give each row its prompt from a CSV; a row without exactly one prompt gets the reason, in `no_prompt`.

    A name in the CSV fits the images whose path ends with it, folder by folder: ``b.png`` and ``a/b.png`` both fit
    ``x/a/b.png``, and the longer one wins. A name that fits two images of the list is ambiguous for both.

    Returns:
        Sentences about names that fit no image.

    Raises:
        ValueError: the file cannot be used; the message names the row.
    """
    prompts_of: dict[Parts, set[str]] = {}
    for parts, prompt in _read_prompts(file):
        prompts_of.setdefault(parts, set()).add(prompt)
    rows_of: dict[Parts, list[Row]] = {}
    for row in rows:
        name = next((ending for ending in _endings(row) if ending in prompts_of), None)
        if name is not None:
            rows_of.setdefault(name, []).append(row)
        elif not row.error:
            row.no_prompt = f"has no prompt: no name in '{file}' fits it."
    for name, fitting in rows_of.items():
        prompts = prompts_of[name]
        problem = _problem('/'.join(name), file, len(fitting), prompts)
        for row in fitting:
            row.no_prompt = problem
            if not problem:
                (row.prompt,) = prompts
    unused = ['/'.join(name) for name in prompts_of if name not in rows_of]
    if not unused:
        return []
    fit = counted(len(unused), f"name in '{file}' fits", f"names in '{file}' fit")
    return [f'{fit} none of the images: {", ".join(unused[:3])}{", ..." * (len(unused) > 3)}']


def _endings(row: Row) -> Iterator[Parts]:
    """The path of a row's image without its first folder, its first two folders ...: what a name may fit."""
    path = str(row.path) if is_uri(row.path) else Path(os.path.abspath(row.path)).as_posix()
    parts = PurePosixPath(unicodedata.normalize('NFC', path)).parts
    return (parts[start:] for start in range(len(parts)))


def _problem(name: str, file: Path, images: int, prompts: set[str]) -> str:
    if images > 1:
        return f"has no clear prompt: '{name}' in '{file}' fits {images} of the images; write it with its folder there."
    if not any(prompt.strip() for prompt in prompts):
        return f"has no prompt: '{name}' stands in '{file}' with an empty one."
    if len(prompts) > 1:
        return f"has no clear prompt: '{name}' stands in '{file}' with {len(prompts)} different ones."
    return ''


def _read_prompts(file: Path) -> Iterator[tuple[Parts, str]]:
    """Image and prompt of each row."""
    table = read_table(file)
    table.raise_problems()
    images, prompts = table.column(*IMAGE_COLUMNS), table.column('prompt')
    for (number, _), image, prompt in zip(table.rows, images, prompts, strict=True):
        yield _parts(image, f"row {number} of '{file}'"), prompt


def _parts(image: str, place: str) -> Parts:
    # '../images/a.png' is relative to the folder of the CSV: what follows the dots is what can match.
    path = unicodedata.normalize('NFC', image.strip().replace('\\', '/'))  # macOS takes letters with accents apart
    parts = tuple(part for part in PurePosixPath(path).parts if part != '..')
    if not parts:
        raise ValueError(f'{place} names no image.')
    return parts
