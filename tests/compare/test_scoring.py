"""Scoring into the store: each image its score or a reason, in batches only where that changes nothing."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from align_iqa_plugin.compare import scoring
from align_iqa_plugin.compare.scoring import Scorer
from align_iqa_plugin.compare.store import Configuration, LabelledImage, Store
from align_iqa_plugin.runtime.memory import PeakMemory

CPU = torch.device('cpu')


class Brightness:
    """A metric that is quick: the mean brightness, and what it was asked."""

    device = CPU

    def __init__(self, *, uses_prompt=False):
        self.configuration = Configuration('brightness', '{}', 'abc', '1', uses_prompt=uses_prompt)
        self.calls = []

    @property
    def sizes(self):
        return [len(images) for images, _ in self.calls]

    def score(self, images):
        return images.mean((1, 2, 3)).tolist()

    def __call__(self, images, prompts):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        self.calls.append((images, prompts))
        return self.score(images)


class OutOfMemory(Brightness):
    """Has room for so many images only."""

    def __init__(self, room, error):
        super().__init__()
        self.room, self.error = room, error

    def score(self, images):
        if len(images) > self.room:
            raise self.error
        return super().score(images)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / 'scores.sqlite') as store:
        yield store


def pictures(folder, values, size=(16, 16), prompts=None):
    """Grey images, one of each value, and their labels."""
    folder.mkdir(exist_ok=True)
    labelled = []
    for number, value in enumerate(values):
        path = folder / f'{number}.png'
        Image.new('L', size[number % len(size)] if isinstance(size, list) else size, value).save(path)
        prompt, other = prompts[number] if prompts else ('', '')
        labelled.append(LabelledImage(path.name, str(path), f'sha{number}', mos=1.0, prompt=prompt, other_prompt=other))
    return labelled


def table_of(store, metric, labelled, *, workers=0, batch_size=8, **more):
    store.put_images('set', labelled)
    store.put_metric(metric.configuration, 'cpu')
    store.put_comparison('set', metric.configuration.metric)
    scorer = Scorer(metric, store, batch_size=batch_size, workers=workers, **more)
    done = []
    scorer.score('set', done.append)
    assert sum(done) == len(labelled), 'the progress does not end at the last image'
    return store.score_table()


def grey(value):
    return pytest.approx(value / 255, abs=1e-6)


# Batches


def test_a_metric_that_scores_the_same_in_batches_is_given_batches(store, tmp_path):
    metric = Brightness()
    table = table_of(store, metric, pictures(tmp_path / 'set', range(20)))
    assert table['score'].tolist() == [grey(value) for value in range(20)]
    # 8 wait together: four one by one and in a batch, the four others together
    assert metric.sizes == [1, 1, 1, 1, 4, 4, 8, 4]


@pytest.mark.parametrize('problem', ['other scores', 'fewer scores', 'an exception', 'not finite'])
def test_a_metric_that_scores_otherwise_in_batches_is_given_one_image_at_a_time(store, tmp_path, problem):
    class Batchless(Brightness):
        def score(self, images):
            scores = super().score(images)
            if len(images) == 1:
                return scores
            if problem == 'an exception':
                raise ValueError('one image only')
            if problem == 'not finite':
                return [float('nan')] * len(images)
            return [float(np.mean(scores))] * (len(images) if problem == 'other scores' else 1)

    metric = Batchless()
    table = table_of(store, metric, pictures(tmp_path / 'set', range(20)))
    assert table['score'].tolist() == [grey(value) for value in range(20)]
    assert sum(size > 1 for size in metric.sizes) == 1


def test_images_of_different_sizes_are_never_put_together(store, tmp_path):
    metric = Brightness()
    table = table_of(store, metric, pictures(tmp_path / 'set', range(20), size=[(16, 16), (16, 24), (24, 16)]))
    assert table['score'].tolist() == [grey(value) for value in range(20)]
    assert max(metric.sizes) > 1
    assert {tuple(images.shape[2:]) for images, _ in metric.calls} == {(16, 16), (24, 16), (16, 24)}


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), max_size=25),
    sizes=st.lists(st.sampled_from([(16, 16), (8, 16), (16, 8)]), min_size=1),
    batch_size=st.integers(1, 9),
    room=st.integers(1, 9),
)
def test_every_image_gets_its_own_score_whatever_the_sizes_batches_and_memory(
    values, sizes, batch_size, room, tmp_path_factory
):
    folder = tmp_path_factory.mktemp('set')
    metric = OutOfMemory(room, MemoryError())
    with Store(folder / 'scores.sqlite') as store:
        table = table_of(store, metric, pictures(folder, values, size=sizes), batch_size=batch_size)
    assert table['score'].tolist() == [grey(value) for value in values]
    assert max(metric.sizes, default=0) <= batch_size


# Memory


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
@pytest.mark.parametrize('room', [1, 3, 4, 5])
def test_batches_are_halved_when_memory_runs_out_and_stay_so(store, tmp_path, error, room):
    metric = OutOfMemory(room, error)
    table = table_of(store, metric, pictures(tmp_path / 'set', range(40)), batch_size=8)
    assert table['score'].tolist() == [grey(value) for value in range(40)]
    assert metric.sizes.count(8) <= 1
    assert sum(size > room for size in metric.sizes) <= 3
    assert max(metric.sizes[-4:]) <= room


def test_an_image_too_large_for_the_memory_gets_the_reason_and_the_others_their_scores(store, tmp_path):
    class Small(Brightness):
        def score(self, images):
            if images.shape[-1] > 16:
                raise torch.OutOfMemoryError('CUDA out of memory.')
            return super().score(images)

    table = table_of(store, Small(), pictures(tmp_path / 'set', range(6), size=[(16, 16), (16, 16), (99, 99)]))
    assert table['score'].notna().tolist() == [True, True, False] * 2
    assert table['reason'][2] == 'made the metric fail: OutOfMemoryError: CUDA out of memory.'


# Failures


def test_corrupt_and_missing_images_nan_and_exceptions_are_rows_with_their_reasons(store, tmp_path):
    class Odd(Brightness):
        def score(self, images):
            if any(image.mean() > 0.99 for image in images):
                raise ValueError('too\nbright')
            return [float('nan') if score < 0.01 else score for score in super().score(images)]

    labelled = pictures(tmp_path / 'set', [100, 100, 100, 100, 255, 0, 100, 100, 100])
    whole = Path(labelled[6].path).read_bytes()
    Path(labelled[6].path).write_bytes(whole[: len(whole) // 2])
    Path(labelled[7].path).unlink()
    table = table_of(store, Odd(), labelled)
    assert table['score'].notna().tolist() == [True] * 4 + [False] * 4 + [True]
    reasons = table['reason'].tolist()
    assert reasons[4] == 'made the metric fail: ValueError: too bright'
    assert reasons[5] == 'got the score nan.'
    assert 'damaged' in reasons[6] or 'not a picture' in reasons[6]
    assert reasons[7] == 'does not exist.'
    assert (table['reason'] == '').tolist() == table['score'].notna().tolist()


def test_a_bad_image_in_the_middle_of_a_batch_costs_no_other_image_its_score(store, tmp_path):
    class Picky(Brightness):
        def score(self, images):
            if any(image.mean() > 0.99 for image in images):
                raise ValueError('too bright')
            return super().score(images)

    table = table_of(store, Picky(), pictures(tmp_path / 'set', [100] * 12 + [255] + [100] * 7))
    assert table['score'].isna().tolist() == [False] * 12 + [True] + [False] * 7


def test_failures_at_first_do_not_decide_about_batches(store, tmp_path):
    class Picky(Brightness):
        def score(self, images):
            if any(image.mean() > 0.99 for image in images):
                raise ValueError('too bright')
            return super().score(images)

    metric = Picky()
    table_of(store, metric, pictures(tmp_path / 'set', [255] * 4 + [100] * 28))
    assert max(metric.sizes) == 8


# Going on


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit])
def test_a_stopped_run_keeps_its_scores_and_the_next_one_computes_only_the_others(store, tmp_path, error):
    class Stopped(Brightness):
        left = 11

        def score(self, images):
            self.left -= len(images)
            if self.left < 0:
                raise error
            return super().score(images)

    labelled = pictures(tmp_path / 'set', range(20))
    first, second = Stopped(), Brightness()
    with pytest.raises(error):
        table_of(store, first, labelled)
    kept = store.score_table()['score'].notna().sum()
    assert kept == 4
    Scorer(second, store, batch_size=8, workers=0).score('set')
    # of which some were given again to see whether batches change them
    assert len({float(image.mean()) for images, _ in second.calls for image in images}) == 20 - kept
    assert store.score_table()['score'].tolist() == [grey(value) for value in range(20)]
    third = Brightness()
    Scorer(third, store, batch_size=8, workers=0).score('set')
    assert third.calls == []


def test_scores_land_one_by_one_where_the_metric_takes_no_batches(store, tmp_path):
    seen = []

    class Batchless(Brightness):
        def score(self, images):
            if len(images) > 1:
                raise ValueError('one image only')
            seen.append(int(store.score_table()['score'].notna().sum()))
            return super().score(images)

    table_of(store, Batchless(), pictures(tmp_path / 'set', range(6)))
    assert seen == [0, 1, 2, 3, 4, 5]


# Prompts


def test_a_metric_with_prompts_gets_each_image_with_its_own_and_with_another_one(store, tmp_path):
    class Length(Brightness):
        def __call__(self, images, prompts):
            super().__call__(images, prompts)
            return [float(len(prompt)) for prompt in prompts]

    prompts = [('a' * number, 'b' * (20 - number)) for number in range(1, 11)]
    table = table_of(store, Length(uses_prompt=True), pictures(tmp_path / 'set', [9] * 10, prompts=prompts))
    assert table['score'].tolist() == [float(number) for number in range(1, 11)]
    assert table['shuffled_score'].tolist() == [float(20 - number) for number in range(1, 11)]


def test_images_without_a_prompt_are_given_without_and_apart_from_the_others(store, tmp_path):
    metric = Brightness(uses_prompt=True)
    prompts = [('', ''), ('a cat', '')] * 6
    table = table_of(store, metric, pictures(tmp_path / 'set', range(12), prompts=prompts))
    assert table['score'].tolist() == [grey(value) for value in range(12)]
    assert {None if given is None else set(given) == {'a cat'} for _, given in metric.calls} == {None, True}


def test_a_metric_without_prompts_is_given_an_image_of_many_prompts_once(store, tmp_path):
    metric = Brightness()
    (image,) = pictures(tmp_path / 'set', [9])
    store.put_images('set', [replace(image, prompt=prompt) for prompt in 'abc'])
    Scorer(metric, store, batch_size=8, workers=0).score('set')
    assert metric.sizes == [1]


# Costs


def test_time_is_that_of_warm_calls_without_decoding(store, tmp_path):
    class Slow(Brightness):
        def score(self, images):
            time.sleep(0.05 if self.sizes[1:] else 1.0)
            return super().score(images)

    table = table_of(store, Slow(), pictures(tmp_path / 'set', range(8)))
    assert table['seconds'].isna().tolist() == [True] + [False] * 7
    (metrics,) = store.metric_table().to_dict('records')
    assert 0.01 < metrics['seconds'] < 0.5
    assert metrics['decode_seconds'] > 0


@pytest.mark.skipif(sys.platform != 'linux', reason='the memory of a process is read as Linux tells it')
def test_peak_memory_is_that_of_one_image_when_warm(store, tmp_path):
    class Large(Brightness):
        def score(self, images):
            # filled, since untouched memory is not in use; the first call needs more than the others
            torch.ones((200 if self.sizes[1:] else 400) * len(images) * 250_000)
            return super().score(images)

    memory = PeakMemory(CPU)
    table_of(store, Large(), pictures(tmp_path / 'set', range(8)), memory=memory)
    (metrics,) = store.metric_table().to_dict('records')
    assert 190 < metrics['peak_mb'] < 300


@pytest.mark.parametrize(('needed', 'sizes'), [(100.0, [1, 1, 1, 1, 4, 4, 5, 3, 4]), (800.0, [1] * 20)])
def test_a_batch_takes_at_most_half_of_the_memory_that_is_available(store, tmp_path, monkeypatch, needed, sizes):
    class Memory:
        def restart(self):
            pass

        def read(self):
            return needed

    monkeypatch.setattr(scoring, 'available_mb', lambda: 1000.0)
    metric = Brightness()
    table = table_of(store, metric, pictures(tmp_path / 'set', range(20)), memory=Memory())
    assert table['score'].tolist() == [grey(value) for value in range(20)]
    assert metric.sizes == sizes


def test_images_are_decoded_the_same_in_workers(store, tmp_path):
    values = [value % 256 for value in range(37)]
    metric = Brightness()
    labelled = pictures(tmp_path / 'set', values)
    Path(labelled[3].path).write_bytes(b'no picture')
    table = table_of(store, metric, labelled, workers=2)
    assert [score for number, score in enumerate(table['score']) if number != 3] == [
        grey(value) for number, value in enumerate(values) if number != 3
    ]
    assert 'not a picture' in table['reason'][3]


def test_deviations_that_a_metric_states_are_in_the_store(store, tmp_path):
    class Predicting(Brightness):
        def predict(self, images, prompts):
            scores = self(images, prompts)
            return scores, [0.25] * len(scores)

    Image.new('RGB', (40, 40), (99, 99, 99)).save(tmp_path / 'a.png')
    metric = Predicting()
    store.put_images('set', [LabelledImage('a.png', str(tmp_path / 'a.png'), 'sha')])
    store.put_metric(metric.configuration, 'cpu')
    store.put_comparison('set', 'brightness')
    Scorer(metric, store, batch_size=4, workers=0).score('set')
    assert store.score_table()['std'].tolist() == [0.25]
