"""What is read of a damaged database: scores that were there, and as many as can be."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_iqa_plugin.compare.store import Configuration, LabelledImage, Result, Store, StoreError
from align_iqa_plugin.runtime.counts import counted

PLAIN = Configuration('entropy', '{"type": "Entropy"}', 'abc', 'version 1', score_range='0, 8')
COUNT = 400
PAGE = 4096


def read(path):
    with closing(sqlite3.connect(path)) as database:
        return {table: set(database.execute(f'SELECT * FROM {table}')) for table in ('configurations', 'scores')}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The bytes of a database in which the scores take several pages, and its rows."""
    path = tmp_path_factory.mktemp('whole') / 'scores.sqlite'
    with Store(path) as store:
        store.put_images('set', [LabelledImage(f'{number}.png', f'/{number}.png', f'sha{number}') for number in range(COUNT)])
        store.put_metric(PLAIN, 'cpu')
        store.put_comparison('set', 'entropy')
        results = [Result(f'sha{number}', '', number / 7) for number in range(1, COUNT)]
        store.put_scores(PLAIN, [*results, Result('sha0', '', None, 'broke')], 'cpu')
    return path.read_bytes(), read(path)


@pytest.fixture
def damaged(tmp_path):
    """Opens a database of these bytes, which is refused: the message and the path of the rescued one."""

    def damaged(content, folder=tmp_path):
        path = folder / 'scores.sqlite'
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"scores\.sqlite' cannot be used") as caught:
            Store(path)
        assert path.read_bytes() == content
        return str(caught.value), folder / 'scores.rescued.sqlite'

    return damaged


def leaves(content):
    """The numbers of pages that hold rows of `scores` or of an index, and are not the first page of one."""
    return [number for number in range(1, len(content) // PAGE) if content[number * PAGE] == 10]


def without(content, *pages):
    content = bytearray(content)
    for page in pages:
        content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    return bytes(content)


def test_whatever_page_is_lost_the_scores_on_others_are_rescued(whole, damaged, tmp_path):
    content, rows = whole
    assert len(leaves(content)) > 20
    counts = []
    for page in leaves(content):
        (folder := tmp_path / str(page)).mkdir()
        message, path = damaged(without(content, page), folder)
        found = read(path)
        assert found['scores'] <= rows['scores']
        counts.append(sum(row[3] is not None for row in found['scores']))
        assert f"put '{path}' in its place, which has {counted(counts[-1], 'score')} that" in message
    assert 0 < min(counts) < COUNT - 1 == max(counts)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_score_that_is_rescued_was_there(data, whole, tmp_path_factory):
    content, rows = bytearray(whole[0]), whole[1]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=9))
        content[place : place + len(piece)] = piece[: len(content) - place]
    path = tmp_path_factory.mktemp('damaged') / 'scores.sqlite'
    path.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))])
    try:
        Store(path).__exit__()
    except StoreError:
        rescued = path.with_name('scores.rescued.sqlite')
        if rescued.exists():
            found = read(rescued)
            assert found['scores'] <= rows['scores'] and found['configurations'] <= rows['configurations']
            assert any(row[3] is not None for row in found['scores'])


def test_a_file_whose_end_is_cut_off_gives_what_its_beginning_has(whole, damaged):
    content, rows = whole
    _, path = damaged(content[: len(content) - 2 * PAGE - 5])
    assert set() < read(path)['scores'] <= rows['scores']


def test_in_the_place_of_the_damaged_one_it_goes_on_and_the_rest_is_computed(whole, damaged, tmp_path):
    content, rows = whole
    _, path = damaged(without(content, leaves(content)[-1]))
    kept = read(path)['scores']
    path.replace(tmp_path / 'scores.sqlite')
    with Store(tmp_path / 'scores.sqlite') as store:
        store.put_images('set', [LabelledImage(f'{number}.png', f'/{number}.png', f'sha{number}') for number in range(COUNT)])
        scored = {row[1] for row in kept if row[3] is not None}
        assert {each.sha256 for each in store.pending('set', PLAIN)} == {f'sha{number}' for number in range(COUNT)} - scored
    assert read(tmp_path / 'scores.sqlite') == {'configurations': rows['configurations'], 'scores': kept}


def test_a_rescued_database_is_never_written_over(whole, damaged, tmp_path):
    (tmp_path / 'scores.rescued.sqlite').write_bytes(b'mine')
    message, path = damaged(without(whole[0], leaves(whole[0])[0]))
    assert f"put '{path}' in its place, which was rescued" in message
    assert path.read_bytes() == b'mine'


def test_where_nothing_can_be_read_nothing_is_written(damaged):
    message, path = damaged(b'these are notes, not a database ' * 400)
    assert 'move it away' in message and 'rescued' not in message
    assert not path.exists()


def test_where_what_is_read_cannot_be_written_the_sentence_says_so(whole, damaged, monkeypatch):
    def full(source, target):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', full)
    message, path = damaged(without(whole[0], leaves(whole[0])[0]))
    assert 'move it away' in message and "scores.rescued.sqlite' cannot be written: No space left on device" in message
    assert not path.exists()


def test_a_damaged_database_without_deviations_gives_back_its_scores(whole, damaged, tmp_path):
    path = tmp_path / 'old.sqlite'
    path.write_bytes(whole[0])
    columns = 'device, batch, seconds, reason, score, prompt, sha256, configuration'
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript('DROP VIEW score_table; DROP INDEX scores_copy; ALTER TABLE scores DROP COLUMN std;')
        database.executescript(f'CREATE INDEX scores_copy ON scores (scored_at, {columns}); PRAGMA user_version = 3; VACUUM;')
    content = path.read_bytes()
    message, rescued = damaged(without(content, *leaves(content)[:1]))
    assert 'scores that can be read' in message
    with Store(rescued) as store:
        (count,) = store._database.execute('SELECT count(score) FROM scores').fetchone()
    assert 0 < count < COUNT
