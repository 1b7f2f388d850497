"""`align-iqa score`: scores images, one row each; an image that cannot be scored gets a row with the reason."""

import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail, say
from align_iqa_plugin.cli.outputs import check_output
from align_iqa_plugin.cli.progress import progress_bar
from align_iqa_plugin.cli.score_usage import check_usage
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.files import expand_home

_fail = partial(fail, 'score')


def score(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help='Files, folders (with their subfolders; of the files there, those that are named like images), globs, URIs '
            '(s3://, gs://, https:// ...), and image tables (.csv, .xlsx, .parquet) with a column image and, if wanted, prompt '
            'and others, which stay in the output.'
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help='The prompt that all the images were made from.')] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='CSV with the columns image (or name) and prompt; images are found by name or relative path.'),
    ] = None,
    samples: Annotated[
        bool, typer.Option('--samples', help='Score the sample images of this package, beside their MOS.')
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help='Write all rows to this .csv, .json or .parquet file; with --engine ray, to this folder.'),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help='Draw a contact sheet, best image first, into this .png file.')] = None,
    best: Annotated[int | None, typer.Option(metavar='K', help='Keep the K best images of each group (see --per).')] = None,
    per: Annotated[
        str | None,
        typer.Option(
            metavar='prompt|folder|all|COLUMN',
            help='The groups of --best; COLUMN is one of an image table.',
            show_default='prompt where an image has one, else all',
        ),
    ] = None,
    min_score: Annotated[float | None, typer.Option(help='Keep the images with this score or a higher one.')] = None,
    copy_to: Annotated[Path | None, typer.Option(help='Copy the images that are kept into this folder.')] = None,
    link_to: Annotated[Path | None, typer.Option(help='Link to them from this folder instead.')] = None,
    write_metadata: Annotated[
        bool, typer.Option('--write-metadata', help='Write the score into each copy (PNG, JPEG, WebP, TIFF); pixels stay.')
    ] = False,
    batch_size: Annotated[int, typer.Option(help='Images of one size that go through the network together.')] = 16,
    device: Annotated[
        str | None, typer.Option(help='cpu, cuda, cuda:1, ...', show_default='cuda where there is one, else cpu')
    ] = None,
    weights: Annotated[Path | None, typer.Option(help='A file of weights, or packaged-fast, to use instead.')] = None,
    engine: Annotated[str, typer.Option(help='local, or ray for many GPUs or machines.')] = 'local',
    workers: Annotated[
        int | None,
        typer.Option(min=1, help='Processes of Ray that score.', show_default='one for each GPU, else for each CPU core'),
    ] = None,
) -> None:
    """Score images: higher is better, about 0 to 5 (the mean opinion scores of AGIQA-3K).

    An image needs 32 pixels a side. One of more than 4096 x 4096 pixels is
    averaged down first, one of more than 2^29 pixels (23,170 x 23,170; 2 GiB
    while it is read) is an error. An image without a score gets a row that says why.

    With --output FILE, scores are saved while the command runs, in a folder
    .FILE.scores beside it, and the same command goes on where it was stopped: an
    image (by its path or URI, and prompt) that has a score is not scored again.
    With --engine ray, all workers of Ray score, on this machine or on the cluster
    that RAY_ADDRESS names, and --output is the folder of the scores itself.

    --best and --min-score choose, together what both keep. Only that is
    printed, drawn and copied, best first; --output has all images, with a column
    `kept`. Of equal scores, that of the image named first counts as the better
    one. In the folder of --copy-to or --link-to nothing is overwritten: a name
    that is taken gets a number.

    Exit status: 0 all is done, 1 some images were not scored or not copied, or a
    copy is without its score, 2 the command is wrong, 130 stopped by Ctrl-C (what
    was scored until then is written).
    """
    given = SimpleNamespace(**locals())
    check_usage(given)
    given.output, given.copy_to, given.link_to = (path and expand_home(path) for path in (output, copy_to, link_to))

    from align_iqa_plugin.score.choose import Choice, describe, mark_kept
    from align_iqa_plugin.score.copy_to import check_outside
    from align_iqa_plugin.score.find_images import find_images, sample_rows
    from align_iqa_plugin.score.prompts import add_prompts
    from align_iqa_plugin.score.write import OUTPUT_ENDINGS

    images = images or []
    inputs, choice = [*images, prompts, weights], Choice(best, per, min_score)
    try:
        endings = OUTPUT_ENDINGS if engine == 'local' else ()
        check_output('--output', output, inputs=inputs, endings=endings, folder=engine == 'ray')
        check_output('--copy-to', copy_to, folder=True)
        check_output('--link-to', link_to, folder=True)
        rows, notes = (sample_rows(), []) if samples else find_images(images, leave_out=sheet)
        check_output('--sheet', sheet, inputs=[*inputs, *(row.path for row in rows)], endings=('.png',))
        check_outside('--copy-to', given.copy_to, images, rows)
        check_outside('--link-to', given.link_to, images, rows)
        notes += add_prompts(rows, prompt, prompts)
        describe(rows, choice)
    except ValueError as error:
        _fail(str(error))
    for note in notes:
        say(note)

    from align_iqa_plugin.cli.score_results import finish
    from align_iqa_plugin.runtime.ray_workers import RayError
    from align_iqa_plugin.score.engine import EngineError, open_engine
    from align_iqa_plugin.score.score_folder import FolderError, score_remaining

    start, stopped, folder, kept = time.monotonic(), None, None, None
    opened = open_engine(engine, given.output, device=device, weights=weights, batch_size=batch_size, workers=workers)
    try:
        with opened as (score_rows, folder):
            start = time.monotonic()
            if folder and (found := folder.fill(rows)):
                say(f"{counted(found, 'image has its', 'images have their')} score in '{folder.path}' already.")
            with progress_bar('Scoring', len(rows)) as advance:
                score_remaining(rows, score_rows, folder, advance)
            kept = mark_kept(rows, choice) if choice else None
            if folder and engine == 'ray':
                folder.add_columns(rows)
    except (EngineError, FolderError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, RayError, OSError) as error:
        stopped = error
    seconds = time.monotonic() - start
    raise typer.Exit(finish(given, rows, kept, choice, folder=folder, seconds=seconds, stopped=stopped))
