"""`align-iqa evaluate`: correlations of the metric with the MOS of one split of a data set."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.columns import GeneratorColumn, ImageColumn, PromptColumn, ScoreColumn
from align_iqa_plugin.cli.errors import fail, say, stop
from align_iqa_plugin.runtime.files import PACKAGED_NAMES

BATCH_SIZE = 16


def evaluate(
    data: Annotated[Path, typer.Argument(help='Folder of the data set (with data.csv), or its table.')],
    split: Annotated[
        str,
        typer.Option(
            help='Number of the prompt-disjoint split (the packaged model was fitted to the training images of 1), or the name '
            'of any split: align-iqa data prepare lists them.'
        ),
    ] = '1',
    phase: Annotated[str, typer.Option(help='train, val or test.')] = 'test',
    weights: Annotated[Path | None, typer.Option(help='A checkpoint of your own instead of the packaged model.')] = None,
    option: Annotated[
        Path | None,
        typer.Option('--opt', help='The training file of the checkpoint: its network, and the columns of its data.'),
    ] = None,
    device: Annotated[str | None, typer.Option(help='cpu, cuda, cuda:1 ...; the GPU if there is one.')] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help='Images that go through the network together; one by one where their sizes differ.',
            show_default=f'that of --opt, else {BATCH_SIZE}',
        ),
    ] = None,
    image_column: ImageColumn = None,
    score_column: ScoreColumn = None,
    prompt_column: PromptColumn = None,
    generator_column: GeneratorColumn = None,
    output: Annotated[Path | None, typer.Option(help='Also write the numbers and every score to this JSON file.')] = None,
) -> None:
    """Print SRCC, PLCC (raw, and after the 4-parameter logistic fit), KRCC, RMSE and the number of images."""
    from align_iqa_plugin.cli.outputs import check_output
    from align_iqa_plugin.data.releases import RELEASES
    from align_iqa_plugin.runtime.devices import usable_device
    from align_iqa_plugin.runtime.names import suggest

    is_folder = os.path.isdir(data)  # False for a name that is too long, where Path.is_dir raises
    tables = [data / table for release in RELEASES for table in release.tables] if is_folder else [data]
    try:
        check_output('--output', output, inputs=(*tables, weights, option))
        if phase not in (phases := ('train', 'val', 'test')):
            raise ValueError(f"--phase: unknown phase '{phase}'{suggest(phase, phases)}")
        chosen = usable_device(device)

        from align_iqa_plugin.archs.pretrained import create_align_iqa, load_align_iqa
        from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
        from align_iqa_plugin.data.splits import content_hashes
        from align_iqa_plugin.data.training_images import fitted_to
        from align_iqa_plugin.evaluation.correlation import correlations
        from align_iqa_plugin.evaluation.predict import predict
        from align_iqa_plugin.models.options import read_options
        from align_iqa_plugin.runtime.atomic import atomic_write

        options = {'datasets': {}, 'network': {}} if option is None else read_options(option)
        columns = {'image': image_column, 'score': score_column, 'prompt': prompt_column, 'generator': generator_column}
        named = {f'{kind}_column': name or None for kind, name in columns.items() if name is not None}
        section = options['datasets'].get('val', {}) | named
        dataset = AIGCIQADataset(
            section
            | {
                'name': data.name,
                'phase': phase,
                'meta_info_file': str(data),
                'dataroot_target': str(data if is_folder else data.parent),
                'split_index': int(split) if split.isdecimal() else split,
                'split_ratio': '712',
                'batch_size_per_gpu': 1,  # images of several sizes are no error here
                'check_images': True,
            }
        )
        if dataset.shares_batches:
            dataset.opt['batch_size_per_gpu'] = batch_size or section.get('batch_size_per_gpu', BATCH_SIZE)
        packaged = weights is None or str(weights) in PACKAGED_NAMES
        seen = fitted_to(content_hashes(dataset.paths)) if packaged else 0
        network = {key: value for key, value in options['network'].items() if key != 'type'}
        if weights is None:
            metric = create_align_iqa(**network | {'pretrained': True})
        else:
            network = {key: value for key, value in network.items() if key not in ('pretrained', 'pretrained_model_path')}
            metric = load_align_iqa(weights, '--weights', **network)
    except (ValueError, OSError, RuntimeError) as error:
        fail('evaluate', error)
    predicted = predict(metric, dataset, device=chosen, description=f'{data.name} {phase}')
    numbers = correlations(predicted.scores, predicted.mos)
    for name, value in numbers.items():
        text = 'no fit' if value is None else f'{value}' if name == 'n' else f'{value:.4f}'
        typer.echo(f'{name:<12}{text:>8}')
    if seen:
        say(f'NOTE: the packaged model was fitted to {seen:,} of these images, so the numbers are too high. See --split.')
    if output is not None:
        images = [
            {'image': Path(path).name, 'score': score, 'mos': mos}
            for path, score, mos in zip(predicted.paths, predicted.scores, predicted.mos, strict=True)
        ]
        content = {'split': split, 'phase': phase, **numbers, 'images': images}
        try:
            atomic_write(output, json.dumps(content, indent=1).encode())
        except OSError as error:
            stop('evaluate', 1, error)
