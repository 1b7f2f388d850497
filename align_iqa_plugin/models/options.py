"""Option files of `align-iqa train`: every key that one may hold, declared as pydantic models.

Where a section names a class by `type` (network, optimiser, scheduler, losses, metrics), its keys are that class's keywords;
those of `datasets:` are in `data/dataset_options.py`. How files are read and merged is in `options_file.py`; what a file names
is looked at by `options_check.py`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from align_iqa_plugin import register
from align_iqa_plugin.data.dataset_options import only_pyiqa
from align_iqa_plugin.models import options_classes as classes
from align_iqa_plugin.models.options_file import read_file, set_key
from align_iqa_plugin.runtime.schema import (
    Count,
    Flag,
    FromZero,
    Number,
    Positive,
    Section,
    Share,
    Text,
    Whole,
    failure,
    plain,
    problem,
    problems,
    sentences,
)

NO_EFFECT = 'has no effect with align-iqa train: remove it.'


def _folder_name(name: str) -> str:
    if not re.fullmatch(r'[^/\\\0]*[^/\\\0. ]', name):
        raise problem(f'is {name!r}, not a name for a folder.')
    return name


def _nothing(sentence: str, *allowed: Any) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in allowed:
            raise problem(sentence)
        return value

    return BeforeValidator(check)


class Paper(Section):
    """What a training is compared with."""

    row: Text = Field('', description='Table and row of the paper.')
    SRCC: Share | None = Field(None, description='SRCC that the paper reports.')
    PLCC: Share | None = Field(None, description='PLCC that the paper reports.')


class PathOptions(Section):
    """Files that a training starts from."""

    removed_keys = {'ignore_resume_networks': NO_EFFECT}

    pretrain_network: Text | None = Field(
        None, description='Weights that the network starts from: a file, or `packaged` or `packaged-fast`.'
    )
    param_key_g: Annotated[
        Any, _nothing('has no effect: weights are found under params, state_dict or model.', 'params', None)
    ] = Field(None, description='Where pyiqa looks for the weights in that file.')
    strict_load: Flag = Field(True, description='Refuse weights that lack a part of the network.')
    resume_state: Annotated[Any, _nothing('has no effect: --resume goes on with the experiment of this name.', None)] = Field(
        None, description='Always ~, as pyiqa writes it; --resume goes on with an experiment.'
    )


class TrainOptions(Section):
    """What is trained, on which loss, how long."""

    removed_keys = {'use_ref': NO_EFFECT}

    ridge_alpha: Positive | None = Field(
        None,
        description='Before the first step, fit the head to the training images with this penalty, and save that network as '
        'net_start.pth: the number that the training has to beat. A network with nothing to train ends there.',
    )
    adapt_alpha: Positive | None = Field(
        None,
        description='Train guide, injection and aggregation against linear heads that are fitted before the first step with '
        'this penalty, each without a fold of the images, and stay as they are (models/adaptation.py). They see the whole '
        'image. The losses are in standard deviations of the main score. ridge_alpha then fits the head of the network, '
        'which sees all views, after the last step.',
    )
    trunk_cache: Text | None = Field(
        None,
        description='With adapt_alpha: folder that keeps the outputs of the blocks before the first injection, 1 MB an image.',
    )
    order_share: Share | None = Field(
        None,
        description='With ridge_alpha: the share of the training images of which degraded copies are fitted too: how far '
        'below its image each should score at least (data/training_copies.py). They need no ratings.',
    )
    order_weight: Positive = Field(
        1.0,
        description="With order_share: weight of the squared error of a copy that falls too little, relative to a score's.",
    )
    copy_weight: Positive = Field(
        1.0, description='With adapt_alpha: weight of the loss of the copies of with_copy, relative to that of the scores.'
    )
    invariance: Annotated[Number, Field(ge=0)] = Field(
        0.0,
        description='How much less the head sees of what a flip, a small crop and WebP change (archs/invariance.py); 0 is not '
        'at all. It learns that from the copies of invariance_share.',
    )
    invariance_share: Share | None = Field(
        None, description='With invariance: the share of the training images that it flips, crops and saves as WebP to learn.'
    )
    pyramid_weight: Positive = Field(
        1.0, description='With ridge_alpha and aggregation: msfa: how much the features of the pyramid count for the head.'
    )
    frozen_cache: Text | None = Field(
        None,
        description='Folder that keeps what the head reads of each image before a training, so that none is decoded again.',
    )
    ema_decay: Share | None = Field(
        None, description='Validate and save the exponential moving average of the weights, with this decay.'
    )
    total_epoch: Count | None = Field(None, description='Length of the training in epochs.')
    total_iter: FromZero | None = Field(
        None, description='Length of the training in iterations, which goes before total_epoch; 0 fits the head alone.'
    )
    optim: Annotated[dict | None, PlainValidator(classes.optimizer)] = Field(
        None,
        description='An optimiser of torch.optim by type, and its keywords. lr_KEY and weight_decay_KEY (0 by default) hold '
        'for the parameters with KEY in their dotted name, where two do so the one further right. layer_decay makes the '
        'learning rate of each block of a trained backbone that much smaller than that of the next.',
    )
    scheduler: Annotated[dict | None, PlainValidator(classes.scheduler)] = Field(
        None, description='A scheduler of torch or pyiqa by type, and its keywords.'
    )
    schedule_by: Literal['epoch', 'iteration'] = Field(
        'epoch', description="Unit of the scheduler's numbers; pyiqa's is epochs."
    )
    warmup_iter: Annotated[Whole, Field(ge=-1)] = Field(
        -1, description='Iterations over which the learning rate rises linearly to what the scheduler says.'
    )
    mos_loss_opt: Annotated[dict | None, PlainValidator(classes.loss)] = Field(
        None, description="A loss of pyiqa by type, and its keywords; weighted by each score's weight."
    )
    metric_loss_opt: Annotated[dict | None, PlainValidator(classes.loss)] = Field(
        None, description='A second loss, such as one of correlation.'
    )
    score_weights: list[Number] | None = Field(
        None, description='A weight for each score in the loss, by default 1 each. The loss is their weighted mean.'
    )
    precision: Literal['fp32', 'bf16', 'fp16'] = Field('fp32', description='Precision of the forward pass, in autocast.')
    accumulate: Count = Field(
        1, description='Number of parts that a batch goes through the network in; less memory, the same gradient.'
    )
    clip_grad_norm: Positive | None = Field(None, description='Largest norm of the gradient.')
    patience: Count | None = Field(None, description='Validations without improvement after which the training ends.')


class ValOptions(Section):
    """How the best network is chosen."""

    removed_keys = {'pbar': NO_EFFECT}

    val_freq: Count | None = Field(None, description='Iterations between validations, by default an epoch.')
    metrics: Annotated[dict[Text, Annotated[dict, PlainValidator(classes.metric)]], Field(min_length=1)] = Field(
        description='By name, metrics of pyiqa by type, their keywords, and better: higher or lower.'
    )
    key_metric: Text | None = Field(None, description='The metric that chooses net_best.pth, by default the first.')
    select_on: Text | None = Field(
        None, description='Name of the validation set that chooses net_best.pth, by default the first.'
    )
    save_img: Annotated[Any, _nothing('has no effect, no image is saved: set it to false.', False)] = Field(
        False, description='Always false; python -m pyiqa.train asks for it.'
    )


class LoggerOptions(Section):
    """What is logged and saved, and how often."""

    removed_keys = {'log_imgs_freq': NO_EFFECT}

    print_freq: Count | None = Field(None, description='Iterations between lines of the log.')
    save_latest_freq: Count | None = Field(None, description='Iterations between copies of the weights, net_latest.pth.')
    save_checkpoint_freq: Count | None = Field(None, description='Iterations between training states, which --resume needs.')
    use_tb_logger: Flag = Field(False, description='Write losses and metrics for TensorBoard.')
    wandb: dict[str, Any] | None = only_pyiqa('Account of Weights & Biases.')


class Options(Section):
    """An option file."""

    removed_keys = {'scale': NO_EFFECT, 'find_unused_parameters': NO_EFFECT}

    name: Annotated[Text, AfterValidator(_folder_name)] = Field(
        description='Name of the experiment, and of its folder in experiments/.'
    )
    paper: Paper | None = Field(None, description='What the training is compared with.')
    model_type: Annotated[Text, AfterValidator(partial(classes.registered, 'model', register.MODELS))] = Field(
        description='The class of the training: AlignIQAModel.'
    )
    num_gpu: Literal['auto'] | FromZero = Field('auto', description='auto, or 0 for the CPU.')
    manual_seed: FromZero | None = Field(None, description='Seed of all that is random; drawn if it is not given.')
    datasets: Annotated[dict, PlainValidator(classes.datasets)] = Field(
        description='train, val, and further validation sets val_NAME.'
    )
    network: Annotated[dict, PlainValidator(classes.network)] = Field(
        description='A network by type, AlignIQA or one of pyiqa, and its keywords.'
    )
    path: PathOptions = Field(description='Files that the training starts from.')
    train: TrainOptions = Field(description='What is trained, on which loss, how long.')
    val: ValOptions = Field(description='How the best network is chosen.')
    logger: LoggerOptions = Field(description='What is logged and saved, and how often.')
    dist_params: dict[str, Any] | None = only_pyiqa('Launcher of processes on Slurm.')

    @model_validator(mode='after')
    def _sections_go_together(self) -> 'Options':
        train = self.train
        found: list[tuple[tuple[str, ...], str]] = []
        if train.total_epoch is None and train.total_iter is None:
            found.append((('train',), "lacks the key 'total_epoch' (or total_iter)."))
        if train.total_iter != 0:  # with none, the head is fitted and nothing else is trained
            found += [(('train',), "lacks the key 'optim'.")] * (train.optim is None)
            lossless = not train.mos_loss_opt and not train.metric_loss_opt
            found += [(('train',), "lacks a loss, the key 'mos_loss_opt' (or metric_loss_opt).")] * lossless
        found += _of_adaptation(train, self.datasets['train'])
        for phase, section in self.datasets.items():
            found += [(('datasets', phase, key), sentence) for key, sentence in _of_phase(phase, section, self.network)]
        sets = [section['name'] for phase, section in self.datasets.items() if phase != 'train']
        for key, choices in (('key_metric', list(self.val.metrics)), ('select_on', sets)):
            value = getattr(self.val, key)
            if value is not None and value not in choices:
                found.append((('val', key), f"is '{value}', not one of {', '.join(choices)}."))
        if found:
            raise problems(found)
        return self


def _of_adaptation(train: TrainOptions, section: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the keys of an adaptation, and of the order that a head is fitted to."""
    if train.order_share and train.ridge_alpha is None:
        yield ('train', 'order_share'), 'has no effect without train.ridge_alpha.'
    if 'order_weight' in train.model_fields_set and not train.order_share:
        yield ('train', 'order_weight'), 'has no effect without train.order_share; the loss of with_copy has train.copy_weight.'
    if 'copy_weight' in train.model_fields_set and not section.get('with_copy'):
        yield ('train', 'copy_weight'), 'has no effect without datasets.train.with_copy.'
    if train.invariance and not train.invariance_share:
        yield ('train', 'invariance'), 'has no effect without train.invariance_share.'
    if train.invariance_share and train.ridge_alpha is None:
        yield ('train', 'invariance_share'), 'has no effect without train.ridge_alpha.'
    if train.invariance_share and not train.invariance:
        yield ('train', 'invariance_share'), 'has no effect without train.invariance.'
    if train.adapt_alpha is None and train.trunk_cache:
        yield ('train', 'trunk_cache'), 'has no effect without train.adapt_alpha.'
    if train.adapt_alpha is None and section.get('with_copy'):
        yield ('datasets', 'train', 'with_copy'), 'has no effect without train.adapt_alpha.'
    if train.trunk_cache and (section.get('augment') or section['type'] != 'AIGCIQADataset'):
        yield ('train', 'trunk_cache'), 'needs images that are always the same: type: AIGCIQADataset, without augment.'


def _of_phase(phase: str, section: dict, network: dict) -> Iterator[tuple[str, str]]:
    """What is wrong with a data set's section beside those of the network and its own name."""
    if section['type'] != 'AIGCIQADataset':
        return
    if section.get('phase', phase.split('_')[0]) != phase.split('_')[0]:
        yield 'phase', f'has no effect, the section is named {phase}: remove it, or set override_phase.'
    size, seen = section.get('input_size'), classes.default_input_size(network)
    if size is not None and network.get('views', 1) != 1:
        yield 'input_size', 'would take the detail from the second of network.views: remove it.'
    elif isinstance(size, int) and seen not in (None, size):
        yield 'input_size', f'is {size}, and network.input_size {seen}: the network would resize again; give both the same.'


def read_options(path: Path, overrides: Sequence[str] = ()) -> dict:
    """An option file as plain, checked data; nothing in it is run, and neither data nor weights are looked for.

    Keys that `align-iqa train` does not use, but ``python -m pyiqa.train`` does, are warned about.

    Args:
        path: the file (YAML).
        overrides: changes to it, such as ``train.optim.lr=1e-4``; the value is YAML.

    Raises:
        ValueError: all that is wrong with the file, with the keys that it is at.
    """
    options = read_file(path)
    for override in overrides:
        set_key(options, override)
    try:
        checked = plain(Options.model_validate(options))
    except ValidationError as error:
        raise ValueError(failure(path, sentences(error, options))) from None
    adapted = checked['train'].get('adapt_alpha') is not None or checked['path'].get('pretrain_network') is not None
    untrained = [] if adapted else classes.untrained_pyramid(checked['network'])
    for sentence in [*_without_effect(checked), *untrained]:
        logging.getLogger(__name__).warning('%s: %s', path, sentence)
    return checked


def _without_effect(options: dict) -> Iterator[str]:
    """A sentence for each key that has a value and that `python -m pyiqa.train` alone reads."""
    places: list[tuple[str, type[BaseModel], dict]] = [('', Options, options), ('logger.', LoggerOptions, options['logger'])]
    places += [
        (f'datasets.{phase}.', classes.DatasetOptions, section)
        for phase, section in options['datasets'].items()
        if section['type'] == 'AIGCIQADataset'
    ]
    for prefix, model, section in places:
        for name, value in section.items():
            if model.model_fields[name].json_schema_extra and value not in (None, False):
                yield f'{prefix}{name} has no effect with align-iqa train: python -m pyiqa.train alone reads it.'
