"""The facts of the releases agree with each other, and an entry of the table is all that a data set needs."""

import re

import pytest
from PIL import Image

from align_iqa_plugin.data import release_tables
from align_iqa_plugin.data.labels import read_labels
from align_iqa_plugin.data.releases import RELEASES, Release, find_release

each = pytest.mark.parametrize('release', RELEASES, ids=lambda release: release.key)


@each
def test_the_columns_of_a_release_are_in_its_header_or_follow_from_its_order(release):
    known = {release.image_column, *([release.prompt_column] if release.prompt_column else [])}
    if release.order:
        assert release.header == () and release.score_ranges.keys() == release.order.score_files.keys()
        assert release.order.generators * release.order.prompts * release.order.images_each == release.images
        assert (release.order.generators, release.order.prompts) == (release.generators, release.prompts)
    else:
        assert known | set(release.score_ranges) <= set(release.header)


@each
def test_a_range_has_a_lowest_and_a_highest_value(release):
    assert all(bounds is None or bounds[0] < bounds[1] for bounds in release.score_ranges.values())


@each
def test_the_folds_of_ipce_are_pairs_of_digits_of_a_release_with_numbered_prompts(release):
    assert all(re.fullmatch(r'\d\d', digits) for digits in release.ipce_folds)
    assert not release.ipce_folds or (len(release.ipce_folds) == 10 and 'prompt_id' in release.file_name)


@each
def test_every_entry_says_where_its_facts_come_from(release):
    assert release.source and release.home.startswith('http')


@each
def test_names_hold_nothing_but_generator_and_prompt(release):
    groups = set(re.compile(release.file_name).groupindex) if release.file_name else set()
    assert groups <= {'generator', 'prompt_id'}
    assert all(re.fullmatch(release.file_name, name) for group in release.duplicates for name in group.split())


def test_keys_are_lower_case_without_punctuation_and_differ():
    keys = [release.key for release in RELEASES]
    assert keys[:2] == ['agiqa3k', 'agiqa1k'] and len(set(keys)) == len(keys)
    assert all(re.fullmatch('[a-z0-9]+', key) for key in keys)


@pytest.mark.parametrize('name', ['AGIQA-3K', 'agiqa3k', 'agiqa_3k', 'AGIQA 3k'])
def test_a_release_is_found_by_any_spelling_of_its_name(name):
    assert find_release(name) is RELEASES[0]


def test_an_unknown_name_is_an_error_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown release 'agiqa4k'; did you mean 'agiqa"):
        find_release('agiqa4k')
    with pytest.raises(ValueError, match="unknown release 'other'; choose from .*agiqa3k"):
        find_release('other')


def test_the_name_of_an_image_holds_its_generator_and_its_prompt():
    for name, expected in [
        ('sd1.5_highcorr_017.jpg', ('agiqa3k', 'sd1.5', '017')),
        ('xl2.2_normal_299.jpg', ('agiqa3k', 'xl2.2', '299')),
        ('dreamStudio_6_2_0_1.jpg', ('agiqa1k', 'dreamStudio', '6_2_0_1')),
        ('dreamStudio_8_9_1_.jpg', ('agiqa1k', 'dreamStudio', '8_9_1_')),
    ]:
        match = re.fullmatch(find_release(expected[0]).file_name, name)
        assert (match['generator'], match['prompt_id']) == expected[1:]
    assert re.fullmatch(find_release('aigiqa20k').file_name, 'DALLE2_0000.png')['generator'] == 'DALLE2'


def test_a_further_data_set_is_one_entry(tmp_path, monkeypatch):
    entry = Release(
        name='New-1',
        table='new.csv',
        header=('picture', 'text', 'good'),
        image_column='picture',
        prompt_column='text',
        score_ranges={'good': (1.0, 7.0)},
        image_folder='pictures',
        images=1,
        prompts=1,
        generators=1,
        licence=None,
        home='http://example.org',
        source='this test',
        file_name=r'(?P<generator>\w)-\d+\.png',
    )
    monkeypatch.setattr(release_tables, 'RELEASES', (*RELEASES, entry))
    (tmp_path / 'pictures').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'pictures' / 'g-1.png')
    (tmp_path / 'new.csv').write_text('good,picture,text\n6.5,g-1.png,None\n')
    read = read_labels(tmp_path)
    read.raise_problems()
    assert (read.release, read.score_range) == (entry, (1.0, 7.0))
    assert (read.rows[0].score, read.rows[0].prompt, read.column('generator')) == (6.5, 'None', ['g'])
