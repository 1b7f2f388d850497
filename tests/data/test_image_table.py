"""Image tables: paths that count from the table, prompts kept as they are, and a sentence for each problem."""

import pandas as pd
import pytest

from align_iqa_plugin.data.image_table import read_image_table
from align_iqa_plugin.data.tables import TableError


@pytest.fixture(params=['csv', 'xlsx', 'parquet'])
def table(request, tmp_path):
    """Writes columns as a table of the kind, and gives its path."""

    def write(**columns):
        path = str(tmp_path / f'table.{request.param}')
        frame = pd.DataFrame(columns)
        kind = {'csv': 'to_csv', 'xlsx': 'to_excel', 'parquet': 'to_parquet'}[request.param]
        getattr(frame, kind)(path, **{} if request.param == 'parquet' else {'index': False})
        return path

    return write


def test_images_count_from_the_table_and_prompts_are_kept(table, tmp_path):
    path = table(image=['a.png', '/x/b.png', 's3://bucket/c.png'], prompt=['None', ' a "cat", two', '001'])
    rows = [(str(tmp_path / 'a.png'), 'None', {}), ('/x/b.png', ' a "cat", two', {}), ('s3://bucket/c.png', '001', {})]
    rows = [(*row, '') for row in rows]
    assert read_image_table(path) == (rows, [])


def test_a_table_at_a_uri_has_its_images_beside_it(table, tmp_path):
    path = table(name=['sub/a.png'])
    assert read_image_table(f'file://{path}') == ([(f'file://{tmp_path}/sub/a.png', None, {}, '')], [])


def test_further_columns_stay_in_their_order_as_text(table):
    path = table(seed=['007', ''], prompt=['a', 'b'], image=['/a.png', '/b.png'], name=['x', 'y'], cfg=[7.5, 1.25])
    rows, left_out = read_image_table(path)
    columns = [list(row.columns.items()) for row in rows]
    assert columns == [[('seed', '007'), ('name', 'x'), ('cfg', '7.5')], [('seed', ''), ('name', 'y'), ('cfg', '1.25')]]
    assert left_out == []


def test_columns_without_a_name_or_with_binary_values_are_named_as_left_out(tmp_path):
    path = str(tmp_path / 'a.parquet')
    pd.DataFrame({'': ['x'], 'image': ['/a.png'], 'pixels': [b'x'], 'seed': [1]}).to_parquet(path)
    assert read_image_table(path) == ([('/a.png', None, {'seed': '1'}, '')], ['', 'pixels'])


def test_two_further_columns_of_one_name_are_an_error(tmp_path):
    (tmp_path / 'a.csv').write_text('image,seed,seed\na.png,1,2\n')
    with pytest.raises(TableError, match="a.csv.*more than one column 'seed'"):
        read_image_table(str(tmp_path / 'a.csv'))


def test_a_table_may_have_no_rows(table):
    assert read_image_table(table(image=[])) == ([], [])


@pytest.mark.parametrize(
    ('columns', 'reason'),
    [
        ({'picture': ['a.png']}, "no column 'image' or 'name': rename .*'picture'"),
        ({'image': ['a.png', ''], 'mos': [1, 2]}, 'row 3: .*name of the image'),
    ],
)
def test_a_problem_is_a_sentence_that_names_the_table(table, columns, reason):
    path = table(**columns)
    with pytest.raises(TableError, match=reason) as caught:
        read_image_table(path)
    assert path in str(caught.value)


def test_all_problems_come_in_one_error(tmp_path):
    (tmp_path / 'a.csv').write_text('image,prompt\n,x\nb.png,\nc.png,d,e\nf.png,g\n')
    with pytest.raises(ValueError, match='2 problems') as caught:
        read_image_table(str(tmp_path / 'a.csv'))
    assert [line.split(':')[0].strip() for line in str(caught.value).splitlines()[1:]] == ['row 2', 'row 4']


def test_an_empty_prompt_is_none_with_the_reason(table):
    path = table(image=['/a.png', '/b.png'], prompt=['a cat', ' '])
    (first, second), _ = read_image_table(path)
    assert (first.prompt, first.no_prompt, second.prompt) == ('a cat', '', None)
    assert second.no_prompt == f"has no prompt: its cell in row 3 of '{path}' is empty."


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='cannot be read: No such file'):
        read_image_table(str(tmp_path / 'none.csv'))


def test_names_of_windows_and_macos_lead_to_the_files(table, tmp_path):
    (tmp_path / 'sub').mkdir()
    for name in ('sub/a.png', 'u\u0308.png'):
        (tmp_path / name).touch()
    found, _ = read_image_table(table(image=['sub\\a.png', '\u00fc.png', 'no\\ne.png']))
    assert [row.image for row in found] == [str(tmp_path / name) for name in ('sub/a.png', 'u\u0308.png', 'no\\ne.png')]
