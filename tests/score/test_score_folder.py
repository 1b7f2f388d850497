"""A folder of scores: each image once, files whole, and nothing mixed that does not belong together."""

import os
import threading
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from align_iqa_plugin.score import score_folder
from align_iqa_plugin.score.rows import Row
from align_iqa_plugin.score.score_folder import FolderError, ScoreFolder, score_remaining


def row(image, score, prompt=None, error=''):
    size = 64 if score is not None else None
    return {'image': image, 'prompt': prompt, 'score': score, 'std': None, 'width': size, 'height': size, 'error': error}


@pytest.fixture
def folder(tmp_path):
    """Opens the folder as a new command does."""
    opened = []

    def again(origin='weights 1'):
        for each in opened:
            each.close()
        opened.append(ScoreFolder(tmp_path / 'scores', origin))
        return opened[-1]

    yield again
    for each in opened:
        each.close()


def images(tmp_path):
    return sorted(pd.read_parquet(tmp_path / 'scores')['image'])


def test_what_was_added_is_found_again_by_image_and_prompt(folder):
    folder().add([row('a', 1.5), row('a', 2.5, 'a cat')])
    found = folder().read_scored(['a'])
    assert {key: each['score'] for key, each in found.items()} == {('a', None): 1.5, ('a', 'a cat'): 2.5}


def test_a_failure_makes_room_for_the_next_attempt(folder, tmp_path):
    folder().add([row('a', 1.0), row('b', None, error='is damaged.'), row('c', None, error='is damaged.')])
    folder().add([row('d', None, error='is damaged.')])
    opened = folder()
    assert set(opened.read_scored(['a', 'b', 'd'])) == {('a', None)}
    assert images(tmp_path) == ['a', 'c']
    opened.add([row('b', 2.0)])
    assert images(tmp_path) == ['a', 'b', 'c']


def test_a_file_never_replaces_another(folder, tmp_path):
    for number in range(12):
        folder().add([row(f'{number:02}', 1.0)])
    assert len(images(tmp_path)) == 12


def test_only_whole_files_are_left(folder, tmp_path, monkeypatch):
    opened = folder()
    opened.add([row('a', 1.0)])
    monkeypatch.setattr('os.replace', lambda *paths: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        opened.add([row('b', 1.0)])
    assert images(tmp_path) == ['a']
    assert len([each for each in (tmp_path / 'scores').iterdir() if each.name != '.lock']) == 1


def test_scores_of_other_weights_are_not_mixed(folder):
    folder().add([row('a', 1.0)])
    with pytest.raises(ValueError, match='other weights'):
        folder('weights 2')


@pytest.mark.parametrize('write', [lambda file: pd.DataFrame({'x': [1]}).to_parquet(file), lambda file: file.write_text('no')])
def test_a_folder_of_other_files_is_an_error(tmp_path, write):
    write(tmp_path / 'other.parquet')
    with pytest.raises(ValueError, match='scores|cannot be used'):
        ScoreFolder(tmp_path, 'weights 1')


def test_two_commands_do_not_share_a_folder(folder, tmp_path):
    folder()
    problems = []

    def other():
        try:
            ScoreFolder(tmp_path / 'scores', 'weights 1')
        except ValueError as error:
            problems.append(str(error))

    thread = threading.Thread(target=other)
    thread.start(), thread.join()
    assert len(problems) == 1 and 'another command' in problems[0]


def test_a_deviation_is_found_again_with_its_score(folder):
    folder().add([row('/a', 1.0) | {'std': 0.25}])
    rows = [Row('a', Path('/a'))]
    assert folder().fill(rows) == 1 and (rows[0].score, rows[0].std) == (1.0, 0.25)


def test_a_folder_of_0_4_0_which_knew_no_deviation_is_of_another_version(folder, tmp_path):
    folder().add([row('/a', 1.0)])
    file = tmp_path / 'scores' / 'part-000000.parquet'
    parquet.write_table(parquet.read_table(file).drop_columns('std'), file)
    with pytest.raises(FolderError, match='another version'):
        folder()


def test_columns_are_added_to_all_files_and_other_rows_keep_theirs(folder, tmp_path):
    opened = folder()
    opened.add([row('/a', 1.0), row('/b', 2.0)])
    opened.add_columns([Row('a', Path('/a'), columns={'seed': '7'}, kept=True)])
    opened.add([row('/c', 3.0, 'cat')])
    opened.add_columns([Row('c', Path('/c'), 'cat', columns={'cfg': '1.5'}, kept=False)])
    table = pd.read_parquet(tmp_path / 'scores')
    assert list(table) == ['image', 'prompt', 'seed', 'cfg', 'score', 'std', 'kept', 'width', 'height', 'error']
    cells = table.astype(object).where(table.notna(), None)[['image', 'seed', 'cfg', 'kept']].values.tolist()
    assert cells == [['/a', '7', None, True], ['/b', None, None, None], ['/c', None, '1.5', False]]
    assert set(folder().read_scored([])) == {('/a', None), ('/b', None), ('/c', 'cat')}


def test_columns_stay_where_a_failure_makes_room(folder, tmp_path):
    folder().add([row('/a', 1.0), row('/b', None, error='is damaged.')])
    folder().add_columns([Row('a', Path('/a'), columns={'seed': '7'})])
    folder().read_scored(['/b'])
    assert pd.read_parquet(tmp_path / 'scores')[['image', 'seed']].values.tolist() == [['/a', '7']]


def test_without_columns_the_files_stay_as_they_are(folder, tmp_path):
    folder().add([row('/a', 1.0)])
    before = (tmp_path / 'scores' / 'part-000000.parquet').stat().st_mtime_ns
    folder().add_columns([Row('a', Path('/a'))])
    assert (tmp_path / 'scores' / 'part-000000.parquet').stat().st_mtime_ns == before


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_the_right_scores_or_a_sentence(data, tmp_path_factory):
    path = tmp_path_factory.mktemp('folder') / 'scores'
    opened = ScoreFolder(path, 'weights 1')
    opened.add([row(f'{number}', number / 7, f'prompt {number}') for number in range(20)])
    opened.close()
    file = path / 'part-000000.parquet'
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    try:
        opened = ScoreFolder(path, 'weights 1')
        try:
            found = opened.read_scored([])
        finally:
            opened.close()
    except FolderError as error:
        assert str(path) in str(error)
        return
    for (image, prompt), each in found.items():
        assert (prompt, each['score']) == (f'prompt {image}', int(image) / 7)


def test_a_folder_that_is_removed_leaves_what_another_command_begins(folder, tmp_path):
    opened = folder()
    opened.add([row('a', 1.0)])
    opened.close()
    release = opened._lock.release

    def release_and_begin():
        release()
        opened._lock.release = release
        ScoreFolder(tmp_path / 'scores', 'weights 1').add([row('b', 1.0)])

    opened._lock.release = release_and_begin
    opened.remove()
    assert images(tmp_path) == ['b'] and [path.name for path in tmp_path.iterdir()] == ['scores']


# Rows, scored and kept while they come


def rows_of(*names):
    return [Row(name, Path(name)) for name in names]


class Engine:
    """Scores each row with 1, and remembers which; before `stop` it raises KeyboardInterrupt."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def __call__(self, rows):
        for row in rows:
            if row.image == self.stop:
                raise KeyboardInterrupt
            self.seen.append(row.image)
            row.score, row.error = (None, 'is damaged.') if 'bad' in row.image else (1.0, '')
            yield row


@pytest.mark.parametrize('seconds', [0, 1000])
def test_what_is_scored_before_a_stop_is_kept_and_not_scored_again(folder, monkeypatch, seconds):
    monkeypatch.setattr(score_folder, 'FILE_SECONDS', seconds)
    first, second, names = Engine(stop='c'), Engine(), ('a', 'bad', 'b', 'c')
    rows, done = rows_of(*names), []
    with pytest.raises(KeyboardInterrupt):
        score_remaining(rows, first, folder(), lambda: done.append(1))
    assert len(done) == 3
    rows, again = rows_of(*names), folder()
    assert again.fill(rows) == 2
    score_remaining(rows, second, again, lambda: None)
    assert second.seen == ['bad', 'c']
    assert [row.score for row in rows] == [1.0, None, 1.0, 1.0]
    assert len(again.read_scored([])) == 3


def test_what_failed_before_scoring_is_kept_too(folder, tmp_path):
    rows = [Row('*.gif', Path('*.gif'), error='matches no file.'), *rows_of('a')]
    engine = Engine()
    score_remaining(rows, engine, folder(), lambda: None)
    assert engine.seen == ['a'] and len(images(tmp_path)) == 2


def test_without_a_folder_the_rows_alone_have_the_scores():
    rows = rows_of('a', 'b')
    score_remaining(rows, Engine(), None, lambda: None)
    assert [row.score for row in rows] == [1.0, 1.0]


def test_a_full_disk_is_raised(folder, monkeypatch):
    opened = folder()
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        score_remaining(rows_of('a'), Engine(), opened, lambda: None)
    assert opened.is_empty


def test_a_removed_folder_is_gone(folder, tmp_path):
    opened = folder()
    opened.add([row('a', 1.0)])
    opened.remove()
    assert not (tmp_path / 'scores').exists()


@pytest.mark.skipif(os.name == 'nt' or os.uname().sysname == 'Darwin', reason='names are Unicode there')
def test_a_folder_whose_name_is_no_utf8_keeps_scores(tmp_path):
    for rows in ([row('a', 1.5), row('b', None, error='broken')], []):
        folder = ScoreFolder(tmp_path / '\udcff', 'weights 1')
        folder.add(rows)
        assert folder.read_scored(['a', 'b']).keys() == {('a', None)}
        folder.close()
