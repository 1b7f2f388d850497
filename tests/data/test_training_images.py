import hashlib
from pathlib import Path

import pytest

from align_iqa_plugin.data.labels import read_labels
from align_iqa_plugin.data.splits import phases_of, split_name
from align_iqa_plugin.data.training_images import fitted_to
from align_iqa_plugin.score.find_images import sample_rows


def digests(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_the_samples_are_test_images():
    assert fitted_to(digests(row.path for row in sample_rows())) == 0


@pytest.mark.data
def test_they_are_the_training_images_of_split_1(data_folder):
    if not (data_folder / 'AGIQA-3K' / 'data.csv').is_file():
        pytest.skip('no AGIQA-3K')
    labels = read_labels(data_folder / 'AGIQA-3K')
    paths = {'train': [], 'val': [], 'test': []}
    for row, phase in zip(labels.rows, phases_of(labels, split_name(1)), strict=True):
        paths[phase].append(Path(row.path))
    assert {phase: fitted_to(digests(images)) for phase, images in paths.items()} == {'train': 2077, 'val': 0, 'test': 0}
