import pytest
import torch

from align_iqa_plugin.archs.views import centre, limit, to_unit_range


@pytest.mark.parametrize(
    ('shape', 'rows', 'columns'),
    [((512, 512), (144, 368), (144, 368)), ((32, 48), (9, 23), (13, 34)), ((33, 48), (9, 23), (13, 34))],
)
def test_the_centre_is_seven_sixteenths_of_either_side(shape, rows, columns):
    image = torch.rand(2, 3, *shape)
    assert torch.equal(centre(image), image[:, :, slice(*rows), slice(*columns)])


def test_a_limit_has_the_values_of_a_clamp_and_passes_the_gradient():
    image = torch.tensor([-3.0, -1e-9, 0.0, 0.3, 1.0, 1.0000001, 1.7]).view(1, 1, 1, 7).requires_grad_()
    limited = limit(image)
    assert torch.equal(limited, image.clamp(0, 1))
    limited.sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))


def test_an_image_in_range_is_the_same_tensor():
    image = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    assert to_unit_range(image, torch.float32) is image


@pytest.mark.parametrize('value', [-0.01, 1.01, 255.0])
def test_values_outside_are_limited_with_a_warning(value):
    with pytest.warns(UserWarning, match=r'outside \[0, 1\]'):
        assert to_unit_range(torch.full((1, 3, 2, 2), value), torch.float32).flatten()[0] == (value > 0)


@pytest.mark.parametrize('value', [-0.001, 1.001])
def test_rounding_is_limited_without_a_warning(value, recwarn):
    assert to_unit_range(torch.full((1, 3, 2, 2), value), torch.float32).flatten()[0] == (value > 0)
    assert not recwarn


def test_an_empty_batch_is_in_range():
    assert to_unit_range(torch.zeros(0, 3, 2, 2), torch.float32).shape == (0, 3, 2, 2)
