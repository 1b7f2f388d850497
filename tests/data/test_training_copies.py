import pickle

import numpy as np
import pytest
from PIL import Image

from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.degradations import BLANKS, LEVELS
from align_iqa_plugin.data.training_copies import UNMOVED, Copies


@pytest.fixture
def section(tiny_images):
    columns = {'image_column': 'name', 'score_column': 'mos_quality'}
    return {'dataroot_target': str(tiny_images), 'check_images': False, **columns}


@pytest.fixture
def dataset(section):
    return AIGCIQADataset(section)


def test_every_chosen_image_has_each_kind_of_copy_once(dataset):
    copies = Copies(dataset, 0.5, 0.5)
    images = sorted({copy.image for copy in copies.copies})
    assert 10 < len(images) < 30
    for image in images:
        names = [copy.name for copy in copies.copies[: copies.ordered] if copy.image == image]
        assert [name.rpartition(' ')[0] for name in names[:-1]] == list(LEVELS) and names[-1] in BLANKS
        assert tuple(copy.name for copy in copies.copies[copies.ordered :] if copy.image == image) == UNMOVED


def test_a_share_of_one_takes_all_images_and_of_nothing_none(dataset):
    for copies in (Copies(dataset, 1.0, 0.0), Copies(dataset, 0.0, 1.0)):
        assert len({copy.image for copy in copies.copies}) == len(dataset)
    assert len(Copies(dataset, 0.0, 0.0)) == 0


def test_the_larger_share_has_the_images_of_the_smaller_one(dataset):
    copies = Copies(dataset, 0.2, 0.6)
    degraded, harmless = (
        {copy.image for copy in part} for part in (copies.copies[: copies.ordered], copies.copies[copies.ordered :])
    )
    assert degraded < harmless
    assert copies.copies == Copies(dataset, 0.2, 0.0).copies + Copies(dataset, 0.0, 0.6).copies


def test_what_is_chosen_depends_on_the_name_of_the_file_alone(section, dataset):
    # two splits that share an image share its copies
    part = AIGCIQADataset(section | {'split_index': 3, 'split_ratio': '802'})

    def described(some):
        copies = Copies(some, 0.5, 0.5)
        return {(path, *copy[1:]) for path, copy in zip(copies.paths, copies.copies, strict=True)}

    assert described(part) == {row for row in described(dataset) if row[0] in part.paths}


def test_a_copy_is_a_sample_with_the_labels_of_its_image_and_its_size(dataset):
    copies = Copies(dataset, 0.2, 0.2)
    for place, copy in enumerate(copies.copies):
        sample, original = copies[place], dataset[copy.image]
        assert sample['img'].shape == original['img'].shape
        assert sample['mos_label'] == original['mos_label'] and sample['img_path'] == copies.paths[place]
        assert sample['img'].equal(copies[place]['img'])
        if copy.lost:
            assert not sample['img'].equal(original['img'])


def test_views_tell_an_image_and_its_copies_apart(dataset):
    copies = Copies(dataset, 0.2, 0.2)
    places = [place for place, copy in enumerate(copies.copies) if copy.image == copies.copies[0].image]
    views = {copies.view(place) for place in places}
    assert len(views) == len(places) and dataset.view(copies.copies[0].image) not in views


def test_a_worse_level_loses_more_and_a_harmless_change_nothing(dataset):
    lost = {copy.name: copy.lost for copy in Copies(dataset, 1.0, 1.0).copies}
    for kind in LEVELS:
        assert lost[f'{kind} 1'] < lost[f'{kind} 2'] < lost[f'{kind} 3'] < lost[f'{kind} 4'] < 1
    assert {lost[name] for name in UNMOVED} == {0} and {lost[name] for name in BLANKS} == {1}


def test_copies_reach_the_workers_of_a_loader(dataset):
    copies = Copies(dataset, 0.2, 0.2)
    assert pickle.loads(pickle.dumps(copies))[0]['img'].equal(copies[0]['img'])


def test_blank_pictures_are_what_they_are_called(dataset):
    made = {copy.name: copy.make(Image.new('RGB', (20, 10))) for copy in Copies(dataset, 1.0, 1.0).copies if copy.lost == 1}
    assert np.asarray(made['black']).max() == 0 and np.asarray(made['white']).min() == 255
    assert np.asarray(made['uniform noise']).std() > 60 and made['uniform noise'].size == (20, 10)


def test_with_copy_each_sample_brings_one_of_the_copies_of_its_image(section, dataset):
    copies, with_copy = Copies(dataset, 1.0, 1.0), AIGCIQADataset(section | {'with_copy': True})
    for index in (0, 7, 23):
        sample = with_copy[index]
        (place,) = [
            place
            for place, copy in enumerate(copies.copies)
            if copy.image == index and copies.view(place) == sample['copy_view']
        ]
        assert sample['copy'].equal(copies[place]['img']) and sample['copy_lost'] == copies.copies[place].lost
        assert sample['img'].equal(dataset[index]['img']) and 'copy' not in dataset[index]
