"""`align-iqa bench`: what Align-IQA costs beside its bare backbone or other metrics, and what `image_cache` saves.

All as ratios from one run.
"""

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
    """Forward time, peak memory and trained parameters against timm's bare ViT; a training step against full fine-tuning;
    reading a batch of 512 x 512 JPEGs for the network, with `image_cache` against without.

    With --metrics: an image of 512 x 512 pixels by `align_iqa` and by networks of pyiqa, which have random weights, since speed
    does not depend on them; nothing is downloaded.

    Times are taken by turns with what they are compared with, so that whatever else the machine does falls on both; memory in
    a process for each case, since the peak of a process never goes down.
    """
    import json
    import os
    import subprocess
    import sys

    from rich import box
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from align_iqa_plugin.cli.errors import fail
    from align_iqa_plugin.runtime.devices import usable_device

    try:
        device = str(usable_device(device))
    except ValueError as error:
        fail('bench', str(error))
    # every tensor in pages of its own, which go back to the system when it is freed: else the peak counts old ones
    exact_memory = {'MALLOC_MMAP_THRESHOLD_': '65536'}

    def measured(what: str, *cases: str, **environment: str) -> dict:
        command = [sys.executable, '-m', __name__, what, str(batch_size), str(repeats), device, *cases]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        if done.returncode:
            told = done.stderr.strip() or f'its process ended with {done.returncode}'  # as one that is killed for its memory
            raise RuntimeError(f'{cases[-1]} failed: {told.splitlines()[-1]}')
        return json.loads(done.stdout.splitlines()[-1])

    batch = 'one image' if metrics else f'batch {batch_size}'
    table = Table(box=box.SIMPLE, title=f'{batch}, median of {repeats}, ratio to the first of its kind')
    for column in ('', 'time', 'ratio', 'memory', 'ratio', 'parameters' if metrics else 'trained'):
        table.add_column(column, justify='left' if not column else 'right', no_wrap=True)

    def add_row(case: str, seconds: float, time_ratio: float, memory: dict, memory_ratio: float) -> None:
        parameters = f'{memory["parameters"] / 1e6:.2f} M' if 'parameters' in memory else ''
        megabytes = f'{memory["megabytes"]:.0f} MB'
        table.add_row(case, f'{seconds:.3f} s', f'{time_ratio:.2f}', megabytes, f'{memory_ratio:.2f}', parameters)

    references: dict[str, dict] = {}
    failures = []
    pairs = METRIC_CASES if metrics else CASES
    for case, reference in track(pairs.items(), description='Measuring', console=Console(stderr=True), transient=True):
        try:
            seconds = measured('time', reference, case)
            memory = measured('memory', case, **exact_memory)
            if reference not in references:
                references[reference] = measured('memory', reference, **exact_memory)
                add_row(reference, seconds[reference], 1, references[reference], 1)
        except RuntimeError as error:
            failures.append(f'align-iqa bench: {error}')
            continue
        ratios = seconds[case] / seconds[reference], memory['megabytes'] / references[reference]['megabytes']
        add_row(case, seconds[case], ratios[0], memory, ratios[1])
    if references:
        Console().print(table)
    for failure in failures:
        typer.echo(failure, err=True)
    if failures:
        raise typer.Exit(1)


CASES = {  # and what each is measured against
    'align_iqa, forward': 'backbone, forward',
    'with CGI, forward': 'backbone, forward',
    'with CGI, training step': 'backbone, fine-tuning step',
    'reading, image_cache': 'reading, from JPEGs',
}
METRICS = 'topiq_nr', 'maniqa', 'hyperiqa', 'dbcnn', 'cnniqa', 'musiq', 'liqe', 'clipiqa', 'wadiqam_nr'
METRIC_CASES = {f'metric, {name}': 'metric, align_iqa' for name in METRICS}
# OpenAI's architectures that LIQE and CLIP-IQA build on, as arguments of pyiqa's CLIP class; numbers as in open_clip's model
# configurations RN50 and ViT-B-32
CLIP_TEXT = {
    'context_length': 77,
    'vocab_size': 49408,
    'transformer_width': 512,
    'transformer_heads': 8,
    'transformer_layers': 12,
}
CLIP_TOWERS = {
    'RN50': {'embed_dim': 1024, 'vision_layers': (3, 4, 6, 3), 'vision_width': 64, 'vision_patch_size': None},
    'ViT-B/32': {'embed_dim': 512, 'vision_layers': 12, 'vision_width': 768, 'vision_patch_size': 32},
}


def time_by_turns(cases: list[str], batch_size: int, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each case; they take turns."""
    import statistics
    import time

    runs = {case: _case(case, batch_size, device)[0] for case in cases}
    times = {case: [] for case in cases}
    for turn in range(repeats + 1):
        for case, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first one warms up
                times[case].append(time.perf_counter() - start)
    return {case: statistics.median(measured) for case, measured in times.items()}


def peak_memory(case: str, batch_size: int, device: str) -> dict[str, float]:
    """The megabytes that the case needs at most: its parameters, and what a run adds to them."""
    import gc
    from pathlib import Path

    import torch

    run, figures = _case(case, batch_size, device)

    def resident(line: str) -> float:
        status = Path('/proc/self/status').read_text()
        return float(status.split(f'{line}:')[1].split()[0]) / 1e3

    gc.collect()
    if device == 'cpu' or case.startswith('reading'):
        before = resident('VmRSS')
        Path('/proc/self/clear_refs').write_text('5')  # Linux: forget the peak so far
        run(), run()  # the first step makes the optimizer's state, which the second one holds from its start
        figures['megabytes'] += resident('VmHWM') - before
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(), run()
        figures['megabytes'] += (torch.cuda.max_memory_allocated() - before) / 1e6
    return figures


def _case(case, batch_size, device):
    """What is to be run, and its parameters."""
    if case.startswith('reading'):
        return _reading(case, batch_size)
    if case.startswith('metric'):
        return _metric(case.removeprefix('metric, '), device)
    return _network(case, batch_size, device)


def _network(case, batch_size, device):
    import torch

    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA

    train = 'step' in case
    network = AlignIQA(pretrained=True)
    if 'CGI' in case:  # with the same fitted head
        guided = AlignIQA(guide='saliency', injection='cgi')
        guided.head.load_state_dict(network.head.state_dict())
        guided.is_trained, network = True, guided
    network.to(device).train(train)
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
        'parameters': sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def _metric(name, device):
    """A metric of pyiqa on an image of 512 x 512 pixels, the sides of AGIQA-3K's images."""
    import torch

    torch.manual_seed(0)
    network = _random_network(name).to(device).eval()
    tensors = [*network.parameters(), *network.buffers()]
    hidden = getattr(network, 'clip_model', None)  # CLIP-IQA keeps its CLIP in a list, out of the sight of torch
    tensors += hidden[0].to(device).parameters() if isinstance(hidden, list) else []
    image = torch.rand(1, 3, 512, 512, device=device)

    def run():
        with torch.no_grad():
            network(image)
        if device != 'cpu':
            torch.cuda.synchronize()

    return run, {
        'megabytes': sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6,
        'parameters': sum(tensor.numel() for tensor in tensors if isinstance(tensor, torch.nn.Parameter)),
    }


def _random_network(name):
    """A metric's network as pyiqa configures it, with random weights in place of all that it would download."""
    import tempfile
    from contextlib import ExitStack
    from importlib import import_module
    from unittest.mock import patch

    import timm
    import torch
    from pyiqa import archs
    from pyiqa.archs import arch_util, clip_model
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY
    from torchvision.models import WeightsEnum

    options = dict(DEFAULT_CONFIGS[name]['metric_opts'])
    kind = options.pop('type')
    if kind == 'AlignIQA':
        return ARCH_REGISTRY.get(kind)(**options)
    archs._lazy_import_arch(kind)
    module = import_module(ARCH_REGISTRY.get(kind).__module__)
    create_model = timm.create_model

    def random_clip(architecture, *arguments, **keywords):
        return clip_model.CLIP(image_resolution=224, **CLIP_TOWERS[architecture], **CLIP_TEXT).eval()

    def nothing(*arguments, **keywords):
        return {}

    patches = [
        patch.object(timm, 'create_model', lambda *a, **k: create_model(*a, **{**k, 'pretrained': False})),
        patch.object(WeightsEnum, 'get_state_dict', nothing),
        patch.object(torch.nn.Module, 'load_state_dict', nothing),
        patch.object(arch_util, 'load_pretrained_network', nothing),
        *(
            patch.object(module, each, nothing)
            for each in ('load_pretrained_network', 'get_url_from_name')
            if hasattr(module, each)
        ),
        *([patch.object(module, 'load', random_clip)] if hasattr(module, 'load') else []),
    ]
    with ExitStack() as stack:
        if hasattr(module, 'DEFAULT_CACHE_DIR'):
            # LIQE keeps the features of its texts there, which must not be those of random weights
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(patch.object(module, 'DEFAULT_CACHE_DIR', cache))
        for each in patches:
            stack.enter_context(each)
        return ARCH_REGISTRY.get(kind)(**options)


def _reading(case, batch_size):
    """A batch as training gets it, in one process; both times up to images of the network's own size."""
    import tempfile

    import torch

    from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
    from align_iqa_plugin.score.find_images import SAMPLES

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

    what, batch, repeated, on, *names = sys.argv[1:]
    if what == 'time':
        figures = time_by_turns(names, int(batch), int(repeated), on)
    else:
        figures = peak_memory(*names, int(batch), on)
    print(json.dumps(figures))
