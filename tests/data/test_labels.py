"""Label tables are read by name or by position, every problem has its row, and what is written is read again."""

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.io
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from align_iqa_plugin.data.labels import LabelError, read_labels, write_labels
from align_iqa_plugin.data.releases import find_release
from align_iqa_plugin.runtime.csv_text import csv_text

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


def problems(labels):
    with pytest.raises(LabelError) as caught:
        labels.raise_problems()
    return str(caught.value).splitlines()


@pytest.mark.parametrize('folder', ['images', ''])
def test_agiqa_3k_is_read_as_released_with_images_below_or_beside_the_csv(table, tmp_path, folder):
    path = table(f'{AGIQA}\r\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\r\n', ['a.jpg'], folder)
    for data in (path, tmp_path):
        labels = read_labels(data, further_score_columns=['mos_align'])
        labels.raise_problems()
        (row,) = labels.rows
        assert (row.path, row.score, row.prompt) == (str(tmp_path / folder / 'a.jpg'), 4.5, 'a cat')
        assert row.further_scores == (2.5,) and labels.score_range == (0.0, 5.0)


def test_the_other_score_of_a_release_is_chosen_by_its_column(table):
    labels = read_labels(table(f'{AGIQA}\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['a.jpg']), score_column='mos_align')
    assert labels.rows[0].score == 2.5 and labels.score_range == (0.0, 5.0)


def test_the_column_of_generators_is_named_and_then_called_generator(table):
    path = table('image,mos,model\na.png,1,glide\nb.png,2,\n', ['a.png', 'b.png'])
    labels = read_labels(path, prompt_column=None, generator_column='model')
    assert labels.header == ('image', 'mos', 'generator') and labels.generators == ['glide', '']
    assert read_labels(path, prompt_column=None).generators == ['', '']


@pytest.mark.parametrize(
    ('header', 'column', 'reason'),
    [
        ('image,mos,model', 'modle', "no column 'modle'.*'model'"),
        ('image,mos,model', 'generator', "no column 'generator'"),
        ('image,mos,model', 'mos', "'mos' holds the images, scores or prompts"),
        ('image,generator,model', 'model', "'generator' beside 'model'"),
    ],
)
def test_a_column_that_cannot_be_that_of_generators_is_refused(table, header, column, reason):
    with pytest.raises(LabelError, match=reason):
        read_labels(table(f'{header}\na.png,1,x\n', ['a.png']), prompt_column=None, generator_column=column)


def test_the_main_score_may_be_a_further_one_as_well(table):
    path = table(f'{AGIQA}\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['a.jpg'])
    labels = read_labels(path, further_score_columns=['mos_align', 'mos_quality'])
    assert (labels.rows[0].score, labels.rows[0].further_scores) == (4.5, (2.5, 4.5))


def test_columns_are_taken_by_position_in_pyiqas_form(table):
    labels = read_labels(table('img,mos,prompt,split\na.jpg,70,a cat,train\n', ['a.jpg']))
    labels.raise_problems()
    assert (labels.image_column, labels.score_column, labels.score_range) == ('img', 'mos', None)
    assert labels.rows[0].score == 70.0 and labels.column('split') == ['train']


def test_a_release_written_with_splits_is_read_by_position_and_keeps_its_range(table, tmp_path):
    labels = read_labels(table(f'{AGIQA}\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['a.jpg']), score_column='mos_align')
    write_labels(labels, {'ratio712_seed123_split_01': ['train']}, tmp_path / 'meta.csv')
    again = read_labels(tmp_path / 'meta.csv')
    assert (again.score_column, again.rows[0].score, again.score_range) == ('mos_align', 2.5, (0.0, 5.0))


@pytest.mark.parametrize('ending', ['csv', 'xlsx', 'parquet'])
def test_names_and_prompts_stay_text(tmp_path, ending):
    prompts = ['None', 'null', 'NA', 'nan', '', ' a "cat", two ', '1e3', 'naïve 猫', 'TRUE', '007']
    names = ['001', '002', '1e5', 'nan', '007.0', 'NA', 'ü.png', '-1', 'a', 'b']
    for name in names:
        (tmp_path / name).write_bytes(b'')
    frame = pandas.DataFrame({'image': names, 'mos': [0.1, 2, 1 / 3, 4, 5, 6, 7, 8, 9, 10], 'prompt': prompts})
    write = {'csv': frame.to_csv, 'xlsx': frame.to_excel, 'parquet': frame.to_parquet}[ending]
    write(tmp_path / f'own.{ending}', **{} if ending == 'parquet' else {'index': False})
    labels = read_labels(tmp_path / f'own.{ending}')
    labels.raise_problems()
    assert labels.column('image') == names and [row.prompt for row in labels.rows] == prompts
    assert [row.score for row in labels.rows] == pytest.approx(frame['mos'].tolist())


def test_every_problem_has_the_row_that_a_spreadsheet_shows(table):
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
    lines = problems(read_labels(path, further_score_columns=['align'], score_range=(0, 5)))
    assert str(path) in lines[0] and '12 problems' in lines[0]
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
    labels.raise_problems()
    assert len(labels.rows) == 2


def test_a_known_range_holds_for_further_scores_and_gives_way_to_a_stated_one(table):
    path = table(f'{AGIQA}\na.jpg,a cat,,,,60,0.1,60,0.2\n', ['a.jpg'])
    assert len(problems(read_labels(path))) == 2
    lines = problems(read_labels(path, score_range=(0, 100), further_score_columns=['mos_align', 'std_align']))
    assert len(lines) == 2 and 'mos_align is 60' in lines[1]


def test_a_wrong_folder_is_one_problem(table, tmp_path):
    names = [f'{i}.png' for i in range(30)]
    path = table('image,mos,prompt\n' + ''.join(f'{name},1,{name}\n' for name in names), names)
    (line,) = problems(read_labels(path, images=tmp_path / 'elsewhere'))[1:]
    assert 'none of the 30 images' in line and str(tmp_path / 'elsewhere') in line


@pytest.mark.parametrize(
    ('text', 'options', 'words'),
    [
        ('', {}, 'is empty'),
        ('image,mos,prompt\n', {}, 'no rows'),
        ('image|mos|prompt\na.png|1|a\n', {}, 'one column only'),
        ('image,mos,mos,prompt\na.png,1,2,a\n', {}, "more than one column 'mos'"),
        ('image,mos\na.png,1\n', {}, "no column 'prompt'; choose from image, mos"),
        ('image,mos,prompt\na.png,1,a\n', {'score_column': 'moss'}, "no column 'moss'; did you mean 'mos'?"),
        ('image,mos,prompt\na.png,1,a\n', {'further_score_columns': ['align']}, "no column 'align'"),
        ('image,mos,prompt\na.png,1,"a\n', {}, 'not a sound CSV'),
    ],
)
def test_a_file_that_is_no_such_table_is_an_error_that_names_it(table, text, options, words):
    path = table(text, ['a.png'])
    with pytest.raises(LabelError) as caught:
        read_labels(path, **options)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_text_that_is_not_utf_8_is_an_error(tmp_path):
    (tmp_path / 'data.csv').write_bytes('image,mos,prompt\nü.png,1,a\n'.encode('latin-1'))
    with pytest.raises(LabelError, match='UTF-8'):
        read_labels(tmp_path)


def test_a_folder_without_data_csv_is_an_error(tmp_path):
    with pytest.raises(LabelError, match=r'has no data\.csv'):
        read_labels(tmp_path)


def test_prompts_are_left_out_only_by_an_explicit_none(table):
    labels = read_labels(table('image,mos\na.png,1\n', ['a.png']), prompt_column=None)
    assert labels.rows[0].prompt == '' and labels.prompt_column is None


CELLS = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=12)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8, unique_by=lambda cells: cells[0].strip() and cells[0]))
@example([('', "'=")])
def test_any_text_survives_reading_and_writing(tmp_path, cells):
    (tmp_path / 'a.png').write_bytes(b'')
    # by our writer: a quote before a formula, which it puts there, is taken off again when a table is read
    rows = [['note', 'prompt', 'mos', 'file'], *((b, a, '1.50', 'a.png') for a, b in cells)]
    (tmp_path / 'data.csv').write_bytes(csv_text(rows).encode())
    named = {'image_column': 'file', 'score_column': 'mos'}
    write_labels(read_labels(tmp_path, **named), {}, tmp_path / 'meta.csv')
    again = read_labels(tmp_path / 'meta.csv')
    again.raise_problems()
    assert again.header == ('file', 'mos', 'prompt', 'note')
    assert [row.cells for row in again.rows] == [('a.png', '1.50', prompt, note) for prompt, note in cells]


def test_a_column_is_never_written_twice(table, tmp_path):
    labels = read_labels(table('image,mos,prompt,split\na.png,1,a,train\n', ['a.png']))
    with pytest.raises(LabelError, match="'split' already"):
        write_labels(labels, {'split': ['test']}, tmp_path / 'meta.csv')


RELEASED = {
    # release: images, score columns, prompts, prompts' ids, generators
    'AGIQA-3K': (120, ['mos_quality', 'mos_align'], 20, 20, 6),
    'AGIQA-1K': (24, ['MOS'], 12, 12, 2),
    'AIGCIQA2023': (2400, ['mos_quality', 'mos_authenticity', 'mos_correspondence'], 100, 100, 6),
    'AIGIQA-20K': (36, ['mos'], 12, None, 3),
    'PKU-AIGIQA-4K': (24, ['MOS_q', 'MOS_a', 'MOS_c'], 24, None, None),
    'LIVE-Challenge': (20, ['mos'], None, None, None),
    'BIQ2021': (48, ['MOS'], None, None, None),
}


@pytest.mark.parametrize('name', RELEASED)
@pytest.mark.parametrize('named', [True, False], ids=['named', 'recognized'])
def test_every_release_is_read_from_its_folder_alone(small_releases, name, named):
    images, scores, prompts, prompt_ids, generators = RELEASED[name]
    labels = read_labels(small_releases / name, release=name if named else None, further_score_columns=scores[1:])
    labels.raise_problems()
    assert labels.release.name == name and len(labels.rows) == images
    assert (labels.score_column, len(labels.rows[0].further_scores)) == (scores[0], len(scores) - 1)
    assert labels.prompt_column == (None if prompts is None else 'prompt')
    assert len({row.prompt for row in labels.rows}) == (prompts or 1)
    for column, count in (('prompt_id', prompt_ids), ('generator', generators)):
        assert (len(set(labels.column(column))) if column in labels.header else None) == count
    if prompts:
        assert {'None', 'NA', '001', ' a "cat", two '} <= {row.prompt for row in labels.rows}
    if prompt_ids:
        assert len(set(zip(labels.column('prompt_id'), labels.column('prompt'), strict=True))) == prompts


@pytest.mark.parametrize('name', [name for name in RELEASED if name != 'BIQ2021'])
def test_the_table_itself_leads_to_its_release_as_well(small_releases, name):
    table = small_releases / name / find_release(name).table
    assert read_labels(table).rows == read_labels(small_releases / name).rows


def test_the_folder_of_biq2021_stands_for_both_tables_and_each_table_for_itself(small_releases):
    folder = small_releases / 'BIQ2021'
    whole, *parts = map(read_labels, [folder, *(folder / table for table in find_release('biq2021').tables)])
    assert whole.column('phase') == ['train'] * 40 + ['test'] * 8
    for part, phase, count in zip(parts, ('train', 'test'), (40, 8), strict=True):
        assert part.release is whole.release and part.column('phase') == [phase] * count
        expected = [row.cells for row in whole.rows if row.cells[-1] == phase]
        assert [row.cells for row in part.rows] == expected and part.rows[0].number == 2


@pytest.fixture
def biq2021(small_releases, tmp_path):
    """A small copy of BIQ2021, to be damaged."""
    return Path(shutil.copytree(small_releases / 'BIQ2021', tmp_path / 'BIQ2021'))


def test_a_problem_of_the_second_table_names_it_and_its_row_there(biq2021):
    table = biq2021 / 'Test (Images and MOS).csv'
    table.write_text(table.read_text().replace('ss02 (40).jpg,', 'ss02 (40).jpg,1').replace('(41)', '(0)'))
    assert [line.strip() for line in problems(read_labels(biq2021))[1:]] == [
        "row 2 of 'Test (Images and MOS).csv': ss02 (40).jpg: MOS is 10.8511, outside its range 0 to 1.",
        "row 3 of 'Test (Images and MOS).csv': ss03 (0).jpg: there is no such file in "
        f'{biq2021} or its images/ or its Images/.',
    ]
    table.unlink()
    with pytest.raises(LabelError, match=re.escape(f"'{table}' cannot be read")):
        read_labels(biq2021)


def test_in_a_release_a_row_names_the_file_that_exists_whatever_the_case_of_its_letters(biq2021):
    labels = read_labels(biq2021)
    assert labels.rows[7].cells[0] == 'ss02 (7).JPG' and labels.rows[7].path.endswith('Images/ss02 (7).JPG')
    # with two such files, it is not known which one is meant
    shutil.copy(biq2021 / 'Images' / 'ss02 (7).JPG', biq2021 / 'Images' / 'ss02 (7).Jpg')
    if len(list((biq2021 / 'Images').iterdir())) == 49:  # where the file system tells cases apart
        assert 'row 9: ss02 (7).jpg: there is no such file' in problems(read_labels(biq2021))[1]


def test_neither_table_of_a_release_is_replaced(biq2021):
    labels = read_labels(biq2021)
    for table in labels.release.tables:
        with pytest.raises(LabelError, match='write to another file'):
            write_labels(labels, {}, biq2021 / table)


def test_images_of_aigciqa2023_follow_generators_then_prompts(small_releases):
    labels = read_labels(small_releases / 'AIGCIQA2023', further_score_columns=['mos_authenticity', 'mos_correspondence'])
    for image in (0, 3, 4, 399, 400, 1234, 2399):
        row = labels.rows[image]
        assert row.path.endswith(f'Image/allimg/{image}.png')
        assert (row.score, *row.further_scores) == pytest.approx([image / 50 + number for number in (1, 2, 3)])
        assert labels.column('generator')[image] == str(image // 400 + 1)
        assert labels.column('prompt_id')[image] == str(image % 400 // 4 + 1)
    assert labels.rows[4].prompt == labels.rows[407].prompt == 'NA' != labels.rows[8].prompt


@pytest.mark.parametrize('name', RELEASED)
def test_a_release_written_as_meta_info_csv_is_read_again_by_position(small_releases, tmp_path, name):
    labels = read_labels(small_releases / name)
    write_labels(labels, {'a_split': ['train'] * len(labels.rows)}, tmp_path / 'meta.csv')
    prompt_column = labels.prompt_column
    again = read_labels(tmp_path / 'meta.csv', images=Path(labels.rows[0].path).parent, prompt_column=prompt_column)
    again.raise_problems()
    assert again.header[:2] == (labels.image_column, labels.score_column)
    expected = [name for name in ['prompt', 'prompt_id', 'generator', *RELEASED[name][1][1:]] if name in labels.header]
    assert list(again.header[2 : 2 + len(expected)]) == expected
    assert [(row.path, row.score, row.prompt) for row in again.rows] == [
        (row.path, row.score, row.prompt) for row in labels.rows
    ]
    for column in again.header[:-1]:
        assert again.column(column) == labels.column(column)


def test_the_header_of_a_release_may_be_spelt_in_another_case(small_releases, tmp_path):
    folder = small_releases / 'AGIQA-1K'
    table = pandas.read_excel(folder / 'AIGC_MOS_Zscore.xlsx', dtype=str, na_filter=False)
    table.rename(columns=str.lower).to_excel(tmp_path / 'AIGC_MOS_Zscore.xlsx', index=False)
    assert read_labels(tmp_path, images=folder).rows == read_labels(folder).rows


def test_columns_of_a_release_may_stand_in_any_order_and_with_others(small_releases, tmp_path):
    text = (small_releases / 'AIGIQA-20K' / 'info_train.csv').read_text().splitlines()
    cells = [line for line in csv.reader(text)]
    with open(tmp_path / 'info_train.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['note', mos, prompt, name] for name, prompt, mos in cells])
    labels = read_labels(tmp_path, images=small_releases / 'AIGIQA-20K')
    labels.raise_problems()
    assert [row.score for row in labels.rows] == [row.score for row in read_labels(small_releases / 'AIGIQA-20K').rows]


@pytest.mark.parametrize('text', ['name,mos,std\n1.JPG,3,1\n', 'name,mos,prompt\n1.JPG,3,x\n'])
def test_a_table_of_ones_own_with_a_common_header_is_not_taken_for_a_release(table, tmp_path, text):
    table(text, ['1.JPG']).rename(tmp_path / 'labels.csv')
    labels = read_labels(tmp_path, prompt_column=None)
    assert labels.release is None and labels.score_range is None and labels.rows[0].score == 3


def test_a_column_of_ones_own_goes_before_the_file_name(table):
    path = table(f'{AGIQA},generator\nglide_normal_001.jpg,a cat,,,,4.5,0.1,2.5,0.2,mine\n', ['glide_normal_001.jpg'])
    labels = read_labels(path)
    assert (labels.column('generator'), labels.column('prompt_id')) == (['mine'], ['001'])


def test_a_name_of_another_form_leaves_generator_and_prompt_empty(table):
    labels = read_labels(table(f'{AGIQA}\na.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['a.jpg']))
    assert (labels.column('generator'), labels.column('prompt_id')) == ([''], [''])


def test_an_empty_cell_of_a_parquet_table_is_empty_text(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'')
    pandas.DataFrame({'image': ['a.png'], 'mos': [1.5], 'prompt': [None]}).to_parquet(tmp_path / 'own.parquet')
    assert read_labels(tmp_path / 'own.parquet').rows[0].prompt == ''


@pytest.mark.parametrize('name', ['AGIQA-1K/AIGC_MOS_Zscore.xlsx', 'own.parquet', 'own.xlsx'])
@pytest.mark.parametrize('content', [b'', b'no such table', b'PK\x03\x04 no such table'])
def test_a_damaged_table_is_an_error_that_names_it(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(LabelError, match='is not a sound') as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


@pytest.fixture
def aigciqa2023(small_releases, tmp_path):
    """A copy to be damaged, with the images left where they are."""
    folder = tmp_path / 'AIGCIQA2023'
    folder.mkdir()
    shutil.copytree(small_releases / 'AIGCIQA2023' / 'DATA', folder / 'DATA')
    shutil.copy(small_releases / 'AIGCIQA2023' / 'AIGCIQA2023_Prompts.xlsx', folder)
    return folder


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'cannot be read'),
        (b'no such table', 'is not a sound .mat file'),
        ({'MOS': np.zeros((2400, 1))}, 'no numbers with the name MOSz'),
        ({'MOSz': np.array([['text']], dtype=object)}, 'no numbers with the name MOSz'),
        ({'MOSz': np.zeros((2399, 1))}, 'has 2,399 scores, but AIGCIQA2023 has 2,400 images'),
    ],
)
def test_scores_that_do_not_fit_the_release_are_an_error_that_names_their_file(aigciqa2023, small_releases, content, words):
    path = aigciqa2023 / 'DATA' / 'MOS' / 'mosz2.mat'
    path.unlink()
    if isinstance(content, dict):
        scipy.io.savemat(path, content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=re.escape(words)) as caught:
        read_labels(aigciqa2023, images=small_releases / 'AIGCIQA2023')
    assert str(path) in str(caught.value)


def test_a_wrong_number_of_prompts_is_an_error(aigciqa2023):
    pandas.DataFrame({'a': ['x'], 'b': ['y'], 'c': ['a cat']}).to_excel(aigciqa2023 / 'AIGCIQA2023_Prompts.xlsx', index=False)
    with pytest.raises(LabelError, match='has 1 prompt, but AIGCIQA2023 has 100'):
        read_labels(aigciqa2023)


@pytest.mark.parametrize(
    ('release', 'words'),
    [
        ('agiqa3k', "no table of AGIQA-3K: it has no column 'name', 'adj1'"),
        ('agiqa1k', 'has no AIGC_MOS_Zscore.xlsx, where AGIQA-1K keeps its labels'),
        ('agiqa', "unknown release 'agiqa'"),
    ],
)
def test_a_table_of_another_release_is_an_error(table, tmp_path, release, words):
    table('image,mos,prompt\na.png,1,a\n', ['a.png'])
    with pytest.raises(LabelError, match=re.escape(words)):
        read_labels(tmp_path, release=release)


@pytest.mark.data
def test_the_real_agiqa_3k_is_sound(data_folder):
    labels = read_labels(data_folder / 'AGIQA-3K', further_score_columns=['mos_align'])
    labels.raise_problems()
    assert len(labels.rows) == 2982 and len({row.prompt for row in labels.rows}) == 300
    assert len(set(zip(labels.column('prompt_id'), labels.column('prompt'), strict=True))) == 300
    assert Counter(labels.column('generator')) == {
        'AttnGAN': 300,
        'DALLE2': 290,
        'glide': 300,
        'midjourney': 592,
        'sd1.5': 1200,
        'xl2.2': 300,
    }


@pytest.mark.data
def test_the_real_live_challenge_is_sound(data_folder):
    labels = read_labels(data_folder / 'LIVE-Challenge-subset')
    labels.raise_problems()
    assert labels.release.key == 'livechallenge' and len(labels.rows) == 727
    assert (labels.prompt_column, labels.score_range) == (None, (0.0, 100.0))


def test_a_prompt_of_blanks_is_as_empty_as_none(table):
    text = 'image,mos,prompt\na.png,1,\na.png,1," "\nb.png,1,x\n'
    assert problems(read_labels(table(text, ['a.png', 'b.png'])))[1:] == [
        '  row 3: a.png: the same image and prompt as in row 2.'
    ]


def test_names_of_windows_lead_to_the_images_of_a_release(table, tmp_path):
    path = table(f'{AGIQA}\nimages\\sd1.5_normal_001.jpg,a cat,,,,4.5,0.1,2.5,0.2\n', ['sd1.5_normal_001.jpg'], 'images')
    labels = read_labels(path)
    assert labels.problems == [] and [Path(row.path) for row in labels.rows] == [tmp_path / 'images/sd1.5_normal_001.jpg']
    assert labels.generators == ['sd1.5']


def test_names_with_accents_lead_to_images_of_macos(table, tmp_path):
    labels = read_labels(table('image,mos\n\u00fc.png,1\n', ['u\u0308.png']), prompt_column=None)
    assert labels.problems == [] and [row.path for row in labels.rows] == [str(tmp_path / 'u\u0308.png')]


def test_a_decimal_comma_is_named_with_the_number_to_write(table):
    labels = read_labels(table('image;mos\na.png;3,5\n', ['a.png']), prompt_column=None)
    assert problems(labels)[1:] == ["  row 2: a.png: mos is '3,5', with a comma: write 3.5."]
