"""`align-iqa evaluate`: how well the metric agrees with the opinion scores of one split of a data set."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail

_fail = partial(fail, 'evaluate')


def evaluate(
    data: Annotated[Path, typer.Argument(help='Folder of the data set (with data.csv), or its CSV.')],
    split: Annotated[
        str,
        typer.Option(help='Number of the prompt-disjoint split, or the name of any split: align-iqa data prepare lists them.'),
    ] = '1',
    phase: Annotated[str, typer.Option(help='train, val or test.')] = 'test',
    weights: Annotated[Path | None, typer.Option(help='A checkpoint of your own instead of the packaged model.')] = None,
    option: Annotated[
        Path | None,
        typer.Option('--opt', help='The training file of the checkpoint: its network, and the columns of its data.'),
    ] = None,
    device: Annotated[str | None, typer.Option(help='cpu, cuda, cuda:1 ...; the GPU if there is one.')] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    output: Annotated[Path | None, typer.Option(help='Also write the numbers and every score to this JSON file.')] = None,
) -> None:
    """Print SRCC, PLCC (raw, and after the 4-parameter logistic fit), KRCC, RMSE and the number of images."""
    if phase not in ('train', 'val', 'test'):
        _fail(f"--phase '{phase}' is not possible; possible are: train, val, test.")
    import torch
    from rich.console import Console
    from rich.progress import track

    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
    from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
    from align_iqa_plugin.evaluation.correlation import correlations
    from align_iqa_plugin.models.options import read_options

    section, network = {}, {}
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        if option is not None:
            options = read_options(option)
            section = options['datasets'].get('val', {})
            network = {key: value for key, value in options['network'].items() if key != 'type'}
        section = section | {
            'name': data.name,
            'phase': phase,
            'meta_info_file': str(data),
            'dataroot_target': str(data if data.is_dir() else data.parent),
            'split_index': int(split) if split.isdecimal() else split,
            'split_ratio': '712',
            'batch_size_per_gpu': batch_size,
        }
        dataset = AIGCIQADataset(section)
        network |= {'pretrained_model_path': str(weights)} if weights else {'pretrained': True}
        metric = AlignIQA(**network).to(device).eval()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        _fail(str(error))
    scores, opinions, paths = [], [], []
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size)
    for batch in track(loader, description=f'{data.name} {phase}', console=Console(stderr=True)):
        with torch.no_grad():
            scores += metric(batch['img'].to(device), caption_list=batch['prompt'])[:, 0].tolist()
        opinions += batch['mos_label'].squeeze(1).tolist()
        paths += batch['img_path']
    numbers = correlations(scores, opinions)
    for name, value in numbers.items():
        typer.echo(f'{name:<12}' + ('no fit' if value is None else f'{value}' if name == 'n' else f'{value:.4f}').rjust(8))
    if output is not None:
        rows = [
            {'image': Path(path).name, 'score': score, 'mos': mos}
            for path, score, mos in zip(paths, scores, opinions, strict=True)
        ]
        output.write_text(json.dumps({'split': split, 'phase': phase, **numbers, 'images': rows}, indent=1))
