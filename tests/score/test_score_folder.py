"""A folder of scores: each image once, files whole, and nothing mixed that does not belong together."""

import threading

import pandas as pd
import pytest

from align_iqa_plugin.score.score_folder import ScoreFolder


def row(image, score, prompt=None, error=''):
    size = 64 if score is not None else None
    return {'image': image, 'prompt': prompt, 'score': score, 'width': size, 'height': size, 'error': error}


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
def test_a_folder_of_other_files_is_refused(tmp_path, write):
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
