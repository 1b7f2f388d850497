"""Two processes on the CPU, in the environment that torchrun gives them, beside one process."""

import copy
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from align_iqa_plugin.models import process_group
from align_iqa_plugin.models.trainer import train
from align_iqa_plugin.models.training_state import latest_training_state

PROCESS = """
import json, os, signal
from pathlib import Path
import torch
torch.set_num_threads(1)
from align_iqa_plugin.models import process_group
from align_iqa_plugin.models import trainer as training

options = json.loads(Path('options.json').read_text())
other = os.fork()  # two processes for the price of one import of torch and pyiqa
number = 0 if other else 1
os.environ['RANK'] = os.environ['LOCAL_RANK'] = str(number)

def save(name, value):
    torch.save(value, f'{name}_{number}.pt')

# the collective operations themselves
with process_group.process_group(gpu=False):
    found = {'rank': process_group.rank(), 'any': [process_group.any_process(number == n, 'cpu') for n in (0, 1, 2)]}
    found['gathered'] = []
    for count in range(6):
        rows = torch.tensor([[10.0 * row, row] for row in process_group.shard(count)]).reshape(-1, 2)
        found['gathered'].append(process_group.gather(rows, count).tolist())
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 2.0])
    if number == 1:
        parameters[1].grad = torch.tensor([5.0, 5.0])
    process_group.all_reduce_gradients(parameters)
    found['gradients'] = [None if p.grad is None else p.grad.tolist() for p in parameters]
    values = torch.full((2,), float(number))
    process_group.broadcast([values])
    found['broadcast'] = values.tolist()
save('collectives', found)

# a training, and its second half once more from a signal to one process
save('best', training.train(options, root=Path('two')))
step = training.AlignIQAModel.optimize_parameters
def interrupted(model, iteration):
    step(model, iteration)
    if iteration == 3 and number == 1:
        os.kill(os.getpid(), signal.SIGTERM)
training.AlignIQAModel.optimize_parameters = interrupted
try:
    training.train(options, root=Path('stopped'))
except training.Interrupted as error:
    save('interrupted', str(error))
training.AlignIQAModel.optimize_parameters = step
training.train(options, root=Path('stopped'), resume=True)

# one that fails in one process
def fails(model, iteration):
    if iteration == 2 and number == 1:
        raise FloatingPointError('the loss is not a finite number at iteration 2')
    step(model, iteration)
training.AlignIQAModel.optimize_parameters = fails
try:
    training.train(options, root=Path('failed'))
except training.TrainingError as error:
    save('failure', str(error))

# one that is killed
def dies(model, iteration):
    if iteration == 2 and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    step(model, iteration)
training.AlignIQAModel.optimize_parameters = dies
try:
    training.train(options, root=Path('killed'))
except training.TrainingError as error:
    save('death', str(error))
    status = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
    Path('statuses.json').write_text(json.dumps([1, status]))
"""


def run_two(folder) -> str:
    """What two processes printed on standard error."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    place = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', **place}
    command = [sys.executable, 'process.py']
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500).stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('two')


@pytest.fixture
def parallel_options(tiny_options, tiny_images, folder):
    """8 iterations; no dropout, since each process draws its own; a second validation set of 5 images, an odd number."""
    tiny_options['train']['total_iter'] = 8
    tiny_options['logger']['print_freq'] = 5
    tiny_options['network']['head_options'] = {'dropout': 0.0}
    rows = (tiny_images / 'data.csv').read_text().splitlines()[:6]
    (folder / 'odd.csv').write_text('\n'.join(rows))
    section = tiny_options['datasets']['val']
    odd = {**section, 'name': 'odd', 'meta_info_file': str(folder / 'odd.csv'), 'split_index': None}
    tiny_options['datasets']['val_2'] = odd
    tiny_options['train']['frozen_cache'] = str(folder / 'cache')
    return tiny_options


@pytest.fixture
def two(parallel_options, folder):
    """What two processes found, run once: exit statuses, and a function that reads what they saved."""
    if not (folder / 'messages.txt').exists():
        options = copy.deepcopy(parallel_options)  # the test's own stay those of one process
        options['datasets']['train']['batch_size_per_gpu'] = 2
        (folder / 'options.json').write_text(json.dumps(options))
        (folder / 'process.py').write_text(PROCESS)
        (folder / 'messages.txt').write_text(run_two(folder))

    def read(name, rank=0):
        path = folder / f'{name}_{rank}.pt'
        assert path.exists(), (folder / 'messages.txt').read_text()
        return torch.load(path, weights_only=True)

    assert (folder / 'statuses.json').exists(), (folder / 'messages.txt').read_text()
    return json.loads((folder / 'statuses.json').read_text()), read


def test_rows_gradients_and_flags_reach_the_other_process(two):
    for rank in (0, 1):
        found = two[1]('collectives', rank)
        assert found['rank'] == rank
        assert found['any'] == [True, True, False]
        assert found['gathered'] == [[[10.0 * row, row] for row in range(count)] for count in range(6)]
        assert found['gradients'] == [[2, 4], [5, 5], None]
        assert found['broadcast'] == [0, 0]


def test_two_processes_train_as_one_with_the_batch_of_both(two, parallel_options, folder, tmp_path):
    best = train(parallel_options, root=tmp_path)
    for rank in (0, 1):
        found = two[1]('best', rank)
        assert found.keys() == best.keys() == {'tiny_val', 'odd'}
        for name in best:
            assert found[name]['rmse']['val'] == pytest.approx(best[name]['rmse']['val'], rel=1e-3)
            assert found[name]['srcc']['iter'] == best[name]['srcc']['iter']
    one, other = (
        latest_training_state(root / 'experiments' / 'tiny' / 'training_states') for root in (tmp_path, folder / 'two')
    )
    assert one['iteration'] == other['iteration'] == 8
    for name, value in one['model']['net'].items():
        torch.testing.assert_close(other['model']['net'][name], value, rtol=1e-3, atol=1e-4)


def test_only_the_first_process_writes(two, folder):
    (log,) = (folder / 'two' / 'experiments' / 'tiny').glob('*.log')
    assert log.read_text().count('iteration 5 of 8') == 1


def test_a_signal_to_one_process_stops_both_at_one_iteration_and_the_run_goes_on_exactly(two, folder):
    assert two[1]('interrupted', 0) == two[1]('interrupted', 1)
    assert 'saved at iteration 3 of 8' in two[1]('interrupted')
    one, other = (
        latest_training_state(folder / name / 'experiments' / 'tiny' / 'training_states') for name in ('stopped', 'two')
    )
    assert all(torch.equal(one['model']['net'][name], value) for name, value in other['model']['net'].items())


def test_an_error_in_one_process_ends_the_other_with_it(two):
    assert 'loss is not a finite number at iteration 2' in two[1]('failure', 1)
    assert 'process 1 of 2 stopped: ' in two[1]('failure', 0)
    assert 'loss is not a finite number at iteration 2' in two[1]('failure', 0)


def test_a_process_that_is_killed_ends_the_other(two):
    assert two[0] == [1, -9]
    assert 'another process is gone' in two[1]('death')


def test_another_number_of_processes_cannot_go_on_with_a_run(two, parallel_options, folder):
    parallel_options['datasets']['train']['batch_size_per_gpu'] = 2
    with pytest.raises(ValueError, match='--resume: the run had 2 processes, not 1'):
        train(parallel_options, root=folder / 'two', resume=True)


def test_one_process_exchanges_nothing():
    rows = torch.rand(3, 2)
    with process_group.process_group(gpu=False):
        assert process_group.rank() == 0 and process_group.world_size() == 1
        assert process_group.all_reduce(rows) is rows
        assert process_group.gather(rows, 3) is rows
        assert list(process_group.shard(3)) == [0, 1, 2]


@pytest.mark.slow
def test_torchrun_trains(tiny_options, tmp_path):
    import yaml

    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(tiny_options))
    words = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    words += ['-m', 'align_iqa_plugin.cli', 'train', '--opt', 'tiny.yml']
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('tiny_val: ') == done.stdout.count('(best, at iteration') == 1
