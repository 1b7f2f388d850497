"""What a network costs: seconds and memory of a forward pass or a training step, beside another network.

Run as a module, it measures one case in a process of its own:
    python -m align_iqa_plugin.evaluation.cost time|memory BATCH_SIZE REPEATS DEVICE CASE [CASE]
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from align_iqa_plugin.runtime.memory import PeakMemory

CASES = {  # each with the case that it is compared to
    'align_iqa, forward': 'backbone, forward',
    'align_iqa-fast, forward': 'backbone, forward',
    'align_iqa, training step': 'backbone, fine-tuning step',
    'align_iqa-fast, training step': 'backbone, fine-tuning step',
}
METRIC_CASES = {
    f'metric, {name}': 'metric, align_iqa'
    for name in ('topiq_nr', 'maniqa', 'hyperiqa', 'dbcnn', 'cnniqa', 'musiq', 'liqe', 'clipiqa', 'wadiqam_nr')
}
UNTRAINED: dict[str, dict[str, bool | None]] = {
    # by type of network, the keywords with which it downloads nothing; a keyword that it lacks is not given
    'CNNIQA': {'pretrained': None},
    'CFANet': {'pretrained': False, 'backbone_pretrain': False},
}


class Cost(NamedTuple):
    """What a case costs, and its ratios to the case that it is compared to."""

    case: str
    seconds: float
    time_ratio: float
    megabytes: float
    memory_ratio: float
    parameters: int  # of the network of a metric; else those that are trained


class Case(NamedTuple):
    """Something to be measured."""

    run: Callable[[], None]
    megabytes: float  # of its weights
    parameters: int


class CaseError(Exception):
    """A case cannot be measured; the message names it and says why."""


def measure(cases: dict[str, str], *, batch_size: int, repeats: int, device: str) -> Iterator[Cost | CaseError]:
    """The cost of each case, and before the first of its kind that of the case that it is compared to; or why there is none.

    A case is timed in turns with the other one, so that whatever else the machine does slows down both. Memory is measured in
    a process for each case, since the peak of a process never goes down.
    """

    def run(what: str, *names: str, **environment: str) -> dict:
        command = [sys.executable, '-m', __name__, what, str(batch_size), str(repeats), device, *names]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        if done.returncode:
            # a process that is killed, for example for its memory, prints nothing
            reason = done.stderr.strip() or f'its process ended with {done.returncode}'
            raise CaseError(f'{names[-1]} failed: {reason.splitlines()[-1]}')
        return json.loads(done.stdout.splitlines()[-1])

    # glibc then gives every freed tensor back to the system; a tensor that it kept would count in the next peak
    exact = {'MALLOC_MMAP_THRESHOLD_': '65536'}
    references: dict[str, dict] = {}
    for case, reference in cases.items():
        try:
            seconds = run('time', reference, case)
            memory = run('memory', case, **exact)
            if reference not in references:
                references[reference] = run('memory', reference, **exact)
                yield Cost(reference, seconds[reference], 1, memory_ratio=1, **references[reference])
        except CaseError as error:
            yield error
            continue
        ratio = memory['megabytes'] / references[reference]['megabytes']
        yield Cost(case, seconds[case], seconds[case] / seconds[reference], memory_ratio=ratio, **memory)


def time_in_turns(names: Iterable[str], batch_size: int, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each case; they take turns."""
    runs = {name: build_case(name, batch_size, device).run for name in names}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def peak_memory(name: str, batch_size: int, device: str) -> dict[str, float]:
    """The megabytes that the case needs at most, its weights included, and its parameters."""
    case = build_case(name, batch_size, device)
    memory = PeakMemory(torch.device(device))
    memory.restart()
    for _ in range(2):  # the first step makes the optimizer's state, which the second one holds from its start
        case.run()
    peak = memory.read()
    if peak is None:
        raise RuntimeError('the memory of a process on the CPU is known on Linux only')
    return {'megabytes': case.megabytes + peak, 'parameters': case.parameters}


def build_case(name: str, batch_size: int, device: str) -> Case:
    """A metric of pyiqa ('metric, NAME') on one image, or Align-IQA or its backbone on a batch."""
    if name.startswith('metric'):
        return _metric_case(name.removeprefix('metric, '), device)
    return _network_case(name, batch_size, device)


def _network_case(name, batch_size, device) -> Case:
    from align_iqa_plugin.archs.pretrained import create_align_iqa

    train = 'step' in name
    whole = create_align_iqa(pretrained_model_path='packaged-fast' if 'fast' in name else 'packaged')
    network: torch.nn.Module = whole.to(device).train(train)
    if name.startswith('backbone'):
        network = whole.backbone.vit.requires_grad_(train).train(train)
    optimizer = torch.optim.AdamW(network.parameters()) if train else None
    image = torch.rand(batch_size, 3, 224, 224, device=device)

    def run():
        with torch.set_grad_enabled(train):
            output = network(image)
        if optimizer:
            optimizer.zero_grad()
            output.mean().backward()
            optimizer.step()
        if device != 'cpu':
            torch.cuda.synchronize()

    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Case(run, _megabytes(network.parameters()), trained)


def _metric_case(name, device) -> Case:
    torch.manual_seed(0)
    network = metric_network(name).to(device).eval()
    tensors = [*network.parameters(), *network.buffers()]
    hidden = getattr(network, 'clip_model', None)  # CLIP-IQA keeps its CLIP in a list, where torch does not see it
    tensors += hidden[0].to(device).parameters() if isinstance(hidden, list) else []
    image = torch.rand(1, 3, 512, 512, device=device)  # of the sides of AGIQA-3K's images

    def run():
        with torch.no_grad():
            network(image)
        if device != 'cpu':
            torch.cuda.synchronize()

    parameters = sum(tensor.numel() for tensor in tensors if isinstance(tensor, torch.nn.Parameter))
    return Case(run, _megabytes(tensors), parameters)


def metric_network(name: str) -> torch.nn.Module:
    """A metric's network as pyiqa configures it, without the metric's trained weights, on which its speed does not depend.

    Some networks load a pretrained backbone whatever their keywords say (MANIQA, HyperIQA, DBCNN, LIQE and CLIP-IQA in pyiqa
    0.1.16): its weights are downloaded, unless they are there.
    """
    import inspect

    from pyiqa import archs
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

    options = dict(DEFAULT_CONFIGS[name]['metric_opts'])
    kind = options.pop('type')
    if kind not in ARCH_REGISTRY:
        archs._lazy_import_arch(kind)
    network = ARCH_REGISTRY.get(kind)
    if kind != 'AlignIQA' and 'pretrained' in inspect.signature(network).parameters:
        options |= UNTRAINED.get(kind, {'pretrained': False})
    return network(**options)


def _megabytes(tensors: Iterable[torch.Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


if __name__ == '__main__':
    what, batch, repeated, on, *names = sys.argv[1:]
    if what == 'time':
        figures = time_in_turns(names, int(batch), int(repeated), on)
    else:
        figures = peak_memory(names[0], int(batch), on)
    print(json.dumps(figures))
