"""What the page and the terminal show of the behaviour of metrics, and the same numbers as CSV."""

import math
from collections.abc import Iterator, Mapping

from align_iqa_plugin.compare.report.leaderboard import field_form, interval_of, value_of
from align_iqa_plugin.runtime.csv_text import csv_text

PANEL = (240, 170)  # width and height of a panel, in units of its SVG
MARGINS = (30, 8, 8, 22)  # left, right, top, bottom
COLOURS, DASHES = 8, 3  # of lines, as the style of the page has them


def behaviour_view(behaviour: Mapping) -> dict:
    """What the template is given, as plain data.

    Args:
        behaviour: of one data set, of `compare.behaviour.summarise_behaviour`.
    """
    metrics = behaviour['metrics']
    first = next(iter(metrics.values()))
    return {
        'images': behaviour['n'],
        'kinds': [kind for kind in first['monotone'] if kind != 'all'],
        'pictures': list(first['percentiles']),
        'changes': list(first['changes']),
        'rows': [_row(metric, numbers) for metric, numbers in metrics.items()],
        'change_rows': [row for metric, numbers in metrics.items() for row in _change_rows(metric, numbers)],
        'panels': _panels(metrics),
        'panel_size': PANEL,
        'legend': [(metric, line_class(place)) for place, metric in enumerate(metrics)],
        'failures': behaviour['failures'],
    }


def line_class(place: int) -> str:
    """Colour and dashes of the line of a metric, by its place."""
    return f'colour-{place % COLOURS} dashes-{place // COLOURS % DASHES}'


def _row(metric: str, numbers: Mapping) -> dict:
    monotone, ends = numbers['monotone'], interval_of(numbers['monotone']['all'])
    return {
        'metric': metric,
        'note': 'lower is better' if numbers['lower_better'] else '',
        'all': percent(monotone['all']['value']),
        'interval': f'{ends[0] * 100:.0f} to {ends[1] * 100:.0f} %' if ends else '',
        'kinds': [percent(estimate['value']) for kind, estimate in monotone.items() if kind != 'all'],
        'pictures': [percent(share) for share in numbers['percentiles'].values()],
        'failed': monotone['all']['failed'],
    }


def _change_rows(metric: str, numbers: Mapping) -> Iterator[dict]:
    """Mean change and mean absolute change in standard deviations, then in units of the metric."""
    changes = numbers['changes'].values()
    spread = numbers['spread']
    yield {
        'metric': metric,
        'unit': 'SD',
        'cells': [_change(change['mean'], change['absolute'], lambda value: field_form(value, 2)) for change in changes],
    }
    yield {
        'metric': metric,
        'unit': 'raw' if spread is None else f'raw, SD {spread:.3g}',
        'cells': [_change(change['raw_mean'], change['raw_absolute'], '{:.2g}'.format) for change in changes],
    }


def percent(share: float | None) -> str:
    """'86 %' for .86; a dash where it is undefined."""
    return '–' if share is None else f'{share * 100:.0f} %'


def _change(mean: float | None, absolute: float | None, form) -> str:
    if mean is None or absolute is None:
        return '–'
    return f'{"−" if mean < 0 else "+"}{form(abs(mean))} ({form(absolute)})'


def _panels(metrics: Mapping[str, Mapping]) -> list[dict]:
    """A small chart of each kind: a line a metric, from the images themselves (level 0) to the last level."""
    values = [value for row in metrics.values() for line in row['levels'].values() for value in line if value is not None]
    low, high = min([*values, -1.0]), max([*values, 0.5])
    step = _step(high - low)
    width, height = PANEL
    left, right, top, bottom = MARGINS

    def y(value: float) -> float:
        return round(top + (high - value) / (high - low) * (height - top - bottom), 1)

    panels = []
    for kind in next(iter(metrics.values()))['levels']:
        lines = {metric: row['levels'][kind] for metric, row in metrics.items()}
        last = max(len(line) for line in lines.values()) - 1
        places = [round(left + level / last * (width - left - right), 1) for level in range(last + 1)]
        panels.append(
            {
                'kind': kind,
                'grid': [(y(tick * step), f'{tick * step:g}'.replace('-', '−')) for tick in _ticks(low, high, step)],
                'levels': list(enumerate(places)),
                'lines': [
                    (metric, line_class(place), ' '.join(f'{x},{y(value)}' for x, value in zip(places, line, strict=True)))
                    for place, (metric, line) in enumerate(lines.items())
                    if None not in line
                ],
                'label': f'{kind}: ' + '; '.join(f'{metric} {_ends(line)}' for metric, line in lines.items()),
            }
        )
    return panels


def _step(span: float) -> float:
    """Distance of grid lines: 1, 2 or 5 times a power of 10, for at most 9 of them."""
    power = 10 ** math.floor(math.log10(span / 8))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * 8 >= span)


def _ticks(low: float, high: float, step: float) -> range:
    return range(math.ceil(low / step), math.floor(high / step) + 1)


def _ends(line: list) -> str:
    return 'is undefined' if None in line else f'from {line[0]:.2f} to {line[-1]:.2f}'


def behaviour_csv(summary: Mapping) -> str:
    """A row for each number: dataset, metric, measure, what it is of, level, value, and of shares the interval and counts."""
    rows = [['dataset', 'metric', 'measure', 'of', 'level', 'value', 'low', 'high', 'n', 'failed']]
    for name, dataset in summary['datasets'].items():
        for metric, numbers in dataset.get('behaviour', {'metrics': {}})['metrics'].items():
            rows += [[name, metric, *cells] for cells in _cells(numbers)]
    return csv_text(rows)


def _cells(numbers: Mapping) -> Iterator[list]:
    for kind, share in numbers['monotone'].items():
        yield ['monotone share', kind, '', share['value'], share['low'], share['high'], share['n'], share['failed']]
    for kind, line in numbers['levels'].items():
        for level, value in enumerate(line):
            yield ['mean score, SD', kind, level, value, '', '', '', '']
    for change, cell in numbers['changes'].items():
        for key, measure in CHANGE_MEASURES.items():
            yield [measure, change, '', cell[key], '', '', cell['n'], cell['failed']]
    for picture, share in numbers['percentiles'].items():
        yield ['share of images that score worse', picture, '', value_of(share), '', '', '', '']


CHANGE_MEASURES = {
    'mean': 'mean change, SD',
    'absolute': 'mean absolute change, SD',
    'raw_mean': 'mean change, raw',
    'raw_absolute': 'mean absolute change, raw',
}
