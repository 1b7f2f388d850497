"""Tables are read as text, whatever their kind, and a table that is damaged or too large is an error that names it."""

import os
import pickle
import zipfile

import openpyxl
import pandas
import pyarrow
import pytest
from pyarrow import parquet

from align_iqa_plugin.data import tables
from align_iqa_plugin.data.tables import TableError, put_below, read_table

TEXTS = ['None', 'null', 'NA', 'nan', '', ' a "cat", two ', '1e3', 'naïve 猫', 'TRUE', '007']


@pytest.fixture(params=['csv', 'xlsx', 'parquet'])
def write(request, tmp_path):
    """Writes columns as a table of each kind, and gives its path."""

    def write(**columns):
        path = tmp_path / f'table.{request.param}'
        kind = {'csv': 'to_csv', 'xlsx': 'to_excel', 'parquet': 'to_parquet'}[request.param]
        getattr(pandas.DataFrame(columns), kind)(path, **{} if request.param == 'parquet' else {'index': False})
        return path

    return write


def test_every_cell_stays_the_text_that_it_is(write):
    table = read_table(write(image=TEXTS, number=range(len(TEXTS)), share=[number / 3 for number in range(len(TEXTS))]))
    assert table.header == ('image', 'number', 'share') and table.problems == []
    assert table.column('image') == TEXTS
    assert table.column('number') == [str(number) for number in range(len(TEXTS))]
    assert [float(cell) for cell in table.column('share')] == pytest.approx([number / 3 for number in range(len(TEXTS))])
    assert [number for number, _ in table.rows] == list(range(2, len(TEXTS) + 2))


def test_a_uri_is_read_like_a_path(write):
    path = write(image=['a.png'])
    assert read_table(f'file://{path}').rows == read_table(path).rows == [(2, ['a.png'])]


def test_a_table_may_have_no_rows(write):
    assert read_table(write(image=[], prompt=[])).column('prompt') == []


def test_a_column_is_found_by_the_first_of_its_names(write):
    table = read_table(write(name=['a'], prompt=['b']))
    assert table.column('image', 'name') == ['a'] and table.position('prompt') == 1
    with pytest.raises(TableError, match="has no column 'picture' or 'file': rename .*'name', 'prompt'"):
        table.column('picture', 'file')


def test_a_column_of_which_there_are_two_is_ambiguous(tmp_path):
    (tmp_path / 'a.csv').write_text('image,image,note\na,b,c\n')
    table = read_table(tmp_path / 'a.csv')
    assert table.column('note') == ['c']
    with pytest.raises(TableError, match="more than one column 'image'"):
        table.column('image')


def test_rows_are_numbered_as_in_a_spreadsheet_and_those_that_do_not_fit_are_problems(tmp_path):
    (tmp_path / 'a.csv').write_bytes(b'\xef\xbb\xbfimage,prompt\r\n"a\nb",c\r\n\r\nd\r\ne,f\r\ng,h,i\r\n')
    table = read_table(tmp_path / 'a.csv')
    assert table.header == ('image', 'prompt') and table.rows == [(2, ['a\nb', 'c']), (5, ['e', 'f'])]
    with pytest.raises(TableError) as caught:
        table.raise_problems()
    first, *lines = str(caught.value).splitlines()
    assert str(tmp_path / 'a.csv') in first and '2 problems' in first
    assert [line.split(':')[0].strip() for line in lines] == ['row 4', 'row 6']


def test_excel_leaves_out_empty_rows_and_fills_up_short_ones(tmp_path):
    book = openpyxl.Workbook()
    for row in (['image', 'prompt'], ['001', 'None'], [], [2.0], [0.1, True], [None, None, 'note']):
        book.active.append(row)
    book.save(tmp_path / 'a.xlsx')
    table = read_table(tmp_path / 'a.xlsx')
    assert table.header == ('image', 'prompt', '') and table.problems == []
    assert table.rows == [(2, ['001', 'None', '']), (4, ['2', '', '']), (5, ['0.1', 'True', '']), (6, ['', '', 'note'])]


def test_a_column_without_name_and_cells_is_left_out(tmp_path):
    (tmp_path / 'a.csv').write_text('image,,mos,,\na,note,1,,\nb,,2,,\nc,3\n')
    table = read_table(tmp_path / 'a.csv')
    assert table.header == ('image', '', 'mos')
    assert table.rows == [(2, ['a', 'note', '1']), (3, ['b', '', '2'])]
    assert [number for number, _ in table.problems] == [4]


def test_rows_that_are_put_below_others_come_after_them_and_name_their_own_table(tmp_path):
    (tmp_path / 'a.csv').write_text('image,mos,note\na,1,x\nb\n')
    (tmp_path / 'b.csv').write_text('mos,image\n2,c\n3,d,e\n')
    table = put_below(read_table(tmp_path / 'a.csv'), read_table(tmp_path / 'b.csv'))
    assert (table.source, table.header) == (str(tmp_path / 'a.csv'), ('image', 'mos'))
    assert [cells for _, cells in table.rows] == [['a', '1'], ['c', '2']]
    with pytest.raises(TableError) as caught:
        table.raise_problems()
    _, *lines = str(caught.value).splitlines()
    assert [line.split(':')[0].strip() for line in lines] == ['row 3', "row 3 of 'b.csv'"]
    number = table.rows[1][0]
    assert number > 3 and f'{number}' == str(pickle.loads(pickle.dumps(number))) == "2 of 'b.csv'"


def test_the_large_columns_of_a_parquet_table_are_not_read(tmp_path):
    pandas.DataFrame({'image': ['a'], 'pixels': [b'x'], 'boxes': [[1, 2]]}).to_parquet(tmp_path / 'a.parquet')
    table = read_table(tmp_path / 'a.parquet')
    assert (table.header, table.rows) == (('image', 'pixels', 'boxes'), [(2, ['a', '', ''])])
    assert table.unread == {'pixels', 'boxes'}
    with pytest.raises(TableError, match="a.parquet': the column 'pixels' holds binary or nested values"):
        table.column('pixels')


def test_a_parquet_table_with_two_columns_of_a_name_is_an_error_where_that_one_is_needed(tmp_path):
    columns = [pyarrow.array([cell]) for cell in 'abc']
    parquet.write_table(pyarrow.table(columns, names=['image', 'note', 'note']), tmp_path / 'a.parquet')
    table = read_table(tmp_path / 'a.parquet')
    assert table.column('image') == ['a'] and table.rows == [(2, ['a', 'b', 'c'])]
    with pytest.raises(TableError, match="more than one column 'note'"):
        table.column('note')


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('a.csv', None, 'cannot be read: No such file'),
        ('a.csv', b'', 'is empty'),
        ('a.csv', b'\nimage\na\n', 'empty first row'),
        ('a.csv', b'image\n"a', 'not a sound CSV .* line 2'),
        ('a.csv', b'image\n\xff', 'UTF-8'),
        *(
            (f'a.{ending}', content, 'is not a sound')
            for ending in ('xlsx', 'parquet')
            for content in (b'', b'PK\x03\x04 none')
        ),
    ],
)
def test_a_damaged_table_is_an_error_that_names_it(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=reason) as caught:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_table_larger_than_the_memory_is_not_read(write, monkeypatch):
    path = write(image=['a'] * 50, prompt=['b'] * 50)
    for limit, value in (('MAX_CELLS', 99), ('MAX_ROWS', 49), ('MAX_BYTES', 100)):
        with monkeypatch.context() as patch, pytest.raises(TableError) as caught:
            patch.setattr(tables, limit, value)
            read_table(path)
        assert str(path) in str(caught.value)


def test_one_far_cell_does_not_fill_the_memory(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(['image', 'prompt'])
    book.active['XFD1048576'] = 'x'
    book.save(tmp_path / 'a.xlsx')
    with pytest.raises(TableError, match='16,384 cells in row 1,048,576'):
        read_table(tmp_path / 'a.xlsx')


def test_short_rows_are_not_filled_up_beyond_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_CELLS', 1000)
    book = openpyxl.Workbook()
    for row in (['image'], *(['a'] for _ in range(100)), ['a'] * 100):
        book.active.append(row)
    book.save(tmp_path / 'a.xlsx')
    with pytest.raises(TableError, match='more than 1,000 cells'):
        read_table(tmp_path / 'a.xlsx')


def test_a_small_file_that_unpacks_to_a_large_one_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_BYTES', 10**6)
    with zipfile.ZipFile(tmp_path / 'a.xlsx', 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('xl/sharedStrings.xml', b' ' * 2 * 10**6)
    with pytest.raises(TableError, match='unpacks to more'):
        read_table(tmp_path / 'a.xlsx')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='has no pipes in folders')
@pytest.mark.parametrize('name', ['pipe.csv', '/dev/zero'])
def test_a_pipe_or_a_device_is_no_table(tmp_path, name):
    os.mkfifo(tmp_path / 'pipe.csv')
    with pytest.raises(TableError, match='pipe or a device'):
        read_table(tmp_path / name)


@pytest.mark.parametrize('separator', [',', ';', '\t'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_what_spreadsheets_write_as_csv_is_read(tmp_path, separator, encoding):
    text = f'image{separator}mos{separator}prompt\na.png{separator}1.5{separator}"ein, zwei; drei"\n'
    (tmp_path / 'a.csv').write_bytes(text.encode(encoding))
    table = read_table(tmp_path / 'a.csv')
    assert (table.header, table.rows) == (('image', 'mos', 'prompt'), [(2, ['a.png', '1.5', 'ein, zwei; drei'])])


def test_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / 'a.csv').write_bytes('image,prompt\na.png,a\nb.png,für\n'.encode('cp1252'))
    with pytest.raises(TableError, match=r'a.csv. is not a CSV in UTF-8 \(line 3\): save it as "CSV UTF-8"'):
        read_table(tmp_path / 'a.csv')


@pytest.mark.parametrize('kind', ['to_csv', 'to_excel'])
def test_the_row_numbers_of_pandas_are_no_column(tmp_path, kind):
    path = tmp_path / ('a.csv' if kind == 'to_csv' else 'a.xlsx')
    frame = pandas.DataFrame({'image': ['a.png', 'b.png', 'c.png'], 'mos': [1, 2, 3]})
    for part in (frame, frame[::-2]):
        getattr(part, kind)(path)
        table = read_table(path)
        assert table.header == ('image', 'mos') and table.column('image') == list(part['image'])


@pytest.mark.parametrize('text', [',b\n1,x\n1,y\n', ',b\na.png,x\n', 'a,b\n1,x\n'])
def test_a_first_column_of_another_kind_stays(tmp_path, text):
    (tmp_path / 'a.csv').write_text(text)
    assert len(read_table(tmp_path / 'a.csv').header) == 2


def test_a_row_cannot_forge_the_problem_of_another():
    lines = tables.list_problems('a.csv', [(2, 'x\n  row 3: forged\x1b[1A')]).splitlines()
    assert len(lines) == 2 and '\x1b' not in lines[1]


def test_a_file_is_found_by_the_name_that_windows_or_macos_gives_it(tmp_path):
    (tmp_path / 'sub').mkdir()
    for name in ('sub/a.png', 'u\u0308.png', '\u00f6.png'):
        (tmp_path / name).touch()
    for name, found in [
        ('sub/a.png', 'sub/a.png'),
        ('sub\\a.png', 'sub/a.png'),
        ('\u00fc.png', 'u\u0308.png'),
        ('o\u0308.png', '\u00f6.png'),
        ('./sub/../sub//a.png', 'sub/a.png'),
        ('sub', None),
        ('', None),
        ('b.png', None),
    ]:
        path = tables.find_file(tmp_path, name)
        assert path is None if found is None else os.path.samefile(path, tmp_path / found)
    assert tables.find_file(tmp_path, './sub//a.png') == str(tmp_path / 'sub' / 'a.png')
    (tmp_path / 'sub\\a.png').touch()
    if os.name == 'posix':
        assert tables.find_file(tmp_path, 'sub\\a.png').endswith('sub\\a.png')
