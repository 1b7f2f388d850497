"""Which images the arguments name: each once, in the order given, and nothing left out in silence."""

import csv
import hashlib
import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from align_iqa_plugin.score.find_images import SAMPLES, find_images, sample_rows
from align_iqa_plugin.score.rows import Row


def found(*arguments, **options):
    rows, _ = find_images([str(argument) for argument in arguments], **options)
    return [row.image for row in rows]


def test_files_folders_and_globs_are_found_in_the_order_given(grey):
    grey('b.png', 'a.png', 'sub/d.PNG', 'sub/deep/e.jpg', 'c1.png', 'c2.png')
    names = found('b.png', 'sub', 'c*.png', 'a.png')
    assert names == ['b.png', 'sub/d.PNG', 'sub/deep/e.jpg', 'c1.png', 'c2.png', 'a.png']


def test_a_glob_may_reach_into_subfolders(grey):
    grey('x/a.png', 'x/y/b.png')
    assert found('**/*.png') == ['x/a.png', 'x/y/b.png']


def test_an_image_that_is_named_twice_is_found_once(grey):
    grey('x/a.png')
    assert found('x/a.png', 'x', './x/*.png') == ['x/a.png']


def test_a_file_whose_name_looks_like_a_glob_is_a_file(grey):
    grey('a[1].png', 'a1.png')
    assert found('a[1].png') == ['a[1].png']


def test_other_and_hidden_files_of_a_folder_are_passed_over_and_others_counted(grey):
    grey('x/a.png', 'x/.hidden.png', 'x/.git/b.png')
    Path('x/notes.txt').write_text('notes')
    rows, (note,) = find_images(['x'])
    assert [row.image for row in rows] == ['x/a.png']
    assert note.startswith('1 file was left out in the folders')


def test_a_table_names_images_and_prompts_and_may_stand_beside_images_without(grey):
    grey('x/a.png', 'x/b.png')
    Path('x/table.csv').write_text('image,prompt\na.png,a cat\n')
    rows, _ = find_images(['x/table.csv', 'x'])
    assert [(row.image, row.prompt) for row in rows] == [('x/a.png', 'a cat'), ('x/a.png', None), ('x/b.png', None)]


def test_a_wrong_table_is_an_error(folder):
    Path('table.csv').write_text('picture\na.png\n')
    with pytest.raises(ValueError, match='table.csv'):
        find_images(['table.csv'])


def test_further_columns_of_tables_stay_with_their_images(grey):
    grey('a.png', 'b.png', 'c.png')
    Path('t.csv').write_text('seed,image,cfg\n7,a.png,1.5\n8,b.png,\n')
    rows, notes = find_images(['c.png', 'a.png', 't.csv'])
    assert [(row.image, row.columns) for row in rows] == [
        ('c.png', {}),
        ('a.png', {'seed': '7', 'cfg': '1.5'}),
        ('b.png', {'seed': '8', 'cfg': ''}),
    ]
    assert notes == []


def test_a_column_that_is_called_like_one_of_ours_gets_another_name_and_a_note(grey):
    grey('a.png')
    Path('t.csv').write_text('image,score,table_score,error\na.png,1,2,3\n')
    (row,), notes = find_images(['t.csv'])
    assert row.columns == {'table_table_score': '1', 'table_score': '2', 'table_error': '3'}
    assert notes[0] == "The column 'score' of 't.csv' is 'table_table_score' in the output." and len(notes) == 2


def test_a_table_that_names_an_image_twice_says_whose_columns_are_lost(grey):
    grey('a.png')
    Path('t.csv').write_text('image,prompt,seed\na.png,x,1\na.png,x,1\na.png,x,2\na.png,y,3\n')
    rows, (note,) = find_images(['t.csv'])
    assert [(row.prompt, row.columns) for row in rows] == [('x', {'seed': '1'}), ('y', {'seed': '3'})]
    assert note.startswith("In 't.csv', 1 row names an image again")


def test_columns_that_cannot_be_text_are_left_out_with_a_note(grey):
    grey('a.png')
    pd.DataFrame({'image': ['a.png'], 'pixels': [b'x']}).to_parquet('t.parquet')
    (row,), (note,) = find_images(['t.parquet'])
    assert row.columns == {} and "'t.parquet'" in note and note.endswith("left out: 'pixels'.")


def test_a_uri_is_found_and_a_folder_at_one_is_searched(grey, folder):
    grey('x/a b.png', 'x/sub/c.png')
    Path('x/notes.txt').write_text('notes')
    uri = f'file://{folder}/x'
    rows, (note,) = find_images([uri, f'{uri}/a b.png', f'{uri}/none.png', 'other://x'])
    assert [row.image for row in rows] == [f'{uri}/a b.png', f'{uri}/sub/c.png', f'{uri}/none.png', 'other://x']
    assert [row.error == '' for row in rows] == [True, True, False, False]
    assert all(row.error.startswith('cannot be listed: ') for row in rows[2:])
    assert note.startswith('1 file ')


def test_an_argument_that_leads_to_no_image_gets_a_row(grey):
    grey('a.png')
    Path('empty').mkdir()
    rows, _ = find_images(['missing.png', 'empty', '*.gif', 'a.png'])
    assert [(row.image, row.error) for row in rows] == [
        ('missing.png', ''),  # whoever reads it says what is wrong
        ('empty', 'is a folder without an image.'),
        ('*.gif', 'matches no file.'),
        ('a.png', ''),
    ]


@pytest.mark.parametrize(
    ('argument', 'reason'),
    [('missing.png', 'does not exist.'), ('*.gif', 'matches no file.'), ('none', 'is a folder without an image.')],
)
def test_nothing_to_score_is_an_error(folder, argument, reason):
    Path('none').mkdir()
    with pytest.raises(ValueError, match=f"'{argument.replace('*', '[*]')}' {reason}"):
        find_images([argument])


# Links to folders


@pytest.fixture
def link(folder):
    def make(name, target):
        try:
            os.symlink(target, name, target_is_directory=True)
        except OSError:
            pytest.skip('links cannot be made here')

    return make


def test_a_linked_folder_is_searched(grey, link):
    grey('x/a.png', 'elsewhere/deep/b.png')
    link('x/linked', '../elsewhere')
    assert found('x') == ['x/a.png', 'x/linked/deep/b.png']


def test_links_in_a_circle_come_to_an_end(grey, link):
    grey('x/a.png', 'x/y/b.png')
    link('x/y/back', '..'), link('x/y/self', '.'), link('x/broken', 'nowhere')
    assert found('x') == ['x/a.png', 'x/y/b.png']


def test_a_folder_is_searched_once_and_under_its_own_name_where_that_lies_beside_the_links(grey, link):
    grey('x/z/a.png', 'elsewhere/b.png')
    link('x/a_link', 'z'), link('x/one', '../elsewhere'), link('x/two', '../elsewhere')
    assert found('x') == ['x/z/a.png', 'x/one/b.png']


# Earlier contact sheets


def test_an_earlier_contact_sheet_is_no_image_but_an_image_of_that_name_is(grey):
    from align_iqa_plugin.score.contact_sheet import write_sheet

    grey('x/a.png', 'x/sheet.png')
    assert found('x', leave_out=Path('x/sheet.png')) == ['x/a.png', 'x/sheet.png']
    write_sheet(Path('x/sheet.png'), [Row('x/a.png', Path('x/a.png'), score=1.0)])
    rows, (note,) = find_images(['x'], leave_out=Path('x/sheet.png'))
    assert [row.image for row in rows] == ['x/a.png'] and "'x/sheet.png' is left out" in note


# The samples


def test_the_samples_are_a_dozen_images_of_different_prompts_and_all_generators():
    rows = sample_rows()
    assert len(rows) == 12 == len({row.prompt for row in rows})
    assert {row.image.split('_')[0] for row in rows} == {'AttnGAN', 'DALLE2', 'glide', 'midjourney', 'sd1.5', 'xl2.2'}
    assert all(Image.open(row.path).size == (512, 512) for row in rows)
    assert sorted(row.image for row in rows) == sorted(path.name for path in SAMPLES.glob('*.jpg'))


@pytest.mark.data
def test_the_samples_follow_the_rule_of_their_notice(data_folder):
    from align_iqa_plugin.data.splits import prompt_disjoint_split

    release = data_folder / 'AGIQA-3K'
    with open(release / 'data.csv', encoding='utf-8-sig', newline='') as file:
        lines = list(csv.DictReader(file))
    contents = [hashlib.sha256((release / 'images' / line['name']).read_bytes()).hexdigest() for line in lines]
    phases = prompt_disjoint_split([line['prompt'] for line in lines], contents, 1)
    test = [line for line, phase in zip(lines, phases, strict=True) if phase == 'test']
    test.sort(key=lambda line: (float(line['mos_quality']), line['name']))

    of_real_people = ('bill gates and jason statham fight m , hyper detail', 'superman punches the pope')
    chosen = []
    for part in range(12):
        start, end = part * len(test) // 12, (part + 1) * len(test) // 12
        generators = [line['name'].split('_')[0] for line in chosen]
        barred = {*of_real_people, *(line['prompt'] for line in chosen)}
        free = [place for place in range(start, end) if test[place]['prompt'] not in barred]
        middle = (start + end - 1) / 2
        taken = {place: generators.count(test[place]['name'].split('_')[0]) for place in free}
        chosen.append(test[min(free, key=lambda place, taken=taken, middle=middle: (taken[place], abs(place - middle)))])
    assert [(line['name'], line['prompt'], float(line['mos_quality'])) for line in chosen] == [
        (row.image, row.prompt, row.mos) for row in sample_rows()
    ]
    for row in sample_rows():
        assert row.path.read_bytes() == (release / 'images' / row.image).read_bytes()
