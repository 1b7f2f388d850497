"""One training in several processes, started by `torchrun`: each takes its shard of a batch, and the gradients are summed.

In a single process every function works too, and exchanges nothing. The network is not wrapped in DistributedDataParallel:
what is trained is small, so overlapping communication with computation gains nothing, and without a wrapper validation,
checkpoints and frozen parameters need no special case. Why not `accelerate`: docs/design.md.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from pyiqa.utils.dist_util import get_dist_info
from torch import Tensor

# Processes exchange something every few seconds; one that is silent for longer than this is lost
TIMEOUT = timedelta(minutes=10)
_trainings = itertools.count()


class ProcessLost(RuntimeError):
    """Another process of the training stopped; the message says why if that is known."""


@contextmanager
def process_group(*, gpu: bool) -> Iterator[None]:
    """Inside, the processes that torchrun started form one group (NCCL on GPUs, gloo on CPUs).

    Raises:
        ProcessLost: another process raised an exception, or died.
    """
    count = int(os.environ.get('WORLD_SIZE', '1'))
    if count == 1:
        yield
        return
    number = int(os.environ['RANK'])
    if gpu:
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    # a prefix of its own, so that no entry of an earlier training in these processes is found
    store = dist.PrefixStore(f'training {next(_trainings)}', _store(number, count))
    dist.init_process_group('nccl' if gpu else 'gloo', store=store, rank=number, world_size=count, timeout=TIMEOUT)
    try:
        yield
    except ProcessLost as lost:
        raise ProcessLost(_reported_failure(store) or str(lost)) from lost
    except Exception as error:
        _report_failure(store, f'process {number} of {count} stopped: {error}')
        raise
    finally:
        dist.destroy_process_group()


@functools.cache
def _store(number: int, count: int) -> dist.Store:
    """Where the processes find each other; one for all trainings, since a second store could meet the end of the first."""
    return next(dist.rendezvous('env://', number, count, timeout=TIMEOUT))[0]


def _report_failure(store: dist.Store, failure: str) -> None:
    with suppress(RuntimeError):  # the store may have gone with the process that holds it
        store.set('failure', failure)


def _reported_failure(store: dist.Store) -> str:
    with suppress(RuntimeError):
        if store.check(['failure']):
            return store.get('failure').decode()
    return ''


def rank() -> int:
    """The number of this process, from 0; process 0 writes the files."""
    return get_dist_info()[0]


def world_size() -> int:
    """The number of processes."""
    return get_dist_info()[1]


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum over the processes; `tensor` itself is changed."""
    if world_size() > 1:
        _collective(dist.all_reduce, tensor)
    return tensor


def _collective(operation: Callable, *arguments) -> None:
    try:
        operation(*arguments)
    except RuntimeError as error:  # gloo and NCCL raise no narrower class
        raise ProcessLost(f'another process is gone ({" ".join(str(error).split())[:200]}).') from error


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in at least one process."""
    return flag if world_size() == 1 else bool(all_reduce(torch.tensor([float(flag)], device=device)).item())


def barrier(device: torch.device) -> None:
    """Wait until every process is here."""
    any_process(False, device)


def shard(count: int) -> range:
    """The indices that this process takes of `count` rows: every `world_size`-th."""
    return range(rank(), count, world_size())


def gather(rows: Tensor, count: int) -> Tensor:
    """All rows in their order, (count, c), in every process; `rows` are those of this process' `shard(count)`, (m, c)."""
    if world_size() == 1:
        return rows
    table = rows.new_zeros(count, *rows.shape[1:])
    table[list(shard(count))] = rows
    return all_reduce(table)


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of process 0."""
    if world_size() > 1:
        for tensor in tensors:
            _collective(dist.broadcast, tensor, 0)


def all_reduce_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum each gradient over the processes; a parameter without a gradient in any of them stays without one."""
    if world_size() == 1:
        return
    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=parameters[0].device)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = all_reduce(torch.cat([has, *(g.flatten() for g in gradients)]))
    has, *sums = flat.split([len(has), *(g.numel() for g in gradients)])
    for used, parameter, total in zip(has.tolist(), parameters, sums, strict=True):
        parameter.grad = total.view_as(parameter) if used else None
