"""pyiqa's own scripts, unmodified: what its wheel lacks, from the source tree that ALIGN_IQA_PYIQA_SOURCE names.

The tree is a clone of pyiqa's repository, or its source distribution:
``pip download pyiqa==0.1.16 --no-deps --no-binary pyiqa``, unpacked.
"""

import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.cli import app
from align_iqa_plugin.compare.statistics import summarise
from align_iqa_plugin.register import register_archs, register_datasets

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / 'align_iqa_plugin' / 'samples'
VARIABLE = 'ALIGN_IQA_PYIQA_SOURCE'

pytestmark = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no source tree of pyiqa's repository")


@pytest.fixture
def source() -> Path:
    return Path(os.environ[VARIABLE]).resolve(strict=True)


@pytest.fixture
def data_opt(tmp_path):
    """Writes our option file of AGIQA-3K for the sample images, all of them, pinned, and gives its path."""

    def write(**more) -> Path:
        text = (ROOT / 'options' / 'data' / 'agiqa3k.yml').read_text(encoding='utf-8')
        options = yaml.safe_load(text)
        del options['agiqa3k']['split_index']
        folders = {'dataroot_target': str(SAMPLES), 'meta_info_file': str(SAMPLES / 'samples.csv')}
        options['agiqa3k'] |= {**folders, 'pin_memory': True, **more}
        (tmp_path / 'data.yml').write_text(yaml.safe_dump(options), encoding='utf-8')
        return tmp_path / 'data.yml'

    return write


def run_in(source: Path, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'}
    environment.pop('PYTEST_ADDOPTS', None)
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=source, env=environment, capture_output=True, text=True, timeout=1800
    )


def correlations(path: Path) -> list[float]:
    """PLCC, SRCC and KRCC, from a table of one metric on one data set."""
    header, (metric, cell) = csv.reader(path.open(newline=''))
    assert (header, metric) == (['Metric name', 'agiqa3k(PLCC/SRCC/KRCC)'], 'align_iqa')
    return [float(value) for value in cell.split('/')]


def test_the_benchmark_script_gives_the_same_values_as_our_comparison(source, data_opt, tmp_path):
    arguments = ['-m', 'align_iqa', '--data_opt', str(data_opt())]
    result = run_in(source, 'benchmark_results.py', *arguments, '--save_result_path', tmp_path / 'results.csv')
    assert result.returncode == 0, result.stderr
    assert 'Error in testing' not in result.stdout  # what it says where it leaves an image out, with exit status 0

    ours = CliRunner().invoke(app, ['compare', *arguments, '--device', 'cpu', '--out', str(tmp_path / 'out')])
    assert ours.exit_code == 0, ours.output
    summary = summarise(pd.read_parquet(tmp_path / 'out' / 'scores.parquet'), resamples=2)
    metric = summary['datasets']['agiqa3k']['metrics']['align_iqa']
    assert metric['n'] == 12
    expected = [abs(metric[name]['value']) for name in ('plcc', 'srcc', 'krcc')]
    assert correlations(tmp_path / 'results.csv') == pytest.approx(expected, abs=5.1e-5)  # it writes 4 decimals


@pytest.mark.filterwarnings('ignore:.*pin_memory.*:UserWarning', 'ignore:.*worker processes.*:UserWarning')  # torch's
@pytest.mark.parametrize('batch_size', [1, 5])
def test_the_benchmark_script_brings_each_image_with_its_prompt(source, data_opt, tmp_path, monkeypatch, batch_size):
    register_archs()
    register_datasets()
    features, seen = AlignIQA.features, []

    def noting_features(network, image, prompts, *rest):
        seen.extend(zip(image.mean((1, 2, 3)).tolist(), prompts or [], strict=True))
        return features(network, image, prompts, *rest)

    monkeypatch.setattr(AlignIQA, 'features', noting_features)
    monkeypatch.chdir(source)
    options = ['-m', 'align_iqa', '--data_opt', data_opt(batch_size_per_gpu=batch_size)]
    options += ['--save_result_path', tmp_path / 'results.csv']
    monkeypatch.setattr(sys, 'argv', ['benchmark_results.py', *map(str, options)])
    runpy.run_path(str(source / 'benchmark_results.py'), run_name='__main__')

    from pyiqa.data import build_dataset

    section = yaml.safe_load(data_opt().read_text(encoding='utf-8'))['agiqa3k'] | {'prompts_with_images': False}
    samples = list(build_dataset(section))
    assert [prompt for _, prompt in seen] == [sample['prompt'] for sample in samples]
    assert len({prompt for _, prompt in seen}) == len(samples) == 12
    assert [mean for mean, _ in seen] == pytest.approx([sample['img'].mean().item() for sample in samples], abs=1e-6)
    assert len(correlations(tmp_path / 'results.csv')) == 3


def test_pyiqas_own_tests_pass_on_align_iqa(source, tmp_path):
    report = tmp_path / 'report.xml'
    chosen = ['-p', 'no:cacheprovider', '-k', 'align_iqa', f'--junitxml={report}', 'tests/test_metric_general.py']
    result = run_in(source, '-m', 'pytest', *chosen)
    assert result.returncode == 0, result.stdout
    cases = {case.get('name'): [child.tag for child in case] for case in ElementTree.parse(report).iter('testcase')}
    consistency = [] if torch.cuda.is_available() else ['skipped']
    assert cases == {
        'test_forward[align_iqa]': [],
        'test_gradient_backward[align_iqa]': [],
        'test_cpu_gpu_consistency[align_iqa]': consistency,
    }
