"""Images with prompts and scores, as a dataset that pyiqa's trainer builds from a YAML section.

What pyiqa's `GeneralNRDataset` does, and beyond it: prompts, further scores, a data set's folder as released, splits
made on the fly, and every fault of the data told before the first step of a training.
"""

import difflib
from collections.abc import Mapping, Sequence

import torch
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.data.transforms import transform_mapping
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from align_iqa_plugin.images import ImageError, read_image
from align_iqa_plugin.labels import LabelError, Labels, Row, read_labels
from align_iqa_plugin.splits import content_hashes, prompt_disjoint_split, split_name

OPTIONS = frozenset(
    # the data
    'dataroot_target meta_info_file image_column score_column prompt_column further_score_columns '
    'split_index split_ratio phase override_phase mos_range lower_better mos_normalize augment img_range check_images '
    # read by pyiqa's trainer and its loader, or put in by them
    'name type scale use_shuffle batch_size_per_gpu num_worker_per_gpu dataset_enlarge_ratio '
    'prefetch_mode num_prefetch_queue pin_memory persistent_workers'.split()
)


class AIGCIQADataset(BaseIQADataset):
    """Images with a score, and a prompt where there is one, from a label table (see `labels.py`).

    Options, as keys of a section under ``datasets:`` in a YAML (`dataroot_target` or `meta_info_file` is needed):
        dataroot_target: the folder of the images, or the one above their `images/`; by default the folder of the CSV.
        meta_info_file: the CSV of the labels; by default `data.csv` in `dataroot_target`, as AGIQA-3K is released.
        image_column, score_column: columns of file names and scores; by default those of a release that is known
            (AGIQA-3K: `name`, `mos_quality`), or else the first and the second, as in every meta info CSV of pyiqa.
        prompt_column: column of prompts, by default `prompt`; ``~`` for data without prompts.
        further_score_columns: list of columns of further scores, for example ``[mos_align]``.
        split_index: a number from 1, for the column ``ratio<split_ratio>_seed123_split_<01>``, or a column's name. All
            rows are used without it. A CSV without any split column is split here, as `align-iqa splits` does it.
        split_ratio: tenths of train, val and test; pyiqa's default, '802', has no val.
        phase: 'train', 'val' or 'test'; `override_phase` goes before it.
        mos_range: lowest and highest score; a score outside is a fault. By default the release's ([0, 5] for AGIQA-3K);
            where that is not known either, a score has only to be finite.
        mos_normalize: map scores from `mos_range` to [0, 1]. `lower_better` turns them round; it must be given with it,
            except for a known release.
        augment, img_range: as in pyiqa.
        check_images: false leaves out the decoding at the start.
        The keys of pyiqa's trainer and loader: `OPTIONS` lists all.

    A sample is a dict:
        img: (3, h, w) float32, RGB in [0, 1] (times `img_range`).
        mos_label: (1,) float32, the score.
        further_scores: (k,) float32, as they stand in the file, only with `further_score_columns`.
        prompt: str, '' where there is none; a batch of b samples holds a list of b.
        img_path: str.

    The images of the phase are decoded once at the start, in as many workers as training has (`num_worker_per_gpu`): a
    truncated JPEG shows only then. This takes about 5 ms for each image of 512 x 512.

    Raises:
        LabelError: the table cannot be used; the message lists all faults with their rows.
        ValueError: an option is unknown or has a wrong value.
    """

    def __init__(self, opt: Mapping):
        _refuse_wrong_options(opt)
        super().__init__(dict(opt))

    def init_path_mos(self, opt):
        """Read the rows of the phase into `paths_mos`: [image path, score, prompt, further scores]."""
        if not (opt.get('dataroot_target') or opt.get('meta_info_file')):
            raise ValueError('AIGCIQADataset needs dataroot_target (the folder of the data) or meta_info_file (the CSV).')
        labels = read_labels(
            opt.get('meta_info_file') or opt['dataroot_target'],
            images=opt.get('dataroot_target'),
            image_column=opt.get('image_column'),
            score_column=opt.get('score_column'),
            prompt_column=opt.get('prompt_column', 'prompt'),
            further_score_columns=opt.get('further_score_columns') or (),
            score_range=opt.get('mos_range'),
        )
        rows, split = self._rows_of_phase(labels, opt)
        if opt.get('check_images', True):
            labels.faults.extend(_image_faults(rows, workers=opt.get('num_worker_per_gpu') or 0))
        labels.refuse_faults()
        if not rows:
            raise LabelError(f'{labels.source}: {split} has no row for the phase {self.phase!r}.')

        if opt.get('mos_range') is None and labels.score_range:
            opt['mos_range'] = labels.score_range
            if opt.get('lower_better') is None:
                opt['lower_better'] = False
        self.paths_mos = [[row.path, row.score, row.prompt, row.further_scores] for row in rows]
        prompts = {row.prompt for row in rows if row.prompt.strip()}
        bare = sum(not row.prompt.strip() for row in rows)
        self.logger.info(
            f'{labels.source}, {split}, {self.phase}: {len(rows)} images of {len(prompts)} prompts'
            + (f', {bare} of them without a prompt.' if bare else '.')
        )

    def mos_normalize(self, opt):
        """Map the scores to [0, 1], higher is better, where `mos_normalize` says so."""
        unknown = [key for key in ('mos_range', 'lower_better') if opt.get(key) is None]
        if opt.get('mos_normalize') and unknown:
            raise ValueError(f'mos_normalize needs {" and ".join(unknown)} as well: it is not known for these labels.')
        super().mos_normalize(opt)

    def get_split(self, opt):
        """Nothing is left to do: `init_path_mos` has chosen the rows, because it opens the images of the phase only."""

    def __getitem__(self, index: int) -> dict:
        path, score, prompt, further_scores = self.paths_mos[index]
        sample = {
            'img': self.trans(read_image(path)) * self.img_range,
            'mos_label': torch.tensor([score], dtype=torch.float32),
            'prompt': prompt,
            'img_path': path,
        }
        if self.opt.get('further_score_columns'):
            sample['further_scores'] = torch.tensor(further_scores, dtype=torch.float32)
        return sample

    def _rows_of_phase(self, labels: Labels, opt: Mapping) -> tuple[list[Row], str]:
        """The rows of the phase, and the name of the split; wrong cells of a split column become faults of `labels`."""
        index = opt.get('split_index')
        if index is None:
            return labels.rows, 'no split'
        ratio = str(opt.get('split_ratio', '802'))
        name = index if isinstance(index, str) else split_name(index, ratio=ratio)
        present = [column for column in labels.header if 'split' in column]
        if name in present:
            phases = labels.column(name)
            for row, phase in zip(labels.rows, phases, strict=True):
                if phase not in ('train', 'val', 'test'):
                    labels.faults.append((row.number, f'{name} is {phase!r}, not train, val or test.'))
        elif present or isinstance(index, str):
            has = ', '.join(present) or 'none'
            raise LabelError(f'{labels.source} has no split column {name!r} (split_index, split_ratio); it has: {has}.')
        else:
            contents = content_hashes([row.path for row in labels.rows])
            phases = prompt_disjoint_split([row.prompt for row in labels.rows], contents, index, ratio=ratio)
        return [row for row, phase in zip(labels.rows, phases, strict=True) if phase == self.phase], name


class _ImageFaults(Dataset):
    """What is wrong with the image of each row, or None."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        try:
            read_image(self.rows[index].path)
        except ImageError as error:
            return str(error)
        return None


def _image_faults(rows, workers):
    # A loader, not threads: `read_image` reads one image at a time in a process. Its own generator: a loader draws a
    # number when it starts, and the check must not move the random stream of the training.
    loader = DataLoader(_ImageFaults(rows), batch_size=None, num_workers=workers, generator=torch.Generator())
    console = Console(stderr=True)
    results = track(loader, total=len(rows), description='Checking images', console=console, transient=True)
    return [(row.number, fault) for row, fault in zip(rows, results, strict=True) if fault]


def _refuse_wrong_options(opt):
    faults = []
    for key in opt:
        if key not in OPTIONS:
            close = difflib.get_close_matches(str(key), sorted(OPTIONS), n=3)
            faults.append(f'there is no option {key!r}' + (f', did you mean {" or ".join(close)}?' if close else '.'))
    for key, value in (opt.get('augment') or {}).items():
        if value and not transform_mapping(key, value):  # pyiqa passes over such a name in silence
            faults.append(f'augment: pyiqa has no transform {key!r}.')
    index = opt.get('split_index')
    if index is not None and not isinstance(index, str) and not (type(index) is int and index > 0):
        faults.append(f"split_index is {index!r}, not a whole number from 1 or a column's name.")
    columns = opt.get('further_score_columns')
    if columns is not None and not (isinstance(columns, Sequence) and not isinstance(columns, str)):
        faults.append(f'further_score_columns is {columns!r}, not a list of columns.')
    bounds = opt.get('mos_range')
    if bounds is not None:
        numbers = isinstance(bounds, Sequence) and all(isinstance(bound, (int, float)) for bound in bounds)
        if not (numbers and len(bounds) == 2 and bounds[0] < bounds[1]):
            faults.append(f'mos_range is {bounds!r}, not a list of the lowest and the highest score.')
    if faults:
        raise ValueError('\n'.join(['AIGCIQADataset:', *faults] if len(faults) > 1 else [f'AIGCIQADataset: {faults[0]}']))
