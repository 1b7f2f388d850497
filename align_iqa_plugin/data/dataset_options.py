"""The keys of a data set's section, under ``datasets:`` of an option file, and what is wrong with one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from align_iqa_plugin.archs.views import MINIMUM_SIDE
from align_iqa_plugin.runtime.schema import Count, Flag, FromZero, Number, Section, Text, failure, problem, problems, sentences

KEEP_SIZE = frozenset({'hflip', 'vflip', 'rot90', 'randomerase', 'totensor'})
"""Transforms of pyiqa's `augment` that ask for no particular size; the others crop, pad or resize."""


def only_pyiqa(description: str) -> Any:
    """An optional key that ``python -m pyiqa.train`` reads, and `align-iqa train` warns about."""
    return Field(
        None, description=f'{description} Read by python -m pyiqa.train alone.', json_schema_extra={'only_pyiqa': True}
    )


def _location(path: Any) -> str:
    return str(path) if isinstance(path, Path) else path


def _rising(bounds: list) -> list:
    if bounds[0] >= bounds[1]:
        raise problem(f'is {bounds}, not a list of the lowest and the highest score.')
    return bounds


def _three_digits(ratio: Any) -> Any:
    if not (isinstance(ratio, int | str) and str(ratio).isdecimal() and len(str(ratio)) == 3):
        raise problem(f"is {ratio!r}, not three digits such as '712'.")
    return ratio


Location = Annotated[Text, BeforeValidator(_location)]
Side = Annotated[Count, Field(ge=MINIMUM_SIDE)]
Phase = Literal['train', 'val', 'test']


class DatasetOptions(Section):
    """A section of `AIGCIQADataset`."""

    removed_keys = {'image_cache': 'was removed: train.frozen_cache now saves the decoding of images as well.'}

    # the data
    dataroot_target: Location | None = Field(
        None, description='Folder of the images, or the one above their images/; by default the folder of meta_info_file.'
    )
    meta_info_file: Location | None = Field(
        None, description='Table of the labels; by default data.csv in dataroot_target, as AGIQA-3K is released.'
    )
    image_column: Text | None = Field(
        None, description="Column of file names; by default a known release's, or else the first, as in pyiqa's tables."
    )
    score_column: Text | None = Field(
        None, description="Column of scores; by default a known release's (AGIQA-3K: mos_quality), or else the second."
    )
    prompt_column: Text | None = Field('prompt', description='Column of prompts; ~ for data without prompts.')
    generator_column: Text | None = Field(None, description='Column of generators, if it is not called generator.')
    further_score_columns: list[Text] | None = Field(
        None, description='Columns of further scores, such as [mos_align]; an empty cell there is a score that is missing.'
    )
    split_index: Count | Text | None = Field(
        None,
        description='Number of a prompt-disjoint split, from 1, or the name of any split (splits.py lists them). All rows are '
        'used without it. A table without a split column is split here, as align-iqa data prepare does it.',
    )
    split_ratio: Annotated[Any, AfterValidator(_three_digits)] = Field(
        '802', description='Tenths of train, val and test; the default, which is that of pyiqa, has no val.'
    )
    with_copy: Flag = Field(
        False, description='Give each image a degraded or changed copy, whose loss has the weight train.copy_weight.'
    )
    phase: Phase = Field('train', description='Side of the split; a training sets it to the name of the section.')
    override_phase: Phase | None = Field(None, description='Side of the split that goes before phase.')
    mos_range: Annotated[list[Number], Field(min_length=2, max_length=2), AfterValidator(_rising)] | None = Field(
        None,
        description="Lowest and highest score; a score outside is a problem. By default a known release's, otherwise any "
        'finite score is taken.',
    )
    lower_better: Flag | None = Field(None, description='Whether lower scores are better; mos_normalize needs it.')
    mos_normalize: Flag | None = Field(
        None,
        description='Map all scores, further ones too, from mos_range to [0, 1]; lower_better turns them round. Leave it out '
        'where columns have ranges of their own.',
    )

    # the samples
    input_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description='Resize every image to the area of that square as the network does (aspect ratio kept), rounded to 8 bits; '
        'or [height, width], whatever the aspect ratio. By default images keep their size, and the network resizes them. The '
        "rounding moves the packaged model's scores by .013 of 5 on average: give training and evaluation the same.",
    )
    augment: dict[str, Any] | None = Field(None, description="pyiqa's transforms, after input_size.")
    img_range: Number = Field(1.0, description='Factor of the pixels, which are in [0, 1].')
    check_images: Flag = Field(True, description='Decode every image once at the start, to find damaged ones.')
    prompts_with_images: Flag = Field(
        False, description="Make img carry the prompt, for callers that hand on nothing else, such as pyiqa's scripts."
    )

    # read by a training and its loader
    name: Text | None = Field(None, description='Name of the data set in the log.')
    type: Text | None = Field(None, description='Class of the data set in the registry of pyiqa.')
    use_shuffle: Flag = Field(True, description='Shuffle the training images.')
    batch_size_per_gpu: Count = Field(1, description='Images of a batch in each process.')
    num_worker_per_gpu: FromZero = Field(0, description='Processes that read images beside each process of the training.')
    dataset_enlarge_ratio: Count = Field(1, description='How many times an epoch goes through the images.')
    pin_memory: Flag = Field(False, description='Keep batches in page-locked memory, for a faster way to the GPU.')
    persistent_workers: Flag | None = only_pyiqa('Keep the reading processes between epochs.')
    prefetch_mode: Literal['cpu', 'cuda'] | None = only_pyiqa('How batches are read ahead.')
    num_prefetch_queue: Count | None = only_pyiqa('How many batches are read ahead.')
    scale: Any = only_pyiqa('Put in from the top of the file.')

    @field_validator('augment')
    @classmethod
    def _transforms_exist(cls, augment: dict | None) -> dict | None:
        from pyiqa.data.transforms import transform_mapping

        found = []
        for name, value in (augment or {}).items():
            try:
                if value and not transform_mapping(name, value):  # pyiqa passes over such a name in silence
                    found.append(([name], f"pyiqa has no transform '{name}'."))
            except Exception as error:  # what a transform raises at a wrong value is its own choice
                found.append(([name], f'pyiqa cannot make this transform: {" ".join(str(error).split())}.'))
        if found:
            raise problems(found)
        return augment

    @model_validator(mode='after')
    def _keys_go_together(self) -> 'DatasetOptions':
        found = []
        columns = self.further_score_columns
        if columns and len({*columns, self.score_column}) <= len(columns):
            found.append((['further_score_columns'], f'{columns} names a column twice, or the score_column.'))
        if self.input_size is not None:
            found += [
                (['augment', name], f'{name} works on the whole image, which input_size makes small: leave one of them out.')
                for name, value in (self.augment or {}).items()
                if value and name not in KEEP_SIZE
            ]
        if not (self.dataroot_target or self.meta_info_file):
            found.append((['dataroot_target'], 'is needed (the folder of the data), or meta_info_file (its labels).'))
        if found:
            raise problems(found)
        return self


def check_dataset_options(options: Mapping) -> None:
    """Raise ValueError with all that is wrong with the options of an `AIGCIQADataset`."""
    try:
        DatasetOptions.model_validate(dict(options))
    except ValidationError as error:
        raise ValueError(failure('AIGCIQADataset', sentences(error, options, 'the section'))) from None
