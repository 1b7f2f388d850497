"""Images with prompts and scores, as a dataset that pyiqa's trainer builds from a YAML section.

What pyiqa's `GeneralNRDataset` does, and beyond it: prompts, further scores, a data set's folder as released, splits
made on the fly, and every problem of the data told before the first step of a training.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from torch.utils.data import Dataset

from align_iqa_plugin.data.dataset_options import KEEP_SIZE, check_dataset_options
from align_iqa_plugin.data.image_cache import ImageCache, each_in_workers, read_resized
from align_iqa_plugin.data.images import ImageError
from align_iqa_plugin.data.labels import LabelError, Labels, Row, read_labels
from align_iqa_plugin.data.splits import phases_of, split_name
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

    The images of the phase are decoded once at the start, in as many workers as training has (`num_worker_per_gpu`): a
    truncated JPEG shows only then. This takes about 5 ms for each image of 512 x 512; with `image_cache` only the first time.

    A batch of several images needs them in one size. Squares of any size have one with ``input_size: 224``, images of any shape
    with ``input_size: [224, 224]``.

    Raises:
        LabelError: the table cannot be used; the message lists all problems with their rows.
        ValueError: an option is unknown or has a wrong value.
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
        self.cache = ImageCache(opt['image_cache'], opt.get('input_size')) if opt.get('image_cache') else None
        problems, sizes = self._check_images([row.path for row in rows], opt)
        labels.problems.extend((row.number, problems[row.path]) for row in rows if row.path in problems)
        labels.raise_problems()
        if not rows:
            raise LabelError(f'{labels.source}: {split} has no row for the phase {self.phase!r}.')
        if (opt.get('batch_size_per_gpu') or 1) > 1 and KEEP_SIZE.issuperset(_transforms(opt)):
            _check_one_size(sizes, f'{labels.source}, {self.phase}')

        self.paths_mos = [[row.path, row.score, row.prompt, row.further_scores] for row in rows]
        missing = {name: sum(math.isnan(row.further_scores[i]) for row in rows) for i, name in enumerate(columns)}
        for name, count in missing.items():
            if count == len(rows):
                raise LabelError(f'{labels.source}: no row of {split}, {self.phase} has a score in {name!r}.')
        prompts = {row.prompt for row in rows if row.prompt.strip()}
        bare = sum(not row.prompt.strip() for row in rows)
        self.logger.info(
            f'{labels.source}, {split}, {self.phase}: {len(rows)} images of {len(prompts)} prompts'
            + (f', {bare} of them without a prompt' if bare else '')
            + ''.join(f', {count} without {name}' for name, count in missing.items() if count)
            + '.'
        )

    def mos_normalize(self, opt):
        """Map all scores to [0, 1], higher is better, where `mos_normalize` says so."""
        unknown = [key for key in ('mos_range', 'lower_better') if opt.get(key) is None]
        if opt.get('mos_normalize') and unknown:
            raise ValueError(f'mos_normalize needs {" and ".join(unknown)} as well: it is not known for these labels.')
        super().mos_normalize(opt)  # the main score
        if opt.get('mos_normalize'):
            # (score - worst) / (best - worst) is pyiqa's formula, in either direction
            worst, best = reversed(opt['mos_range']) if opt['lower_better'] else opt['mos_range']
            for item in self.paths_mos:
                item[3] = tuple((score - worst) / (best - worst) for score in item[3])

    def get_split(self, opt):
        """Nothing is left to do: `init_path_mos` has chosen the rows, because it opens the images of the phase only."""

    def __getitem__(self, index: int) -> dict:
        path, score, prompt, further_scores = self.paths_mos[index]
        image = self.cache.read(path) if self.cache else read_resized(path, self.opt.get('input_size'))
        targets = torch.tensor([score, *further_scores], dtype=torch.float32)
        image = self.trans(image) * self.img_range
        return {
            'img': PromptedTensor(image, [prompt]) if self.opt.get('prompts_with_images') else image,
            'mos_label': targets[:1].clone(),
            'targets': targets.nan_to_num(),
            'target_mask': ~targets.isnan(),
            'prompt': prompt,
            'img_path': path,
        }

    def _check_images(self, paths: list[str], opt: Mapping) -> tuple[dict[str, str], set[tuple[int, int]]]:
        """What is wrong with the images, by path, and which heights and widths the others come in."""
        workers = opt.get('num_worker_per_gpu') or 0
        if self.cache:
            problems = self.cache.fill(paths, workers=workers)
            return problems, {(height, width) for _, height, width in self.cache.places.values()}
        problems, sizes = {}, set()
        if not opt.get('check_images', True):
            return problems, sizes
        results = each_in_workers(_Check(paths, opt.get('input_size')), workers=workers, description='Checking images')
        for path, (size, problem) in zip(paths, results, strict=True):
            if problem:
                problems[path] = problem
            else:
                sizes.add(tuple(size))
        return problems, sizes

    def _rows_of_phase(self, labels: Labels, opt: Mapping) -> tuple[list[Row], str]:
        """The rows of the phase, and the name of the split; wrong cells of a split column become problems of `labels`."""
        index = opt.get('split_index')
        if index is None:
            return labels.rows, 'no split'
        ratio = str(opt.get('split_ratio', '802'))
        name = index if isinstance(index, str) else split_name(index, ratio=ratio)
        phases = phases_of(labels, name)
        return [row for row, phase in zip(labels.rows, phases, strict=True) if phase == self.phase], name


class _Check(Dataset):
    """Height and width of each image as the network gets it, or what is wrong with it."""

    def __init__(self, paths: Sequence[str], input_size: int | Sequence[int] | None):
        self.paths, self.input_size = paths, input_size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            image = read_resized(self.paths[index], self.input_size)
        except ImageError as error:
            return None, str(error)
        return (image.height, image.width), None


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


def _check_one_size(sizes, source):
    if len(sizes) > 1:
        named = ', '.join(f'{height} x {width}' for height, width in sorted(sizes)[:4]) + (' ...' if len(sizes) > 4 else '')
        square = all(height == width for height, width in sizes)
        raise LabelError(
            f'{source}: images of {len(sizes)} sizes ({named}, height x width) do not fit into one batch: set '
            + ('input_size: 224' if square else 'input_size: [224, 224], which gives up their aspect ratios,')
            + ' or batch_size_per_gpu: 1.'
        )
