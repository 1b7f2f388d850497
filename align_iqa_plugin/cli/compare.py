"""`align-iqa compare`: metrics of pyiqa on the same images, beside each other."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.columns import GeneratorColumn, ImageColumn, PromptColumn, ScoreColumn
from align_iqa_plugin.cli.errors import fail, say, stop
from align_iqa_plugin.cli.many_values import SAMPLE
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.files import expand_home
from align_iqa_plugin.runtime.names import suggest


def compare(
    metrics: Annotated[
        list[str] | None, typer.Option('-m', '--metrics', help='No-reference metrics of pyiqa, or all.', show_default=False)
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option('-d', '--datasets', help='Releases (agiqa3k ...), data sets of pyiqa, or tables.', show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help='Folder for scores.sqlite, which is continued where there is one, and the results.')
    ] = None,
    samples: Annotated[bool, typer.Option('--samples', help='Compare on the sample images of this package.')] = False,
    data: Annotated[Path | None, typer.Option(help='Folder of the data sets.', show_default='./datasets, as in pyiqa')] = None,
    data_opt: Annotated[
        Path | None, typer.Option('--data-opt', '--data_opt', help="Data sets in pyiqa's form (YAML), all to be compared on.")
    ] = None,
    metric_opt: Annotated[
        Path | None, typer.Option('--metric-opt', '--metric_opt', help="Metrics in pyiqa's form (YAML), all to be compared.")
    ] = None,
    image_column: ImageColumn = None,
    score_column: ScoreColumn = None,
    prompt_column: PromptColumn = None,
    generator_column: GeneratorColumn = None,
    split: Annotated[
        str | None, typer.Option(help='A split of the data, by its number or column; with --phase.', show_default='all images')
    ] = None,
    phase: Annotated[str | None, typer.Option(help='train, val or test.', show_default='test')] = None,
    behaviour: Annotated[
        int | None,
        typer.Option(min=1, metavar='[N]', help=f'Also score degraded copies of N ({SAMPLE}) images of each data set.'),
    ] = None,
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
    seed: Annotated[int, typer.Option(min=0, help='Of the shuffled prompts, the resamples, the sample of --behaviour.')] = 123,
    resamples: Annotated[int, typer.Option(min=2, help='Of the images, for the intervals.')] = 1000,
) -> None:
    """Score images with several metrics and compare how well they correlate with mean opinion scores (MOS).

    Every score goes at once into DIR/scores.sqlite and is not computed again: to resume a stopped command, give it again;
    several commands may fill one folder. An image that cannot be scored gets a row that says why. A metric whose weights are
    missing is left out, with what to download. With --engine ray, all workers of Ray score, on this machine or on the cluster
    that RAY_ADDRESS names.

    Exit status: 0 all images were scored by all metrics, 1 some were not, 2 the command is wrong, 130 stopped by Ctrl-C (the
    scores until then are kept).
    """
    metrics, datasets = metrics or [], datasets or []
    if out is None:
        fail('compare', 'give --out, the folder for the results.')
    problems = {
        'name at least one metric with -m, or -m all.': not metrics and not metric_opt,
        'name at least one data set with -d or --data-opt, or use --samples.': not datasets and not data_opt and not samples,
        '--workers 0 needs --engine local: with --engine ray, the workers score.': engine == 'ray' and workers == 0,
    }
    for name, value, choices in (('phase', phase, ('train', 'val', 'test')), ('engine', engine, ('local', 'ray'))):
        problems[f"--{name}: unknown {name} '{value}'{suggest(value, choices)}"] = value not in (*choices, None)
    for sentence, found in problems.items():
        if found:
            fail('compare', sentence)

    from align_iqa_plugin.cli.compare_display import show_behaviour, show_leaderboard, show_progress
    from align_iqa_plugin.cli.outputs import check_output
    from align_iqa_plugin.compare.behaviour import behaviour_images
    from align_iqa_plugin.compare.metrics import add_metrics, metric_names
    from align_iqa_plugin.compare.run import Comparison, provenance_of, read_tables, write_results
    from align_iqa_plugin.compare.store import Store, StoreError
    from align_iqa_plugin.runtime.devices import usable_device
    from align_iqa_plugin.runtime.ray_workers import RayError, RayUnavailable, ray_workers

    try:
        check_output('--out', out := expand_home(out), folder=True)
        chosen = usable_device(device if engine == 'local' else 'cpu')
        names = metric_names([*metrics, *(add_metrics(metric_opt) if metric_opt else [])])
        columns = {'image': image_column, 'score': score_column, 'prompt': prompt_column, 'generator': generator_column}
        tables = read_tables(
            datasets, data_opt, root=data, samples=samples, columns=columns, split=split, phase=phase, seed=seed
        )
        out.mkdir(exist_ok=True)
        store = Store(out / 'scores.sqlite')
        store.check_images(tables)
    except (ValueError, OSError, StoreError) as error:
        fail('compare', error)

    wanted = {name: [*images, *behaviour_images(images, behaviour or 0, seed=seed)] for name, images in tables.items()}
    decoders = 2 if workers is None else workers
    try:
        with store, ray_workers(workers, device) if engine == 'ray' else nullcontext() as team:
            with show_progress(len(names)) as show:
                Comparison(store, wanted, chosen, batch_size, decoders, team, show, say).score(names)
            scores, copies, costs = store.score_table(), store.copy_table(), store.metric_table()
    except RayUnavailable as error:
        fail('compare', str(error))
    except KeyboardInterrupt:
        say('Stopped by Ctrl-C: the scores are kept. To resume, give the same command again.')
        raise typer.Exit(130) from None
    except (StoreError, RayError) as error:
        stop('compare', 1, f'{error} The scores are kept. To resume, give the same command again.')

    made = provenance_of(tables, device=chosen, team=team, seed=seed, resamples=resamples, split=split, phase=phase)
    try:
        summary = write_results(out, scores, copies, costs, made)
    except OSError as error:
        stop('compare', 1, f'{error.strerror or error}. The scores are kept. For the results, give the command again.')
    show_leaderboard(summary, costs, tables)
    show_behaviour(summary)
    reasons = [*scores['reason'], *copies.loc[copies['copy'] != 'original', 'reason']]
    failed = len(reasons) - reasons.count('')
    missing = costs.loc[~costs['available'], 'metric'].tolist()
    unloaded = f'; metrics that could not be loaded: {", ".join(missing)}.' if missing else '.'
    say(f'{len(reasons) - failed} of {counted(len(reasons), "score is", "scores are")} in {out}, {failed} failed{unloaded}')
    if failed or missing or not reasons:
        raise typer.Exit(1)
