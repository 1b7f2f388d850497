"""Training files: what they may say, checked before any work begins.

`TOP` and the tables beside it are the facts: what pyiqa's trainer, its `GeneralIQAModel` and our `AlignIQAModel` read.
Where a section names a class by `type` (network, optimiser, scheduler, losses, metrics), its keys are that class's keywords.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

import yaml

from align_iqa_plugin import register


class Kind(NamedTuple):
    """What a value has to be: the words for it, and what makes the value of it or raises ValueError."""

    words: str
    read: Callable[[Any], Any]


def _kind(words: str, fits: Callable[[Any], bool]) -> Kind:
    def read(value):
        if not fits(value):
            raise ValueError(words)
        return value

    return Kind(words, read)


def _number(words: str = 'a number', fits: Callable[[float], bool] = lambda number: True, whole: bool = False) -> Kind:
    def read(value):
        # YAML 1.1, which PyYAML reads, takes 1e-4 for a text: it wants 1.0e-4
        if isinstance(value, str) and re.fullmatch(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+', value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0 or not fits(value):
            raise ValueError(words)
        if whole and value != int(value):
            raise ValueError(words)
        return int(value) if whole else value

    return Kind(words, read)


def _one_of(*values: str) -> Kind:
    return _kind(f'one of {", ".join(values)}', lambda value: isinstance(value, str) and value in values)


def _maybe(kind: Kind) -> Kind:
    return Kind(f'{kind.words} or ~', lambda value: None if value is None else kind.read(value))


def _section_or_none(schema: Mapping) -> Callable:
    return lambda check, value, key: None if value is None else check.section(value, schema, key)


def _list_of(kind: Kind, words: str) -> Kind:
    def read(value):
        if not isinstance(value, list | tuple):
            raise ValueError(words)
        return [kind.read(item) for item in value]

    return Kind(words, read)


ANYTHING = _kind('anything', lambda value: True)
TEXT = _kind('a text', lambda value: isinstance(value, str) and value != '')
FLAG = _kind('true or false', lambda value: isinstance(value, bool))
SECTION = _kind('a section of keys', lambda value: isinstance(value, dict))
NUMBER = _number()
POSITIVE = _number('a number above 0', lambda number: number > 0)
NOT_NEGATIVE = _number('a number from 0', lambda number: number >= 0)
SHARE = _number('a number from 0 to 1', lambda number: 0 <= number <= 1)
WHOLE = _number('a whole number', whole=True)
COUNT = _number('a whole number from 1', lambda number: number >= 1, whole=True)
FROM_ZERO = _number('a whole number from 0', lambda number: number >= 0, whole=True)
NAME = _kind('a name for a folder', lambda value: isinstance(value, str) and re.fullmatch(r'[^/\\\0]*[^/\\\0. ]', value))
NUM_GPU = Kind('auto or a whole number from 0', lambda value: value if value == 'auto' else FROM_ZERO.read(value))
SPLIT = Kind("a whole number from 1 or a column's name", lambda value: value if isinstance(value, str) else COUNT.read(value))
# keywords that the network gives to its parts
GIVEN_TO_PARTS = ('width', 'guidance_width', 'depth', 'stages', 'targets')

TEXTS = _list_of(TEXT, 'a list of texts')
PAIR = _list_of(COUNT, 'a list [height, width]')
SIZE = Kind(f'{COUNT.words} or {PAIR.words}', lambda value: (PAIR if isinstance(value, list) else COUNT).read(value))
NUMBERS = _list_of(NUMBER, 'a list of numbers')

DATASET = {
    'name': TEXT,
    'type': TEXT,
    'dataroot_target': _maybe(TEXT),
    'meta_info_file': _maybe(TEXT),
    'image_column': _maybe(TEXT),
    'score_column': _maybe(TEXT),
    'prompt_column': _maybe(TEXT),
    'further_score_columns': _maybe(TEXTS),
    'split_index': _maybe(SPLIT),
    'split_ratio': _kind('three digits, such as 712', lambda value: re.fullmatch(r'\d{3}', str(value))),
    'phase': _one_of('train', 'val', 'test'),
    'override_phase': _maybe(_one_of('train', 'val', 'test')),
    'mos_range': _maybe(NUMBERS),
    'lower_better': _maybe(FLAG),
    'mos_normalize': _maybe(FLAG),
    'augment': _maybe(SECTION),
    'img_range': NUMBER,
    'image_cache': _maybe(TEXT),
    'input_size': _maybe(SIZE),
    'check_images': FLAG,
    'prompts_with_images': FLAG,
    'scale': ANYTHING,
    'use_shuffle': FLAG,
    'batch_size_per_gpu': COUNT,
    'num_worker_per_gpu': FROM_ZERO,
    'dataset_enlarge_ratio': COUNT,
    'prefetch_mode': _maybe(_one_of('cpu', 'cuda')),
    'num_prefetch_queue': COUNT,
    'pin_memory': FLAG,
    'persistent_workers': FLAG,
}

PATH = {
    'pretrain_network': _maybe(TEXT),
    'param_key_g': _maybe(TEXT),
    'strict_load': FLAG,
    'resume_state': _maybe(TEXT),
    'ignore_resume_networks': _maybe(TEXTS),
}

LOGGER = {
    'print_freq': COUNT,
    'save_latest_freq': COUNT,
    'save_checkpoint_freq': COUNT,
    'log_imgs_freq': COUNT,
    'use_tb_logger': FLAG,
    'wandb': _maybe(SECTION),
}


class _Check:
    """The problems of one file, found section by section. A method stands in a table for a section whose keys a class decides."""

    def __init__(self):
        self.problems: list[str] = []

    def value(self, value, kind, key: str):
        """The value as its Kind reads it, or the section by its table or method."""
        if isinstance(kind, dict):
            return self.section(value, kind, key)
        if not isinstance(kind, Kind):
            return kind(self, value, key)
        try:
            return kind.read(value)
        except ValueError:
            self.problems.append(f'{key} is {shortened(value)}, not {kind.words}.')
            return value

    def section(self, section, table: Mapping, key: str, needs: Iterable[str] = ()):
        """The section with the values that its table of keys makes of it; `needs` are the keys that it cannot do without."""
        if not isinstance(section, dict):
            self.problems.append(f'{key or "the file"} is {shortened(section)}, not a section of keys.')
            return section
        self.problems += [f"{key or 'the file'} lacks the key '{name}'." for name in needs if name not in section]
        checked = {}
        for name, value in section.items():
            inside = f'{key}.{name}' if key else str(name)
            if name not in table:
                self.problems.append(f'{inside}: there is no such key{_hint(name, table)}')
            checked[name] = self.value(value, table.get(name, ANYTHING), inside)
        return checked

    def of_class(self, section, key: str, possible: Mapping, *, given: Sequence = (), further: Mapping | None = None, trial):
        """A section whose `type` is a name in `possible`: its keys are that class's keywords, without those `given` to it.

        `further` keys go before them; `trial(class, keywords)` is made to hear what the class says of the values.
        """
        name = section.get('type') if isinstance(section, dict) else None
        if not isinstance(name, str):
            return self.section(section, {**dict.fromkeys(_keys(section), ANYTHING), 'type': TEXT}, key, ['type'])
        if name not in possible:
            self.problems.append(f"{key}.type: there is no '{name}'{_hint(name, possible)}")
            return section
        keywords = _keywords(possible[name], given)
        before = len(self.problems)
        table = {'type': TEXT, **{name: _kind_of(p) for name, p in keywords.items()}, **(further or {})}
        section = self.section(section, table, key, [name for name, p in keywords.items() if p.default is p.empty])
        if len(self.problems) == before:
            try:
                trial(possible[name], {name: value for name, value in section.items() if name in keywords})
            except Exception as error:  # somebody else's class: what it raises at a wrong value is its own choice
                self.problems.append(f'{key}: {name} refuses its keys: {" ".join(str(error).split()) or type(error).__name__}')
        return section

    def datasets(self, sections, key: str):
        validation = [name for name in _keys(sections) if str(name).split('_')[0] == 'val']
        if isinstance(sections, dict) and not validation:
            self.problems.append(f"{key} lacks the section 'val': without validation there is no best checkpoint.")
        return self.section(sections, dict.fromkeys(['train', 'val', *validation], _Check.dataset), key, ['train'])

    def dataset(self, section, key: str):
        needs = ['name', 'type'] + ['batch_size_per_gpu', 'num_worker_per_gpu'] * (key == 'datasets.train')
        kind = section.get('type', 'AIGCIQADataset') if isinstance(section, dict) else None
        if kind != 'AIGCIQADataset':
            table = {name: DATASET[name] for name in ('name', 'batch_size_per_gpu', 'num_worker_per_gpu')}
            return self.section(
                section, {**dict.fromkeys(_keys(section), ANYTHING), **table, 'type': _Check.dataset_type}, key, needs
            )
        section = self.section(section, DATASET, key, needs)
        if not (section.get('dataroot_target') or section.get('meta_info_file')):
            self.problems.append(f'{key} needs dataroot_target (the folder of the data) or meta_info_file (its labels).')
        bounds = section.get('mos_range')
        if isinstance(bounds, list) and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            self.problems.append(f'{key}.mos_range is {shortened(bounds)}, not a list of the lowest and the highest score.')
        return section

    def network(self, section, key: str):
        if not isinstance(section, dict) or section.get('type') != 'AlignIQA':
            return self.section(
                section, {**dict.fromkeys(_keys(section), ANYTHING), 'type': _Check.network_type}, key, ['type']
            )
        from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
        from align_iqa_plugin.archs.guides import GUIDES, guide_class
        from align_iqa_plugin.archs.head import HEADS
        from align_iqa_plugin.archs.injection import INJECTIONS
        from align_iqa_plugin.archs.msfa import AGGREGATIONS

        keywords = _keywords(AlignIQA)
        table = {'type': TEXT, 'targets': COUNT, **{name: _kind_of(p) for name, p in keywords.items()}}
        tables = {'guide': GUIDES, 'injection': INJECTIONS, 'aggregation': AGGREGATIONS, 'head': HEADS}
        for part, classes in tables.items():
            name = section.get(part, keywords[part].default)
            if isinstance(name, str) and name in classes:
                cls = guide_class(name) if part == 'guide' else classes[name]
                options = {option: _kind_of(p) for option, p in _keywords(cls, GIVEN_TO_PARTS).items()}
                table[f'{part}_options'] = _section_or_none(options)
            elif isinstance(name, str) and not (name == 'none' and part in ('guide', 'injection')):
                self.problems.append(f"{key}.{part}: there is no '{name}'{_hint(name, classes)}")
        return self.section(section, table, key)

    def optim(self, section, key: str):
        import torch

        def trial(cls, keywords):
            cls([torch.nn.Parameter(torch.zeros(1))], **keywords)

        # pyiqa's: lr_<part>, and weight_decay_<part> beside it
        rates = [name for name in _keys(section) if isinstance(name, str) and re.match('lr_.', name)]
        decays = [name.replace('lr_', 'weight_decay_') for name in rates]
        section = self.of_class(
            section,
            key,
            _subclasses(torch.optim, torch.optim.Optimizer),
            given=['params'],
            further={'layer_decay': SHARE, **dict.fromkeys([*rates, *decays], NOT_NEGATIVE)},
            trial=trial,
        )
        if isinstance(section, dict) and 'lr' not in section:
            self.problems.append(f"{key} lacks the key 'lr'.")
        return section

    def scheduler(self, section, key: str):
        if section is None:
            return None
        import torch
        from pyiqa.models import lr_scheduler

        def trial(cls, keywords):
            cls(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9), **keywords)

        possible = {
            **_subclasses(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
            # pyiqa's own, which it also takes for torch's
            'MultiStepLR': lr_scheduler.MultiStepRestartLR,
            'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
            'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR,
        }
        return self.of_class(section, key, possible, given=['optimizer'], trial=trial)

    def loss(self, section, key: str):
        import pyiqa.losses  # noqa: F401  fills the registry
        from pyiqa.utils.registry import LOSS_REGISTRY

        if section is None:
            return None
        return self.of_class(section, key, dict(iter(LOSS_REGISTRY)), trial=lambda cls, keywords: cls(**keywords))

    def metrics(self, sections, key: str):
        if sections == {}:
            self.problems.append(f'{key} names no metric, such as srcc: {{type: calculate_srcc}}.')
        return self.section(sections, dict.fromkeys(_keys(sections), _Check.metric), key)

    def metric(self, section, key: str):
        import numpy as np
        import pyiqa.metrics  # noqa: F401  fills the registry
        from pyiqa.utils.registry import METRIC_REGISTRY

        def trial(function, keywords):
            scores = np.linspace(0, 1, 20)
            function(scores, scores**2, **keywords)

        further = {'better': _one_of('higher', 'lower')}
        return self.of_class(section, key, dict(iter(METRIC_REGISTRY)), given=['x', 'y'], further=further, trial=trial)

    def model_type(self, name, key: str):
        return self.registered(name, key, 'model', register.MODELS)

    def network_type(self, name, key: str):
        return self.registered(name, key, 'arch', register.ARCHS)

    def dataset_type(self, name, key: str):
        return self.registered(name, key, 'dataset', register.DATASETS)

    def registered(self, name, key: str, kind: str, ours: Mapping):
        """A name in one of pyiqa's registries, whose modules it imports when they are asked for."""
        if name in (*ours, 'GeneralIQAModel'):
            return name
        from pyiqa.utils import registry

        known = getattr(registry, f'{kind.upper()}_REGISTRY')
        try:
            if isinstance(name, str) and name.isidentifier() and name not in known:
                folder = 'data' if kind == 'dataset' else f'{kind}s'
                getattr(import_module(f'pyiqa.{folder}'), f'_lazy_import_{kind}')(name)
        except ImportError as error:
            self.problems.append(f"{key}: '{name}' cannot be imported: {error}.")
        else:
            if not isinstance(name, str) or name not in known:
                self.problems.append(f'{key}: pyiqa has no {shortened(name)}{_hint(name, [*ours, *known.keys()])}')
        return name


TRAIN = {
    # pyiqa's
    'optim': _Check.optim,
    'scheduler': _Check.scheduler,
    'total_epoch': _maybe(COUNT),
    'total_iter': _maybe(FROM_ZERO),
    'warmup_iter': WHOLE,
    'mos_loss_opt': _Check.loss,
    'metric_loss_opt': _Check.loss,
    'use_ref': FLAG,
    # AlignIQAModel's
    'ridge_alpha': _maybe(POSITIVE),
    'frozen_cache': _maybe(TEXT),
    'ema_decay': _maybe(SHARE),
    'schedule_by': _one_of('epoch', 'iteration'),
    'precision': _one_of('fp32', 'bf16', 'fp16'),
    'accumulate': COUNT,
    'clip_grad_norm': _maybe(POSITIVE),
    'patience': _maybe(COUNT),
    'score_weights': _maybe(NUMBERS),
}

VAL = {
    'val_freq': COUNT,
    'save_img': FLAG,
    'pbar': FLAG,
    'key_metric': _maybe(TEXT),
    'metrics': _Check.metrics,
    'select_on': _maybe(TEXT),
}

PAPER = {'row': TEXT, 'SRCC': SHARE, 'PLCC': SHARE}

TOP = {
    'name': NAME,
    'paper': PAPER,
    'model_type': _Check.model_type,
    'num_gpu': NUM_GPU,
    'manual_seed': _maybe(FROM_ZERO),
    'scale': ANYTHING,
    'datasets': _Check.datasets,
    'network': _Check.network,
    'path': PATH,
    'train': lambda check, value, key: check.section(value, TRAIN, key, []),
    'val': lambda check, value, key: check.section(value, VAL, key, ['metrics']),
    'logger': LOGGER,
    'dist_params': _maybe(SECTION),
    'find_unused_parameters': FLAG,
}
NEEDED = ('name', 'model_type', 'datasets', 'network', 'path', 'train', 'val', 'logger')


def read_options(path: Path, overrides: Sequence[str] = ()) -> dict:
    """A training file as plain, checked data; nothing in it is run, and neither data nor weights are looked for.

    Args:
        path: the file (YAML).
        overrides: changes to it, such as ``train.optim.lr=1e-4``; the value is YAML.

    Raises:
        ValueError: all that is wrong with the file, with the keys that it is at.
    """
    options = _read(path)
    for override in overrides:
        _override(options, override)
    check = _Check()
    options = check.section(options, TOP, '', NEEDED)
    if not check.problems:
        train, val = options['train'], options['val']
        if train.get('total_epoch') is None and train.get('total_iter') is None:
            check.problems.append("train lacks the key 'total_epoch' (or total_iter).")
        if train.get('total_iter') != 0:  # with none, the head is fitted and nothing else is trained
            if 'optim' not in train:
                check.problems.append("train lacks the key 'optim'.")
            if not (train.get('mos_loss_opt') or train.get('metric_loss_opt')):
                check.problems.append("train lacks a loss, the key 'mos_loss_opt' (or metric_loss_opt).")
        seen = options['network'].get('input_size', 224)
        for phase, section in options['datasets'].items():
            size = section.get('input_size') if options['network']['type'] == 'AlignIQA' else None
            if isinstance(size, int) and size != seen:
                check.problems.append(
                    f'datasets.{phase}.input_size is {size}, and network.input_size {seen}: the network would resize what is '
                    'resized already; give both the same.'
                )
        if val.get('key_metric') is not None and val['key_metric'] not in val['metrics']:
            check.problems.append(
                f"val.key_metric is '{val['key_metric']}', not one of val.metrics: {', '.join(val['metrics'])}."
            )
    _fail(check.problems, path)
    return options


def check_options(options: dict) -> None:
    """Look at what a checked training file names: data, splits, weights, the network's parts. It takes some seconds.

    Args:
        options: what `read_options` gives.

    Raises:
        ValueError: all that is missing or does not fit, with the keys that name it.
    """
    import torch

    problems = []
    with _before_the_log(), torch.random.fork_rng(devices=[]):
        for phase, section in options['datasets'].items():
            problems += [
                f'datasets.{phase}{problem}' for problem in _dataset_problems(phase, section, options.get('num_gpu', 'auto'))
            ]
        problems += _network_problems(options)
    resumed = options['path'].get('resume_state')
    if resumed and not Path(resumed).expanduser().is_file():
        problems.append(f'path.resume_state: there is no file {resumed}.')
    _fail(problems, f'the training {options["name"]!r}')


def _dataset_problems(phase: str, section: dict, gpus: int | str) -> list[str]:
    import torch

    from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset

    if section['type'] != 'AIGCIQADataset':
        paths = [key for key in ('dataroot_target', 'dataroot_ref', 'meta_info_file', 'split_file') if section.get(key)]
        missing = [key for key in paths if not Path(str(section[key])).expanduser().exists()]
        return [f'.{key}: there is no {section[key]}.' for key in missing]
    try:
        dataset = AIGCIQADataset(section | {'phase': phase.split('_')[0], 'check_images': False})
    except (ValueError, OSError) as error:
        return [f': {error}']
    batch = section.get('batch_size_per_gpu', 1) * max(1, torch.cuda.device_count() if gpus == 'auto' else gpus)
    images = len(dataset) * section.get('dataset_enlarge_ratio', 1)
    if phase == 'train' and batch > images:
        return [f'.batch_size_per_gpu: a batch of {batch} is more than the {images} images, so that no step would be taken.']
    return []


def _network_problems(options: dict) -> list[str]:
    from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
    from align_iqa_plugin.archs.pretrained import read_weights

    path, state, problems = options['path'].get('pretrain_network'), None, []
    if path is not None:
        try:
            state = read_weights(path, 'path.pretrain_network')
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
    if options['network']['type'] != 'AlignIQA':
        return problems
    try:
        network = AlignIQA(**{key: value for key, value in options['network'].items() if key != 'type'})
    except Exception as error:  # beside ours, what torch, timm and open_clip raise at a wrong number
        return [*problems, f'network: {" ".join(str(error).split()) or type(error).__name__}']
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for key in options['train'].get('optim', {}):
        part = key.replace('lr_', '')  # as pyiqa does it
        if key.startswith('lr_') and not any(part in name for name in trained):
            parts = ', '.join(dict.fromkeys(name.split('.')[0] for name in trained))
            problems.append(
                f"train.optim.{key}: no trained parameter has '{part}' in its name; the trained parts are: {parts}."
            )
    if state is not None and options['path'].get('strict_load', True):
        frozen = dict(network.frozen_parts)
        try:
            network.load_state_dict(state)
        except (ValueError, RuntimeError) as error:
            problems.append(f'path.pretrain_network: {path} does not fit the network: {" ".join(str(error).split())[:300]}')
        else:
            problems += [
                f'path.pretrain_network: {path} holds other weights of the frozen {part} than network names: name the same.'
                for part, digest in frozen.items()
                if network.frozen_parts[part] != digest
            ]
    return problems


@contextmanager
def _before_the_log() -> Iterator[None]:
    """pyiqa's logger gets its file when it is asked for first, by the trainer: inside, asking does not count."""
    from pyiqa.utils.logger import initialized_logger

    first = 'pyiqa' not in initialized_logger
    initialized_logger['pyiqa'] = True
    try:
        yield
    finally:
        if first:
            del initialized_logger['pyiqa']


class _Loader(yaml.SafeLoader):
    """Plain data only, and no key twice, of which PyYAML keeps the last in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) and key.tag != 'tag:yaml.org,2002:merge' else False:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands there twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(text: str, name: str):
    try:
        return _unshared(yaml.load(text, _Loader))  # noqa: S506  a SafeLoader
    # beside YAMLError: what PyYAML raises at a wrong date, number or tag, and at a text that refers to itself
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(f'{name} is not valid YAML: {reason}.') from error


def _unshared(value):
    """YAML's anchors make one section stand at two places, where it is to be changed at one."""
    if isinstance(value, dict):
        return {key: _unshared(inside) for key, inside in value.items()}
    return [_unshared(inside) for inside in value] if isinstance(value, list) else value


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f'there is no training file {path}.')
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} cannot be read: {error}.') from error
    options = _load(text, str(path))
    if not isinstance(options, dict):
        raise ValueError(f'{path} is not a training file: options/train/AlignIQA/ has complete ones to start from.')
    return options


def _override(options: dict, override: str) -> None:
    key, equals, text = override.partition('=')
    *names, last = key.strip().split('.')
    if not equals or not all([*names, last]):
        raise ValueError(f"--set '{override}' is not KEY=VALUE, such as train.optim.lr=1e-4.")
    section = options
    for number, name in enumerate(names):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise ValueError(f"--set '{override}': {'.'.join(names[: number + 1])} is not a section of keys.")
    section[last] = _load(text, f"--set '{override}'")


def _fail(problems: list[str], name: str | Path) -> None:
    if problems:
        lines = [f'{name}: {len(problems)} problems', *(f'  {problem}' for problem in problems)]
        raise ValueError('\n'.join(lines) if len(problems) > 1 else f'{name}: {problems[0]}')


def _keys(section) -> list:
    return list(section) if isinstance(section, dict) else []


def _hint(name, possible: Iterable) -> str:
    possible = sorted(map(str, possible))
    near = get_close_matches(str(name), possible, 1)
    return f'; did you mean {near[0]}?' if near else f'; possible are: {", ".join(possible) or "none"}.'


def _subclasses(module, base: type) -> dict[str, type]:
    classes = {name: cls for name, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, base)}
    return {name: cls for name, cls in classes.items() if cls is not base and not name.startswith('_')}


def _keywords(function: Callable, given: Sequence = ()) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if name not in given and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _kind_of(parameter: inspect.Parameter) -> Kind:
    """What a keyword takes, by its annotation, or else by its default; anything where neither tells."""
    kinds = {'int': WHOLE, 'float': NUMBER, 'bool': FLAG, 'str': TEXT, 'dict': SECTION}
    annotation = parameter.annotation
    words = {word.strip() for word in (getattr(annotation, '__name__', None) or str(annotation)).split('|')}
    named = words & kinds.keys()
    if len(named) == 1 and words <= {*named, 'None', 'torch.Tensor', 'Tensor'}:
        kind = kinds[named.pop()]
        return _maybe(kind) if 'None' in words else kind
    by_default = {bool: FLAG, int: NUMBER, float: NUMBER, str: TEXT}
    return by_default.get(type(parameter.default), ANYTHING)
