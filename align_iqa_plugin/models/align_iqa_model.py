"""Training Align-IQA: one step, one validation, and what is saved. `model_type: AlignIQAModel` in a training file.

The loop around it is `trainer.py` (`align-iqa train`); pyiqa's own (`python -m pyiqa.train`) drives it too, without resume.
`GeneralIQAModel` knows images and one score. This adds the prompts, several scores, and these keys of `train:`, all optional:
    ridge_alpha: before the first step, fit the head to the training images with this penalty, and save that network as
        `net_start.pth`: the number that the training has to beat. A network with nothing to train ends there.
    frozen_cache: folder that keeps what the frozen blocks give for each image (`FrozenCache`); not with `augment`.
    score_weights: a weight for each score in the loss, by default 1 each. The loss is their weighted mean.
    precision: 'fp32' (default), or 'bf16' or 'fp16' in autocast.
    accumulate: number of parts that a batch goes through the network in; less memory, the same gradient.
    clip_grad_norm: largest norm of the gradient.
    optim: also takes a learning rate for each part and a decay over the layers of a trained backbone (`optimizers.py`).
    warmup_iter: iterations over which the learning rate rises linearly to the scheduler's.
    schedule_by: 'iteration' counts the scheduler's numbers in iterations, where pyiqa counts epochs.
    ema_decay: validate and save the exponential moving average of the weights (`averaged_weights.py`).
And of `val:`
    select_on: name of the validation set that chooses `net_best.pth`, by default the first, by `key_metric`, by default the
        first metric.
"""

import hashlib
import math
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from pyiqa.data import build_dataset
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import read_weights
from align_iqa_plugin.data.feature_cache import FrozenCache
from align_iqa_plugin.models.averaged_weights import AveragedWeights
from align_iqa_plugin.models.losses import ScoresLoss
from align_iqa_plugin.models.optimizers import build_optimizer, warm_up
from align_iqa_plugin.models.process_group import all_reduce, all_reduce_gradients, broadcast, gather, rank, shard
from align_iqa_plugin.models.training_state import serialize
from align_iqa_plugin.models.validation import Selection, validation_metrics
from align_iqa_plugin.runtime.atomic import atomic_write
from align_iqa_plugin.runtime.names import suggest

FOLDS = 5
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class AlignIQAModel(GeneralIQAModel):
    """pyiqa's model for `AlignIQA`: see the keys above."""

    net: AlignIQA

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """The network, not wrapped as by pyiqa: `process_group.py` says why."""
        return net.to(self.device)

    def load_network(self, net, load_path, strict=True, param_key='params'):
        """Start from the weights in a file, which is read without running code."""
        _load_network_state(net, read_weights(load_path, 'path.pretrain_network'), strict=strict)

    def init_training_settings(self):
        train_opt = self.opt['train']
        self.net.train()
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        if not self.trained and train_opt.get('ridge_alpha') is None:
            raise ValueError('this network has no parameter to train: its head is fitted, which train.ridge_alpha does.')
        precision = train_opt.get('precision', 'fp32')
        if precision not in PRECISIONS:
            raise ValueError(f"train.precision: unknown precision '{precision}'{suggest(precision, PRECISIONS)}")
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == 'fp16')
        self.accumulate = train_opt.get('accumulate', 1)
        self.losses = {
            name: ScoresLoss(key, train_opt[key], accumulate=self.accumulate).to(self.device)
            for name, key in (('l_mos', 'mos_loss_opt'), ('l_metric', 'metric_loss_opt'))
            if train_opt.get(key)
        }
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
            self.average = AveragedWeights(self.trained, train_opt['ema_decay'])
        self.target_offsets: dict[int, Tensor] = {}  # of an image and prompt, by `_number`
        names = [section['name'] for phase, section in self.opt['datasets'].items() if phase.startswith('val')]
        self.selection = Selection(names, self.opt.get('val') or {})

    def setup_optimizers(self):
        self.optimizer = build_optimizer(self.net, self.trained, self.opt['train']['optim'])
        self.optimizers.append(self.optimizer)

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
        """One step on the batch; its loss is in `log_dict`. The network counts as trained from the first step on.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; the weights are as before.
        """
        train_opt = self.opt['train']
        if current_iter == 1:
            self._start_in_pyiqas_loop()
        self.optimizer.zero_grad()
        losses = self._backward(current_iter)
        parameters = list(self.trained.values())
        all_reduce_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, train_opt.get('clip_grad_norm') or math.inf)
        if not self.scaler.is_enabled() and not norm.isfinite():  # GradScaler skips such a step
            raise FloatingPointError(self._not_finite('gradient', current_iter, self.paths))
        with warm_up(self.optimizer, current_iter, train_opt.get('warmup_iter') or 0):
            self.scaler.step(self.optimizer)
        self.net.is_trained = True
        scale = self.scaler.get_scale()
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale  # GradScaler lowers its scale when it skips a step
        self.log_dict = dict(zip(self.losses, all_reduce(losses).tolist(), strict=True))
        if not skipped and train_opt.get('schedule_by') == 'iteration':
            self._step_schedulers()
        if self.average is not None:
            self.average.update()

    def _backward(self, iteration: int) -> Tensor:
        """Add the gradients of the batch, part by part; its losses, (number of losses,), as far as this process has them."""
        targets = self.targets
        if self.target_offsets:
            keys = [_number(*pair) for pair in _pairs(self.paths, self.prompts)]
            targets = targets + torch.stack([self.target_offsets[key] for key in keys]).to(self.device)
        counts, weights = all_reduce(self.mask.sum(0)), self.opt['train'].get('score_weights')
        size = math.ceil(len(targets) / self.accumulate)
        losses = torch.zeros(len(self.losses), device=self.device)
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            scores = self.net_forward(self.net, rows)
            parts = torch.stack(
                [loss(scores, targets[rows], self.mask[rows], counts, weights) for loss in self.losses.values()]
            )
            if not parts.isfinite().all():
                raise FloatingPointError(self._not_finite('loss', iteration, self.paths[rows]))
            self.scaler.scale(parts.sum()).backward()
            losses += parts.detach()
        return losses

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

    # What pyiqa's loop calls

    def _start_in_pyiqas_loop(self) -> None:
        if self.opt['train'].get('ridge_alpha') is not None and not self.target_offsets:
            self.start_as_ridge_regression()

    def save(self, epoch, current_iter, save_net_label='net'):
        """Save at pyiqa's intervals and at the end of its loop; a network with nothing to train has taken no step before."""
        self._start_in_pyiqas_loop()
        super().save(epoch, current_iter, save_net_label)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """Validate on a whole validation set in one process."""
        self.record(dataloader.dataset, current_iter, self.score(dataloader, current_iter), tb_logger)

    @property
    def best_metric_results(self) -> dict[str, dict[str, dict]]:
        """What the best network reaches on every validation set, {set: {metric: {val, iter, better}}}."""
        return self.selection.best

    # Validation

    def score(self, loader: DataLoader, iteration: int) -> Tensor:
        """Scores, targets and whether they exist, side by side, (n, 3 k), of the images of a loader, with averaged weights.

        Raises:
            FloatingPointError: a score is not finite.
        """
        self.net.eval()
        tables = [torch.zeros(0, 3 * self.net.config['targets'], device=self.device)]
        try:
            with self.average.applied() if self.average else nullcontext(), torch.no_grad():
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
        """Log the metrics of a validation; save the network as `net_best.pth` if `selection` calls it the best."""
        name, metrics = dataset.opt['name'], self.opt['val']['metrics']
        results = validation_metrics(table, dataset.opt.get('further_score_columns') or [], metrics)
        if tb_logger:
            for metric, value in results.items():
                tb_logger.add_scalar(f'val_metrics/{name}/{metric}', value, iteration)
        is_best = self.selection.add(name, iteration, {metric: results[metric] for metric in metrics})
        if is_best:
            self.save_network(self.net, 'net_best')
        numbers = ', '.join(f'{metric} {value:.4f}' for metric, value in results.items())
        get_root_logger().info(f'iteration {iteration}, {name}: {numbers}{" (best so far)" if is_best else ""}')

    # What is saved

    @master_only
    def save_network(self, net, net_label, current_iter=None, param_key='params'):
        """Write `models/LABEL.pth`, with the averaged weights where there are any."""
        state = _network_state(net) | (self.average.tensors() if self.average else {})
        suffix = {None: '', -1: '_latest'}.get(current_iter, f'_{current_iter}')
        path = Path(self.opt['path']['models']) / f'{net_label}{suffix}.pth'
        atomic_write(path, serialize({param_key: {key: tensor.detach().cpu() for key, tensor in state.items()}}))

    def training_state(self) -> dict:
        """All that the next step depends on beside the data and the seeds."""
        offsets = self.target_offsets
        return {
            'net': _network_state(self.net),
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'scaler': self.scaler.state_dict(),
            'average': self.average.state_dict() if self.average else None,
            'target_offsets': [list(offsets), torch.stack(list(offsets.values())) if offsets else torch.empty(0)],
            'selection': self.selection.state_dict(),
        }

    def load_training_state(self, state: dict) -> None:
        """Go on from what `training_state` gave."""
        _load_network_state(self.net, state['net'])
        for optimizer, saved_state in zip(self.optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(saved_state)
        for scheduler, saved_state in zip(self.schedulers, state['schedulers'], strict=True):
            scheduler.load_state_dict(saved_state)
        self.scaler.load_state_dict(state['scaler'])
        if self.average is not None:
            self.average.load_state_dict(state['average'])
        self.target_offsets = dict(zip(*state['target_offsets'], strict=True))
        self.selection.load_state_dict(state['selection'])

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
        self.target_offsets = dict(zip(keys[:, 1].tolist(), gain.cpu(), strict=True))
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


def _network_state(net: nn.Module) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint or a training state."""
    return net.state_dict()


def _load_network_state(net: nn.Module, state: dict[str, Tensor], *, strict: bool = True) -> None:
    """Give the network the tensors of a checkpoint or a training state."""
    net.load_state_dict(state, strict=strict)
