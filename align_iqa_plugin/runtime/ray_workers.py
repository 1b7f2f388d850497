"""Scoring on many GPUs or machines: workers of Ray Data, each with a model of its own, that give results as they come.

Where the environment variable RAY_ADDRESS names a cluster, that one is used, else a local Ray is started for the command.
The machines of a cluster need this package, and see files under the same paths. Only the command itself writes results:
a worker that dies is started again and what it had in hand is computed once more, so nothing is lost, and nothing doubled.
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

ATTEMPTS = 3  # with how many workers a row may die before it is given up
DIED = f'made its Ray worker die, {ATTEMPTS} times: it may need more memory than there is.'
"""The reason of a row that is given up."""


class RayUnavailable(Exception):
    """Ray cannot be used; the message is a sentence that says why, and what to do."""


class RayError(Exception):
    """Ray failed while it was used; the message is a sentence that says why."""


@contextmanager
def ray_workers(workers: int | None, device: str | None) -> Iterator['Workers']:
    """Connect to the cluster, or start a local Ray, for as long as the block runs; Ray says nothing meanwhile.

    Args:
        workers: how many; None for one on each GPU, on each CPU core where there are no GPUs. Where there are more workers
            than GPUs, several share one; there are never more than CPU cores.
        device: 'cpu', 'cuda', or None for GPUs where there are some.

    Raises:
        RayUnavailable: Ray is not installed, cannot be reached, or lacks the device.
    """
    if device not in (None, 'cpu', 'cuda'):
        raise RayUnavailable(f"the device '{device}' is not possible with Ray, which hands out the GPUs itself: cpu or cuda.")
    # The scores are nobody else's business; whoever wants Ray's usage reports has set this variable.
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
    # Ray prints what its processes have to say, such as the death of a worker, to stdout, where the results go.
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
        # no cluster at the address, another version there, no room for its files: Ray raises many kinds
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
    """What `ray_workers` gives.

    Attributes:
        device: 'cpu' or 'cuda', for each worker.
        number: how many there are.
        resources: of Ray, that each one takes.
    """

    def __init__(self, number: int | None, device: str, places: int):
        self.device = device
        if device == 'cpu':
            self.number = min(number or places, places)
            self.resources = {'num_cpus': 1}
        else:
            self.number = number or places
            self.resources = {'num_cpus': 0, 'num_gpus': 1 / ceil(self.number / places)}

    def map(self, model: type, arguments: dict, rows: Sequence, batch_size: int) -> Iterator[list[tuple]]:
        """Pairs (place in rows, result) in lists, as they come, in no order: each row once, with None if it killed its workers.

        Args:
            model: a class; each worker makes one, ``model(**arguments)``, and calls it with a list of rows, for a list of
                results. Rows and results are what JSON can say.
            rows: what is to be done.
            batch_size: how many rows a model is given at a time, at most.

        Raises:
            RayError: the model cannot be made on a worker, or Ray failed.
        """
        waiting = dict(enumerate(rows))
        # What did not come back in the company of others is tried alone, so that one poisonous row is given up, not all.
        for size in (max(1, min(batch_size, len(rows) // (4 * self.number))), 1):
            if waiting:
                for results in self._stream(model, arguments, waiting, size):
                    # Ray may, at the death of a machine, compute again what has come already
                    yield [(number, result) for number, result in results if waiting.pop(number, None) is not None]
        if waiting:
            yield [(number, None) for number in waiting]

    def _stream(self, model, arguments, waiting, size) -> Iterator[list[tuple]]:
        import ray

        # as text, since Arrow has neither names that are no valid UTF-8 nor values of several kinds in a column
        items = [{'row': json.dumps(item)} for item in waiting.items()]
        blocks = ceil(len(items) / size)
        # each worker loads a model: none for which there is no work
        actors = ray.data.ActorPoolStrategy(size=min(self.number, blocks), max_tasks_in_flight_per_actor=1 if size == 1 else 2)
        dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=(uuid4().hex, model, arguments),
            batch_size=size,
            compute=actors,
            **self.resources,
        )
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                results = [tuple(json.loads(text)) for text in batch['result']]
                for number, result in results:
                    if number is None:
                        raise RayError(f'a worker of Ray failed: {result}.')
                yield results
        except ray.exceptions.RayError as error:
            raise RayError(f'Ray failed: {reason_of(error)}.') from error


class _Worker:
    """What runs in each process of Ray. What its model raises is a result without a number, since Ray would bury it in text."""

    def __init__(self, run: str, model: Callable, arguments: dict):
        self._run, self._problem = run, None
        try:
            self._model = model(**arguments)
        except Exception as error:
            self._problem = reason_of(error)

    def __call__(self, batch: dict) -> dict:
        import numpy as np

        numbers, rows = zip(*map(json.loads, batch['row']), strict=True)
        with _attempt(f'{self._run} {numbers[0]} {len(numbers)}') as attempt:
            if self._problem is None and attempt <= ATTEMPTS:
                try:
                    results = list(zip(numbers, self._model(list(rows)), strict=True))
                except Exception as error:
                    self._problem = reason_of(error)
            else:
                results = []
        if self._problem is not None:
            results = [(None, self._problem)]
        return {'result': np.array([json.dumps(result) for result in results], dtype=object)}


@contextmanager
def _attempt(task: str) -> Iterator[int]:
    """How often this was begun, this time included; if it was before, by a worker that died of it."""
    from ray.experimental import internal_kv  # what Ray itself knows of attempts, it does not tell

    key = f'align-iqa {task}'.encode()
    attempt = int(internal_kv._internal_kv_get(key) or 0) + 1
    internal_kv._internal_kv_put(key, str(attempt).encode(), overwrite=True)
    yield attempt
    internal_kv._internal_kv_del(key)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ part writes past Python's stderr."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept), os.close(nowhere)
