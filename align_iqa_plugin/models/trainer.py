"""The training loop: `train(options)` drives `AlignIQAModel` from a training file, and a stopped run goes on exactly.

All randomness of an iteration comes from generators that are seeded by (manual_seed, process, iteration), that of an image's
augmentation by (manual_seed, epoch, image), and the order of an epoch by (manual_seed, epoch). So no generator's state has to
be saved, the number of an iteration says where in the data the training stands, and neither the number of workers nor what is
validated in between changes the curve. On a GPU all this holds up to rounding, since its sums have no fixed order.

Files, under `root`: experiments/NAME/ with the log, options.yml, training_states/ITERATION.state (`training_state.py`) and
models/ net_start.pth (the fitted start), net_best.pth (the best validation), net_latest.pth (the end); tb_logger/NAME/.

Keys of the training file that are read here: manual_seed, num_gpu, `datasets`, `train`: total_epoch or total_iter, patience
(validations without improvement after which the training ends); `val`: val_freq (iterations, by default an epoch); `logger`:
print_freq, save_checkpoint_freq (iterations between training states), save_latest_freq, use_tb_logger. The model reads the
others.
"""

import math
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from pyiqa.data import build_dataset
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.models import build_model
from pyiqa.utils import get_env_info, get_root_logger, get_time_str

from align_iqa_plugin.models.align_iqa_model import AlignIQAModel
from align_iqa_plugin.models.options_file import dump, write_file
from align_iqa_plugin.models.process_group import (
    ProcessLost,
    any_process,
    barrier,
    broadcast,
    gather,
    process_group,
    rank,
    world_size,
)
from align_iqa_plugin.models.progress import Progress
from align_iqa_plugin.models.run_folder import curves, log_file, make_folders, run_lock
from align_iqa_plugin.models.run_options import check_resumable, complete_options, total_iterations
from align_iqa_plugin.models.sampler import ResumableBatchSampler, Samples, build_loader
from align_iqa_plugin.models.signals import Interrupted, StopRequest, stop_request
from align_iqa_plugin.models.training_state import latest_training_state, list_training_states, save_training_state
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.seeds import seed_everything

PRINT_EVERY = 10  # iterations, where logger.print_freq does not say
SAVE_EVERY = 100  # iterations, where logger.save_checkpoint_freq does not say


class TrainingError(RuntimeError):
    """The training had to stop; the message says at which iteration and why."""


def train(options: dict, *, root: Path, resume: bool = False) -> dict[str, dict[str, dict]]:
    """Train as a training file says; the progress goes to stderr.

    Args:
        options: the file's content, plain data.
        root: the folder that takes experiments/ and tb_logger/. An experiment of the same name is renamed with the time.
        resume: go on with the experiment of this name from its last training state, or from the start if it has none.

    Returns:
        What the best network reaches, {validation set: {metric: {val, iter, better}}}; empty without validation.

    Raises:
        ValueError, FileNotFoundError: the training cannot begin, for example because another process has its folder.
        OSError: a folder or a file of the experiment cannot be made.
        TrainingError: a loss that is not finite, a full disk, an image that cannot be read, another process that died.
        Interrupted: by Ctrl-C or SIGTERM; what was done is saved.
    """
    try:
        return _train(options, Path(root), resume)
    except ProcessLost as lost:
        raise TrainingError(str(lost)) from lost


def _train(given: dict, root: Path, resume: bool) -> dict[str, dict[str, dict]]:
    options = complete_options(given, root)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_request())
        stack.enter_context(process_group(gpu=options['num_gpu'] > 0))
        stack.enter_context(_deterministic())
        device = torch.device('cuda' if options['num_gpu'] else 'cpu')
        states = Path(options['path']['training_states'])
        if rank() == 0:
            stack.enter_context(run_lock(root, options['name']))
            make_folders(options, root, keep=resume and bool(list_training_states(states)))
        barrier(device)
        logger = stack.enter_context(log_file(states.parent / f'train_{options["name"]}_{get_time_str()}.log'))
        logger.info(f'{get_env_info()}\n{dump(given)}', extra={'quiet': True})
        state = latest_training_state(states) if resume else None
        _check_same_iteration(0 if state is None else state['iteration'], device)
        if state is not None:
            check_resumable(state, given)
            options['manual_seed'] = state['seed']
        elif resume:
            logger.info('There is no training state to go on from: the training starts from the beginning.')
        if rank() == 0:
            write_file(given, states.parent / 'options.yml')
        tb_logger = None
        if options['logger'].get('use_tb_logger') and rank() == 0:
            tb_logger = stack.enter_context(curves(root / 'tb_logger' / options['name']))

        options['manual_seed'] = _common_seed(options.get('manual_seed'), device)
        seed_everything(options['manual_seed'])
        model = build_model(options)
        # images whose features are cached are neither decoded nor checked
        checked = {'check_images': False} if model.cache and not model.trained else {}
        sets = {phase: build_dataset(section | checked) for phase, section in options['datasets'].items()}
        train_set, val_sets = sets.pop('train'), list(sets.values())
        broadcast([*model.net.parameters(), *model.net.buffers()])
        if state is not None:
            model.load_training_state(state['model'])
        else:
            model.start(train_set)
        start = 0 if state is None else state['iteration']
        _Loop(model, options, given, train_set, val_sets, start=start, tb_logger=tb_logger, stop=stop).run()
    return model.best_metric_results


class _Loop:
    """The iterations of a training with their validations and saves."""

    def __init__(
        self,
        model: AlignIQAModel,
        options: dict,
        given: dict,
        train_set: BaseIQADataset,
        val_sets: list[BaseIQADataset],
        *,
        start: int,
        tb_logger,
        stop: StopRequest,
    ):
        section, val_opt = options['datasets']['train'], options.get('val') or {}
        self.model, self.options, self.given, self.stop, self.tb_logger = model, options, given, stop, tb_logger
        self.train_set, self.val_sets = train_set, val_sets if val_opt.get('metrics') else []
        self.seed, self.log_opt = options['manual_seed'], options['logger']
        self.patience = options['train'].get('patience') or math.inf
        self.batches = ResumableBatchSampler(
            len(train_set),
            batch_size=section['batch_size_per_gpu'] * world_size(),
            seed=self.seed,
            shuffle=section.get('use_shuffle', True),
            enlarge=section.get('dataset_enlarge_ratio', 1),
        )
        self.total = total_iterations(options['train'], self.batches.per_epoch) if model.trained else 0
        self.batches.first, self.batches.last = start, self.total
        self.val_every = val_opt.get('val_freq') or self.batches.per_epoch
        self.states, self.start, self.iteration = Path(options['path']['training_states']), start, start

    def run(self) -> None:
        """Train to the end; the errors are those of `train`."""
        self._log_beginning()
        progress = Progress(
            start=self.start,
            total=self.total,
            batch_size=self.batches.batch_size,
            print_every=self.log_opt.get('print_freq') or PRINT_EVERY,
            tb_logger=self.tb_logger,
        )
        data = None
        try:
            if self.start == 0 and self.model.has_fitted_start:
                self._validate()  # what the training has to beat
            self.stop.can_wait = True
            section = self.options['datasets']['train']
            data = iter(build_loader(Samples(self.train_set, self.seed), section, batch_sampler=self.batches))
            while self.iteration < self.total and not self._out_of_patience():
                self.iteration += 1
                self._step(data)
                rate = max(self.model.get_current_learning_rate())
                progress.update(self.iteration, self.model.log_dict, rate, self._latest_metrics())
                self._validate_and_save()
            self.model.save_network(self.model.net, 'net', -1)
            self.stop.can_wait = False  # no iteration follows that would look for a signal
            chosen_on = (val_set for val_set in self.val_sets if val_set.opt['name'] == self.model.selection.select_on)
            self.model.finish(self.train_set, next(chosen_on, None))
        except (FloatingPointError, OSError) as error:
            raise TrainingError(self._reason(error)) from error
        finally:
            self.stop.can_wait = False
            progress.close()
            # torch has no public way to end the workers, which otherwise live as long as an error's traceback is held
            getattr(data, '_shutdown_workers', lambda: None)()
        if self.val_sets and not self.model.best_metric_results:
            key = self.model.selection.key_metric
            get_root_logger().warning(f'No validation gave a number for {key}, so there is no net_best.pth.')

    def _log_beginning(self) -> None:
        logger, batches = get_root_logger(), self.batches
        if not self.val_sets:
            logger.info('No validation (datasets.val and val.metrics): the last network is kept, as net_latest.pth.')
        logger.info(
            f'{counted(len(self.train_set), "image")}, {counted(self.total, "iteration")} of '
            f'{counted(batches.batch_size, "image")}, {batches.per_epoch} an epoch; '
            f'{sum(p.numel() for p in self.model.trained.values()):,} trained parameters.'
        )

    def _out_of_patience(self) -> bool:
        count = self.model.selection.validations_without_improvement
        if count < self.patience:
            return False
        get_root_logger().info(
            f'{counted(count, "validation")} without improvement: the training ends after iteration {self.iteration}.'
        )
        return True

    def _step(self, data: Iterator[dict]) -> None:
        try:
            batch = next(data)
        except (ValueError, OSError, RuntimeError) as error:
            # a worker's error comes with its traceback in the message
            raise TrainingError(f'iteration {self.iteration}: {str(error).strip().splitlines()[-1]}') from error
        seed_everything(self.seed, rank(), self.iteration)
        self.model.feed_data(batch)
        self.model.optimize_parameters(self.iteration)
        if self.iteration % self.batches.per_epoch == 0:
            self.model.update_learning_rate(self.iteration // self.batches.per_epoch + 1)

    def _validate_and_save(self) -> None:
        """What follows on a step: validation, training state, latest network, and the end that a signal asks for."""
        is_last = self.iteration == self.total
        validates = bool(self.val_sets) and (is_last or self.iteration % self.val_every == 0)
        if validates:
            self._validate()
        stopping = any_process(self.stop.number is not None, self.model.device)
        save_every = self.log_opt.get('save_checkpoint_freq') or SAVE_EVERY
        if rank() == 0 and (validates or stopping or is_last or self.iteration % save_every == 0):
            self._save_state()
        if self.iteration % (self.log_opt.get('save_latest_freq') or math.inf) == 0:
            self.model.save_network(self.model.net, 'net', -1)
        if stopping:
            raise Interrupted(
                self.stop.number or signal.SIGTERM,
                f'stopped and saved at iteration {self.iteration} of {self.total}: --resume goes on from there.',
            )

    def _validate(self) -> None:
        for val_set in self.val_sets:
            table = gather(self.model.score(val_set, self.iteration), len(val_set))
            self.model.record(val_set, self.iteration, table, self.tb_logger)

    def _save_state(self) -> None:
        state = {
            'iteration': self.iteration,
            'seed': self.seed,
            'world_size': world_size(),
            'options': dump(self.given),
            'model': self.model.training_state(),
        }
        save_training_state(self.states, self.iteration, state)

    def _latest_metrics(self) -> dict[str, str]:
        selection = self.model.selection
        return {
            f'{name} {selection.key_metric}': f'{values[selection.key_metric]:.4f}'
            for name, (_, values) in selection.latest.items()
        }

    def _reason(self, error: FloatingPointError | OSError) -> str:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        states = list_training_states(self.states)
        way_on = f'; --resume goes on from {states[0]}' if states else ''
        return f'the training stopped at iteration {self.iteration} of {self.total}: {reason.rstrip(".")}{way_on}.'


def _common_seed(seed: int | None, device: torch.device) -> int:
    """The seed, or a random one, the same in all processes."""
    common = torch.tensor(random.SystemRandom().randrange(2**31) if seed is None else seed, device=device)
    broadcast([common])
    return int(common)


def _check_same_iteration(iteration: int, device: torch.device) -> None:
    """ValueError in a process that has found another training state than process 0."""
    first = torch.tensor(iteration, device=device)
    broadcast([first])
    if int(first) != iteration:
        raise ValueError(
            f'--resume: process {rank()} does not see the training state of process 0: experiments/ has to be shared.'
        )


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
