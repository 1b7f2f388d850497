"""`align-iqa splits`: prompt-disjoint splits of a label table, written as a meta info CSV that pyiqa reads."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from align_iqa_plugin.labels import LabelError, read_labels, write_labels
from align_iqa_plugin.splits import RATIO, SEED, content_hashes, prompt_disjoint_split, split_name


def splits(
    data: Annotated[Path, typer.Argument(help='CSV of the labels, or a folder that holds it as data.csv.')],
    output: Annotated[Path, typer.Option('--output', '-o', help='The CSV to write.')],
    seed: Annotated[int, typer.Option(help='Part of the order of the prompts; pyiqa looks for 123.')] = SEED,
    ratio: Annotated[str, typer.Option(help='Tenths of train, val and test.')] = RATIO,
    count: Annotated[int, typer.Option('--splits', min=1, max=99, help='How many splits.')] = 10,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not the CSV's or its images/.")] = None,
    image_column: Annotated[str | None, typer.Option(help='If not as released, or the first.')] = None,
    score_column: Annotated[str | None, typer.Option(help='If not as released, or the second.')] = None,
    prompt_column: Annotated[str, typer.Option(help="Give '' for data without prompts.")] = 'prompt',
) -> None:
    """Split images into train, val and test so that no prompt and no identical file is on two sides.

    Writes the labels as pyiqa reads them, with one column a split: name the file as meta_info_file in a training YAML.
    """
    try:
        labels = read_labels(
            data,
            images=images,
            image_column=image_column,
            score_column=score_column,
            prompt_column=prompt_column or None,
        )
        labels.refuse_faults()
        prompts = [row.prompt for row in labels.rows]
        contents = content_hashes([row.path for row in labels.rows])
        phases = {
            split_name(split, seed=seed, ratio=ratio): prompt_disjoint_split(prompts, contents, split, seed=seed, ratio=ratio)
            for split in range(1, count + 1)
        }
        for name, column in phases.items():
            for phase, tenths in zip(('train', 'val', 'test'), ratio, strict=True):
                if tenths != '0' and phase not in column:
                    raise LabelError(f'{labels.source}: too few prompts, nothing is left for {phase} of {name}.')
        write_labels(labels, phases, output)
    except (ValueError, OSError) as error:
        typer.echo(f'Error: {error}', err=True)
        raise typer.Exit(2) from error

    table = Table('split', 'train', 'val', 'test', title=f'{output}: images (prompts)')
    for name, column in phases.items():
        images_of = Counter(column)
        prompts_of = Counter(phase for phase, _ in set(zip(column, prompts, strict=True)))
        table.add_row(name, *(f'{images_of[phase]} ({prompts_of[phase]})' for phase in ('train', 'val', 'test')))
    Console().print(table)
