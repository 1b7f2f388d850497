"""`align-iqa bench`: what Align-IQA costs beside its bare backbone, and what `image_cache` saves, as ratios from one run."""

from typing import Annotated

import typer


def bench(
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=1, help='Timed runs of each; the median counts.')] = 5,
    device: Annotated[str | None, typer.Option(help='cpu, cuda ...; the GPU if there is one.')] = None,
) -> None:
    """Forward time, peak memory and trained parameters against timm's bare ViT; a training step against full fine-tuning;
    reading a batch of 512 x 512 JPEGs for the network, with `image_cache` against without.

    Each figure is measured in a process of its own, since the peak of a process never goes down.
    """
    import json
    import os
    import subprocess
    import sys

    from rich import box
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    figures = {}
    for case in track(CASES, description='Measuring', console=Console(stderr=True), transient=True):
        command = [sys.executable, '-m', __name__, case, str(batch_size), str(repeats), device or '']
        # every tensor in pages of its own, which go back to the system when it is freed: else the peak counts old ones
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'})
        if done.returncode:
            typer.echo(f'align-iqa bench: {case} failed: {done.stderr.strip().splitlines()[-1]}', err=True)
            raise typer.Exit(1)
        figures[case] = json.loads(done.stdout.splitlines()[-1])

    table = Table(box=box.SIMPLE, title=f'batch {batch_size}, median of {repeats}, ratio to the first of its kind')
    for column in ('', 'time', 'ratio', 'memory', 'ratio', 'trained'):
        table.add_column(column, justify='left' if not column else 'right', no_wrap=True)
    for number, (case, figure) in enumerate(figures.items()):
        base = figures[CASES[number - number % 2]]
        table.add_row(
            case,
            f'{figure["seconds"]:.3f} s',
            f'{figure["seconds"] / base["seconds"]:.2f}',
            f'{figure["megabytes"]:.0f} MB',
            f'{figure["megabytes"] / base["megabytes"]:.2f}',
            f'{figure["trained"] / 1e6:.2f} M' if 'trained' in figure else '',
        )
    Console().print(table)


CASES = (
    # in pairs, the first of which is what the second is measured against
    *('backbone, forward', 'align_iqa, forward'),
    *('backbone, fine-tuning step', 'align_iqa, training step'),
    *('reading, from JPEGs', 'reading, image_cache'),
)


def measure(case: str, batch_size: int, repeats: int, device: str) -> dict[str, float]:
    """Median seconds, and the megabytes that the case needs at most: its parameters, and what a run adds to them."""
    import gc
    import statistics
    import time
    from pathlib import Path

    import torch

    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    reading = case.startswith('reading')
    run, figures = _reading(case, batch_size) if reading else _network(case, batch_size, device)

    def resident(line: str) -> float:
        status = Path('/proc/self/status').read_text()
        return float(status.split(f'{line}:')[1].split()[0]) / 1e3

    gc.collect()
    if device == 'cpu' or reading:
        before = resident('VmRSS')
        Path('/proc/self/clear_refs').write_text('5')  # Linux: forget the peak so far
        run(), run()  # the first step makes the optimizer's state, which the second one holds from its start
        figures['megabytes'] += resident('VmHWM') - before
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(), run()
        figures['megabytes'] += (torch.cuda.max_memory_allocated() - before) / 1e6
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return figures | {'seconds': statistics.median(seconds)}


def _network(case, batch_size, device):
    import torch

    from align_iqa_plugin.align_iqa_arch import AlignIQA

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

    return run, {
        'megabytes': sum(p.numel() * p.element_size() for p in network.parameters()) / 1e6,
        'trained': sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def _reading(case, batch_size):
    """A batch as training gets it, in one process; both times up to images of the network's own size."""
    import tempfile

    import torch

    from align_iqa_plugin.aigc_dataset import AIGCIQADataset
    from align_iqa_plugin.cli.score import SAMPLES

    section = {'meta_info_file': str(SAMPLES / 'samples.csv'), 'score_column': 'mos_quality', 'input_size': 224}
    with tempfile.TemporaryDirectory() as folder:
        dataset = AIGCIQADataset(section | ({'image_cache': folder} if 'image_cache' in case else {}))
        dataset[0]  # maps the file of the cache, which may then be deleted

    def run():
        torch.stack([dataset[index % len(dataset)]['img'] for index in range(batch_size)])

    return run, {'megabytes': 0.0}


if __name__ == '__main__':
    import json
    import sys

    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
