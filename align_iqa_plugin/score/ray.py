"""Scores rows in the workers of Ray, on this machine or on a cluster."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from align_iqa_plugin.data.uris import is_uri
from align_iqa_plugin.runtime.ray_workers import DIED, Workers
from align_iqa_plugin.score.metric import load_metric
from align_iqa_plugin.score.rows import Engine, Row, score_rows


def ray_engine(team: Workers, weights: Path | None, *, batch_size: int) -> Engine:
    """Scores rows in these workers.

    The engine raises RayError: the metric cannot be loaded in a worker, or Ray failed.
    """
    arguments = {'device': team.device, 'weights': weights and str(weights.resolve()), 'batch_size': batch_size}
    return partial(_score, team, arguments)


def _score(team: Workers, arguments: dict, rows: list[Row]) -> Iterator[Row]:
    items = [{'image': row.image, 'path': _place(row), 'prompt': row.prompt, 'no_prompt': row.no_prompt} for row in rows]
    for results in team.map(RayScorer, arguments, items, 4 * arguments['batch_size']):
        for number, result in results:
            row = rows[number]
            row.score, row.std, row.width, row.height, row.error = result or (None, None, None, None, DIED)
            yield row


def _place(row: Row) -> Path | str:
    return row.path if is_uri(row.path) else os.path.abspath(row.path)


class RayScorer:
    """What each worker of Ray makes once: fields of `Row` in, score, std, width, height and error out."""

    def __init__(self, device: str, weights: str | None, batch_size: int):
        self.metric = load_metric(device, Path(weights) if weights else None)
        self.batch_size = batch_size

    def __call__(self, items: list[dict]) -> list[list]:
        rows = [Row(**item) for item in items]
        for _ in score_rows(self.metric, rows, batch_size=self.batch_size):
            pass
        return [[row.score, row.std, row.width, row.height, row.error] for row in rows]
