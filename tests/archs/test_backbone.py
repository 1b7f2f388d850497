import pytest
import timm
import torch

from align_iqa_plugin.archs import backbone
from align_iqa_plugin.archs.backbone import GuidedViT, unfilled_backbone


def guided(name='vit_tiny_patch16_224', **options):
    options = {'stages': 4, 'input_size': 64, 'frozen': True} | options
    return GuidedViT(name=name, **options)


class Same(torch.nn.Module):
    """An injection that changes nothing, by which the blocks are run one by one."""

    def forward(self, tokens, guidance):
        return tokens


@pytest.fixture(scope='module', params=['vit_tiny_patch16_224', 'vit_small_patch14_dinov2', 'vit_medium_patch16_gap_240'])
def vit(request):
    return guided(request.param, input_size=56 if 'patch14' in request.param else 64)


@pytest.mark.parametrize('shape', [(64, 64), (48, 97)])
@pytest.mark.parametrize('injection', [None, torch.nn.ModuleDict({'2': Same()})], ids=['none', 'identity'])
def test_class_tokens_and_maps_of_the_stages_are_those_of_timm(vit, shape, injection):
    image = torch.rand(2, 3, *shape)
    expected = vit.vit.forward_intermediates(
        vit.preprocess(image), indices=vit.stage_ends, intermediates_only=True, return_prefix_tokens=True
    )
    class_tokens, stage_maps = vit(image, injection)
    for class_token, stage_map, theirs in zip(class_tokens, stage_maps, expected, strict=True):
        theirs, prefix = theirs if vit.vit.has_class_token else (theirs, None)
        assert torch.equal(stage_map, theirs)
        assert torch.equal(class_token, theirs.mean((-2, -1)) if prefix is None else prefix[:, 0])


def test_a_layer_is_called_once_before_its_block_with_the_guidance():
    vit, calls = guided(), []

    class Double(torch.nn.Module):
        def forward(self, tokens, guidance):
            calls.append(guidance)
            return tokens + guidance

    guidance = torch.rand(1, 1, vit.width)
    inputs = []
    vit.vit.blocks[7].register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    vit.vit.blocks[6].register_forward_hook(lambda module, given, output: inputs.append(output))
    vit(torch.rand(1, 3, 64, 64), torch.nn.ModuleDict({'7': Double()}), guidance)
    assert len(calls) == 1 and calls[0] is guidance
    assert torch.equal(inputs[1], inputs[0] + guidance)


@pytest.mark.parametrize(
    ('shape', 'grid'), [((512, 512), (4, 4)), ((256, 1024), (2, 8)), ((32, 4000), (1, 16)), ((100, 140), (3, 5))]
)
def test_preprocessing_keeps_the_aspect_ratio_in_whole_patches(shape, grid):
    vit = guided()
    image = torch.rand(1, 3, *shape)
    assert vit(image)[1][0].shape[-2:] == grid
    assert vit.preprocess(image).shape[-2:] == (grid[0] * 16, grid[1] * 16)


def test_an_image_of_the_input_size_is_only_normalised():
    vit = guided()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(vit.preprocess(image), (image - vit.mean) / vit.std)


@pytest.mark.parametrize('stages', [1, 3, 5, 12])
def test_the_last_stage_ends_with_the_last_block(stages):
    vit = guided(stages=stages)
    assert len(vit.stage_ends) == stages
    assert vit.stage_ends == sorted(set(vit.stage_ends))
    assert vit.stage_ends[-1] == 11


@pytest.mark.parametrize('stages', [0, 13])
def test_an_impossible_number_of_stages_says_what_is_possible(stages):
    with pytest.raises(ValueError, match='stages is .* 1 to 12'):
        guided(stages=stages)


def test_a_frozen_backbone_stays_in_eval_mode_and_takes_no_gradient():
    vit = guided().train()
    assert not any(module.training for module in vit.modules())
    assert not any(p.requires_grad for p in vit.parameters())


def test_a_backbone_that_is_not_frozen_trains():
    vit = guided(frozen=False).train()
    assert all(module.training for module in vit.modules())
    assert all(p.requires_grad for p in vit.parameters())


def test_weights_from_a_state_dict_arrive():
    source = timm.create_model('vit_tiny_patch16_224')
    vit = guided(input_size=224, state=source.state_dict())
    assert torch.equal(vit.vit.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)


def test_position_embeddings_are_resampled_to_another_input_size():
    source = timm.create_model('vit_tiny_patch16_224')
    assert guided(input_size=64, state=source.state_dict()).vit.pos_embed.shape[1] == 17


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match='vit_tiny_patch16_224.*another model'):
        guided(state=timm.create_model('vit_small_patch16_224').state_dict())


def test_an_unknown_backbone_gives_names_that_exist():
    with pytest.raises(ValueError, match="unknown backbone 'vit_tinny'"):
        guided('vit_tinny')


def test_a_network_that_is_no_plain_vit_is_refused():
    with pytest.raises(ValueError, match="'resnet18' is not a plain ViT"):
        guided('resnet18')


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_out(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr('timm.models._builder.load_pretrained', unreachable)
    with pytest.raises(RuntimeError, match='backbone_weights: FILE'):
        guided(pretrained=True)


@pytest.mark.parametrize('shape', [(64, 64), (200, 200)])
@pytest.mark.parametrize('value', [0.0, 1.0])
def test_a_black_or_white_image_has_a_gradient_at_any_size(shape, value):
    image = torch.full((1, 3, *shape), value, requires_grad=True)
    weights = torch.rand(1, 3, 64, 64)
    (guided().preprocess(image) * weights).sum().backward()
    assert (image.grad > 0).float().mean() > 0.95


# Without random weights first


def test_a_vit_that_is_loaded_is_built_without_random_numbers():
    state = guided('test_vit').vit.state_dict()
    before = torch.random.get_rng_state()
    with unfilled_backbone():
        vit = guided('test_vit', state=state).vit
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in vit.state_dict().items())
    assert not any(tensor.is_meta for tensor in (*vit.parameters(), *vit.buffers()))


def test_outside_of_it_a_vit_that_is_loaded_moves_the_random_numbers_as_ever():
    state = guided('test_vit').vit.state_dict()
    with unfilled_backbone():
        pass
    numbers = []
    for given in (None, state):
        torch.manual_seed(0)
        guided('test_vit', state=given)
        numbers.append(torch.rand(1).item())
    assert numbers[0] == numbers[1]


def test_a_buffer_that_no_weights_hold_is_as_the_constructor_made_it(monkeypatch):
    create = backbone._create_vit

    def create_with_buffer(*args, **options):
        vit = create(*args, **options)
        vit.register_buffer('numbers', torch.arange(3.0), persistent=False)
        return vit

    state = guided('test_vit').vit.state_dict()
    monkeypatch.setattr(backbone, '_create_vit', create_with_buffer)
    with unfilled_backbone():
        vit = guided('test_vit', state=state).vit
    assert vit.numbers.tolist() == [0, 1, 2]
