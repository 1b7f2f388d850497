"""Label tables are read as text, by name or by position, and every fault is told with its row."""

import csv

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_iqa_plugin.labels import LabelError, read_labels, write_labels

AGIQA = 'name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align'


@pytest.fixture
def table(tmp_path):
    """Writes a CSV, with an (unopened) file for each name, and returns its path."""

    def write(text, images=(), folder=''):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in images:
            (tmp_path / folder / name).write_bytes(b'')
        path = tmp_path / 'data.csv'
        path.write_bytes(text.encode())
        return path

    return write


def faults(labels):
    with pytest.raises(LabelError) as caught:
        labels.refuse_faults()
    return str(caught.value).splitlines()


@pytest.mark.parametrize('folder', ['images', ''])
def test_agiqa_3k_is_read_as_released_with_images_below_or_beside_the_csv(table, tmp_path, folder):
    path = table(f'{AGIQA}\r\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\r\n', ['a.jpg'], folder)
    for data in (path, tmp_path):
        labels = read_labels(data, further_score_columns=['mos_align'])
        labels.refuse_faults()
        (row,) = labels.rows
        assert (row.path, row.score, row.prompt) == (str(tmp_path / folder / 'a.jpg'), 4.5, 'a cat')
        assert row.further_scores == (2.5,) and labels.score_range == (0.0, 5.0)


def test_the_other_score_of_a_release_is_chosen_by_its_column(table):
    labels = read_labels(table(f'{AGIQA}\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['a.jpg']), score_column='mos_align')
    assert labels.rows[0].score == 2.5 and labels.score_range == (0.0, 5.0)


def test_columns_are_taken_by_position_in_pyiqas_form(table):
    labels = read_labels(table('img,mos,prompt,split\na.jpg,70,a cat,train\n', ['a.jpg']))
    labels.refuse_faults()
    assert (labels.image_column, labels.score_column, labels.score_range) == ('img', 'mos', None)
    assert labels.rows[0].score == 70.0 and labels.column('split') == ['train']


def test_a_release_written_with_splits_is_read_by_position_and_keeps_its_range(table, tmp_path):
    labels = read_labels(table(f'{AGIQA}\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['a.jpg']), score_column='mos_align')
    write_labels(labels, {'ratio712_seed123_split_01': ['train']}, tmp_path / 'meta.csv')
    again = read_labels(tmp_path / 'meta.csv')
    assert (again.score_column, again.rows[0].score, again.score_range) == ('mos_align', 2.5, (0.0, 5.0))


def test_names_and_prompts_stay_text(table):
    prompts = ['None', 'null', 'NA', 'nan', '', ' a "cat", two ', '1e3', 'naïve 猫']
    names = ['001', '002', '1e5', 'nan', '007.0', 'NA', 'ü.png', '-1']
    pairs = zip(names, prompts, strict=True)
    lines = '\r\n'.join(f'{name},1,"{prompt.replace(chr(34), chr(34) * 2)}"' for name, prompt in pairs)
    labels = read_labels(table(f'\ufeffimage,mos,prompt\r\n{lines}\r\n', names))
    labels.refuse_faults()
    assert [row.prompt for row in labels.rows] == prompts
    assert labels.column('image') == names


def test_every_fault_is_told_with_the_row_that_a_spreadsheet_shows(table):
    path = table(
        'image,mos,prompt,align\n'  # row 1
        'a.png,1,a,2\n'
        'b.png,five,a,2\n'
        'b.png,nan,b,2\n'
        '\n'  # row 5
        'b.png,1_0,c,2\n'
        'b.png,,d,inf\n'
        'b.png,7,e,2\n'
        'missing.png,-inf,f,2\n'
        'a.png,1,a\n'  # row 10
        'a.png,1,a,2\n'
        '"b.png",-0.1,"two\nlines",2\n'
        ',1,g,2\n',
        ['a.png', 'b.png'],
    )
    lines = faults(read_labels(path, further_score_columns=['align'], score_range=(0, 5)))
    assert str(path) in lines[0] and '12 faults' in lines[0]
    expected = [
        (3, "b.png: mos is 'five', not a finite number"),
        (4, "b.png: mos is 'nan', not a finite number"),
        (6, "b.png: mos is '1_0', not a finite number"),
        (7, "b.png: align is 'inf', not a finite number"),
        (7, "b.png: mos is '', not a finite number"),
        (8, 'b.png: mos is 7, outside its range 0 to 5'),
        (9, "missing.png: mos is '-inf', not a finite number"),
        (9, 'missing.png: there is no such file'),
        (10, '3 cells, but the header has 4'),
        (11, 'a.png: the same image and prompt as in row 2'),
        (12, 'b.png: mos is -0.1, outside its range 0 to 5'),
        (13, 'no image name: there is no such file'),
    ]
    assert len(lines) == 1 + len(expected)
    for line, (number, words) in zip(lines[1:], expected, strict=True):
        assert line.strip().startswith(f'row {number}: {words}'), line


def test_one_image_may_stand_in_several_rows_with_different_prompts(table):
    labels = read_labels(table('image,mos,prompt\na.png,1,a\na.png,2,b\n', ['a.png']))
    labels.refuse_faults()
    assert len(labels.rows) == 2


def test_a_known_range_holds_for_further_scores_and_gives_way_to_a_stated_one(table):
    path = table(f'{AGIQA}\na.jpg,a cat,,,,60,0.1,60,0.2\n', ['a.jpg'])
    assert len(faults(read_labels(path))) == 2
    lines = faults(read_labels(path, score_range=(0, 100), further_score_columns=['mos_align', 'std_align']))
    assert len(lines) == 2 and 'mos_align is 60' in lines[1]


def test_a_wrong_folder_is_one_fault(table, tmp_path):
    names = [f'{i}.png' for i in range(30)]
    path = table('image,mos,prompt\n' + ''.join(f'{name},1,{name}\n' for name in names), names)
    (line,) = faults(read_labels(path, images=tmp_path / 'elsewhere'))[1:]
    assert 'none of the 30 images' in line and str(tmp_path / 'elsewhere') in line


@pytest.mark.parametrize(
    ('text', 'options', 'words'),
    [
        ('', {}, 'is empty'),
        ('image,mos,prompt\n', {}, 'no rows'),
        ('image;mos;prompt\na.png;1;a\n', {}, 'one column only'),
        ('image,mos,mos,prompt\na.png,1,2,a\n', {}, "more than one column 'mos'"),
        ('image,mos\na.png,1\n', {}, "no column 'prompt'; it has: image, mos"),
        ('image,mos,prompt\na.png,1,a\n', {'score_column': 'moss'}, "no column 'moss'; did you mean 'mos'?"),
        ('image,mos,prompt\na.png,1,a\n', {'further_score_columns': ['align']}, "no column 'align'"),
        ('image,mos,prompt\na.png,1,"a\n', {}, 'line 2: not a sound CSV'),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_with_its_name(table, text, options, words):
    path = table(text, ['a.png'])
    with pytest.raises(LabelError) as caught:
        read_labels(path, **options)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / 'data.csv').write_bytes('image,mos,prompt\nü.png,1,a\n'.encode('latin-1'))
    with pytest.raises(LabelError, match='UTF-8'):
        read_labels(tmp_path)


def test_a_folder_without_data_csv_is_refused(tmp_path):
    with pytest.raises(LabelError, match=r'holds no data\.csv'):
        read_labels(tmp_path)


def test_prompts_are_left_out_only_if_that_is_said(table):
    labels = read_labels(table('image,mos\na.png,1\n', ['a.png']), prompt_column=None)
    assert labels.rows[0].prompt == '' and labels.prompt_column is None


CELLS = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8, unique_by=lambda cells: cells[0]))
def test_any_text_survives_reading_and_writing(tmp_path, cells):
    (tmp_path / 'a.png').write_bytes(b'')
    with open(tmp_path / 'data.csv', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([['note', 'prompt', 'mos', 'file'], *((b, a, '1.50', 'a.png') for a, b in cells)])
    named = {'image_column': 'file', 'score_column': 'mos'}
    write_labels(read_labels(tmp_path, **named), {}, tmp_path / 'meta.csv')
    again = read_labels(tmp_path / 'meta.csv')
    again.refuse_faults()
    assert again.header == ('file', 'mos', 'prompt', 'note')
    assert [row.cells for row in again.rows] == [('a.png', '1.50', prompt, note) for prompt, note in cells]


def test_a_column_is_never_written_twice(table, tmp_path):
    labels = read_labels(table('image,mos,prompt,split\na.png,1,a,train\n', ['a.png']))
    with pytest.raises(LabelError, match="'split' already"):
        write_labels(labels, {'split': ['test']}, tmp_path / 'meta.csv')


def test_the_facts_of_each_release_fit_its_header():
    for release in RELEASES:
        assert {release.image_column, release.score_column, *release.score_ranges} <= set(release.header)
        assert release.score_column in release.score_ranges


@pytest.mark.data
def test_the_real_agiqa_3k_is_sound(data_folder):
    labels = read_labels(data_folder / 'AGIQA-3K', further_score_columns=['mos_align'])
    labels.refuse_faults()
    assert len(labels.rows) == 2982 and len({row.prompt for row in labels.rows}) == 300
