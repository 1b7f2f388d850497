import pytest
from PIL import Image

from align_iqa_plugin.data.ratings import read_ratings
from align_iqa_plugin.data.tables import TableError


@pytest.fixture
def table(tmp_path):
    """Writes a table beside a.png and b.png."""
    for name in ('a.png', 'b.png'):
        Image.new('RGB', (40, 40)).save(tmp_path / name)

    def write(text):
        (tmp_path / 'ratings.csv').write_text(text)
        return tmp_path / 'ratings.csv'

    return write


def test_scores_of_images_prompts_and_raters_are_read(table, tmp_path):
    ratings = read_ratings(table('image,score,prompt,rater\na.png,3,a cat,ann\nb.png,4.5,,bob\na.png,2,a cat,bob\n'))
    assert ratings.paths == [str(tmp_path / 'a.png'), str(tmp_path / 'b.png')]
    assert (ratings.first, ratings.second, ratings.values) == ([0, 1, 0], None, [3.0, 4.5, 2.0])
    assert (ratings.prompts, ratings.raters) == (['a cat', ''], ['ann', 'bob', 'bob'])


def test_pairs_are_read(table):
    ratings = read_ratings(table('image_a,image_b,better\na.png,b.png,a\nb.png,a.png,A\na.png,b.png,tie\n'))
    assert (ratings.first, ratings.second, ratings.values) == ([0, 1, 0], [1, 0, 1], [1.0, 1.0, 0.0])
    assert ratings.raters is None


@pytest.mark.parametrize('column', ['score', 'rating', 'mos'])
def test_a_score_may_be_called_a_rating_or_mos(table, column):
    assert read_ratings(table(f'name,{column}\na.png,1\n')).values == [1.0]


def test_images_may_lie_in_another_folder(table, tmp_path):
    path = table('image,score\na.png,1\n')
    (tmp_path / 'ratings').mkdir()
    moved = path.rename(tmp_path / 'ratings' / 'ratings.csv')
    assert read_ratings(moved, tmp_path).paths == [str(tmp_path / 'a.png')]


def test_every_problem_is_named_with_its_row(table):
    rows = ['a.png,high,x', 'c.png,1,x', ',1,x', 'b.png,nan,x', 'a.png,2,y']
    with pytest.raises(TableError) as error:
        read_ratings(table('\n'.join(['image,score,prompt', *rows])))
    message = str(error.value)
    assert '5 problems' in message
    for row, words in ((2, "'high'"), (3, '--images'), (4, 'missing'), (5, "'nan'"), (6, 'another prompt')):
        assert words in next(line for line in message.splitlines() if f'row {row}:' in line)


def test_a_pair_needs_two_images_and_a_known_answer(table):
    with pytest.raises(TableError) as error:
        read_ratings(table('image_a,image_b,better\na.png,a.png,a\na.png,b.png,c\n'))
    assert 'the same image' in str(error.value) and "better is 'c'" in str(error.value)


def test_a_table_without_scores_says_which_column_it_lacks(table):
    with pytest.raises(TableError, match="no column 'score' or 'rating' or 'mos': rename .*'quality'"):
        read_ratings(table('image,quality\na.png,1\n'))
