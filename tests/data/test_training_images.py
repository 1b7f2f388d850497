import hashlib
from pathlib import Path

import pytest

from align_iqa_plugin.data import training_images
from align_iqa_plugin.data.labels import read_labels
from align_iqa_plugin.data.splits import phases_of, split_name
from align_iqa_plugin.data.training_images import check_unseen, fitted_to, starts_from_them
from align_iqa_plugin.score.find_images import sample_rows


def digests(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_the_samples_are_test_images():
    assert fitted_to(digests(row.path for row in sample_rows())) == 0


@pytest.mark.parametrize(
    ('network', 'start', 'alpha', 'learned'),
    [
        ({}, None, 0.2, False),
        ({}, 'mine.pth', None, False),
        ({}, 'packaged', 0.2, True),
        ({}, 'packaged-fast', 0.2, False),  # its CGI and MSFA learned from photographs,
        ({}, 'packaged-fast', None, True),  # but not its head
        ({'pretrained': True}, None, 0.2, True),
        ({'pretrained': True}, 'mine.pth', None, False),
        ({'pretrained_model_path': 'packaged'}, None, 0.2, True),
        ({'pretrained_model_path': 'mine.pth'}, None, None, False),
        ({'pretrained': True, 'pretrained_model_path': 'mine.pth'}, None, None, False),
        ({'pretrained': True, 'pretrained_model_path': 'packaged-fast'}, None, None, True),
        ({'pretrained': True, 'pretrained_model_path': 'packaged-fast'}, None, 0.2, False),
    ],
)
def test_a_training_may_start_from_weights_that_learned_from_them(network, start, alpha, learned):
    options = {'network': network, 'path': {'pretrain_network': start}, 'train': {'ridge_alpha': alpha}}
    assert starts_from_them(options) is learned


def test_images_that_the_package_learned_from_cannot_test_what_starts_from_it(monkeypatch):
    seen, unseen = (hashlib.sha256(content).hexdigest() for content in (b'seen', b'unseen'))
    monkeypatch.setattr(training_images, '_known', lambda: {seen[:16]})
    check_unseen([unseen], 'a set')
    with pytest.raises(ValueError, match="learned from 1 of the images of a set, .*'packaged-fast'"):
        check_unseen([unseen, seen], 'a set')


@pytest.mark.data
def test_they_are_the_training_images_of_split_1(data_folder):
    if not (data_folder / 'AGIQA-3K' / 'data.csv').is_file():
        pytest.skip('no AGIQA-3K')
    labels = read_labels(data_folder / 'AGIQA-3K')
    paths = {'train': [], 'val': [], 'test': []}
    for row, phase in zip(labels.rows, phases_of(labels, split_name(1)), strict=True):
        paths[phase].append(Path(row.path))
    assert {phase: fitted_to(digests(images)) for phase, images in paths.items()} == {'train': 2077, 'val': 0, 'test': 0}
