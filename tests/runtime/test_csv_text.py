"""A spreadsheet runs no cell of our CSV files, and our own reader gives every cell back as it was."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_iqa_plugin.data.tables import read_table
from align_iqa_plugin.runtime.csv_text import as_written, csv_text

FORMULAS = ['=1+1', '+1-800', '-1/a', '-x', '@SUM(1)', '\tx', '\rx', '=HYPERLINK("http://x","y")']


@pytest.mark.parametrize('cell', FORMULAS)
def test_a_cell_that_begins_like_a_formula_gets_a_quote(cell):
    (row,) = csv.reader(io.StringIO(csv_text([[cell]]), newline=''))
    assert row == [f"'{cell}"]


@pytest.mark.parametrize('cell', ['-1.5', '-0.5/nan/0.29', '+2', '-1e-7', '-inf', 'a=b', '', "'quoted'"])
def test_numbers_and_other_texts_are_as_they_are(cell):
    assert csv_text([[cell, -0.5, None]]).rstrip('\n') in (f'{cell},-0.5,', f'"{cell}",-0.5,')


def test_a_file_of_ours_is_read_back_as_it_was(tmp_path):
    cells = [*FORMULAS, *(f"'{cell}" for cell in FORMULAS), *(f"''{cell}" for cell in FORMULAS), "'", "'-1", '-1', "'a"]
    (tmp_path / 'a.csv').write_text(csv_text([['=a', 'b'], *([cell, 'x'] for cell in cells)]), encoding='utf-8', newline='')
    table = read_table(tmp_path / 'a.csv')
    assert table.header == ('=a', 'b') and table.column('=a') == cells


@given(st.text())
def test_any_cell_comes_back(cell):
    (row,) = csv.reader(io.StringIO(csv_text([[cell, 'x']]), newline=''))
    assert [as_written(row[0]), row[1]] == [cell, 'x']
