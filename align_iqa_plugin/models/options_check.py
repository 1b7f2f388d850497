"""What an option file names, looked at before a training begins: data, splits, weights, the parts of the network."""

from collections.abc import Iterator

from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.files import expand_home
from align_iqa_plugin.runtime.quiet import quiet_log
from align_iqa_plugin.runtime.schema import failure


def check_options(options: dict) -> None:
    """Build the data sets and the network of a checked option file once, and see that weights fit. It takes some seconds.

    Args:
        options: what `read_options` gives.

    Raises:
        ValueError: all that is missing or does not fit, with the keys that name it.
    """
    import torch

    problems = []
    with quiet_log(), torch.random.fork_rng(devices=[]):
        for phase, section in options['datasets'].items():
            found = _dataset_problems(phase, section, options)
            problems += [f'datasets.{phase}{problem}' for problem in found]
        if not problems:
            problems += _validation_problems(options)
        problems += _network_problems(options)
    if problems:
        raise ValueError(failure(f'the training {options["name"]!r}', problems))


def _dataset_problems(phase: str, section: dict, options: dict) -> list[str]:
    import torch

    from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset

    if section['type'] != 'AIGCIQADataset':
        paths = [key for key in ('dataroot_target', 'dataroot_ref', 'meta_info_file', 'split_file') if section.get(key)]
        missing = [key for key in paths if not expand_home(str(section[key])).exists()]
        return [f'.{key}: there is no {section[key]}.' for key in missing]
    try:
        dataset = AIGCIQADataset(section | {'phase': phase.split('_')[0], 'check_images': False})
    except (ValueError, OSError) as error:
        return [f': {error}']
    gpus = options.get('num_gpu', 'auto')
    batch = section.get('batch_size_per_gpu', 1) * max(1, torch.cuda.device_count() if gpus == 'auto' else int(gpus))
    images = len(dataset) * section.get('dataset_enlarge_ratio', 1)
    if phase == 'train' and batch > images:
        return [
            f'.batch_size_per_gpu: a batch of {batch} is more than the {counted(images, "image")}, so that no '
            'step would be taken.'
        ]
    return []


def _validation_problems(options: dict) -> list[str]:
    from align_iqa_plugin.data.training_images import check_validation_sets

    try:
        check_validation_sets(options)
    except ValueError as error:
        return [f'datasets: {error}']
    return []


def _network_problems(options: dict) -> list[str]:
    from align_iqa_plugin.archs.pretrained import create_align_iqa
    from align_iqa_plugin.archs.weights import read_weights

    path, state, problems = options['path'].get('pretrain_network'), None, []
    if path is not None:
        try:
            state = read_weights(path, 'path.pretrain_network')
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
    if options['network']['type'] != 'AlignIQA':
        return problems
    try:
        network = create_align_iqa(**{key: value for key, value in options['network'].items() if key != 'type'})
    except Exception as error:  # beside ours, what torch, timm and open_clip raise at a wrong number
        return [*problems, f'network: {" ".join(str(error).split()) or type(error).__name__}']
    problems += _rate_problems(network, options['train'].get('optim') or {})
    if state is not None and options['path'].get('strict_load', True):
        refitted = options['train'].get('ridge_alpha') is not None
        problems += _weight_problems(network, state, f'path.pretrain_network: {path}', head=not refitted)
    return problems


def _rate_problems(network, optim: dict) -> Iterator[str]:
    """Learning rates of parts that are not trained."""
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for key in optim:
        part = key.replace('lr_', '')  # as pyiqa does it
        if key.startswith('lr_') and not any(part in name for name in trained):
            parts = ', '.join(dict.fromkeys(name.split('.')[0] for name in trained))
            yield f"train.optim.{key}: no trained parameter has '{part}' in its name; the trained parts are: {parts}."


def _weight_problems(network, state: dict, name: str, *, head: bool) -> list[str]:
    """Why the network cannot start from weights, whose `name` begins the sentence."""
    from align_iqa_plugin.archs.pretrained import frozen_digests, load_checkpoint

    frozen = frozen_digests(network)
    try:
        load_checkpoint(network, state, name, head=head)
    except ValueError as error:
        return [str(error)]
    return [
        f'{name}: it holds other weights of the frozen {part} than network names: name the same.'
        for part, digest in frozen_digests(network).items()
        if frozen.get(part) != digest
    ]
