"""From the scores of a validation to metrics, and from metrics to the choice of the best network."""

import math
from collections.abc import Mapping, Sequence

from pyiqa.metrics import calculate_metric
from torch import Tensor

from align_iqa_plugin.runtime.names import suggest


def validation_metrics(table: Tensor, further_columns: Sequence[str], metrics: Mapping[str, Mapping]) -> dict[str, float]:
    """Each metric of each score, named 'srcc' for the first score and 'COLUMN srcc' for a further one.

    Args:
        table: scores, targets and whether these exist, side by side, (n, 3 k).
        further_columns: names of the scores after the first.
        metrics: `val.metrics`. A metric of fewer than two targets is NaN.
    """
    scores, targets, mask = table.double().cpu().chunk(3, 1)
    titles = ['', *(f'{column} ' for column in further_columns)][: scores.shape[1]]
    results: dict[str, float] = {}
    for column, title in enumerate(titles):
        rows = mask[:, column].bool()
        pair = [scores[rows, column].numpy(), targets[rows, column].numpy()]
        for metric, options in metrics.items():
            options = {key: value for key, value in options.items() if key != 'better'}
            results[f'{title}{metric}'] = float(calculate_metric(pair, options)) if rows.sum() > 1 else math.nan
    return results


class Selection:
    """Chooses the best network: the first with the best `key_metric` on the validation set `select_on`; NaN is never best.

    Args:
        names: of the validation sets.
        options: `val` of the training file; `select_on` is the first name by default, `key_metric` the first metric.

    Attributes:
        best: what the best network reaches on every set, {set: {metric: {val, iter, better}}}.
        best_iteration: its iteration; -1 where there is none.
        validations_without_improvement: on `select_on`, since the best one.
        latest: metrics of the last validation of every set, {set: (iteration, {metric: value})}.
    """

    def __init__(self, names: Sequence[str], options: Mapping):
        self.best: dict[str, dict[str, dict]] = {}
        self.best_iteration, self.validations_without_improvement = -1, 0
        self.latest: dict[str, tuple[int, dict[str, float]]] = {}
        self.metrics = options.get('metrics') or {}
        if not names or not self.metrics:
            return
        self.select_on = options.get('select_on', names[0])
        self.key_metric = options.get('key_metric') or next(iter(self.metrics))
        if self.select_on not in names:
            raise ValueError(f"val.select_on: unknown validation set '{self.select_on}'{suggest(self.select_on, names)}")
        if self.key_metric not in self.metrics:
            raise ValueError(f"val.key_metric: unknown metric '{self.key_metric}'{suggest(self.key_metric, self.metrics)}")

    def add(self, name: str, iteration: int, values: Mapping[str, float]) -> bool:
        """Note the metrics of one validation; whether its network is the best so far."""
        self.latest[name] = iteration, dict(values)
        is_best = name == self.select_on and self._is_best(values[self.key_metric])
        if is_best:
            self.best, self.best_iteration, self.validations_without_improvement = {}, iteration, 0
        elif name == self.select_on:
            self.validations_without_improvement += 1
        for other, (when, reached) in self.latest.items():
            if when == self.best_iteration:
                self.best[other] = {
                    metric: {'val': value, 'iter': when, 'better': self._better(metric)} for metric, value in reached.items()
                }
        return is_best

    def _is_best(self, value: float) -> bool:
        if math.isnan(value) or self.select_on not in self.best:
            return not math.isnan(value)
        best = self.best[self.select_on][self.key_metric]['val']
        return value < best if self._better(self.key_metric) == 'lower' else value > best

    def _better(self, metric: str) -> str:
        return self.metrics[metric].get('better', 'higher')

    def state_dict(self) -> dict:
        """What the next validation is compared with."""
        return {
            'best': self.best,
            'best_iteration': self.best_iteration,
            'validations_without_improvement': self.validations_without_improvement,
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from what `state_dict` gave."""
        self.best, self.best_iteration = state['best'], state['best_iteration']
        self.validations_without_improvement = state['validations_without_improvement']
