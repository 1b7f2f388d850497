"""The exponential moving average of the trained weights (`train.ema_decay`), which validation and checkpoints use."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedWeights:
    """torch's `AveragedModel` of the trained parameters alone, so that no second copy of a frozen backbone is kept.

    Args:
        trained: parameters by name; the average starts at their present values.
        decay: weight of the average in an update. In update n it is at most n / (n + 10), so that a young average soon
            forgets the start.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float):
        self._names, self._parameters = list(trained), nn.ParameterList(trained.values())
        self._average = AveragedModel(self._parameters, multi_avg_fn=_moving_average(decay))
        self.update()  # the first update of an AveragedModel copies: from here on it counts the steps

    def update(self) -> None:
        """Take the present weights into the average, after a step."""
        self._average.update_parameters(self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by the parameters' names."""
        return {name: value.detach() for name, value in zip(self._names, self._average.module.parameters(), strict=True)}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has its averaged weights."""
        current = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._fill(self._average.module.parameters())
            yield
        finally:
            self._fill(current)

    @torch.no_grad()
    def _fill(self, values) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The average and its number of updates."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self._average.load_state_dict(state)


def _moving_average(decay: float) -> Callable:
    def update(averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(decay, n / (n + 10)))(averages, values, updates)

    return update
