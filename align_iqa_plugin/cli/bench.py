"""`align-iqa bench`: what Align-IQA costs beside its bare backbone, or beside other metrics."""

from typing import Annotated

import typer


def bench(
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=1, help='Timed runs of each; the median counts.')] = 5,
    device: Annotated[str | None, typer.Option(help='cpu, cuda ...; the GPU if there is one.')] = None,
    metrics: Annotated[
        bool, typer.Option('--metrics', help='Other metrics of pyiqa instead, on one image of 512 x 512.')
    ] = False,
) -> None:
    """Forward time, peak memory and trained parameters against timm's bare ViT; a training step against full fine-tuning.

    With --metrics: an image of 512 x 512 pixels by `align_iqa` and by networks of pyiqa, without their trained weights, since
    speed does not depend on them. Some of them load a pretrained backbone all the same, and download it if need be.

    Times are taken in turns with those that they are compared to, so that whatever else the machine does slows down both.
    """
    from rich import box
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from align_iqa_plugin.cli.errors import fail
    from align_iqa_plugin.evaluation import cost
    from align_iqa_plugin.runtime.devices import usable_device

    try:
        device = str(usable_device(device))
    except ValueError as error:
        fail('bench', str(error))
    batch = 'one image' if metrics else f'batch {batch_size}'
    table = Table(box=box.SIMPLE, title=f'{batch}, median of {repeats}, ratio to the first of its kind')
    for column in ('', 'time', 'ratio', 'memory', 'ratio', 'parameters' if metrics else 'trained'):
        table.add_column(column, justify='left' if not column else 'right', no_wrap=True)
    cases = cost.METRIC_CASES if metrics else cost.CASES
    costs = cost.measure(cases, batch_size=batch_size, repeats=repeats, device=device)
    problems = []
    console = Console(stderr=True)
    for each in track(costs, 'Measuring', console=console, transient=True, disable=not console.is_terminal):
        if isinstance(each, cost.CaseError):
            problems.append(each)
            continue
        figures = f'{each.seconds:.3f} s', f'{each.time_ratio:.2f}', f'{each.megabytes:.0f} MB', f'{each.memory_ratio:.2f}'
        table.add_row(each.case, *figures, f'{each.parameters / 1e6:.2f} M')
    if table.row_count:
        Console().print(table)
    for problem in problems:
        typer.echo(f'align-iqa bench: {problem}', err=True)
    if problems:
        raise typer.Exit(1)
