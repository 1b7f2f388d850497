import inspect
from pathlib import Path

import pytest
import torch
import yaml
from pyiqa.archs import build_network

from align_iqa_plugin.align_iqa_arch import AlignIQA

FOLDER = Path(__file__).resolve().parents[1] / 'options' / 'train' / 'AlignIQA'
FILES = sorted(FOLDER.glob('*.yml'))


def load(file):
    return yaml.safe_load(file.read_text(encoding='utf-8'))


def test_there_is_a_file_for_every_row_of_the_tables_1_to_4():
    rows = [f'table {number}, row' for number in (1, 2, 3, 4)]
    headers = [file.read_text(encoding='utf-8').split('\nname:')[0] for file in FILES]
    assert [sum(row in header for header in headers) for row in rows] == [4, 3, 3, 2]
    for header in headers:
        assert 'reported: SRCC .' in header
        assert 'cost:' in header


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_builds_and_takes_training_steps_that_lower_the_loss(file, tiny_vlm):
    options = load(file)['network']
    options |= {'backbone': 'vit_tiny_patch16_224', 'backbone_weights': 'random', 'input_size': 64}
    if options['guide'] == 'semantic':
        options['guide_options'] = tiny_vlm
    torch.manual_seed(0)
    net = build_network(options).train()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-3)
    image, mos = torch.rand(4, 3, 64, 64), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (net(image, caption_list=['a cat', 'a dog', None, '']) - mos).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_file_names_itself_and_its_command(file):
    text = file.read_text(encoding='utf-8')
    assert load(file)['name'] == file.stem
    assert f'align-iqa train --opt options/train/AlignIQA/{file.name}' in text


def test_the_packaged_model_is_the_network_of_its_file_and_the_defaults_of_the_constructor():
    network = load(FOLDER / 'align_iqa.yml')['network']
    defaults = {name: p.default for name, p in inspect.signature(AlignIQA).parameters.items()}
    assert {key: value for key, value in network.items() if key != 'type'}.items() <= defaults.items()
