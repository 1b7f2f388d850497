import itertools
import subprocess
import sys

import pyiqa
import pytest
import torch

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.guides import GUIDES
from align_iqa_plugin.archs.guides.saliency import SaliencyGuide
from align_iqa_plugin.archs.head import HEADS
from align_iqa_plugin.archs.score_range import limit_scores
from align_iqa_plugin.register import register_archs

TINY = {
    'backbone': 'test_vit',
    'backbone_weights': 'random',
    'input_size': 64,
    'guide': 'saliency',
    'injection': 'cgi',
}
UNGUIDED = {'guide': 'none', 'injection': 'none'}
VARIANTS = [
    {'guide': 'saliency', 'injection': 'cgi'},
    {'guide': 'saliency', 'injection': 'cgi', 'injection_options': {'blocks': [0, 5]}},
    {'guide': 'saliency', 'injection': 'vpt_add'},
    {'guide': 'saliency', 'injection': 'vpt_concat'},
    {'aggregation': 'msfa', 'stages': 1, 'head': 'mlp'},
    {'aggregation': 'msfa', 'head': 'mlp'},
    {'head': 'linear'},
    {'stages': 1},
    {'stages': 3},
    UNGUIDED,
    {**UNGUIDED, 'stages': 1},
    {'views': 2},
    {'views': 2, 'guided_views': 1},
]


def network(trained=True, **options):
    """Random weights, and a head that is fitted to noise: `trained` says for the test that they may be used."""
    torch.manual_seed(0)
    net = AlignIQA(**TINY | options)
    if trained:
        vectors, scores = torch.randn(12, len(net.column_weights())), torch.randn(12, net.config['targets'])
        net.head.fit(vectors, scores, alpha=0.1, folds=list(range(12)))
        net.is_trained = True
    return net.eval()


def open_gates(net):
    """Leave the start at zero, where nothing can flow: gates of CGI, and the last layer of the head."""
    for name, parameter in net.named_parameters():
        if name.endswith('gate') or name.startswith('head.mlp.4'):
            torch.nn.init.normal_(parameter)
    return net


def trained_parameters(net):
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_every_variant_scores_images_of_any_shape_one_score_each(options):
    net = network(**options)
    for shape in [(32, 32), (64, 64), (50, 333)]:
        score = net(torch.rand(2, 3, *shape))
        assert score.shape == (2, 1)
        assert score.isfinite().all()


def test_two_views_are_the_whole_image_and_its_centre():
    one, two = (open_gates(network(views=views)) for views in (1, 2))
    two.load_state_dict({name: value for name, value in one.state_dict().items() if not name.startswith('head')}, strict=False)
    image = torch.rand(2, 3, 128, 160)
    both = torch.cat([one.forward_features(image), one.forward_features(image[:, :, 36:92, 45:115])], 1)
    torch.testing.assert_close(two.forward_features(image), both)


def test_with_one_guided_view_of_two_the_centre_is_seen_by_the_plain_vit():
    one, two = network(), network(views=2, guided_views=1)
    plain = network(**UNGUIDED, aggregation='stage_pool')
    for net in (one, two, plain):
        net.backbone.load_state_dict(one.backbone.state_dict())
    open_gates(one)
    two.load_state_dict({name: value for name, value in one.state_dict().items() if not name.startswith('head')}, strict=False)
    image = torch.rand(2, 3, 128, 160)
    both = torch.cat([one.forward_features(image), plain.forward_features(image[:, :, 36:92, 45:115])], 1)
    torch.testing.assert_close(two.forward_features(image), both)
    torch.testing.assert_close(two.forward_features(image, views=1), one.forward_features(image))


def test_column_weights_are_those_of_the_pyramid():
    net = network(views=2)
    pooled, width = net.msfa.pooled_width, net.msfa.width
    parts = net.column_weights(pyramid=0.1).split([pooled, width - pooled, pooled, width - pooled])
    assert [part.unique().tolist() for part in parts] == [[1], [pytest.approx(0.1)]] * 2
    parts = network(views=2, guided_views=1).column_weights(pyramid=0.1).split([pooled, width - pooled, pooled])
    assert [part.unique().tolist() for part in parts] == [[1], [pytest.approx(0.1)], [1]]


def test_the_score_of_two_views_is_the_weighted_mean_of_those_of_their_heads():
    net, image = network(views=2, view_weights=[1, 3]), torch.rand(2, 3, 64, 64)
    whole, detail = net.forward_features(image).chunk(2, 1)
    one, two = net.head.heads
    torch.testing.assert_close(net(image), 0.25 * one(whole) + 0.75 * two(detail))


@pytest.mark.parametrize('weights', [[1], [0.5, 0.3, 0.2], [1, 0], [2, -1], [1, float('inf')], 0.7, '11', [True, '1']])
def test_other_view_weights_are_refused(weights):
    with pytest.raises(ValueError, match='view_weights is .*, not two positive numbers for a network of two views'):
        AlignIQA(**TINY, views=2, view_weights=weights)


def test_one_view_has_no_weights():
    with pytest.raises(ValueError, match='view_weights is .*, not two positive numbers for a network of two views'):
        AlignIQA(**TINY, view_weights=[0.5, 0.5])


@pytest.mark.parametrize('views', [0, 3, True, '2', 1.0])
def test_another_number_of_views_is_refused(views):
    with pytest.raises(ValueError, match='views is .*, not 1'):
        AlignIQA(**TINY, views=views)


@pytest.mark.parametrize('guided_views', [0, 3, True, '1'])
def test_another_number_of_guided_views_is_refused(guided_views):
    with pytest.raises(ValueError, match='guided_views is .*, not a whole number from 1 to views, 2'):
        AlignIQA(**TINY, views=2, guided_views=guided_views)


def test_a_network_without_a_guide_has_no_views_to_guide():
    with pytest.raises(ValueError, match='guided_views is 1 of 2 views, but guide is none'):
        AlignIQA(**TINY | UNGUIDED, views=2, guided_views=1)


@pytest.mark.parametrize('guided_views', [1, 2])
def test_the_pooled_columns_are_those_that_the_pyramid_does_not_move(guided_views):
    net, image = network(views=2, guided_views=guided_views), torch.rand(1, 3, 64, 64)
    before = net.forward_features(image)
    for parameter in net.msfa.parameters():
        torch.nn.init.normal_(parameter)
    moved = (net.forward_features(image) != before)[0].nonzero().flatten().tolist()
    assert sorted(moved + net.pooled_columns) == list(range(before.shape[1]))


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_a_score_does_not_depend_on_its_batch_mates(options):
    net, images = open_gates(network(**options)), torch.rand(4, 3, 48, 80)
    together = net(images)
    torch.testing.assert_close(together.flip(0), net(images.flip(0)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[2:3], net(images[2:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_gradients_reach_every_trained_parameter_and_the_image_but_no_frozen_part(options):
    net = open_gates(network(**options)).train()
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    net(image).pow(2).sum().backward()
    lacking = [name for name, p in trained_parameters(net).items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not lacking
    assert image.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.backbone.parameters())


def test_with_the_semantic_guide_gradients_reach_all_that_is_trained_and_prompts_matter(tiny_vlm):
    net = open_gates(network(guide='semantic', guide_options=tiny_vlm))
    image = torch.rand(3, 3, 64, 64, requires_grad=True)
    scores = net(image, caption_list=['a cat', 'a dog', None])
    assert not torch.allclose(scores, net(image, caption_list=['a dog', 'a dog', None]))
    torch.testing.assert_close(net(image, caption_list=['', ' ', None]), net(image))
    scores.pow(2).sum().backward()
    assert [name for name, p in trained_parameters(net).items() if p.grad is None] == []
    assert all(p.grad is None for p in net.guide.vlm.parameters())
    assert image.grad.abs().sum() > 0


def test_with_zero_gates_the_score_is_that_of_the_plain_vit():
    options = {'aggregation': 'msfa', 'head': 'mlp'}
    guided, unguided = open_gates(network(**options)), network(**options, **UNGUIDED)
    for layer in guided.injection.values():
        torch.nn.init.zeros_(layer.gate)
    unguided.msfa.load_state_dict(guided.msfa.state_dict())
    unguided.head.load_state_dict(guided.head.state_dict())
    image = torch.rand(1, 3, 48, 80)
    assert torch.equal(guided(image), unguided(image))
    assert not torch.equal(open_gates(guided)(image), unguided(image))


def test_frozen_parts_stay_in_eval_mode_in_training(tiny_vlm):
    net = network(guide='semantic', guide_options=tiny_vlm).train()
    assert net.head.training
    for part in (net.backbone, net.guide.vlm):
        assert not any(module.training for module in part.modules())


def test_a_backbone_that_is_not_frozen_learns():
    net = open_gates(network(freeze_backbone=False, **UNGUIDED)).train()
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert net.backbone.vit.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert any(key.startswith('backbone.') for key in net.state_dict())


@pytest.mark.parametrize('head', HEADS)
def test_several_targets_are_several_scores_in_the_order_of_the_head(head):
    net = open_gates(network(targets=3, head=head))
    image = torch.rand(2, 3, 64, 64)
    scores = net(image)
    assert scores.shape == (2, 3)
    net.head.bias += torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(net(image) - scores, torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize('targets', [0, -1, 1.0, True, 'quality'])
def test_a_number_of_targets_that_cannot_be_is_refused(targets):
    with pytest.raises(ValueError, match='targets is .*, not a whole number'):
        network(targets=targets)


def test_gray_images_score_as_their_rgb_copies():
    net, gray = network(), torch.rand(2, 1, 64, 64)
    assert torch.equal(net(gray), net(gray.repeat(1, 3, 1, 1)))


def test_vpt_concat_lengthens_the_sequence_by_the_guidance():
    lengths = []
    net = network(injection='vpt_concat')
    net.backbone.vit.blocks[-1].register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    net(torch.rand(1, 3, 64, 64))
    assert lengths == [1 + 16 + 196]


@pytest.mark.parametrize('precision', [torch.bfloat16, torch.float16])
def test_autocast_gives_about_the_same_scores(precision):
    net, image = network(), torch.rand(2, 3, 64, 64)
    exact = net(image)
    with torch.autocast('cpu', precision):
        rough = net(image)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.slow
def test_the_packaged_network_compiles_as_one_graph_with_the_same_scores():
    code = """
import torch
from align_iqa_plugin.archs.pretrained import create_align_iqa

net, image = create_align_iqa(pretrained=True).eval(), torch.rand(1, 3, 64, 64) * 1.2 - 0.1
compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
torch.testing.assert_close(compiled(image), net(image), atol=1e-4, rtol=0)
"""
    # not in this process: the checks of shapes, which are on in tests, cannot be compiled
    subprocess.run([sys.executable, '-c', code], check=True)


def test_an_untrained_network_refuses_to_score():
    with pytest.raises(RuntimeError, match='no trained weights.*pretrained=True'):
        network(trained=False)(torch.rand(1, 3, 64, 64))


def test_whether_it_is_trained_is_part_of_its_state():
    net, other = network(trained=False), network(trained=True)
    other.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match='no trained weights'):
        other(torch.rand(1, 3, 64, 64))
    net.load_state_dict(network(trained=True).state_dict())
    assert net(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_forward_changes_nothing_in_the_network():
    net = open_gates(network(aggregation='msfa', head='mlp')).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


class Wrapper(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.metrics = torch.nn.ModuleDict({'mine': net})

    def forward(self, image):
        return self.metrics['mine'](image)


@pytest.mark.parametrize(
    'wrap', [Wrapper, lambda net: torch.optim.swa_utils.AveragedModel(net)], ids=['ModuleDict', 'AveragedModel']
)
def test_inside_another_module_it_saves_and_loads_into_an_untrained_one(wrap, tmp_path):
    net, image = open_gates(network(aggregation='msfa', head='mlp')), torch.rand(1, 3, 64, 64)
    torch.save(wrap(net).state_dict(), tmp_path / 'wrapped.pth')
    torch.manual_seed(1)  # other random weights
    other = wrap(AlignIQA(**TINY, aggregation='msfa', head='mlp')).eval()
    other.load_state_dict(torch.load(tmp_path / 'wrapped.pth', weights_only=True))
    assert torch.equal(other(image), net(image))


def test_the_metric_of_pyiqa_loads_its_own_state():
    register_archs()
    metric = pyiqa.create_metric('align_iqa', device='cpu')
    metric.load_state_dict(metric.state_dict())
    assert metric(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match='31 x 64 pixels is too small'):
        network()(torch.rand(1, 3, 31, 64))


@pytest.mark.parametrize('prompts', [['a cat'], 'ab'])
def test_prompts_that_are_not_one_for_each_image_raise(prompts):
    with pytest.raises(ValueError, match='caption_list'):
        network()(torch.rand(2, 3, 64, 64), caption_list=prompts)


@pytest.mark.parametrize('key', ['guide', 'injection', 'aggregation', 'head'])
def test_an_unknown_name_is_named_with_the_choices(key):
    with pytest.raises(ValueError, match=f"unknown {key} 'zzz'; choose from .*[a-z]"):
        network(**{key: 'zzz'})


@pytest.mark.parametrize(
    ('guide', 'injection'),
    [
        *itertools.product(['none'], ['cgi', 'vpt_add', 'vpt_concat']),
        *itertools.product(['saliency', 'semantic'], ['none']),
    ],
)
def test_a_guide_and_an_injection_go_together(guide, injection):
    with pytest.raises(ValueError, match=f"guide '{guide}' .* injection '{injection}'"):
        network(guide=guide, injection=injection)


@pytest.mark.parametrize('part', ['guide', 'injection'])
def test_options_of_a_guide_that_is_not_there_are_refused(part):
    with pytest.raises(ValueError, match="guide is 'none'"):
        network(**UNGUIDED, **{f'{part}_options': {'dim': 8}})


def test_a_misspelt_option_of_a_part_is_named():
    with pytest.raises(ValueError, match="injection_options: .*'block'; did you mean 'blocks'"):
        network(injection_options={'block': 3})


def test_options_left_out_and_options_at_their_defaults_are_the_same_network():
    assert network(injection_options={'blocks': [3, 4, 5], 'heads': 4}).config == network().config


def test_a_misspelt_keyword_raises():
    with pytest.raises(TypeError, match='aggregaton'):
        network(aggregaton='msfa')


def test_packaged_weights_are_refused_for_another_backbone():
    with pytest.raises(ValueError, match="'packaged' are those of vit_base_patch16_clip_quickgelu_224"):
        network(backbone_weights='packaged')


def test_a_file_of_weights_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match='backbone_weights: there is no file nowhere.pth'):
        network(backbone_weights='nowhere.pth')


def test_a_guide_of_ones_own_is_found_by_its_name(monkeypatch):
    class Dark(SaliencyGuide):
        def features(self, image):
            return super().features(1 - image)

    monkeypatch.setitem(GUIDES, 'dark', Dark)
    assert isinstance(network(guide='dark').guide, Dark)


def test_no_learning_rate_group_of_pyiqa_takes_parameters_of_two_parts(tiny_vlm):
    net = network(freeze_backbone=False, guide='semantic', guide_options=tiny_vlm)
    parts = ('guide', 'backbone', 'injection', 'msfa', 'head')
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert [part for part in parts if part in name] == [name.split('.')[0]]


@pytest.mark.parametrize('size', [64, 100])
@pytest.mark.parametrize('options', [{}, UNGUIDED], ids=['guided', 'plain'])
def test_pixels_outside_the_range_count_as_those_at_its_end_whatever_the_size(size, options):
    net = open_gates(network(**options))
    image = torch.rand(1, 3, size, size) * 3 - 1
    with pytest.warns(UserWarning, match='outside'):
        score = net(image)
    torch.testing.assert_close(score, net(image.clamp(0, 1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize('network_kind', [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_images_of_any_floating_point_type_are_cast_to_the_networks(kind, network_kind):
    net = network(**UNGUIDED).to(network_kind)
    image = torch.rand(1, 3, 100, 80).to(kind)
    torch.testing.assert_close(net(image), net(image.float()), atol=1e-5, rtol=0)


@pytest.mark.parametrize('kind', [torch.uint8, torch.bool, torch.int64], ids=str)
def test_images_of_whole_numbers_are_an_error_that_says_what_to_do(kind):
    with pytest.raises(ValueError, match=f'images are {kind}.*floating-point.*divide uint8 images by 255'):
        network(**UNGUIDED)(torch.ones(1, 3, 64, 64).to(kind))


# The score as a loss


def narrow(**options):
    """A network whose scores lie outside its range."""
    net = open_gates(network(**options))
    net.head.bias += 4
    net.score_range = -0.5, 0.5
    return net


def test_a_score_is_limited_where_gradients_flow_to_the_image_and_there_alone():
    net, image = narrow(targets=2), torch.rand(2, 3, 64, 64)
    plain = net(image)
    assert (plain > 1).all()
    with torch.no_grad():
        assert torch.equal(net(image.clone().requires_grad_()), plain)
    limited = net(image.clone().requires_grad_())
    assert torch.equal(limited, limit_scores(plain, net.score_range))
    assert (limited[:, 0] <= 0.5).all() and torch.equal(limited[:, 1], plain[:, 1])
    net.score_range = None
    assert torch.equal(net(image.clone().requires_grad_()), plain)


def test_predict_gives_the_scores_of_forward_with_gradients_and_without():
    net, image = narrow(), torch.rand(2, 3, 64, 64)
    assert torch.equal(net.predict(image).scores, net(image))
    image.requires_grad_()
    assert torch.equal(net.predict(image).scores, net(image)) and net(image).max() <= 0.5
    assert torch.equal(net.predict(image).std, net.predict(image.detach()).std)


def test_scores_and_deviations_can_be_followed_to_the_image():
    net, image = network(), torch.rand(1, 3, 64, 64, requires_grad=True)
    for found in net.predict(image):
        gradient = torch.autograd.grad(found.sum(), image, retain_graph=True)[0]
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_predict_keeps_nothing_for_gradients_that_nobody_asked_for():
    net, image = open_gates(network()), torch.rand(1, 3, 64, 64)
    assert net(image).requires_grad  # by the parameters
    with torch.no_grad():
        found = [*net.predict(image), *net.predict(image.clone().requires_grad_())]
    assert not any(each.requires_grad for each in [*net.predict(image), *found])
