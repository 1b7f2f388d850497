import pytest
import torch

from align_iqa_plugin.archs.injection import CGI, INJECTIONS, VPTAdd, VPTConcat

SIZES = {'width': 32, 'guidance_width': 8, 'depth': 6, 'blocks': [0]}


@pytest.fixture
def tokens():
    return torch.randn(2, 5, 32)


@pytest.fixture
def guidance():
    return torch.randn(2, 7, 8)


def test_cgi_starts_as_the_identity_bit_for_bit(tokens, guidance):
    for layer in CGI(**SIZES | {'blocks': range(6)}).values():
        assert torch.equal(layer(tokens, guidance), tokens)


def test_cgi_with_open_gates_depends_on_the_guidance(tokens, guidance):
    layer = CGI(**SIZES)['0']
    torch.nn.init.ones_(layer.gate)
    assert not torch.allclose(layer(tokens, guidance), layer(tokens, guidance.flip(0)))


def test_cgi_does_not_depend_on_the_order_of_the_guidance_tokens(tokens, guidance):
    layer = CGI(**SIZES)['0']
    torch.nn.init.ones_(layer.gate)
    torch.testing.assert_close(layer(tokens, guidance), layer(tokens, guidance.flip(1)))


@pytest.mark.parametrize(('blocks', 'names'), [([4, 5], ['4', '5']), ([-1], ['5']), ([5, -6, 0], ['0', '5'])])
def test_there_is_a_layer_for_each_block_that_is_named(blocks, names):
    assert list(CGI(**SIZES | {'blocks': blocks})) == names


def test_by_default_cgi_enters_before_the_last_three_blocks_and_vpt_before_the_first():
    sizes = {name: size for name, size in SIZES.items() if name != 'blocks'}
    assert {name: list(cls(**sizes)) for name, cls in INJECTIONS.items()} == {
        'cgi': ['3', '4', '5'],
        'vpt_add': ['0'],
        'vpt_concat': ['0'],
    }


@pytest.mark.parametrize('blocks', [[6], [-7], [0, 12], []])
def test_blocks_that_the_backbone_does_not_have_are_named(blocks):
    with pytest.raises(ValueError, match='blocks is .* 0 to 5'):
        CGI(**SIZES | {'blocks': blocks})


def test_the_gate_of_cgi_gets_a_gradient_at_zero(tokens, guidance):
    layer = CGI(**SIZES)['0']
    layer(tokens, guidance).pow(2).sum().backward()
    assert layer.gate.grad.abs().min() > 0


def test_vpt_add_adds_one_vector_to_all_tokens_of_an_image(tokens, guidance):
    added = VPTAdd(**SIZES)['0'](tokens, guidance) - tokens
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert not torch.allclose(added[0], added[1])


def test_vpt_concat_appends_the_guidance(tokens, guidance):
    longer = VPTConcat(**SIZES)['0'](tokens, guidance)
    assert longer.shape == (2, 12, 32)
    assert torch.equal(longer[:, :5], tokens)


@pytest.mark.parametrize('injection', [VPTAdd, VPTConcat])
def test_vpt_starts_with_tokens_as_small_as_its_prompts(injection):
    layer = injection(width=768, guidance_width=64, depth=12)['0']
    expected = (6 / (3 * 16**2 + 768)) ** 0.5 / 3**0.5  # of a uniform distribution up to VPT's bound, patches of 16 pixels
    assert float(layer.project(layer.norm(torch.randn(200, 64))).std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize('name', INJECTIONS)
def test_every_injection_treats_each_image_by_itself(name, tokens, guidance):
    (layer,) = INJECTIONS[name](**SIZES).values()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    together = layer(tokens, guidance)
    alone = torch.cat([layer(tokens[i : i + 1], guidance[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone)
