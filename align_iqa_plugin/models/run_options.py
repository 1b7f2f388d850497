"""The options of one training: a training file, completed with what pyiqa's own command fills in, and compared on --resume."""

import copy
from importlib.util import find_spec
from pathlib import Path

import torch

from align_iqa_plugin.models.options_file import dump, parse
from align_iqa_plugin.models.process_group import world_size

# What may differ when a training goes on: it changes the messages, or when the training ends, but not what is learned
MAY_CHANGE = ('logger.', 'num_gpu', 'train.total_', 'train.patience')
MAY_CHANGE_LAST = ('num_worker_per_gpu', 'pin_memory', 'persistent_workers', 'prefetch_mode', 'num_prefetch_queue')


def complete_options(options: dict, root: Path) -> dict:
    """A copy of a training file's content, with the phases of its data sets and the folders under `root` filled in.

    Raises:
        ValueError: a training that cannot be run.
    """
    options = copy.deepcopy(options)
    _complete_datasets(options['datasets'])
    total_iterations(options['train'], 1)
    if (options.get('manual_seed') or 0) < 0:
        raise ValueError(f'manual_seed is {options["manual_seed"]}, not a whole number from 0.')
    options.setdefault('logger', {})
    if options['logger'].get('use_tb_logger') and find_spec('tensorboard') is None:
        raise ValueError('logger.use_tb_logger needs the package tensorboard: install it, or set use_tb_logger: false.')
    path = options.setdefault('path', {})
    gpus = torch.cuda.device_count()
    wanted = options.get('num_gpu', 'auto')
    if wanted not in (0, 'auto') and not gpus:
        raise ValueError(f'num_gpu is {wanted}, but torch sees no GPU: set num_gpu: auto, or 0 for the CPU.')
    experiment = root / 'experiments' / options['name']
    path |= {
        'experiments_root': str(experiment),
        'models': str(experiment / 'models'),
        'training_states': str(experiment / 'training_states'),
    }
    # 'dist' and more than one GPU would make pyiqa wrap the network, which `process_group.py` has no need of
    return options | {'is_train': True, 'dist': False, 'num_gpu': min(gpus, 1) if wanted else 0}


def _complete_datasets(sections: dict) -> None:
    for phase, section in sections.items():
        if phase != 'train' and phase.split('_')[0] != 'val':
            raise ValueError(f"datasets.{phase} is not read in training, only 'train' and 'val', 'val_1' ... are.")
        section['phase'] = phase.split('_')[0]
    names = [section['name'] for phase, section in sections.items() if phase != 'train']
    if len(set(names)) < len(names):
        raise ValueError(f'the validation sets need different names, not {", ".join(names)}.')


def total_iterations(train_opt: dict, per_epoch: int) -> int:
    """The length of a training."""
    if train_opt.get('total_iter') is not None:
        return int(train_opt['total_iter'])
    if train_opt.get('total_epoch') is None:
        raise ValueError('train needs total_epoch or total_iter, the length of the training.')
    return int(train_opt['total_epoch'] * per_epoch)


def check_resumable(state: dict, given: dict) -> None:
    """ValueError where a training cannot go on exactly from a state.

    Args:
        state: a training state.
        given: the training file's content now.
    """
    if state['world_size'] != world_size():
        raise ValueError(f'--resume: the run had {state["world_size"]} processes, not {world_size()}: start as many again.')
    before, now = (_flat(parse(text, 'the training state')) for text in (state['options'], dump(given)))
    for key in sorted(before.keys() | now.keys()):
        free = key.startswith(MAY_CHANGE) or key.split('.')[-1] in MAY_CHANGE_LAST
        if not free and before.get(key) != now.get(key):
            raise ValueError(
                f'--resume: {key} is {now.get(key)!r}, and was {before.get(key)!r} when the run began: set it back, or start '
                'again without --resume.'
            )


def _flat(options: dict, prefix: str = '') -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in options.items():
        flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat
