import itertools
import json

import pyiqa
import pytest
import torch

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.guides import GUIDES
from align_iqa_plugin.archs.guides.saliency import SaliencyGuide
from align_iqa_plugin.archs.head import HEADS
from align_iqa_plugin.register import register_archs

TINY = {
    'backbone': 'vit_tiny_patch16_224',
    'backbone_weights': 'random',
    'input_size': 64,
    'guide': 'saliency',
    'injection': 'cgi',
}
PLAIN = {'guide': 'none', 'injection': 'none'}
VARIANTS = [
    {'guide': 'saliency', 'injection': 'cgi'},
    {'guide': 'saliency', 'injection': 'cgi', 'injection_options': {'first_block': 0}},
    {'guide': 'saliency', 'injection': 'vpt_add'},
    {'guide': 'saliency', 'injection': 'vpt_concat'},
    {'aggregation': 'last_map', 'head': 'mlp'},
    {'aggregation': 'msfa_pyramid', 'head': 'mlp'},
    {'head': 'linear'},
    {'aggregation': 'none'},
    {'stages': 3},
    PLAIN,
    {**PLAIN, 'aggregation': 'none'},
]


def network(trained=True, **options):
    """Random weights, and a head that is fitted to noise: `trained` says for the test that they may be used."""
    torch.manual_seed(0)
    net = AlignIQA(**TINY | options)
    if trained:
        vectors, scores = torch.randn(12, net.msfa.width), torch.randn(12, net.config['targets'])
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
    guided, plain = open_gates(network()), network(**PLAIN)
    for block in guided.injection.blocks:
        torch.nn.init.zeros_(block.gate)
    plain.msfa.load_state_dict(guided.msfa.state_dict())
    plain.head.load_state_dict(guided.head.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(guided(image), plain(image))
    assert not torch.equal(open_gates(guided)(image), plain(image))


def test_frozen_parts_stay_in_eval_mode_in_training(tiny_vlm):
    net = network(guide='semantic', guide_options=tiny_vlm).train()
    assert net.head.training
    for part in (net.backbone, net.guide.vlm):
        assert not any(module.training for module in part.modules())


def test_a_backbone_that_is_not_frozen_learns():
    net = open_gates(network(freeze_backbone=False, **PLAIN)).train()
    net(torch.rand(2, 3, 64, 64)).sum().backward()
    assert net.backbone.vit.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert any(key.startswith('backbone.') for key in net.state_dict())


def test_what_plain_blocks_gave_before_saves_their_work_and_changes_nothing():
    net = open_gates(network(injection_options={'first_block': 7}))
    image = torch.rand(2, 3, 64, 64)
    plain = net.plain_blocks(image)
    assert len(plain[0]) == 2  # the stages that end with blocks 3 and 6
    assert torch.equal(net(image, plain=plain), net(image))


@pytest.mark.parametrize('head', HEADS)
def test_several_targets_are_several_scores_in_the_order_of_the_head(head):
    net = open_gates(network(targets=3, head=head))
    image = torch.rand(2, 3, 64, 64)
    scores = net(image)
    assert scores.shape == (2, 3)
    net.head.bias += torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(net(image) - scores, torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3), atol=1e-4, rtol=0)


def test_a_checkpoint_of_several_targets_gives_its_first_ones_to_a_network_of_fewer():
    net = open_gates(network(targets=3, head_options={'components': 3}))
    image = torch.rand(2, 3, 64, 64)
    for targets in (1, 2, 3):
        other = network(trained=False, targets=targets, head_options={'components': 3})
        other.load_state_dict(net.state_dict())
        torch.testing.assert_close(other(image), net(image)[:, :targets])


def test_a_checkpoint_of_fewer_targets_than_the_network_has_is_refused():
    with pytest.raises(ValueError, match='targets: 1, this one has 2'):
        network(targets=2).load_state_dict(network().state_dict())


def test_a_checkpoint_that_does_not_say_how_many_targets_has_one():
    net = open_gates(network())
    state, image = net.state_dict(), torch.rand(1, 3, 64, 64)
    told = json.loads(bytes(state['_extra_state'].tolist()))
    del told['network']['targets']
    state['_extra_state'] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    other = network(trained=False)
    other.load_state_dict(state)
    assert torch.equal(other(image), net(image))
    with pytest.raises(ValueError, match='targets: 1, this one has 2'):
        network(targets=2).load_state_dict(state)


@pytest.mark.parametrize('targets', [0, -1, 1.0, True, 'quality'])
def test_a_number_of_targets_that_cannot_be_is_refused(targets):
    with pytest.raises(ValueError, match='targets is .*, not a whole number from 1'):
        network(targets=targets)


def test_as_a_metric_of_pyiqa_one_target_is_one_column(tmp_path):
    net = open_gates(network(targets=2))
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    register_archs()
    image = torch.rand(2, 3, 64, 64)
    for given, columns in (({}, 1), ({'targets': 2}, 2)):
        torch.manual_seed(0)  # the random backbone has to be the same
        options = {**TINY, **given, 'pretrained': False, 'pretrained_model_path': str(tmp_path / 'net.pth')}
        metric = pyiqa.create_metric('align_iqa', device='cpu', **options)
        torch.testing.assert_close(metric(image), net(image)[:, :columns])


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
def test_the_compiled_network_gives_the_same_scores():
    net, image = open_gates(network()), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(torch.compile(net, backend='aot_eager')(image), net(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_a_checkpoint_brings_back_every_score(options, tmp_path):
    net = open_gates(network(**options))
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    torch.manual_seed(0)  # the random backbone has to be the same: the checkpoint does not hold it
    other = AlignIQA(**TINY | options, pretrained_model_path=str(tmp_path / 'net.pth')).eval()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(other(image), net(image))


def test_a_checkpoint_does_not_hold_the_frozen_parts(tiny_vlm):
    options = {'aggregation': 'msfa_pyramid', 'head': 'mlp'}
    state = network(guide='semantic', guide_options=tiny_vlm, **options).state_dict()
    assert not any(key.startswith(('backbone.', 'guide.vlm.')) for key in state)
    assert {key.split('.')[0] for key in state} == {'guide', 'injection', 'msfa', 'head', '_extra_state'}


def test_a_checkpoint_of_other_frozen_weights_is_refused():
    state = network().state_dict()
    torch.manual_seed(1)
    with pytest.raises(ValueError, match='other frozen weights in backbone'):
        AlignIQA(**TINY).load_state_dict(state)


def test_a_checkpoint_of_another_network_is_refused_with_the_key_that_differs():
    with pytest.raises(ValueError, match='stages: 4, this one has 3'):
        network(stages=3).load_state_dict(network().state_dict())


def test_weights_that_are_no_checkpoint_of_align_iqa_are_refused(tmp_path):
    torch.save({'conv.weight': torch.ones(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='other.pth is not a checkpoint of Align-IQA'):
        network(pretrained_model_path=str(tmp_path / 'other.pth'))


def test_an_untrained_network_refuses_to_score():
    with pytest.raises(RuntimeError, match='no trained weights.*pretrained=True'):
        network(trained=False)(torch.rand(1, 3, 64, 64))


def test_an_untrained_network_still_refuses_after_a_round_trip():
    net, other = network(trained=False), network(trained=True)
    other.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match='no trained weights'):
        other(torch.rand(1, 3, 64, 64))


def test_a_step_of_training_makes_it_a_network_that_scores():
    net = network(trained=False).train()
    net(torch.rand(1, 3, 64, 64)).sum().backward()
    assert net.eval()(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match='31 x 64 pixels is too small: 32 a side'):
        network()(torch.rand(1, 3, 31, 64))


def test_a_wrong_number_of_prompts_is_refused():
    with pytest.raises(ValueError, match='1 prompts for 2 images'):
        network()(torch.rand(2, 3, 64, 64), caption_list=['a cat'])


@pytest.mark.parametrize('key', ['guide', 'injection', 'aggregation', 'head'])
def test_a_wrong_name_lists_the_possible_ones(key):
    with pytest.raises(ValueError, match=f"{key} 'salient' is not possible; possible are: .*[a-z]"):
        network(**{key: 'salient'})


@pytest.mark.parametrize(
    ('guide', 'injection'),
    [
        *itertools.product(['none'], ['cgi', 'vpt_add', 'vpt_concat']),
        *itertools.product(['saliency', 'semantic'], ['none']),
    ],
)
def test_an_impossible_pair_lists_what_is_possible(guide, injection):
    with pytest.raises(ValueError, match='saliency, semantic.*cgi, vpt_add, vpt_concat'):
        network(guide=guide, injection=injection)


@pytest.mark.parametrize('part', ['guide', 'injection'])
def test_options_of_a_guide_that_is_not_there_are_refused(part):
    with pytest.raises(ValueError, match="are for a guide that is injected, but guide is 'none'"):
        network(**PLAIN, **{f'{part}_options': {'dim': 8}})


def test_a_misspelt_option_of_a_part_is_named():
    with pytest.raises(ValueError, match="injection_options: CGI has no option 'first_blok'; did you mean first_block"):
        network(injection_options={'first_blok': 3})


def test_a_first_block_that_the_backbone_lacks_is_refused():
    with pytest.raises(ValueError, match='first_block=12 is not possible: the backbone has 12 blocks, 0 to 11'):
        network(injection_options={'first_block': 12})


def test_options_left_out_and_options_at_their_defaults_are_the_same_network():
    network(injection_options={'first_block': 11, 'heads': 4}).load_state_dict(network().state_dict())


def test_a_misspelt_keyword_raises():
    with pytest.raises(TypeError, match='aggregaton'):
        network(aggregaton='none')


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
