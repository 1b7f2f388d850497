"""Training Align-IQA: one step, one validation, and what is saved. `model_type: AlignIQAModel` in a training file.

The loop around it is `trainer.py` (`align-iqa train`); pyiqa's own (`python -m pyiqa.train`) drives it too, without resume.
`GeneralIQAModel` knows images and one score. This adds the prompts, several scores, and keys of `train:` and `val:`, which
`options.py` declares and explains.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from pyiqa.data import build_dataset
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from torch import Tensor, nn

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import checkpoint_state, frozen_digests, load_checkpoint
from align_iqa_plugin.archs.weights import read_weights
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.training_images import check_validation_sets
from align_iqa_plugin.models.adaptation import Adaptation
from align_iqa_plugin.models.averaged_weights import AveragedWeights
from align_iqa_plugin.models.fit import FIT_OPTIONS, Fit, calibrate_head, fit_head, image_keys
from align_iqa_plugin.models.losses import ScoresLoss, order_loss
from align_iqa_plugin.models.optimizers import build_optimizer, warm_up
from align_iqa_plugin.models.predict import Forward, labels_of, scores_of
from align_iqa_plugin.models.process_group import all_reduce, all_reduce_gradients, barrier, rank, shard, world_size
from align_iqa_plugin.models.training_state import serialize
from align_iqa_plugin.models.validation import Selection, validation_metrics
from align_iqa_plugin.runtime.atomic import atomic_write
from align_iqa_plugin.runtime.names import suggest

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class AlignIQAModel(GeneralIQAModel):
    """pyiqa's model for `AlignIQA`: see the keys above."""

    net: AlignIQA

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """The network, not wrapped as by pyiqa: `process_group.py` says why."""
        return net.to(self.device)

    def load_network(self, net, load_path, strict=True, param_key='params'):
        """Start from the weights in a file, which is read without running code."""
        refitted = self.opt['train'].get('ridge_alpha') is not None
        key = 'path.pretrain_network'
        load_checkpoint(net, read_weights(load_path, key), f'{key}: {load_path}', head=not refitted)

    def init_training_settings(self) -> None:
        train_opt = self.opt['train']
        check_validation_sets(self.opt)
        self.net.train()
        takes_steps = train_opt.get('total_iter') != 0
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad and takes_steps}
        self.frozen = frozen_digests(self.net)
        if not self.trained and train_opt.get('ridge_alpha') is None:
            raise ValueError('this network has no parameter to train: its head is fitted, which train.ridge_alpha does.')
        if train_opt.get('ridge_alpha') is None:
            self.net.score_range = None  # not that of the weights it starts from: the data may have another scale
        precision = train_opt.get('precision', 'fp32')
        if precision not in PRECISIONS:
            raise ValueError(f"train.precision: unknown precision '{precision}'{suggest(precision, PRECISIONS)}")
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == 'fp16')
        self.accumulate = train_opt.get('accumulate', 1)
        self.losses: dict[str, Callable[..., Tensor]] = {
            name: ScoresLoss(key, train_opt[key], accumulate=self.accumulate).to(self.device)
            for name, key in (('l_mos', 'mos_loss_opt'), ('l_metric', 'metric_loss_opt'))
            if train_opt.get(key)
        }
        if train_opt.get('adapt_alpha') is not None and self.opt['datasets']['train'].get('with_copy'):
            self.losses['l_order'] = partial(order_loss, weight=train_opt.get('copy_weight', 1.0))
        if self.trained and not self.losses:
            raise ValueError('train needs a loss: mos_loss_opt or metric_loss_opt.')
        self.cache = FeatureCache(train_opt['frozen_cache'], self.net) if train_opt.get('frozen_cache') else None
        self.adaptation = None
        if self.trained and train_opt.get('adapt_alpha') is not None:
            alpha = float(train_opt['adapt_alpha'])
            self.adaptation = Adaptation(self.net, alpha=alpha, trunk_cache=train_opt.get('trunk_cache'))
            self.trained |= {f'fold_heads.{name}': p for name, p in self.adaptation.heads.named_parameters()}
        if self.trained:
            self.setup_optimizers()
        if self.trained and train_opt.get('scheduler'):
            self.setup_schedulers()
        self.average = None
        if train_opt.get('ema_decay') is not None:
            self.average = AveragedWeights(self.trained, train_opt['ema_decay'])
        self.target_offsets: dict[int, Tensor] = {}  # of an image and prompt, by `image_keys`
        self.started = False
        names = [section['name'] for phase, section in self.opt['datasets'].items() if phase.startswith('val')]
        self.selection = Selection(names, self.opt.get('val') or {})

    def setup_optimizers(self):
        self.optimizer = build_optimizer(self.net, self.trained, self.opt['train']['optim'])
        self.optimizers.append(self.optimizer)

    # One step

    def feed_data(self, data: dict) -> None:
        """Take a batch: img, mos_label (b, 1), and where there are several scores targets and target_mask (b, k)."""
        targets = data.get('targets', data['mos_label']).to(self.device)
        self.img_input, self.targets = data['img'].to(self.device, non_blocking=True), targets
        self.mask = data['target_mask'].to(self.device) if 'target_mask' in data else torch.ones_like(targets).bool()
        self.prompts, self.paths = data.get('prompt'), data['img_path']
        on_device = {name: data[name].to(self.device) for name in ('copy', 'copy_lost') if name in data}
        self.batch = data | {'img': self.img_input} | on_device

    def net_forward(self, net: nn.Module, rows: slice = slice(None)) -> Tensor:
        """Scores (b, k) of the batch, or of some of its rows, in float32."""
        scores = self._scores(self.img_input[rows], None if self.prompts is None else self.prompts[rows])
        self._check_targets(self.targets[rows], scores)
        return scores

    def _check_targets(self, targets: Tensor, scores: Tensor) -> None:
        if scores.shape != targets.shape:
            raise ValueError(
                f'the dataset gives {targets.shape[1]} scores an image and the network {scores.shape[1]}: set '
                f'network.targets: {targets.shape[1]}, or choose other scores.'
            )

    def _scores(self, images: Tensor, prompts: list[str] | None) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.net(images, caption_list=prompts).float()

    def _scores_of_batch(self, batch: dict) -> Tensor:
        if self.adaptation is None:
            return self._scores(batch['img'], batch.get('prompt'))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.adaptation.scores(batch).float()

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
        self.net.is_trained = self.adaptation is None  # else its own head is not fitted yet
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
            keys = image_keys(self.paths, self.prompts)
            targets = targets + torch.stack([self.target_offsets[key] for key in keys]).to(self.device)
        counts = all_reduce(self.mask.sum(0))
        size = math.ceil(len(targets) / self.accumulate)
        losses = torch.zeros(len(self.losses), device=self.device)
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            parts = torch.stack(self._losses_of(rows, targets[rows], counts))
            if not parts.isfinite().all():
                raise FloatingPointError(self._not_finite('loss', iteration, self.paths[rows]))
            self.scaler.scale(parts.sum()).backward()
            losses += parts.detach()
        return losses

    def _losses_of(self, rows: slice, targets: Tensor, counts: Tensor) -> list[Tensor]:
        """The losses of some rows of the batch, in the order of `losses`."""
        mask, weights = self.mask[rows], self.opt['train'].get('score_weights')
        if self.adaptation is None:
            scores = self.net_forward(self.net, rows)
            return [loss(scores, targets, mask, counts, weights) for loss in self.losses.values()]
        batch = {name: values[rows] for name, values in self.batch.items()}
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            scores, differences = self.adaptation.training_scores(batch)
        main = self.adaptation.heads.standardised(targets[:, :1]), mask[:, :1], counts[:1]
        found = [loss(scores.float(), *main) for name, loss in self.losses.items() if name != 'l_order']
        if differences is not None and 'l_order' in self.losses:
            share = len(targets) / (len(self.targets) * world_size())
            found.append(self.losses['l_order'](differences.float(), batch['copy_lost']) * share)
        return found

    def _step_schedulers(self) -> None:
        for scheduler in self.schedulers:
            scheduler.step()

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """After an epoch, which is pyiqa's unit of a scheduler's numbers."""
        if self.opt['train'].get('schedule_by') != 'iteration' and current_iter > 1:
            self._step_schedulers()

    def _not_finite(self, what: str, iteration: int, paths: list[str]) -> str:
        names = ', '.join(Path(path).name for path in paths)
        return f'the {what} is not a finite number at iteration {iteration}; the images: {names}.'

    # What pyiqa's loop calls

    def _start_in_pyiqas_loop(self) -> None:
        if not self.started:
            self.start()

    def save(self, epoch, current_iter, save_net_label='net'):
        """Save at pyiqa's intervals and at the end of its loop; a network with nothing to train has taken no step before."""
        self._start_in_pyiqas_loop()
        super().save(epoch, current_iter, save_net_label)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """Validate on a whole validation set in one process."""
        self.record(dataloader.dataset, current_iter, self.score(dataloader.dataset, current_iter), tb_logger)

    @property
    def best_metric_results(self) -> dict[str, dict[str, dict]]:
        """What the best network reaches on every validation set, {set: {metric: {val, iter, better}}}."""
        return self.selection.best

    # Validation

    def score(self, dataset: BaseIQADataset, iteration: int) -> Tensor:
        """Scores, targets and whether they exist, side by side, (n, 3 k), of this process' images, with averaged weights.

        Raises:
            FloatingPointError: a score is not finite.
        """
        places, name = list(shard(len(dataset))), dataset.opt['name']
        labels = [labels_of(dataset, place) for place in places]
        self.net.eval()
        try:
            with self.average.applied() if self.average else nullcontext():
                scores = scores_of(
                    self.net,
                    dataset,
                    places,
                    None if self.trained else self.cache,
                    self._scores_of_batch,
                    device=self.device,
                    description=f'validation: {name}',
                    show=rank() == 0,
                )
        finally:
            self.net.train()
        unusable = (~scores.isfinite().all(1)).nonzero().flatten().tolist()
        if unusable:
            paths = [labels[row]['img_path'] for row in unusable[:10]]
            raise FloatingPointError(self._not_finite(f'score in the validation set {name}', iteration, paths))
        return torch.cat([scores, *(self._column(labels, name, scores) for name in ('targets', 'target_mask'))], 1)

    def _column(self, labels: list[dict], name: str, scores: Tensor) -> Tensor:
        column = torch.stack([label[name] for label in labels]) if labels else torch.zeros(0, scores.shape[1])
        self._check_targets(column, scores)
        return column.to(self.device)

    def record(self, dataset: BaseIQADataset, iteration: int, table: Tensor, tb_logger) -> None:
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
        suffix = {None: '', -1: '_latest'}.get(current_iter, f'_{current_iter}')
        path = Path(self.opt['path']['models']) / f'{net_label}{suffix}.pth'
        with self.average.applied() if self.average else nullcontext():
            state = checkpoint_state(net, self.frozen)
            atomic_write(path, serialize({param_key: {key: tensor.detach().cpu() for key, tensor in state.items()}}))

    def training_state(self) -> dict:
        """All that the next step depends on beside the data and the seeds."""
        offsets = self.target_offsets
        return {
            'net': checkpoint_state(self.net, self.frozen),
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'scaler': self.scaler.state_dict(),
            'average': self.average.state_dict() if self.average else None,
            'fold_heads': self.adaptation.heads.state_dict() if self.adaptation else None,
            'target_offsets': [list(offsets), torch.stack(list(offsets.values())) if offsets else torch.empty(0)],
            'selection': self.selection.state_dict(),
        }

    def load_training_state(self, state: dict) -> None:
        """Go on from what `training_state` gave."""
        load_checkpoint(self.net, state['net'], 'training state')
        for optimizer, saved_state in zip(self.optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(saved_state)
        for scheduler, saved_state in zip(self.schedulers, state['schedulers'], strict=True):
            scheduler.load_state_dict(saved_state)
        self.scaler.load_state_dict(state['scaler'])
        if self.average is not None:
            self.average.load_state_dict(state['average'])
        if self.adaptation is not None:
            self.adaptation.heads.load_state_dict(state['fold_heads'])
        self.target_offsets, self.started = dict(zip(*state['target_offsets'], strict=True)), True
        self.selection.load_state_dict(state['selection'])

    # The start and the end

    @property
    def has_fitted_start(self) -> bool:
        """Whether the scores before the first step mean something: what the training has to beat."""
        return self.adaptation is not None or self.opt['train'].get('ridge_alpha') is not None

    def start(self, dataset: BaseIQADataset | None = None) -> None:
        """Fit what is fitted before the first step: the head, or where the network is adapted the heads of the training.

        A fitted head is saved with the network as `net_start.pth`.

        Args:
            dataset: the training images, if they are built already.
        """
        self.started = True
        if self.opt['train'].get('ridge_alpha') is None and self.adaptation is None:
            return
        dataset = self._unchanged_images(dataset)
        if self.adaptation is None:
            # a head that is fitted before a training must not read features that the training changes
            columns = self.net.pooled_columns if self.trained else slice(None)
            self.target_offsets = self._fit(dataset, columns=columns).target_offsets
            self.save_network(self.net, 'net_start')
        else:
            rmse = self.adaptation.start(dataset)
            get_root_logger().info(
                f'The heads of the training are fitted to {len(dataset)} images: RMSE {rmse:.4f} on the folds left out.'
            )
        self.net.train()

    def finish(self, dataset: BaseIQADataset, val_set: BaseIQADataset | None = None) -> None:
        """Complete the best network, or the last where there is no best, and save it again under its name.

        After an adaptation its head is fitted to the training images. Where parts of it were trained, on whatever images, the
        deviation of its scores is scaled to their errors on `val_set`: images that the parts have learned from say too little.
        """
        fits = self.opt['train'].get('ridge_alpha') is not None
        if not (self.trained or self.opt['path'].get('pretrain_network')) or (self.adaptation is not None and not fits):
            return
        barrier(self.device)  # process 0 may still be writing the file
        folder = Path(self.opt['path']['models'])
        path = next(path for path in (folder / 'net_best.pth', folder / 'net_latest.pth') if path.exists())
        load_checkpoint(self.net, read_weights(path, 'net'), str(path))
        self.average = None  # the file has the averaged weights
        if self.trained:
            self.cache = None  # nobody asks for the features of this network again
        forward = None
        if self.adaptation is not None:
            forward = self.adaptation.features if self.adaptation.trunk else None
            self.adaptation = None
            self._fit(self._unchanged_images(dataset), forward=forward)
        if val_set is not None:
            calibrate_head(self.net, val_set, device=self.device, cache=self.cache, forward=forward)
        self.save_network(self.net, path.stem)

    def _unchanged_images(self, dataset: BaseIQADataset | None) -> BaseIQADataset:
        """The training images without augmentation and copies, which a head is fitted to."""
        section, changes = self.opt['datasets']['train'], ('augment', 'with_copy')
        if dataset is not None and not any(section.get(key) for key in changes):
            return dataset
        unchanged = {key: value for key, value in section.items() if key not in changes}
        return build_dataset(unchanged if dataset is None else unchanged | {'check_images': False})  # they were checked

    def _fit(self, dataset: BaseIQADataset, *, columns: slice | list[int] = slice(None), forward: Forward | None = None) -> Fit:
        train_opt = self.opt['train']
        alpha = float(train_opt['ridge_alpha'])
        options = {key: train_opt[key] for key in FIT_OPTIONS if train_opt.get(key) is not None}
        where = {'device': self.device, 'cache': self.cache, 'forward': forward}
        fit = fit_head(self.net, dataset, alpha=alpha, columns=columns, **where, **options)
        get_root_logger().info(
            f'The head is fitted to {fit.images} images by ridge regression, alpha {alpha}: RMSE {fit.rmse:.4f} on them, '
            f'{fit.rmse_left_out:.4f} when their prompts are left out.'
            + (f' It made use of {fit.copies} copies of them.' if fit.copies else '')
        )
        return fit
