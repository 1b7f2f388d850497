"""What goes to the workers of Ray and comes back; test_ray_workers.py has the workers themselves."""

from importlib import import_module
from pathlib import Path

import torch

from align_iqa_plugin.score.rows import Row

ray = import_module('align_iqa_plugin.score.ray')


class Prompted:
    """A stand-in for a network that reads prompts: the score is the number of their letters."""

    device, reads_prompts = torch.device('cpu'), True

    def __call__(self, batch, prompts):
        return [float(len(prompt)) for prompt in prompts or [''] * len(batch)]


class Team:
    """Workers of Ray that are this process."""

    device = 'cpu'

    def map(self, scorer, arguments, items, size):
        yield list(enumerate(scorer(**arguments)(items)))


def test_a_worker_knows_why_an_image_has_no_prompt(grey, monkeypatch):
    grey('a.png', 'b.png')
    monkeypatch.setattr(ray, 'load_metric', lambda device, weights: Prompted())
    rows = [Row('a.png', Path('a.png'), 'a cat'), Row('b.png', Path('b.png'), no_prompt='has no prompt: none.')]
    assert list(ray.ray_engine(Team(), None, batch_size=2)(rows)) == rows
    assert [(row.score, row.error) for row in rows] == [(5.0, ''), (None, 'has no prompt: none.')]
