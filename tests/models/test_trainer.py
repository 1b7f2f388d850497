import copy
import errno
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from pyiqa.utils import get_root_logger

from align_iqa_plugin.models import sampler as batches
from align_iqa_plugin.models import trainer as training
from align_iqa_plugin.models.sampler import ResumableBatchSampler
from align_iqa_plugin.models.trainer import Interrupted, TrainingError, train
from align_iqa_plugin.models.training_state import latest_training_state, list_training_states


def states(root):
    return root / 'experiments' / 'tiny' / 'training_states'


def models(root):
    return {path.stem: torch.load(path, weights_only=True)['params'] for path in (states(root).parent / 'models').iterdir()}


def differences(one, other, path=''):
    """Where two structures differ, as paths of keys."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [place for key in one for place in differences(one[key], other[key], f'{path}/{key}')]
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return [place for i, pair in enumerate(zip(one, other, strict=True)) for place in differences(*pair, f'{path}/{i}')]
    return [] if one == other else [path]


def net(root):
    return latest_training_state(states(root))['model']['net']


class Cut(BaseException):
    """As sudden as kill -9, but inside of the process."""


@pytest.fixture
def at(monkeypatch):
    """Calls something after the step of a given iteration, once."""

    def at(iteration, action):
        step = training.AlignIQAModel.optimize_parameters

        def optimize_parameters(model, current):
            step(model, current)
            if current == iteration:
                monkeypatch.setattr(training.AlignIQAModel, 'optimize_parameters', step)
                action()

        monkeypatch.setattr(training.AlignIQAModel, 'optimize_parameters', optimize_parameters)

    return at


def cut():
    raise Cut


# Resume


@pytest.mark.parametrize('kind', ['probe, average, cosine by iteration', 'fp16, steps by epoch, augmented, 2 workers'])
def test_a_run_that_is_cut_off_again_and_again_ends_as_one_that_is_not(kind, tiny_options, tmp_path, at):
    if kind.startswith('fp16'):
        tiny_options['train'] = {
            'precision': 'fp16',
            'accumulate': 2,
            'warmup_iter': 9,
            'total_iter': 14,
            'optim': {'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'gamma': 0.5},
            'mos_loss_opt': {'type': 'L1Loss'},
            'metric_loss_opt': None,
        }
        tiny_options['datasets']['train'] |= {'augment': {'hflip': True}, 'num_worker_per_gpu': 2}
    best = train(tiny_options, root=tmp_path / 'whole')
    tiny_options['logger']['save_checkpoint_freq'] = 3
    for iteration in (2, 5, 11):
        at(iteration, cut)
        with pytest.raises(Cut):
            train(tiny_options, root=tmp_path / 'cut', resume=True)
    assert train(tiny_options, root=tmp_path / 'cut', resume=True) == best
    one, other = (latest_training_state(states(tmp_path / name))['model'] for name in ('cut', 'whole'))
    assert differences(one, other) == []
    assert differences(models(tmp_path / 'cut'), models(tmp_path / 'whole')) == []


def test_a_torn_state_costs_some_iterations_and_changes_nothing(tiny_options, tmp_path, at, capsys):
    best = train(tiny_options, root=tmp_path / 'whole')
    at(9, cut)
    with pytest.raises(Cut):
        train(tiny_options, root=tmp_path / 'torn')
    newest, before = list_training_states(states(tmp_path / 'torn'))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert train(tiny_options, root=tmp_path / 'torn', resume=True) == best
    told = capsys.readouterr().err
    assert f'{newest} is damaged' in told
    assert f'goes on from {before}' in told
    assert differences(net(tmp_path / 'torn'), net(tmp_path / 'whole')) == []


def test_a_finished_run_is_not_trained_further_and_can_be_made_longer(tiny_options, tmp_path):
    tiny_options['train']['total_epoch'] = 1
    best = train(tiny_options, root=tmp_path / 'short')
    assert train(tiny_options, root=tmp_path / 'short', resume=True) == best
    tiny_options['train']['total_epoch'] = 2
    tiny_options['val']['val_freq'] = 7
    with pytest.raises(ValueError, match='--resume: val.val_freq is 7, and was 4 when the run began'):
        train(tiny_options, root=tmp_path / 'short', resume=True)
    tiny_options['val']['val_freq'] = 4
    train(tiny_options, root=tmp_path / 'short', resume=True)
    train(tiny_options, root=tmp_path / 'long')
    assert differences(net(tmp_path / 'short'), net(tmp_path / 'long')) == []


def test_without_resume_an_experiment_of_the_same_name_is_kept_under_another(tiny_options, tmp_path):
    tiny_options['train']['total_iter'] = 1
    del tiny_options['datasets']['val']
    train(tiny_options, root=tmp_path)
    (states(tmp_path).parent / 'note').write_text('mine')
    train(tiny_options, root=tmp_path)
    archived, now = sorted((tmp_path / 'experiments').iterdir(), key=lambda path: path.name, reverse=True)
    assert (archived / 'note').exists() and not (now / 'note').exists()


def test_resume_without_a_state_starts_from_the_beginning_and_says_so(tiny_options, tmp_path, capsys):
    tiny_options['train']['total_iter'] = 1
    train(tiny_options, root=tmp_path, resume=True)
    assert 'no run state to go on from: the training starts from the beginning' in capsys.readouterr().err
    assert list_training_states(states(tmp_path))


# Stopping


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_iteration_and_the_run_can_go_on(number, tiny_options, tmp_path, at):
    before = signal.getsignal(number)
    at(6, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match='stopped and saved at iteration 6 of 14: --resume goes on from there') as caught:
        train(tiny_options, root=tmp_path / 'cut')
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert list_training_states(states(tmp_path / 'cut'))[0].stem == '6'
    if number == signal.SIGINT:
        train(tiny_options, root=tmp_path / 'cut', resume=True)
        train(tiny_options, root=tmp_path / 'whole')
        assert differences(net(tmp_path / 'cut'), net(tmp_path / 'whole')) == []


def test_a_signal_before_the_first_iteration_stops_at_once(tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr(training, 'build_model', lambda options: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match='stopped at once'):
        train(tiny_options, root=tmp_path)


def test_a_full_disk_stops_with_one_sentence_and_keeps_the_last_state(tiny_options, tmp_path, at, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at(6, lambda: monkeypatch.setattr(os, 'fsync', full))
    with pytest.raises(
        TrainingError, match=r'stopped at iteration 8 of 14: .*8.state could not be written \(No space left'
    ) as caught:
        train(tiny_options, root=tmp_path)
    assert '--resume goes on from ' in str(caught.value) and '4.state' in str(caught.value)
    assert latest_training_state(states(tmp_path))['iteration'] == 4


def test_a_loss_that_is_no_number_stops_with_one_sentence(tiny_options, tmp_path, monkeypatch):
    feed = training.AlignIQAModel.feed_data

    def feed_data(model, data):
        feed(model, data)
        if model.optimizer.state and model.net.training:
            model.targets[0] = float('nan')

    monkeypatch.setattr(training.AlignIQAModel, 'feed_data', feed_data)
    with pytest.raises(
        TrainingError, match=r'stopped at iteration 2 of 14: the loss is not a finite number .*\d\.png'
    ) as caught:
        train(tiny_options, root=tmp_path)
    assert '\n' not in str(caught.value)


def loaders():
    """Threads that hand work to the workers of loaders, one for each worker."""
    return {thread for thread in threading.enumerate() if thread.name.startswith('QueueFeeder')}


def no_more_loaders_than(before):
    deadline = time.monotonic() + 20
    while (left := loaders() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


@pytest.mark.parametrize('workers', [0, 1])
def test_images_of_two_sizes_in_a_batch_are_named(workers, tiny_options, tiny_images, tmp_path):
    for name in ('a', 'b'):
        Image.new('RGB', (64, 64 if name == 'a' else 80)).save(tmp_path / f'{name}.png')
    (tmp_path / 'data.csv').write_text('name,mos_quality,prompt\na.png,1,x\nb.png,2,y\n')
    changes = {'dataroot_target': str(tmp_path), 'meta_info_file': str(tmp_path / 'data.csv'), 'split_index': None}
    changes |= {'check_images': False}
    tiny_options['datasets']['train'] |= changes | {'num_worker_per_gpu': workers}
    del tiny_options['train']['ridge_alpha']
    before = loaders()
    with pytest.raises(TrainingError, match=r'iteration 1: .*[ab].png has 64 x \d+ pixels, .* one size') as caught:
        train(tiny_options, root=tmp_path)
    assert '\n' not in str(caught.value)
    assert no_more_loaders_than(before)  # although the error, which has seen them, is still there


def test_patience_ends_the_training(tiny_options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.AlignIQAModel, '_is_best', lambda model, value: model.last_results['tiny_val'][0] == 4)
    tiny_options['train'] |= {'patience': 2, 'total_epoch': 4}
    best = train(tiny_options, root=tmp_path)
    assert best['tiny_val']['srcc']['iter'] == 4
    assert list_training_states(states(tmp_path))[0].stem == '12'
    assert 'the training ends after iteration 12' in capsys.readouterr().err
    train(tiny_options, root=tmp_path, resume=True)
    assert list_training_states(states(tmp_path))[0].stem == '12'


# The curve


@pytest.mark.parametrize('change', ['a further validation set', 'workers', 'no validation', 'the seed'])
def test_the_curve_depends_on_the_seed_and_not_on_workers_or_validation(change, tiny_options, tmp_path):
    tiny_options['datasets']['train']['augment'] = {'hflip': True}
    tiny_options['train'] |= {'total_iter': 9, 'ridge_alpha': None}
    other = copy.deepcopy(tiny_options)
    if change == 'a further validation set':
        other['datasets']['val_2'] = {**other['datasets']['val'], 'name': 'second', 'override_phase': 'test'}
    elif change == 'workers':
        other['datasets']['train']['num_worker_per_gpu'] = 2
    elif change == 'no validation':
        del other['datasets']['val']
    else:
        other['manual_seed'] = 1
    train(tiny_options, root=tmp_path / 'one')
    train(other, root=tmp_path / 'other')
    assert bool(differences(net(tmp_path / 'one'), net(tmp_path / 'other'))) == (change == 'the seed')


def drawn(batches, first, last):
    batches.first, batches.last = first, last
    return list(batches)


def test_an_epoch_is_every_image_once_and_its_last_batch_is_filled_up():
    order = drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 6)
    for epoch in (0, 1):
        images = [index for batch in order[3 * epoch : 3 * epoch + 3] for _, index in batch]
        assert sorted(images[:10]) == list(range(10))
        assert images[10:] == images[:2]
        assert {number for batch in order[3 * epoch : 3 * epoch + 3] for number, _ in batch} == {epoch}
    assert order[:3] != order[3:]


def test_the_order_can_be_taken_up_anywhere_and_depends_on_the_seed():
    order = drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 20)
    for start in range(20):
        assert drawn(ResumableBatchSampler(10, batch_size=4, seed=0), start, 20) == order[start:]
    assert drawn(ResumableBatchSampler(10, batch_size=4, seed=1), 0, 20) != order


def test_the_order_without_shuffling_and_the_enlarged_epoch():
    plain = drawn(ResumableBatchSampler(3, batch_size=2, seed=0, shuffle=False), 0, 2)
    assert [[index for _, index in batch] for batch in plain] == [[0, 1], [2, 0]]
    enlarged = ResumableBatchSampler(3, batch_size=2, seed=0, enlarge=2)
    assert enlarged.per_epoch == 3
    assert sorted(index for batch in drawn(enlarged, 0, 3) for _, index in batch) == [0, 0, 1, 1, 2, 2]


def test_a_batch_larger_than_the_data_goes_round():
    ((*_,),) = drawn(ResumableBatchSampler(3, batch_size=7, seed=0), 0, 1)
    assert len(drawn(ResumableBatchSampler(3, batch_size=7, seed=0), 0, 1)[0]) == 7


def test_the_processes_take_all_of_a_batch_and_nothing_twice(monkeypatch):
    whole = drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 5)
    monkeypatch.setattr(batches, 'world_size', lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(batches, 'rank', lambda rank=rank: rank)
        parts.append(drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 5))
    for batch, one, other in zip(whole, *parts, strict=True):
        assert sorted(one + other) == sorted(batch)
        assert len(one) == len(other) == 2


def test_all_generators_are_seeded():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    batches.seed_everything(1, 2)
    first = draw()
    batches.seed_everything(1, 3)
    second = draw()
    batches.seed_everything(1, 2)
    assert draw() == first
    assert not set(first) & set(second)


# What is refused


def refused(options, tmp_path):
    with pytest.raises(ValueError) as caught:
        train(options, root=tmp_path)
    assert not (tmp_path / 'experiments').exists()
    return str(caught.value)


def test_test_sets_are_never_read_in_training(tiny_options, tmp_path):
    tiny_options['datasets']['test'] = {**tiny_options['datasets']['val'], 'name': 'tiny_test'}
    assert 'datasets.test is not possible' in refused(tiny_options, tmp_path)


def test_two_validation_sets_of_one_name_are_refused(tiny_options, tmp_path):
    tiny_options['datasets']['val_2'] = dict(tiny_options['datasets']['val'])
    assert 'need different names' in refused(tiny_options, tmp_path)


def test_a_gpu_that_is_not_there_is_refused(tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    tiny_options['num_gpu'] = 2
    assert 'num_gpu is 2, but torch sees no GPU' in refused(tiny_options, tmp_path)


def test_tensorboard_that_is_not_installed_is_told_before_any_work(tiny_options, tmp_path, monkeypatch):
    tiny_options['logger']['use_tb_logger'] = True
    monkeypatch.setattr(training, 'find_spec', lambda name: None)
    assert 'needs the package tensorboard' in refused(tiny_options, tmp_path)


def test_pyiqas_key_for_resuming_is_not_passed_over(tiny_options, tmp_path):
    tiny_options['path']['resume_state'] = 'some.state'
    assert 'path.resume_state is not read: --resume' in refused(tiny_options, tmp_path)


# What is left behind


def test_without_validation_the_last_network_is_kept_and_that_is_said(tiny_options, tmp_path, capsys):
    del tiny_options['datasets']['val']
    assert train(tiny_options, root=tmp_path) == {}
    assert models(tmp_path).keys() == {'net_start', 'net_latest'}
    assert 'No validation' in capsys.readouterr().err


def test_the_last_network_is_the_averaged_one(tiny_options, tmp_path):
    train(tiny_options, root=tmp_path)
    average = latest_training_state(states(tmp_path))['model']['average']
    latest = models(tmp_path)['net_latest']
    assert all(torch.equal(latest[name], value) for name, value in average.items())


@pytest.mark.filterwarnings('ignore:An input array is constant')
def test_a_run_without_any_valid_metric_says_that_there_is_no_best_network(tiny_options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, 'whole', lambda table, count: torch.ones_like(table))
    assert train(tiny_options, root=tmp_path) == {}
    assert 'no net_best.pth' in capsys.readouterr().err
    assert 'net_best' not in models(tmp_path)


def test_several_trainings_in_one_process_leave_nothing_behind(tiny_options, tmp_path):
    logger = get_root_logger()  # which gets its handler at the first call
    tiny_options['logger'] |= {'use_tb_logger': True, 'print_freq': 2}
    tiny_options['datasets']['train']['num_worker_per_gpu'] = 1
    before = logger.handlers[:], logger.level, torch.backends.cudnn.benchmark, signal.getsignal(signal.SIGTERM)
    given = copy.deepcopy(tiny_options)
    others = loaders()
    results = []
    for name in ('one', 'two'):
        results.append(train(tiny_options, root=tmp_path / name))
        assert tiny_options == given
        assert before == (logger.handlers[:], logger.level, torch.backends.cudnn.benchmark, signal.getsignal(signal.SIGTERM))
        (log,) = states(tmp_path / name).parent.glob('train_tiny_*.log')
        text = log.read_text()
        assert 'iteration 2 of 14: loss' in text and 'images/s' in text and ' left' in text
        assert 'with parameters' in text  # pyiqa's own lines
        assert any((tmp_path / name / 'tb_logger' / 'tiny').iterdir())
    assert results[0] == results[1]
    assert differences(net(tmp_path / 'one'), net(tmp_path / 'two')) == []
    assert no_more_loaders_than(others)


def test_without_a_terminal_there_is_a_line_every_print_freq_and_no_bar(tiny_options, tmp_path, capfd):
    tiny_options['logger']['print_freq'] = 5
    train(tiny_options, root=tmp_path)
    told = capfd.readouterr().err
    assert not sys.stderr.isatty()
    assert told.count(' of 14: loss') == 2
    assert 'training:' not in told  # the bar
    assert 'with parameters' not in told  # the whole network is for the file
