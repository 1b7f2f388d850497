"""`align-iqa compare`: metrics of pyiqa on the same images, beside each other."""

import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from align_iqa_plugin.cli.errors import fail, stop

_fail = partial(fail, 'compare')
SAMPLES = 'samples'  # what the sample images are called as a data set
PACKAGES = ('align-iqa-plugin', 'pyiqa', 'torch', 'torchvision', 'timm', 'transformers', 'numpy', 'scipy', 'pillow')


class ManyValues(TyperCommand):
    """A command whose options -m and -d take several values each, as those of pyiqa's own scripts do."""

    def parse_args(self, context, arguments):
        expanded, option, values = [], None, 0
        for argument in arguments:
            if argument.startswith('-') and argument != '-':
                option, values = argument, 0
            elif option in ('-m', '--metrics', '-d', '--datasets'):
                values += 1
                if values > 1:
                    expanded.append(option)
            expanded.append(argument)
        return super().parse_args(context, expanded)


def compare(
    metrics: Annotated[
        list[str], typer.Option('-m', '--metrics', help='No-reference metrics of pyiqa, or all.', show_default=False)
    ] = (),
    datasets: Annotated[
        list[str],
        typer.Option('-d', '--datasets', help='Releases (agiqa3k ...), data sets of pyiqa, or tables.', show_default=False),
    ] = (),
    out: Annotated[
        Path | None, typer.Option(help='Folder for scores.sqlite, which is continued where there is one, and the results.')
    ] = None,
    samples: Annotated[bool, typer.Option('--samples', help='Compare on the sample images of this package.')] = False,
    data: Annotated[Path | None, typer.Option(help='Folder of the data sets.', show_default='./datasets, as in pyiqa')] = None,
    data_opt: Annotated[
        Path | None, typer.Option('--data_opt', help="Data sets in pyiqa's form (YAML); all in it are compared on.")
    ] = None,
    metric_opt: Annotated[
        Path | None, typer.Option('--metric_opt', help="Metrics in pyiqa's form (YAML); all in it are compared.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help='A split of the data, by its number or column; with --phase.', show_default='all images')
    ] = None,
    phase: Annotated[str | None, typer.Option(help='train, val or test.', show_default='test')] = None,
    device: Annotated[
        str | None, typer.Option(help='cpu, cuda, cuda:1, ...', show_default='cuda where there is one, else cpu')
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help='Most images of one size that a metric is given together.')] = 16,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help='Processes that decode images; with --engine ray, that score.',
            show_default='2; with --engine ray one for each GPU, else for each CPU core',
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help='local, or ray for many GPUs or machines.')] = 'local',
    seed: Annotated[int, typer.Option(min=0, help='Of the shuffled prompts and the resamples.')] = 123,
    resamples: Annotated[int, typer.Option(min=2, help='Of the images, for the intervals.')] = 1000,
) -> None:
    """Score images with several metrics and compare how well they agree with opinions.

    Every score goes at once into DIR/scores.sqlite, and is not computed again: a stopped command goes on where it was when it
    is given again, and several may fill one folder. An image that cannot be scored gets a row that says why. A metric whose
    weights are missing is left out, with what to download. With --engine ray, scoring runs in all workers of Ray, on this
    machine or on the cluster that RAY_ADDRESS names.

    Exit status: 0 all images were scored by all metrics, 1 some were not, 2 the command is wrong, 130 stopped by Ctrl-C (what
    was scored until then is kept).
    """
    if out is None:
        _fail('give --out, the folder for the results.')
    if not metrics and not metric_opt:
        _fail('name at least one metric with -m, or -m all.')
    if not datasets and not data_opt and not samples:
        _fail('name at least one data set with -d or --data_opt, or use --samples.')
    if phase is not None and phase not in ('train', 'val', 'test'):
        _fail(f"--phase '{phase}' is not possible; possible are: train, val, test.")
    if engine not in ('local', 'ray'):
        _fail(f"--engine '{engine}' is not possible; possible are: local, ray.")
    if engine == 'ray' and workers == 0:
        _fail('--workers 0 is not possible with --engine ray, where they score.')

    from align_iqa_plugin.compare.metrics import add_metrics, metric_names
    from align_iqa_plugin.compare.store import Store, StoreError
    from align_iqa_plugin.runtime.devices import usable_device
    from align_iqa_plugin.runtime.ray_workers import RayError, RayUnavailable, ray_workers

    try:
        # with Ray, metrics are loaded in this process only to see whether they can be, and what their scores depend on
        chosen = usable_device(device if engine == 'local' else 'cpu')
        names = metric_names([*metrics, *(add_metrics(metric_opt) if metric_opt else [])])
        tables = _read_tables(datasets, data_opt, data, samples, split, phase, seed)
        out.mkdir(parents=True, exist_ok=True)
        store = Store(out / 'scores.sqlite')
    except (ValueError, OSError, StoreError) as error:
        _fail(str(error))

    try:
        with store, ray_workers(workers, device) if engine == 'ray' else nullcontext() as team:
            for name, images in tables.items():
                store.put_images(name, images)
            _score(store, list(tables), names, chosen, batch_size, 2 if workers is None else workers, team)
            scores, costs = store.score_table(), store.metric_table()
    except RayUnavailable as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _say('Stopped by Ctrl-C: what was scored is kept, and the same command goes on from there.')
        raise typer.Exit(130) from None
    except (StoreError, RayError) as error:
        stop('compare', 1, f'{error} What was scored is kept, and the same command goes on from there.')

    from align_iqa_plugin.runtime.atomic import atomic_write

    scores.to_parquet(out / 'scores.parquet', index=False)
    atomic_write(out / 'scores.csv', scores.to_csv(index=False, lineterminator='\n').encode('utf-8', 'backslashreplace'))
    failed = int((scores['reason'] != '').sum())
    missing = costs.loc[~costs['available'], 'metric'].tolist()
    if scores['score'].notna().any():
        from align_iqa_plugin.compare import statistics
        from align_iqa_plugin.compare.report import page

        summary = statistics.summarise(scores, seed=seed, resamples=resamples)
        page.write_page(
            out, summary, scores, costs, _provenance(_hardware(chosen, team), seed, resamples, tables, split, phase)
        )
        _print_leaderboard(summary, costs)
    _say(
        f'{len(scores) - failed} of {len(scores)} scores are in {out}, {failed} failed'
        + (f'; metrics that could not be loaded: {", ".join(missing)}.' if missing else '.')
    )
    if failed or missing or not len(scores):
        raise typer.Exit(1)


def _read_tables(datasets, data_opt, root, samples, split, phase, seed) -> dict[str, list]:
    """The images of each data set, by its name."""
    from align_iqa_plugin.compare.datasets import dataset_options, read_dataset, sample_images, with_other_prompts
    from align_iqa_plugin.compare.metrics import read_yaml

    sections = read_yaml(data_opt) if data_opt else {}
    tables = {SAMPLES: sample_images()} if samples else {}
    for name in dict.fromkeys([*datasets, *sections]):
        options = dataset_options(name, sections, root)
        tables[Path(name).stem] = read_dataset(options, split=split, phase=phase)
    return {name: with_other_prompts(images, seed=seed) for name, images in tables.items()}


def _score(store, datasets: list[str], names: list[str], device, batch_size: int, workers: int, team) -> None:
    from align_iqa_plugin.compare.metrics import Metric, MetricUnavailable
    from align_iqa_plugin.compare.ray_scoring import score_with_ray
    from align_iqa_plugin.compare.scoring import PeakMemory, Scorer

    waiting, deferred = deque(names), set()
    with _progress(len(names)) as show:
        while waiting:
            name = waiting.popleft()
            memory = PeakMemory(device)
            show(name, 'is loaded')
            try:
                metric = Metric(name, device)
            except MetricUnavailable as error:
                store.put_unavailable(name, str(error))
                _say(f'{name} {error}')
                show(name, done=True)
                continue
            # another process that scores with this metric is waited for last
            with store.claim(metric.configuration, wait=name in deferred) as claimed:
                if not claimed:
                    deferred.add(name)
                    waiting.append(name)
                    continue
                store.put_metric(metric.configuration, team.device if team else str(device))
                for dataset in datasets:
                    store.put_comparison(dataset, name)
                if team:
                    score_with_ray(team, store, datasets, metric.configuration, batch_size, partial(show, name))
                else:
                    scorer = Scorer(metric, store, batch_size=batch_size, workers=workers, memory=memory)
                    for dataset in datasets:
                        count = len(store.pending(dataset, metric.configuration))
                        scorer.score(dataset, show(name, f'on {dataset}', count))
                    del scorer
            show(name, done=True)
            del metric


@contextmanager
def _progress(total: int) -> Iterator:
    """Gives ``show(metric, what, images)``, which gives the function that counts images; on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        overall, current = progress.add_task('metrics', total=total), progress.add_task('', total=None)

        def show(metric: str, what: str = '', images: int | None = None, *, done: bool = False):
            if done:
                progress.advance(overall)
            progress.reset(current, description=f'{metric} {what}', total=images)
            return lambda count: progress.advance(current, count)

        yield show


def _print_leaderboard(summary: dict, costs) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    seconds = dict(zip(costs['metric'], costs['seconds'], strict=True))
    for name, dataset in summary['datasets'].items():
        table = Table(box=box.SIMPLE, title=f'{name}: correlations with opinions of {dataset["n"]} images')
        for column in ('metric', 'SRCC', '95 % interval', 'PLCC', 'images', 'failed', 'time/image'):
            table.add_column(column, justify='left' if column == 'metric' else 'right', no_wrap=True)
        for metric, figures in sorted(dataset['metrics'].items(), key=lambda item: item[1]['rank']):
            srcc = figures['srcc']
            table.add_row(
                metric,
                _number(srcc['value']),
                f'{_number(srcc["low"])} to {_number(srcc["high"])}',
                _number(figures['plcc']['value']),
                str(figures['n']),
                str(figures['failures']),
                '' if seconds[metric] != seconds[metric] else f'{seconds[metric] * 1000:.1f} ms',
            )
        Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def _hardware(device, team) -> str:
    import torch

    from align_iqa_plugin.runtime.devices import processor_name

    if team:
        return f'{team.number} workers of Ray on {"GPUs" if team.device == "cuda" else "CPU cores"}'
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else processor_name()


def _provenance(hardware, seed, resamples, tables, split, phase) -> dict:
    """What the results were made with, as plain data."""
    import hashlib
    import platform
    from datetime import datetime

    def digest(images):
        return hashlib.sha256(json.dumps([[each.sha256, each.prompt, each.mos] for each in images]).encode()).hexdigest()

    return {
        'command': ['align-iqa', *sys.argv[1:]],
        'finished': datetime.now().astimezone().isoformat(timespec='seconds'),
        'packages': {name: version(name) for name in PACKAGES},
        'python': platform.python_version(),
        'platform': platform.platform(),
        'hardware': hardware,
        'seed': seed,
        'resamples': resamples,
        'datasets': {
            name: {'images': len(images), 'split': split or '', 'phase': phase or '', 'labels_sha256': digest(images)}
            for name, images in tables.items()
        },
    }


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
