"""Training Align-IQA with pyiqa's own trainer: `model_type: AlignIQAModel` in a training file.

`GeneralIQAModel` knows images and scores only. This adds the prompts, and what Align-IQA's training needs beside: a start as
linear probe, the frozen blocks' outputs from disk, an average of the weights over the run.

Keys of `train:` beyond pyiqa's, all of them optional:
    linear_probe_alpha: before the first step, fit the head's probe to the training images' statistics with this penalty, and
        save that network as `net_probe.pth`: the number that the training has to beat.
    frozen_cache: folder that keeps what the frozen blocks give for each image (`FrozenCache`); not with `augment`.
    schedule_by: 'iteration' counts the scheduler's numbers in iterations, where pyiqa counts epochs.
    ema_decay: validate, and keep as best, the exponential moving average of the weights.
"""

import copy
import hashlib
from contextlib import contextmanager

import torch
from pyiqa.data import build_dataloader, build_dataset
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger
from tqdm import tqdm

from .frozen_cache import FrozenCache

PROBE_FOLDS = 5


class AlignIQAModel(GeneralIQAModel):
    """pyiqa's model for `AlignIQA`: see the keys above; everything else is `GeneralIQAModel`'s."""

    def init_training_settings(self):
        train_opt = self.opt['train']
        self.cache = self.average = self.shifts = None
        if train_opt.get('frozen_cache'):
            if self.opt['datasets']['train'].get('augment'):
                raise ValueError('train.frozen_cache keeps one view of an image: leave out datasets.train.augment, or it.')
            self.cache = FrozenCache(train_opt['frozen_cache'], self.get_bare_model(self.net))
        super().init_training_settings()
        if train_opt.get('linear_probe_alpha') is not None:
            self.start_as_linear_probe(train_opt['linear_probe_alpha'])
        # pyiqa's trainer has put the number of iterations there; without a terminal its log lines are enough
        self.progress = tqdm(total=train_opt.get('total_iter'), desc='training', unit='iteration', disable=None)
        if train_opt.get('ema_decay') is not None:
            self.average = {name: p.detach().clone() for name, p in self._trained()}

    def feed_data(self, data):
        super().feed_data(data)
        self.prompts = data.get('prompt')
        self.paths = data['img_path']

    def net_forward(self, net):
        plain = self.cache(self.img_input, self.paths) if self.cache else None
        return net(self.img_input, caption_list=self.prompts, plain=plain)

    def optimize_parameters(self, current_iter):
        if self.shifts:
            self.gt_mos = self.gt_mos + torch.stack([self.shifts[path] for path in self.paths])
        super().optimize_parameters(current_iter)
        loss = sum(value for name, value in self.log_dict.items() if name.startswith('l_'))
        self.progress.set_postfix(loss=f'{loss:.4f}', refresh=False)
        self.progress.update()
        if self.opt['train'].get('schedule_by') == 'iteration':
            super().update_learning_rate(current_iter + 1)
        if self.average is not None:
            # a young average forgets its start faster
            decay = min(self.opt['train']['ema_decay'], current_iter / (current_iter + 10))
            with torch.no_grad():
                for name, parameter in self._trained():
                    self.average[name].lerp_(parameter, 1 - decay)

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        if self.opt['train'].get('schedule_by') != 'iteration':
            super().update_learning_rate(current_iter, warmup_iter)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        with self._averaged():
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

    @torch.no_grad()
    def start_as_linear_probe(self, alpha: float) -> None:
        """Fit the head's probe (`LinearProbe.fit`), save the network as `net_probe.pth`, and shift the training targets.

        The probe has seen the training images, so what it leaves over of their scores is less than on unseen ones, and would
        teach the rest of the network little. The targets are therefore shifted by what the probe gains from having seen an
        image: the network learns the residual that the probe has on prompts that it was not fitted to.
        """
        net = self.get_bare_model(self.net).eval()
        options = copy.deepcopy(self.opt['datasets']['train'])
        options.pop('augment', None)
        dataset = build_dataset(options)
        loader = build_dataloader(dataset, {**options, 'phase': 'val'})
        vectors, scores, paths, prompts = [], [], [], []
        for batch in tqdm(loader, desc='linear probe', unit='batch'):
            self.feed_data(batch)
            plain = self.cache(self.img_input, self.paths) if self.cache else net.plain_blocks(self.img_input)
            vectors.append(net.features(self.img_input, self.prompts, *plain))
            scores.append(self.gt_mos)
            paths += self.paths
            prompts += self.prompts
        vectors, scores = torch.cat(vectors), torch.cat(scores)
        left_out = net.head.probe.fit(
            vectors,
            scores,
            alpha=alpha,
            folds=[int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % PROBE_FOLDS for prompt in prompts],
            columns=slice(net.msfa.statistics_width),
        )
        gain = net.head.probe(net.head.probe.standardise(vectors)) - left_out
        self.shifts = dict(zip(paths, gain, strict=True))
        net.is_trained = True
        self.save_network(net, 'net_probe')
        net.train()
        seen, unseen = ((p - scores).square().mean().sqrt() for p in (left_out + gain, left_out))
        get_root_logger().info(
            f'The head starts as the ridge regression on {len(dataset)} images, alpha {alpha}: '
            f'RMSE {seen:.4f} on them, {unseen:.4f} when their prompts are left out.'
        )

    def _trained(self):
        return [(name, p) for name, p in self.get_bare_model(self.net).named_parameters() if p.requires_grad]

    @contextmanager
    def _averaged(self):
        """Inside, the network has its averaged weights, where there are any."""
        if self.average is None:
            yield
            return
        current = {name: p.detach().clone() for name, p in self._trained()}
        net = self.get_bare_model(self.net)
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    if name in current:
                        parameter.copy_(current[name])
