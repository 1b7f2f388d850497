"""Rows through the loop: each gets what was found out about its image."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from align_iqa_plugin.data import images
from align_iqa_plugin.score.rows import Row, score_rows


class Brightness:
    """A stand-in for Align-IQA: five times the mean brightness."""

    device = torch.device('cpu')

    def __call__(self, batch, prompts):
        return (5 * batch.mean(dim=(1, 2, 3))).tolist()


@pytest.mark.parametrize('reads_prompts', [True, False])
def test_a_prompt_that_is_missing_is_an_error_for_a_metric_that_reads_prompts_alone(grey, reads_prompts):
    grey('a.png', 'b.png', value=51)
    Path('empty.png').touch()
    rows = [Row('a.png', Path('a.png'), 'a cat')]
    rows += [Row(name, Path(name), no_prompt='has no prompt: none.') for name in ('b.png', 'empty.png')]
    metric = Brightness()
    metric.reads_prompts = reads_prompts
    assert len(list(score_rows(metric, rows, batch_size=4))) == 3
    errors = ['', 'has no prompt: none.', 'has no prompt: none.'] if reads_prompts else ['', '', 'is empty (0 bytes).']
    assert [row.error for row in rows] == errors
    assert [row.score is None for row in rows] == [error != '' for error in errors]


def test_every_odd_image_gets_a_score_or_a_reason(grey, monkeypatch):
    grey('grey.png', value=51)
    Image.new('CMYK', (40, 40)).save('cmyk.jpg')
    Image.new('P', (40, 40)).save('palette.gif')
    Image.new('RGBA', (40, 40)).save('alpha.png')
    Image.fromarray(np.full((40, 40), 51 * 256, dtype=np.uint16)).save('deep.png')
    frames = [Image.new('L', (40, 40), value) for value in (51, 255)]
    frames[0].save('animated.webp', save_all=True, append_images=frames[1:], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('L', (60, 40), 51).save('turned.png', exif=exif)
    scores = {
        'grey.png': 1,
        'cmyk.jpg': 5,
        'palette.gif': 0,
        'alpha.png': 5,
        'deep.png': 1,
        'animated.webp': 1,
        'turned.png': 1,
    }

    grey('pixel.png', size=(1, 1))
    Path('empty.png').touch()
    Path('text.jpg').write_text('no picture')
    shutil.copy('cmyk.jpg', 'cut.jpg')
    os.truncate('cut.jpg', os.path.getsize('cmyk.jpg') // 2)
    monkeypatch.setattr(images, 'MAX_PIXELS', 300 * 300)
    grey('huge.png', size=(301, 300))
    reasons = {
        'pixel.png': 'is 1 x 1 pixels; the network needs at least 32 on each side.',
        'empty.png': 'is empty (0 bytes).',
        'text.jpg': 'is not a picture in a known format',
        'cut.jpg': 'is damaged or of an unknown kind',
        'huge.png': 'has more than 90,000 pixels; make it smaller.',
    }
    rows = {name: Row(name, Path(name)) for name in scores | reasons}
    given_out = [row.image for row in score_rows(Brightness(), list(rows.values()), batch_size=4)]
    assert sorted(given_out) == sorted(rows)
    for name, score in scores.items():
        assert rows[name].score == pytest.approx(score, abs=0.02) and rows[name].error == ''
    for name, reason in reasons.items():
        assert rows[name].score is None and rows[name].error.startswith(reason)
    assert (rows['turned.png'].width, rows['turned.png'].height) == (40, 60)
    assert (rows['pixel.png'].width, rows['pixel.png'].height) == (1, 1)
