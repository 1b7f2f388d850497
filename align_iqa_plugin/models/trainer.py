"""The training loop: `train(options)` drives `AlignIQAModel` from a training file, and a stopped run goes on exactly.

All randomness of an iteration comes from generators that are seeded by (manual_seed, process, iteration), that of an image's
augmentation by (manual_seed, epoch, image), and the order of an epoch by (manual_seed, epoch). So no generator's state has to
be kept, the number of an iteration says where in the data the training stands, and neither the number of workers nor what is
validated in between changes the curve. An epoch is every image once; its last batch is filled up with the epoch's first ones.

Files, under `root`: experiments/NAME/ with the log, options.yml, training_states/ITERATION.state (`training_state.py`) and models/
net_start.pth (the fitted start), net_best.pth (the best validation), net_latest.pth (the end); tb_logger/NAME/.

Keys of the training file that are read here: manual_seed, num_gpu, `datasets`, `train`: total_epoch or total_iter, patience
(validations without improvement after which the training ends); `val`: val_freq (iterations, by default an epoch); `logger`:
print_freq, save_checkpoint_freq (iterations between run states), save_latest_freq, use_tb_logger. The model reads the others.
"""

import copy
import datetime
import logging
import math
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from pyiqa.data import build_dataset
from pyiqa.models import build_model
from pyiqa.utils import get_env_info, get_root_logger, get_time_str, init_tb_logger, mkdir_and_rename
from tqdm import tqdm

from align_iqa_plugin.models.align_iqa_model import AlignIQAModel
from align_iqa_plugin.models.process_group import (
    ProcessLost,
    any_process,
    barrier,
    broadcast,
    gather,
    process_group,
    rank,
    shard,
    world_size,
)
from align_iqa_plugin.models.sampler import ResumableBatchSampler, Samples, build_loader, seed_everything
from align_iqa_plugin.models.training_state import latest_training_state, list_training_states, save_training_state

PRINT_EVERY = 10  # iterations, where logger.print_freq does not say
SAVE_EVERY = 100  # iterations, where logger.save_checkpoint_freq does not say
# What a continued run may have otherwise than before: it changes what is told, or when the training ends, not what is learned
MAY_CHANGE = ('logger.', 'num_gpu', 'train.total_', 'train.patience')
MAY_CHANGE_LAST = ('num_worker_per_gpu', 'pin_memory', 'persistent_workers', 'prefetch_mode', 'num_prefetch_queue')


class TrainingError(RuntimeError):
    """The training had to stop; the message says at which iteration and why."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the training; `signal` is the signal's number, the message says what was saved."""

    def __init__(self, number: int, sentence: str):
        super().__init__(sentence)
        self.signal = number


def train(options: dict, *, root: Path, resume: bool = False) -> dict[str, dict[str, dict]]:
    """Train as a training file says; the progress goes to stderr.

    Args:
        options: the file's content, plain data.
        root: the folder that takes experiments/ and tb_logger/. An experiment of the same name is renamed with the time.
        resume: go on with the experiment of this name instead, from its last run state; from the start where it has none.

    Returns:
        What the best network reaches, {validation set: {metric: {val, iter, better}}}; empty without validation.

    Raises:
        ValueError, FileNotFoundError: refused before any work.
        TrainingError: a loss that is no number, a full disk, an image that cannot be read, another process that died.
        Interrupted: by Ctrl-C or SIGTERM; what was done is saved.
    """
    try:
        return _train(options, Path(root), resume)
    except ProcessLost as lost:
        raise TrainingError(str(lost)) from lost


def _train(given: dict, root: Path, resume: bool) -> dict[str, dict[str, dict]]:
    options = _completed(given, root)
    with ExitStack() as stack:
        stop = stack.enter_context(_signals())
        stack.enter_context(process_group(gpu=options['num_gpu'] > 0))
        stack.enter_context(_deterministic())
        device = torch.device('cuda' if options['num_gpu'] else 'cpu')
        states = Path(options['path']['training_states'])
        if rank() == 0:
            _make_folders(options, root, keep=resume and bool(list_training_states(states)))
        barrier(device)
        logger = stack.enter_context(_log_file(states.parent / f'train_{options["name"]}_{get_time_str()}.log'))
        logger.info(f'{get_env_info()}\n{yaml.safe_dump(given, sort_keys=False)}', extra={'quiet': True})
        state = latest_training_state(states) if resume else None
        _check_same_states(0 if state is None else state['iteration'], device)
        if state is not None:
            _check_same_run(state, given)
            options['manual_seed'] = state['seed']
        elif resume:
            logger.info('There is no run state to go on from: the training starts from the beginning.')
        if rank() == 0:
            (states.parent / 'options.yml').write_text(yaml.safe_dump(given, sort_keys=False), encoding='utf-8')
        tb_logger = None
        if options['logger'].get('use_tb_logger') and rank() == 0:
            tb_logger = init_tb_logger(log_dir=str(root / 'tb_logger' / options['name']))
            stack.callback(tb_logger.close)

        options['manual_seed'] = _agreed_seed(options.get('manual_seed'), device)
        seed_everything(options['manual_seed'])
        train_set = build_dataset(options['datasets']['train'])
        val_sets = [build_dataset(section) for phase, section in options['datasets'].items() if phase != 'train']
        model = build_model(options)
        broadcast([*model.net.parameters(), *model.net.buffers()])
        if state is not None:
            model.load_training_state(state['model'])
        elif options['train'].get('ridge_alpha') is not None:
            model.start_as_ridge_regression(train_set)
        start = 0 if state is None else state['iteration']
        _loop(model, options, given, train_set, val_sets, start, tb_logger, stop)
    return model.best_metric_results


def _loop(model: AlignIQAModel, options, given, train_set, val_sets, start, tb_logger, stop) -> None:
    section, train_opt, log_opt = options['datasets']['train'], options['train'], options['logger']
    seed, logger, patience = options['manual_seed'], get_root_logger(), train_opt.get('patience') or math.inf
    batches = ResumableBatchSampler(
        len(train_set),
        batch_size=section['batch_size_per_gpu'] * world_size(),
        seed=seed,
        shuffle=section.get('use_shuffle', True),
        enlarge=section.get('dataset_enlarge_ratio', 1),
    )
    total = _iterations(train_opt, batches.per_epoch) if model.trained else 0
    batches.first, batches.last = start, total
    val_every = (options.get('val') or {}).get('val_freq') or batches.per_epoch
    if not val_sets or not (options.get('val') or {}).get('metrics'):
        val_sets = []
        logger.info('No validation (datasets.val and val.metrics): the last network is kept, as net_latest.pth.')
    logger.info(
        f'{len(train_set)} images, {total} iterations of {batches.batch_size} images, {batches.per_epoch} an epoch; '
        f'{sum(p.numel() for p in model.trained.values()):,} trained parameters.'
    )

    def validate(iteration: int) -> None:
        for val_set in val_sets:
            table = model.score(build_loader(val_set, val_set.opt, sampler=shard(len(val_set))), iteration)
            model.record(val_set, iteration, gather(table, len(val_set)), tb_logger)

    stop.looping, iteration, pace_from = True, start, (time.monotonic(), start)
    bar = tqdm(
        total=total * batches.batch_size,
        initial=start * batches.batch_size,
        desc='training',
        unit=' images',
        disable=None if rank() == 0 else True,
    )
    data = None
    try:
        if start == 0 and train_opt.get('ridge_alpha') is not None:
            validate(0)  # what the training has to beat
        data = iter(build_loader(Samples(train_set, seed), section, batch_sampler=batches))
        for iteration in range(start + 1, total + 1):
            if model.stale >= patience:
                logger.info(f'No better validation for {model.stale} times: the training ends after iteration {iteration - 1}.')
                break
            batch = _next_batch(data, iteration)
            seed_everything(seed, rank(), iteration)
            model.feed_data(batch)
            model.optimize_parameters(iteration)
            if iteration % batches.per_epoch == 0:
                model.update_learning_rate(iteration // batches.per_epoch + 1)

            loss = sum(model.log_dict.values())
            bar.set_postfix({'loss': f'{loss:.4f}', **_last_metrics(model)}, refresh=False)
            bar.update(batches.batch_size)
            if iteration % (log_opt.get('print_freq') or PRINT_EVERY) == 0:
                seconds = (time.monotonic() - pace_from[0]) / (iteration - pace_from[1])
                pace_from = time.monotonic(), iteration
                logger.info(
                    f'iteration {iteration} of {total}: loss {loss:.4f}, '
                    f'learning rate {max(model.get_current_learning_rate()):.3g}, {batches.batch_size / seconds:.1f} images/s, '
                    f'{datetime.timedelta(seconds=int(seconds * (total - iteration)))} left',
                    extra={'quiet': not bar.disable},
                )
                for name, value in model.log_dict.items():
                    if tb_logger:
                        tb_logger.add_scalar(f'losses/{name}', value, iteration)

            validates = bool(val_sets) and (iteration % val_every == 0 or iteration == total)
            if validates:
                validate(iteration)
            stopping = any_process(stop.number is not None, model.device)
            save_every = log_opt.get('save_checkpoint_freq') or SAVE_EVERY
            if rank() == 0 and (validates or stopping or iteration == total or iteration % save_every == 0):
                state = {'iteration': iteration, 'seed': seed, 'world_size': world_size()}
                state |= {'options': yaml.safe_dump(given), 'model': model.training_state()}
                save_training_state(Path(options['path']['training_states']), iteration, state)
            if iteration % (log_opt.get('save_latest_freq') or math.inf) == 0:
                model.save_network(model.net, 'net', -1)
            if stopping:
                raise Interrupted(
                    stop.number or signal.SIGTERM,
                    f'stopped and saved at iteration {iteration} of {total}: --resume goes on from there.',
                )
        model.save_network(model.net, 'net', -1)
    except (FloatingPointError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = list_training_states(Path(options['path']['training_states']))
        ahead = f'; --resume goes on from {kept[0]}' if kept else ''
        raise TrainingError(
            f'the training stopped at iteration {iteration} of {total}: {reason.rstrip(".")}{ahead}.'
        ) from error
    finally:
        stop.looping = False
        bar.close()
        # torch has no public word for it, and without it the workers live as long as somebody holds an error's traceback
        getattr(data, '_shutdown_workers', lambda: None)()
    if val_sets and not model.best_metric_results:
        logger.warning(f'No validation gave a number for {model.key_metric}, so there is no net_best.pth.')


def _next_batch(data: Iterator[dict], iteration: int) -> dict:
    try:
        return next(data)
    except (ValueError, OSError, RuntimeError) as error:
        # a worker's error comes with its traceback in the message
        raise TrainingError(f'iteration {iteration}: {str(error).strip().splitlines()[-1]}') from error


def _agreed_seed(seed: int | None, device: torch.device) -> int:
    """The seed, or one that is drawn, the same in all processes."""
    seed = torch.tensor(random.SystemRandom().randrange(2**31) if seed is None else seed, device=device)
    broadcast([seed])
    return int(seed)


def _completed(options: dict, root: Path) -> dict:
    """The options with what pyiqa's own command fills in; ValueError for what cannot be trained."""
    options = copy.deepcopy(options)
    for phase, section in options['datasets'].items():
        if phase != 'train' and phase.split('_')[0] != 'val':
            raise ValueError(
                f"datasets.{phase} is not possible: training reads 'train' and 'val', 'val_1' ... and no other set."
            )
        section['phase'] = phase.split('_')[0]
    names = [section['name'] for phase, section in options['datasets'].items() if phase != 'train']
    if len(set(names)) < len(names):
        raise ValueError(f'the validation sets need different names, not {", ".join(names)}.')
    _iterations(options['train'], 1)
    if (options.get('manual_seed') or 0) < 0:
        raise ValueError(f'manual_seed is {options["manual_seed"]}, not a whole number from 0.')
    options.setdefault('logger', {})
    if options['logger'].get('use_tb_logger') and find_spec('tensorboard') is None:
        raise ValueError('logger.use_tb_logger needs the package tensorboard: install it, or set use_tb_logger: false.')
    path = options.setdefault('path', {})
    if path.get('resume_state'):
        raise ValueError('path.resume_state is not read: --resume goes on from the last run state of the experiment.')
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
    # 'dist' and more than one GPU would make pyiqa wrap the network, which `data_parallel.py` has no need of
    return options | {'is_train': True, 'dist': False, 'num_gpu': min(gpus, 1) if wanted else 0}


def _iterations(train_opt: dict, per_epoch: int) -> int:
    """The length of the training."""
    if train_opt.get('total_iter') is not None:
        return int(train_opt['total_iter'])
    if train_opt.get('total_epoch') is None:
        raise ValueError('train needs total_epoch or total_iter, the length of the training.')
    return int(train_opt['total_epoch'] * per_epoch)


def _check_same_states(iteration: int, device: torch.device) -> None:
    """ValueError where not every process has found the run state of process 0."""
    first = torch.tensor(iteration, device=device)
    broadcast([first])
    if int(first) != iteration:
        raise ValueError(f'--resume: process {rank()} does not see the run state of process 0: experiments/ has to be shared.')


def _check_same_run(state: dict, given: dict) -> None:
    """ValueError where a run cannot be continued exactly."""
    if state['world_size'] != world_size():
        raise ValueError(f'--resume: the run had {state["world_size"]} processes, not {world_size()}: start as many again.')
    before, now = (_flat(yaml.safe_load(text)) for text in (state['options'], yaml.safe_dump(given)))
    for key in sorted(before.keys() | now.keys()):
        free = key.startswith(MAY_CHANGE) or key.split('.')[-1] in MAY_CHANGE_LAST
        if not free and before.get(key) != now.get(key):
            raise ValueError(
                f'--resume: {key} is {now.get(key)!r}, and was {before.get(key)!r} when the run began: set it back, or start '
                'again without --resume.'
            )


def _flat(options: dict, prefix: str = '') -> dict[str, object]:
    flat = {}
    for key, value in options.items():
        flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat


def _make_folders(options: dict, root: Path, *, keep: bool) -> None:
    with redirect_stdout(sys.stderr):  # pyiqa prints what it renames; stdout is for results
        if not keep:
            mkdir_and_rename(options['path']['experiments_root'])
            if options['logger'].get('use_tb_logger'):
                (root / 'tb_logger_archived').mkdir(exist_ok=True)
                mkdir_and_rename(str(root / 'tb_logger' / options['name']))
    for name in ('models', 'training_states'):
        Path(options['path'][name]).mkdir(parents=True, exist_ok=True)


def _last_metrics(model: AlignIQAModel) -> dict[str, str]:
    return {f'{name} {model.key_metric}': f'{values[model.key_metric]:.4f}' for name, (_, values) in model.last_results.items()}


class _Console(logging.Handler):
    """To stderr, above a progress bar: what this package has to say, and pyiqa's warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        ours = 'align_iqa_plugin' in record.pathname and not getattr(record, 'quiet', False)
        return record.levelno > logging.INFO or ours

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _log_file(path: Path) -> Iterator[logging.Logger]:
    """Inside, pyiqa's logger writes to this file and tells the console less; it may have been made before."""
    logger = get_root_logger()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers = [_Console()] + ([logging.FileHandler(path, encoding='utf-8')] if rank() == 0 else [])
    logger.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s: %(message)s'))
    try:
        yield logger
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers = handlers
        logger.setLevel(level)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Inside, cuDNN chooses its algorithms by rule, not by speed measured at the moment."""
    backend = torch.backends.cudnn
    before = backend.benchmark, backend.deterministic
    backend.benchmark, backend.deterministic = False, True
    try:
        yield
    finally:
        backend.benchmark, backend.deterministic = before


class _Stop:
    """What a signal has asked for. While the loop runs it is left to finish its iteration; otherwise it stops at once."""

    number: int | None = None
    looping = False

    def __call__(self, number: int, frame) -> None:
        if not self.looping or self.number is not None:
            raise Interrupted(number, 'stopped at once: what was saved before is kept.')
        self.number = number


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Inside, Ctrl-C and SIGTERM ask the training to stop; a second one stops it at once."""
    stop, before = _Stop(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
