"""`align-iqa bench`: what Align-IQA costs beside its bare backbone, as ratios from one run on one machine."""

from typing import Annotated

import typer


def bench(
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=1, help='Timed runs of each; the median counts.')] = 5,
    device: Annotated[str | None, typer.Option(help='cpu, cuda ...; the GPU if there is one.')] = None,
) -> None:
    """Forward time, peak memory and trained parameters against timm's bare ViT; a training step against full fine-tuning.

    Each figure is measured in a process of its own, since the peak of a process never goes down.
    """
    import json
    import subprocess
    import sys

    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    figures = {}
    for case in track(CASES, description='Measuring', console=Console(stderr=True), transient=True):
        command = [sys.executable, '-m', __name__, case, str(batch_size), str(repeats), device or '']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            typer.echo(f'align-iqa bench: {case} failed: {done.stderr.strip().splitlines()[-1]}', err=True)
            raise typer.Exit(1)
        figures[case] = json.loads(done.stdout.splitlines()[-1])

    table = Table(title=f'batch {batch_size}, median of {repeats}, ratio to the first of its kind')
    for column in ('', 'time', 'ratio', 'peak memory', 'ratio', 'trained parameters'):
        table.add_column(column, justify='left' if not column else 'right')
    for case, figure in figures.items():
        base = figures['backbone, forward' if 'forward' in case else 'backbone, full fine-tuning step']
        table.add_row(
            case,
            f'{figure["seconds"]:.2f} s',
            f'{figure["seconds"] / base["seconds"]:.2f}',
            f'{figure["megabytes"]:.0f} MB',
            f'{figure["megabytes"] / base["megabytes"]:.2f}',
            f'{figure["trained"] / 1e6:.2f} M',
        )
    Console().print(table)


CASES = ('backbone, forward', 'align_iqa, forward', 'backbone, full fine-tuning step', 'align_iqa, training step')


def measure(case: str, batch_size: int, repeats: int, device: str) -> dict[str, float]:
    """Median seconds, and the megabytes that the case needs at most beyond what the process held before."""
    import resource
    import statistics
    import time

    import torch

    from align_iqa_plugin.align_iqa_arch import AlignIQA

    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    train = 'step' in case
    network = AlignIQA(pretrained=True).to(device).train(train)
    if case.startswith('backbone'):
        network = network.backbone.vit.requires_grad_(train).train(train)
    optimizer = torch.optim.AdamW(network.parameters()) if train else None
    image = torch.rand(batch_size, 3, 224, 224, device=device)

    def run():
        with torch.set_grad_enabled(train):
            output = network(image)
        if train:
            optimizer.zero_grad()
            output.mean().backward()
            optimizer.step()
        if device != 'cpu':
            torch.cuda.synchronize()

    def peak():
        if device != 'cpu':
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kilobytes on Linux

    before = sum(p.numel() * p.element_size() for p in network.parameters()) / 1e6
    held = peak()
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {'seconds': statistics.median(seconds), 'megabytes': before + peak() - held, 'trained': trained}


if __name__ == '__main__':
    import json
    import sys

    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
