"""`align-iqa score`: scores pictures, one row each; a picture that cannot be scored gets a row with the reason."""

import csv
import glob
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail
from align_iqa_plugin.data.image_table import read_image_table
from align_iqa_plugin.data.tables import ENDINGS as TABLE_ENDINGS
from align_iqa_plugin.data.uris import is_uri, list_uri
from align_iqa_plugin.runtime.devices import usable_device
from align_iqa_plugin.runtime.errors import reason_of

SAMPLES = Path(__file__).parents[1] / 'samples'
TABLE_ROWS = 40  # more rows than this are printed only where no --output takes them
OUTPUT_ENDINGS = ('.csv', '.json', '.parquet')
FILE_ROWS, FILE_SECONDS = 10_000, 20  # a file of a folder of scores is written when it has these, or after that time

_fail = partial(fail, 'score')


@dataclass
class Row:
    """One picture: found, then scored or failed (`error` says why)."""

    image: str
    path: Path | str  # an address is a text
    prompt: str | None = None
    mos: float | None = None
    score: float | None = None
    width: int | None = None
    height: int | None = None
    error: str = ''

    @property
    def done(self) -> bool:
        return self.score is not None or self.error != ''


def score(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help='Files, folders (with their subfolders; of the files there, those that end like a picture), globs, addresses '
            '(s3://, gs://, https:// ...), and tables (.csv, .parquet) with a column image and, if wanted, prompt.'
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
    sheet: Annotated[Path | None, typer.Option(help='Draw the images, best first, into this .png file.')] = None,
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
    """Score images: higher is better, about 0 to 5 (the opinion scores of AGIQA-3K).

    A picture needs 32 pixels a side. One of more than 4096 x 4096 pixels is
    averaged down first, one of more than 2^29 pixels (23,170 x 23,170; 2 GiB
    while it is read) is refused. What cannot be scored gets a row that says why.

    With --engine ray, all workers of Ray score, on this machine or on the cluster
    that RAY_ADDRESS names, and rows go into a folder of Parquet files meanwhile.
    The same command goes on where it was stopped: an image (by its path or
    address, and prompt) that has a score in the folder is not scored again.

    Exit status: 0 all images were scored, 1 some were not, 2 the command is
    wrong, 130 stopped by Ctrl-C (what was scored until then is written).
    """
    if samples and (images or prompt is not None or prompts):
        _fail('--samples brings its own images and prompts; leave out IMAGES, --prompt and --prompts.')
    if not samples and not images:
        _fail('name at least one image, folder or glob, or use --samples.')
    if prompt is not None and prompts:
        _fail('give either --prompt or --prompts.')
    if prompt is not None and not prompt.strip():
        _fail('--prompt is empty; leave it out to score without a prompt.')
    if engine not in ('local', 'ray'):
        _fail(f"--engine '{engine}' is not possible; possible are: local, ray.")
    if workers and engine == 'local':
        _fail('--workers is for --engine ray.')
    if batch_size < 1:
        _fail(f'--batch-size must be at least 1, not {batch_size}.')
    if weights and not weights.is_file():
        _fail(f"the weights '{weights}' are not a file.")
    if output and prompts and output.resolve() == prompts.resolve():
        _fail(f"--output '{output}' would overwrite the prompts; give it another name.")
    if engine == 'local':
        _check_writable('--output', output, OUTPUT_ENDINGS)
    elif output and (output.suffix.lower() in ('.csv', '.json') or output.is_file()):
        _fail(f"--output '{output}' must be a folder with --engine ray, which writes Parquet files into it.")
    elif output and not output.resolve().parent.is_dir():
        _fail(f"--output '{output}': there is no folder '{output.parent}'; create it first.")
    _check_writable('--sheet', sheet, ('.png',))

    if samples:
        rows = sample_rows()
    else:
        if sheet and any(os.path.abspath(name) == os.path.abspath(sheet) for name in images):
            _fail(f"--sheet '{sheet}' would overwrite one of the images; give it another name.")
        try:
            rows = find_images(images, leave_out=sheet)
        except ValueError as error:
            _fail(str(error))
        if not any(is_uri(row.path) or row.path.is_file() for row in rows if not row.error):
            reason = rows[0].error or ('is not a file.' if rows[0].path.exists() else 'does not exist.')
            _fail(f"there is nothing to score: '{rows[0].image}' {reason}")
        if (prompts or prompt is not None) and any(row.prompt is not None for row in rows):
            _fail('the table brings prompts of its own; leave out --prompt and --prompts.')
        if prompts:
            match_prompts(rows, prompts)
        elif prompt is not None:
            for row in rows:
                row.prompt = prompt

    interrupted = False
    start = time.monotonic()
    try:
        if engine == 'ray':
            _score_with_ray(rows, output, batch_size, device, weights, workers)
        else:
            metric = _checked_metric(device, weights)
            start = time.monotonic()
            with _progress(len(rows)) as advance:
                score_rows(metric, rows, batch_size, advance)
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.monotonic() - start

    done = [row for row in rows if row.done]
    failed = [row for row in done if row.error]
    if engine == 'ray':
        saved = output is not None
    else:
        with_prompt = any(row.prompt is not None for row in rows)
        saved = _save(output, done, with_prompt=with_prompt or prompts is not None, with_mos=samples)
    if not saved or len(done) <= TABLE_ROWS:
        print_table(done)
    elif failed:
        for row in failed[:10]:
            _say(f'{_shown(row.image)}: {row.error}')
        if len(failed) > 10:
            _say(f'... and {len(failed) - 10} more images with an error, see {output}.')
    if samples:
        print_correlation(done)
    _say(
        f'{len(done) - len(failed)} of {len(rows)} images scored in {seconds:.0f} s, {len(failed)} with an error'
        + (f'; {len(done)} rows written to {output}.' if saved else '.')
    )
    sheet_drawn = interrupted or sheet is None or _draw(sheet, done)
    if interrupted:
        _say(f'Stopped by Ctrl-C: {len(rows) - len(done)} images were not scored' + ('; no sheet drawn.' if sheet else '.'))
        raise typer.Exit(130)
    if failed or not sheet_drawn or (output and not saved) or len(done) < len(rows):
        raise typer.Exit(1)


def find_images(arguments: list[str], *, leave_out: Path | None = None) -> list[Row]:
    """One row a picture, each file once, in the order of the arguments; an argument without one gets a row too.

    Args:
        arguments: files, folders, globs, addresses, and tables of images. Hidden files and folders inside of a folder are
            passed over.
        leave_out: the sheet that is about to be drawn, which an earlier run may have put between the pictures.

    Raises:
        ValueError: a table cannot be used.
    """
    rows, seen, other_files = [], set(), 0

    def add(path: str, error: str = '', prompt: str | None = None) -> None:
        address = is_uri(path)
        if (key := (path if address else os.path.abspath(path), prompt)) not in seen:
            seen.add(key)
            rows.append(Row(path, path if address else Path(path), prompt, error=error))

    def add_address(address: str) -> int:
        from align_iqa_plugin.data.images import ENDINGS

        try:
            files = list_uri(address)
        except OSError as error:
            files = []
            add(address, f'cannot be listed: {" ".join(str(error).split())}')
        pictures = [file for file in files if file == address or Path(file).suffix.lower() in ENDINGS]
        for file in pictures:
            add(file)
        if files and not pictures:
            add(address, 'is a folder without a picture.')
        return len(files) - len(pictures)

    def add_folder(folder: str) -> int:
        from align_iqa_plugin.data.images import ENDINGS

        number, left_out = 0, 0
        for parent, folders, files in os.walk(
            folder, onerror=lambda error: add(error.filename, f'cannot be listed: {error.strerror}.')
        ):
            folders[:] = sorted(name for name in folders if not name.startswith('.'))
            for name in sorted(name for name in files if not name.startswith('.')):
                if leave_out and os.path.abspath(os.path.join(parent, name)) == os.path.abspath(leave_out):
                    _say(f"'{leave_out}' is left out of the images: the sheet is drawn there.")
                elif Path(name).suffix.lower() in ENDINGS:
                    add(os.path.join(parent, name))
                    number += 1
                else:
                    left_out += 1
        if not number:
            add(folder, 'is a folder without a picture.')
        return left_out

    for argument in arguments:
        if argument.lower().endswith(TABLE_ENDINGS) and (is_uri(argument) or os.path.isfile(argument)):
            for image, prompt in read_image_table(argument):
                add(image, prompt=prompt)
            continue
        if is_uri(argument):
            other_files += add_address(argument)
            continue
        path = os.path.expanduser(argument)
        # A file whose name looks like a glob is still a file.
        matches = [path] if os.path.exists(path) or not glob.has_magic(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            add(path, 'matches no file.')
        for match in matches:
            if os.path.isdir(match):
                other_files += add_folder(match)
            else:
                add(match)
    if other_files:
        _say(f"{other_files} files in the folders were left out: their names do not end like a picture's.")
    return rows


def sample_rows() -> list[Row]:
    """The sample images of this package, with their prompts and quality MOS."""
    with open(SAMPLES / 'samples.csv', encoding='utf-8', newline='') as file:
        return [
            Row(line['name'], SAMPLES / line['name'], line['prompt'], float(line['mos_quality']))
            for line in csv.DictReader(file)
        ]


def match_prompts(rows: list[Row], file: Path) -> None:
    """Give each row its prompt from a CSV; a row without exactly one prompt gets an error.

    A name in the CSV fits the images whose path ends with it, folder by folder: ``b.png`` and ``a/b.png`` both fit
    ``x/a/b.png``, and the longer one wins. A name that fits two images of the list is ambiguous for both.
    """
    prompts_of = _read_prompts(file)
    images_of = {}
    for row in rows:
        path = row.path if is_uri(row.path) else Path(os.path.abspath(row.path)).as_posix()
        parts = PurePosixPath(path).parts
        endings = (parts[start:] for start in range(len(parts)))
        name = next((ending for ending in endings if ending in prompts_of), None)
        if name is not None:
            images_of.setdefault(name, []).append(row)
        elif not row.error:
            row.error = f"has no prompt: no name in '{file}' fits it."
    for name, fitting in images_of.items():
        shown = '/'.join(name)
        for row in fitting:
            prompts = sorted(prompts_of[name])
            if row.error:
                continue
            elif len(fitting) > 1:
                row.error = (
                    f"has no clear prompt: '{shown}' in '{file}' fits {len(fitting)} of the images; "
                    'write it with its folder there.'
                )
            elif len(prompts) > 1:
                row.error = f"has no clear prompt: '{shown}' stands in '{file}' with {len(prompts)} different ones."
            elif not prompts[0].strip():
                row.error = f"has no prompt: '{shown}' stands in '{file}' with an empty one."
            else:
                row.prompt = prompts[0]
    unused = ['/'.join(name) for name in prompts_of if name not in images_of]
    if unused:
        shown = ', '.join(unused[:3]) + (', ...' if len(unused) > 3 else '')
        _say(f"{len(unused)} names in '{file}' fit none of the images: {_shown(shown)}")


def _read_prompts(file: Path) -> dict[tuple[str, ...], set[str]]:
    prompts_of = {}
    try:
        with open(file, encoding='utf-8-sig', newline='') as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = reader.fieldnames or []
            name = 'image' if 'image' in columns else 'name'
            if name not in columns or 'prompt' not in columns:
                found = ', '.join(columns) or 'none'
                _fail(f"'{file}' needs the columns image (or name) and prompt; it has: {found}.")
            for line in reader:
                if None in line or None in line.values():
                    _fail(f"line {reader.line_num} of '{file}' does not have {len(columns)} fields; quote its commas.")
                # '../images/a.png' is written from the folder of the CSV: what comes after the dots is what can match.
                parts = PurePosixPath(line[name].strip().replace('\\', '/')).parts
                parts = tuple(part for part in parts if part != '..')
                if not parts:
                    _fail(f"line {reader.line_num} of '{file}' names no image.")
                prompts_of.setdefault(parts, set()).add(line['prompt'])
    except OSError as error:
        _fail(f"the prompts '{file}' cannot be read: {error.strerror}.")
    except (csv.Error, UnicodeDecodeError) as error:
        _fail(f"the prompts '{file}' are not a CSV in UTF-8: {error}.")
    return prompts_of


def load_metric(device, weights: Path | None):
    """The metric in pyiqa, ``metric(batch (n, 3, h, w) in [0, 1], caption_list=n prompts or None)`` gives (n, 1)."""
    import pyiqa

    if weights is None:
        return pyiqa.create_metric('align_iqa', device=device)
    return pyiqa.create_metric('align_iqa', device=device, pretrained_model_path=str(weights))


def _checked_metric(device: str | None, weights: Path | None):
    try:
        chosen = usable_device(device)
    except ValueError as error:
        _fail(str(error))
    try:
        return load_metric(chosen, weights)
    # Whatever stands in the way of the network (missing or foreign weights, no memory) is not an image's problem.
    except Exception as error:
        _fail(f'the network cannot be loaded: {reason_of(error)}')


def score_rows(metric, rows: list[Row], batch_size: int, advance: Callable[[], None]) -> None:
    """Give each row its score or its error, in batches of one size; `advance` is called for each."""
    for batch in batches(rows, batch_size, advance):
        # the network is given prompts for all images of a batch, or for none
        for part in (
            [each for each in batch if each[0].prompt is None],
            [each for each in batch if each[0].prompt is not None],
        ):
            if part:
                prompts = None if part[0][0].prompt is None else [row.prompt for row, _ in part]
                results = score_batch(metric, [picture for _, picture in part], prompts)
                for (row, _), result in zip(part, results, strict=True):
                    row.score, row.error = result
                    advance()


class RayScorer:
    """What each worker of Ray makes once: fields of `Row` in, score, width, height and error out."""

    def __init__(self, device: str, weights: str | None, batch_size: int):
        self.metric = load_metric(usable_device(device), weights and Path(weights))
        self.batch_size = batch_size

    def __call__(self, rows: list[dict]) -> list[list]:
        rows = [Row(**row) for row in rows]
        score_rows(self.metric, rows, self.batch_size, lambda: None)
        return [[row.score, row.width, row.height, row.error] for row in rows]


def _score_with_ray(
    rows: list[Row], output: Path | None, batch_size: int, device: str | None, weights: Path | None, workers: int | None
) -> None:
    """Score the rows that the folder lacks, and put them there while they come; the others are taken from it."""
    from align_iqa_plugin.runtime.ray_workers import RayError, RayUnavailable, ray_workers

    try:
        with ray_workers(workers, device) as team, _score_folder(output, weights) as folder, _progress(len(rows)) as advance:
            finished, pending = [], []
            earlier = folder.read_scored(_place(row) for row in rows) if folder else {}
            for row in rows:
                if row.error:
                    finished.append(row)
                elif found := earlier.get((_place(row), _valid(row.prompt))):
                    row.score, row.width, row.height = found['score'], found['width'], found['height']
                else:
                    pending.append(row)
                    continue
                advance()
            try:
                _score_pending(team, pending, finished, folder, batch_size, weights, advance)
            except (RayError, OSError) as error:
                _say(f'Stopped: {error} What was scored is kept, and the same command goes on from there.')
    except RayUnavailable as error:
        _fail(str(error))


def _score_pending(team, pending, finished, folder, batch_size, weights, advance) -> None:
    from align_iqa_plugin.runtime.ray_workers import DIED

    def save():
        if folder:
            folder.add([{**vars(row), 'image': _place(row), 'prompt': _valid(row.prompt)} for row in finished])
        finished.clear()

    arguments = {'device': team.device, 'weights': weights and str(weights.resolve()), 'batch_size': batch_size}
    items = [{'image': row.image, 'path': _path(row), 'prompt': row.prompt} for row in pending]
    saved = time.monotonic()
    try:
        for results in team.map(RayScorer, arguments, items, 4 * batch_size):
            for number, result in results:
                row = pending[number]
                row.score, row.width, row.height, row.error = result or (None, None, None, DIED)
                finished.append(row)
                advance()
            if len(finished) >= FILE_ROWS or time.monotonic() - saved > FILE_SECONDS:
                save()
                saved = time.monotonic()
    finally:
        save()


@contextmanager
def _score_folder(output: Path | None, weights: Path | None):
    """The folder of the scores that these weights give; None without --output."""
    from align_iqa_plugin import __version__
    from align_iqa_plugin.runtime.hashes import weights_digest
    from align_iqa_plugin.score.score_folder import ScoreFolder

    # also without a folder: what is wrong with the weights is said before any worker fails
    digest = weights_digest(_checked_metric('cpu', weights).net)
    if output is None:
        yield None
        return
    try:
        folder = ScoreFolder(output, f'align-iqa-plugin {__version__}, weights {digest}')
    except ValueError as error:
        _fail(str(error))
    with closing(folder):
        yield folder


def _path(row: Row) -> str:
    return row.path if is_uri(row.path) else os.path.abspath(row.path)


def _place(row: Row) -> str:
    """What a row's image is called in a folder of scores, wherever the command is given."""
    return _valid(_path(row))


def batches(rows: list[Row], batch_size: int, advance: Callable[[], None]) -> Iterator[list]:
    """Read the pictures and give them out in lists of (row, picture), all of one size, see `batches_of_one_size`.

    The row of a picture that cannot be read gets its error here.
    """
    from align_iqa_plugin.archs.align_iqa_arch import MINIMUM_SIDE
    from align_iqa_plugin.data.images import ImageError, batches_of_one_size, read_image

    def readable():
        for row in rows:
            if not row.error:
                try:
                    picture = read_image(row.path)
                    row.width, row.height = picture.info['full_size']
                    if min(picture.size) < MINIMUM_SIDE:
                        row.error = _too_small(picture, MINIMUM_SIDE)
                except ImageError as error:
                    row.error = str(error).removeprefix(f"'{row.path}' ")
            if row.error:
                advance()
            else:
                yield picture.size, (row, picture)

    return batches_of_one_size(readable(), batch_size)


def _too_small(picture, minimum_side: int) -> str:
    size = '{:,} x {:,}'.format(*picture.info['full_size'])
    if picture.size != picture.info['full_size']:
        size += ', which is averaged down to {:,} x {:,}'.format(*picture.size)
    return f'is {size} pixels; the network needs at least {minimum_side} on each side.'


def score_batch(metric, pictures: list, prompts: list[str] | None) -> list[tuple[float | None, str]]:
    """(score, error) of each picture; where the batch fails, its pictures are tried one by one."""
    import numpy as np
    import torch

    try:
        batch = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])
        scores = metric(batch / 255, caption_list=prompts).flatten().tolist()
        if len(scores) != len(pictures):
            raise ValueError(f'{len(scores)} scores for {len(pictures)} images')
        return [(value, '') if isfinite(value) else (None, f'got the score {value}.') for value in scores]
    # Out of memory or anything else: the reason goes into the rows, the other images go on.
    except Exception as error:
        reason = f'made the network fail: {reason_of(error)}'
    # Out here the exception, and with it the memory of the batch, is gone.
    if len(pictures) == 1:
        return [(None, reason)]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [
        score_batch(metric, [picture], None if prompts is None else [prompts[number]])[0]
        for number, picture in enumerate(pictures)
    ]


def write_rows(file: Path, rows: list[Row], *, with_prompt: bool, with_mos: bool) -> None:
    """All rows as .csv, .json or .parquet; the file is there complete or not at all."""
    columns = ['image', 'score', *['mos'] * with_mos, *['prompt'] * with_prompt, 'width', 'height', 'error']
    records = [{column: _valid(getattr(row, column)) for column in columns} for row in rows]
    with _replacing(file) as unfinished:
        if file.suffix.lower() == '.parquet':
            import pyarrow
            from pyarrow import parquet

            kinds = {'score': pyarrow.float64(), 'mos': pyarrow.float64(), 'width': pyarrow.int64()}
            kinds['height'] = kinds['width']
            schema = pyarrow.schema([(column, kinds.get(column, pyarrow.string())) for column in columns])
            parquet.write_table(pyarrow.Table.from_pylist(records, schema), unfinished)
        elif file.suffix.lower() == '.json':
            text = json.dumps(records, allow_nan=False, ensure_ascii=False, indent=1)
            unfinished.write_text(text + '\n', encoding='utf-8')
        else:
            with open(unfinished, 'w', encoding='utf-8', newline='') as opened:
                writer = csv.DictWriter(opened, columns, lineterminator='\n')
                writer.writeheader()
                writer.writerows(records)


def _valid(value):
    """A file's name need not be valid UTF-8, but what is written must be."""
    return value.encode('utf-8', 'backslashreplace').decode() if isinstance(value, str) else value


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; it becomes `file` when all went well, and is removed otherwise."""
    file = file.resolve()
    unfinished = file.with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_writable(option: str, file: Path | None, endings: tuple[str, ...]) -> None:
    if file is None:
        return
    if file.suffix.lower() not in endings:
        _fail(f"{option} '{file}' must end in {' or '.join(endings)}.")
    if file.is_dir():
        _fail(f"{option} '{file}' is a folder.")
    if not file.resolve().parent.is_dir():
        _fail(f"{option} '{file}': there is no folder '{file.parent}'; create it first.")
    if file.suffix.lower() == '.parquet' and find_spec('pyarrow') is None:
        _fail(f"{option} '{file}' needs the package pyarrow; install it, or choose .csv or .json.")
    trial = file.resolve().with_name(f'.{file.name}.{os.getpid()}.part')
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        _fail(f"{option} '{file}' cannot be written: {error.strerror}.")


def _save(output: Path | None, rows: list[Row], *, with_prompt: bool, with_mos: bool) -> bool:
    if output is None:
        return False
    try:
        write_rows(output, rows, with_prompt=with_prompt, with_mos=with_mos)
        return True
    except OSError as error:
        _say(f"'{output}' could not be written: {error.strerror or error}; the rows are printed instead.")
        return False


def print_table(rows: list[Row]) -> None:
    """The rows as a table on stdout, in full: nothing is cut off where no terminal limits the width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = {
        'image': lambda row: _shown(row.image),
        'score': lambda row: '' if row.score is None else f'{row.score:.4f}',
        'mos': lambda row: '' if row.mos is None else f'{row.mos:.4f}',
        'prompt': lambda row: _shown(row.prompt or ''),
        'size': lambda row: '' if row.width is None else f'{row.width} x {row.height}',
        'error': lambda row: _shown(row.error),
    }
    table = Table()
    shown = {name: cell for name, cell in columns.items() if name in ('image', 'score') or any(map(cell, rows))}
    for name in shown:
        numeric = name in ('score', 'mos', 'size')
        table.add_column(name, overflow='fold', justify='right' if numeric else 'left', no_wrap=numeric)
    for row in rows:
        # Text: file names and prompts may hold what rich takes for markup
        table.add_row(*(Text(cell(row), style='red' if name == 'error' else '') for name, cell in shown.items()))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def print_correlation(rows: list[Row]) -> None:
    """The rank correlation between score and MOS, on stdout."""
    from scipy.stats import spearmanr

    pairs = [(row.score, row.mos) for row in rows if row.score is not None]
    if len({value for value, _ in pairs}) < 2:
        typer.echo('Rank correlation (SRCC) between score and MOS: not defined without two different scores.')
        return
    correlation = spearmanr(*zip(*pairs, strict=True)).statistic
    typer.echo(f'Rank correlation (SRCC) between score and MOS: {correlation:.3f} over {len(pairs)} images.')


def _draw(sheet: Path, rows: list[Row]) -> bool:
    from align_iqa_plugin.score.contact_sheet import MAX_TILES, Tile, draw_sheet

    scored = sorted((row for row in rows if row.score is not None), key=lambda row: -row.score)
    if not scored:
        _say('No sheet was drawn: no image has a score.')
        return False
    tiles = [Tile(row.path, row.image, row.score, row.mos, row.prompt) for row in scored]
    try:
        with _replacing(sheet) as unfinished:
            draw_sheet(tiles, without_score=len(rows) - len(scored)).save(unfinished, format='PNG')
    except OSError as error:
        _say(f"'{sheet}' could not be written: {error.strerror or error}.")
        return False
    _say(f'Sheet drawn: {sheet}' + (f' ({MAX_TILES} of {len(tiles)} images).' if len(tiles) > MAX_TILES else '.'))
    return True


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn('Scoring'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task('', total=total)
        yield lambda: progress.advance(task)


def _shown(text: str) -> str:
    """Without line breaks, and without the codes by which a file's name could steer the terminal."""
    return ''.join(letter if letter.isprintable() else '\N{REPLACEMENT CHARACTER}' for letter in text)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
