import importlib
import inspect
from pathlib import Path

import pyiqa
import pytest
import torch
import yaml
from pyiqa import api_helpers
from pyiqa.data import dataset_api
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

from align_iqa_plugin import register
from align_iqa_plugin.data.releases import RELEASES

KINDS = {
    'archs': (ARCH_REGISTRY, register.ARCHS),
    'datasets': (DATASET_REGISTRY, register.DATASETS),
    'models': (MODEL_REGISTRY, register.MODELS),
}


def register_everything():
    register.register_configs()
    register.register_archs()
    register.register_datasets()
    register.register_models()
    register.register_releases()


@pytest.mark.parametrize('kind', KINDS)
def test_pyiqa_gives_the_class_that_a_name_in_a_training_yaml_stands_for(kind):
    registry, table = KINDS[kind]
    assert table
    for name, import_path in table.items():
        module, attribute = import_path.split(':')
        assert name in registry
        assert registry.get(name) is getattr(importlib.import_module(module), attribute)
        assert registry.get(name).__name__ == {'AlignIQA': 'create_align_iqa'}.get(name, name)


def test_registering_again_changes_nothing():
    register_everything()
    configs = {name: dict(config) for name, config in DEFAULT_CONFIGS.items()}
    names = {kind: list(registry.keys()) for kind, (registry, _) in KINDS.items()}
    register_everything()
    assert {name: dict(config) for name, config in DEFAULT_CONFIGS.items()} == configs
    assert {kind: list(registry.keys()) for kind, (registry, _) in KINDS.items()} == names


def test_a_metric_that_is_already_listed_under_the_name_is_left_as_it_is(monkeypatch):
    other = {'metric_opts': {'type': 'NIQE'}, 'metric_mode': 'NR'}
    monkeypatch.setitem(DEFAULT_CONFIGS, 'align_iqa', other)
    register_everything()
    assert DEFAULT_CONFIGS['align_iqa'] is other


def test_registering_archs_lists_the_metric_too(monkeypatch):
    monkeypatch.delitem(DEFAULT_CONFIGS, 'align_iqa', raising=False)
    register.register_archs()
    assert DEFAULT_CONFIGS['align_iqa'] == register.CONFIGS['align_iqa']


def test_a_change_to_pyiqas_table_does_not_reach_ours(monkeypatch):
    monkeypatch.delitem(DEFAULT_CONFIGS, 'align_iqa', raising=False)
    register.register_configs()
    DEFAULT_CONFIGS['align_iqa']['metric_opts']['pretrained'] = False
    assert register.CONFIGS['align_iqa']['metric_opts']['pretrained'] is True


def test_a_listed_metric_has_the_form_of_pyiqas_own_and_a_network_that_is_registered():
    known = set().union(*(config for name, config in DEFAULT_CONFIGS.items() if name not in register.CONFIGS))
    for config in register.CONFIGS.values():
        assert {'metric_opts', 'metric_mode', 'score_range'} <= set(config) <= known
        assert config['metric_mode'] in ('FR', 'NR')
        low, high = (float(bound.strip(' ~')) for bound in config['score_range'].split(','))
        assert low < high
        assert config['metric_opts']['type'] in register.ARCHS


KEYS = [release.key for release in RELEASES]


@pytest.fixture(autouse=True, scope='module')
def registered():
    register_everything()  # the tests may run where the plugin is not installed, only on the path


def pyiqas_own():
    file = Path(pyiqa.__file__).parent / 'default_dataset_configs.yml'
    return yaml.safe_load(file.read_text())


def test_the_releases_stand_beside_pyiqas_own_data_sets_which_are_as_they_were():
    own = pyiqas_own()
    assert not set(KEYS) & set(own)
    infos = pyiqa.get_dataset_info()
    assert set(infos) == {*KEYS, *own}
    assert {name: infos[name] for name in own} == own
    assert all(pyiqa.get_dataset_info(name) == infos[name] for name in infos)


def test_an_unknown_data_set_is_refused_as_ever():
    with pytest.raises(AssertionError, match='nowhere not implemented'):
        pyiqa.get_dataset_info('nowhere')
    with pytest.raises(AssertionError, match='nowhere not implemented'):
        pyiqa.load_dataset('nowhere')


def test_a_data_set_that_pyiqa_comes_to_know_under_the_name_goes_first():
    other = {'agiqa3k': {'name': 'of pyiqa'}}
    get = register._with_releases(lambda name=None: other[name] if name else other)
    assert get('agiqa3k') == {'name': 'of pyiqa'} and get()['agiqa3k'] == {'name': 'of pyiqa'} and 'agiqa1k' in get()
    loaded = []
    load = register._from_releases(lambda *arguments, **_: loaded.append(arguments[0]), lambda: other)
    load('agiqa3k', data_root='nowhere')
    assert loaded == ['agiqa3k']


@pytest.mark.parametrize('name', KEYS)
def test_the_entry_of_a_release_has_the_form_of_pyiqas_own(name):
    info = pyiqa.get_dataset_info(name)
    known = set().union(*pyiqas_own().values()) | {'prompt_column'}
    assert {'name', 'type', 'dataroot_target', 'meta_info_file', 'mos_range', 'lower_better'} <= set(info) <= known
    assert info['type'] in register.DATASETS and info['lower_better'] is False
    assert pyiqa.get_dataset_info(name) is not info, 'a change to an entry must not reach the next who asks'


@pytest.mark.parametrize('name', KEYS)
def test_a_release_is_loaded_by_its_name_with_prompts(small_releases, name):
    dataset = pyiqa.load_dataset(name, data_root=str(small_releases))
    assert type(dataset).__name__ == 'AIGCIQADataset' and len(dataset) > 0
    sample = dataset[1]
    assert {'img', 'mos_label', 'img_path', 'prompt'} <= set(sample)
    assert sample['img'].shape == (3, 8, 8) and sample['mos_label'].shape == (1,)
    assert sample['prompt'] == ('' if name in ('livechallenge', 'biq2021') else 'None' if name == 'aigciqa2023' else 'NA')


def test_options_of_a_dataset_are_passed_on(small_releases):
    options = {'phase': 'test', 'further_score_columns': ['mos_align']}
    dataset = pyiqa.load_dataset('agiqa3k', small_releases, dataset_opts=options, split_index='generator_split_glide')
    assert len(dataset) == 20 and all('glide' in path for path, *_ in dataset.paths_mos)
    assert torch.equal(dataset[4]['targets'][1:], torch.tensor([1.0]))
    normalised = pyiqa.load_dataset('agiqa3k', small_releases, mos_normalize=True)
    assert normalised[5]['mos_label'].item() == pytest.approx(0.2)


def test_a_data_set_that_is_not_there_is_refused_with_the_page_to_get_it_from(tmp_path):
    for made in ('AIGCIQA2023', None):
        with pytest.raises(FileNotFoundError) as caught:
            pyiqa.load_dataset('aigciqa2023', data_root=tmp_path)
        assert str(tmp_path / 'AIGCIQA2023') in str(caught.value) and 'github.com/wangjiarui153' in str(caught.value)
        if made:
            (tmp_path / made).mkdir()
    assert 'AIGCIQA2023_Prompts.xlsx is not there' in str(caught.value)
    with pytest.raises(ValueError, match='not among the data sets that pyiqa can download'):
        pyiqa.load_dataset('aigciqa2023', data_root=tmp_path, force_download=True)


def test_the_functions_of_pyiqa_look_as_before_and_are_the_same_everywhere():
    parameters = inspect.signature(pyiqa.load_dataset).parameters
    assert list(parameters) == ['name', 'data_root', 'force_download', 'dataset_opts', 'kwargs']
    assert parameters['data_root'].default == './datasets' and 'Load a dataset' in pyiqa.load_dataset.__doc__
    assert pyiqa.load_dataset is dataset_api.load_dataset
    assert pyiqa.get_dataset_info is api_helpers.get_dataset_info is dataset_api.get_dataset_info


def test_registering_releases_again_wraps_nothing_twice():
    before = pyiqa.load_dataset, pyiqa.get_dataset_info
    register.register_releases()
    assert (pyiqa.load_dataset, pyiqa.get_dataset_info) == before
    assert pyiqa.load_dataset.__wrapped__.__module__ == 'pyiqa.data.dataset_api'


def test_the_facts_of_the_releases_are_read_when_they_are_asked_for(fresh):
    code = """
import sys
import align_iqa_plugin.register
assert not {'align_iqa_plugin.data.releases', 'align_iqa_plugin.data.labels', 'torch', 'pyiqa'} & set(sys.modules)
"""
    fresh(code)


@pytest.mark.data
def test_the_real_agiqa_3k_is_loaded_by_its_name(data_folder):
    dataset = pyiqa.load_dataset('agiqa3k', data_folder, split_index='ratio712_seed123_split_01', phase='val')
    assert len(dataset) == 308 and dataset[0]['prompt'] == 'statue of a man'
