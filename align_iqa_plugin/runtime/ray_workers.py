"""Scoring on many GPUs or machines: workers of Ray Data, each with its own model, that give results as they come.

If the environment variable RAY_ADDRESS names a cluster, that one is used; otherwise a local Ray is started for the command.
The machines of a cluster need this package and must see the files under the same paths. Only the command itself writes
results: a worker that dies is started again and its rows are computed once more, so nothing is lost and nothing is doubled.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from math import ceil
from uuid import uuid4

from align_iqa_plugin.runtime.errors import reason_of

ATTEMPTS = 3  # workers that may die of a row before it is given up
DIED = f'made its Ray worker die, {ATTEMPTS} times: it may need more memory than there is.'
"""The reason for a row that is given up."""


class RayUnavailable(Exception):
    """Ray cannot be used; the message is a sentence with the reason and the way out."""


class RayError(Exception):
    """Ray failed while it was in use; the message is a sentence with the reason."""


@contextmanager
def ray_workers(workers: int | None, device: str | None) -> Iterator['Workers']:
    """Workers of the cluster, or of a local Ray, as long as the block runs; Ray prints nothing meanwhile.

    Args:
        workers: how many; None: one for each GPU, or for each CPU core if there are no GPUs. More workers than GPUs share them;
            there are never more workers than CPU cores.
        device: 'cpu', 'cuda', or None: GPUs if there are any.

    Raises:
        RayUnavailable: Ray is not installed, cannot be reached, or lacks the device.
    """
    if device not in (None, 'cpu', 'cuda'):
        raise RayUnavailable(f"unknown device '{device}'; Ray assigns the GPUs itself: choose from cpu, cuda.")
    # Ray reports its usage to its makers, unless this is 0; whoever wants that has set it.
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RayUnavailable("this needs Ray: pip install 'align-iqa-plugin[ray]'.") from error
    logging.getLogger('ray.data').setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ours = not ray.is_initialized()
    # Ray prints messages of its processes, such as the death of a worker, to stdout, where the results go.
    with redirect_stdout(StringIO()):
        try:
            if ours:
                address = os.environ.get('RAY_ADDRESS')
                with _silent_stderr():
                    ray.init(
                        address=address or 'local',
                        include_dashboard=None if address else False,
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                    )
            resources = ray.cluster_resources()
        # no cluster at the address, another version there, no space for its files: Ray raises many kinds
        except Exception as error:
            raise RayUnavailable(f'Ray cannot be started: {reason_of(error)}') from error
        try:
            gpus, cpus = int(resources.get('GPU', 0)), int(resources.get('CPU', 0))
            device = device or ('cuda' if gpus else 'cpu')
            if not (gpus if device == 'cuda' else cpus):
                raise RayUnavailable(f'Ray has no {"GPU" if device == "cuda" else "CPU core"} to compute on.')
            yield Workers(workers, device, gpus if device == 'cuda' else cpus)
        finally:
            if ours:
                ray.shutdown()


class Workers:
    """The workers that `ray_workers` gives.

    Attributes:
        device: of each worker, 'cpu' or 'cuda'.
        number: of workers.
        resources: what each worker takes of Ray's.
    """

    def __init__(self, number: int | None, device: str, places: int):
        self.device = device
        if device == 'cpu':
            self.number = min(number or places, places)
            self.resources: dict[str, float] = {'num_cpus': 1}
        else:
            self.number = number or places
            self.resources = {'num_cpus': 0, 'num_gpus': 1 / ceil(self.number / places)}

    def map(self, model: type, arguments: dict, rows: Sequence, batch_size: int) -> Iterator[list[tuple]]:
        """Lists of pairs (index in rows, result), as they come, in no order: each row once, with None if it killed its workers.

        Args:
            model: a class; each worker makes one instance, ``model(**arguments)``, and calls it with a list of rows, for a list
                of results. Rows and results must be serializable as JSON.
            arguments: of the class.
            rows: to be computed.
            batch_size: of rows that a model is given at a time, at most.

        Raises:
            RayError: a worker cannot make the model, the model raised an error, or Ray failed.
        """
        waiting = dict(enumerate(rows))
        # rows that did not come back together are tried alone, so that only the one that kills its workers is given up
        for size in dict.fromkeys((max(1, min(batch_size, len(rows) // (4 * self.number))), 1)):
            if waiting:
                for results in self._stream(model, arguments, waiting, size):
                    # when a machine dies, Ray may compute again what has come already
                    yield [(number, result) for number, result in results if waiting.pop(number, None) is not None]
        if waiting:
            yield [(number, None) for number in waiting]

    def _stream(self, model, arguments, waiting, size) -> Iterator[list[tuple]]:
        import ray.data
        from ray.exceptions import RayError as RayFailure

        # as JSON: Arrow can hold neither names that are no valid UTF-8 nor values of several types in one column
        items = [{'row': json.dumps(item)} for item in waiting.items()]
        blocks = ceil(len(items) / size)
        # each worker loads a model: start none without work
        actors = ray.data.ActorPoolStrategy(size=min(self.number, blocks), max_tasks_in_flight_per_actor=1 if size == 1 else 2)
        dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=(uuid4().hex, model, arguments),
            batch_size=size,
            compute=actors,
            num_cpus=self.resources['num_cpus'],
            num_gpus=self.resources.get('num_gpus'),
        )
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                results = [tuple(json.loads(text)) for text in batch['result']]
                for number, result in results:
                    if number is None:
                        raise RayError(f'a worker of Ray failed: {result}.')
                yield results
        except RayFailure as error:
            raise RayError(f'Ray failed: {reason_of(error)}.') from error


class _Worker:
    """Runs in each process of Ray. An error of its model becomes a result without an index, since Ray would bury it in text.

    Args:
        run: a name that no other run has.
        model: a class, see `Workers.map`.
        arguments: of the class.
    """

    def __init__(self, run: str, model: Callable, arguments: dict):
        self._run, self._problem = run, None
        try:
            self._model = model(**arguments)
        except Exception as error:
            self._problem = reason_of(error)

    def __call__(self, batch: dict) -> dict:
        import numpy as np

        numbers, rows = zip(*map(json.loads, batch['row']), strict=True)
        results = []
        with _attempt(f'{self._run} {numbers[0]} {len(numbers)}') as attempt:
            if self._problem is None and attempt <= (ATTEMPTS if len(rows) == 1 else 1):
                try:
                    results = list(zip(numbers, self._model(list(rows)), strict=True))
                except Exception as error:
                    self._problem = reason_of(error)
        if self._problem is not None:
            results = [(None, self._problem)]
        return {'result': np.array([json.dumps(result) for result in results], dtype=object)}


@contextmanager
def _attempt(task: str) -> Iterator[int]:
    """How many times this task has begun, this time included. Each earlier time, its worker died."""
    from ray.experimental import internal_kv  # Ray counts attempts, but does not show its count

    key = f'align-iqa {task}'.encode()
    attempt = int(internal_kv._internal_kv_get(key) or 0) + 1
    internal_kv._internal_kv_put(key, str(attempt).encode(), overwrite=True)
    yield attempt
    internal_kv._internal_kv_del(key)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence stderr for C++ code as well: that part of Ray does not write through Python's `sys.stderr`."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
