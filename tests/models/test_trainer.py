import copy
import errno
import os
import signal
import sys
import threading
import time

import pytest
import torch
from filelock import FileLock
from PIL import Image
from pyiqa.utils import get_root_logger

from align_iqa_plugin.models import align_iqa_model, run_options
from align_iqa_plugin.models import trainer as training
from align_iqa_plugin.models.options_file import read_file
from align_iqa_plugin.models.trainer import Interrupted, TrainingError, train
from align_iqa_plugin.models.training_state import latest_training_state, list_training_states
from align_iqa_plugin.models.validation import Selection


def states(root):
    return root / 'experiments' / 'tiny' / 'training_states'


def models(root):
    return {path.stem: torch.load(path, weights_only=True)['params'] for path in (states(root).parent / 'models').iterdir()}


def net(root):
    return latest_training_state(states(root))['model']['net']


@pytest.fixture(scope='module')
def uninterrupted(tiny_training_file, tmp_path_factory):
    """The training of `tiny_options` from start to end: its folder and its best results. Not to be changed."""
    root = tmp_path_factory.mktemp('uninterrupted')
    return root, train(tiny_training_file, root=root)


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


# One process at a time


@pytest.mark.parametrize('resume', [False, True])
def test_a_second_training_of_a_name_is_refused_and_touches_nothing_of_the_first(tiny_options, tmp_path, resume):
    tiny_options['train']['total_epoch'] = 1
    train(tiny_options, root=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    with FileLock(tmp_path / 'experiments' / '.locks' / 'tiny'), pytest.raises(ValueError, match='another process is training'):
        train(tiny_options, root=tmp_path, resume=resume)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before


# Resume


def continued(options, root, at, iterations):
    """Train, cut off after each of some iterations and then resumed; the best results."""
    options['logger']['save_checkpoint_freq'] = 3
    for iteration in iterations:
        at(iteration, cut)
        with pytest.raises(Cut):
            train(options, root=root, resume=True)
    return train(options, root=root, resume=True)


def assert_same_end(one, other, differences):
    """To the bit: training states and saved networks."""
    assert differences(*(latest_training_state(states(root))['model'] for root in (one, other))) == []
    assert differences(models(one), models(other)) == []


def test_a_run_that_is_cut_off_again_and_again_ends_as_one_that_is_not(uninterrupted, tiny_options, tmp_path, at, differences):
    """Fitted start, averaged weights, a schedule by iteration."""
    root, best = uninterrupted
    assert continued(tiny_options, tmp_path, at, (2, 5, 11)) == best
    assert_same_end(tmp_path, root, differences)


def test_so_does_one_in_fp16_with_warm_up_steps_by_epoch_augmentation_and_workers(tiny_options, tmp_path, at, differences):
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
    best = train(tiny_options, root=tmp_path / 'uninterrupted')
    assert continued(tiny_options, tmp_path / 'cut', at, (5, 11)) == best
    assert_same_end(tmp_path / 'cut', tmp_path / 'uninterrupted', differences)


@pytest.mark.gpu
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_on_a_gpu_a_run_that_is_cut_off_validates_as_one_that_is_not(precision, tiny_options, tmp_path, at):
    """Not to the bit: some of CUDA's backward passes add up in any order."""
    tiny_options['num_gpu'] = 1
    tiny_options['train']['precision'] = precision
    best = train(tiny_options, root=tmp_path / 'uninterrupted')['tiny_val']
    again = continued(tiny_options, tmp_path / 'cut', at, (5, 11))['tiny_val']
    assert again['rmse']['val'] == pytest.approx(best['rmse']['val'], rel=1e-2)


@pytest.mark.gpu
def test_a_training_on_a_gpu_validates_as_one_on_the_cpu(uninterrupted, tiny_options, tmp_path):
    tiny_options['num_gpu'] = 1
    best = train(tiny_options, root=tmp_path)['tiny_val']
    assert best['rmse']['val'] == pytest.approx(uninterrupted[1]['tiny_val']['rmse']['val'], rel=0.05)


def test_a_torn_state_costs_some_iterations_and_changes_nothing(uninterrupted, tiny_options, tmp_path, at, capsys, differences):
    root, best = uninterrupted
    at(9, cut)
    with pytest.raises(Cut):
        train(tiny_options, root=tmp_path)
    newest, before = list_training_states(states(tmp_path))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert train(tiny_options, root=tmp_path, resume=True) == best
    messages = capsys.readouterr().err
    assert f'{newest} is damaged' in messages
    assert f'goes on from {before}' in messages
    assert differences(net(tmp_path), net(root)) == []


def test_a_finished_run_is_not_trained_further_and_can_be_made_longer(uninterrupted, tiny_options, tmp_path, differences):
    tiny_options['train']['total_epoch'] = 1
    best = train(tiny_options, root=tmp_path)
    assert train(tiny_options, root=tmp_path, resume=True) == best
    tiny_options['train']['total_epoch'] = 2
    tiny_options['val']['val_freq'] = 7
    with pytest.raises(ValueError, match='--resume: val.val_freq is 7, and was 4 when the run began'):
        train(tiny_options, root=tmp_path, resume=True)
    tiny_options['val']['val_freq'] = 4
    train(tiny_options, root=tmp_path, resume=True)
    assert differences(net(tmp_path), net(uninterrupted[0])) == []


def test_without_resume_an_experiment_of_the_same_name_is_kept_under_another(tiny_options, tmp_path):
    tiny_options['train']['total_iter'] = 1
    del tiny_options['datasets']['val']
    train(tiny_options, root=tmp_path)
    (states(tmp_path).parent / 'note').write_text('mine')
    train(tiny_options, root=tmp_path)
    archived, now = sorted((tmp_path / 'experiments').glob('tiny*'), key=lambda path: path.name, reverse=True)
    assert (archived / 'note').exists() and not (now / 'note').exists()


def test_resume_without_a_state_starts_from_the_beginning_and_says_so(tiny_options, tmp_path, capsys):
    tiny_options['train']['total_iter'] = 1
    train(tiny_options, root=tmp_path, resume=True)
    assert 'no training state to go on from: the training starts from the beginning' in capsys.readouterr().err
    assert list_training_states(states(tmp_path))


# Stopping


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_iteration_and_the_run_can_go_on(
    number, uninterrupted, tiny_options, tmp_path, at, differences
):
    before, iteration = signal.getsignal(number), 6 if number == signal.SIGINT else 1
    at(iteration, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=f'saved at iteration {iteration} of 14: --resume goes on from there') as caught:
        train(tiny_options, root=tmp_path)
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert list_training_states(states(tmp_path))[0].stem == str(iteration)
    if number == signal.SIGINT:
        train(tiny_options, root=tmp_path, resume=True)
        assert differences(net(tmp_path), net(uninterrupted[0])) == []


@pytest.mark.parametrize('place', ['build_model', 'validation_metrics'])
def test_a_signal_before_the_first_iteration_stops_at_once(place, tiny_options, tmp_path, monkeypatch):
    owner = training if place == 'build_model' else align_iqa_model
    monkeypatch.setattr(owner, place, lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match='stopped at once'):
        train(tiny_options, root=tmp_path)


def test_a_full_disk_stops_with_one_sentence_and_keeps_the_last_state(tiny_options, tmp_path, at, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tiny_options['val']['val_freq'] = 2
    at(3, lambda: monkeypatch.setattr(os, 'fsync', full))
    with pytest.raises(
        TrainingError, match=r'stopped at iteration 4 of 14: .*4.state.* cannot be written: No space left'
    ) as caught:
        train(tiny_options, root=tmp_path)
    assert '--resume goes on from ' in str(caught.value) and '2.state' in str(caught.value)
    assert latest_training_state(states(tmp_path))['iteration'] == 2


@pytest.mark.parametrize('use_tb_logger', [False, True])
def test_where_no_file_can_grow_the_last_state_is_kept_and_the_log_has_one_sentence(
    use_tb_logger, tiny_options, tmp_path, at, monkeypatch, capsys
):
    """A real limit, in place of a full disk, under the log, TensorBoard and the states alike."""
    resource = pytest.importorskip('resource')
    tiny_options['val']['val_freq'] = 2
    tiny_options['logger'] |= {'print_freq': 1, 'use_tb_logger': use_tb_logger}
    excepthook, (limit, most) = threading.excepthook, resource.getrlimit(resource.RLIMIT_FSIZE)
    at(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, most)))
    try:
        with pytest.raises(
            TrainingError, match=r'stopped at iteration [34] of 14: .*File too large; --resume goes on .*2.state'
        ):
            train(tiny_options, root=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    messages = capsys.readouterr().err
    assert messages.count(".log' lacks messages from here on: File too large.") == 1
    assert 'Traceback' not in messages and 'Logging error' not in messages
    assert threading.excepthook is excepthook
    assert latest_training_state(states(tmp_path))['iteration'] == 2


def test_a_loss_that_is_not_finite_stops_with_one_sentence(tiny_options, tmp_path, monkeypatch):
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
    monkeypatch.setattr(Selection, '_is_best', lambda selection, value: selection.latest['tiny_val'][0] == 1)
    tiny_options['train'] |= {'patience': 2, 'total_iter': 8}
    tiny_options['val']['val_freq'] = 1
    best = train(tiny_options, root=tmp_path)
    assert best['tiny_val']['srcc']['iter'] == 1
    assert list_training_states(states(tmp_path))[0].stem == '3'
    assert 'the training ends after iteration 3' in capsys.readouterr().err
    train(tiny_options, root=tmp_path, resume=True)
    assert list_training_states(states(tmp_path))[0].stem == '3'


# The curve


@pytest.fixture(scope='module')
def curve(tiny_training_file, tmp_path_factory):
    """A training without a fitted start: its options, not to be changed, and its network at the end."""
    options, root = copy.deepcopy(tiny_training_file), tmp_path_factory.mktemp('curve')
    options['datasets']['train']['augment'] = {'hflip': True}
    options['train'] |= {'total_iter': 9, 'ridge_alpha': None}
    train(options, root=root)
    return options, net(root)


@pytest.mark.parametrize('change', ['a further validation set', 'workers', 'no validation', 'the seed'])
def test_the_curve_depends_on_the_seed_and_not_on_workers_or_validation(change, curve, tmp_path, differences):
    options = copy.deepcopy(curve[0])
    if change == 'a further validation set':
        options['datasets']['val_2'] = {**options['datasets']['val'], 'name': 'second', 'override_phase': 'test'}
    elif change == 'workers':
        options['datasets']['train']['num_worker_per_gpu'] = 2
    elif change == 'no validation':
        del options['datasets']['val']
    else:
        options['manual_seed'] = 1
    train(options, root=tmp_path)
    assert bool(differences(curve[1], net(tmp_path))) == (change == 'the seed')


# Errors before any work


def error_before_any_work(options, tmp_path):
    with pytest.raises(ValueError) as caught:
        train(options, root=tmp_path)
    assert not (tmp_path / 'experiments').exists()
    return str(caught.value)


def test_test_sets_are_never_read_in_training(tiny_options, tmp_path):
    tiny_options['datasets']['test'] = {**tiny_options['datasets']['val'], 'name': 'tiny_test'}
    assert 'datasets.test is not read in training' in error_before_any_work(tiny_options, tmp_path)


def test_two_validation_sets_of_one_name_are_an_error(tiny_options, tmp_path):
    tiny_options['datasets']['val_2'] = dict(tiny_options['datasets']['val'])
    assert 'need different names' in error_before_any_work(tiny_options, tmp_path)


def test_a_gpu_that_is_not_there_is_an_error(tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    tiny_options['num_gpu'] = 2
    assert 'num_gpu is 2, but torch sees no GPU' in error_before_any_work(tiny_options, tmp_path)


def test_tensorboard_that_is_not_installed_is_an_error(tiny_options, tmp_path, monkeypatch):
    tiny_options['logger']['use_tb_logger'] = True
    monkeypatch.setattr(run_options, 'find_spec', lambda name: None)
    assert 'needs the package tensorboard' in error_before_any_work(tiny_options, tmp_path)


# What is left behind


def test_without_validation_the_last_network_is_kept_and_that_is_said(tiny_options, tmp_path, capsys):
    del tiny_options['datasets']['val']
    tiny_options['train']['total_iter'] = 2
    assert train(tiny_options, root=tmp_path) == {}
    assert models(tmp_path).keys() == {'net_start', 'net_latest'}
    assert 'No validation' in capsys.readouterr().err


def test_the_last_network_is_the_averaged_one(uninterrupted):
    state, latest = latest_training_state(states(uninterrupted[0]))['model'], models(uninterrupted[0])['net_latest']
    averages = [value for key, value in state['average'].items() if key != 'n_averaged']
    changed = [value for name, value in latest.items() if not torch.equal(value, state['net'][name])]
    assert changed
    assert all(any(torch.equal(value, average) for average in averages) for value in changed)


@pytest.mark.filterwarnings('ignore:An input array is constant')
def test_a_run_without_any_valid_metric_says_that_there_is_no_best_network(tiny_options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, 'gather', lambda table, count: torch.ones_like(table))
    tiny_options['train']['total_iter'] = 1
    assert train(tiny_options, root=tmp_path) == {}
    assert 'no net_best.pth' in capsys.readouterr().err
    assert 'net_best' not in models(tmp_path)


def test_several_trainings_in_one_process_leave_nothing_behind(tiny_options, tmp_path, differences):
    logger = get_root_logger()  # which gets its handler at the first call
    tiny_options['logger'] |= {'use_tb_logger': True, 'print_freq': 2}
    tiny_options['train']['total_iter'] = 4
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
        assert 'iteration 2 of 4: loss' in text and 'images/s' in text and ' left' in text
        assert 'with parameters' in text  # pyiqa's own lines
        assert any((tmp_path / name / 'tb_logger' / 'tiny').iterdir())
    assert results[0] == results[1]
    assert differences(net(tmp_path / 'one'), net(tmp_path / 'two')) == []
    assert no_more_loaders_than(others)


def test_without_a_terminal_there_is_a_line_every_print_freq_and_no_bar(tiny_options, tmp_path, capfd):
    tiny_options['logger']['print_freq'] = 2
    tiny_options['train']['total_iter'] = 5
    train(tiny_options, root=tmp_path)
    messages = capfd.readouterr().err
    assert not sys.stderr.isatty()
    assert messages.count(' of 5: loss') == 2
    assert 'training:' not in messages  # the bar
    assert 'with parameters' not in messages  # the whole network is for the file


def test_the_options_beside_the_log_are_read_back_as_they_were(tiny_options, tmp_path):
    tiny_options['paper'] = {'row': '1e5'}  # a number to readers of YAML 1.2, and to ours, without quotes
    tiny_options['train']['total_iter'] = 0
    train(copy.deepcopy(tiny_options), root=tmp_path)
    assert read_file(tmp_path / 'experiments' / 'tiny' / 'options.yml')['paper'] == {'row': '1e5'}
