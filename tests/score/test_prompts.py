"""Which prompt belongs to which image: exactly one, or a reason."""

from pathlib import Path

import pytest

from align_iqa_plugin.score.prompts import add_prompts, match_prompts
from align_iqa_plugin.score.rows import Row


def rows_of(*names):
    return [Row(name, name if '://' in name else Path(name)) for name in names]


def test_one_prompt_goes_to_every_image():
    rows = rows_of('a.png', 'b.png')
    assert add_prompts(rows, 'a cat', None) == []
    assert [row.prompt for row in rows] == ['a cat', 'a cat']


def test_without_prompts_the_rows_stay_as_they_are():
    rows = rows_of('a.png')
    assert add_prompts(rows, None, None) == [] and rows == rows_of('a.png')


@pytest.mark.parametrize(('prompt', 'file'), [('a dog', None), (None, Path('p.csv'))])
def test_rows_with_prompts_of_their_own_take_no_others(prompt, file):
    with pytest.raises(ValueError, match='prompts of its own'):
        add_prompts([Row('a.png', Path('a.png'), 'a cat')], prompt, file)


@pytest.mark.parametrize('column', ['image', 'name'])
def test_prompts_from_a_csv_follow_name_or_relative_path(folder, column):
    text = f'{column},mos,prompt\n001,1,null\nx/b.png,2,"one, ""two"""\n./y\\b.png,3,None\nc.png,4,ü 猫\n'
    Path('p.csv').write_text('\ufeff' + text, encoding='utf-8')
    rows = rows_of('001', 'x/b.png', 'y/b.png', 's3://bucket/y/c.png')
    assert match_prompts(rows, Path('p.csv')) == []
    assert [row.prompt for row in rows] == ['null', 'one, "two"', 'None', 'ü 猫']


def test_an_image_without_one_clear_prompt_has_none_and_the_reason(folder):
    Path('p.csv').write_text(
        'image,prompt\nsame.png,a\ntwo.png,b\ntwo.png,c\nblank.png," "\nfine.png,d\nfine.png,d\nother.png,e\n'
    )
    rows = rows_of('none.png', 'x/same.png', 'y/same.png', 'two.png', 'blank.png', 'fine.png')
    (note,) = match_prompts(rows, Path('p.csv'))
    ambiguous = "has no clear prompt: 'same.png' in 'p.csv' fits 2 of the images; write it with its folder there."
    assert [row.no_prompt for row in rows] == [
        "has no prompt: no name in 'p.csv' fits it.",
        ambiguous,
        ambiguous,
        "has no clear prompt: 'two.png' stands in 'p.csv' with 2 different ones.",
        "has no prompt: 'blank.png' stands in 'p.csv' with an empty one.",
        '',
    ]
    assert [row.prompt for row in rows] == [None] * 5 + ['d']
    assert note == "1 name in 'p.csv' fits none of the images: other.png"


def test_the_longest_fitting_path_wins(folder):
    Path('p.csv').write_text('image,prompt\na.png,base name\nx/a.png,with folder\n')
    rows = rows_of('x/a.png', 'y/a.png')
    match_prompts(rows, Path('p.csv'))
    assert [(row.prompt, row.no_prompt) for row in rows] == [('with folder', ''), ('base name', '')]


def test_what_was_wrong_with_an_image_before_stays_its_reason(folder):
    Path('p.csv').write_text('image,prompt\na.png,x\n')
    rows = [Row('*.gif', Path('*.gif'), error='matches no file.'), *rows_of('a.png')]
    match_prompts(rows, Path('p.csv'))
    assert [row.error for row in rows] == ['matches no file.', '']


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (b'', 'empty'),
        (b'file,prompt\na.png,x\n', 'image'),
        (b'image,text\na.png,x\n', 'prompt'),
        (b'image,prompt\na.png,one, two\n', 'row 2'),
        (b'image,prompt\na.png\n', 'row 2'),
        (b'image,prompt\n,x\n', 'row 2'),
        (b'image,prompt\na.png,\xff\n', 'UTF-8'),
        (b'image,prompt\na.png,"x\n', 'CSV'),
    ],
)
def test_a_wrong_prompts_file_is_an_error_that_names_it_and_the_row(folder, content, problem):
    Path('p.csv').write_bytes(content)
    with pytest.raises(ValueError, match=f'(?s)p.csv.*{problem}|{problem}.*p.csv'):
        match_prompts(rows_of('a.png'), Path('p.csv'))


def test_a_missing_prompts_file_is_an_error(folder):
    with pytest.raises(ValueError, match='missing.csv.* cannot be read: No such file'):
        match_prompts(rows_of('a.png'), Path('missing.csv'))


def test_a_name_with_accents_fits_a_file_of_macos(folder):
    Path('p.csv').write_text('image,prompt\n\u00fc.png,a\no\u0308.png,b\n', encoding='utf-8')
    rows = rows_of('u\u0308.png', '\u00f6.png')
    assert match_prompts(rows, Path('p.csv')) == []
    assert [row.prompt for row in rows] == ['a', 'b']


def test_prompts_of_nothing_and_of_blanks_are_empty_both(folder):
    Path('p.csv').write_text('image,prompt\na.png,\na.png," "\n')
    rows = rows_of('a.png')
    match_prompts(rows, Path('p.csv'))
    assert 'has no prompt' in rows[0].no_prompt and 'empty' in rows[0].no_prompt
    assert rows[0].prompt is None


def test_what_has_no_prompt_is_counted_and_the_first_is_named(folder):
    Path('p.csv').write_text('image,prompt\na.png,x\n')
    rows = rows_of('a.png', 'b.png', 'c.png')
    (note,) = add_prompts(rows, None, Path('p.csv'))
    assert '2' in note and "'b.png', has no prompt: no name in 'p.csv'" in note


def test_a_prompt_for_all_goes_to_rows_whose_cell_is_empty_too(folder):
    rows = [Row('a.png', Path('a.png'), no_prompt='has no prompt: its cell is empty.')]
    assert add_prompts(rows, 'a cat', None) == [] and (rows[0].prompt, rows[0].no_prompt) == ('a cat', '')
