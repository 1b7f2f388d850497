"""Training Align-IQA: one step, one validation, and what has to be kept. `model_type: AlignIQAModel` in a training file.

The loop around it is `training.py` (`align-iqa train`); pyiqa's own (`python -m pyiqa.train`) drives it too, without resume.
`GeneralIQAModel` knows images and one score. This adds the prompts, several scores, and keys of `train:` and `val:`, which
`options.py` declares and explains.
"""

import hashlib
import inspect
import math
import re
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from pyiqa.data import build_dataset
from pyiqa.losses import build_loss
from pyiqa.metrics import calculate_metric
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from pyiqa.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from align_iqa_plugin.archs.pretrained import read_weights
from align_iqa_plugin.data.feature_cache import FrozenCache
from align_iqa_plugin.models.process_group import all_reduce, all_reduce_gradients, broadcast, gather, rank, shard, world_size
from align_iqa_plugin.models.training_state import serialize
from align_iqa_plugin.runtime.atomic import atomic_write

FOLDS = 5
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class AlignIQAModel(GeneralIQAModel):
    """pyiqa's model for `AlignIQA`: see the keys above."""

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Not wrapped, as pyiqa would: see `data_parallel.py`."""
        return net.to(self.device)

    def load_network(self, net, load_path, strict=True, param_key='params'):
        """Start from the weights in a file, which is read without running code."""
        net.load_state_dict(read_weights(load_path, 'path.pretrain_network'), strict=strict)

    def init_training_settings(self):
        train_opt = self.opt['train']
        self.net.train()
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        if not self.trained and train_opt.get('ridge_alpha') is None:
            raise ValueError('this network has no parameter to train: its head is fitted, which train.ridge_alpha does.')
        precision = train_opt.get('precision', 'fp32')
        if precision not in PRECISIONS:
            raise ValueError(f"train.precision '{precision}' is not possible; possible are: {', '.join(PRECISIONS)}.")
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == 'fp16')
        self.accumulate = train_opt.get('accumulate', 1)
        self.losses = {}
        for name, key in (('l_mos', 'mos_loss_opt'), ('l_metric', 'metric_loss_opt')):
            if train_opt.get(key):
                self.losses[name] = self._build_loss(key, train_opt[key])
        if self.trained and not self.losses:
            raise ValueError('train needs a loss: mos_loss_opt or metric_loss_opt.')
        self.cache = None
        if train_opt.get('frozen_cache'):
            if self.opt['datasets']['train'].get('augment'):
                raise ValueError('train.frozen_cache keeps one view of an image: leave out datasets.train.augment, or it.')
            self.cache = FrozenCache(train_opt['frozen_cache'], self.net)
        if self.trained:
            self.setup_optimizers()
        if self.trained and train_opt.get('scheduler'):
            self.setup_schedulers()
        self.average = None
        if train_opt.get('ema_decay') is not None:
            self.average = {name: p.detach().clone() for name, p in self.trained.items()}
        self.shifts: dict[int, Tensor] = {}  # of an image and prompt, by `_number`
        self._init_selection()

    def _build_loss(self, key: str, options: dict) -> tuple[nn.Module, bool]:
        """The loss, and whether it is one of each score alone; otherwise, like a correlation, it is one of the whole batch."""
        single = 'reduction' in inspect.signature(LOSS_REGISTRY.get(options['type'])).parameters
        if single and options.get('reduction', 'mean') != 'mean':
            raise ValueError(f'train.{key}: reduction {options["reduction"]!r} is not possible, only the mean is.')
        if not single and self.accumulate > 1:
            raise ValueError(f'train.{key}: {options["type"]} is a loss of the whole batch, so train.accumulate has to be 1.')
        return build_loss(options | {'reduction': 'none'} if single else options).to(self.device), single

    def setup_optimizers(self):
        options = dict(self.opt['train']['optim'])
        kind, layer_decay = options.pop('type'), options.pop('layer_decay', None)
        if layer_decay is not None and not any(name.startswith('backbone.') for name in self.trained):
            raise ValueError('train.optim.layer_decay needs freeze_backbone: false, since a frozen backbone is not trained.')
        settings = {
            key.removeprefix('lr_'): {
                'lr': options.pop(key),
                'weight_decay': options.pop(key.replace('lr_', 'weight_decay_', 1), 0.0),
            }
            for key in [key for key in options if key.startswith('lr_')]
        }
        lost = [key for key in options if key.startswith('weight_decay_')]
        if lost:
            raise ValueError(f'train.optim.{lost[0]} needs {lost[0].replace("weight_decay_", "lr_", 1)} beside it.')

        groups: dict[tuple, list[Tensor]] = {}
        for name, parameter in self.trained.items():
            path = name.split('.')
            key = next((part for part in reversed(path) if part in settings), None)
            scale = 1.0 if layer_decay is None else layer_decay ** self._layers_above(name)
            groups.setdefault((key, scale), []).append(parameter)
        for key in settings.keys() - {key for key, _ in groups}:
            parts = ', '.join(dict.fromkeys(name.split('.')[0] for name in self.trained))
            raise ValueError(
                f'train.optim.lr_{key}: no trained parameter has {key!r} in its name that is not in another group already; '
                f'possible are the parts that are trained ({parts}) and what their dotted names hold.'
            )
        base = options.pop('lr')
        optimizer_groups = [
            {'params': parameters, **settings.get(key, {}), 'lr': settings.get(key, {}).get('lr', base) * scale}
            for (key, scale), parameters in groups.items()
        ]
        self.optimizer = self.get_optimizer(kind, optimizer_groups, base, **options)
        self.optimizers.append(self.optimizer)

    def _layers_above(self, name: str) -> int:
        """How many layers of the backbone, its embedding the lowest, follow on that of a parameter; 0 outside of it."""
        if not name.startswith('backbone.'):
            return 0
        depth = len(self.net.backbone.vit.blocks)
        block = re.match(r'backbone\.vit\.blocks\.(\d+)\.', name)
        if block:
            return depth - int(block[1])
        return 1 if name.startswith('backbone.vit.norm.') else depth + 1

    # One step

    def feed_data(self, data: dict) -> None:
        """Take a batch: img, mos_label (b, 1), and where there are several scores targets and target_mask (b, k)."""
        self.img_input, self.targets, self.mask, self.prompts, self.paths = self._take(data)

    def _take(self, data: dict) -> tuple[Tensor, Tensor, Tensor, list[str] | None, list[str]]:
        targets = data.get('targets', data['mos_label']).to(self.device)
        mask = data['target_mask'].to(self.device) if 'target_mask' in data else torch.ones_like(targets).bool()
        return data['img'].to(self.device, non_blocking=True), targets, mask, data.get('prompt'), data['img_path']

    def net_forward(self, net: nn.Module, rows: slice = slice(None)) -> Tensor:
        """Scores (b, k) of the batch, or of some of its rows, in float32."""
        images, paths = self.img_input[rows], self.paths[rows]
        prompts = None if self.prompts is None else self.prompts[rows]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            scores = net(images, caption_list=prompts, plain=self.cache(images, paths) if self.cache else None)
        if scores.shape != self.targets[rows].shape:
            raise ValueError(
                f'the dataset gives {self.targets.shape[1]} scores an image and the network {scores.shape[1]}: set '
                f'network.targets: {self.targets.shape[1]}, or choose other scores.'
            )
        return scores.float()

    def optimize_parameters(self, current_iter: int) -> None:
        """One step on the batch; its loss is in `log_dict`.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; the weights are as before.
        """
        train_opt = self.opt['train']
        if current_iter == 1:
            self._start_in_pyiqas_loop()
        targets = self.targets
        if self.shifts:
            keys = [_number(*pair) for pair in _pairs(self.paths, self.prompts)]
            targets = targets + torch.stack([self.shifts[key] for key in keys]).to(self.device)
        counts = all_reduce(self.mask.sum(0))
        size = math.ceil(len(targets) / self.accumulate)
        losses = torch.zeros(len(self.losses), device=self.device)
        self.optimizer.zero_grad()
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            scores = self.net_forward(self.net, rows)
            parts = torch.stack(
                [self._loss(*kind, scores, targets[rows], self.mask[rows], counts) for kind in self.losses.values()]
            )
            if not parts.isfinite().all():
                raise FloatingPointError(self._not_finite('loss', current_iter, self.paths[rows]))
            self.scaler.scale(parts.sum()).backward()
            losses += parts.detach()
        parameters = list(self.trained.values())
        all_reduce_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, train_opt.get('clip_grad_norm') or math.inf)
        if not self.scaler.is_enabled() and not norm.isfinite():  # the scaler leaves such a step out
            raise FloatingPointError(self._not_finite('gradient', current_iter, self.paths))
        with self._warmed_up(current_iter):
            self.scaler.step(self.optimizer)
        scale = self.scaler.get_scale()
        self.scaler.update()
        taken = self.scaler.get_scale() >= scale  # a smaller scale is the scaler's word for a step that it left out
        self.log_dict = dict(zip(self.losses, all_reduce(losses).tolist(), strict=True))
        if taken and train_opt.get('schedule_by') == 'iteration':
            self._step_schedulers()
        if self.average is not None:
            # a young average forgets its start faster
            decay = min(train_opt['ema_decay'], current_iter / (current_iter + 10))
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    self.average[name].lerp_(parameter, 1 - decay)

    def _loss(self, criterion, single: bool, scores: Tensor, targets: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
        """This share of the batch's loss: over parts and processes they add up to it (mean over scores that exist).

        A loss of the whole batch is one of each process' shard, and their mean.
        """
        weights = self.opt['train'].get('score_weights') or [1.0] * scores.shape[1]
        if len(weights) != scores.shape[1]:
            raise ValueError(f'train.score_weights has {len(weights)} weights for {scores.shape[1]} scores.')
        if single:
            errors = criterion(scores, torch.where(mask, targets, scores.detach()))
            columns = (errors * mask).sum(0) / counts.clamp_min(1)
        else:
            pairs = [(scores[m, i : i + 1], targets[m, i : i + 1]) for i, m in enumerate(mask.T)]
            columns = (
                torch.stack([criterion(*pair) if len(pair[0]) > 1 else pair[0].sum() * 0 for pair in pairs]) / world_size()
            )
        weights = columns.new_tensor(weights)
        return (columns * weights).sum() / weights.sum()

    @contextmanager
    def _warmed_up(self, iteration: int):
        """Inside, the learning rates of the optimiser are smaller in the first `warmup_iter` iterations."""
        factor = min(1.0, iteration / max(1, self.opt['train'].get('warmup_iter') or 0))
        rates = self.get_current_learning_rate()
        self._set_lr([[rate * factor for rate in rates]])
        yield
        self._set_lr([rates])

    def _step_schedulers(self) -> None:
        for scheduler in self.schedulers:
            scheduler.step()

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """After an epoch, which is pyiqa's unit of a scheduler's numbers."""
        if self.opt['train'].get('schedule_by') != 'iteration' and current_iter > 1:
            self._step_schedulers()

    def _not_finite(self, what: str, iteration: int, paths: list[str]) -> str:
        names = ', '.join(Path(path).name for path in paths)
        return f'the {what} is not a finite number at iteration {iteration}; the images of that batch: {names}.'

    # Validation

    def _init_selection(self) -> None:
        val_opt = self.opt.get('val') or {}
        names = [section['name'] for phase, section in self.opt['datasets'].items() if phase.startswith('val')]
        self.best_metric_results: dict[str, dict[str, dict]] = {}
        self.best_iteration, self.stale = -1, 0
        self.last_results: dict[str, tuple[int, dict[str, float]]] = {}
        if not names or not val_opt.get('metrics'):
            return
        self.select_on = val_opt.get('select_on', names[0])
        self.key_metric = val_opt.get('key_metric') or next(iter(val_opt['metrics']))
        if self.select_on not in names:
            raise ValueError(
                f"val.select_on '{self.select_on}' is no name of a validation set; possible are: {', '.join(names)}."
            )
        if self.key_metric not in val_opt['metrics']:
            raise ValueError(f"val.key_metric '{self.key_metric}' is not one of val.metrics: {', '.join(val_opt['metrics'])}.")

    def _start_in_pyiqas_loop(self) -> None:
        if self.opt['train'].get('ridge_alpha') is not None and not self.shifts:
            self.start_as_ridge_regression()

    def save(self, epoch, current_iter, save_net_label='net'):
        """What pyiqa's loop calls, at its end too; where nothing is to be trained, it has taken no step before."""
        self._start_in_pyiqas_loop()
        super().save(epoch, current_iter, save_net_label)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """What pyiqa's loop calls, in one process, for a whole validation set."""
        self.record(dataloader.dataset, current_iter, self.score(dataloader, current_iter), tb_logger)

    def score(self, loader: DataLoader, iteration: int) -> Tensor:
        """Scores, targets and whether they exist, side by side, (n, 3 k), of the images of a loader, with averaged weights.

        Raises:
            FloatingPointError: a score is not finite.
        """
        self.net.eval()
        tables = [torch.zeros(0, 3 * self.net.config['targets'], device=self.device)]
        try:
            with self._averaged(), torch.no_grad():
                for batch in tqdm(loader, desc='validation', unit='batch', leave=False, disable=None if rank() == 0 else True):
                    self.feed_data(batch)
                    scores = self.net_forward(self.net)
                    if not scores.isfinite().all():
                        what = f'score in the validation set {loader.dataset.opt["name"]}'
                        raise FloatingPointError(self._not_finite(what, iteration, self.paths))
                    tables.append(torch.cat([scores, self.targets, self.mask], 1))
        finally:
            self.net.train()
        return torch.cat(tables)

    def record(self, dataset: Dataset, iteration: int, table: Tensor, tb_logger) -> None:
        """Log the metrics of a validation; keep the network if it is the best one.

        That is the first one with the best `key_metric` on `select_on`; a metric that is no number is never best. Then
        `best_metric_results` has what this network reaches on every set, as {dataset: {metric: {val, iter, better}}}.
        """
        name, options = dataset.opt['name'], self.opt['val']['metrics']
        scores, targets, mask = table.double().cpu().chunk(3, 1)
        further = dataset.opt.get('further_score_columns') or []
        columns = ['', *(f'{column} ' for column in further)][: scores.shape[1]]
        results: dict[str, float] = {}
        for column, title in enumerate(columns):
            rows = mask[:, column].bool()
            pair = [scores[rows, column].numpy(), targets[rows, column].numpy()]
            for metric, content in options.items():
                content = {key: value for key, value in content.items() if key != 'better'}
                results[f'{title}{metric}'] = float(calculate_metric(pair, content)) if rows.sum() > 1 else math.nan
        if tb_logger:
            for metric, value in results.items():
                tb_logger.add_scalar(f'val_metrics/{name}/{metric}', value, iteration)
        self.last_results[name] = iteration, {metric: results[metric] for metric in options}
        is_best = name == self.select_on and self._is_best(results[self.key_metric])
        if is_best:
            self.best_metric_results, self.best_iteration, self.stale = {}, iteration, 0
            self.save_network(self.net, 'net_best')
        elif name == self.select_on:
            self.stale += 1
        for other, (when, values) in self.last_results.items():
            if when == self.best_iteration:
                self.best_metric_results[other] = {
                    metric: {'val': value, 'iter': when, 'better': options[metric].get('better', 'higher')}
                    for metric, value in values.items()
                }
        numbers = ', '.join(f'{metric} {value:.4f}' for metric, value in results.items())
        get_root_logger().info(f'iteration {iteration}, {name}: {numbers}{" (best so far)" if is_best else ""}')

    def _is_best(self, value: float) -> bool:
        best = self.best_metric_results.get(self.select_on)
        if math.isnan(value) or best is None:
            return not math.isnan(value)
        best = best[self.key_metric]
        return value < best['val'] if best['better'] == 'lower' else value > best['val']

    @contextmanager
    def _averaged(self):
        """Inside, the network has its averaged weights, where there are any."""
        if self.average is None:
            yield
            return
        current = {name: p.detach().clone() for name, p in self.trained.items()}
        try:
            _fill(self.trained, self.average)
            yield
        finally:
            _fill(self.trained, current)

    # What is kept

    @master_only
    def save_network(self, net, net_label, current_iter=None, param_key='params'):
        """Write `models/LABEL.pth`, with the averaged weights where there are any; whole or not at all."""
        state = net.state_dict() | (self.average or {})
        suffix = {None: '', -1: '_latest'}.get(current_iter, f'_{current_iter}')
        path = Path(self.opt['path']['models']) / f'{net_label}{suffix}.pth'
        atomic_write(path, serialize({param_key: {key: tensor.detach().cpu() for key, tensor in state.items()}}))

    def training_state(self) -> dict:
        """All that the next step depends on beside the data and the seeds."""
        return {
            'net': self.net.state_dict(),
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'scaler': self.scaler.state_dict(),
            'average': self.average,
            'shifts': [list(self.shifts), torch.stack(list(self.shifts.values())) if self.shifts else torch.empty(0)],
            'best': self.best_metric_results,
            'best_iteration': self.best_iteration,
            'stale': self.stale,
        }

    def load_training_state(self, state: dict) -> None:
        """Become what `training_state` was called on."""
        self.net.load_state_dict(state['net'])
        for optimizer, saved_state in zip(self.optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(saved_state)
        for scheduler, saved_state in zip(self.schedulers, state['schedulers'], strict=True):
            scheduler.load_state_dict(saved_state)
        self.scaler.load_state_dict(state['scaler'])
        if self.average is not None:
            _fill(self.average, state['average'])
        self.shifts = dict(zip(*state['shifts'], strict=True))
        self.best_metric_results, self.best_iteration, self.stale = state['best'], state['best_iteration'], state['stale']

    # The start

    @torch.no_grad()
    def start_as_ridge_regression(self, dataset: Dataset | None = None) -> None:
        """Fit the head (`LinearHead.fit`), save the network as `net_start.pth`, and shift the training targets.

        The head has seen the training images, so what it leaves over of their scores is less than on unseen ones, and would
        teach the rest of the network little. The targets are therefore shifted by what the head gains from having seen an
        image: the network learns the residual that the head has on prompts that it was not fitted to.

        Args:
            dataset: the training images, built already.
        """
        alpha, section = float(self.opt['train']['ridge_alpha']), self.opt['datasets']['train']
        if dataset is None or section.get('augment'):
            dataset = build_dataset({key: value for key, value in section.items() if key != 'augment'})
        loader = DataLoader(
            dataset,
            batch_size=section['batch_size_per_gpu'],
            num_workers=section.get('num_worker_per_gpu') or 0,
            sampler=shard(len(dataset)),
        )
        net, rows, keys = self.net.eval(), [], []
        for batch in tqdm(loader, desc='ridge regression', unit='batch', leave=False, disable=None if rank() == 0 else True):
            images, targets, mask, prompts, paths = self._take(batch)
            if self.cache:
                vectors = self.cache.start_vectors(images, prompts, paths)
            else:
                vectors = net.features(images, prompts, *net.plain_blocks(images))
            rows.append(torch.cat([targets, mask, vectors], 1))
            keys += [(_number(prompt or path) % FOLDS, _number(path, prompt)) for path, prompt in _pairs(paths, prompts)]
        count, columns = len(dataset), targets.shape[1]
        scores, mask, vectors = gather(torch.cat(rows), count).split([columns, columns, rows[0].shape[1] - 2 * columns], 1)
        keys = gather(torch.tensor(keys, device=self.device), count)
        left_out = net.head.fit(
            vectors,
            scores,
            alpha=alpha,
            folds=keys[:, 0].tolist(),
            columns=slice(net.msfa.readings_width),
            mask=mask.bool(),
        )
        gain = net.head(vectors) - left_out
        broadcast([*net.buffers(), gain])
        self.shifts = dict(zip(keys[:, 1].tolist(), gain.cpu(), strict=True))
        net.is_trained = True
        self.save_network(net, 'net_start')
        net.train()
        seen, unseen = ((p - scores).square()[mask.bool()].mean().sqrt() for p in (left_out + gain, left_out))
        get_root_logger().info(
            f'The head starts as the ridge regression on {count} images, alpha {alpha}: '
            f'RMSE {seen:.4f} on them, {unseen:.4f} when their prompts are left out.'
        )


def _pairs(paths: list[str], prompts: list[str] | None) -> Iterable[tuple[str, str]]:
    return zip(paths, prompts or [''] * len(paths), strict=True)


def _number(*texts: str) -> int:
    """A number of 60 bits that stands for texts, the same in every process."""
    return int(hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:15], 16)


@torch.no_grad()
def _fill(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
