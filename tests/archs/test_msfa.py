import pytest
import torch

from align_iqa_plugin.archs.msfa import AGGREGATIONS, MSFA, LastMapPyramid, LastTokens, PyramidMSFA, readings


def stages(count, shape=(3, 4), width=16, batch=2):
    generator = torch.Generator().manual_seed(0)
    summaries = [torch.randn(batch, width, generator=generator) for _ in range(count)]
    return summaries, [torch.randn(batch, width, *shape, generator=generator) for _ in range(count)]


def build(name, count):
    options = {'channels': 8} if name in ('msfa_pyramid', 'last_map') else {}
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
    aggregation, (summaries, maps) = build(name, 4), stages(4)
    together = aggregation(summaries, maps)
    alone = aggregation([s[:1] for s in summaries], [m[:1] for m in maps])
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize(
    ('shape', 'rows', 'columns'), [((14, 14), (4, 10), (4, 10)), ((12, 16), (3, 8), (4, 11)), ((1, 3), (0, 1), (1, 2))]
)
def test_readings_are_class_token_and_mean_of_the_central_part(shape, rows, columns):
    (summary,), (stage_map,) = stages(1, shape)
    vector = readings(summary, stage_map)
    assert torch.equal(vector[:, :16], summary)
    torch.testing.assert_close(vector[:, 16:], stage_map[:, :, slice(*rows), slice(*columns)].mean((2, 3)))


def test_the_vector_of_msfa_is_the_readings_of_every_stage():
    summaries, maps = stages(4)
    expected = torch.cat([readings(*stage) for stage in zip(summaries, maps, strict=True)], 1)
    assert torch.equal(MSFA(width=16, stages=4)(summaries, maps), expected)
    pyramid = PyramidMSFA(width=16, stages=4, channels=8)
    assert torch.equal(pyramid(summaries, maps)[:, : pyramid.readings_width], expected)


@pytest.mark.parametrize('cls', [LastMapPyramid, LastTokens])
def test_the_alternatives_to_msfa_see_the_last_stage_alone(cls):
    summaries, maps = stages(4)
    aggregation = cls(width=16, stages=4)
    before = aggregation(summaries, maps)
    assert torch.equal(before, aggregation([torch.zeros(2, 16)] * 3 + summaries[3:], [0 * maps[0]] * 3 + maps[3:]))


def test_every_stage_of_four_reaches_the_fused_part_of_the_pyramid():
    summaries, maps = stages(4)
    maps = [stage_map.requires_grad_() for stage_map in maps]
    msfa = PyramidMSFA(width=16, stages=4, channels=8)
    msfa(summaries, maps)[:, msfa.readings_width :].pow(2).sum().backward()
    assert all(stage_map.grad.abs().sum() > 0 for stage_map in maps)


def test_a_flat_map_has_a_finite_gradient():
    flat = torch.ones(1, 16, 3, 3, requires_grad=True)
    PyramidMSFA(width=16, stages=1, channels=8)([torch.ones(1, 16)], [flat]).sum().backward()
    assert flat.grad.isfinite().all()
