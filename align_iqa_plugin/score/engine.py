"""Opens what scores the rows: the metric in this process, or the workers of Ray; and the folder that keeps their scores."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from align_iqa_plugin.runtime.ray_workers import RayUnavailable, ray_workers
from align_iqa_plugin.score.metric import load_metric
from align_iqa_plugin.score.ray import ray_engine
from align_iqa_plugin.score.rows import Engine, score_rows
from align_iqa_plugin.score.score_folder import ScoreFolder

DECODERS = 2  # processes beside the one that scores


class EngineError(Exception):
    """Scoring cannot begin; the message is a sentence that says why."""


@contextmanager
def open_engine(
    name: str, output: Path | None, *, device: str | None, weights: Path | None, batch_size: int, workers: int | None
) -> Iterator[tuple[Engine, ScoreFolder | None]]:
    """The engine of this name ('local' or 'ray'), and the folder in which the scores for `output` are kept meanwhile.

    Args:
        name: 'local' or 'ray'.
        output: the folder of the scores itself with Ray, else the file, whose scores are kept in a hidden folder beside it;
            None: they are not kept.
        device: 'cpu', 'cuda' ..., by default the GPU if there is one.
        weights: to use in place of those of this package.
        batch_size: of images that are scored together, at most.
        workers: of Ray; None: one for each GPU, or else for each CPU core.

    Raises:
        EngineError: at the beginning of the block only.
    """
    with ExitStack() as stack:
        try:
            if name == 'ray':
                team = stack.enter_context(ray_workers(workers, device))
                engine = ray_engine(team, weights, batch_size=batch_size)
                metric = load_metric('cpu', weights)  # what is wrong with the weights is found before a worker fails
            else:
                metric = load_metric(device, weights)
                engine = partial(score_rows, metric, batch_size=batch_size, workers=DECODERS)
                output = output and output.with_name(f'.{output.name}.scores')
            folder = ScoreFolder(output, metric.origin) if output else None
        except (RayUnavailable, ValueError) as error:
            raise EngineError(str(error)) from error
        if folder:
            stack.callback(folder.close)
        yield engine, folder
