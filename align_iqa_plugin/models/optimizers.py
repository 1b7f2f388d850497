"""The optimiser of `train.optim` and the warm-up of its learning rates.

Beside the optimiser's own keywords, `train.optim` takes `lr_PART` and `weight_decay_PART` (0 by default) for the parameters
with PART in their dotted name, and `layer_decay`, the factor from each layer of a trained backbone to the layer below it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from timm.models import group_parameters
from torch import nn
from torch.optim import Optimizer

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA


def build_optimizer(network: AlignIQA, trained: Mapping[str, nn.Parameter], options: Mapping) -> Optimizer:
    """The optimiser over the trained parameters, each of them in one group.

    The ids of layers are timm's. Its `param_groups_layer_decay` takes one model, one learning rate and one weight decay, so it
    cannot express the rates of parts, nor the parts around the backbone.

    Args:
        network: that is trained.
        trained: its trained parameters by name.
        options: `train.optim`. Where two parts occur in a name, the one further right counts.

    Raises:
        ValueError: a part that no trained parameter belongs to, a weight decay without its learning rate, or a layer decay of a
            frozen backbone.
    """
    options = dict(options)
    kind, layer_decay = options.pop('type'), options.pop('layer_decay', None)
    base: float = options.pop('lr')
    parts = _part_settings(options)
    settings_of: dict[str | None, dict] = dict([(None, {}), *parts.items()])
    above = {} if layer_decay is None else _layers_above(network, trained)
    groups: dict[tuple[str | None, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        part = next((word for word in reversed(name.split('.')) if word in parts), None)
        scale = 1.0 if layer_decay is None else layer_decay ** above.get(name, 0)
        groups.setdefault((part, scale), []).append(parameter)
    _check_parts_used(parts, {part for part, _ in groups}, trained)
    settings = [
        {'params': parameters, **settings_of[part], 'lr': settings_of[part].get('lr', base) * scale}
        for (part, scale), parameters in groups.items()
    ]
    return getattr(torch.optim, kind)(settings, base, **options)


def _part_settings(options: dict) -> dict[str, dict[str, float]]:
    """Learning rate and weight decay of each part; their keys are removed from `options`."""
    rates = {key.removeprefix('lr_'): options.pop(key) for key in list(options) if key.startswith('lr_')}
    parts = {part: {'lr': rate, 'weight_decay': options.pop(f'weight_decay_{part}', 0.0)} for part, rate in rates.items()}
    for key in options:
        if key.startswith('weight_decay_'):
            raise ValueError(f'train.optim.{key} needs {key.replace("weight_decay_", "lr_", 1)} beside it.')
    return parts


def _check_parts_used(parts: Mapping, used: set, trained: Mapping) -> None:
    for part in parts.keys() - used:
        names = ', '.join(dict.fromkeys(name.split('.')[0] for name in trained))
        raise ValueError(
            f'train.optim.lr_{part}: no trained parameter has {part!r} in its name that another lr_ key does not claim; '
            f'choose a trained part ({names}) or a word of the dotted names in it.'
        )


def _layers_above(network: AlignIQA, trained: Mapping) -> dict[str, int]:
    """For each parameter of the backbone, how many layers there are from its own to the network's other parts."""
    if not any(name.startswith('backbone.') for name in trained):
        raise ValueError('train.optim.layer_decay needs freeze_backbone: false, since a frozen backbone is not trained.')
    vit = network.backbone.vit
    # the embedding is layer 0, and the last norm belongs to the last block's layer
    layers = group_parameters(vit, vit.group_matcher(), reverse=True)
    return {f'backbone.vit.{name}': max(layers.values()) + 1 - layer for name, layer in layers.items()}


@contextmanager
def warm_up(optimizer: Optimizer, iteration: int, length: int) -> Iterator[None]:
    """Inside, the scheduler's learning rates are scaled by `iteration / length`, up to iteration `length`.

    Not torch's `LinearLR`: `SequentialLR` would start the schedule after the warm-up, and a `LinearLR` that is chained to a
    scheduler which computes its rates anew (`LambdaLR`, `OneCycleLR`, pyiqa's `CosineAnnealingRestartLR`) loses its factor.
    """
    rates = [group['lr'] for group in optimizer.param_groups]
    factor = min(1.0, iteration / max(1, length))
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group['lr'] = rate * factor
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group['lr'] = rate
