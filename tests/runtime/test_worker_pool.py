"""Worker processes: a result for every item, whatever an item does to its process, and no process that is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import align_iqa_plugin
from align_iqa_plugin.runtime.worker_pool import map_in_processes

ROOT = Path(align_iqa_plugin.__file__).parents[1]
POSIX = pytest.mark.skipif(os.name != 'posix', reason='needs signals')


HOLDER = """
import fcntl, os, sys, time
from align_iqa_plugin.runtime.worker_pool import map_in_processes

def work(item):
    time.sleep(0.05)
    return os.getpid()

lock = open(sys.argv[1], 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
for pid in map_in_processes(work, range(10_000), 2):
    print(pid, flush=True)
"""


def double(item):
    if item < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def fail(item):
    raise KeyError(item)


def test_results_come_in_the_order_of_the_items():
    assert list(map_in_processes(double, range(50), 3)) == list(range(0, 100, 2))
    assert list(map_in_processes(double, [], 3)) == []


@POSIX
@pytest.mark.parametrize('workers', [1, 3])
def test_an_item_that_kills_its_process_is_given_up_and_costs_no_other_its_result(workers):
    items = [0, 1, -1, 2, -1, -1, *range(20), -1]
    assert list(map_in_processes(double, items, workers)) == [None if item < 0 else 2 * item for item in items]


RESIZER = """
import torch
from align_iqa_plugin.runtime.worker_pool import map_in_processes

def resized(side):
    return tuple(torch.nn.functional.interpolate(torch.rand(1, 3, side, side), 224, mode='bicubic', antialias=True).shape)

resized(512)  # starts the threads of this process
print(set(map_in_processes(resized, [512, 513], 2)))
"""


def test_torch_works_in_the_processes_when_its_threads_have_begun(fresh):
    assert fresh(RESIZER, OMP_NUM_THREADS='2').stdout == '{(1, 3, 224, 224)}\n'


def test_an_error_of_the_function_is_raised():
    with pytest.raises(KeyError):
        list(map_in_processes(fail, [1, 2, 3], 2))


@POSIX
def test_the_workers_of_a_killed_process_end_and_free_the_locks_that_they_inherited(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(tmp_path / 'lock')],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    fcntl = pytest.importorskip('fcntl')
    try:
        assert int(process.stdout.readline())
        with open(tmp_path / 'lock', 'w') as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process.kill()
            process.wait()
            for _ in range(100):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.1)
            else:
                pytest.fail('a worker holds the lock of the killed process')
    finally:
        process.kill()
        process.communicate()
