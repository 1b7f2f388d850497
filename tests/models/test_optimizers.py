import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.models.optimizers import build_optimizer, warm_up


def network(tiny_options, **changes):
    options = {key: value for key, value in tiny_options['network'].items() if key != 'type'}
    return AlignIQA(**options | changes)


def trained(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def groups(net, **options):
    """The group of the optimiser that each trained parameter is in, by the parameter's name."""
    names = {id(p): name for name, p in trained(net).items()}
    optimizer = build_optimizer(net, trained(net), {'type': 'AdamW', 'lr': 1.0} | options)
    assert sum(len(group['params']) for group in optimizer.param_groups) == len(names)
    return {names[id(p)]: group for group in optimizer.param_groups for p in group['params']}


def test_every_trained_parameter_is_in_one_group_and_a_key_is_a_whole_word_of_its_name(tiny_options):
    net = network(tiny_options)
    found = groups(net, lr_gate=2.0, lr_head=3.0, weight_decay_head=0.5)
    assert found.keys() == trained(net).keys()
    for name, group in found.items():
        expected = 2.0 if name.endswith('.gate') else 3.0 if name.startswith('head.') else 1.0
        assert group['lr'] == expected
    assert {found[name]['weight_decay'] for name in found if name.endswith('.gate')} == {0}
    assert found['head.mlp.1.weight']['weight_decay'] == 0.5


def test_the_keywords_of_the_optimiser_reach_it(tiny_options):
    net = network(tiny_options)
    optimizer = build_optimizer(net, trained(net), {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9})
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults['lr'] == 0.1 and optimizer.defaults['momentum'] == 0.9


def test_of_two_keys_the_one_further_right_in_the_name_counts(tiny_options):
    net = network(tiny_options)
    for keys in (['lr_injection', 'lr_gate'], ['lr_gate', 'lr_injection']):
        rates = dict(zip(keys, (5.0, 6.0), strict=True))
        for name, group in groups(net, **rates).items():
            if name.startswith('injection.'):
                assert group['lr'] == rates['lr_gate' if name.endswith('.gate') else 'lr_injection']


@pytest.mark.parametrize('key', ['lr_hea', 'lr_backbone', 'lr_'])
def test_a_key_that_no_trained_parameter_has_is_an_error(key, tiny_options):
    with pytest.raises(ValueError, match=f'train.optim.{key}: no trained parameter'):
        groups(network(tiny_options), **{key: 1.0})


def test_a_weight_decay_needs_its_learning_rate(tiny_options):
    with pytest.raises(ValueError, match='weight_decay_head needs lr_head'):
        groups(network(tiny_options), weight_decay_head=1.0)


def test_the_decay_over_layers_is_that_of_timm_and_goes_with_the_rates_of_parts(tiny_options):
    from timm.optim import param_groups_layer_decay

    net = network(tiny_options, freeze_backbone=False)
    found = groups(net, layer_decay=0.7, lr_head=3.0)
    vit = net.backbone.vit
    vit.reset_classifier(1)  # in the place of our other parts
    names = {id(p): name for name, p in vit.named_parameters()}
    for group in param_groups_layer_decay(vit, layer_decay=0.7):
        for name in (names[id(parameter)] for parameter in group['params']):
            if not name.startswith('head.'):
                assert found[f'backbone.vit.{name}']['lr'] == pytest.approx(group['lr_scale'])
    assert found['head.mlp.1.weight']['lr'] == 3.0
    assert {found[name]['lr'] for name in found if name.startswith('msfa.')} == {1.0}


def test_the_decay_over_layers_of_a_frozen_backbone_is_an_error(tiny_options):
    with pytest.raises(ValueError, match='layer_decay needs freeze_backbone: false'):
        groups(network(tiny_options), layer_decay=0.7)


def one_weight():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)


@pytest.mark.parametrize('make', [lambda o: CosineAnnealingLR(o, 20), lambda o: ExponentialLR(o, 0.9)])
@pytest.mark.parametrize('every', [1, 4], ids=['by iteration', 'by epoch'])
def test_the_warm_up_scales_the_schedule_as_it_is_without_it(every, make):
    optimizer, plain = one_weight(), one_weight()
    schedulers = make(optimizer), make(plain)
    for iteration in range(1, 21):
        with warm_up(optimizer, iteration, 5):
            assert optimizer.param_groups[0]['lr'] == plain.param_groups[0]['lr'] * min(1.0, iteration / 5)
            optimizer.step()
        plain.step()
        assert optimizer.param_groups[0]['lr'] == plain.param_groups[0]['lr']
        if iteration % every == 0:
            for scheduler in schedulers:
                scheduler.step()


def test_without_a_warm_up_the_learning_rate_is_the_schedulers():
    optimizer = one_weight()
    with warm_up(optimizer, 1, 0):
        assert optimizer.param_groups[0]['lr'] == 1e-3
