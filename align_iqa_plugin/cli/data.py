"""`align-iqa data`: list the known data sets, verify one, or prepare its labels with all splits as pyiqa reads them."""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align_iqa_plugin.cli.columns import GeneratorColumn, ImageColumn, PromptColumn, ScoreColumn
from align_iqa_plugin.cli.errors import fail
from align_iqa_plugin.cli.outputs import check_output
from align_iqa_plugin.data.labels import LabelError, Labels, read_labels, write_labels
from align_iqa_plugin.data.releases import RELEASES
from align_iqa_plugin.data.splits import PHASES, UNUSED, all_splits
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.errors import printable

commands = typer.Typer(help='Known data sets; check one; prepare its labels and splits.', no_args_is_help=True)

Root = Annotated[Path, typer.Argument(help='The folder of the data set, or the table of its labels (csv, xlsx, parquet).')]
ReleaseName = Annotated[
    str | None, typer.Option('--release', help='The release, if its files do not identify it; see `align-iqa data list`.')
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images, if not the table's or the release's.")]


@commands.command('list')
def list_() -> None:
    """The known data sets. A question mark means that no source states the fact."""
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
    # a pipe has no width
    console = console if console.is_terminal else Console(width=250)
    console.print(table)


@commands.command()
def verify(
    root: Root,
    release: ReleaseName = None,
    images: Images = None,
    image_column: ImageColumn = None,
    score_column: ScoreColumn = None,
    prompt_column: PromptColumn = None,
    generator_column: GeneratorColumn = None,
    workers: Annotated[int, typer.Option(min=1, help='Processes that decode images.')] = os.cpu_count() or 1,
) -> None:
    """Find every missing, corrupt, duplicate and mislabelled item, in one pass that decodes every image.

    Duplicates are files of the same bytes. Those that a release is known to have are notes, not problems.

    Exit status: 0 the data set is sound, 1 problems were found, 2 it is no data set.
    """
    from align_iqa_plugin.data.verify import verify

    try:
        labels = _read(root, release, images, image_column, score_column, prompt_column, generator_column)
        if not labels.rows:
            rows = [f'row {row}: {printable(problem)}' for row, problem in labels.problems]
            raise LabelError('\n'.join([f"'{labels.source}' leads to no image:", *rows]))
        findings = verify(labels, workers=workers)
    except (LabelError, OSError) as error:
        fail('data verify', error)
    for finding in findings:
        typer.echo(finding)
    problems = Counter(finding.kind for finding in findings if finding.is_problem)
    verdict = ', '.join(f'{count} {kind}' for kind, count in sorted(problems.items())) or 'sound'
    notes = len(findings) - problems.total()
    typer.echo(f'{_summary(labels)}: {verdict}; {counted(notes, "note")}.')
    raise typer.Exit(1 if problems else 0)


@commands.command()
def prepare(
    root: Root,
    output: Annotated[Path, typer.Option('--output', '-o', help='The CSV to write.')],
    release: ReleaseName = None,
    images: Images = None,
    image_column: ImageColumn = None,
    score_column: ScoreColumn = None,
    prompt_column: PromptColumn = None,
    generator_column: GeneratorColumn = None,
) -> None:
    """Write the labels as a meta info CSV of pyiqa, with all splits: name it as meta_info_file in a training YAML.

    Columns: image name, score, prompt, prompt_id, generator, further scores, the table's other columns, and one column a
    split, with train, val or test in each row. ratio712_seed123_split_01 to 10 keep prompts apart, generator_split_NAME
    tests on the images of that generator, image712_seed123_split_01 to 10 leak prompts and are for comparison only.
    Identical files are never on two sides.

    Exit status: 0 the file is written, 2 it is not.
    """
    try:
        check_output('--output', output, inputs=[root])
        labels = _read(root, release, images, image_column, score_column, prompt_column, generator_column)
        labels.raise_problems()
        splits = all_splits(labels)
        write_labels(labels, splits, output)
    except (ValueError, OSError) as error:
        fail('data prepare', error)

    phases = [*PHASES, *([UNUSED] if any(UNUSED in column for column in splits.values()) else [])]
    title = Text(f'{_summary(labels)}, written to {output}: images (prompts)')
    table = Table('split', *phases, title=title)
    for name, column in splits.items():
        images_of = Counter(column)
        # a phase has as many prompts as there are pairs of it and a prompt
        pairs = {(phase, row.prompt) for phase, row in zip(column, labels.rows, strict=True) if row.prompt.strip()}
        prompts_of = Counter(phase for phase, _ in pairs)
        table.add_row(Text(printable(name)), *(f'{images_of[phase]} ({prompts_of[phase]})' for phase in phases))
    Console().print(table)


def _read(root: Path, release: str | None, images: Path | None, *columns: str | None) -> Labels:
    """The labels; `columns` are those of images, scores, prompts and generators."""
    image, score, prompt, generator = columns
    return read_labels(
        root,
        release=release,
        images=images,
        image_column=image,
        score_column=score,
        prompt_column='prompt' if prompt is None else prompt or None,
        generator_column=generator,
    )


def _summary(labels: Labels) -> str:
    """For example "AGIQA-3K, 2,982 images of 300 prompts by 6 generators"."""
    prompts = {row.prompt for row in labels.rows if row.prompt.strip()}
    generators = set(labels.generators) - {''}
    return printable(
        f'{labels.release.name if labels.release else labels.source}, {counted(len(labels.rows), "image")}'
        + (f' of {counted(len(prompts), "prompt")}' if prompts else '')
        + (f' by {counted(len(generators), "generator")}' if generators else '')
    )
