"""Verifies a data set: finds every missing, corrupt, duplicate and mislabelled item in one pass that decodes every image."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from align_iqa_plugin.data.images import DIED, ENDINGS, ImageError, read_image
from align_iqa_plugin.data.labels import Labels, Row
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.errors import printable
from align_iqa_plugin.runtime.files import file_digest
from align_iqa_plugin.runtime.worker_pool import map_in_processes


@dataclass(frozen=True)
class Finding:
    """One problem of a data set, or a note that is none.

    Attributes:
        kind: 'missing', 'corrupt', 'duplicate' or 'mislabelled'; '' for a note about the whole data set.
        row: the row in a spreadsheet; 0 for a note about the whole data set.
        sentence: what was found.
        is_problem: False for a note, for example on a duplicate that the release is known to have.
    """

    kind: str
    row: int
    sentence: str
    is_problem: bool = True

    def __str__(self):
        place = f'{self.kind}: row {self.row}: ' if self.kind else ''
        return printable(('' if self.is_problem else 'note: ') + place + self.sentence)


def verify(labels: Labels, *, workers: int) -> list[Finding]:
    """All findings, problems first, by kind and row.

    Args:
        labels: the table, with the problems that were found while reading it.
        workers: processes that decode images.

    Raises:
        OSError: a folder cannot be read.
    """
    first_row: dict[str, int] = {}
    for row in labels.rows:
        first_row.setdefault(row.path, row.number)
    problem_of, content_of = {}, {}
    for path, (problem, content) in zip(first_row, _decode_all(list(first_row), workers), strict=True):
        if problem:
            problem_of[path] = problem
        else:
            content_of[path] = content
    findings = [Finding('missing', row, problem) for row, problem in labels.missing]
    findings += [Finding('mislabelled', *problem) for problem in labels.problems if problem not in labels.missing]
    findings += [Finding('corrupt', first_row[path], problem) for path, problem in problem_of.items()]
    # where the pattern of the names was not checked on the release, another name may be the pattern's mistake
    verified = labels.release is not None and labels.release.verified
    findings += [Finding('mislabelled', row, sentence, is_problem=verified) for row, sentence in _misnamed(labels)]
    findings += _duplicates(labels, first_row, content_of)
    findings.sort(key=lambda finding: (not finding.is_problem, finding.kind, finding.row, finding.sentence))
    return [*findings, *(Finding('', 0, sentence, is_problem=False) for sentence in _remarks(labels))]


def _decode_all(paths: Sequence[str], workers: int) -> Iterator[tuple[str, str]]:
    """The problem of each image and '', or '' and the hash of its file."""
    # processes, not threads: `read_image` reads one image at a time in a process
    results = map_in_processes(_decode, paths, workers)
    shown = track(results, 'Decoding images', total=len(paths), console=Console(stderr=True), transient=True)
    yield from ((f"'{path}' {DIED}", '') if result is None else result for path, result in zip(paths, shown, strict=True))


def _decode(path: str) -> tuple[str, str]:
    try:
        read_image(path)
        return '', file_digest(path)
    except (ImageError, OSError) as error:
        return str(error), ''


def _duplicates(labels: Labels, first_row: dict[str, int], content_of: dict[str, str]) -> Iterator[Finding]:
    """Files of the same bytes; those that the release is known to have are notes."""
    known = [set(group.split()) for group in labels.release.duplicates] if labels.release else []
    groups: dict[str, list[str]] = {}
    for path, content in content_of.items():
        groups.setdefault(content, []).append(path)
    for first, *others in groups.values():
        if others:
            names = [Path(path).name for path in others]
            sentence = f'{", ".join(names)}: the same file as {Path(first).name} in row {first_row[first]}.'
            expected = any({Path(first).name, *names} <= group for group in known)
            yield Finding('duplicate', first_row[others[0]], sentence, is_problem=not expected)


def _misnamed(labels: Labels) -> Iterator[tuple[int, str]]:
    """Rows whose file name does not follow the release's pattern, or whose prompt is not that of the prompt's number in it."""
    if labels.release is None or labels.release.file_name is None:
        return
    first_of: dict[str, Row] = {}
    ids = labels.column('prompt_id') if 'prompt_id' in labels.header else [''] * len(labels.rows)
    for row, prompt_id in zip(labels.rows, ids, strict=True):
        name = Path(row.path).name
        if not re.fullmatch(labels.release.file_name, name):
            yield row.number, f'{name} is no image name of {labels.release.name}.'
        first = first_of.setdefault(prompt_id, row) if prompt_id else row
        if row.prompt != first.prompt:
            expected = f'that of {prompt_id} is {first.prompt!r} in row {first.number}'
            yield row.number, f'{name}: its prompt is {row.prompt!r}, {expected}.'


def _remarks(labels: Labels) -> Iterator[str]:
    """Notes about the whole data set: images that the release has and the table lacks, or the other way round."""
    if labels.release and labels.release.images and labels.release.images != len(labels.rows):
        yield f'{labels.release.name} has {labels.release.images:,} images, here are {len(labels.rows):,}.'
    listed = {Path(row.path) for row in labels.rows}
    extra = []
    for folder in sorted({path.parent for path in listed}):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)
        extra += [file.name for file in files if file not in listed]
    if extra:
        shown = ', '.join(extra[:5]) + (' ...' if len(extra) > 5 else '')
        yield f'{counted(len(extra), "image has", "images have")} no row, in the same folders: {shown}'
