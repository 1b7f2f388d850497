import copy
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import create_align_iqa
from align_iqa_plugin.cli import app
from align_iqa_plugin.data import training_images
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.evaluation import protocol
from align_iqa_plugin.evaluation.correlation import correlations
from align_iqa_plugin.evaluation.protocol import chosen_folds, fold_columns, merged, run_protocol
from align_iqa_plugin.evaluation.report import results_page


@pytest.fixture(scope='module')
def fitted_options(tiny_images, tmp_path_factory):
    """A training file whose network is fitted and not trained, which takes a second."""
    section = {'type': 'AIGCIQADataset', 'dataroot_target': str(tiny_images), 'split_index': 1, 'split_ratio': '712'}
    section |= {'batch_size_per_gpu': 8, 'num_worker_per_gpu': 0, 'image_column': 'name', 'score_column': 'mos_quality'}
    cache = tmp_path_factory.mktemp('cache')
    # a file of weights, since random ones would be others in every process
    torch.manual_seed(0)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, guide='none', injection='none')
    torch.save(net.backbone.vit.state_dict(), cache / 'vit.pth')
    return {
        'name': 'tiny',
        'model_type': 'AlignIQAModel',
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {'train': {**section, 'name': 'train'}, 'val': {**section, 'name': 'val'}},
        'network': {
            'type': 'AlignIQA',
            'backbone': 'test_vit',
            'backbone_weights': str(cache / 'vit.pth'),
            'input_size': 32,
            'guide': 'none',
            'injection': 'none',
            'head': 'linear',
        },
        'path': {'resume_state': None},
        'train': {'ridge_alpha': 10.0, 'frozen_cache': str(cache), 'total_iter': 0},
        'val': {'val_freq': 4, 'save_img': False, 'key_metric': 'srcc', 'metrics': {'srcc': {'type': 'calculate_srcc'}}},
        'logger': {'print_freq': 10, 'save_latest_freq': 100, 'use_tb_logger': False},
    }


@pytest.fixture(scope='module')
def run(fitted_options, tmp_path_factory):
    root = tmp_path_factory.mktemp('root')
    lines = []
    run_protocol(fitted_options, kind='prompt', folds=['2', '1'], root=root, output=root / 'results.json', report=lines.append)
    return root, lines


def test_every_fold_is_validated_and_tested_on_its_own_images(run, fitted_options):
    root, lines = run
    results = json.loads((root / 'results.json').read_text())
    assert list(results['folds']) == ['1', '2']
    assert [line.split(':')[0] for line in lines] == ['fold 2', 'fold 1']
    for fold, numbers in results['folds'].items():
        network = {key: value for key, value in fitted_options['network'].items() if key != 'type'}
        checkpoint = root / 'experiments' / f'tiny_prompt_{fold}' / 'models' / 'net_best.pth'
        net = create_align_iqa(**network, pretrained_model_path=str(checkpoint)).eval()
        for phase, name in (('val', 'validation'), ('test', 'test')):
            dataset = AIGCIQADataset(fitted_options['datasets']['val'] | {'split_index': int(fold), 'phase': phase})
            expected = correlations(
                [net(item['img'][None]).item() for item in dataset], [item['mos_label'].item() for item in dataset]
            )
            assert numbers[name] == pytest.approx(expected, abs=1e-5)
            assert numbers['images'][phase] == len(dataset) == numbers[name]['n']
        assert numbers['column'] == f'ratio712_seed123_split_0{fold}'


def test_folds_that_are_in_the_results_file_are_not_run_again(run, fitted_options, monkeypatch):
    root, _ = run
    monkeypatch.setattr(protocol, 'train', lambda *_, **__: pytest.fail('it trained again'))
    before = (root / 'results.json').read_text()
    lines = []
    run_protocol(fitted_options, kind='prompt', folds=['1'], root=root, output=root / 'results.json', report=lines.append)
    assert lines == [f'fold 1: in {root / "results.json"} already.']
    assert (root / 'results.json').read_text() == before


def test_a_fold_is_not_begun_where_the_packaged_head_that_it_starts_from_was_fitted_to_its_test_images(
    fitted_options, tiny_images, tmp_path, monkeypatch
):
    digests = {hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in tiny_images.rglob('*.png')}
    monkeypatch.setattr(training_images, '_known', lambda: digests)
    monkeypatch.setattr(protocol, 'train', lambda *_, **__: pytest.fail('it trained'))
    options = {**fitted_options, 'path': {'pretrain_network': 'packaged'}, 'train': {'total_iter': 1}}
    with pytest.raises(ValueError, match='learned from [1-9][0-9]* of the images of ratio712_seed123_split_02, phase test'):
        run_protocol(options, kind='prompt', folds=['2'], root=tmp_path, output=tmp_path / 'results.json', report=print)


def test_a_fold_that_another_process_writes_meanwhile_is_kept(run, fitted_options, tmp_path, monkeypatch):
    results, output = json.loads((run[0] / 'results.json').read_text()), tmp_path / 'results.json'
    one, two = ({**results, 'folds': {fold: results['folds'][fold]}} for fold in ('1', '2'))

    def run_fold(*_):
        output.write_text(json.dumps(two))  # by the other process, while this one trains
        return one['folds']['1']

    monkeypatch.setattr(protocol, '_run_fold', run_fold)
    run_protocol(fitted_options, kind='prompt', folds=['1'], root=tmp_path, output=output, report=print)
    assert json.loads(output.read_text()) == results


def test_a_fold_that_another_process_is_at_comes_last_and_is_not_run_twice(run, fitted_options, tmp_path, monkeypatch):
    results, output = json.loads((run[0] / 'results.json').read_text()), tmp_path / 'results.json'
    asked, lines, name = [], [], 'tiny_prompt_1'
    other = FileLock(tmp_path / 'experiments' / '.locks' / name)
    other.acquire()

    def run_fold(options, *_):
        asked.append(options['name'])
        output.write_text(json.dumps({**results, 'folds': {'1': results['folds']['1']}}))
        other.release()
        return results['folds']['2']

    monkeypatch.setattr(protocol, '_run_fold', run_fold)
    run_protocol(fitted_options, kind='prompt', folds=['1', '2'], root=tmp_path, output=output, report=lines.append)
    assert asked == ['tiny_prompt_2'] and json.loads(output.read_text()) == results
    assert 'another process is at it' in lines[0] and lines[-1] == f'fold 1: in {output} already.'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs processes that inherit what is replaced here')
def test_a_killed_command_keeps_its_folds_and_two_at_once_share_the_others(run, fitted_options, tmp_path, monkeypatch):
    """The real command, killed in its third fold; then twice at the same time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(fitted_options))
    output, begun, train = tmp_path / 'results.json', tmp_path / 'begun', protocol.train
    begun.touch()

    def command():
        result = CliRunner().invoke(app, ['protocol', 'tiny.yml', '--folds', '1-4', '--output', 'results.json'])
        (tmp_path / f'{os.getpid()}.txt').write_text(result.output)
        os._exit(result.exit_code)

    def counted(options, **keywords):
        with begun.open('a') as file:
            file.write(f'{options["name"]}\n')
        best = train(options, **keywords)
        if begun.read_text().split() == ['tiny_prompt_1', 'tiny_prompt_2', 'tiny_prompt_3']:
            os.kill(os.getpid(), signal.SIGKILL)
        return best

    monkeypatch.setattr(protocol, 'train', counted)
    ends = []
    for number in (1, 2):
        processes = [multiprocessing.get_context('fork').Process(target=command) for _ in range(number)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            ends.append(process.exitcode)
        ends.append(json.loads(output.read_text())['folds'])
    killed, kept, one, two, folds = ends
    assert (killed, one, two) == (-signal.SIGKILL, 0, 0), [path.read_text() for path in tmp_path.glob('*.txt')]
    assert list(kept) == ['1', '2'] and list(folds) == ['1', '2', '3', '4']
    assert kept.items() <= folds.items(), 'a fold was lost or run again'
    assert sorted(begun.read_text().split()[3:]) == ['tiny_prompt_3', 'tiny_prompt_4']
    first = json.loads((run[0] / 'results.json').read_text())['folds']
    assert {fold: numbers['test'] for fold, numbers in kept.items()} == {fold: first[fold]['test'] for fold in ('1', '2')}
    assert not list(tmp_path.glob('.*.part'))


def test_a_protocol_of_several_processes_of_one_training_is_refused(fitted_options, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='start the command several times'):
        run_protocol(fitted_options, kind='prompt', folds=['1'], root=tmp_path, output=tmp_path / 'results.json', report=print)


def test_results_of_another_recipe_are_not_mixed_in(run, fitted_options):
    root, _ = run
    other = {**fitted_options, 'train': {**fitted_options['train'], 'ridge_alpha': 3.0}}
    with pytest.raises(ValueError, match='another recipe or kind of split'):
        run_protocol(other, kind='prompt', folds=['3'], root=root, output=root / 'results.json', report=print)


def test_another_seed_name_or_cache_is_the_same_recipe(run, fitted_options):
    results = json.loads((run[0] / 'results.json').read_text())
    other = json.loads(json.dumps(results))
    other['options'] |= {'manual_seed': 5, 'name': 'elsewhere'}
    other['options']['train']['frozen_cache'] = 'elsewhere'
    assert protocol.recipe(other) == protocol.recipe(results)
    assert protocol.recipe({**results, 'split': 'image'}) != protocol.recipe(results)


def test_folds_from_several_machines_are_put_together(run, tmp_path):
    results = json.loads((run[0] / 'results.json').read_text())
    parts = [{**results, 'folds': {fold: results['folds'][fold]}} for fold in ('1', '2')]
    assert merged(parts) == results
    files = [tmp_path / f'{number}.json' for number in (1, 2)]
    for file, part in zip(files, parts, strict=True):
        file.write_text(json.dumps(part))
    assert results_page(files) == results_page([run[0] / 'results.json'])


def test_one_fold_with_two_results_is_refused(run):
    results = json.loads((run[0] / 'results.json').read_text())
    other = json.loads(json.dumps(results))
    other['folds']['1']['test']['SRCC'] += 0.01
    with pytest.raises(ValueError, match='hold fold 1 twice'):
        merged([results, other])


def test_the_page_has_median_and_spread_and_the_reported_numbers(run, tmp_path):
    results = json.loads((run[0] / 'results.json').read_text())
    results['options']['paper'] = {'row': 'table 9', 'SRCC': 0.8, 'PLCC': 0.9}
    values = [-0.25, 0.5, 0.75]
    results['folds'] = {
        str(number): {**results['folds']['1'], 'test': {**results['folds']['1']['test'], 'SRCC': value}}
        for number, value in enumerate(values, 1)
    }
    (tmp_path / 'results.json').write_text(json.dumps(results))
    page = results_page([tmp_path / 'results.json'])
    row = next(line for line in page.splitlines() if line.startswith('| tiny |'))
    assert '| 1 to 3 | .5000 (-.2500 to .7500) |  |' in row
    assert statistics.median(values) == 0.5
    assert row.endswith('| .800 / .900 |')
    assert results['folds']['1']['data_sha256'] in page


def test_rows_of_other_folds_are_compared_on_the_folds_that_they_share(run, tmp_path):
    results = json.loads((run[0] / 'results.json').read_text())

    def row(name, values):
        folds = {
            fold: {**results['folds']['1'], 'test': {**results['folds']['1']['test'], 'SRCC': value}}
            for fold, value in values.items()
        }
        file = tmp_path / f'{name}.json'
        options = {**results['options'], 'train': {**results['options']['train'], 'ridge_alpha': len(values)}}
        file.write_text(json.dumps({**results, 'name': name, 'options': options, 'folds': folds}))
        return file

    page = results_page([row('b', {'1': 0.5, '2': 0.75}), row('a', {'1': 0.75, '2': 0.5, '3': 0.25})])
    rows = {line.split(' | ')[0]: line for line in page.splitlines()}
    assert '| 1 to 2 | .6250 (.5000 to .7500) | +.0000 (-.2500 to +.2500) |' in rows['| b']
    assert '| 1 to 3 | .5000 (.2500 to .7500) |  |' in rows['| a']


@pytest.mark.parametrize('content', ['', 'no JSON', '[]', '{"name": "x"}'])
def test_what_is_no_results_file_is_refused_by_name(content, tmp_path):
    (tmp_path / 'x.json').write_text(content)
    result = CliRunner().invoke(app, ['results', str(tmp_path / 'x.json')])
    assert result.exit_code == 2
    assert 'x.json' in result.stderr


def test_folds_are_numbers_ranges_or_names():
    possible = [str(number) for number in range(1, 11)]
    assert chosen_folds(None, possible) == possible
    assert chosen_folds('1-3, 7,2', possible) == ['1', '2', '3', '7']
    assert chosen_folds('sd1.5,glide', ['glide', 'sd1.5']) == ['sd1.5', 'glide']
    with pytest.raises(ValueError, match="unknown fold '11'"):
        chosen_folds('9-11', possible)


def test_leaving_generators_out_needs_to_know_them(tiny_images, tmp_path):
    with pytest.raises(ValueError, match="no column 'generator'.*generator_column"):
        fold_columns('generator', {'datasets': {'train': {'dataroot_target': tiny_images, 'score_column': 'mos_quality'}}})
    rows = ['name,prompt,mos,generator', *(f'{i}.png,prompt {i},{i},{["glide", "sd1.5"][i % 2]}' for i in range(4))]
    (tmp_path / 'data.csv').write_text('\n'.join(rows))
    for i in range(4):
        Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / f'{i}.png')
    columns = fold_columns('generator', {'datasets': {'train': {'dataroot_target': tmp_path}}})
    assert columns == {name: f'generator_split_{name}' for name in ('glide', 'sd1.5')}
    (tmp_path / 'data.csv').write_text('\n'.join(rows).replace('generator', 'model'))
    section = {'dataroot_target': tmp_path, 'generator_column': 'model'}
    assert fold_columns('generator', {'datasets': {'train': section}}) == columns


@pytest.fixture(scope='module')
def ipce_options(fitted_options, tiny_images, tmp_path_factory):
    """The fitted file for the same images under the names and columns of AGIQA-3K, two of each of 20 prompts."""
    root = tmp_path_factory.mktemp('agiqa')
    rows = ['name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align']
    for i, line in enumerate((tiny_images / 'data.csv').read_text().splitlines()[1:]):
        name, _, mos = line.split(',')
        released = f'{"AttnGAN" if i % 2 else "glide"}_normal_{i // 2:03}.jpg'
        shutil.copy(tiny_images / 'images' / name, root / released)
        rows.append(f'{released},prompt {i // 2},,,,{mos},0,1,0')
    (root / 'data.csv').write_text('\n'.join(rows))
    options = copy.deepcopy(fitted_options)
    for section in options['datasets'].values():
        section['dataroot_target'] = str(root)
    return options


def test_on_the_folds_of_ipce_a_recipe_without_a_step_is_fitted_to_all_prompts_that_are_not_in_test(ipce_options, tmp_path):
    results = tmp_path / 'results.json'
    run_protocol(ipce_options, kind='ipce', folds=['1', '10'], root=tmp_path, output=results, report=print)
    folds = json.loads(results.read_text())['folds']
    assert {fold: numbers['column'] for fold, numbers in folds.items()} == {'1': 'ipce_split_01', '10': 'ipce_split_10'}
    assert folds['1']['images'] == {'train': 32, 'val': 0, 'test': 8} and folds['1']['validation'] is None
    section = ipce_options['datasets']['val'] | {'split_index': 'ipce_split_01', 'phase': 'test'}
    prompts = {sample['prompt'] for sample in AIGCIQADataset(section)}
    assert prompts == {f'prompt {i}' for i in (1, 6, 11, 16)}
    checkpoint = tmp_path / 'experiments' / 'tiny_ipce_1' / 'models' / 'net_latest.pth'
    assert folds['1']['network_sha256'] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match='another recipe or kind of split'):
        run_protocol(ipce_options, kind='prompt', folds=['1'], root=tmp_path, output=results, report=print)

    page = results_page([results])
    values = [folds[fold]['test'][metric] for metric in ('SRCC', 'PLCC') for fold in ('1', '10')]
    means = [f'{sum(pair) / 2:.4f}'.replace('0.', '.') for pair in (values[:2], values[2:])]
    row = next(line for line in page.splitlines() if line.startswith('| tiny |'))
    assert f'| {means[0]} / {means[1]} | 8 |' in row
    assert '| IPCE | best on test, in each fold | .884 / .925 |' in page
    assert '| ACL-IQA | best on test, in each fold | .897 / .928 |' in page


def test_on_the_folds_of_ipce_an_epoch_is_chosen_on_a_part_of_the_training_prompts(ipce_options):
    trained = ipce_options | {'train': ipce_options['train'] | {'total_iter': 5}}
    assert fold_columns('ipce', trained)['10'] == 'ipce_val_split_10'
    # without validation the last network counts, so that nothing is chosen
    unvalidated = trained | {'datasets': {'train': trained['datasets']['train']}}
    assert fold_columns('ipce', unvalidated)['10'] == 'ipce_split_10'


def test_the_folds_of_ipce_are_of_agiqa_3k_alone(fitted_options):
    with pytest.raises(ValueError, match=r'data\.csv is not the table of AGIQA-3K'):
        fold_columns('ipce', fitted_options)
