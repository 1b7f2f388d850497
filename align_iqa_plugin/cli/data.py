"""`align-iqa data`: which data sets are known, whether one is sound, and its labels as pyiqa reads them, with splits."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from align_iqa_plugin.data.labels import LabelError, Labels, read_labels, write_labels
from align_iqa_plugin.data.releases import RELEASES
from align_iqa_plugin.data.splits import PHASES, UNUSED, content_hashes, split_by_name, split_names

commands = typer.Typer(help='Known data sets; check one; prepare its labels and splits.', no_args_is_help=True)

Root = Annotated[Path, typer.Argument(help='The folder of the data set, or the table of its labels (csv, xlsx, parquet).')]
ReleaseName = Annotated[
    str | None, typer.Option('--release', help='Which release it is, if its files do not tell; see `align-iqa data list`.')
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images, if not the table's or the release's.")]
ImageColumn = Annotated[str | None, typer.Option(help='If not as released, or the first.')]
ScoreColumn = Annotated[str | None, typer.Option(help='If not as released, or the second.')]
PromptColumn = Annotated[str, typer.Option(help="Give '' for data without prompts.")]


@commands.command('list')
def list_() -> None:
    """The data sets that are known. What no source states is a question mark."""
    columns = ('name', 'option', 'images', 'scores', 'prompts', 'generators', 'licence', 'home page', 'checked')
    table = Table(*columns, caption='checked: these facts were checked on the data set itself', caption_justify='left')
    for release in RELEASES:
        counts = (release.images, release.prompts, release.generators)
        images, prompts, generators = ('?' if count is None else f'{count:,}' for count in counts)
        scores = ', '.join(
            name + (f' ({bounds[0]:g} to {bounds[1]:g})' if bounds else ' (?)') for name, bounds in release.score_ranges.items()
        )
        checked = 'yes' if release.verified else 'no'
        names = (release.name, release.key)
        table.add_row(*names, images, scores, prompts, generators, release.licence or '?', release.home, checked)
    console = Console()
    # in a pipe there is no width to keep to
    console = console if console.is_terminal else Console(width=250)
    console.print(table)


@commands.command()
def verify(
    root: Root,
    release: ReleaseName = None,
    images: Images = None,
    image_column: ImageColumn = None,
    score_column: ScoreColumn = None,
    prompt_column: PromptColumn = 'prompt',
    workers: Annotated[int, typer.Option(min=1, help='Processes that decode images.')] = os.cpu_count() or 1,
) -> None:
    """Find every missing, corrupt, duplicate and mislabelled item, in one pass that decodes every image.

    Duplicates are files of the same bytes. Those that a release is known to have are notes and no problems.

    Exit status: 0 the data set is sound, 1 problems were found, 2 it is no data set.
    """
    try:
        labels = read_labels(
            root,
            release=release,
            images=images,
            image_column=image_column,
            score_column=score_column,
            prompt_column=prompt_column or None,
        )
    except LabelError as error:
        _fail(str(error))
    if not labels.rows:
        _fail(
            '\n'.join([f'{labels.source} leads to no image:', *(f'row {row}: {problem}' for row, problem in labels.problems)])
        )

    rows_of = {}
    for row in labels.rows:
        rows_of.setdefault(row.path, row)
    try:
        checks = dict(zip(rows_of, _decoded(list(rows_of), workers), strict=True))
    except BrokenProcessPool:
        _fail('a process that decoded images was killed, probably for want of memory: try again with --workers 1.')
    problems = [('missing', row, problem) for row, problem in labels.missing]
    problems += [('mislabelled', row, problem) for row, problem in labels.problems if (row, problem) not in labels.missing]
    problems += [('corrupt', rows_of[path].number, problem) for path, (problem, _) in checks.items() if problem]
    notes = []
    for row, problem in _misnamed(labels):
        # only where the pattern of the names was checked on the release is a departure from it the copy's problem
        (problems if labels.release.verified else notes).append(('mislabelled', row, problem))
    known = [set(group.split()) for group in labels.release.duplicates] if labels.release else []
    for group in _same(rows_of, checks):
        names = [Path(path).name for path in group]
        number = rows_of[group[1]].number
        sentence = f'{", ".join(names[1:])}: the same file as {names[0]} in row {rows_of[group[0]].number}.'
        (notes if any(set(names) <= each for each in known) else problems).append(('duplicate', number, sentence))

    for kind, row, sentence in sorted(problems):
        typer.echo(f'{kind}: row {row}: {sentence}')
    for kind, row, sentence in sorted(notes):
        typer.echo(f'note: {kind}: row {row}: {sentence}')
    further = _remarks(labels)
    for sentence in further:
        typer.echo(f'note: {sentence}')
    kinds = Counter(kind for kind, _, _ in problems)
    verdict = ', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items())) or 'sound'
    noted = len(notes) + len(further)
    typer.echo(f'{_what(labels)}: {verdict}; {noted} {"note" if noted == 1 else "notes"}.')
    raise typer.Exit(1 if problems else 0)


@commands.command()
def prepare(
    root: Root,
    output: Annotated[Path, typer.Option('--output', '-o', help='The CSV to write.')],
    release: ReleaseName = None,
    images: Images = None,
    image_column: ImageColumn = None,
    score_column: ScoreColumn = None,
    prompt_column: PromptColumn = 'prompt',
) -> None:
    """Write the labels as a meta info CSV of pyiqa, with all splits: name it as meta_info_file in a training YAML.

    Columns: image name, score, prompt, prompt_id, generator, further scores, what else the table has, and one column a
    split, with train, val or test in each row. ratio712_seed123_split_01 to 10 keep prompts apart, generator_split_NAME
    tests on the images of that generator, image712_seed123_split_01 to 10 leak prompts and serve comparison only.
    Identical files are never on two sides.

    Exit status: 0 the file is written, 2 it is not.
    """
    try:
        labels = read_labels(
            root,
            release=release,
            images=images,
            image_column=image_column,
            score_column=score_column,
            prompt_column=prompt_column or None,
        )
        labels.raise_problems()
        contents = content_hashes([row.path for row in labels.rows])
        splits = {name: split_by_name(labels, name, contents) for name in split_names(labels)}
        for name, column in splits.items():
            for phase in PHASES:
                if phase not in column:
                    raise LabelError(f'{labels.source}: too few prompts or images, nothing is left for {phase} of {name}.')
        write_labels(labels, splits, output)
    except (LabelError, OSError) as error:
        _fail(str(error))

    phases = [*PHASES, *([UNUSED] if any(UNUSED in column for column in splits.values()) else [])]
    table = Table('split', *phases, title=f'{_what(labels)}, written to {output}: images (prompts)')
    for name, column in splits.items():
        images_of = Counter(column)
        # a phase has as many prompts as there are pairs of it and a prompt
        pairs = {(phase, row.prompt) for phase, row in zip(column, labels.rows, strict=True) if row.prompt.strip()}
        prompts_of = Counter(phase for phase, _ in pairs)
        table.add_row(name, *(f'{images_of[phase]} ({prompts_of[phase]})' for phase in phases))
    Console().print(table)


def _decoded(paths: Sequence[str], workers: int) -> Iterator[tuple[str | None, str]]:
    """What is wrong with each image, or None, and the hash of its file."""
    console = Console(stderr=True)
    shown = {'description': 'Decoding images', 'total': len(paths), 'console': console, 'transient': True}
    if workers == 1:
        yield from track(map(_decode, paths), **shown)
        return
    # processes, not threads: `read_image` reads one image at a time in a process
    with ProcessPoolExecutor(workers) as pool:
        yield from track(pool.map(_decode, paths, chunksize=8), **shown)


def _decode(path: str) -> tuple[str | None, str]:
    from align_iqa_plugin.data.images import ImageError, read_image

    try:
        read_image(path)
        return None, hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (ImageError, OSError) as error:
        return str(error), ''


def _same(rows_of, checks):
    """Groups of paths of the same content, in the order of the rows."""
    groups = {}
    for path in sorted(rows_of, key=lambda path: rows_of[path].number):
        groups.setdefault(checks[path][1], []).append(path)
    return [group for content, group in groups.items() if content and len(group) > 1]


def _misnamed(labels: Labels) -> Iterator[tuple[int, str]]:
    """Rows whose file name is not as the release names its images, or whose prompt is not the one that the name tells."""
    if labels.release is None or labels.release.file_name is None:
        return
    first_of = {}
    ids = labels.column('prompt_id') if 'prompt_id' in labels.header else [''] * len(labels.rows)
    for row, prompt_id in zip(labels.rows, ids, strict=True):
        name = Path(row.path).name
        if not re.fullmatch(labels.release.file_name, name):
            yield row.number, f'{name} is no image name of {labels.release.name}.'
        first = first_of.setdefault(prompt_id, row) if prompt_id else row
        if row.prompt != first.prompt:
            yield (
                row.number,
                f'{name}: its prompt is {row.prompt!r}, that of {prompt_id} is {first.prompt!r} in row {first.number}.',
            )


def _remarks(labels: Labels) -> list[str]:
    """What is no problem of an item, and yet worth to know."""
    from align_iqa_plugin.data.images import ENDINGS

    remarks = []
    if labels.release and labels.release.images and labels.release.images != len(labels.rows):
        remarks.append(f'{labels.release.name} has {labels.release.images:,} images, here are {len(labels.rows):,}.')
    listed = {row.path for row in labels.rows}
    extra = []
    for folder in sorted({os.path.dirname(path) for path in listed}):
        names = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in ENDINGS)
        extra += [name for name in names if os.path.join(folder, name) not in listed]
    if extra:
        shown = ', '.join(extra[:5]) + (' ...' if len(extra) > 5 else '')
        remarks.append(f'{len(extra):,} images beside them have no row: {shown}')
    return remarks


def _what(labels: Labels) -> str:
    """For example "AGIQA-3K, 2,982 images of 300 prompts by 6 generators"."""
    prompts = {row.prompt for row in labels.rows if row.prompt.strip()}
    generators = set(labels.column('generator')) - {''} if 'generator' in labels.header else set()
    return (
        f'{labels.release.name if labels.release else labels.source}, {len(labels.rows):,} images'
        + (f' of {len(prompts):,} prompts' if prompts else '')
        + (f' by {len(generators)} generators' if generators else '')
    )


def _fail(sentence: str) -> NoReturn:
    typer.echo(f'Error: {sentence}', err=True)
    raise typer.Exit(2)
