"""Images with prompts and scores, as a dataset that pyiqa's trainer builds from a YAML section.

It does what pyiqa's `GeneralNRDataset` does, and adds prompts, further scores, folders as released, splits that are computed,
and a check that finds every problem of the data before the first step of a training.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.data.transforms import transform_mapping

from align_iqa_plugin.archs.align_iqa_arch import MINIMUM_SIDE
from align_iqa_plugin.data.image_check import decode_images
from align_iqa_plugin.data.images import read_resized
from align_iqa_plugin.data.labels import LabelError, Labels, Row, read_labels
from align_iqa_plugin.data.splits import phases_of, split_name
from align_iqa_plugin.data.tables import list_problems
from align_iqa_plugin.runtime.prompted_tensor import PromptedTensor

OPTIONS = frozenset(
    # the data
    'dataroot_target meta_info_file image_column score_column prompt_column further_score_columns '
    'split_index split_ratio phase override_phase mos_range lower_better mos_normalize augment img_range '
    'input_size check_images prompts_with_images '
    # read by pyiqa's trainer and its loader, or put in by them
    'name type scale use_shuffle batch_size_per_gpu num_worker_per_gpu dataset_enlarge_ratio '
    'prefetch_mode num_prefetch_queue pin_memory persistent_workers'.split()
)

KEEP_SIZE = frozenset({'hflip', 'vflip', 'rot90', 'randomerase', 'totensor'})
"""Transforms of pyiqa's `augment` that ask for no particular size; the others crop, pad or resize."""


class AIGCIQADataset(BaseIQADataset):
    """Images with a score, and a prompt where there is one, from a label table (see `labels.py`).

    Options, as keys of a section under ``datasets:`` in a YAML (`dataroot_target` or `meta_info_file` is needed):
        dataroot_target: the folder of the images, or the one above their `images/`; by default the folder of the CSV.
        meta_info_file: the CSV of the labels; by default `data.csv` in `dataroot_target`, as AGIQA-3K is released.
        image_column, score_column: columns of file names and scores; by default those of a release that is known
            (AGIQA-3K: `name`, `mos_quality`), or else the first and the second, as in every meta info CSV of pyiqa.
        prompt_column: column of prompts, by default `prompt`; ``~`` for data without prompts.
        further_score_columns: list of columns of further scores, for example ``[mos_align]``. An empty cell there is a score
            that is missing, where in `score_column` it is a problem.
        split_index: a number from 1, for the column ``ratio<split_ratio>_seed123_split_<01>``, or a column's name. All
            rows are used without it. A table without any split column is split here, as `align-iqa data prepare` does
            it; `splits.py` lists the names, for example ``generator_split_AttnGAN``.
        split_ratio: tenths of train, val and test; pyiqa's default, '802', has no val.
        phase: 'train', 'val' or 'test'; `override_phase` goes before it.
        mos_range: lowest and highest score; a score outside is a problem. By default the release's ([0, 5] for AGIQA-3K);
            where that is not known either, a score has only to be finite.
        mos_normalize: map all scores, further ones too, from the one `mos_range` to [0, 1]; a further score outside is then
            a problem. `lower_better` turns them round; it must be given with it, except for a known release. Leave it out
            where columns have ranges of their own.
        input_size: resize every image to the area of that square as the network with this `input_size` does (the aspect ratio
            is kept), rounded to 8 bits; or ``[height, width]``: to that size, whatever the aspect ratio. By default images
            keep their size, and the network resizes them. The rounding moves the packaged model's scores by .013 of 5 on
            average, so that training and evaluation are best given the same.
        augment, img_range: as in pyiqa; `augment` comes after `input_size`, and may then not crop or resize.
        check_images: false leaves out the decoding at the start.
        prompts_with_images: true makes `img` carry the prompt (`PromptedTensor`), for callers that hand on nothing else, such
            as pyiqa's `benchmark_results.py`; Align-IQA finds it there.
        The keys of pyiqa's trainer and loader: `OPTIONS` lists all.

    A sample is a dict:
        img: (3, h, w) float32, RGB in [0, 1] (times `img_range`).
        mos_label: (1,) float32, the main score.
        targets: (k,) float32, the main score and then the further ones; 0 where one is missing.
        target_mask: (k,) bool, False where a score is missing.
        prompt: str, '' where there is none; a batch of b samples holds a list of b.
        img_path: str.

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
        _check_options(opt)
        super().__init__(dict(opt))

    def init_path_mos(self, opt):
        """Read the rows of the phase into `paths_mos`: [image path, score, prompt, further scores, NaN where missing]."""
        if not (opt.get('dataroot_target') or opt.get('meta_info_file')):
            raise ValueError('AIGCIQADataset needs dataroot_target (the folder of the data) or meta_info_file (the CSV).')
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
        self.paths_mos = [[row.path, row.score, row.prompt, row.further_scores] for row in rows]
        self._source, self._row_numbers = labels.source, [row.number for row in rows]
        sizes = set()
        if opt.get('check_images', True):
            problems, sizes = self._decode(range(len(rows)))
            labels.problems.extend(problems)
        labels.raise_problems()
        if not rows:
            raise LabelError(f"'{labels.source}': {split} has no row for the phase {self.phase!r}.")
        self._check_one_size(sizes)

        missing = {name: sum(math.isnan(row.further_scores[i]) for row in rows) for i, name in enumerate(columns)}
        for name, count in missing.items():
            if count == len(rows):
                raise LabelError(f"'{labels.source}': no row of {split}, {self.phase} has a score in {name!r}.")
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
            raise ValueError(f'mos_normalize needs {" and ".join(unknown)} too: these labels are of no release that is known.')
        super().mos_normalize(opt)  # the main score
        if opt.get('mos_normalize'):
            # (score - worst) / (best - worst) is pyiqa's formula, in either direction
            worst, best = reversed(opt['mos_range']) if opt['lower_better'] else opt['mos_range']
            for item in self.paths_mos:
                item[3] = tuple((score - worst) / (best - worst) for score in item[3])

    def get_split(self, opt):
        """Do nothing: `init_path_mos` has chosen the rows already, so that only images of the phase are opened."""

    def __getitem__(self, index: int) -> dict:  # pyright: ignore[reportIncompatibleMethodOverride] that of pyiqa gives None
        path, score, prompt, further_scores = self.paths_mos[index]
        image = read_resized(path, self.opt.get('input_size'))
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

    @property
    def paths(self) -> list[str]:
        """The images of the phase, sample by sample."""
        return [path for path, *_ in self.paths_mos]

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

    def _check_one_size(self, sizes: set[tuple[int, int]]) -> None:
        """Raise LabelError where images of these sizes (height, width) cannot be put into a batch."""
        batch_size = self.opt.get('batch_size_per_gpu') or 1
        if batch_size == 1 or len(sizes) < 2 or not KEEP_SIZE.issuperset(_transforms(self.opt)):
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


def _check_options(opt):
    problems = []
    for key in opt:
        if key not in OPTIONS:
            close = difflib.get_close_matches(str(key), sorted(OPTIONS), n=3)
            problems.append(f'there is no option {key!r}' + (f', did you mean {" or ".join(close)}?' if close else '.'))
    for key, value in (opt.get('augment') or {}).items():
        if value and not transform_mapping(key, value):  # pyiqa passes over such a name in silence
            problems.append(f'augment: pyiqa has no transform {key!r}.')
    size = opt.get('input_size')
    sides = size if isinstance(size, Sequence) and len(size) == 2 else [size]
    if size is not None and not all(type(side) is int and side >= MINIMUM_SIDE for side in sides):
        problems.append(f'input_size is {size!r}, not a whole number from {MINIMUM_SIDE} (pixels) or a list [height, width].')
    if size is not None:
        for key in _transforms(opt):
            if key not in KEEP_SIZE:
                problems.append(
                    f'augment: {key} works on the whole image, which input_size makes small: leave one of them out.'
                )
    index = opt.get('split_index')
    if index is not None and not isinstance(index, str) and not (type(index) is int and index > 0):
        problems.append(f"split_index is {index!r}, not a whole number from 1 or a column's name.")
    columns = opt.get('further_score_columns')
    if columns is not None and not (isinstance(columns, Sequence) and not isinstance(columns, str)):
        problems.append(f'further_score_columns is {columns!r}, not a list of columns.')
    elif columns and len({*columns, opt.get('score_column')}) <= len(columns):
        problems.append(f'further_score_columns {columns!r} names a column twice, or the score_column.')
    bounds = opt.get('mos_range')
    if bounds is not None:
        numbers = isinstance(bounds, Sequence) and all(isinstance(bound, (int, float)) for bound in bounds)
        if not (numbers and len(bounds) == 2 and bounds[0] < bounds[1]):
            problems.append(f'mos_range is {bounds!r}, not a list of the lowest and the highest score.')
    if problems:
        raise ValueError('\n'.join(['AIGCIQADataset:', *problems] if len(problems) > 1 else [f'AIGCIQADataset: {problems[0]}']))
