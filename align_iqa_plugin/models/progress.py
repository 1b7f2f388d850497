"""The progress of a training: a bar on a terminal, a line in the log every few iterations, curves in TensorBoard."""

import datetime
import time
from collections.abc import Mapping

from pyiqa.utils import get_root_logger
from tqdm import tqdm

from align_iqa_plugin.models.process_group import rank


class Progress:
    """Shows each iteration when it is done.

    Args:
        start: number of iterations done before.
        total: number of iterations of the training.
        batch_size: images of an iteration.
        print_every: iterations between two lines in the log.
        tb_logger: TensorBoard's writer, or None.
    """

    def __init__(self, *, start: int, total: int, batch_size: int, print_every: int, tb_logger):
        self.total, self.batch_size, self.print_every, self.tb_logger = total, batch_size, print_every, tb_logger
        self.last_line = time.monotonic(), start
        self.bar = tqdm(
            total=total * batch_size,
            initial=start * batch_size,
            desc='training',
            unit=' images',
            disable=None if rank() == 0 else True,
        )

    def update(self, iteration: int, losses: Mapping[str, float], learning_rate: float, metrics: Mapping[str, str]) -> None:
        """Show an iteration that is done, with the metrics of the last validation."""
        loss = sum(losses.values())
        self.bar.set_postfix({'loss': f'{loss:.4f}', **metrics}, refresh=False)
        self.bar.update(self.batch_size)
        if iteration % self.print_every:
            return
        now, (before, done) = time.monotonic(), self.last_line
        seconds = (now - before) / (iteration - done)
        self.last_line = now, iteration
        get_root_logger().info(
            f'iteration {iteration} of {self.total}: loss {loss:.4f}, learning rate {learning_rate:.3g}, '
            f'{self.batch_size / seconds:.1f} images/s, '
            f'{datetime.timedelta(seconds=int(seconds * (self.total - iteration)))} left',
            extra={'quiet': not self.bar.disable},
        )
        if self.tb_logger:
            for name, value in losses.items():
                self.tb_logger.add_scalar(f'losses/{name}', value, iteration)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()
