"""Metrics of pyiqa for the comparison: found, told apart by all that their scores depend on, or missing with a reason."""

import json
import logging
import sys
import urllib.request
from dataclasses import replace
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pyiqa
import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY

from align_iqa_plugin.compare import metrics as module
from align_iqa_plugin.compare.metrics import Metric, MetricUnavailable, add_metrics, metric_names, read_yaml
from align_iqa_plugin.compare.missing import hub_offline
from align_iqa_plugin.compare.scoring import Scorer
from align_iqa_plugin.compare.store import LabelledImage, Store

CPU = torch.device('cpu')
# of those that need no download: hand-made ones, a small network, and one that draws patches
OFFLINE = {
    'entropy': None,
    'piqe': None,
    'cnniqa': {'metric_opts': {'type': 'CNNIQA', 'pretrained': None}, 'metric_mode': 'NR'},
    'wadiqam_nr': {'metric_opts': {'type': 'WaDIQaM', 'metric_type': 'NR', 'pretrained': False}, 'metric_mode': 'NR'},
}


@pytest.fixture(autouse=True)
def configs(monkeypatch):
    """pyiqa's table of metrics, of which a test may change what it likes; no metric downloads anything."""
    before = dict(DEFAULT_CONFIGS)
    for name, config in OFFLINE.items():
        if config:
            DEFAULT_CONFIGS[name] = config
    monkeypatch.setattr(urllib.request, 'urlopen', _no_network)
    yield DEFAULT_CONFIGS
    DEFAULT_CONFIGS.clear()
    DEFAULT_CONFIGS.update(before)


def _no_network(*arguments, **keywords):
    raise URLError('no network in tests')


@pytest.fixture(scope='module')
def images():
    random = np.random.default_rng(0)
    values = random.random((5, 3, 96, 96), dtype=np.float32)
    values[:3, :, 8:40] = np.linspace(0, 1, 96, dtype=np.float32)  # not all of it noise
    return torch.from_numpy(values * np.array([1, 0.8, 0.6, 0.4, 0.2], np.float32)[:, None, None, None]).round(decimals=2)


@pytest.mark.parametrize('name', OFFLINE)
def test_scores_are_those_of_pyiqa_and_the_same_in_every_run_and_order(name, images):
    metric = Metric(name, CPU)
    scores = [metric(image[None], None)[0] for image in images]
    assert len(set(scores)) > 1
    if name in ('entropy', 'piqe'):
        assert scores == pytest.approx([pyiqa.create_metric(name, device=CPU)(image[None]).item() for image in images])
    torch.rand(9), np.random.rand(9)
    again = Metric(name, CPU)
    assert [again(image[None], None)[0] for image in images.flip(0)] == scores[::-1]
    assert again.configuration == metric.configuration


@pytest.mark.parametrize('name', OFFLINE)
def test_scores_in_the_store_are_those_of_one_image_at_a_time(name, images, tmp_path):
    labelled = []
    for number, image in enumerate(images):
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f'{number}.png')
        labelled.append(LabelledImage(f'{number}.png', str(tmp_path / f'{number}.png'), f'sha{number}'))
    labelled += [replace(image, sha256=f'{image.sha256} again') for image in labelled]
    metric = Metric(name, CPU)
    with Store(tmp_path / 'scores.sqlite') as store:
        store.put_images('set', labelled)
        store.put_metric(metric.configuration, 'cpu')
        store.put_comparison('set', name)
        Scorer(metric, store, batch_size=8, workers=0).score('set')
        table = store.score_table()
    assert (table['reason'] == '').all()
    expected = [metric((image * 255).byte()[None] / 255, None)[0] for image in images]
    assert table['score'].tolist() == pytest.approx(expected * 2, rel=1e-4)


# What a score depends on


def test_other_weights_and_other_options_are_other_configurations(configs):
    metric = Metric('cnniqa', CPU)
    network = metric._model.net
    digest = module.weights_digest(network)
    assert digest == metric.configuration.weights_sha256
    with torch.no_grad():
        network.fc3.bias += 1e-6
    assert module.weights_digest(network) != digest
    network.fc3.bias.data -= 1e-6
    network.further = np.zeros(3)  # pyiqa's hand-made metrics keep their numbers as plain attributes
    assert module.weights_digest(network) != digest
    configs['cnniqa'] = {'metric_opts': {'type': 'CNNIQA', 'pretrained': None, 'n_kers': 40}, 'metric_mode': 'NR'}
    other = Metric('cnniqa', CPU).configuration
    assert other.key != metric.configuration.key
    assert json.loads(other.options)['n_kers'] == 40


def test_direction_range_and_versions_are_told():
    configuration = Metric('piqe', CPU).configuration
    assert configuration.lower_better and not configuration.uses_prompt
    assert configuration.score_range == DEFAULT_CONFIGS['piqe']['score_range']
    assert 'align-iqa-plugin 0' in configuration.code_version and 'pyiqa 0' in configuration.code_version


class _Captioned(torch.nn.Module):
    def forward(self, img, caption_list=None):
        assert caption_list is not None, 'caption_list is None'
        return torch.tensor([float(len(caption)) for caption in caption_list])


class _Prompted(torch.nn.Module):
    def forward(self, x, *, prompts=None):
        return torch.tensor([[float(len(prompt))] for prompt in prompts or [''] * len(x)])


class _Several(torch.nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 3)


@pytest.fixture
def own(configs, monkeypatch):
    """Metrics of one's own, registered with pyiqa."""
    for network in (_Captioned, _Prompted, _Several):
        monkeypatch.setitem(ARCH_REGISTRY._obj_map, network.__name__, network)
        configs[network.__name__] = {'metric_opts': {'type': network.__name__}, 'metric_mode': 'NR'}


@pytest.mark.parametrize('name', ['_Captioned', '_Prompted'])
def test_prompts_go_to_whatever_network_takes_them(own, images, name):
    metric = Metric(name, CPU)
    assert metric.configuration.uses_prompt
    assert metric(images[:2], ['a', 'bc']) == [1.0, 2.0]
    if name == '_Captioned':
        with pytest.raises(AssertionError, match='caption_list is None'):
            metric(images[:2], None)
    else:
        assert metric(images[:2], None) == [0.0, 0.0]


def test_prompts_do_not_reach_a_network_that_takes_none(images):
    assert Metric('entropy', CPU)(images[:1], ['a cat']) == Metric('entropy', CPU)(images[:1], None)


def test_a_network_that_says_that_it_reads_no_prompts_is_not_given_any(own, images, monkeypatch):
    assert not Metric('align_iqa', CPU).configuration.uses_prompt
    monkeypatch.setattr(_Prompted, 'reads_prompts', False, raising=False)
    metric = Metric('_Prompted', CPU)
    assert not metric.configuration.uses_prompt
    assert metric(images[:1], ['bc']) == [0.0]


def test_the_network_of_clipscore_is_one_that_takes_prompts():
    import inspect

    archs = pytest.importorskip('pyiqa.archs.clipscore_arch', exc_type=ImportError)
    assert set(module.PROMPT_KEYWORDS) & set(inspect.signature(archs.CLIPScore.forward).parameters)


def test_a_metric_may_write_to_standard_output(own, images, monkeypatch, capsys):
    def forward(self, x):
        sys.stdout.write('downloading')
        return torch.zeros(len(x), 1)

    monkeypatch.setattr(_Several, 'forward', forward)
    assert Metric('_Several', CPU)(images[:1], None) == [0.0]
    assert capsys.readouterr().out == ''


def test_several_numbers_for_an_image_are_no_score(own, images):
    with pytest.raises(ValueError, match='6 scores for 2 images'):
        Metric('_Several', CPU)(images[:2], None)


# What is missing


def test_a_missing_file_is_named_with_where_it_comes_from_and_belongs(tmp_path, monkeypatch):
    monkeypatch.setattr('pyiqa.utils.download_util.DEFAULT_CACHE_DIR', str(tmp_path))
    with pytest.raises(MetricUnavailable) as caught:
        Metric('niqe', CPU)
    assert 'IQA-PyTorch-Weights/resolve/main/niqe_modelparameters.mat' in str(caught.value)
    assert str(tmp_path / 'niqe_modelparameters.mat') in str(caught.value)


def test_a_missing_module_is_named(own, monkeypatch):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            import no_such_package.part  # noqa: F401

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, '_Captioned', Broken)
    with pytest.raises(MetricUnavailable, match="needs the Python module 'no_such_package': pip install 'no_such_package'"):
        Metric('_Captioned', CPU)


class _Unreachable(ConnectionError):
    """An error as the clients of the hub raise it, which carries the request."""

    def __init__(self, url):
        super().__init__('Name or service not known')
        self.request = SimpleNamespace(url=url)


@pytest.mark.parametrize(
    ('file', 'command'),
    [
        ('model.safetensors', 'huggingface-cli download timm/resnet50 model.safetensors'),
        # what transformers asks for first, of several files
        ('config.json', r'huggingface-cli download timm/resnet50\)'),
    ],
)
def test_a_missing_file_of_the_hub_is_named(own, monkeypatch, file, command):
    class Downloads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            try:
                raise _Unreachable(f'https://huggingface.co/timm/resnet50/resolve/main/{file}')
            except OSError as error:
                raise LocalEntryNotFoundError('we cannot find the requested files in the local cache') from error

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, '_Captioned', Downloads)
    with pytest.raises(MetricUnavailable, match=command) as caught:
        Metric('_Captioned', CPU)
    assert caught.value.offline


def test_the_real_client_of_the_hub_names_the_file_when_it_is_offline(own, monkeypatch):
    class Downloads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            hf_hub_download('timm/resnet50', 'not-in-any-cache.safetensors')

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, '_Captioned', Downloads)
    before = constants.HF_HUB_OFFLINE
    with hub_offline(), pytest.raises(MetricUnavailable, match='download timm/resnet50 not-in-any-cache.safetensors'):
        Metric('_Captioned', CPU)
    assert before == constants.HF_HUB_OFFLINE


def test_a_failed_download_that_names_no_file_is_still_one(own, monkeypatch):
    class Downloads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            urllib.request.urlopen('https://example.org/weights.pt')

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, '_Captioned', Downloads)
    with pytest.raises(MetricUnavailable, match=r'could not be downloaded \(URLError\)') as caught:
        Metric('_Captioned', CPU)
    assert caught.value.offline


def test_any_other_error_is_the_reason_and_no_download(own, monkeypatch):
    class Broken(torch.nn.Module):
        def __init__(self):
            raise ValueError('broken')

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, '_Captioned', Broken)
    with pytest.raises(MetricUnavailable, match='cannot be loaded: ValueError: broken') as caught:
        Metric('_Captioned', CPU)
    assert not caught.value.offline


def test_pyiqas_log_keeps_its_level(images):
    logger = logging.getLogger('pyiqa')
    before = logger.level
    Metric('entropy', CPU)(images[:1], None)
    assert logger.level == before


# Names and option files


def test_all_are_the_no_reference_metrics_that_score_single_images():
    names = metric_names(['all'])
    assert {'entropy', 'niqe', 'align_iqa', 'clipscore'} <= set(names)
    assert set(pyiqa.list_models('NR')) - set(names) == {'fid', 'fid_dinov2', 'sfid', 'inception_score'}
    assert metric_names(['niqe', 'entropy', 'niqe']) == ['niqe', 'entropy']


@pytest.mark.parametrize(
    'name, reason',
    [('entropie', "did you mean 'entropy'"), ('ssim', 'reference'), ('fid', 'folders'), ('', 'unknown metric')],
)
def test_a_name_that_is_no_such_metric_is_refused_with_a_hint(name, reason):
    with pytest.raises(ValueError, match=reason):
        metric_names(['entropy', name])


def test_metrics_of_an_option_file_are_known_to_pyiqa(tmp_path):
    file = tmp_path / 'metrics.yml'
    file.write_text('mine:\n  metric_opts: {type: Entropy, color_space: yiq}\n  metric_mode: NR\n  lower_better: true\n')
    assert add_metrics(file) == ['mine']
    assert metric_names(['mine']) == ['mine']
    assert Metric('mine', CPU).configuration.lower_better


@pytest.mark.parametrize(
    'text, reason',
    [
        ('mine: {metric_opts: {}, metric_mode: NR}', 'mine needs metric_opts'),
        ('mine: {metric_opts: {type: Entropy}}', 'mine needs metric_opts'),
        ('mine: Entropy', "mine is 'Entropy', not a section"),
        ('mine: [', 'not valid YAML'),
        ('', 'no sections'),
        ('mine: !!python/object/apply:os.system [exit]', 'not valid YAML'),
    ],
)
def test_an_option_file_of_another_form_is_refused(tmp_path, text, reason):
    (tmp_path / 'metrics.yml').write_text(text)
    with pytest.raises(ValueError, match=reason):
        add_metrics(tmp_path / 'metrics.yml')


def test_an_option_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.yml' cannot be read"):
        read_yaml(tmp_path / 'nothing.yml')


def test_align_iqa_states_deviations_and_scores_as_in_pyiqa_and_other_metrics_state_none(images):
    scores, std = Metric('align_iqa-fast', CPU).predict(images[:1], None)
    assert scores == pyiqa.create_metric('align_iqa-fast', device=CPU)(images[:1]).flatten().tolist()
    assert len(std) == 1 and min(std) > 0
    assert Metric('entropy', CPU).predict(images[:1], None)[1] is None
