"""What several test files need: fresh interpreters, the built wheel, the folder of image sets."""

import atexit
import copy
import csv
import gc
import importlib
import io
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from PIL import Image

# the shapes in the annotations are checked in tests only
PURE_TORCH = ['backbone', 'guides.saliency', 'head', 'injection', 'msfa', 'score_range', 'views']
install_import_hook([f'align_iqa_plugin.archs.{name}' for name in PURE_TORCH], 'beartype.beartype')

os.environ.setdefault('OMP_NUM_THREADS', '1')  # small models on few cores; read when torch is imported

# where the environment forbids files of bytecode, each of the many interpreters would take 10 s to compile torch anew
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False

# In a new environment Python compiles what it imports: of two processes, each begins with what the other needs last.
BEGIN = {'gw0': ['timm'], 'gw1': ['sympy', 'scipy.stats', 'pandas', 'hypothesis', 'matplotlib.figure', 'openpyxl', 'timm']}
for name in BEGIN.get(os.environ.get('PYTEST_XDIST_WORKER', ''), ()):
    importlib.import_module(name)

ROOT = Path(__file__).resolve().parents[1]


LONGEST = ('test_packaged_model.py', 'test_ray_workers.py', 'test_process_group.py', 'test_compare.py', 'test_trainer.py')


def pytest_collection_modifyitems(items):
    """The files that take longest begin, so that processes which share the files end together."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_runtest_setup(item):
    """A test marked `gpu` is skipped where there is none."""
    if item.get_closest_marker('gpu'):
        import torch

        if not torch.cuda.is_available():
            pytest.skip('needs CUDA')


def pytest_collection_finish():
    """What the imports made stays: to go through it again costs each garbage collection a second."""
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture
def fresh(tmp_path):
    """Runs Python code as a script in a new interpreter, outside the source tree, and returns what it printed."""

    def run(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
        script = tmp_path / 'script.py'
        script.write_text(code)
        result = subprocess.run(
            [sys.executable, *options, str(script)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stderr
        return result

    return run


@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the source tree, so that no older build gets into it."""
    source, built = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    shutil.copytree(ROOT / 'align_iqa_plugin', source / 'align_iqa_plugin', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'setup.cfg', 'setup.py', 'align_iqa_plugin_autoload.py', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', str(built), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope='session')
def installed_wheel(wheel, tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with the wheel installed in it; it comes before an editable install."""
    folder = tmp_path_factory.mktemp('installed')
    command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', str(folder), str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope='session')
def tiny_vlm(tmp_path_factory) -> dict[str, str | None]:
    """Options of the semantic guide for an open_clip model of a size for tests; its random weights relate nothing."""
    import open_clip
    from safetensors.torch import save_file

    open_clip.factory._MODEL_CONFIGS['test-tiny'] = {
        'embed_dim': 16,
        'quick_gelu': True,
        'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 32, 'head_width': 16, 'patch_size': 16},
        'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
    }
    path = tmp_path_factory.mktemp('vlm') / 'vlm.safetensors'
    save_file(open_clip.create_model('test-tiny').state_dict(), path)
    yield {'vlm': 'test-tiny', 'vlm_pretrained': None, 'vlm_weights': str(path)}
    del open_clip.factory._MODEL_CONFIGS['test-tiny']


@pytest.fixture(scope='session')
def data_folder() -> Path:
    """The folder of image sets, from ALIGN_IQA_DATA; a test that asks for it is marked `data`."""
    folder = Path(os.environ.get('ALIGN_IQA_DATA', ROOT.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no image sets in {folder}: set ALIGN_IQA_DATA')
    return folder


@pytest.fixture(scope='session')
def small_releases(tmp_path_factory) -> Path:
    """A folder with small copies of the layouts of all known releases, each in a folder of its name. Not to be changed."""
    import numpy as np
    import pandas
    import scipy.io

    root = tmp_path_factory.mktemp('datasets')
    encoded = io.BytesIO()
    Image.new('RGB', (8, 8)).save(encoded, format='PNG')
    numbers = iter(range(10**6))

    def save(folder, names):
        (root / folder).mkdir(parents=True)
        for name in names:
            # no two files are the same; decoders pass over what follows the end of a PNG
            (root / folder / name).write_bytes(encoded.getvalue() + next(numbers).to_bytes(4, 'big'))

    def prompts(count):  # the first ones are what readers of tables like to change
        return ['None', 'NA', '001', ' a "cat", two ', *(f'prompt {i}' for i in range(4, count))]

    generators = ['AttnGAN', 'DALLE2', 'glide', 'midjourney', 'sd1.5', 'xl2.2']
    rows = [
        [f'{generator}_{"lowstep" if i % 2 else "normal"}_{i:03d}.jpg', prompt, '', '', '', f'{i / 5}', '0.1', f'{i / 4}', '1']
        for generator in generators
        for i, prompt in enumerate(prompts(20))
    ]
    save('AGIQA-3K/images', [row[0] for row in rows])
    header = ['name', 'prompt', 'adj1', 'adj2', 'style', 'mos_quality', 'std_quality', 'mos_align', 'std_align']
    pandas.DataFrame(rows, columns=header).to_csv(root / 'AGIQA-3K' / 'data.csv', index=False)

    rows = [
        [f'{generator}_{i}_2_0_1.jpg', prompt, i / 7]
        for generator in ('deepai', 'dreamStudio')
        for i, prompt in enumerate(prompts(12))
    ]
    save('AGIQA-1K/file', [row[0] for row in rows])
    table = pandas.DataFrame(rows, columns=['Image', 'Prompt', 'MOS'])
    table.to_excel(root / 'AGIQA-1K' / 'AIGC_MOS_Zscore.xlsx', index=False)

    save('AIGCIQA2023/Image/allimg', [f'{i}.png' for i in range(2400)])
    (root / 'AIGCIQA2023' / 'DATA' / 'MOS').mkdir(parents=True)
    for number in (1, 2, 3):
        scores = {'MOSz': np.arange(2400.0)[:, None] / 50 + number}
        scipy.io.savemat(root / 'AIGCIQA2023' / 'DATA' / 'MOS' / f'mosz{number}.mat', scores)
    table = pandas.DataFrame({'class': 'x', 'style': 'y', 'prompt': prompts(100)})
    table.to_excel(root / 'AIGCIQA2023' / 'AIGCIQA2023_Prompts.xlsx', index=False)

    rows = [[f'{generator}_{i:04d}.png', prompt, i / 7] for generator in 'ABC' for i, prompt in enumerate(prompts(12))]
    save('AIGIQA-20K/train', [row[0] for row in rows])
    pandas.DataFrame(rows, columns=['name', 'prompt', 'mos']).to_csv(root / 'AIGIQA-20K' / 'info_train.csv', index=False)

    rows = [['', prompt, f'{i}.png', i / 7, i / 8, i / 9] for i, prompt in enumerate(prompts(24))]
    save('PKU-AIGIQA-4K/All', [row[2] for row in rows])
    header = ['Image_prompt', 'Text_prompt', 'Generated_image', 'MOS_q', 'MOS_a', 'MOS_c']
    pandas.DataFrame(rows, columns=header).to_excel(root / 'PKU-AIGIQA-4K' / 'annotation.xlsx', index=False)

    rows = [[f'{i}.JPG', i / 10, 20.5] for i in range(533, 553)]
    save('LIVE-Challenge/images', [row[0] for row in rows])
    pandas.DataFrame(rows, columns=['name', 'mos', 'std']).to_csv(root / 'LIVE-Challenge' / 'labels.csv', index=False)

    # as released: two commas too many in the one table, and a file whose name the table spells in another case
    save('BIQ2021/Images', [f'ss0{i % 3 + 1} ({i}).{"JPG" if i == 7 else "jpg"}' for i in range(48)])
    rows = [f'ss0{i % 3 + 1} ({i}).jpg,{i / 47:.4f}' for i in range(48)]
    train = ['Image Name,MOS,,', *(f'{row},,' for row in rows[:40])]
    (root / 'BIQ2021' / 'Train (Images and MOS).csv').write_text('\n'.join(train))
    (root / 'BIQ2021' / 'Test (Images and MOS).csv').write_text('\n'.join(['Image Name,MOS', *rows[40:]]))
    return root


@pytest.fixture(scope='session')
def tiny_images(tmp_path_factory) -> Path:
    """A data set as AGIQA-3K is released, of 40 images whose brightness is their score."""
    root = tmp_path_factory.mktemp('data')
    (root / 'images').mkdir()
    generator, rows = random.Random(0), []
    for i in range(40):
        shade = generator.randrange(256)
        noise = bytes(min(255, max(0, round(generator.gauss(128, 40)))) for _ in range(64 * 64))
        image = Image.frombytes('L', (64, 64), noise).convert('RGB')
        Image.blend(image, Image.new('RGB', image.size, (shade,) * 3), 0.8).save(root / 'images' / f'{i:03}.png')
        rows.append({'name': f'{i:03}.png', 'prompt': f'prompt {i // 2}', 'mos_quality': shade / 51})
    with (root / 'data.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope='session')
def small_weights(tmp_path_factory) -> Path:
    """The file of a network that costs little, for what does not depend on the weights, such as how files are read."""
    import torch

    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
    from align_iqa_plugin.archs.exported import exported

    torch.manual_seed(0)
    plain = {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool', 'head': 'linear'}
    network = AlignIQA(backbone='test_vit', backbone_weights='random', **plain)
    torch.nn.init.normal_(network.head.weight)
    network.is_trained = True
    path = tmp_path_factory.mktemp('small') / 'small.safetensors'
    path.write_bytes(exported(network, {}, {}))
    return path


@pytest.fixture
def tiny_options(tiny_training_file) -> dict:
    """A copy of `tiny_training_file` to change."""
    return copy.deepcopy(tiny_training_file)


@pytest.fixture(scope='session')
def tiny_training_file(tiny_images) -> dict:
    """A training file for them and a small network of random weights: 7 iterations an epoch, 2 epochs, 4 validations."""
    section = {
        'type': 'AIGCIQADataset',
        'dataroot_target': str(tiny_images),
        'meta_info_file': str(tiny_images / 'data.csv'),
        'image_column': 'name',
        'score_column': 'mos_quality',
        'split_index': 1,
        'split_ratio': '712',
        'batch_size_per_gpu': 4,
        'num_worker_per_gpu': 0,
    }
    return {
        'name': 'tiny',
        'model_type': 'AlignIQAModel',
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {'train': {**section, 'name': 'tiny'}, 'val': {**section, 'name': 'tiny_val'}},
        'network': {
            'type': 'AlignIQA',
            'backbone': 'test_vit',  # 6 blocks
            'backbone_weights': 'random',
            'input_size': 32,
            'guide': 'saliency',
            'guide_options': {'scales': (32,)},
            'injection': 'cgi',
            'injection_options': {'blocks': [4, 5], 'bottleneck': 8},
            # every part has something to train
            'aggregation': 'msfa',
            'aggregation_options': {'channels': 8},
            'head': 'mlp',
        },
        'path': {},
        'train': {
            'ridge_alpha': 10.0,
            'ema_decay': 0.9,
            'total_epoch': 2,
            'optim': {'type': 'AdamW', 'lr': 1e-3, 'lr_gate': 1e-2},
            'schedule_by': 'iteration',
            'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 14},
            'mos_loss_opt': {'type': 'MSELoss'},
        },
        'val': {
            'val_freq': 4,
            'key_metric': 'srcc',
            'metrics': {'srcc': {'type': 'calculate_srcc'}, 'rmse': {'type': 'calculate_rmse', 'better': 'lower'}},
        },
        'logger': {},
    }


@pytest.fixture(scope='session')
def differences():
    """A function that tells where two structures of tensors and plain data differ, as paths of keys."""
    import torch

    def differences(one, other, path: str = '') -> list[str]:
        if isinstance(one, torch.Tensor):
            return [] if torch.equal(one, other) else [path]
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            return [place for key in one for place in differences(one[key], other[key], f'{path}/{key}')]
        if isinstance(one, list | tuple):
            assert len(one) == len(other)
            return [place for i, pair in enumerate(zip(one, other, strict=True)) for place in differences(*pair, f'{path}/{i}')]
        return [] if one == other else [path]

    return differences
