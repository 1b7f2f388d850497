import pytest
import torch

from align_iqa_plugin.archs.injection import CGI, INJECTIONS, NoInjection, VPTAdd, VPTConcat

SIZES = {'width': 32, 'guidance_width': 8, 'depth': 6, 'first_block': 0}


@pytest.fixture
def tokens():
    return torch.randn(2, 5, 32)


@pytest.fixture
def guidance():
    return torch.randn(2, 7, 8)


def test_cgi_starts_as_the_identity_bit_for_bit(tokens, guidance):
    cgi = CGI(**SIZES)
    for block in range(6):
        assert torch.equal(cgi(block, tokens, guidance), tokens)


def test_cgi_with_open_gates_depends_on_the_guidance(tokens, guidance):
    cgi = CGI(**SIZES)
    torch.nn.init.ones_(cgi.blocks[0].gate)
    assert not torch.allclose(cgi(0, tokens, guidance), cgi(0, tokens, guidance.flip(0)))


def test_cgi_does_not_depend_on_the_order_of_the_guidance_tokens(tokens, guidance):
    cgi = CGI(**SIZES)
    torch.nn.init.ones_(cgi.blocks[0].gate)
    torch.testing.assert_close(cgi(0, tokens, guidance), cgi(0, tokens, guidance.flip(1)))


def test_cgi_leaves_the_blocks_before_its_first_alone(tokens, guidance):
    cgi = CGI(**SIZES | {'first_block': 4})
    assert len(cgi.blocks) == 2
    for injection in cgi.blocks:
        torch.nn.init.ones_(injection.gate)
    assert torch.equal(cgi(3, tokens, guidance), tokens)
    assert not torch.equal(cgi(4, tokens, guidance), tokens)


def test_the_gate_of_cgi_gets_a_gradient_at_zero(tokens, guidance):
    cgi = CGI(**SIZES)
    cgi(0, tokens, guidance).pow(2).sum().backward()
    assert cgi.blocks[0].gate.grad.abs().min() > 0


def test_vpt_add_adds_one_vector_to_all_tokens_of_an_image_and_only_once(tokens, guidance):
    vpt = VPTAdd(**SIZES)
    added = vpt(0, tokens, guidance) - tokens
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert not torch.allclose(added[0], added[1])
    assert torch.equal(vpt(1, tokens, guidance), tokens)


def test_vpt_concat_appends_the_guidance_once(tokens, guidance):
    vpt = VPTConcat(**SIZES)
    longer = vpt(0, tokens, guidance)
    assert longer.shape == (2, 12, 32)
    assert torch.equal(longer[:, :5], tokens)
    assert torch.equal(vpt(1, longer, guidance), longer)


def test_no_injection_is_the_identity(tokens):
    assert NoInjection(depth=6)(3, tokens, None) is tokens


@pytest.mark.parametrize('name', INJECTIONS)
def test_every_injection_treats_each_image_by_itself(name, tokens, guidance):
    injection = INJECTIONS[name](**SIZES)
    for parameter in injection.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    together = injection(0, tokens, guidance)
    alone = torch.cat([injection(0, tokens[i : i + 1], guidance[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone)
