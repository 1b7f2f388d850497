"""`align-iqa explain`: maps of where images raise and lower their scores."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align_iqa_plugin.cli.errors import fail, say
from align_iqa_plugin.cli.outputs import check_output, try_to_write
from align_iqa_plugin.cli.progress import progress_bar
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.files import PACKAGED_NAMES, are_weights, expand_home

if TYPE_CHECKING:
    from align_iqa_plugin.score.metric import NetworkMetric

_fail = partial(fail, 'explain')


def explain(
    output: Annotated[Path, typer.Option('--output', '-o', help='The folder of the maps, created where there is none.')],
    images: Annotated[
        list[str] | None, typer.Argument(help='Files, folders, globs, URIs and image tables, as of `align-iqa score`.')
    ] = None,
    prompt: Annotated[str | None, typer.Option(help='The prompt that all the images were made from.')] = None,
    prompts: Annotated[Path | None, typer.Option(help='CSV with the columns image (or name) and prompt.')] = None,
    samples: Annotated[bool, typer.Option('--samples', help='Explain the sample images of this package.')] = False,
    device: Annotated[
        str | None, typer.Option(help='cpu, cuda, cuda:1, ...', show_default='cuda where there is one, else cpu')
    ] = None,
    weights: Annotated[Path | None, typer.Option(help='Weights to use in place of those of this package.')] = None,
    learn_from: Annotated[
        str | None,
        typer.Option(help='Good pictures, 20 or more, to fit the map of --weights to: once, and beside that file.'),
    ] = None,
) -> None:
    """Show which regions of an image are better and worse, as its network sees them.

    Of each image, NAME.map.npy is an array of 32-bit floats (rows, columns), the
    top left cell first: by how much of the score a cell is better (above 0) or
    worse (below 0) than the mean of the cells. NAME.map.png draws it over the
    image: orange is worse, purple better. scores.csv lists the images, and
    sheet.png shows all maps, best image first. Files of an earlier command are
    replaced. An image takes as long as three scores.

    Weights with another backbone, guide or CGI than the package's need a map of
    their own: --learn-from PICTURES fits it, without any rating.

    Exit status: 0 all is done, 1 some images have no map or a file cannot be
    written, 2 the command is wrong, 130 stopped by Ctrl-C (maps drawn until then
    are kept).
    """
    if samples and (images or prompt is not None or prompts):
        _fail('--samples brings its own images and prompts; leave out IMAGES, --prompt and --prompts.')
    if not samples and not images:
        _fail('name at least one image, folder or glob, or use --samples.')
    if prompt is not None and prompts:
        _fail('give either --prompt or --prompts.')
    if prompt is not None and not prompt.strip():
        _fail('--prompt is empty; leave it out to explain without a prompt.')
    if weights and not are_weights(weights):
        _fail(f"the weights '{weights}' are not a file.")
    if learn_from is not None and (weights is None or str(weights) in PACKAGED_NAMES):
        _fail("--learn-from goes with --weights FILE: the package's own map is fitted already.")
    folder = expand_home(output)

    from align_iqa_plugin.score.copy_to import check_outside
    from align_iqa_plugin.score.find_images import find_images, sample_rows
    from align_iqa_plugin.score.prompts import add_prompts

    try:
        check_output('--output', folder, folder=True)
        rows, notes = (sample_rows(), []) if samples else find_images(images or [])
        check_outside('--output', folder, images or [], rows)
        notes += add_prompts(rows, prompt, prompts)
        if any('map' in row.columns for row in rows):
            raise ValueError("an image table has a column 'map', which scores.csv has for the names of the maps; rename it.")

        from align_iqa_plugin.score import metric as metrics

        metric = metrics.load_metric(device, weights and expand_home(weights))
        if learn_from is not None and weights:
            _learn(metric, expand_home(weights), learn_from)
        metric.load_map()
        folder.mkdir(exist_ok=True)
    except (ValueError, OSError) as error:
        _fail(error)
    for note in notes:
        say(note)

    from align_iqa_plugin.score.explain import explain_rows
    from align_iqa_plugin.score.write import print_rows

    problem: BaseException | None = None
    found = [row for row in rows if not row.error]
    try:
        with progress_bar('Explaining', len(found)) as advance:
            for _ in explain_rows(metric, found, folder):
                advance()
    except (KeyboardInterrupt, OSError) as error:
        problem = error
    done = [row for row in rows if row.done]
    explained = [row for row in done if row.score is not None]
    print_rows(done, None)
    say(
        f'{len(explained)} of {counted(len(rows), "image has", "images have")} a map in {folder}, '
        f'{len(done) - len(explained)} with an error.'
    )
    if isinstance(problem, KeyboardInterrupt):
        say('Stopped by Ctrl-C: neither scores.csv nor sheet.png was written.')
        raise typer.Exit(130)
    if problem:
        say(f'Stopped: {problem}')
        raise typer.Exit(1)
    raise typer.Exit(int(not _write_overview(folder, done, samples) or len(explained) < len(rows)))


def _learn(metric: 'NetworkMetric', weights: Path, learn_from: str) -> None:
    """Fit the map of the weights to pictures, and say where it is."""
    from align_iqa_plugin.models.map_fit import map_file
    from align_iqa_plugin.score.find_images import find_images

    check_output('--learn-from', map_file(weights))
    rows, _ = find_images([learn_from])
    with progress_bar('Fitting the map', len(rows)) as advance:
        say(f'{metric.fit_map([row.path for row in rows], advance)}: the map, fitted to {counted(len(rows), "picture")}.')


def _write_overview(folder: Path, rows: list, with_mos: bool) -> bool:
    """Write scores.csv of all rows, and sheet.png of those that have a map; gives whether both were written."""
    from dataclasses import replace

    from align_iqa_plugin.score.contact_sheet import write_sheet
    from align_iqa_plugin.score.write import write_rows

    with_prompt = any(row.prompt is not None for row in rows)
    drawn = [replace(row, path=folder / f'{row.columns["map"]}.map.png') for row in rows if row.score is not None]
    table = try_to_write(lambda: write_rows(folder / 'scores.csv', rows, with_prompt=with_prompt, with_mos=with_mos))
    return bool(table & try_to_write(lambda: write_sheet(folder / 'sheet.png', drawn)))
