"""Sections of an option file that name a class by `type`: their keys are the keywords of that class.

Each function checks one section and gives it back as plain data, or raises a pydantic ValidationError.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, PlainValidator, create_model

from align_iqa_plugin import register
from align_iqa_plugin.data.dataset_options import DatasetOptions
from align_iqa_plugin.runtime.names import suggest
from align_iqa_plugin.runtime.schema import (
    NotNegative,
    Number,
    Section,
    Share,
    Text,
    fields_of,
    known_name,
    plain,
    problem,
)

GIVEN_TO_PARTS = ('width', 'guidance_width', 'depth', 'stages', 'targets')  # by the network
RENAMED = {
    'aggregation': {
        'msfa_pyramid': "'msfa_pyramid' is called 'msfa' now.",
        'last_map': "'last_map' is now network.aggregation: msfa with network.stages: 1.",
        'none': "'none' is now network.aggregation: stage_pool with network.stages: 1.",
    }
}
REMOVED_FROM_PARTS = {'first_block': 'is now blocks, a list of the blocks that guidance enters before, such as [11].'}


class _AnyKeys(Section):
    """A section of somebody else's class, whose keywords are not looked up."""

    model_config = ConfigDict(extra='allow')


def optimizer(section: Any) -> dict | None:
    """`train.optim`: beside the optimiser's keywords pyiqa's lr_PART and weight_decay_PART, and layer_decay."""
    import torch

    def trial(cls: type, keywords: dict) -> None:
        cls([torch.nn.Parameter(torch.zeros(1))], **keywords)

    names = [name for name in section if isinstance(name, str)] if isinstance(section, dict) else []
    rates = [name for name in names if re.match('lr_.', name)]
    decays = [name.replace('lr_', 'weight_decay_', 1) for name in rates]
    further: dict[str, Any] = {'lr': (Number, ...), 'layer_decay': (Share, None)}
    further |= dict.fromkeys([*rates, *decays], (NotNegative, 0.0))
    return _of_class(
        section,
        _subclasses(torch.optim, torch.optim.Optimizer),
        given=['params'],
        further=further,
        trial=trial,
    )


def scheduler(section: Any) -> dict | None:
    """`train.scheduler`: one of torch's, or of pyiqa's own."""
    import torch
    from pyiqa.models import lr_scheduler

    def trial(cls: type, keywords: dict) -> None:
        cls(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9), **keywords)

    choices = {
        **_subclasses(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
        'MultiStepLR': lr_scheduler.MultiStepRestartLR,  # which pyiqa takes for torch's
        'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
        'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR,
    }
    return _of_class(section, choices, given=['optimizer'], trial=trial)


def loss(section: Any) -> dict | None:
    """`train.mos_loss_opt` and `train.metric_loss_opt`."""
    import pyiqa.losses  # noqa: F401  fills the registry
    from pyiqa.utils.registry import LOSS_REGISTRY

    return _of_class(section, dict(iter(LOSS_REGISTRY)), trial=lambda cls, keywords: cls(**keywords))


def metric(section: Any) -> dict | None:
    """A section of `val.metrics`."""
    import numpy as np
    import pyiqa.metrics  # noqa: F401  fills the registry
    from pyiqa.utils.registry import METRIC_REGISTRY

    def trial(function: Callable, keywords: dict) -> None:
        scores = np.linspace(0, 1, 20)
        function(scores, scores**2, **keywords)

    further = {'better': (Literal['higher', 'lower'], 'higher')}
    section = {} if section is None else section
    return _of_class(section, dict(iter(METRIC_REGISTRY)), given=['x', 'y'], further=further, trial=trial)


def datasets(sections: Any) -> dict:
    """`datasets`: train, val, and further validation sets, in their order."""
    names = [name for name in sections if isinstance(name, str)] if isinstance(sections, dict) else []
    validation = [name for name in names if name.split('_')[0] == 'val']
    phases = [*(name for name in names if name in ('train', *validation)), 'train', *(validation or ['val'])]
    return plain(_datasets_model(*phases).model_validate(sections))


@cache
def _datasets_model(*phases: str) -> type[Section]:
    fields: dict[str, Any] = {name: (Annotated[dict, PlainValidator(partial(_dataset, name))], ...) for name in phases}
    return create_model('datasets', __base__=Section, **fields)


def _dataset(phase: str, section: Any) -> dict:
    ours = not isinstance(section, dict) or section.get('type', 'AIGCIQADataset') == 'AIGCIQADataset'
    return plain(_dataset_model(ours, phase == 'train').model_validate(section))


@cache
def _dataset_model(ours: bool, for_training: bool) -> type[Section]:
    known = Text if ours else Annotated[Text, AfterValidator(partial(registered, 'dataset', register.DATASETS))]
    fields: dict[str, Any] = {'name': (Text, ...), 'type': (known, ...)}
    for name in ('batch_size_per_gpu', 'num_worker_per_gpu'):
        declared = DatasetOptions.model_fields[name]
        fields[name] = (declared.rebuild_annotation(), ... if for_training else declared.default)
    return create_model('dataset', __base__=DatasetOptions if ours else _AnyKeys, **fields)


def network(section: Any) -> dict:
    """`network`: the keywords of AlignIQA and of its parts, or any of a network of pyiqa."""
    if isinstance(section, dict) and section.get('type') != 'AlignIQA':
        known = Annotated[Text, AfterValidator(partial(registered, 'arch', register.ARCHS))]
        return plain(create_model('network', __base__=_AnyKeys, type=(known, ...)).model_validate(section))
    from align_iqa_plugin.archs.parts import PARTS, part_names

    fields = network_fields()
    for part, choices in PARTS.items():
        default = fields[part][1]
        name = section.get(part, default) if isinstance(section, dict) else default
        check = partial(known_name, choices=dict.fromkeys(part_names(part)), renamed=RENAMED.get(part))
        fields[part] = (Annotated[Text, AfterValidator(check)], default)
        if isinstance(name, str) and name in choices:
            fields[f'{part}_options'] = (_part_model(part, name) | None, None)
    model = create_model('network', __base__=Section, type=(Text, ...), **fields)
    return plain(model.model_validate(section))


def untrained_pyramid(section: dict) -> Iterator[str]:
    """What to say of a network whose head is fitted before anything has trained its pyramid."""
    aggregation, head = (section.get(key, network_fields()[key][1]) for key in ('aggregation', 'head'))
    if section['type'] == 'AlignIQA' and aggregation == 'msfa' and head in ('kernel', 'linear'):
        yield (
            'network.aggregation: msfa has a pyramid that nothing has trained when the head is fitted: name trained weights in '
            'path.pretrain_network, set train.adapt_alpha, or choose head: mlp, or aggregation: stage_pool, which version '
            "0.3.0 called 'msfa'."
        )


def network_fields() -> dict[str, Any]:
    """The keywords of AlignIQA, and of the function that pyiqa builds it by, as fields."""
    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA

    module, name = register.ARCHS['AlignIQA'].split(':')
    return fields_of(getattr(import_module(module), name)) | fields_of(AlignIQA)


@cache
def _part_model(part: str, name: str) -> type[Section]:
    from align_iqa_plugin.archs.parts import part_class

    cls = part_class(part, name)
    model = create_model(f'{part}_options', __base__=Section, **fields_of(cls, GIVEN_TO_PARTS))
    model.removed_keys = REMOVED_FROM_PARTS
    return model


def default_input_size(section: dict) -> Any:
    """The side of the square that a network of AlignIQA resizes images to; None for another network."""
    if section['type'] != 'AlignIQA':
        return None
    return section.get('input_size', network_fields()['input_size'][1])


def registered(kind: str, ours: Mapping, name: str) -> str:
    """A name in one of pyiqa's registries, whose modules pyiqa imports when they are asked for."""
    if name in (*ours, 'GeneralIQAModel'):
        return name
    from pyiqa.utils import registry

    known = getattr(registry, f'{kind.upper()}_REGISTRY')
    try:
        if name.isidentifier() and name not in known:
            folder = 'data' if kind == 'dataset' else f'{kind}s'
            getattr(import_module(f'pyiqa.{folder}'), f'_lazy_import_{kind}')(name)
    except ImportError as error:
        raise problem(f"'{name}' cannot be imported: {error}.") from error
    if name not in known:
        raise problem(f"unknown {kind} '{name}'{suggest(name, [*ours, *known.keys()])}")
    return name


def _of_class(
    section: Any,
    choices: Mapping[str, Any],
    *,
    given: Collection[str] = (),
    further: Mapping[str, Any] | None = None,
    trial: Callable[[Any, dict], object],
) -> dict | None:
    """A section whose `type` is a name in `choices`; None for None.

    Args:
        given: keywords that the training gives.
        further: fields of further keys, which go before the keywords.
        trial: called with the class and its keywords, to hear what it says of the values.
    """
    if section is None:
        return None
    known: Any = Annotated[Text, AfterValidator(partial(known_name, choices=choices))]
    name = plain(create_model('type', __base__=_AnyKeys, type=(known, ...)).model_validate(section))['type']
    keywords = fields_of(choices[name], given)
    model = create_model(name, __base__=Section, **{'type': (Text, ...), **keywords, **(further or {})})
    section = plain(model.model_validate(section))
    try:
        trial(choices[name], {key: value for key, value in section.items() if key in keywords})
    except Exception as error:  # somebody else's class: what it raises at a wrong value is its own choice
        raise problem(f'{name} rejects its keys: {" ".join(str(error).split()) or type(error).__name__}') from error
    return section


def _subclasses(module: Any, base: type) -> dict[str, type]:
    classes = {name: cls for name, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, base)}
    return {name: cls for name, cls in classes.items() if cls is not base and not name.startswith('_')}
