"""`align-iqa doctor`: one screen, which names what is wrong."""

import subprocess

import pytest
from typer.testing import CliRunner

import align_iqa_plugin
from align_iqa_plugin.archs import weights
from align_iqa_plugin.cli import app, doctor


@pytest.fixture(autouse=True)
def consistent(monkeypatch):
    """The version of the source tree that is tested, also where an older one is installed from it."""
    version = doctor._version
    monkeypatch.setattr(
        doctor, '_version', lambda name: align_iqa_plugin.__version__ if name == 'align-iqa-plugin' else version(name)
    )


@pytest.fixture
def quick(monkeypatch):
    """Without a new Python, which takes seconds (test_autoload.py has them)."""
    monkeypatch.setattr(
        doctor.subprocess, 'run', lambda command, **options: subprocess.CompletedProcess(command, 0, 'True\n', '')
    )


def run():
    return CliRunner().invoke(app, ['doctor'])


def test_a_sound_installation_fits_on_a_screen_and_names_what_matters(quick):
    result = run()
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) < 24 and 'PROBLEM' not in result.stdout
    for word in (
        align_iqa_plugin.__version__,
        'a new Python finds the metric',
        'lists align_iqa',
        'pretrained.create_align_iqa',
        'sha256',
    ):
        assert word in result.stdout


def test_what_the_extras_install_is_listed_and_what_tests_need_is_not(quick, monkeypatch):
    required = ['torch>=2.6', 'onnx; extra == "onnx"', 'ray[data]>=2.54; extra == "ray"', 'ruff; extra == "test"']
    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: required)
    monkeypatch.setattr(doctor.metadata, 'version', lambda name: '9.9')
    (line,) = (line for line in run().stdout.splitlines() if line.startswith('extras:'))
    assert line.split(maxsplit=1)[1] == 'onnx 9.9, ray 9.9'


def test_damaged_and_missing_weights_are_named(quick, tmp_path, monkeypatch):
    card = weights.PACKAGED_MODEL_CARD.read_text()
    (tmp_path / 'align_iqa_agiqa3k.safetensors').write_bytes(b'damaged')
    monkeypatch.setattr(weights, 'PACKAGED', tmp_path)
    (tmp_path / 'card.json').write_text(card)
    monkeypatch.setattr(weights, 'PACKAGED_MODEL_CARD', tmp_path / 'card.json')
    result = run()
    assert result.exit_code == 1
    assert 'PROBLEM: align_iqa_agiqa3k.safetensors is damaged' in result.stdout
    for name in ('clip_vitb16_visual_int8.safetensors', 'align_iqa_agiqa3k.map.safetensors', 'training_images.txt'):
        assert f'PROBLEM: {name} cannot be read' in result.stdout


def test_a_hook_that_is_switched_off_is_said_and_a_missing_one_is_a_problem(quick, monkeypatch):
    monkeypatch.setenv('TORCH_DEVICE_BACKEND_AUTOLOAD', '0')
    assert 'off, since TORCH_DEVICE_BACKEND_AUTOLOAD is 0' in run().stdout
    monkeypatch.delenv('TORCH_DEVICE_BACKEND_AUTOLOAD')
    monkeypatch.setattr(doctor.metadata, 'entry_points', lambda group: [])
    result = run()
    assert result.exit_code == 1 and 'PROBLEM: the metadata has no entry point' in result.stdout


def test_a_new_python_that_does_not_find_the_metric_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor.sys, 'executable', '/bin/false')
    result = run()
    assert result.exit_code == 1 and 'PROBLEM: in a new Python' in result.stdout


def test_metadata_of_another_version_is_a_problem(quick, monkeypatch):
    monkeypatch.setattr(doctor, '_version', lambda name: '0.0.1')
    result = run()
    assert result.exit_code == 1 and 'states 0.0.1: reinstall' in result.stdout
