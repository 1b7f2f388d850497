import pytest
import torch

from align_iqa_plugin.archs.msfa import AGGREGATIONS, MSFA, StagePool, pool_stage


def stages(count, shape=(3, 4), width=16, batch=2):
    generator = torch.Generator().manual_seed(0)
    class_tokens = [torch.randn(batch, width, generator=generator) for _ in range(count)]
    return class_tokens, [torch.randn(batch, width, *shape, generator=generator) for _ in range(count)]


def build(name, count):
    options = {'channels': 8} if name == 'msfa' else {}
    return AGGREGATIONS[name](width=16, stages=count, **options)


@pytest.mark.parametrize('name', AGGREGATIONS)
@pytest.mark.parametrize('count', [1, 2, 4, 6, 12])
@pytest.mark.parametrize('shape', [(3, 4), (1, 1), (1, 9)])
def test_any_number_of_stages_of_any_shape_gives_one_vector_of_the_stated_width(name, count, shape):
    aggregation = build(name, count)
    vector = aggregation(*stages(count, shape))
    assert vector.shape == (2, aggregation.width)
    assert vector.isfinite().all()


@pytest.mark.parametrize('name', AGGREGATIONS)
def test_an_image_does_not_depend_on_its_batch_mates(name):
    aggregation, (class_tokens, maps) = build(name, 4), stages(4)
    together = aggregation(class_tokens, maps)
    alone = aggregation([s[:1] for s in class_tokens], [m[:1] for m in maps])
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize(
    ('shape', 'rows', 'columns'), [((14, 14), (4, 10), (4, 10)), ((12, 16), (3, 8), (4, 11)), ((1, 3), (0, 1), (1, 2))]
)
def test_pooled_features_are_class_token_and_mean_of_the_central_part(shape, rows, columns):
    (class_token,), (stage_map,) = stages(1, shape)
    vector = pool_stage(class_token, stage_map)
    assert torch.equal(vector[:, :16], class_token)
    torch.testing.assert_close(vector[:, 16:], stage_map[:, :, slice(*rows), slice(*columns)].mean((2, 3)))


def test_the_vector_starts_with_the_pooled_features_of_every_stage():
    class_tokens, maps = stages(4)
    expected = torch.cat([pool_stage(*stage) for stage in zip(class_tokens, maps, strict=True)], 1)
    assert torch.equal(StagePool(width=16, stages=4)(class_tokens, maps), expected)
    pyramid = MSFA(width=16, stages=4, channels=8)
    assert torch.equal(pyramid(class_tokens, maps)[:, : pyramid.pooled_width], expected)


def test_every_stage_of_four_reaches_the_fused_part_of_the_pyramid():
    class_tokens, maps = stages(4)
    maps = [stage_map.requires_grad_() for stage_map in maps]
    msfa = MSFA(width=16, stages=4, channels=8)
    msfa(class_tokens, maps)[:, msfa.pooled_width :].pow(2).sum().backward()
    assert all(stage_map.grad.abs().sum() > 0 for stage_map in maps)


def test_a_flat_map_has_a_finite_gradient():
    flat = torch.ones(1, 16, 3, 3, requires_grad=True)
    MSFA(width=16, stages=1, channels=8)([torch.ones(1, 16)], [flat]).sum().backward()
    assert flat.grad.isfinite().all()
