"""Each test runs in fresh interpreters, since what is tested is the order of imports.

The quick ones load pyiqa's real table without the rest of pyiqa, and run with every warning an error. Those that import
the whole of torch and pyiqa do not: what other libraries warn of changes with their versions.
"""

import importlib.metadata
import itertools
import json
import re
import zipfile
from pathlib import Path

import pytest

# each line does one import as it happens in practice
STEPS = {
    # what torch does at its import
    'torch': "[point.load()() for point in entry_points(group='torch.backends') if point.name == 'align_iqa']",
    'plugin': 'import align_iqa_plugin',
    'pyiqa': 'import pyiqa.default_model_configs',
}
START = """
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec
sys.modules['pyiqa'] = module_from_spec(find_spec('pyiqa'))  # so that `import pyiqa.x` runs nothing but x
finders = list(sys.meta_path)
"""
LISTED = """
from pyiqa.default_model_configs import DEFAULT_CONFIGS
assert DEFAULT_CONFIGS['align_iqa']['metric_opts']['type'] == 'AlignIQA', DEFAULT_CONFIGS.get('align_iqa')
# the rest of pyiqa, which is not loaded here, is still waited for
waiting = [finder.awaited for finder in sys.meta_path if finder not in finders]
assert waiting == [{'pyiqa.models.inference_model', 'pyiqa.data.dataset_api'}], waiting
assert not {'torch', 'timm', 'pyiqa.utils'} & set(sys.modules)
"""
BREAK = """
import align_iqa_plugin.autoload
def broken(module):
    raise RuntimeWarning('broken on purpose')
align_iqa_plugin.autoload._fill = broken
"""


def quick(fresh, *lines):
    result = fresh('\n'.join(lines), '-W', 'error')
    assert result.stdout == ''
    return result.stderr


@pytest.mark.parametrize('order', list(itertools.permutations(STEPS)), ids='-'.join)
def test_the_metric_is_listed_whatever_is_imported_first(fresh, order):
    assert quick(fresh, START, *(STEPS[step] for step in order), LISTED) == ''


@pytest.mark.parametrize('alone', ['torch', 'plugin'])
def test_torch_or_the_plugin_alone_is_enough(fresh, alone):
    assert quick(fresh, START, STEPS[alone], STEPS['pyiqa'], LISTED) == ''
    assert quick(fresh, START, STEPS['pyiqa'], STEPS[alone], LISTED) == ''


def test_a_second_copy_of_the_plugin_does_no_harm(fresh):
    forget = "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('align_iqa_plugin')]"
    listed = LISTED.replace("'pyiqa.data.dataset_api'}]", "'pyiqa.data.dataset_api'}] * 2")
    assert quick(fresh, START, STEPS['plugin'], forget, STEPS['plugin'], STEPS['pyiqa'], listed) == ''


def test_asking_again_leaves_one_finder_at_work(fresh):
    one = 'assert len(sys.meta_path) == len(finders) + 1, sys.meta_path'
    assert quick(fresh, START, STEPS['torch'], STEPS['plugin'], STEPS['torch'], one, STEPS['pyiqa'], LISTED) == ''


def test_the_last_module_of_pyiqa_that_is_loaded_ends_the_waiting(fresh, tmp_path):
    (tmp_path / 'pyiqa' / 'data').mkdir(parents=True)
    (tmp_path / 'pyiqa' / 'models').mkdir()
    for name in ('__init__', 'data/__init__', 'models/__init__'):
        (tmp_path / 'pyiqa' / f'{name}.py').touch()
    reader = 'class InferenceModel:\n    def _to_batched_tensor(self, img):\n        pass\n'
    (tmp_path / 'pyiqa' / 'models' / 'inference_model.py').write_text(reader)
    (tmp_path / 'pyiqa' / 'default_model_configs.py').write_text('DEFAULT_CONFIGS = {}\n')
    (tmp_path / 'pyiqa' / 'api_helpers.py').write_text('def get_dataset_info(dataset_name=None):\n    return {}\n')
    (tmp_path / 'pyiqa' / 'data' / 'dataset_api.py').write_text('def load_dataset(name):\n    pass\n')
    ended = """
assert 'align_iqa' in sys.modules['pyiqa.default_model_configs'].DEFAULT_CONFIGS
import pyiqa
assert 'agiqa3k' in pyiqa.get_dataset_info() and pyiqa.load_dataset.__module__ == 'align_iqa_plugin.register'
from pyiqa.models.inference_model import InferenceModel
assert InferenceModel._to_batched_tensor.__module__ == 'align_iqa_plugin.register'
assert sys.meta_path == finders, sys.meta_path
assert 'torch' not in sys.modules
"""
    modules = ['import pyiqa.default_model_configs', 'import pyiqa.models.inference_model, pyiqa.data.dataset_api']
    own = "del sys.modules['pyiqa']"
    for order in (modules, modules[::-1]):
        assert quick(fresh, START, own, STEPS['torch'], *order, ended) == ''
        assert quick(fresh, START, own, order[0], STEPS['torch'], order[1], ended) == ''
        assert quick(fresh, START, own, *order, STEPS['torch'], ended) == ''


def test_other_modules_of_a_zipped_pyiqa_are_loaded_as_ever(fresh, tmp_path):
    with zipfile.ZipFile(tmp_path / 'zipped.zip', 'w') as archive:  # all modules of a zip share one loader
        archive.writestr('pyiqa/__init__.py', '')
        archive.writestr('pyiqa/default_model_configs.py', 'DEFAULT_CONFIGS = {}')
        archive.writestr('pyiqa/other.py', 'value = 1')
    zipped = "del sys.modules['pyiqa']\nsys.path.insert(0, 'zipped.zip')"
    other = "import pyiqa.other\nassert pyiqa.other.value == 1 and 'zipped.zip' in pyiqa.__file__"
    assert quick(fresh, START, zipped, STEPS['torch'], STEPS['pyiqa'], other, LISTED) == ''


def test_a_finder_of_others_that_lacks_find_spec_breaks_no_import(fresh):
    old = """
class Old:
    def find_module(self, name, path=None):
        return None
sys.meta_path.insert(1, Old())
"""
    listed = LISTED.replace('not in finders', 'not in finders and type(finder).__name__ != "Old"')
    assert fresh('\n'.join([START, STEPS['torch'], old, STEPS['pyiqa'], listed])).stderr == ''


def test_a_search_for_pyiqas_table_without_an_import_does_not_use_up_the_hook(fresh):
    assert quick(fresh, START, STEPS['torch'], "find_spec('pyiqa.default_model_configs')", LISTED) == ''


def test_an_error_inside_pyiqas_table_is_pyiqas_own_and_the_next_import_lists_the_metric(fresh, tmp_path):
    (tmp_path / 'pyiqa').mkdir()
    (tmp_path / 'pyiqa' / '__init__.py').touch()
    (tmp_path / 'pyiqa' / 'default_model_configs.py').write_text('import sys\nDEFAULT_CONFIGS = sys.pyiqas_table\n')
    failing = """
try:
    import pyiqa.default_model_configs
except AttributeError as error:
    assert 'pyiqas_table' in str(error)
    sys.pyiqas_table = {}
"""
    assert quick(fresh, START, STEPS['torch'], failing, LISTED) == ''


def test_without_pyiqa_nothing_is_said_and_its_import_fails_as_ever(fresh):
    absent = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'pyiqa':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Absent())
del sys.modules['pyiqa']
"""
    failing = """
for name in ('pyiqa', 'pyiqa.default_model_configs'):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert error.name == 'pyiqa'
    else:
        raise AssertionError(name)
"""
    # the finder that knows of no pyiqa stands behind or before ours
    assert quick(fresh, START, absent, STEPS['torch'], failing) == ''
    assert quick(fresh, START, STEPS['torch'], absent, failing) == ''


def test_a_failure_of_ours_breaks_no_import_and_is_reported(fresh):
    loaded = "assert 'ahiq' in sys.modules['pyiqa.default_model_configs'].DEFAULT_CONFIGS"
    for first, second in (('torch', 'pyiqa'), ('pyiqa', 'torch')):
        said = quick(fresh, START, BREAK, STEPS[first], STEPS[second], loaded)
        assert 'broken on purpose' in said and 'TORCH_DEVICE_BACKEND_AUTOLOAD=0' in said
        assert 'Traceback' not in said


def test_a_failure_of_ours_breaks_no_import_even_where_it_cannot_be_reported(fresh):
    for silence in ('sys.stderr.close()', 'sys.stderr = None'):
        assert 'Traceback' not in quick(fresh, START, BREAK, STEPS['pyiqa'], silence, STEPS['torch'])


def test_importing_the_plugin_is_light(fresh):
    code = 'import sys\nbefore = set(sys.modules)\nimport align_iqa_plugin\n'
    code += 'print(*sorted(m for m in set(sys.modules) - before if m.split(".")[0] not in sys.stdlib_module_names))'
    assert fresh(code).stdout.split() == ['align_iqa_plugin', 'align_iqa_plugin.autoload']


def test_import_torch_works_when_the_hook_is_broken_and_pyiqa_is_already_there(fresh):
    code = '\n'.join([START, STEPS['pyiqa'], BREAK, 'import torch', 'print(torch.zeros(1).item())'])
    result = fresh(code)
    assert result.stdout == '0.0\n' and result.stderr.count('broken on purpose') == 1


def test_with_autoload_switched_off_one_import_of_the_plugin_lists_the_metric(fresh):
    off = """
import torch
import pyiqa.default_model_configs
assert 'align_iqa_plugin' not in sys.modules
assert 'align_iqa' not in pyiqa.default_model_configs.DEFAULT_CONFIGS
import align_iqa_plugin
assert 'align_iqa' in pyiqa.default_model_configs.DEFAULT_CONFIGS
"""
    assert fresh(START + off, TORCH_DEVICE_BACKEND_AUTOLOAD='0').stderr == ''


@pytest.mark.slow
def test_the_installed_wheel_is_known_to_pyiqa_and_to_its_workers_with_no_import_by_the_user(fresh, installed_wheel):
    code = """
import sys
from importlib.util import find_spec, module_from_spec
import torch


class Known(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        if 'pyiqa' not in sys.modules:  # spawned: load the table without the rest of pyiqa, which takes seconds
            sys.modules['pyiqa'] = module_from_spec(find_spec('pyiqa'))
        from pyiqa.default_model_configs import DEFAULT_CONFIGS

        return 'align_iqa' in DEFAULT_CONFIGS


if __name__ == '__main__':
    import pyiqa
    from pyiqa.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

    assert 'align_iqa' in pyiqa.list_models('NR')
    assert pyiqa.get_dataset_info('agiqa3k')['type'] == 'AIGCIQADataset'
    assert 'AlignIQA' in ARCH_REGISTRY and 'AIGCIQADataset' in DATASET_REGISTRY and 'AlignIQAModel' in MODEL_REGISTRY
    print(sys.modules['align_iqa_plugin'].__file__)
    assert 'align_iqa_plugin.archs.align_iqa_arch' not in sys.modules
    for way in ('fork', 'spawn'):
        (known,) = torch.utils.data.DataLoader(Known(), num_workers=1, multiprocessing_context=way)
        assert known.item(), way
    score = pyiqa.create_metric('align_iqa', device='cpu')(torch.rand(1, 3, 224, 224))
    assert score.shape == (1, 1) and score.isfinite()
"""
    stdout = fresh(code, PYTHONPATH=str(installed_wheel)).stdout
    assert Path(stdout.splitlines()[0]) == installed_wheel / 'align_iqa_plugin' / '__init__.py'


@pytest.mark.slow
def test_an_editable_install_serves_pyiqas_command_and_a_script_that_knows_nothing_of_the_plugin(fresh, tmp_path):
    found = importlib.metadata.distributions(name='align-iqa-plugin')
    addresses = [json.loads(distribution.read_text('direct_url.json') or '{}') for distribution in found]
    if not any(address.get('dir_info', {}).get('editable') for address in addresses):
        pytest.skip('the tests run on an install that is not editable')
    code = """
import sys

import numpy as np
import torch
from PIL import Image
from pyiqa import create_metric
from pyiqa.data import build_dataloader, build_dataset
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.pyiqa_cmd import main

noise = np.random.default_rng(0)
for name in ('a.png', 'b.png'):
    Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(f'images/{name}')
for command in (['-ls'], ['align_iqa', '-t', 'images/a.png'], ['align_iqa', '-t', 'images']):
    sys.argv = ['pyiqa', *command, '--device', 'cpu']
    main()

# after the manner of pyiqa's own benchmark script: a table, a name, a loader of batches without prompts
assert 'align_iqa' in DEFAULT_CONFIGS.keys()
metric = create_metric('align_iqa', device='cpu')
options = dict(
    name='two', type='GeneralNRDataset', phase='test', dataroot_target='images', meta_info_file='two.csv', augment={}
)
with open('two.csv', 'w') as file:
    file.write('img_name,mos\\na.png,1\\nb.png,2\\n')
scores = [metric(batch['img'].to('cpu')) for batch in build_dataloader(build_dataset(options), options)]
assert torch.cat(scores).shape == (2, 1)
print('scored by script', *torch.cat(scores).flatten().tolist())
"""
    (tmp_path / 'images').mkdir()
    stdout = fresh(code).stdout
    assert "'align_iqa'" in stdout.split('Loading metrics')[0]
    by_command = [float(value) for value in re.findall(r"'mean': ([-\d.]+)", re.sub(r'np\.float\d+\(|\)', '', stdout))]
    by_script = [float(value) for value in stdout.split('scored by script')[1].split()]
    assert by_command == pytest.approx([by_script[0], sum(by_script) / 2], abs=1e-4)


def test_pyiqas_own_command_is_the_function_that_the_test_above_calls():
    (command,) = importlib.metadata.entry_points(group='console_scripts', name='pyiqa')
    assert command.value == 'pyiqa.pyiqa_cmd:main'
