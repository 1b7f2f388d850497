import base64
import csv
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import align_iqa_plugin
from align_iqa_plugin.compare.behaviour import summarise_behaviour
from align_iqa_plugin.compare.report import explorer, page
from align_iqa_plugin.compare.report.behaviour import behaviour_csv, behaviour_view
from align_iqa_plugin.compare.report.leaderboard import efficiency_csv, field_form, leaderboard_csv, leaderboard_markdown
from align_iqa_plugin.compare.report.page import write_page

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} </script> & 'quoted'"
PROVENANCE = {
    'hardware': '2 cores of Some Xeon',
    'command': "align-iqa compare 'a & b' <folder>",
    'seed': 0,
    'data, SHA-256': 'ab' * 32,
    'versions': {'torch': '2.5.1', 'pyiqa': '0.1.16'},
}


def score_table(images, mos, *, dataset='set a', prompts, generators, metrics, seed=0):
    """A score table of made-up metrics; each is MOS and noise. `metrics`: {name: (noise, lower is better)}."""
    random = np.random.default_rng(seed)
    rows = []
    for metric, (noise, lower_better) in metrics.items():
        scores = (np.array(mos) + random.normal(0, noise, len(images))) * (-1 if lower_better else 1)
        for path, each, prompt, generator, score in zip(images, mos, prompts, generators, scores, strict=True):
            row = {'dataset': dataset, 'metric': metric, 'image': path.name, 'path': str(path), 'sha256': '0' * 64}
            row |= {'prompt': prompt, 'prompt_id': '', 'generator': generator, 'style': '', 'mos': each, 'mos_std': np.nan}
            row |= {'mos_align': np.nan, 'score': score, 'reason': '', 'lower_better': lower_better, 'uses_prompt': False}
            rows.append({**row, 'shuffled_score': np.nan, 'seconds': np.nan, 'std': np.nan})
    return pd.DataFrame(rows)


def metric_table(metrics, **missing):
    rows = [
        {'metric': metric, 'available': True, 'reason': '', 'device': 'cpu', 'seconds': 0.01 * 1.7**place, 'peak_mb': 512.0}
        for place, metric in enumerate(metrics)
    ]
    rows += [
        {'metric': metric, 'available': False, 'reason': reason, 'device': '', 'seconds': np.nan, 'peak_mb': np.nan}
        for metric, reason in missing.items()
    ]
    further = {'score_range': '~0, ~1', 'decode_seconds': 0.004, 'options': '{}', 'weights_sha256': 'c0ffee' * 10}
    return pd.DataFrame(rows).assign(**further, code_version='0.1.16')


def estimate(value, spread=0.03, highest=1.0):
    if value is None or not np.isfinite(value):
        return {'value': None, 'low': None, 'high': None}
    return {'value': float(value), 'low': float(value) - spread, 'high': min(highest, float(value) + spread)}


def noise_of(scores, mos):
    return np.sqrt(np.mean((scores - mos) ** 2))


def summary_of(scores):
    """A summary of the form that the page is given, of real correlations and made-up intervals."""
    datasets = {}
    for dataset, of_dataset in scores.groupby('dataset', sort=False):
        metrics = {}
        for metric, rows in of_dataset.groupby('metric', sort=False):
            known = rows[rows['score'].notna()]
            lower_better = bool(rows['lower_better'].iloc[0])
            signed = known['score'] * (-1 if lower_better else 1)

            def srcc(part, signed=signed):
                return stats.spearmanr(signed[part.index], part['mos']).statistic if len(part) > 2 else np.nan

            metrics[metric] = {
                **{'n': len(known), 'failures': len(rows) - len(known), 'lower_better': lower_better},
                'srcc': estimate(srcc(known)),
                'plcc': estimate(stats.pearsonr(signed, known['mos']).statistic),
                'plcc_fitted': estimate(stats.pearsonr(signed, known['mos']).statistic),
                'krcc': estimate(stats.kendalltau(signed, known['mos']).statistic),
                'rmse': estimate(None if lower_better else noise_of(signed, known['mos']), highest=9.0),
                'pairwise': {**estimate(0.95 - noise_of(signed, known['mos']) / 10), 'pairs': 100},
                'regret': estimate(noise_of(signed, known['mos']) / 3),
                'system': {'value': 0.9, 'generators': 3},
                'align_srcc': estimate(None),
                'shuffled_srcc': None,
                'p_vs_best': 0.02,
                'strata': {
                    'generator': {
                        name: {'n': len(part), 'srcc': None if np.isnan(srcc(part)) else float(srcc(part))}
                        for name, part in known.groupby('generator')
                    },
                    'style': {},
                    'prompt_length': {},
                },
            }
        order = sorted(metrics, key=lambda metric: -metrics[metric]['srcc']['value'])
        for rank, metric in enumerate(order, 1):
            metrics[metric] |= {'rank': rank, 'group': 'abcdefghij'[(rank - 1) // 2]}
        metrics[order[0]]['p_vs_best'] = None
        n = of_dataset['image'].nunique()
        datasets[dataset] = {'n': n, 'axis': 'quality', 'noise': {}, 'metrics': metrics, 'best': order[0]}
    return {'datasets': datasets, 'seed': 0, 'resamples': 1000}


def painted(folder, count, size=256):
    """Pictures that differ: a colour of its own each, and noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    paths = []
    for number in range(count):
        colour = random.integers(30, 225, 3)
        pixels = np.kron(random.integers(-30, 30, (16, 16, 3)), np.ones((size // 16, size // 16, 1))) + colour
        paths.append(folder / f'image_{number:04}.png')
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], compress_level=1)
    return paths


METRICS = {'good': (0.2, False), 'middling': (0.8, False), 'reversed': (0.5, True), 'poor': (4.0, False)}


def behaviour_of(copy_table, metrics, images, dataset='set a'):
    """Metrics that fall by known amounts, each more than the one before; the second is constant, the third fails once."""

    def score(place):
        def of_copy(image, copy, level):
            if place == 2 and (copy, level) == ('jpeg', 2) and image == images[0]:
                return np.nan
            rise = {'noise': 0.3, 'contrast': 0.0}.get(copy, -0.4 * (1 + place))
            fine = 5 + len(image) + images.index(image) % 7 if image else 3
            return 1.0 if place == 1 else fine + rise * level - 0.1 * (copy == 'flip')

        return of_copy

    copies = [copy_table(images, score(place), metric=metric, dataset=dataset) for place, metric in enumerate(metrics)]
    copies = pd.concat(copies, ignore_index=True)
    copies['reason'] = copies['reason'].replace('broke', 'made <i>it</i> fail')
    return summarise_behaviour(copies, copies[copies['copy'] == 'original'], seed=0, resamples=50)


@pytest.fixture(scope='module')
def comparison(tmp_path_factory, copy_table):
    """Arguments of `write_page` for 40 images, 4 metrics and hostile texts."""
    folder = tmp_path_factory.mktemp('images')
    images = painted(folder, 40, size=64)
    random = np.random.default_rng(2)
    prompts = [HOSTILE, *(f'prompt {number // 2}' for number in range(1, 40))]
    generators = ['DALL-E 2', 'GLIDE', '<b>bold</b>', ''] * 10
    mos = random.uniform(0, 5, 40).round(3)
    scores = score_table(images, mos, prompts=prompts, generators=generators, metrics=METRICS)
    failed = (scores['metric'] == 'poor') & scores['image'].isin(['image_0003.png', 'image_0007.png'])
    scores.loc[failed, ['score', 'reason']] = np.nan, 'out of <i>memory</i>'
    metrics = metric_table(METRICS, absent='needs the file <weights.pth>')
    summary = summary_of(scores)
    summary['datasets']['set a']['behaviour'] = behaviour_of(copy_table, METRICS, [path.name for path in images[:9]])
    return {'summary': summary, 'scores': scores, 'metrics': metrics, 'provenance': PROVENANCE}


@pytest.fixture(scope='module')
def written(comparison, tmp_path_factory):
    folder = tmp_path_factory.mktemp('written') / 'new' / 'folder'
    write_page(folder, **comparison)
    return folder


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


# ---------------------------------------------------------------- files


def test_all_files_are_there_and_the_page_links_to_them(written):
    names = {path.name for path in written.iterdir()}
    assert names == {
        *('index.html', 'leaderboard.csv', 'leaderboard.md', 'efficiency.csv', 'behaviour.csv', 'scores.parquet'),
        *(f'{kind}_set_a.{ending}' for kind in ('ranking', 'scatter', 'behaviour') for ending in ('png', 'svg')),
    }
    text = (written / 'index.html').read_text()
    linked = set(re.findall(r'<li><a href="([^"#]+)"', text))
    assert linked == names - {'index.html'}
    for name in names:
        if name.endswith('.png'):
            with Image.open(written / name) as picture:
                assert min(picture.size) > 200
                assert len(picture.convert('RGB').getcolors(2**24)) > 10, 'something is drawn'


def test_the_parquet_file_holds_the_score_table(written, comparison):
    pd.testing.assert_frame_equal(pd.read_parquet(written / 'scores.parquet'), comparison['scores'], check_dtype=False)


def test_the_leaderboard_has_the_form_of_pyiqas_benchmark_files(comparison):
    header, *rows = csv.reader(io.StringIO(leaderboard_csv(comparison['summary'])))
    assert header == ['Metric name', 'set a(PLCC/SRCC/KRCC)']
    assert [row[0] for row in rows] == list(
        pd.Series({name: row['rank'] for name, row in comparison['summary']['datasets']['set a']['metrics'].items()})
        .sort_values()
        .index
    )
    for name, cell in rows:
        numbers = comparison['summary']['datasets']['set a']['metrics'][name]
        expected = [numbers[key]['value'] for key in ('plcc', 'srcc', 'krcc')]
        assert [float(part) for part in cell.split('/')] == pytest.approx(expected, abs=5e-5)


def test_the_leaderboard_keeps_signs_and_leaves_undefined_values_open():
    def row(plcc, srcc, krcc):
        return {'plcc': {'value': plcc}, 'srcc': {'value': srcc}, 'krcc': {'value': krcc}, 'rank': 1}

    summary = {
        'datasets': {'one': {'metrics': {'a': row(-0.5, None, 0.29), 'b': row(None, None, None)}}, 'two': {'metrics': {}}}
    }
    text = leaderboard_csv(summary)
    assert text == 'Metric name,one(PLCC/SRCC/KRCC),two(PLCC/SRCC/KRCC)\na,-0.5/nan/0.29,\nb,,\n'


def test_efficiency_has_a_column_a_device_and_no_row_for_what_was_not_timed():
    metrics = metric_table(['slow', 'quick', 'on gpu'], absent='no')
    metrics.loc[0, 'seconds'], metrics.loc[2, 'device'] = 3.0, 'cuda:0'
    header, *rows = csv.reader(io.StringIO(efficiency_csv(metrics, 'Xeon E5, 2 cores')))
    assert header == ['Method', 'cpu_xeon_e5_2_cores', 'cuda_xeon_e5_2_cores', 'Peak GPU Mem (GB)', 'Peak Mem (GB)']
    assert rows == [
        ['quick', '0.017', '', '', '0.512'],
        ['on gpu', '', '0.0289', '0.512', ''],
        ['slow', '3.0', '', '', '0.512'],
    ]


def test_the_markdown_table_survives_names_that_are_markup(comparison):
    summary = json.loads(json.dumps(comparison['summary']))
    numbers = summary['datasets']['set a']['metrics']
    numbers['a|b `c` <img src=x> [link](x)'] = numbers.pop('poor')
    lines = [line for line in leaderboard_markdown(summary).splitlines() if line.startswith('|')]
    assert len(lines) == 2 + len(numbers)
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in lines} == {lines[0].count('|')}
    assert '<img' not in ''.join(lines) and '&lt;img' in lines[-1]
    assert re.search(r'\| \.\d{4} \(\.\d{3} to \.?\d{1,2}', lines[2])


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0.8873, '.8873'),
        (-0.5, '-.5000'),
        (1.0, '1.0000'),
        (0.99999, '1.0000'),
        (10.25, '10.2500'),
        (0.0, '.0000'),
        (None, '–'),
    ],
)
def test_numbers_have_the_form_of_the_field(value, text):
    assert field_form(value) == text


def test_every_data_set_gets_a_section_and_files_of_its_own(comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'save_figure', lambda figure, path: path.touch())  # drawn in `written`
    one = comparison['scores'][comparison['scores']['metric'] == 'good']
    scores = pd.concat([one.assign(dataset=name) for name in ('set a', 'Set/A', '../up')], ignore_index=True)
    write_page(tmp_path / 'page', **{**comparison, 'scores': scores, 'summary': summary_of(scores)})
    names = {path.name for path in (tmp_path / 'page').glob('*.png')}
    assert names == {f'{kind}_{end}.png' for kind in ('ranking', 'scatter') for end in ('set_a_1', 'set_a_2', 'up')}
    assert {path.name for path in tmp_path.iterdir()} == {'page'}
    text = (tmp_path / 'page' / 'index.html').read_text()
    assert text.count('<section class="dataset"') == 3
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_an_empty_summary_is_refused(comparison, tmp_path):
    with pytest.raises(ValueError, match='no data set'):
        write_page(tmp_path / 'page', **{**comparison, 'summary': {'datasets': {}}})
    assert not (tmp_path / 'page').exists()


# ---------------------------------------------------------------- behaviour


def test_the_behaviour_file_has_a_row_for_each_number(comparison):
    table = pd.read_csv(io.StringIO(behaviour_csv(comparison['summary'])), keep_default_na=False)
    table = table.set_index(['metric', 'measure', 'of', 'level'])['value']
    behaviour = comparison['summary']['datasets']['set a']['behaviour']['metrics']['good']
    assert float(table['good', 'monotone share', 'blur', '']) == behaviour['monotone']['blur']['value'] == 1
    assert float(table['good', 'mean score, SD', 'blur', '4']) == behaviour['levels']['blur'][4]
    assert float(table['good', 'mean change, raw', 'flip', '']) == pytest.approx(-0.1)
    assert float(table['good', 'share of images that score worse', 'black', '']) == 0
    assert table['middling', 'mean change, SD', 'flip', ''] == '', 'undefined'
    assert len(table) == 4 * (6 + 5 * 5 + 9 * 4 + 3)


def test_the_page_shows_shares_changes_and_failed_copies(written):
    text = (written / 'index.html').read_text()
    section = text[text.index('Behaviour without ratings') : text.index('<h3>Images without a score')]
    (row,) = re.findall(r'<tr><th scope="row" class="name">good</th>(.*?)</tr>', section, re.S)[:1]
    # blur, jpeg and resize of five kinds
    assert re.findall(r'>([^<]+ %|–)<', row) == ['60 %', '60 to 60 %', *('100 %', '100 %', '0 %', '100 %', '0 %'), *['0 %'] * 3]
    assert '(0.1)' in section and '−0.1' in section
    assert 'image_0000.png, jpeg 2' in section and html.escape('made <i>it</i> fail') in section
    assert section.count('<polyline') == 3 * 5, 'a line for each metric whose scores differ, in each panel'
    assert 'reversed (turned over)' not in section and 'nan' not in section


def test_lines_of_better_scores_stand_higher_and_grid_lines_are_few(comparison):
    view = behaviour_view(comparison['summary']['datasets']['set a']['behaviour'])
    assert [panel['kind'] for panel in view['panels']] == ['blur', 'jpeg', 'noise', 'resize', 'contrast']
    width, height = view['panel_size']
    for panel in view['panels']:
        assert 3 <= len(panel['grid']) <= 9 and '0' in [text for _, text in panel['grid']]
        for _, _, points in panel['lines']:
            places = [tuple(map(float, point.split(','))) for point in points.split()]
            assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
            heights = [-y for _, y in places]
            rising = {'noise': sorted(heights), 'contrast': [heights[0]] * 5}.get(panel['kind'], sorted(heights)[::-1])
            assert heights == rising
    assert len({line for _, line in view['legend']}) == 4


def test_a_page_without_copies_has_no_section_and_no_file_for_them(comparison):
    summary = json.loads(json.dumps(comparison['summary']))
    del summary['datasets']['set a']['behaviour']
    text = page.page_html(summary, comparison['scores'], comparison['metrics'], PROVENANCE)
    assert 'Behaviour' not in text and '<polyline' not in text


# ---------------------------------------------------------------- the page as text


def test_texts_of_the_data_never_become_markup(written):
    text = (written / 'index.html').read_text()
    assert data_of(text)[0]['images'][0]['prompt'] == HOSTILE, 'and nothing of them is lost'
    for tag in ('<script>alert', '<img src=x', '<b>bold', '<i>memory', '<weights', '<folder>'):
        assert tag not in text
    for shown in ('out of <i>memory</i>', 'needs the file <weights.pth>', '<b>bold</b>'):
        assert html.escape(shown) in text
    assert text.count('<script') == 2


def test_the_page_asks_nothing_of_a_network_and_forbids_it(written):
    text = (written / 'index.html').read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; img-src data:; ") and 'unsafe' not in policy
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert not re.search(r'url\(|@import', text)


def test_undefined_values_are_dashes_and_sort_as_nothing(written):
    text = (written / 'index.html').read_text()
    (row,) = re.findall(r'<tr data-metric="reversed">(.*?)</tr>', text, re.S)
    assert re.search(r'data-sort=""><span class="value">–</span>', row)
    assert 'lower is better' in row
    assert not re.search(r'>\s*(nan|None|inf)\b', text)


def test_disagreements_are_the_largest_differences_of_ranks(written, comparison):
    (data,) = data_of((written / 'index.html').read_text())
    for metric in data['metrics']:
        rows = comparison['scores'][comparison['scores']['metric'] == metric['name']].dropna(subset='score')
        sign = -1 if metric['name'] == 'reversed' else 1
        excess = ((rows['score'] * sign).rank() - rows['mos'].rank()).set_axis(rows['image'])
        worst = [data['images'][index]['name'] for index in metric['high']]
        assert list(excess[worst]) == sorted(excess, reverse=True)[: len(worst)]
        worst = [data['images'][index]['name'] for index in metric['low']]
        assert list(excess[worst]) == sorted(excess)[: len(worst)]
        for index, image in enumerate(data['images']):
            scored = image['name'] in set(rows['image'])
            assert (metric['scores'][index] is not None) == (metric['ranks'][index] is not None) == scored


def test_deviations_and_ties_within_a_prompt_are_shown_of_the_metric_that_states_them(comparison):
    scores = comparison['scores'].copy()
    good = scores['metric'] == 'good'
    images = ['image_0002.png', 'image_0003.png', 'image_0004.png', 'image_0005.png']  # two of each prompt
    for image, score in zip(images, [1.0, 1.4, 1.0, 3.0], strict=True):
        scores.loc[good & (scores['image'] == image), 'score'] = score
    scores.loc[good, 'std'] = 0.3
    text = page.page_html(comparison['summary'], scores, comparison['metrics'], PROVENANCE)
    (data,) = data_of(text)
    metrics = {metric['name']: metric for metric in data['metrics']}
    ties = {image['name']: count for image, count in zip(data['images'], metrics['good']['ties'], strict=True)}
    assert [ties[image] for image in images] == [1, 1, 0, 0]
    assert set(metrics['good']['std']) == {0.3} and metrics['poor']['std'] is None is metrics['poor']['ties']
    assert 'standard deviation of its error' in text


def test_a_page_without_deviations_says_nothing_of_ties(comparison):
    text = page.page_html(comparison['summary'], comparison['scores'], comparison['metrics'], PROVENANCE)
    assert 'are tied where' not in text


def test_pictures_are_small_and_the_ones_that_cannot_be_read_are_counted(comparison, tmp_path):
    scores = comparison['scores'].copy()
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'\x89PNG no')
    scores.loc[scores['image'] == 'image_0001.png', 'path'] = str(broken)
    scores.loc[scores['image'] == 'image_0002.png', 'path'] = str(tmp_path / 'absent.png')
    text = page.page_html(comparison['summary'], scores, comparison['metrics'], PROVENANCE)
    assert '2 pictures could not be read' in text
    images = {image['name']: image for image in data_of(text)[0]['images']}
    assert 'no_picture' in images['image_0001.png'] and 'no_picture' in images['image_0002.png']
    with Image.open(io.BytesIO(base64.b64decode(images['image_0000.png']['picture'].partition(',')[2]))) as picture:
        assert picture.format == 'JPEG' and max(picture.size) <= explorer.PICTURE_SIDE


def test_of_many_images_the_page_shows_a_stated_part_with_all_disagreements(comparison, monkeypatch):
    whole = data_of(page.page_html(comparison['summary'], comparison['scores'], comparison['metrics'], PROVENANCE))[0]
    monkeypatch.setattr(explorer, 'MAX_POINTS', 30)
    monkeypatch.setattr(page, 'MAX_PICTURES', 10)
    monkeypatch.setattr(explorer, 'CARDS', 2)
    text = page.page_html(comparison['summary'], comparison['scores'], comparison['metrics'], PROVENANCE)
    (data,) = data_of(text)
    assert len(data['images']) <= 30
    assert sum('picture' in image for image in data['images']) == 10
    assert f'{len(data["images"])} of 40 images are shown' in text
    assert f'the pictures of 10 of {len(data["images"])} images' in text
    for few, all_of_them in zip(data['metrics'], whole['metrics'], strict=True):
        worst = [whole['images'][index]['name'] for index in all_of_them['high'][:2]]
        assert [data['images'][index]['name'] for index in few['high']] == worst
        assert 'picture' in data['images'][few['high'][0]], 'the worst of each metric has its picture'


def test_an_image_that_the_labels_name_twice_is_two_points(comparison):
    scores = comparison['scores']
    again = scores[scores['image'] == 'image_0005.png'].assign(prompt='another prompt', mos=0.5)
    text = page.page_html(
        comparison['summary'], pd.concat([scores, again], ignore_index=True), comparison['metrics'], PROVENANCE
    )
    images = data_of(text)[0]['images']
    assert {image['prompt'] for image in images if image['name'] == 'image_0005.png'} == {'prompt 2', 'another prompt'}


def sample_comparison():
    folder = Path(align_iqa_plugin.__file__).parent / 'samples'
    table = pd.read_csv(folder / 'samples.csv', dtype={'prompt': str}, keep_default_na=False)
    names = ['align_iqa', 'clipiqa+', 'topiq_nr', 'niqe', 'brisque']
    scores = score_table(
        [folder / name for name in table['name']],
        table['mos_quality'].round(4).tolist(),
        dataset='samples of AGIQA-3K',
        prompts=table['prompt'],
        generators=table['generator'],
        metrics=dict(zip(names, [(0.3, False), (0.6, False), (0.9, False), (1.2, True), (2.0, True)], strict=True)),
    )
    return {'summary': summary_of(scores), 'scores': scores, 'metrics': metric_table(names), 'provenance': PROVENANCE}


def large_comparison(folder, images=600, metrics=20):
    names = [f'metric_{place}' + '-koniq' * (place % 3 == 0) for place in range(metrics)]
    random = np.random.default_rng(4)
    paths = painted(folder, images)
    noises = {name: (0.2 + 0.25 * place, place % 4 == 3) for place, name in enumerate(names)}
    generators = ['AttnGAN', 'DALL-E 2', 'GLIDE', 'Midjourney', 'Stable Diffusion 1.5', 'Stable Diffusion XL']
    scores = score_table(
        paths,
        random.beta(2, 2, images).round(4) * 5,
        dataset='agiqa3k',
        prompts=[f'a picture of the number {number // 4}, warm color, close-up, realistic style' for number in range(images)],
        generators=[generators[number % 6] for number in range(images)],
        metrics=noises,
    )
    scores.loc[(scores['metric'] == 'metric_7') & (scores.index % 50 == 0), ['score', 'reason']] = np.nan, 'too small'
    table = metric_table(names, **{'qalign': 'needs 15 GB of weights: huggingface.co/q-future/one-align'})
    return {'summary': summary_of(scores), 'scores': scores, 'metrics': table, 'provenance': PROVENANCE}


def test_the_page_of_the_twelve_samples_is_under_three_megabytes():
    text = page.page_html(**sample_comparison())
    assert len(text) < 3e6
    assert sum('picture' in image for image in data_of(text)[0]['images']) == 12


def test_the_page_says_how_many_images_the_packaged_model_was_fitted_to(monkeypatch):
    given = sample_comparison()
    assert 'was fitted to' not in page.page_html(**given)
    seen = given['scores']['image'].unique()[:3]
    given['scores'].loc[given['scores']['image'].isin(seen), 'sha256'] = 'ab' * 32
    monkeypatch.setattr('align_iqa_plugin.data.training_images._known', lambda: {('ab' * 32)[:16]})
    text = page.page_html(**given)
    assert text.count('was fitted to 3 of these images') == 1  # and no other metric was


@pytest.mark.slow
def test_the_page_of_600_images_and_20_metrics_is_under_15_megabytes(tmp_path):
    write_page(tmp_path / 'page', **large_comparison(tmp_path / 'images'))
    assert (tmp_path / 'page' / 'index.html').stat().st_size < 15e6


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    """A function that opens a page in headless Chromium, `width` pixels wide, in a colour scheme, and returns the driver."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed: pip install selenium')
    program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    driver_program = shutil.which('chromedriver')
    if not program or not driver_program:
        pytest.skip('no Chromium with its chromedriver on this machine')
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (
        *('headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking'),
        *('disable-component-update', 'disable-sync', f'user-data-dir={tmp_path_factory.mktemp("profile")}'),
    ):
        options.add_argument(f'--{option}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    service = webdriver.ChromeService(executable_path=driver_program)
    driver = webdriver.Chrome(options=options, service=service)

    def open_page(folder, width=1280, scheme='light'):
        size = {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': width < 500}
        driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
        features = [{'name': 'prefers-color-scheme', 'value': scheme}]
        driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
        for kind in ('browser', 'performance'):
            driver.get_log(kind)  # forgets those of the page before
        driver.get((folder / 'index.html').as_uri())
        return driver

    yield open_page
    driver.quit()


def press(driver, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def column_of(driver, header):
    """What the visible rows of the ranking show below a header, from top to bottom."""
    return driver.execute_script(
        """const table = document.querySelector('table.ranking');
        const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.innerText.trim().startsWith(arguments[0]));
        const rows = [...table.tBodies[0].rows].filter((row) => row.checkVisibility());
        return rows.map((row) => row.cells[column].innerText.split('\\n')[0]);""",
        header,
    )


def header_button(driver, title):
    return next(button for button in driver.find_elements('css selector', 'table.ranking th button') if button.text == title)


def detail_of(driver):
    return driver.execute_script(
        """const detail = document.querySelector('aside.detail');
        return [detail.querySelector('img')?.src, detail.querySelector('.prompt').textContent];"""
    )


def test_a_click_on_a_header_sorts_and_undefined_values_stay_last(chromium, written):
    driver = chromium(written)
    assert column_of(driver, 'Rank') == ['1', '2', '3', '4']
    button = header_button(driver, 'RMSE')
    orders = []
    for expected in ('ascending', 'descending'):
        button.click()
        assert button.find_element('xpath', '..').get_attribute('aria-sort') == expected
        assert len(driver.find_elements('css selector', 'th[aria-sort]')) == 1
        values = column_of(driver, 'RMSE')
        assert values[-1] == '–'
        orders.append([float(value) for value in values[:-1]])
    assert orders[0] == sorted(orders[0]) and orders[1] == sorted(orders[0], reverse=True)
    header_button(driver, 'Metric').click()
    names = column_of(driver, 'Metric')
    assert names == sorted(names)


def test_the_keyboard_sorts_by_enter_and_by_space(chromium, written):
    from selenium.webdriver.common.keys import Keys

    driver = chromium(written)
    driver.execute_script('arguments[0].focus()', header_button(driver, 'Rank'))
    press(driver, Keys.TAB, Keys.TAB)
    assert driver.switch_to.active_element.text == 'SRCC', 'Tab goes from header to header'
    press(driver, Keys.ENTER)
    assert column_of(driver, 'Rank') == ['1', '2', '3', '4']
    press(driver, Keys.SPACE)
    assert column_of(driver, 'Rank') == ['4', '3', '2', '1']


def test_the_filter_leaves_the_rows_that_contain_a_text(chromium, written):
    driver = chromium(written)
    field = driver.find_element('css selector', 'input.filter')
    field.send_keys('OO')
    assert sorted(column_of(driver, 'Metric')) == ['good', 'poor']
    assert driver.find_element('css selector', '.count').text == '2 of 4 metrics'
    header_button(driver, 'Rank').click()
    assert len(column_of(driver, 'Metric')) == 2, 'sorting keeps the filter'
    field.clear()
    field.send_keys('lower is')
    assert column_of(driver, 'Metric') == ['reversed']


def test_pointing_at_a_dot_shows_its_image_and_its_prompt(chromium, written):
    from selenium.webdriver import ActionChains

    driver = chromium(written)
    (data,) = data_of((written / 'index.html').read_text())
    plot = driver.find_element('css selector', '.scatter')
    driver.execute_script('arguments[0].scrollIntoView({block: "center"})', plot)
    # the lowest and the highest MOS stand alone at the edges
    by_mos = sorted((image['mos'], index) for index, image in enumerate(data['images']))
    shown = []
    for _, index in (by_mos[0], by_mos[-1]):
        image = data['images'][index]
        dots = driver.find_elements('css selector', '.scatter .point')
        (dot,) = (dot for dot in dots if dot.get_attribute('aria-label').startswith(f'{image["name"]},'))
        ActionChains(driver).move_to_element(dot).perform()
        shown.append(detail_of(driver))
        assert shown[-1] == [image['picture'], image['prompt']]
    assert shown[0] != shown[1]


def test_the_arrow_keys_go_from_dot_to_dot_and_show_each_image(chromium, written):
    from selenium.webdriver.common.keys import Keys

    driver = chromium(written)
    (data,) = data_of((written / 'index.html').read_text())
    driver.execute_script('document.querySelector("select.mark").focus()')
    press(driver, Keys.TAB)
    assert driver.switch_to.active_element.get_attribute('role') == 'option'
    press(driver, Keys.HOME)
    seen = []
    for _ in data['images']:
        focused = driver.switch_to.active_element.get_attribute('aria-label')
        (image,) = (image for image in data['images'] if focused.startswith(f'{image["name"]},'))
        assert detail_of(driver) == [image['picture'], image['prompt']]
        seen.append(image['mos'])
        press(driver, Keys.ARROW_RIGHT)
    assert seen == sorted(image['mos'] for image in data['images']), 'every image, from the lowest MOS to the highest'
    selected = driver.find_elements('css selector', '.scatter [aria-selected=true]')
    assert len(selected) == 1 and selected[0] == driver.switch_to.active_element


def test_choosing_a_metric_shows_its_dots_and_its_disagreements(chromium, written):
    from selenium.webdriver.common.keys import Keys

    driver = chromium(written)
    (data,) = data_of((written / 'index.html').read_text())
    driver.execute_script('document.querySelector(".metrics input:checked").focus()')
    for metric in (*data['metrics'][1:], data['metrics'][0]):
        press(driver, Keys.ARROW_RIGHT)
        assert driver.find_element('css selector', '.of-metric').text == f'of {metric["name"]}'
        dots = driver.find_elements('css selector', '.scatter .point')
        assert len(dots) == sum(score is not None for score in metric['scores'])
        for side in ('high', 'low'):
            pictures = driver.execute_script(
                'return [...document.querySelectorAll(arguments[0])].map((image) => image.src)', f'.too-{side} img'
            )
            assert pictures == [data['images'][index]['picture'] for index in metric[side]]
    driver.find_element('css selector', 'tr[data-metric="poor"] a').click()
    assert driver.find_element('css selector', '.of-metric').text == 'of poor'


def test_dots_of_better_scores_stand_higher_also_where_low_is_good(chromium, written):
    driver = chromium(written)
    for metric in ('good', 'reversed'):
        driver.find_element('css selector', f'tr[data-metric="{metric}"] a').click()
        places = driver.execute_script(
            """const dots = [...document.querySelectorAll('.scatter .point')];
            return ['cx', 'cy'].map((name) => dots.map((dot) => Number(dot.getAttribute(name))));"""
        )
        assert stats.spearmanr(*places).statistic < -0.8, 'y goes down on a screen'


def test_marking_a_generator_marks_its_images_only(chromium, written, comparison):
    driver = chromium(written)
    select = driver.find_element('css selector', 'select.mark')
    for name in ('<b>bold</b>', 'GLIDE'):
        next(option for option in select.find_elements('css selector', 'option') if option.text == name).click()
        marked = driver.find_elements('css selector', '.scatter .point.marked')
        images = comparison['scores'].query('generator == @name')['image']
        assert {dot.get_attribute('aria-label').partition(',')[0] for dot in marked} == set(images)


def test_the_page_makes_no_request_and_no_error(chromium, written):
    driver = chromium(written, width=390)
    driver.find_element('css selector', 'tr[data-metric="poor"] a').click()
    requests = [json.loads(entry['message'])['message'] for entry in driver.get_log('performance')]
    addresses = [
        request['params']['request']['url'] for request in requests if request['method'] == 'Network.requestWillBeSent'
    ]
    assert any(address.endswith('index.html') for address in addresses), 'the log works'
    assert {address.partition(':')[0] for address in addresses} <= {'file', 'data'}
    assert [address for address in addresses if address.startswith('file') and 'index.html' not in address] == []
    assert driver.get_log('browser') == []
    assert driver.find_elements('css selector', 'img[onerror]') == []


@pytest.mark.parametrize('width', [320, 390, 800])
def test_nothing_but_tables_scrolls_sideways(chromium, written, width):
    driver = chromium(written, width=width)
    driver.execute_script('for (const part of document.querySelectorAll("details")) part.open = true')
    script = 'return [document.documentElement.scrollWidth, document.documentElement.clientWidth]'
    needed, there = driver.execute_script(script)
    assert needed <= there <= width
    assert driver.execute_script('const box = document.querySelector(".scroll"); return box.scrollWidth > box.clientWidth')


CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
for (const part of document.querySelectorAll('details')) part.open = true;
const found = [];
for (const element of document.querySelectorAll('body *')) {
  const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!words || !element.checkVisibility() || element.closest('.hidden, option')) continue;
  let behind = element, ground;
  while ((ground = rgb(getComputedStyle(behind).backgroundColor))[3] === 0) behind = behind.parentElement;
  const style = getComputedStyle(element);
  const ink = rgb(element instanceof SVGElement ? style.fill : style.color);
  const name = element.className.baseVal ?? element.className;
  found.push([ratio(light(ink), light(ground)), name, element.textContent.slice(0, 40)]);
}
return [light(rgb(getComputedStyle(document.body).backgroundColor)), found];
"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_all_texts_have_contrast_in_the_light_and_in_the_dark(chromium, written, scheme):
    driver = chromium(written, scheme=scheme)
    paper, found = driver.execute_script(CONTRASTS)
    assert paper > 0.8 if scheme == 'light' else paper < 0.05
    assert len(found) > 100
    assert [text for text in found if text[0] < 4.5] == []


def test_the_page_without_a_script_still_shows_its_tables(chromium, written):
    driver = chromium(written)
    driver.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', {'value': True})
    driver.refresh()
    driver.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', {'value': False})
    assert 'Without JavaScript' in driver.find_element('css selector', 'noscript').text
    assert column_of(driver, 'Rank') == ['1', '2', '3', '4']
    assert not driver.find_element('css selector', '.scatter').is_displayed()
