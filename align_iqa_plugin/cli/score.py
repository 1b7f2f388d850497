"""`align-iqa score`: scores images, one row each; an image that cannot be scored gets a row with the reason."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail
from align_iqa_plugin.cli.outputs import check_output, try_to_write
from align_iqa_plugin.cli.progress import progress_bar
from align_iqa_plugin.runtime.files import expand_home
from align_iqa_plugin.runtime.names import suggest

ENGINES = ('local', 'ray')
_fail = partial(fail, 'score')
_say = partial(typer.echo, err=True)


def score(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help='Files, folders (with their subfolders; of the files there, those that are named like images), globs, URIs '
            '(s3://, gs://, https:// ...), and image tables (.csv, .parquet) with a column image and, if wanted, prompt.'
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
    batch_size: Annotated[int, typer.Option(help='Images of one size that go through the network together.')] = 16,
    device: Annotated[
        str | None, typer.Option(help='cpu, cuda, cuda:1, ...', show_default='cuda where there is one, else cpu')
    ] = None,
    weights: Annotated[Path | None, typer.Option(help='Weights to use in place of those of this package.')] = None,
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

    Exit status: 0 all images were scored, 1 some were not, 2 the command is
    wrong, 130 stopped by Ctrl-C (what was scored until then is written).
    """
    images, output = images or [], output and expand_home(output)
    _check_usage(images, prompt, prompts, samples, output, batch_size, weights, engine, workers)

    from align_iqa_plugin.runtime.errors import printable
    from align_iqa_plugin.score.find_images import find_images, sample_rows
    from align_iqa_plugin.score.prompts import add_prompts
    from align_iqa_plugin.score.write import OUTPUT_ENDINGS, correlation_with_mos, print_rows, write_rows

    inputs = [*images, prompts, weights]
    try:
        endings = OUTPUT_ENDINGS if engine == 'local' else ()
        check_output('--output', output, inputs=inputs, endings=endings, folder=engine == 'ray')
        rows, notes = (sample_rows(), []) if samples else find_images(images, leave_out=sheet)
        check_output('--sheet', sheet, inputs=[*inputs, *(row.path for row in rows)], endings=('.png',))
        notes += add_prompts(rows, prompt, prompts)
    except ValueError as error:
        _fail(str(error))
    for note in notes:
        _say(printable(note))

    from align_iqa_plugin.runtime.ray_workers import RayError
    from align_iqa_plugin.score.contact_sheet import write_sheet
    from align_iqa_plugin.score.engine import EngineError, open_engine
    from align_iqa_plugin.score.score_folder import FolderError, score_remaining

    start, stopped, folder = time.monotonic(), None, None
    opened = open_engine(engine, output, device=device, weights=weights, batch_size=batch_size, workers=workers)
    try:
        with opened as (score_rows, folder):
            start = time.monotonic()
            if folder and (found := folder.fill(rows)):
                _say(f"{found} images have their score in '{folder.path}' already.")
            with progress_bar('Scoring', len(rows)) as advance:
                score_remaining(rows, score_rows, folder, advance)
    except (EngineError, FolderError) as error:
        _fail(str(error))
    except (KeyboardInterrupt, RayError, OSError) as error:
        stopped = error
    seconds = time.monotonic() - start
    done = [row for row in rows if row.done]
    failed = sum(row.error != '' for row in done)
    saved = True
    if output and engine == 'local':
        with_prompt = prompts is not None or any(row.prompt is not None for row in rows)
        saved = try_to_write(lambda: write_rows(output, done, with_prompt=with_prompt, with_mos=samples))
        if folder and (folder.is_empty or saved and not stopped):
            folder.remove()
    print_rows(done, output if saved else None)
    if samples:
        typer.echo(correlation_with_mos(done))
    _say(f'{len(done) - failed} of {len(rows)} images scored in {seconds:.0f} s, {failed} with an error.')
    if isinstance(stopped, KeyboardInterrupt):
        no_sheet = '; no contact sheet drawn' if sheet else ''
        _say(f'Stopped by Ctrl-C: {len(rows) - len(done)} images were not scored{no_sheet}.')
        raise typer.Exit(130)
    if stopped:
        _say(f'Stopped: {stopped} What was scored is kept, and the same command goes on from there.')
    drawn = sheet is None or try_to_write(lambda: write_sheet(sheet, done))
    if failed or stopped or not drawn or not saved or len(done) < len(rows):
        raise typer.Exit(1)


def _check_usage(images, prompt, prompts, samples, output, batch_size, weights, engine, workers) -> None:
    problems = {
        '--samples brings its own images and prompts; leave out IMAGES, --prompt and --prompts.': samples
        and (images or prompt is not None or prompts),
        'name at least one image, folder or glob, or use --samples.': not samples and not images,
        'give either --prompt or --prompts.': prompt is not None and prompts,
        '--prompt is empty; leave it out to score without a prompt.': prompt is not None and not prompt.strip(),
        f"unknown --engine '{engine}'{suggest(engine, ENGINES)}": engine not in ENGINES,
        '--workers is for --engine ray.': workers and engine != 'ray',
        f"--output '{output}' must be a folder with --engine ray, which writes Parquet files into it.": engine == 'ray'
        and output
        and output.suffix.lower() in ('.csv', '.json'),
        f'--batch-size must be at least 1, not {batch_size}.': batch_size < 1,
        f"the weights '{weights}' are not a file.": weights and not os.path.isfile(weights),
    }
    for sentence, wrong in problems.items():
        if wrong:
            _fail(sentence)
