"""The database of the scores: nothing is lost, nothing is there twice, whoever writes and however it ends."""

import os
import random
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_iqa_plugin.compare import store as module
from align_iqa_plugin.compare import tables
from align_iqa_plugin.compare.store import Configuration, LabelledImage, Result, Store, StoreError

ROOT = Path(module.__file__).parents[2]
PLAIN = Configuration('entropy', '{"type": "Entropy"}', 'abc', 'version 1', score_range='0, 8')
PROMPTED = replace(PLAIN, metric='clipscore', uses_prompt=True)
# columns that the statistics and the page read
SCORES = (
    'dataset metric image path sha256 prompt prompt_id generator style mos mos_std mos_align score std reason lower_better '
    'uses_prompt shuffled_score seconds'
).split()
METRICS = (
    'metric available reason score_range device seconds decode_seconds peak_mb options weights_sha256 code_version'.split()
)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / 'scores.sqlite') as store:
        yield store


def image(number, content=None, **more):
    content = number if content is None else content
    return LabelledImage(f'{number}.png', f'/images/{number}.png', f'sha{content}', mos=float(number), **more)


def use(store, configuration, dataset='set'):
    store.put_metric(configuration, 'cpu')
    store.put_comparison(dataset, configuration.metric)


def wanted(store, configuration, dataset='set'):
    return [(each.sha256, each.prompts) for each in store.pending(dataset, configuration)]


def count(path, query='SELECT count(*) FROM scores'):
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchone()[0]
    finally:
        database.close()


# What is to be scored


def test_an_image_is_pending_until_it_has_a_score(store):
    store.put_images('set', [image(1), image(2)])
    assert wanted(store, PLAIN) == [('sha1', ('',)), ('sha2', ('',))]
    store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
    assert wanted(store, PLAIN) == [('sha2', ('',))]


def test_the_same_content_is_scored_once_for_all_images_and_data_sets_that_have_it(store):
    store.put_images('set', [image(1), image(2, content=1)])
    store.put_images('other', [image(3, content=1)])
    assert wanted(store, PLAIN) == [('sha1', ('',))]
    use(store, PLAIN), use(store, PLAIN, 'other')
    store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
    assert store.score_table()['score'].tolist() == [0.5] * 3


def test_a_metric_with_prompts_scores_an_image_with_its_own_and_with_another_prompt(store):
    store.put_images('set', [image(1, prompt='cat', other_prompt='dog'), image(2, prompt='dog', other_prompt='cat')])
    assert wanted(store, PROMPTED) == [('sha1', ('cat', 'dog')), ('sha2', ('dog', 'cat'))]
    assert wanted(store, PLAIN) == [('sha1', ('',)), ('sha2', ('',))]
    use(store, PROMPTED)
    store.put_scores(PROMPTED, [Result('sha1', 'cat', 1.0), Result('sha1', 'dog', 0.25)], 'cpu')
    assert wanted(store, PROMPTED) == [('sha2', ('dog', 'cat'))]
    table = store.score_table()
    assert (table['score'][0], table['shuffled_score'][0]) == (1.0, 0.25)
    assert table[['score', 'shuffled_score']].iloc[1].isna().all()


@pytest.mark.parametrize('field', ['metric', 'options', 'weights_sha256', 'code_version'])
def test_another_metric_option_weight_or_version_needs_scores_of_its_own(store, field):
    store.put_images('set', [image(1)])
    use(store, PLAIN)
    store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
    changed = replace(PLAIN, **{field: 'changed'})
    assert wanted(store, changed) == [('sha1', ('',))]
    use(store, changed)
    table = store.score_table().set_index('metric')
    assert table.loc[changed.metric, 'reason'] == 'is not scored yet.'
    assert (table.loc[PLAIN.metric, 'score'] == 0.5) == (field == 'metric')  # else only the newest counts


def test_an_image_with_a_problem_is_never_pending_and_shows_the_problem(store):
    store.put_images('set', [image(1, problem='there is no such file.')])
    use(store, PLAIN)
    assert wanted(store, PLAIN) == []
    assert store.score_table()['reason'].tolist() == ['there is no such file.']


@settings(max_examples=25, deadline=None)
@given(
    images=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(['', 'a', 'b', "'; --", '☂']), st.sampled_from(['', 'c', 'd']))
    ),
    scored=st.sets(st.tuples(st.integers(0, 5), st.sampled_from(['', 'a', 'b', 'c', 'd']))),
)
def test_what_is_pending_is_what_is_wanted_without_what_is_scored(images, scored, tmp_path_factory):
    with Store(tmp_path_factory.mktemp('store') / 'scores.sqlite') as store:
        labelled = [
            image(number, content=content, prompt=prompt, other_prompt=other)
            for number, (content, prompt, other) in enumerate(images)
        ]
        store.put_images('set', labelled)
        store.put_scores(PROMPTED, [Result(f'sha{content}', prompt, 1.0) for content, prompt in scored], 'cpu')
        expected = {(content, text) for content, prompt, other in images for text in (prompt, *([other] if other else []))}
        got = [(int(sha256[3:]), prompt) for sha256, prompts in wanted(store, PROMPTED) for prompt in prompts]
        assert len(got) == len(set(got))
        assert set(got) == expected - scored


# What was scored


def test_a_score_stays_and_a_failure_is_replaced(store):
    store.put_images('set', [image(1), image(2)])
    use(store, PLAIN)
    store.put_scores(PLAIN, [Result('sha1', '', 0.5), Result('sha2', '', None, 'broke')], 'cpu')
    assert wanted(store, PLAIN) == [('sha2', ('',))]
    store.put_scores(PLAIN, [Result('sha1', '', 0.7), Result('sha2', '', None, 'broke again')], 'cpu')
    table = store.score_table()
    assert table['score'][0] == 0.5
    assert table['reason'].tolist() == ['', 'broke again']
    store.put_scores(PLAIN, [Result('sha2', '', 0.9)], 'cpu')
    assert store.score_table()['score'].tolist() == [0.5, 0.9]
    assert store.score_table()['reason'].tolist() == ['', '']


def test_new_labels_of_a_data_set_replace_the_old_ones_and_keep_the_scores(store):
    store.put_images('set', [image(1), image(2)])
    use(store, PLAIN)
    store.put_scores(PLAIN, [Result('sha1', '', 0.5), Result('sha2', '', 0.6)], 'cpu')
    store.put_images('set', [replace(image(2), mos=4.0)])
    table = store.score_table()
    assert table[['image', 'mos', 'score']].values.tolist() == [['2.png', 4.0, 0.6]]


def test_the_tables_have_the_columns_that_the_statistics_and_the_page_read(store):
    for rows in (0, 2):
        if rows:
            store.put_images('set', [image(1, style='oil'), image(2)])
            use(store, PLAIN)
            store.put_scores(PLAIN, [Result('sha1', '', 0.5, seconds=2.0), Result('sha2', '', 0.5, seconds=4.0)], 'cpu')
            store.put_costs('entropy', decode_seconds=0.25, peak_mb=10.0)
            store.put_costs('entropy', decode_seconds=None, peak_mb=None)
        scores, metrics = store.score_table(), store.metric_table()
        assert scores.columns.tolist() == SCORES
        assert set(METRICS) <= set(metrics.columns)
        assert len(scores) == rows
        assert scores[['score', 'mos_std', 'shuffled_score', 'seconds']].dtypes.eq(float).all()
        assert scores[['lower_better', 'uses_prompt']].dtypes.eq(bool).all()
    assert metrics.iloc[0][['seconds', 'decode_seconds', 'peak_mb', 'available']].tolist() == [3.0, 0.25, 10.0, True]
    assert scores['style'].tolist() == ['oil', '']


def test_a_metric_that_could_not_be_loaded_is_in_the_table_of_metrics_and_its_older_scores_stay(store):
    store.put_unavailable('niqe', 'needs a file.')
    store.put_images('set', [image(1)])
    use(store, PLAIN)
    store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
    store.put_unavailable('entropy', 'needs a file, now.')
    table = store.metric_table().set_index('metric')
    assert table['available'].tolist() == [False, False]
    assert table['reason'].to_dict() == {'niqe': 'needs a file.', 'entropy': 'needs a file, now.'}
    assert store.score_table()['score'].tolist() == [0.5]
    use(store, PLAIN)
    assert store.metric_table().set_index('metric').loc['entropy', ['available', 'reason']].tolist() == [True, '']


def test_costs_measured_on_another_device_no_longer_count(store):
    use(store, PLAIN)
    store.put_costs('entropy', decode_seconds=0.25, peak_mb=10.0)
    store.put_metric(PLAIN, 'cuda')
    assert store.metric_table()['peak_mb'].isna().all()


def test_the_docstring_names_every_table_and_column_and_its_query_runs(store):
    for kind, name, columns in store._database.execute(
        "SELECT type, name, (SELECT group_concat(name, ' ') FROM pragma_table_info(sqlite_master.name)) FROM sqlite_master "
        "WHERE type IN ('table', 'view')"
    ):
        assert f'``{name}``' in tables.__doc__, (kind, name)
        for column in columns.split() if kind == 'table' else []:
            assert re.search(rf'\b{column}\b', tables.__doc__), (name, column)
    query = re.search(r'^ +(SELECT .*;)$', tables.__doc__, re.MULTILINE)[1]
    store.put_images('set', [image(1, generator='DALLE2')])
    use(store, PLAIN)
    store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
    assert store._database.execute(query).fetchall() == [('entropy', 'DALLE2', 0.5)]


# Copies


def copy_of(number, copy, level=0, **more):
    return replace(image(number, content=f'{number} {copy} {level}', **more), path=f'copy://{copy}', copy=copy, level=level)


COPIES = [replace(image(1), copy='original'), copy_of(1, 'blur', 1), copy_of(1, 'flip')]
COPY_COLUMNS = 'dataset metric image prompt copy level path sha256 score reason lower_better uses_prompt'.split()


def test_copies_are_pending_after_the_images_and_stand_in_a_table_of_their_own(store):
    store.put_images('set', [image(1), image(2), *COPIES])
    use(store, PLAIN)
    contents = ['sha1', 'sha2', 'sha1 blur 1', 'sha1 flip 0']
    assert wanted(store, PLAIN) == [(content, ('',)) for content in contents]
    store.put_scores(PLAIN, [Result(content, '', 0.5, seconds=1.0) for content in contents[:2]], 'cpu')
    store.put_scores(PLAIN, [Result(contents[2], '', 0.25, seconds=9.0)], 'cpu')
    assert wanted(store, PLAIN) == [(contents[3], ('',))]
    assert store.score_table()['image'].tolist() == ['1.png', '2.png']
    table = store.copy_table()
    assert table.columns.tolist() == COPY_COLUMNS
    assert table[['image', 'copy', 'level', 'reason']].values.tolist() == [
        ['1.png', 'original', 0, ''],
        ['1.png', 'blur', 1, ''],
        ['1.png', 'flip', 0, 'is not scored yet.'],
    ]
    assert table['score'].tolist()[:2] == [0.5, 0.25]
    assert store.metric_table()['seconds'].tolist() == [1.0], 'of the images alone'


def test_copies_have_no_rows_for_metrics_that_were_not_asked_to_score_them(store):
    other = replace(PLAIN, metric='other')
    store.put_images('set', [image(1), *COPIES])
    use(store, PLAIN), use(store, other)
    assert store.copy_table().columns.tolist() == COPY_COLUMNS and len(store.copy_table()) == 0
    store.put_scores(other, [Result('sha1', '', 0.5)], 'cpu')
    store.put_scores(PLAIN, [Result('sha1 flip 0', '', None, 'broke')], 'cpu')
    assert store.copy_table()['metric'].tolist() == ['entropy'] * 3
    store.put_images('set', [image(1)])
    assert len(store.copy_table()) == 0, 'new labels replace the copies too'


# Several processes, and how they end

FILL = """
import sys, time
from align_iqa_plugin.compare.store import *
path, first, step, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with Store(path) as store:
    configuration = Configuration('entropy', '{}', 'abc', 'version 1')
    store.put_metric(configuration, 'cpu')
    print('begins', flush=True)
    for pending in store.pending('set', configuration)[first::step]:
        number = int(pending.sha256[3:])
        time.sleep(pause)
        store.put_scores(configuration, [Result(pending.sha256, '', number / 10)], 'cpu')
        print(number, flush=True)
"""


def fill(path, first=0, step=1, pause=0.0):
    return subprocess.Popen(
        [sys.executable, '-c', FILL, str(path), str(first), str(step), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )


def check_complete(path, images):
    with Store(path) as store:
        store.put_comparison('set', 'entropy')
        table = store.score_table()
    assert table['score'].tolist() == [number / 10 for number in range(images)]
    assert count(path) == images
    assert count(path, 'PRAGMA integrity_check') == 'ok'


def test_a_process_killed_at_any_moment_loses_nothing_that_it_reported_and_the_next_one_goes_on(tmp_path):
    path, images = tmp_path / 'scores.sqlite', 60
    with Store(path) as store:
        store.put_images('set', [image(number) for number in range(images)])
    chance, scored = random.Random(0), []
    for _ in range(4):
        process = fill(path, pause=0.005)
        assert process.stdout.readline() == 'begins\n'
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        scored += [int(line) for line in process.communicate()[0].split()]
        assert count(path) >= len(scored)
    process = fill(path)
    scored += [int(line) for line in process.communicate()[0].split()[1:]]
    assert process.returncode == 0
    assert len(scored) == len(set(scored)), 'an image was scored twice'
    check_complete(path, images)


def test_processes_fill_one_database_at_the_same_time(tmp_path):
    path, images = tmp_path / 'scores.sqlite', 300
    with Store(path) as store:
        store.put_images('set', [image(number) for number in range(images)])
    # the third does the work of both others again
    processes = [fill(path, 0, 2), fill(path, 1, 2), fill(path)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    check_complete(path, images)


def test_processes_create_one_database_at_the_same_time(tmp_path):
    path = tmp_path / 'scores.sqlite'
    processes = [fill(path) for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == ['begins\n'] * 4


def test_a_claim_keeps_others_out_until_it_ends(tmp_path):
    with Store(tmp_path / 'scores.sqlite') as one, Store(tmp_path / 'scores.sqlite') as two:
        with one.claim(PLAIN) as claimed:
            assert claimed
            with two.claim(PLAIN, wait=False) as claimed:
                assert not claimed
            with two.claim(PROMPTED, wait=False) as claimed:
                assert claimed
        with two.claim(PLAIN, wait=False) as claimed:
            assert claimed


def test_the_claim_of_a_killed_process_ends(tmp_path):
    code = (
        'import sys, time\nfrom align_iqa_plugin.compare.store import *\n'
        "store = Store(sys.argv[1])\nwith store.claim(Configuration('entropy', '{}', 'abc', '1')):\n"
        "    print('claimed', flush=True)\n    time.sleep(60)"
    )
    configuration = Configuration('entropy', '{}', 'abc', '1')
    command = [sys.executable, '-c', code, str(tmp_path / 'scores.sqlite')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    try:
        assert process.stdout.readline() == 'claimed\n'
        with Store(tmp_path / 'scores.sqlite') as store:
            with store.claim(configuration, wait=False) as claimed:
                assert not claimed
            process.kill()
            process.wait()
            with store.claim(configuration, wait=False) as claimed:
                assert claimed
    finally:
        process.kill()
        process.communicate()


def test_nothing_of_a_list_is_written_where_one_row_cannot_be(store, tmp_path):
    with pytest.raises(StoreError, match='scores.sqlite'):
        store.put_scores(PLAIN, [Result('sha1', '', 0.5), Result('sha2', '', object())], 'cpu')
    assert count(tmp_path / 'scores.sqlite') == 0
    store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
    assert count(tmp_path / 'scores.sqlite') == 1


# What is no database of ours


def test_another_file_in_its_place_is_refused_by_name_and_left_as_it_is(tmp_path):
    path = tmp_path / 'scores.sqlite'
    path.write_text('these are notes, not a database ' * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"scores\.sqlite' cannot be used"):
        Store(path)
    assert path.read_bytes() == before
    path.unlink()
    other = sqlite3.connect(path)
    other.execute('CREATE TABLE mine (x)')
    other.close()
    with pytest.raises(StoreError, match=r"scores\.sqlite' is not a database of this version"):
        Store(path)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StoreError, match='nowhere'):
        Store(tmp_path / 'nowhere' / 'scores.sqlite')


# A database of version 0.3.0


@pytest.fixture
def of_v030(tmp_path):
    """A database that 0.3.0 wrote, from its dump, with its tables as 0.3.0 read them."""
    path = tmp_path / 'scores.sqlite'
    database = sqlite3.connect(path)
    database.executescript((Path(__file__).parent / 'scores_v030.sql').read_text(encoding='utf-8'))
    rows = database.execute('SELECT * FROM score_table').fetchall()
    database.close()
    return path, rows


def test_a_database_of_0_3_0_is_migrated_in_place_and_goes_on(of_v030):
    path, rows = of_v030
    assert len(rows) == 6 and "there is no such file in '/images'." in rows[-1]
    for _ in range(2):  # the second time there is nothing to do
        with Store(path) as store:
            found = store._database.execute('SELECT * FROM score_table').fetchall()
            place = SCORES.index('std')  # which 0.3.0 did not know
            assert [(*row[:place], *row[place + 1 :]) for row in found] == rows and {row[place] for row in found} == {None}
            assert store._database.execute('PRAGMA user_version').fetchone() == (module.LAYOUT,)
    configuration = Configuration('entropy', '{}', 'abc', 'align-iqa-plugin 0.3.0, pyiqa 0.1.16')
    with Store(path) as store:
        assert wanted(store, configuration) == [('sha2', ('',))]  # the failure alone
        store.put_scores(configuration, [Result('sha2', '', 0.25)], 'cpu')
        store.put_images('more', [image(7, problem='is gone.')])
        assert store.score_table()['score'].notna().sum() == 3


@pytest.mark.parametrize('indexes', ['', 'CREATE INDEX images_copy ON images (position, dataset);'])
def test_a_database_without_copies_gets_their_columns_and_goes_on(tmp_path, indexes):
    """That of 0.4.0, and one with an index of its own columns."""
    path = tmp_path / 'scores.sqlite'
    with Store(path) as store:
        store.put_images('set', [image(1)])
        use(store, PLAIN)
        store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
        rows = store.score_table()
        store._database.executescript(
            'DROP VIEW copy_table; DROP VIEW score_table; CREATE VIEW score_table AS SELECT 1; DROP INDEX images_copy; '
            'DROP INDEX scores_copy; ALTER TABLE scores DROP COLUMN std; '
            f'ALTER TABLE images DROP COLUMN copy; ALTER TABLE images DROP COLUMN level; {indexes} PRAGMA user_version = 2;'
        )
    with Store(path) as store:
        assert store.score_table().equals(rows)
        store.put_images('set', [image(1), *COPIES])
        assert len(wanted(store, PLAIN)) == 2


WITHOUT_STD = 'DROP VIEW score_table; DROP INDEX scores_copy; ALTER TABLE scores DROP COLUMN std; PRAGMA user_version = 3;'
WITHOUT_STD += 'CREATE VIEW score_table AS SELECT 1; CREATE INDEX scores_copy ON scores (score, prompt, sha256, configuration);'


def test_a_database_without_deviations_gets_their_column_and_goes_on(tmp_path):
    path = tmp_path / 'scores.sqlite'
    with Store(path) as store:
        store.put_images('set', [image(1), image(2)])
        use(store, PLAIN)
        store.put_scores(PLAIN, [Result('sha1', '', 0.5)], 'cpu')
        store._database.executescript(WITHOUT_STD)
    with Store(path) as store:
        store.put_scores(PLAIN, [Result('sha2', '', 0.7, std=0.2)], 'cpu')
        table = store.score_table()
    assert table['score'].tolist() == [0.5, 0.7]
    assert table['std'].isna().tolist() == [True, False] and table['std'][1] == 0.2


def test_a_failure_leaves_no_deviation_and_a_score_brings_its_own(store):
    store.put_images('set', [image(1)])
    use(store, PLAIN)
    store.put_scores(PLAIN, [Result('sha1', '', None, 'broke')], 'cpu')
    assert store.score_table()['std'].isna().all()
    store.put_scores(PLAIN, [Result('sha1', '', 0.5, std=0.1)], 'cpu')
    assert store.score_table()['std'].tolist() == [0.1]


def test_a_migration_that_fails_changes_nothing(of_v030, monkeypatch):
    path, rows = of_v030
    monkeypatch.setattr(module, 'FROM_LAYOUT_1', module.FROM_LAYOUT_1 + 'SELECT no_such_function();')
    with pytest.raises(StoreError):
        Store(path)
    database = sqlite3.connect(path)
    assert database.execute('SELECT * FROM score_table').fetchall() == rows
    assert database.execute('PRAGMA user_version').fetchone() == (1,)
    database.close()


# A damaged database


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The bytes of a database of some pages, and its tables."""
    path = tmp_path_factory.mktemp('whole') / 'scores.sqlite'
    with Store(path) as store:
        store.put_images('set', [image(number, prompt=f'a prompt of {number}', generator='glide') for number in range(40)])
        for configuration in (PLAIN, PROMPTED):
            use(store, configuration)
            results = [
                Result(f'sha{number}', prompt, number / 7, seconds=0.5) for number in range(40) for prompt in ('', 'cat')
            ]
            store.put_scores(configuration, results, 'cpu')
        store.put_unavailable('niqe', 'needs a file.')
        tables = store.score_table(), store.metric_table(), store.pending('set', PROMPTED)
    return path.read_bytes(), tables


def assert_right_or_refused(path, tables):
    try:
        with Store(path) as store:
            found = store.score_table(), store.metric_table(), store.pending('set', PROMPTED)
    except StoreError as error:
        assert 'scores.sqlite' in str(error)
        return
    for one, other in zip(found[:2], tables[:2], strict=True):
        pandas.testing.assert_frame_equal(one, other)
    assert found[2] == tables[2]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_database_gives_the_right_scores_or_a_sentence(data, whole, tmp_path_factory):
    content, tables = bytearray(whole[0]), whole[1]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp('damaged') / 'scores.sqlite'
    path.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))])
    assert_right_or_refused(path, tables)


@pytest.mark.parametrize('length', [1, 50, 4096, 10_000])
def test_a_database_whose_end_is_cut_off_is_left_as_it_is(whole, tmp_path, length):
    path = tmp_path / 'scores.sqlite'
    path.write_bytes(whole[0][:length])
    with pytest.raises(StoreError, match='move it away'):
        Store(path)
    assert path.read_bytes() == whole[0][:length]


def test_another_score_another_view_and_another_name_are_found(whole, tmp_path):
    content, tables = whole
    for before, after in (
        (struct.pack('>d', 5 / 7), struct.pack('>d', 6 / 7)),
        (b'LEFT JOIN scores AS own', b'JOIN      scores AS own'),
        (b'setentropy', b'sotentropy'),
    ):
        place = content.index(before)
        path = tmp_path / f'{place}' / 'scores.sqlite'
        path.parent.mkdir()
        path.write_bytes(content[:place] + after + content[place + len(before) :])
        with pytest.raises(StoreError, match='because it is damaged'):
            Store(path)


def test_a_database_without_the_copies_gets_them(whole, tmp_path):
    path = tmp_path / 'scores.sqlite'
    path.write_bytes(whole[0])
    database = sqlite3.connect(path)
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE name LIKE '%_copy'")]
    for name in names:
        database.execute(f'DROP INDEX {name}')
    database.close()
    Store(path).__exit__()
    assert len(names) == 5 == count(path, "SELECT count(*) FROM sqlite_master WHERE name LIKE '%_copy'")
    assert_right_or_refused(path, whole[1])
