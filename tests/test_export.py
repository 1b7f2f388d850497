"""`align-iqa export`: one file in place of a checkpoint, a training file and the frozen weights."""

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import align_iqa_plugin  # noqa: F401  so that the tests also pass where torch's autoload is switched off
from align_iqa_plugin.align_iqa_arch import AlignIQA
from align_iqa_plugin.cli import app


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A folder with backbone.safetensors, a training file that names it, and net.pth, a checkpoint of some training."""
    root = tmp_path_factory.mktemp('work')
    torch.manual_seed(0)
    # another tag than timm's default, with another mean and deviation
    vit = timm.create_model('vit_tiny_patch16_224', num_classes=0)
    save_file(vit.state_dict(), root / 'backbone.safetensors')
    network = {
        'backbone': 'vit_tiny_patch16_224.augreg_in21k',
        'backbone_weights': str(root / 'backbone.safetensors'),
        'input_size': 64,
        'guide_options': {'dim': 32},
        'injection_options': {'first_block': 6},
        'stages': 3,
    }
    net = AlignIQA(**network)
    for parameter in net.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    net.is_trained = True
    torch.save({'params': net.state_dict()}, root / 'net.pth')
    options = yaml.safe_load((pytest.importorskip('pathlib').Path(__file__).parents[1] / OPTIONS).read_text(encoding='utf-8'))
    options['network'] = {'type': 'AlignIQA', **network}
    (root / 'net.yml').write_text(yaml.safe_dump(options))
    return root


OPTIONS = 'options/train/AlignIQA/align_iqa.yml'
IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope='module')
def expected(work):
    network = yaml.safe_load((work / 'net.yml').read_text())['network']
    del network['type']
    return AlignIQA(**network, pretrained_model_path=str(work / 'net.pth')).eval()(IMAGE)


@pytest.fixture(scope='module')
def exported(work, tmp_path_factory):
    """The export, alone in a folder."""
    output = tmp_path_factory.mktemp('elsewhere') / 'model.safetensors'
    result = run('export', work / 'net.pth', '--opt', work / 'net.yml', '--output', output)
    assert result.exit_code == 0, result.output
    assert 'MB' in result.stdout
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    return output
