import importlib

import pytest
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

from align_iqa_plugin import register

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


@pytest.mark.parametrize('kind', KINDS)
def test_pyiqa_gives_the_class_that_a_name_in_a_training_yaml_stands_for(kind):
    registry, table = KINDS[kind]
    assert table
    for name, import_path in table.items():
        module, attribute = import_path.split(':')
        assert name in registry
        assert registry.get(name) is getattr(importlib.import_module(module), attribute)
        assert registry.get(name).__name__ == name


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
