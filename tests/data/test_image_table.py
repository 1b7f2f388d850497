"""Tables of images: names that count from the table, prompts kept as they are, and a sentence for each problem."""

import pandas as pd
import pytest

from align_iqa_plugin.data.image_table import read_image_table


@pytest.fixture(params=['csv', 'parquet'])
def table(request, tmp_path):
    """Writes columns as a table of the kind, and gives its path."""

    def write(**columns):
        path = str(tmp_path / f'table.{request.param}')
        frame = pd.DataFrame(columns)
        frame.to_csv(path, index=False) if request.param == 'csv' else frame.to_parquet(path)
        return path

    return write


def test_images_count_from_the_table_and_prompts_are_kept(table, tmp_path):
    path = table(image=['a.png', '/x/b.png', 's3://bucket/c.png'], prompt=['None', ' a "cat", two', '001'])
    rows = [(str(tmp_path / 'a.png'), 'None'), ('/x/b.png', ' a "cat", two'), ('s3://bucket/c.png', '001')]
    assert read_image_table(path) == rows


def test_a_table_at_an_address_has_its_images_beside_it(table, tmp_path):
    path = table(name=['sub/a.png'], other=['x'])
    assert read_image_table(f'file://{path}') == [(f'file://{tmp_path}/sub/a.png', None)]


def test_a_table_may_have_no_rows(table):
    assert read_image_table(table(image=[])) == []


@pytest.mark.parametrize(
    ('columns', 'reason'),
    [
        ({'picture': ['a.png']}, r'needs a column image \(or name\); it has: picture'),
        ({'image': ['a.png', ''], 'mos': [1, 2]}, 'row 3 .* names no image'),
        ({'image': ['a.png'], 'prompt': ['  ']}, 'row 2 .* empty prompt'),
    ],
)
def test_a_problem_is_a_sentence_that_names_the_table(table, columns, reason):
    path = table(**columns)
    with pytest.raises(ValueError, match=reason) as caught:
        read_image_table(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.parquet', b'no parquet'),
        ('a.csv', b''),
        ('a.csv', b'image\n"a'),
        ('a.csv', b'image\n\xff'),
        ('a.csv', b'image\na,b'),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_image_table(str(tmp_path / name))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match='cannot be read: No such file'):
        read_image_table(str(tmp_path / 'none.csv'))
