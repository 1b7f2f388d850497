"""Rows in files and on the terminal: complete, whatever the names hold."""

import csv
import json
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from align_iqa_plugin.score import write
from align_iqa_plugin.score.rows import Row
from align_iqa_plugin.score.write import correlation_with_mos, print_rows, print_table, write_rows


def write_all(file, *rows):
    write_rows(Path(file), list(rows), with_prompt=True, with_mos=False)


@pytest.mark.parametrize('ending', ['.csv', '.json', '.parquet', '.CSV'])
def test_each_kind_of_file_holds_the_same_rows(folder, ending):
    output = Path(f'out{ending}')
    rows = [
        Row('ü[b].png', Path('ü[b].png'), 'NA', score=1.9412, std=0.25, width=40, height=41),
        Row('small.png', Path('small.png'), 'a, "b"', width=8, height=40, error='is small.'),
    ]
    write_all(output, *rows)
    if ending == '.json':
        read = json.loads(output.read_text(encoding='utf-8'), parse_constant=pytest.fail)
    elif ending == '.parquet':
        table = pd.read_parquet(output)
        assert table['score'].dtype == table['std'].dtype == np.float64 and table['width'].dtype == np.int64
        read = table.astype(object).where(table.notna(), None).to_dict('records')
    else:
        with open(output, encoding='utf-8', newline='') as file:
            read = [
                row
                | {name: float(row[name]) if row[name] else None for name in ('score', 'std')}
                | {side: int(row[side]) for side in ('width', 'height')}
                for row in csv.DictReader(file)
            ]
    assert read == [
        {'image': 'ü[b].png', 'score': 1.9412, 'std': 0.25, 'prompt': 'NA', 'width': 40, 'height': 41, 'error': ''},
        {'image': 'small.png', 'score': None, 'std': None, 'prompt': 'a, "b"', 'width': 8, 'height': 40, 'error': 'is small.'},
    ]
    assert list(read[0]) == ['image', 'score', 'std', 'prompt', 'width', 'height', 'error']


def test_columns_that_are_not_known_are_left_out(folder):
    rows = [Row('a.png', Path('a.png'), mos=2.0, score=1.0)]
    write_rows(Path('without.csv'), rows, with_prompt=False, with_mos=False)
    write_rows(Path('with.csv'), rows, with_prompt=True, with_mos=True)
    assert Path('without.csv').read_text().splitlines()[0] == 'image,score,std,width,height,error'
    assert Path('with.csv').read_text().splitlines()[0] == 'image,score,std,mos,prompt,width,height,error'


@pytest.mark.parametrize('ending', ['.csv', '.json', '.parquet'])
def test_further_columns_stand_before_the_score_and_what_is_kept_behind_it(folder, ending):
    rows = [
        Row('a.png', Path('a.png'), score=1.0, columns={'seed': '007', 'mos': ''}, kept=True),
        Row('b.png', Path('b.png'), score=2.0, kept=False),
    ]
    write_rows(Path(f'out{ending}'), rows, with_prompt=False, with_mos=False)
    read = {
        '.csv': lambda: pd.read_csv('out.csv', dtype={'seed': str, 'mos': str}, keep_default_na=False),
        '.json': lambda: pd.DataFrame(json.loads(Path('out.json').read_text())),
        '.parquet': lambda: pd.read_parquet('out.parquet'),
    }[ending]()
    assert list(read) == ['image', 'seed', 'mos', 'score', 'std', 'kept', 'width', 'height', 'error']
    assert list(read['kept']) == [True, False]
    first, second = read[['seed', 'mos']].astype(object).where(read[['seed', 'mos']].notna(), None).values.tolist()
    assert first == ['007', ''] and second == (['', ''] if ending == '.csv' else [None, None])


@pytest.mark.parametrize('ending', ['.csv', '.json', '.parquet'])
def test_a_name_that_is_no_utf8_can_still_be_written(folder, ending):
    write_all(f'out{ending}', Row('a\udcff.png', Path('a.png'), score=1.0))
    assert b'a\\udcff.png' in Path(f'out{ending}').read_bytes().replace(b'\\\\', b'\\')


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    Path('out.csv').write_text('old')
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        write_all('out.csv', Row('a.png', Path('a.png'), score=1.0))
    assert Path('out.csv').read_text() == 'old' and os.listdir() == ['out.csv']


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such permissions')
def test_the_file_has_the_permissions_of_any_new_file(folder):
    Path('other').touch()
    write_all('out.csv', Row('a.png', Path('a.png'), score=1.0))
    assert stat.S_IMODE(os.stat('out.csv').st_mode) == stat.S_IMODE(os.stat('other').st_mode)


def test_the_table_shows_every_name_in_full_and_as_it_is(capsys):
    name = 'x' * 150 + '[red]b[/red]\x1b[31m.png'
    print_table([Row(name, Path(name), score=2.0)])
    shown = capsys.readouterr().out
    assert 'x' * 150 + '[red]b[/red]\N{REPLACEMENT CHARACTER}[31m.png' in shown and '2.0000' in shown


def test_a_deviation_is_printed_beside_its_score_and_no_column_where_none_is_known(capsys):
    print_table([Row('a.png', Path('a'), score=2.0, std=0.375), Row('b.png', Path('b'), score=1.0)])
    assert '0.3750' in capsys.readouterr().out
    print_table([Row('b.png', Path('b'), score=1.0)])
    assert 'std' not in capsys.readouterr().out


def test_many_rows_are_printed_only_where_no_file_has_them(capsys, monkeypatch):
    monkeypatch.setattr(write, 'TABLE_ROWS', 3), monkeypatch.setattr(write, 'TABLE_ERRORS', 1)
    rows = [Row(f'{number}.png', Path('a'), score=1.0) for number in range(4)]
    print_rows(rows, None)
    assert '0.png' in capsys.readouterr().out
    print_rows(rows, Path('out.csv'))
    assert capsys.readouterr() == ('', '')
    print_rows([*rows, *(Row(f'bad{number}.png', Path('a'), error='is damaged.') for number in range(3))], Path('out.csv'))
    shown = capsys.readouterr()
    assert shown.out == '' and 'bad0.png: is damaged.' in shown.err
    assert 'bad1.png' not in shown.err and 'and 2 more images with an error, see out.csv' in shown.err


def test_of_a_choice_only_what_is_kept_is_printed_and_every_error_where_no_file_has_it(capsys, monkeypatch):
    monkeypatch.setattr(write, 'TABLE_ERRORS', 1)
    kept, lost = Row('a.png', Path('a'), score=2.0), Row('b.png', Path('b'), score=1.0)
    rows = [kept, lost, *(Row(f'bad{number}.png', Path('a'), error='is damaged.') for number in range(3))]
    print_rows(rows, None, [kept])
    shown = capsys.readouterr()
    assert 'a.png' in shown.out and 'b.png' not in shown.out and 'bad' not in shown.out
    assert shown.err.count('is damaged.') == 3
    print_rows(rows, Path('out.csv'), [])
    shown = capsys.readouterr()
    assert shown.out == '' and shown.err.count('is damaged.') == 1 and 'see out.csv' in shown.err


def test_the_rank_correlation_is_that_of_the_rows_with_a_score():
    rows = [Row('a', Path('a'), mos=mos, score=score) for mos, score in [(1, 1.0), (2, 3.0), (3, 2.0), (9, None)]]
    assert '0.500 over 3 images' in correlation_with_mos(rows)


def test_equal_scores_have_no_rank_correlation():
    assert 'not defined' in correlation_with_mos([Row('a', Path('a'), mos=mos, score=1.0) for mos in (1, 2)])


def test_a_formula_in_a_name_is_neutral_and_the_score_stays_a_number(folder):
    write_all('out.csv', Row('=1+1.png', Path('=1+1.png'), '-x\ry', score=-0.5))
    with open('out.csv', encoding='utf-8', newline='') as file:
        (row,) = csv.DictReader(file)
    assert (row['image'], row['prompt'], row['score']) == ("'=1+1.png", "'-x\ry", '-0.5')


@pytest.mark.skipif(os.name == 'nt' or os.uname().sysname == 'Darwin', reason='names are Unicode there')
@pytest.mark.parametrize('ending', ['.csv', '.json', '.parquet'])
def test_a_folder_whose_name_is_no_utf8_can_be_written_to(folder, ending):
    Path('\udcff').mkdir()
    write_all(f'\udcff/out{ending}', Row('a.png', Path('a.png'), score=1.0))
    assert os.listdir('\udcff') == [f'out{ending}']
