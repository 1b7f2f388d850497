import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from typer.testing import CliRunner

from align_iqa_plugin.archs.pretrained import METADATA
from align_iqa_plugin.cli import app
from align_iqa_plugin.models import trainer as training
from align_iqa_plugin.models.options_file import read_file
from align_iqa_plugin.models.training_state import latest_training_state

OPTIONS = Path(__file__).resolve().parents[2] / 'options' / 'train' / 'AlignIQA' / 'table1_cgi_msfa.yml'


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A folder with a small data set, whose scores are the brightness, a backbone, and an option file for both."""
    root = tmp_path_factory.mktemp('work')
    images = root / 'datasets' / 'tiny' / 'images'
    images.mkdir(parents=True)
    generator, rows = random.Random(0), []
    for i in range(60):
        shade = generator.randrange(256)
        Image.new('RGB', (64, 64), (shade, 255 - shade, 128)).save(images / f'{i:03}.png')
        rows.append({'name': f'{i:03}.png', 'mos': shade / 51, 'prompt': f'prompt {i // 2}'})
    with (images.parent / 'data.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    torch.manual_seed(0)
    save_file(timm.create_model('vit_tiny_patch16_224', num_classes=0).state_dict(), root / 'backbone.safetensors')

    options = read_file(OPTIONS)
    options['name'] = 'tiny'
    options['num_gpu'] = 0
    options['network'] |= {
        'backbone': 'vit_tiny_patch16_224',
        'backbone_weights': str(root / 'backbone.safetensors'),
        'input_size': 64,
    }
    for section in options['datasets'].values():
        section |= {'dataroot_target': str(images.parent), 'mos_range': [0, 5], 'batch_size_per_gpu': 4}
    options['train'] |= {'frozen_cache': str(root / 'cache'), 'ridge_alpha': 10, 'total_epoch': 2}
    options['val']['val_freq'] = 5
    (root / 'tiny.yml').write_text(yaml.safe_dump(options))
    return root


def command(*words, cwd):
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope='module')
def trained(work):
    done = command(sys.executable, '-m', 'align_iqa_plugin.cli', 'train', '--opt', 'tiny.yml', cwd=work)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_train_writes_checkpoints_under_the_current_folder_and_tells_the_best_validation(trained, work):
    models = work / 'experiments' / 'tiny' / 'models'
    assert {'net_start.pth', 'net_best.pth', 'net_latest.pth'} <= {file.name for file in models.iterdir()}
    assert 'agiqa3k_val: ' in trained.stdout
    assert 'srcc ' in trained.stdout
    assert max(file.stat().st_size for file in models.iterdir()) < 5e6  # the backbone alone has 22 MB


@pytest.mark.slow
def test_evaluate_reads_the_checkpoint_and_its_numbers_are_those_of_scipy(trained, work):
    weights = work / 'experiments' / 'tiny' / 'models' / 'net_best.pth'
    words = ['evaluate', str(work / 'datasets' / 'tiny'), '--opt', str(work / 'tiny.yml'), '--weights', str(weights)]
    result = CliRunner().invoke(app, [*words, '--device', 'cpu', '--output', str(work / 'out.json')])
    assert result.exit_code == 0, result.output
    out = json.loads((work / 'out.json').read_text())
    scores, mos = ([row[key] for row in out['images']] for key in ('score', 'mos'))
    assert out['n'] == len(scores) == 12
    assert out['SRCC'] == pytest.approx(stats.spearmanr(scores, mos)[0])
    assert out['PLCC'] == pytest.approx(stats.pearsonr(scores, mos)[0])
    assert f'{out["SRCC"]:.4f}' in result.output


FITTED_ALONE = {
    'network': {'guide': 'none', 'guide_options': None, 'injection': 'none', 'injection_options': None},
    'train': {'total_epoch': None, 'total_iter': 0, 'optim': None, 'scheduler': None, 'mos_loss_opt': None},
}


@pytest.mark.slow
@pytest.mark.parametrize('changes', [{}, FITTED_ALONE], ids=['trained', 'fitted alone'])
def test_pyiqas_own_command_trains_from_the_same_file_without_an_import_of_the_plugin(changes, work):
    import pyiqa

    options = yaml.safe_load((work / 'tiny.yml').read_text()) | {'name': 'align_iqa_test_of_pyiqa_train'}
    for section, change in changes.items():
        options[section] |= change
    (work / 'pyiqa.yml').write_text(yaml.safe_dump(options))
    experiment = Path(pyiqa.__file__).parents[1] / 'experiments' / options['name']  # pyiqa's own choice
    try:
        done = command(sys.executable, '-m', 'pyiqa.train', '-opt', 'pyiqa.yml', cwd=work)
        assert done.returncode == 0, done.stderr
        best, latest = (
            torch.load(experiment / 'models' / f'net_{which}.pth', weights_only=True) for which in ('best', 'latest')
        )
        assert json.loads(bytes(best['params'][METADATA].tolist()))['trained']
        assert best['params']['head.coefficients'].any() and latest['params']['head.coefficients'].any()
    finally:
        shutil.rmtree(experiment, ignore_errors=True)
        if experiment.parent.is_dir() and not any(experiment.parent.iterdir()):
            experiment.parent.rmdir()


def error_of(tmp_path, text):
    (tmp_path / 'bad.yml').write_text(text)
    result = CliRunner().invoke(app, ['train', '--opt', str(tmp_path / 'bad.yml')])
    assert result.exit_code == 2
    assert 'Traceback' not in result.output
    return result.output


def test_a_training_file_that_is_not_there_is_named(tmp_path):
    result = CliRunner().invoke(app, ['train', '--opt', str(tmp_path / 'none.yml')])
    assert result.exit_code == 2
    assert 'no training file' in result.output


def test_a_training_file_that_is_not_yaml_is_an_error(tmp_path):
    assert 'not valid YAML' in error_of(tmp_path, 'a: [1')


def test_a_training_file_cannot_run_code(tmp_path):
    assert 'not valid YAML' in error_of(tmp_path, 'name: !!python/object/apply:os.getcwd []')


@pytest.mark.parametrize('key', ['name', 'datasets', 'network', 'train', 'logger', 'path', 'val'])
def test_a_section_that_is_missing_is_named(key, tmp_path):
    options = read_file(OPTIONS)
    del options[key]
    assert f"lacks the key '{key}'" in error_of(tmp_path, yaml.safe_dump(options))


def test_each_way_to_end_has_its_exit_status_and_one_sentence(tiny_options, tmp_path, monkeypatch):
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(tiny_options))
    ways = {
        1: training.TrainingError('the disk is full.'),
        2: ValueError('no such set.'),
        130: training.Interrupted(signal.SIGINT, 'stopped and saved.'),
        143: training.Interrupted(signal.SIGTERM, 'stopped and saved.'),
    }
    for status, error in ways.items():
        given = {}

        def train(options, *, root, resume, error=error, given=given):
            given |= {'options': options, 'root': root, 'resume': resume}
            raise error

        monkeypatch.setattr(training, 'train', train)
        result = CliRunner().invoke(app, ['train', '--opt', str(tmp_path / 'tiny.yml'), *(['--resume'] if status == 1 else [])])
        assert result.exit_code == status, result.stderr
        assert result.stderr == f'align-iqa train: {error}\n'
        assert given == {'options': yaml.safe_load(yaml.safe_dump(tiny_options)), 'root': Path.cwd(), 'resume': status == 1}


def start(root):
    """`align-iqa train --resume` in a process of its own, and what it writes."""
    words = [sys.executable, '-m', 'align_iqa_plugin.cli', 'train', '--opt', 'tiny.yml', '--resume']
    return subprocess.Popen(words, cwd=root, stderr=subprocess.PIPE, text=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})


def wait_for_state(process, states, iteration):
    while not any(int(path.stem) >= iteration for path in states.glob('*.state')):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def end_state(root, iteration):
    state = latest_training_state(root / 'experiments' / 'tiny' / 'training_states')
    assert state['iteration'] == iteration
    return state['model']


def killed_and_whole(root, options, kills, *, total):
    """Train in two folders, in the one killed by each of some signals; both end states."""
    options['train']['total_iter'], options['val']['val_freq'] = total, 50
    options['logger'] = {'save_checkpoint_freq': 1, 'print_freq': 100}
    folder = root / 'killed'
    folder.mkdir()
    (folder / 'tiny.yml').write_text(yaml.safe_dump(options))
    states = folder / 'experiments' / 'tiny' / 'training_states'
    generator, reached = random.Random(0), 0
    for number in kills:
        process = start(folder)
        wait_for_state(process, states, reached + generator.randrange(1, total // 8))
        process.send_signal(number)
        messages = process.communicate(timeout=120)[1]
        assert process.returncode == (143 if number == signal.SIGTERM else -9), messages
        if number == signal.SIGTERM:
            assert 'align-iqa train: stopped and saved at iteration' in messages
        reached = max(int(path.stem) for path in states.glob('*.state'))
    options['logger'] = {}
    training.train(options, root=folder, resume=True)
    training.train(options, root=root / 'whole')
    return end_state(folder, total), end_state(root / 'whole', total)


@pytest.mark.slow
def test_a_run_that_is_terminated_and_killed_many_times_ends_as_one_that_is_not(tiny_options, tmp_path, differences):
    kills = [signal.SIGTERM, *[signal.SIGKILL] * 6]
    assert differences(*killed_and_whole(tmp_path, tiny_options, kills, total=400)) == []


def test_a_folder_that_cannot_be_written_is_a_sentence(work, monkeypatch):
    def locked(*_, **__):
        raise PermissionError(13, 'Permission denied', 'experiments/tiny')

    monkeypatch.chdir(work)
    monkeypatch.setattr(training, 'train', locked)
    monkeypatch.setattr('align_iqa_plugin.models.options_check.check_options', lambda options: None)
    result = CliRunner().invoke(app, ['train', '--opt', 'tiny.yml'])
    assert result.exit_code == 1
    assert result.stderr.endswith("align-iqa train: 'experiments/tiny': Permission denied.\n")


def test_the_resolved_file_is_checked_before_the_option_file_is_read(tmp_path):
    result = CliRunner().invoke(app, ['train', '--opt', 'none.yml', '--resolve', str(tmp_path / 'nowhere' / 'x.yml')])
    assert result.exit_code == 2 and 'there is no folder' in result.stderr
