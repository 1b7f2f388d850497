"""Images with prompts and scores, as a dataset that pyiqa's trainer builds from a YAML section.

It does what pyiqa's `GeneralNRDataset` does, and adds prompts, further scores, folders as released, splits that are computed,
and a check that finds every problem of the data before the first step of a training.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from PIL import Image
from pyiqa.data.base_iqa_dataset import BaseIQADataset

from align_iqa_plugin.data.dataset_options import KEEP_SIZE, check_dataset_options
from align_iqa_plugin.data.image_check import decode_images
from align_iqa_plugin.data.images import read_resized
from align_iqa_plugin.data.labels import LabelError, Labels, Row, read_labels
from align_iqa_plugin.data.splits import phases_of, split_name
from align_iqa_plugin.data.tables import list_problems
from align_iqa_plugin.data.training_copies import copy_of
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.prompted_tensor import PromptedTensor


class AIGCIQADataset(BaseIQADataset):
    """Images with a score, and a prompt where there is one, from a label table (see `labels.py`).

    Options are keys of a section under ``datasets:`` in a YAML; `dataset_options.py` declares and explains them.

    A sample is a dict:
        img: (3, h, w) float32, RGB in [0, 1] (times `img_range`).
        mos_label: (1,) float32, the main score.
        targets: (k,) float32, the main score and then the further ones; 0 where one is missing.
        target_mask: (k,) bool, False where a score is missing.
        prompt: str, '' where there is none; a batch of b samples holds a list of b.
        img_path: str.
        view: str, what the file's picture was made into: `view`.
        copy, copy_lost, copy_view: with `with_copy`, a copy of the picture (`training_copies.py`): its tensor, the share of the
            image's score that it should lose, and its view.

    `check_images` decodes the images of the phase once at the start, because a truncated JPEG is found in no other way. This
    takes about 5 ms for each image of 512 x 512.

    The images of a batch must have one size: ``input_size: 224`` gives it to squares of any size, ``input_size: [224, 224]`` to
    images of any shape.

    Raises:
        LabelError: the table cannot be used; the message lists all problems with their rows.
        ValueError: an option is unknown or has a wrong value.

    >>> from importlib.resources import files
    >>> samples = files('align_iqa_plugin') / 'samples' / 'samples.csv'
    >>> dataset = AIGCIQADataset({'meta_info_file': str(samples), 'score_column': 'mos_quality', 'input_size': 224})
    >>> len(dataset)
    12
    >>> sample = dataset[4]
    >>> sample['prompt'], sample['mos_label'], sample['img'].shape
    ('the prince of the sun', tensor([2.3152]), torch.Size([3, 224, 224]))
    """

    def __init__(self, opt: Mapping):
        check_dataset_options(opt)
        super().__init__(dict(opt))

    def init_path_mos(self, opt):
        """Read the rows of the phase into `paths_mos`: [image path, score, prompt, further scores, NaN where missing]."""
        columns = opt.get('further_score_columns') or []
        labels = read_labels(
            opt.get('meta_info_file') or opt['dataroot_target'],
            images=opt.get('dataroot_target'),
            image_column=opt.get('image_column'),
            score_column=opt.get('score_column'),
            prompt_column=opt.get('prompt_column', 'prompt'),
            generator_column=opt.get('generator_column'),
            further_score_columns=columns,
            score_range=opt.get('mos_range'),
        )
        if opt.get('mos_range') is None and labels.score_range:
            opt['mos_range'] = labels.score_range
            if opt.get('lower_better') is None:
                opt['lower_better'] = False
        if opt.get('mos_normalize') and opt.get('mos_range'):
            labels.problems.extend(_scores_outside(labels.rows, columns, opt['mos_range']))
        rows, split = self._rows_of_phase(labels, opt)
        self.paths_mos = [[row.path, row.score, row.prompt, row.further_scores] for row in rows]
        self._source, self._row_numbers = labels.source, [row.number for row in rows]
        sizes = set()
        if opt.get('check_images', True):
            problems, sizes = self._decode(range(len(rows)))
            labels.problems.extend(problems)
        labels.raise_problems()
        if not rows:
            raise LabelError(f"'{labels.source}': {split} has no row for the phase {self.phase!r}.")
        self._sizes = sizes
        self._check_one_size(sizes)

        missing = {name: sum(math.isnan(row.further_scores[i]) for row in rows) for i, name in enumerate(columns)}
        for name, count in missing.items():
            if count == len(rows):
                raise LabelError(f"'{labels.source}': no row of {split}, {self.phase} has a score in {name!r}.")
        prompts = {row.prompt for row in rows if row.prompt.strip()}
        bare = sum(not row.prompt.strip() for row in rows)
        self.logger.info(
            f'{labels.source}, {split}, {self.phase}: {counted(len(rows), "image")} of {counted(len(prompts), "prompt")}'
            + (f', {bare} of them without a prompt' if bare else '')
            + ''.join(f', {count} without {name}' for name, count in missing.items() if count)
            + '.'
        )

    def mos_normalize(self, opt):
        """Map all scores to [0, 1], higher is better, where `mos_normalize` says so."""
        unknown = [key for key in ('mos_range', 'lower_better') if opt.get(key) is None]
        if opt.get('mos_normalize') and unknown:
            raise ValueError(f'mos_normalize needs {" and ".join(unknown)} too: these labels are of no release that is known.')
        super().mos_normalize(opt)  # the main score
        if opt.get('mos_normalize'):
            # (score - worst) / (best - worst) is pyiqa's formula, in either direction
            worst, best = reversed(opt['mos_range']) if opt['lower_better'] else opt['mos_range']
            for item in self.paths_mos:
                item[3] = tuple((score - worst) / (best - worst) for score in item[3])

    def get_split(self, opt):
        """Do nothing: `init_path_mos` has chosen the rows already, so that only images of the phase are opened."""

    def __getitem__(self, index: int) -> dict:
        sample = self.sample(index)
        if self.opt.get('with_copy'):
            copy = copy_of(index, sample['img_path'])
            sample['copy'] = self.sample(index, copy.make)['img']
            sample |= {'copy_lost': copy.lost, 'copy_view': f'{self.view(index)} {copy.name}'}
        return sample

    def sample(self, index: int, change: Callable[[Image.Image], Image.Image] | None = None) -> dict:
        """A sample, of which the picture may be changed after it was read."""
        labels = self.labels(index)
        image = self.trans(read_resized(labels['img_path'], self.opt.get('input_size'), change)) * self.img_range
        prompted = self.opt.get('prompts_with_images')
        image = PromptedTensor(image, [labels['prompt']]) if prompted else image
        return {'img': image, 'view': self.view(index), **labels}

    def labels(self, index: int) -> dict:
        """A sample without its `img`; no picture is decoded."""
        path, score, prompt, further_scores = self.paths_mos[index]
        targets = torch.tensor([score, *further_scores], dtype=torch.float32)
        return {
            'mos_label': targets[:1].clone(),
            'targets': targets.nan_to_num(),
            'target_mask': ~targets.isnan(),
            'prompt': prompt,
            'img_path': path,
        }

    def view(self, index: int) -> str:
        """What, beside its file, decides how an image without augmentation looks."""
        return f'{self.opt.get("input_size")} {self.img_range}'

    @property
    def paths(self) -> list[str]:
        """The images of the phase, sample by sample."""
        return [path for path, *_ in self.paths_mos]

    @property
    def shares_batches(self) -> bool:
        """Whether the images, as far as `check_images` looked at them, have one size as samples."""
        return self._have_one_size(self._sizes)

    def check_images(self, indices: Iterable[int] | None = None) -> None:
        """Decode images in `num_worker_per_gpu` processes, to find all problems before a training meets the first.

        Args:
            indices: of the samples, by default all.

        Raises:
            LabelError: images cannot be read, or have several sizes and cannot share a batch; the message lists all problems.
        """
        problems, sizes = self._decode(range(len(self)) if indices is None else indices)
        if problems:
            raise LabelError(list_problems(self._source, problems))
        self._check_one_size(sizes)

    def _decode(self, indices: Iterable[int]) -> tuple[list[tuple[int, str]], set[tuple[int, int]]]:
        """(row number, sentence) of each image that cannot be read, and the sizes (height, width) of the others."""
        path_of = {self._row_numbers[index]: self.paths_mos[index][0] for index in indices}
        paths = list(dict.fromkeys(path_of.values()))
        workers = self.opt.get('num_worker_per_gpu') or 0
        problems, sizes = decode_images(paths, self.opt.get('input_size'), workers=workers)
        return [(row, problems[path]) for row, path in path_of.items() if path in problems], sizes

    def _have_one_size(self, sizes: set[tuple[int, int]]) -> bool:
        """Whether images of these sizes have one as samples: transforms that crop, pad or resize give it to all."""
        return len(sizes) < 2 or not KEEP_SIZE.issuperset(_transforms(self.opt))

    def _check_one_size(self, sizes: set[tuple[int, int]]) -> None:
        """Raise LabelError where images of these sizes (height, width) cannot be put into a batch."""
        batch_size = self.opt.get('batch_size_per_gpu') or 1
        if batch_size == 1 or self._have_one_size(sizes):
            return
        named = ', '.join(f'{height} x {width}' for height, width in sorted(sizes)[:4]) + (' ...' if len(sizes) > 4 else '')
        square = all(height == width for height, width in sizes)
        raise LabelError(
            f"'{self._source}', {self.phase}: images of {len(sizes)} sizes ({named}, height x width) cannot share a batch: set "
            + ('input_size: 224' if square else 'input_size: [224, 224], which gives up their aspect ratios,')
            + ' or batch_size_per_gpu: 1.'
        )

    def _rows_of_phase(self, labels: Labels, opt: Mapping) -> tuple[list[Row], str]:
        """The rows of the phase, and the name of the split; wrong cells of a split column become problems of `labels`."""
        index = opt.get('split_index')
        if index is None:
            return labels.rows, 'no split'
        ratio = str(opt.get('split_ratio', '802'))
        name = index if isinstance(index, str) else split_name(index, ratio=ratio)
        phases = phases_of(labels, name)
        return [row for row, phase in zip(labels.rows, phases, strict=True) if phase == self.phase], name


def _scores_outside(rows, columns, mos_range):
    low, high = mos_range
    return [
        (row.number, f'{name} is {score:g}, outside the range {low:g} to {high:g} from which mos_normalize maps all scores.')
        for row in rows
        for name, score in zip(columns, row.further_scores, strict=True)
        if score < low or score > high
    ]


def _transforms(opt):
    return [key for key, value in (opt.get('augment') or {}).items() if value]
