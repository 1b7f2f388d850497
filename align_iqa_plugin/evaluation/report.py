"""The page of cross-validated results (docs/results.md): Markdown tables, made from files of `align-iqa protocol` alone."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

from align_iqa_plugin.evaluation.protocol import SPLIT_KINDS, merged, read_results, recipe

METRICS = ('SRCC', 'PLCC', 'PLCC_fitted', 'KRCC', 'RMSE')

REPORTED = {
    'ipce': [
        'No epoch is chosen on test here: a recipe without a training step is fitted to all 240 prompts, another one chooses',
        'its epoch on a tenth of them. Folds 4 and 5 have the same prompts. Reported by others, mean over these folds:',
        '',
        '| reported | epoch chosen by | mean SRCC / PLCC |',
        '|---|---|---|',
        '| IPCE | best on test, in each fold | .884 / .925 |',
        '| ACL-IQA | best on test, in each fold | .897 / .928 |',
        '',
    ]
}
"""What others report on the folds of a kind of split, as Markdown."""


def results_page(files: Sequence[Path]) -> str:
    """All results as Markdown; files of one recipe and kind of split are merged.

    Raises:
        ValueError: a file is not a results file, or two of them contradict each other.
    """
    groups: dict[str, list[dict]] = {}
    for file in files:
        results = read_results(Path(file))
        groups.setdefault(recipe(results), []).append(results)
    rows = [merged(parts) for parts in groups.values()]
    sections = [_section(kind, [row for row in rows if row['split'] == kind]) for kind in SPLIT_KINDS]
    title = '# Results\n\nWritten by `align-iqa results` from the files of `align-iqa protocol`.\n'
    return '\n'.join([title, *(section for section in sections if section), _provenance(rows)])


def _section(kind: str, rows: Sequence[Mapping]) -> str:
    rows = [row for row in rows if row['folds']]
    if not rows:
        return ''
    lines = [f'## {SPLIT_KINDS[kind][0].upper()}{SPLIT_KINDS[kind][1:]}', '']
    if kind == 'generator':
        return '\n'.join([*lines, *_generator_table(rows), ''])
    # medians over different folds cannot be compared; differences on the same folds can
    reference = max(rows, key=lambda row: len(row['folds']))
    lines += [
        'Median over the folds (lowest to highest) on test, measured here. Difference: of SRCC to '
        f'`{reference["name"]}`, mean over the folds that both have (lowest to highest). The paper does not state the split '
        'of its numbers.',
        '',
        '| row | folds | SRCC | difference | PLCC | PLCC fitted | KRCC | RMSE | mean SRCC / PLCC | n a fold '
        '| SRCC / PLCC reported |',
        '|---' * 11 + '|',
    ]
    compared = {fold: numbers['test'] for fold, numbers in reference['folds'].items()}
    floors: dict[str, dict] = {}
    for row in rows:
        tests = {fold: numbers['test'] for fold, numbers in row['folds'].items()}
        lines.append(_row(row['name'], tests, {} if row is reference else compared, row['options'].get('paper')))
        floors |= {fold: numbers['generator_floor'] for fold, numbers in row['folds'].items() if 'generator_floor' in numbers}
    if floors:
        lines.append(_row("floor: the generator's mean score, no pixel read", floors, compared, None))
    lines += [
        '',
        *REPORTED.get(kind, []),
        f'`{reference["name"]}`, fold by fold:',
        '',
        '| fold | SRCC | PLCC | PLCC fitted | KRCC | RMSE | n |',
    ]
    lines.append('|---' * 7 + '|')
    for fold, numbers in reference['folds'].items():
        values = [_number(numbers['test'][metric]) for metric in METRICS]
        lines.append(f'| {fold} | {" | ".join(values)} | {numbers["test"]["n"]} |')
    return '\n'.join([*lines, ''])


def _row(name: str, tests: Mapping[str, Mapping], compared: Mapping[str, Mapping], paper: Mapping | None) -> str:
    cells = []
    for metric in METRICS:
        values = [numbers[metric] for numbers in tests.values() if numbers[metric] is not None]
        spread = (
            f' ({_number(min(values))} to {_number(max(values))})' if len(values) > 1 and metric in ('SRCC', 'PLCC') else ''
        )
        cells.append(f'{_number(median(values))}{spread}' if values else 'no fit')
    cells.insert(1, _difference(tests, compared))
    cells.append(' / '.join(_mean(tests, metric) for metric in ('SRCC', 'PLCC')))
    images = sorted(numbers['n'] for numbers in tests.values())
    counts = f'{images[0]}' if images[0] == images[-1] else f'{images[0]} to {images[-1]}'
    reported = f'{_number(paper["SRCC"], 3)} / {_number(paper["PLCC"], 3)}' if paper else ''
    return f'| {name} | {_folds(list(tests))} | {" | ".join(cells)} | {counts} | {reported} |'


def _mean(tests: Mapping[str, Mapping], metric: str) -> str:
    values = [numbers[metric] for numbers in tests.values() if numbers[metric] is not None]
    return _number(mean(values) if values else None)


def _difference(tests: Mapping[str, Mapping], compared: Mapping[str, Mapping]) -> str:
    values = [
        numbers['SRCC'] - compared[fold]['SRCC']
        for fold, numbers in tests.items()
        if fold in compared and None not in (numbers['SRCC'], compared[fold]['SRCC'])
    ]
    if not values:
        return ''
    texts = [_number(value, sign='+') for value in (mean(values), min(values), max(values))]
    return texts[0] + (f' ({texts[1]} to {texts[2]})' if len(values) > 1 else '')


def _generator_table(rows: Sequence[Mapping]) -> list[str]:
    generators = list(dict.fromkeys(name for row in rows for name in row['folds']))
    lines = [
        'SRCC within the generator that was left out, measured here; the mean where all generators were.',
        '',
        f'| row | {" | ".join(generators)} | mean SRCC | mean PLCC |',
        '|---' * (len(generators) + 3) + '|',
    ]
    for row in rows:
        tests = {name: numbers['test'] for name, numbers in row['folds'].items()}
        cells = [_number(tests[name]['SRCC']) if name in tests else '' for name in generators]
        complete = len(tests) == len(generators)
        means = [_number(mean(test[metric] for test in tests.values())) if complete else '' for metric in ('SRCC', 'PLCC')]
        lines.append(f'| {row["name"]} | {" | ".join(cells + means)} |')
    return lines


def _provenance(rows: Sequence[Mapping]) -> str:
    folds = [numbers for row in rows for numbers in row['folds'].values()]
    lines = ['## Measured with', '']
    for title, values in {
        'data, SHA-256 of labels and images': [numbers['data_sha256'] for numbers in folds],
        'seed': [numbers['seed'] for numbers in folds],
        'hardware': [numbers['environment']['hardware'] for numbers in folds],
        'versions': [
            ', '.join(f'{k} {v}' for k, v in numbers['environment'].items() if k not in ('hardware', 'command'))
            for numbers in folds
        ],
    }.items():
        lines.append(f'- {title}: {"; ".join(dict.fromkeys(map(str, values)))}')
    lines.append('- commands:')
    # the folders of the machine are of no use to a reader
    commands = dict.fromkeys(re.sub(r'(?<=[\s=])/\S+/', '', numbers['environment']['command']) for numbers in folds)
    return '\n'.join([*lines, *(f'  - `{command}`' for command in commands), ''])


def _folds(names: list[str]) -> str:
    """'1-10' for consecutive numbers, else the names."""
    if all(name.isdecimal() for name in names):
        numbers = sorted(map(int, names))
        if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f'{numbers[0]} to {numbers[-1]}'
    return ', '.join(names)


def _number(value: float | None, digits: int = 4, sign: str = '') -> str:
    """.8765 for 0.8765, as in the field's tables."""
    if value is None:
        return 'no fit'
    text = f'{value:{sign}.{digits}f}'
    return text.replace('0.', '.', 1) if abs(value) < 1 else text
