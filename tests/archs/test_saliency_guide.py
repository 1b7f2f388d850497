import pytest
import torch

from align_iqa_plugin.archs.guides.saliency import SaliencyGuide, spectral_residual


def odd_one_out():
    """A grid of equal bars in which one is missing: what stands out is known."""
    image = torch.full((1, 3, 128, 128), 0.5)
    for row in range(8):
        for column in range(8):
            image[:, :, row * 16 + 6 : row * 16 + 10, column * 16 + 2 : column * 16 + 14] = 1.0
    image[:, :, 80:96, 32:48] = 0.5
    image[:, :, 82:94, 38:42] = 1.0  # upright among the lying
    return image


def test_what_stands_out_is_salient():
    saliency = spectral_residual(odd_one_out(), 64)[0, 0]
    row, column = divmod(int(saliency.argmax()), 64)
    assert 40 <= row < 52  # the odd bar is at rows 41 to 47
    assert 12 <= column < 28  # and at columns 19 to 21


def test_a_flat_image_is_nowhere_salient():
    assert spectral_residual(torch.full((1, 3, 50, 70), 0.3), 64).abs().max() < 1e-3


@pytest.mark.parametrize('shape', [(32, 32), (33, 301), (224, 224)])
def test_any_size_gives_the_same_number_of_tokens(shape):
    guide = SaliencyGuide(dim=24)
    assert guide(torch.rand(2, 3, *shape), None).shape == (2, 196, 24)


def test_prompts_change_nothing():
    guide, image = SaliencyGuide(), torch.rand(2, 3, 64, 64)
    assert torch.equal(guide(image, None), guide(image, ['a cat', None]))


def test_saliency_does_not_depend_on_batch_mates():
    image = torch.rand(3, 3, 64, 80)
    torch.testing.assert_close(SaliencyGuide().features(image)[1:2], SaliencyGuide().features(image[1:2]))


@pytest.mark.parametrize('image', [torch.rand(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.5)], ids=['noise', 'flat'])
def test_the_gradient_reaches_the_image_and_is_finite(image):
    image = image.clone().requires_grad_()
    SaliencyGuide()(image, None).pow(2).sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.shape == image.shape


def test_half_precision_gives_about_the_same():
    guide, image = SaliencyGuide(), torch.rand(1, 3, 64, 64)
    with torch.autocast('cpu', torch.bfloat16):
        half = guide(image, None)
    torch.testing.assert_close(half.float(), guide(image, None), atol=0.05, rtol=0.05)
