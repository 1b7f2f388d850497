"""The loop over image files: each image its score or a reason, in batches of one size, whatever fails."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from align_iqa_plugin.data import decode as decoding
from align_iqa_plugin.data import images
from align_iqa_plugin.score import run
from align_iqa_plugin.score.run import BatchScorer, score_images


class Brightness:
    """A metric that is quick: the mean brightness, and what it was asked."""

    def __init__(self):
        self.calls = []

    @property
    def sizes(self):
        return [shape[0] for shape, _ in self.calls]

    def __call__(self, batch, prompts):
        assert batch.dtype == torch.float32 and 0 <= batch.min() and batch.max() <= 1
        self.calls.append((tuple(batch.shape), prompts))
        return batch.mean(dim=(1, 2, 3)).tolist()


@pytest.fixture
def pixels(monkeypatch):
    """Images by number in place of files: ``pixels([0, 255], sizes=[(40, 40)])`` makes the files '0' and '1'."""

    def make(values, sizes=((40, 40),)):
        def read(path):
            number = int(path)
            image = Image.new('RGB', sizes[number % len(sizes)], (values[number],) * 3)
            image.info['full_size'] = image.size
            return image

        monkeypatch.setattr(decoding, 'read_image', read)
        return [(str(number), None) for number in range(len(values))]

    return make


def scored(files, metric, batch_size=8, **options):
    """Results in the order of the files; each file has exactly one."""
    results = list(score_images(files, BatchScorer(metric, 'cpu'), batch_size=batch_size, **options))
    results.sort(key=lambda result: result.index)
    assert [result.index for result in results] == list(range(len(files)))
    return results


def grey(value):
    return pytest.approx(value / 255, abs=1e-6)


# Batches


def test_images_of_one_size_share_batches(pixels):
    metric = Brightness()
    files = pixels([number * 20 for number in range(9)], sizes=[(40, 41), (40, 40)])
    results = scored(files, metric, batch_size=2)
    assert [result.score for result in results] == [grey(number * 20) for number in range(9)]
    assert sorted(metric.sizes) == [1, 2, 2, 2, 2]
    assert {shape[2:] for shape, _ in metric.calls} == {(41, 40), (40, 40)}
    assert [result.batch_size for result in results].count(1) == 1
    assert results[0].decoded.full_size == (40, 41) and results[0].decoded.pixels is None


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.tuples(st.integers(32, 60), st.integers(32, 60)), max_size=30),
    batch_size=st.integers(1, 5),
    limit=st.integers(1000, 20_000),
)
def test_batches_hold_every_image_once_by_one_size_and_within_the_limits(sizes, batch_size, limit):
    batches = []

    def score_batch(pictures):
        batches.append(list(pictures))
        return [run.Result(picture.index, 1.0) for picture in pictures]

    def read(path):
        image = Image.new('RGB', sizes[int(path)])
        image.info['full_size'] = image.size
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, 'MAX_KEPT_PIXELS', limit)
        patch.setattr(decoding, 'read_image', read)
        files = [(str(number), None) for number in range(len(sizes))]
        results = list(score_images(files, score_batch, batch_size=batch_size))
    for batch in filter(None, batches):
        assert len({picture.size for picture in batch}) == 1
        pixels = sum(picture.size[0] * picture.size[1] for picture in batch)
        assert len(batch) == 1 or (len(batch) <= batch_size and pixels <= limit)
    assert sorted(result.index for result in results) == list(range(len(sizes)))


def test_few_images_wait_even_if_every_one_has_its_own_size(pixels, monkeypatch):
    monkeypatch.setattr(images, 'MAX_KEPT_PIXELS', 10_000)
    files = pixels([0] * 100, sizes=[(40, 41 + number) for number in range(100)])
    read, from_number = [], decoding.read_image
    monkeypatch.setattr(decoding, 'read_image', lambda path: read.append(path) or from_number(path))
    results = score_images(files, BatchScorer(Brightness(), 'cpu'), batch_size=16)
    for number in range(1, 80):
        next(results)
        assert len(read) - number <= 20_000 / (40 * 40)


def test_neighbours_of_one_path_are_read_once(pixels, monkeypatch):
    pixels([50])
    read, from_number = [], decoding.read_image
    monkeypatch.setattr(decoding, 'read_image', lambda path: read.append(path) or from_number(path))
    results = scored([('0', 'a'), ('0', 'b'), ('0', None)], Brightness())
    assert read == ['0'] and [result.score for result in results] == [grey(50)] * 3


def test_a_metric_gets_prompts_for_all_images_of_a_batch_or_none(pixels):
    metric = Brightness()
    pixels([0] * 5)
    scored([('0', 'a'), ('1', None), ('2', 'b'), ('3', ''), ('4', None)], metric)
    assert [prompts for _, prompts in metric.calls] == [['a', 'b'], None]


def test_time_is_that_of_warm_calls(pixels):
    results = scored(pixels([0] * 6), Brightness(), batch_size=2)
    assert [result.seconds is None for result in results] == [True, True, False, False, False, False]


# Failures


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory.'),
        RuntimeError('MPS backend out of memory'),
        RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes. Buy new RAM!'),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize('room', [1, 3, 5])
def test_batches_are_halved_when_memory_runs_out_and_stay_so(pixels, error, room):
    class Full(Brightness):
        def __call__(self, batch, prompts):
            scores = super().__call__(batch, prompts)
            if len(batch) > room:
                raise error
            return scores

    metric = Full()
    results = scored(pixels(range(40)), metric)
    assert [result.score for result in results] == [grey(value) for value in range(40)]
    assert metric.sizes.count(8) == 1 and sum(size > room for size in metric.sizes) <= 3


def test_an_image_too_large_for_the_memory_costs_no_other_image_its_score(pixels):
    def metric(batch, prompts):
        if batch.shape[-1] > 40:
            raise torch.OutOfMemoryError('CUDA out of memory.\nTried')
        return [1.0] * len(batch)

    results = scored(pixels([0] * 6, sizes=[(40, 40), (99, 99)]), metric)
    assert [result.score for result in results] == [1.0, None] * 3
    assert results[1].reason == 'made the metric fail: OutOfMemoryError: CUDA out of memory. Tried'


def test_images_of_a_failing_batch_are_tried_one_by_one_each_with_its_prompt(pixels):
    asked = []

    def metric(batch, prompts):
        if len(batch) > 1:
            raise RuntimeError('no')
        asked.extend(prompts)
        if batch.max() > 0.99:
            raise ValueError('too bright')
        return [0.5]

    pixels([0, 255, 0])
    results = scored([('0', 'a'), ('1', 'b'), ('2', 'c')], metric)
    assert asked == ['a', 'b', 'c']
    assert [result.score for result in results] == [0.5, None, 0.5]
    assert results[1].reason == 'made the metric fail: ValueError: too bright'


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_score_that_is_not_finite_is_a_failure(pixels, value):
    (result,) = scored(pixels([0]), lambda batch, prompts: [value])
    assert result.score is None and result.reason == f'got the score {value}.'


def test_too_few_scores_are_a_failure(pixels):
    results = scored(pixels([0, 0]), lambda batch, prompts: [])
    assert all(result.reason == 'made the metric fail: ValueError: 0 scores for 1 image' for result in results)


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit])
def test_a_command_to_stop_is_no_reason(pixels, error):
    def metric(batch, prompts):
        raise error

    with pytest.raises(error):
        scored(pixels([0]), metric)


def test_unreadable_and_small_images_get_their_reasons(folder, monkeypatch):
    monkeypatch.setattr(images, 'MAX_KEPT_PIXELS', 40 * 400)
    Image.new('L', (40, 40), 51).save('a.png')
    Image.new('L', (8, 40)).save('small.png')
    Image.new('L', (1000, 40)).save('thin.png')
    Path('broken.png').write_text('no picture')
    names = ['missing.png', 'a.png', 'small.png', 'thin.png', 'broken.png']
    results = scored([(name, None) for name in names], Brightness(), minimum_side=32)
    assert [result.score is None for result in results] == [True, False, True, True, True]
    reasons = [result.reason for result in results]
    assert reasons[0] == 'does not exist.' and reasons[4].startswith('is not a picture')
    assert reasons[2] == 'is 8 x 40 pixels; the network needs at least 32 on each side.'
    assert reasons[3].startswith('is 1,000 x 40, which is averaged down to 500 x 20 pixels')
    assert results[2].decoded.full_size == (8, 40)


def test_a_copy_is_scored_as_it_is_made_and_its_time_is_not_that_of_reading(tmp_path):
    Image.new('RGB', (40, 40), 'white').save(tmp_path / 'a.png')
    files = [(f'copy://{name}/0/{tmp_path}/a.png', None) for name in ('flip', 'crop 4', 'black')]
    results = scored([(str(tmp_path / 'a.png'), None), *files, (f'copy://flip/0/{tmp_path}/b.png', None)], Brightness())
    assert [result.score for result in results] == [1, 1, 1, 0, None]
    assert [result.decoded.full_size for result in results[:4]] == [(40, 40), (40, 40), (32, 32), (512, 512)]
    assert [result.decoded.seconds is None for result in results] == [False, True, True, True, True]
    assert results[4].reason == 'does not exist.'


def test_a_metric_that_predicts_gives_each_score_its_deviation(pixels):
    class Predicting(Brightness):
        def predict(self, batch, prompts):
            scores = self(batch, prompts)
            return scores, [score / 2 for score in scores]

    files = pixels([0, 100, 200])
    assert [result.std for result in scored(files, Predicting())] == [grey(0), grey(50), grey(100)]
    assert [result.std for result in scored(files, Brightness())] == [None] * 3
