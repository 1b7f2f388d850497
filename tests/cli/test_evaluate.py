"""`align-iqa evaluate`: wrong commands end before any work. Its numbers are tested in test_correlation.py."""

import json
import shutil

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import read_network
from align_iqa_plugin.cli import app
from align_iqa_plugin.evaluation.predict import Predictions
from align_iqa_plugin.runtime.files import file_digest


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope='module')
def rated(tmp_path_factory):
    """A folder of ten images with data.csv."""
    folder = tmp_path_factory.mktemp('rated')
    for number in range(10):
        Image.new('RGB', (32, 32), (20 * number, 0, 0)).save(folder / f'{number}.png')
    rows = ['name,mos,prompt', *(f'{number}.png,{number},prompt {number}' for number in range(10))]
    (folder / 'data.csv').write_text('\n'.join(rows))
    return folder


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--opt', 'none.yml'], 'none.yml'),
        (['--weights', 'none.pth'], '--weights: there is no file none.pth'),
        (['--phase', 'tset'], "unknown phase 'tset'; did you mean 'test'?"),
        (['--output', 'nowhere/x.json'], "there is no folder 'nowhere'"),
        (['--device', 'warp'], "device 'warp'"),
        (['--split', 'nosuch'], 'nosuch'),
    ],
)
def test_a_wrong_command_fails_with_a_sentence(words, sentence, rated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run('evaluate', rated, *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith('align-iqa evaluate: ') and sentence in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_output_replaces_the_tables_of_a_release(small_releases):
    for table in sorted((small_releases / 'BIQ2021').glob('*.csv')):
        before = table.read_bytes()
        result = run('evaluate', small_releases / 'BIQ2021', '--output', table)
        assert result.exit_code == 2 and 'would overwrite' in result.stderr
        assert table.read_bytes() == before


def test_the_official_test_images_of_a_release_are_evaluated(small_releases, small_weights, tmp_path):
    folder = shutil.copytree(small_releases / 'BIQ2021', tmp_path / 'BIQ2021')
    for number, image in enumerate((folder / 'Images').iterdir()):
        Image.new('RGB', (32, 32), (5 * number, 0, 0)).save(image)
    words = ['--split', 'official_split', '--weights', small_weights, '--output', tmp_path / 'numbers.json']
    result = run('evaluate', folder, *words)
    assert result.exit_code == 0, result.output
    images = json.loads((tmp_path / 'numbers.json').read_text())['images']
    assert [each['image'] for each in images] == [f'ss0{i % 3 + 1} ({i}).jpg' for i in range(40, 48)]


@pytest.fixture
def batches(monkeypatch):
    """The numbers of images that the network was given together."""
    found, forward = [], AlignIQA.forward

    def spy(network, image, *arguments, **keywords):
        found.append(len(image))
        return forward(network, image, *arguments, **keywords)

    monkeypatch.setattr(AlignIQA, 'forward', spy)
    return found


@pytest.fixture
def own_options(tiny_options, small_weights, tmp_path):
    """The words for an option file that departs from the tiny one in its section of validation."""

    def words(**section):
        tiny_options['datasets']['val'] |= {'image_column': 'name', 'score_column': 'mos', **section}
        tiny_options['network'] = {'type': 'AlignIQA', **read_network(small_weights, '')}
        (tmp_path / 'own.yml').write_text(yaml.safe_dump(tiny_options))
        return ['--opt', tmp_path / 'own.yml', '--weights', small_weights, '--phase', 'train', '--device', 'cpu']

    return words


def test_images_of_several_sizes_are_evaluated_one_by_one(rated, small_weights, batches, tmp_path):
    folder = shutil.copytree(rated, tmp_path / 'rated')
    Image.new('RGB', (40, 32)).save(folder / '3.png')
    result = run('evaluate', folder, '--phase', 'train', '--weights', small_weights, '--batch-size', 4, '--device', 'cpu')
    assert result.exit_code == 0, result.output
    assert len(batches) > 4 and set(batches) == {1}


def test_the_batch_size_of_an_option_file_holds_unless_another_one_is_given(rated, own_options, batches):
    for given, wanted in (([], 3), (['--batch-size', 2], 2)):
        batches.clear()
        result = run('evaluate', rated, *own_options(batch_size_per_gpu=3), *given)
        assert result.exit_code == 0, result.output
        assert max(batches) == wanted


def test_columns_are_named_as_in_other_commands_and_go_before_those_of_an_option_file(rated, own_options, tmp_path):
    folder = shutil.copytree(rated, tmp_path / 'rated')
    rows = ['quality,file,text,maker', *(f'{number},{number}.png,prompt {number},m{number % 2}' for number in range(10))]
    (folder / 'data.csv').write_text('\n'.join(rows))
    columns = ['--image-column', 'file', '--score-column', 'quality', '--prompt-column', 'text', '--generator-column', 'maker']
    words = [*own_options(), *columns, '--split', 'generator_split_m0', '--phase', 'test', '--output', tmp_path / 'out.json']
    result = run('evaluate', folder, *words)
    assert result.exit_code == 0, result.output
    images = json.loads((tmp_path / 'out.json').read_text())['images']
    assert [(each['image'], each['mos']) for each in images] == [(f'{number}.png', number) for number in range(0, 10, 2)]


def test_a_table_without_prompts_is_evaluated_once_it_is_said(rated, small_weights, tmp_path):
    folder = shutil.copytree(rated, tmp_path / 'rated')
    (folder / 'data.csv').write_text('\n'.join(['name,mos', *(f'{number}.png,{number}' for number in range(10))]))
    words = ['evaluate', folder, '--phase', 'train', '--weights', small_weights, '--device', 'cpu']
    result = run(*words)
    assert result.exit_code == 2 and "--prompt-column ''" in result.stderr, result.output
    assert run(*words, '--prompt-column', '').exit_code == 0


def test_a_damaged_image_is_a_sentence_where_a_training_would_not_look_for_it(rated, own_options, tmp_path):
    folder = shutil.copytree(rated, tmp_path / 'rated')
    for number in range(10):
        (folder / f'{number}.png').write_bytes(b'no picture %d' % number)
    result = run('evaluate', folder, *own_options(check_images=False))
    assert result.exit_code == 2 and 'is not a picture' in result.stderr, result.output


def test_no_output_replaces_the_labels(rated):
    labels = rated / 'data.csv'
    before = labels.read_bytes()
    for data in (labels, rated):
        result = run('evaluate', data, '--output', labels)
        assert result.exit_code == 2 and 'would overwrite' in result.stderr
    assert labels.read_bytes() == before


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [(['--output', 'nowhere/x.json', '--phase', 'tset'], 'there is no folder'), (['--device', 'warp'], "device 'warp'")],
)
def test_the_output_and_then_the_device_are_checked_before_the_data(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in ('none', 'x' * 300):
        result = run('evaluate', data, *words)
        assert result.exit_code == 2 and sentence in result.stderr, result.output


def test_a_name_that_is_too_long_is_a_sentence(tmp_path):
    result = run('evaluate', tmp_path / ('x' * 300), '--device', 'cpu')
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith('align-iqa evaluate: ') and 'File name too long' in result.stderr


def test_an_output_that_cannot_be_written_in_the_end_is_a_sentence(rated, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('align_iqa_plugin.archs.pretrained.create_align_iqa', lambda **_: None)
    predictions = Predictions(scores=[0.0, 1.0, 2.0], mos=[1.0, 2.0, 3.0], paths=['a', 'b', 'c'])
    monkeypatch.setattr('align_iqa_plugin.evaluation.predict.predict', lambda *_, **__: predictions)
    monkeypatch.setattr('os.replace', full)
    result = run('evaluate', rated, '--output', tmp_path / 'x.json', '--device', 'cpu')
    assert result.exit_code == 1 and 'SRCC' in result.stdout, result.output
    assert result.stderr == f"align-iqa evaluate: '{tmp_path / 'x.json'}' cannot be written: No space left on device.\n"
    assert not list(tmp_path.iterdir())


def test_images_that_the_packaged_model_was_fitted_to_are_counted(rated, small_weights, monkeypatch):
    seen = {file_digest(path)[:16] for path in rated.glob('*.png')}
    monkeypatch.setattr('align_iqa_plugin.data.training_images._known', lambda: seen)
    assert 'fitted' not in run('evaluate', rated, '--device', 'cpu', '--weights', small_weights).stderr
    for packaged in ([], ['--weights', 'packaged-fast']):
        result = run('evaluate', rated, '--device', 'cpu', *packaged)
        number = result.stdout.split()[-1]
        assert result.stderr == (
            f'NOTE: the packaged model was fitted to {number} of these images, so the numbers are too high. See --split.\n'
        )
