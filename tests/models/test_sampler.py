import random

import numpy as np
import torch

from align_iqa_plugin.models import sampler
from align_iqa_plugin.models.sampler import ResumableBatchSampler
from align_iqa_plugin.runtime.seeds import seed_everything


def drawn(batches, first, last):
    """The batches of some iterations."""
    batches.first, batches.last = first, last
    return list(batches)


def test_an_epoch_is_every_image_once_and_its_last_batch_is_filled_up():
    order = drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 6)
    for epoch in (0, 1):
        images = [index for batch in order[3 * epoch : 3 * epoch + 3] for _, index in batch]
        assert sorted(images[:10]) == list(range(10))
        assert images[10:] == images[:2]
        assert {number for batch in order[3 * epoch : 3 * epoch + 3] for number, _ in batch} == {epoch}
    assert order[:3] != order[3:]


def test_the_order_can_be_taken_up_anywhere_and_depends_on_the_seed():
    order = drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 20)
    for start in range(20):
        assert drawn(ResumableBatchSampler(10, batch_size=4, seed=0), start, 20) == order[start:]
    assert drawn(ResumableBatchSampler(10, batch_size=4, seed=1), 0, 20) != order


def test_the_order_without_shuffling_and_the_enlarged_epoch():
    plain = drawn(ResumableBatchSampler(3, batch_size=2, seed=0, shuffle=False), 0, 2)
    assert [[index for _, index in batch] for batch in plain] == [[0, 1], [2, 0]]
    enlarged = ResumableBatchSampler(3, batch_size=2, seed=0, enlarge=2)
    assert enlarged.per_epoch == 3
    assert sorted(index for batch in drawn(enlarged, 0, 3) for _, index in batch) == [0, 0, 1, 1, 2, 2]


def test_a_batch_larger_than_the_data_goes_round():
    ((*_,),) = drawn(ResumableBatchSampler(3, batch_size=7, seed=0), 0, 1)
    assert len(drawn(ResumableBatchSampler(3, batch_size=7, seed=0), 0, 1)[0]) == 7


def test_the_processes_take_all_of_a_batch_and_nothing_twice(monkeypatch):
    whole = drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 5)
    monkeypatch.setattr(sampler, 'world_size', lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(sampler, 'rank', lambda rank=rank: rank)
        parts.append(drawn(ResumableBatchSampler(10, batch_size=4, seed=0), 0, 5))
    for batch, one, other in zip(whole, *parts, strict=True):
        assert sorted(one + other) == sorted(batch)
        assert len(one) == len(other) == 2


def test_all_generators_are_seeded():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(1, 2)
    first = draw()
    seed_everything(1, 3)
    second = draw()
    seed_everything(1, 2)
    assert draw() == first
    assert not set(first) & set(second)
