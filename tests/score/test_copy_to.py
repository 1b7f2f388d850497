"""Pictures in a folder: each once, under its own name, nothing overwritten, and again without a change."""

import os
from pathlib import Path

import pytest
from PIL import Image

from align_iqa_plugin.score import copy_to
from align_iqa_plugin.score.copy_to import check_outside, copy_rows
from align_iqa_plugin.score.rows import Row


def rows_of(*names):
    return [Row(name, name if '://' in name else Path(name), score=2.0) for name in names]


def files(folder='best'):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write(**names):
    for name, content in names.items():
        path = Path(name.replace('_', '/') + '.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


BEST = Path('best')


def test_copies_have_their_own_names_and_bytes_and_equal_names_are_told_apart(folder):
    write(x_a=b'1', y_a=b'2', z_a=b'3', x_b=b'4')
    copies = copy_rows(rows_of('x/a.png', 'y/a.png', 'z/a.png', 'x/b.png'), BEST)
    assert files() == {'a.png': b'1', 'a_2.png': b'2', 'a_3.png': b'3', 'b.png': b'4'}
    assert (copies.made, copies.found, copies.problems) == (4, 0, [])


def test_equal_pictures_of_equal_names_are_both_there(folder):
    write(x_a=b'1', y_a=b'1')
    copy_rows(rows_of('x/a.png', 'y/a.png'), BEST)
    assert files() == {'a.png': b'1', 'a_2.png': b'1'}


def test_names_that_differ_in_the_case_of_letters_alone_are_told_apart(folder):
    write(x_a=b'1', y_A=b'2')
    copy_rows(rows_of('x/a.png', 'y/A.png'), BEST)
    assert files() == {'a.png': b'1', 'A_2.png': b'2'}


def test_a_name_with_a_number_of_its_own_is_not_taken_twice(folder):
    write(x_a=b'1', y_a=b'2')
    Path('x/a_2.png').write_bytes(b'3')
    copy_rows(rows_of('x/a.png', 'x/a_2.png', 'y/a.png'), BEST)
    assert files() == {'a.png': b'1', 'a_2.png': b'3', 'a_3.png': b'2'}


@pytest.mark.parametrize('as_links', [False, True])
def test_the_same_again_changes_nothing_and_a_stopped_command_goes_on(folder, as_links):
    write(x_a=b'1', y_a=b'2', x_b=b'3')
    rows = rows_of('x/a.png', 'y/a.png', 'x/b.png')
    copy_rows(rows[:1], BEST, as_links=as_links)
    first = copy_rows(rows, BEST, as_links=as_links)
    assert (first.made, first.found) == (2, 1)
    before = {path.name: path.lstat().st_mtime_ns for path in BEST.iterdir()}
    again = copy_rows(rows, BEST, as_links=as_links)
    assert (again.made, again.found) == (0, 3) and files() == {'a.png': b'1', 'a_2.png': b'2', 'b.png': b'3'}
    assert {path.name: path.lstat().st_mtime_ns for path in BEST.iterdir()} == before


def test_other_files_links_and_folders_of_the_name_stay(folder):
    write(x_a=b'1', x_b=b'2', x_c=b'3')
    BEST.mkdir(), Path('best/a.png').write_bytes(b'mine'), Path('best/b.png').mkdir(), os.symlink('nowhere', 'best/c.png')
    copy_rows(rows_of('x/a.png', 'x/b.png', 'x/c.png'), BEST)
    assert Path('best/a.png').read_bytes() == b'mine' and Path('best/b.png').is_dir() and os.readlink('best/c.png') == 'nowhere'
    assert [Path(f'best/{name}_2.png').read_bytes() for name in 'abc'] == [b'1', b'2', b'3']
    assert not Path('nowhere').exists()


def test_links_are_symbolic_and_lead_to_absolute_paths(folder):
    write(x_a=b'1')
    copy_rows(rows_of('x/a.png'), BEST, as_links=True)
    assert os.readlink('best/a.png') == str(folder / 'x' / 'a.png')


def test_a_link_to_another_picture_of_the_name_stays(folder):
    write(x_a=b'1', y_a=b'2')
    copy_rows(rows_of('x/a.png'), BEST, as_links=True)
    copy_rows(rows_of('y/a.png'), BEST, as_links=True)
    assert files() == {'a.png': b'1', 'a_2.png': b'2'}


def test_a_picture_of_two_prompts_is_copied_once(folder):
    write(x_a=b'1')
    copies = copy_rows([Row('x/a.png', Path('x/a.png'), prompt, score=1.0) for prompt in ('cat', 'dog')], BEST)
    assert files() == {'a.png': b'1'} and copies.made == 1


def test_a_uri_is_copied_but_not_linked(folder):
    write(x_a=b'1')
    rows = rows_of(f'file://{folder}/x/a.png')
    assert copy_rows(rows, BEST).made == 1 and files() == {'a.png': b'1'}
    (problem,) = copy_rows(rows, Path('links'), as_links=True).problems
    assert 'no link leads to a URI' in problem and files('links') == {}


@pytest.mark.parametrize(
    ('uri', 'name'),
    [
        ('https://host/x/a%20b.png?size=1', 'a b.png'),
        ('https://host/', 'image'),
        ('https://host/a%2F..', 'image'),
        ('s3://bucket/a%20b?.png', 'a%20b?.png'),
    ],
)
def test_a_uri_gives_its_copy_a_name(folder, monkeypatch, uri, name):
    monkeypatch.setattr(copy_to, 'read_uri', lambda uri: b'1')
    copy_rows(rows_of(uri), BEST)
    assert files() == {name: b'1'}


def test_what_else_is_in_the_folder_is_counted_without_hidden_files(folder):
    write(x_a=b'1')
    BEST.mkdir(), Path('best/.DS_Store').touch(), Path('best/other').touch(), Path('best/a.png').write_bytes(b'mine')
    assert copy_rows(rows_of('x/a.png'), BEST).others == 2


def test_what_cannot_be_copied_is_a_sentence_and_the_others_are_copied(folder):
    write(x_a=b'1')
    copies = copy_rows(rows_of('gone.png', 'none://x', 'x/a.png'), BEST)
    assert files() == {'a.png': b'1'} and (copies.made, copies.missing) == (1, 2)
    gone, none = copies.problems
    assert gone == "'gone.png' is not in 'best': No such file or directory." and none.startswith(
        "'none://x' is not in 'best': "
    )


def test_a_full_disk_is_a_sentence_and_leaves_no_part(folder, monkeypatch):
    write(x_a=b'1')
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    (problem,) = copy_rows(rows_of('x/a.png'), BEST).problems
    assert 'No space left on device' in problem and files() == {}


def test_a_folder_that_cannot_be_created_is_a_sentence(folder):
    copies = copy_rows(rows_of('a.png'), Path('none/best'))
    assert (copies.made, copies.missing) == (0, 1) and copies.problems == [
        "'none/best' cannot be created: No such file or directory."
    ]


def test_a_name_as_long_as_possible_is_copied(folder):
    name = 'a' * 251 + '.png'
    Path(name).write_bytes(b'1')
    assert copy_rows(rows_of(name), BEST).problems == [] and list(files()) == [name]


def test_copies_get_their_score_and_the_pictures_stay_as_they_are(grey):
    grey('x/a.png', 'x/b.gif')
    before = files('x')
    for made in (2, 0):
        copies = copy_rows(rows_of('x/a.png', 'x/b.gif'), BEST, write_metadata=True)
        assert copies.made == made
        (problem,) = copies.problems
        assert problem.startswith("'x/b.gif' is copied without its score: it is in a format")
    assert files('x') == before and files()['b.gif'] == before['b.gif']
    with Image.open('best/a.png') as image:
        assert image.text == {'align_iqa': '2.0000'}


def test_each_prompt_of_a_picture_has_a_copy_with_its_score(grey):
    grey('a.png')
    rows = [Row('a.png', Path('a.png'), prompt, score=score) for prompt, score in (('cat', 1.0), ('dog', 2.0))]
    copy_rows(rows, BEST, write_metadata=True)
    assert [Image.open(f'best/{name}').text['align_iqa'] for name in ('a.png', 'a_2.png')] == ['1.0000', '2.0000']


# Where the folder may be


@pytest.mark.parametrize(
    ('arguments', 'images', 'target', 'reason'),
    [
        (['x'], ['x/a.png'], 'x/best', "--copy-to 'x/best' is in 'x', which is searched for pictures"),
        (['x'], ['x/a.png'], 'x', "is in 'x'"),
        (['./x/../x'], ['x/a.png'], 'x/y', 'which is searched for pictures'),
        (['*'], ['x/a.png'], 'x/best', "is in 'x'"),
        (['x/**/*.png'], ['x/a.png'], 'x/best', "is in 'x'"),
        (['**/a.png'], ['x/a.png'], 'best', "is in '.'"),
        (['x/a.png'], ['x/a.png'], 'x', "--copy-to 'x' holds pictures that are scored"),
        (['t.csv'], ['x/y/a.png'], 'x', 'holds pictures that are scored'),
    ],
)
def test_a_folder_whose_files_would_be_scored_the_next_time_is_an_error(folder, arguments, images, target, reason):
    write(x_a=b'1', x_y_a=b'2')
    with pytest.raises(ValueError, match=reason.replace('*', '[*]')):
        check_outside('--copy-to', Path(target), arguments, rows_of(*images))


@pytest.mark.parametrize('argument', ['x/*.png', 'x/a.png', 's3://bucket/x', 'x'])
def test_a_folder_elsewhere_or_one_that_is_not_searched_is_fine(folder, argument):
    write(x_a=b'1')
    check_outside('--copy-to', Path('best' if argument == 'x' else 'x/best'), [argument], rows_of('x/a.png', 's3://bucket/x'))


def test_a_uri_of_a_folder_of_this_machine_is_a_searched_folder(folder):
    write(x_a=b'1')
    with pytest.raises(ValueError, match='which is searched for pictures'):
        check_outside('--copy-to', Path('x/best'), [f'file://{folder}/x'], [])
