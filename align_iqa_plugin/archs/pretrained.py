"""Networks in and out of files: the packaged model, checkpoints of a training, exported files, and those of version 0.3.0.

A checkpoint holds the trained part of a network, and under `metadata` (JSON in bytes, since pyiqa takes every entry for a
tensor) what it belongs to: the network's `config`, the SHA-256 of each frozen part, the normalisation of images. An exported
file holds the frozen parts as well, and all keywords of the network.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.backbone import unfilled_backbone
from align_iqa_plugin.archs.head import SINCE_0_5
from align_iqa_plugin.archs.weights import read_weights, weights_file
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.hashes import state_digest

METADATA = 'metadata'
MAX_METADATA = 10**6  # bytes; those of the packaged model have 3 kB


def create_align_iqa(*, pretrained: bool = False, pretrained_model_path: str | None = None, **network: Any) -> AlignIQA:
    """Align-IQA with or without trained weights: what pyiqa builds under the name `AlignIQA`.

    Args:
        pretrained: load the model that the package carries.
        pretrained_model_path: load a file of your own training instead, or 'packaged-fast', the package's model of one view.
            - A file of `align-iqa export` holds all weights.
            - A checkpoint of a training holds the trained part; the frozen parts have to be those that it was trained on.
            - A file of tensors without metadata has to hold all tensors of the network, and counts as trained.
            Frozen weights in the file go before those that other keywords name. pyiqa's tools want one score for an image: of
            several targets in the file the first is taken, unless `targets` asks for more.
        network: keywords of `AlignIQA`; those that are not given are taken from the file.

    Raises:
        ValueError, FileNotFoundError: the file cannot be read, or does not fit the network.

    >>> metric = create_align_iqa(pretrained=True).eval()
    >>> images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))  # RGB in [0, 1]: uniform noise
    >>> with torch.no_grad():
    ...     scores = metric(images)
    >>> scores.shape, bool((scores < 2.5).all())  # low, on the scale of AGIQA-3K's MOS, about 0 to 5
    (torch.Size([2, 1]), True)
    """
    path, key = pretrained_model_path, 'pretrained_model_path'
    if path is None and pretrained:
        path, key = 'packaged', 'pretrained'
    return AlignIQA(**network) if path is None else load_align_iqa(path, key, **network)


def load_align_iqa(path: str | Path, key: str, **network: Any) -> AlignIQA:
    """Align-IQA with the weights of a file, or of a packaged model, as `create_align_iqa` loads it.

    Args:
        path: the file, or the name of a packaged model.
        key: the option that names it, for the error.
        network: keywords of `AlignIQA`.

    Raises:
        ValueError, FileNotFoundError: as `create_align_iqa`.
    """
    saved = read_network(path, key)
    saved.pop('targets', None)
    if saved.get('backbone_weights') == 'random':  # the file holds them
        network.pop('backbone_weights', None)
    guide_options = saved.get('guide_options') or {}
    if network.get('guide_options') and guide_options.get('vlm_weights') == 'random':
        network['guide_options'] = network['guide_options'] | {'vlm_weights': 'random'}
    # all weights come from files, unless the caller asks for a random backbone that the file does not hold
    with nullcontext() if network.get('backbone_weights') == 'random' else unfilled_backbone():
        net = AlignIQA(**saved | network)
    load_checkpoint(net, read_weights(path, key), f'{key}: {path}')
    return net


def checkpoint_state(network: AlignIQA, digests: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """What a checkpoint holds: `state_dict()` without the frozen parts, and the metadata.

    Args:
        digests: `frozen_digests`, if they are known: for a large backbone they take a second.
    """
    frozen = tuple(f'{name}.' for name in frozen_parts(network))
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(frozen)}
    return _without_flag(state) | {METADATA: _metadata(network, digests)}


def full_state(network: AlignIQA) -> dict[str, Tensor]:
    """What an exported file holds: all of `state_dict()`, and the metadata."""
    return _without_flag(network.state_dict()) | {METADATA: _metadata(network)}


def load_checkpoint(network: AlignIQA, state: Mapping[str, Tensor], name: str, *, head: bool = True) -> None:
    """Give a network the weights of a checkpoint, an exported file, or all of its tensors.

    A checkpoint of more targets than the network has gives the first ones.

    Args:
        state: as `read_weights` gives it.
        name: of the file, for the error.
        head: False takes all but the head, which may then be another one, and read another number of views.

    Raises:
        ValueError: the weights belong to another network, or to other frozen parts.
    """
    state = _from_0_3(dict(state))
    data = state.pop(METADATA, None)
    try:
        saved = None if data is None else _parse(data)
        if not head:
            state = {key: tensor for key, tensor in state.items() if not key.startswith('head.')}
            state |= network.head.state_dict(prefix='head.')
            if saved is not None:
                keys = ('views', 'guided_views', 'view_weights', 'head', 'head_options', 'targets')
                saved['network'] |= {key: network.config[key] for key in keys}
        if saved is None:
            _check_complete(network, state)
        else:
            _check_same_network(network, saved)
            _check_frozen_parts(network, saved['frozen'], state)
            _take_first_targets(network, saved['network'].get('targets', 1), state)
        _load(network, state)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error
    network.is_trained = saved is None or saved['trained']
    network.score_range = None if saved is None else _score_range(saved)


def read_network(path: str | Path, key: str) -> dict[str, Any]:
    """The keywords of `AlignIQA` that a file states; empty where it states none.

    An exported file states all of them. A checkpoint states those that decide about shapes, and that no weights of the backbone
    are needed (``backbone_weights: random``) where it holds them.

    Args:
        path: the file.
        key: the option that names it, for the error.

    Raises:
        ValueError, FileNotFoundError: as `read_weights`.
    """
    path = weights_file(path)
    if path.suffix == '.safetensors' and path.is_file():
        try:
            with safe_open(path, 'pt') as file:  # without reading the large tensors
                exported = json.loads((file.metadata() or {}).get('network', '{}'))
                names = list(file.keys())
                data = {name: file.get_tensor(name) for name in names if name in (METADATA, '_extra_state')}
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f'{key}: {path} cannot be read: it has to be a whole file.') from error
    else:
        data, exported = read_weights(path, key), {}
        names = list(data)
    old = '_extra_state' in names
    if isinstance(exported, dict) and exported:
        return _network_from_0_3(exported, names) if old else exported
    try:
        network = _parse(data['_extra_state' if old else METADATA])['network'] if old or METADATA in names else {}
    except ValueError as error:
        raise ValueError(f'{key}: {path}: {error}') from error
    if old:
        network = _network_from_0_3(network, names)
    network = {name: value for name, value in network.items() if name in inspect.signature(AlignIQA).parameters}
    return network | ({'backbone_weights': 'random'} if any(name.startswith('backbone.') for name in names) else {})


def frozen_parts(network: AlignIQA) -> dict[str, nn.Module]:
    """By name, the largest submodules that hold parameters of which none is trained."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        parameters = list(module.parameters())
        inside = any(name.startswith(f'{outer}.') for outer in found)
        if name and parameters and not inside and not any(p.requires_grad for p in parameters):
            found[name] = module
    return found


def frozen_digests(network: AlignIQA) -> dict[str, str]:
    """SHA-256 of the weights of each frozen part."""
    return {name: state_digest(module.state_dict()) for name, module in frozen_parts(network).items()}


def trunk_digest(network: AlignIQA) -> str:
    """SHA-256 of what the stages depend on: backbone, guide and injection, with the settings that are not in their weights."""
    names = ('backbone', 'input_size', 'stages', 'guide', 'injection', 'injection_options')
    settings = {name: network.config.get(name) for name in names}
    trunk = ('backbone.', 'guide.', 'injection.')
    tensors = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(trunk)}
    return hashlib.sha256(f'{settings} {state_digest(tensors)}'.encode()).hexdigest()


def _without_flag(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != 'trained'}  # which the metadata states


def _metadata(network: AlignIQA, digests: Mapping[str, str] | None = None) -> Tensor:
    content = {
        'trained': network.is_trained,
        'network': network.config,
        'normalisation': _normalisation(network),
        'frozen': dict(frozen_digests(network) if digests is None else digests),
    }
    if network.score_range is not None:
        content['score_range'] = network.score_range
    return torch.tensor(list(json.dumps(content, sort_keys=True).encode()), dtype=torch.uint8)


def _parse(data: Tensor) -> dict[str, Any]:
    try:
        # as a list, a tensor takes ten times its memory
        saved = json.loads(bytes(data.tolist())) if data.numel() <= MAX_METADATA else None
    except (TypeError, ValueError):
        saved = None
    kinds = {'network': dict, 'frozen': dict, 'trained': bool}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), kind) for key, kind in kinds.items()):
        raise ValueError('its metadata, which states the network that it belongs to, cannot be read.')
    return saved


def _score_range(saved: Mapping[str, Any]) -> tuple[float, float] | None:
    match saved.get('score_range'):
        case [int() | float() as low, int() | float() as high] if low < high:
            return low, high
    return None


def _normalisation(network: AlignIQA) -> list[list[float]]:
    return [network.backbone.mean.flatten().tolist(), network.backbone.std.flatten().tolist()]


def _check_complete(network: AlignIQA, state: dict[str, Tensor]) -> None:
    own = _without_flag(network.state_dict()).keys()
    state.pop('trained', None)
    unknown, missing = sorted(state.keys() - own), sorted(own - state.keys() - {f'head.{name}' for name in SINCE_0_5})
    if unknown or missing:
        raise ValueError(
            'it has no metadata of Align-IQA, and does not hold all tensors of this network: '
            + f'{counted(len(missing), "is", "are")} missing'
            + (f', such as {missing[0]}' if missing else '')
            + (f', and {counted(len(unknown), "is", "are")} unknown, such as {unknown[0]}.' if unknown else '.')
        )


def _check_same_network(network: AlignIQA, saved: Mapping[str, Any]) -> None:
    theirs, ours = {'views': 1} | saved['network'], dict(network.config)  # versions before 0.6 had one view
    theirs.setdefault('guided_views', theirs['views'])  # older ones guided all
    if theirs['views'] > 1 and 'view_weights' not in theirs:
        raise ValueError('it has one head for two views, as versions 0.6 and 0.7 had: fit it again, or use version 0.7.')
    if theirs.pop('targets', 1) < ours.pop('targets'):
        raise ValueError(f'it has fewer targets than this network, {network.config["targets"]}.')
    for key in ours | theirs:
        if theirs.get(key) != ours.get(key):
            raise ValueError(f'it belongs to a network with {key}: {theirs.get(key)}, but this one has {ours.get(key)}.')
    if saved.get('normalisation', _normalisation(network)) != _normalisation(network):
        raise ValueError(
            f'it belongs to a network that normalises images by {saved["normalisation"]}, but this one by '
            f"{_normalisation(network)}: give the backbone's whole name, with its tag."
        )


def _check_frozen_parts(network: AlignIQA, digests: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """ValueError where a frozen part, in the state or else in the network, is not the one that was trained on."""
    parts = frozen_parts(network)
    for part, digest in digests.items():
        own = parts[part].state_dict() if part in parts else {}
        held = {name: state[f'{part}.{name}'] for name in own if f'{part}.{name}' in state}
        if held and held.keys() != own.keys():
            raise ValueError(f'it holds {len(held)} of the {len(own)} tensors of {part}: all or none are needed.')
        found = state_digest({name: tensor.to(own[name].dtype) for name, tensor in held.items()} if held else own)
        if found != digest:
            raise ValueError(
                f'it was trained on other frozen weights in {part} (sha256 {digest[:12]}, here {found[:12]}): give the same '
                'weights that it was trained with.'
            )


def _take_first_targets(network: AlignIQA, saved: int, state: dict[str, Tensor]) -> None:
    own = network.config['targets']
    if saved <= own:
        return
    for name, tensor in network.head.state_dict(prefix='head.').items():
        if name in state and state[name].ndim == tensor.ndim:
            pairs = zip(state[name].shape, tensor.shape, strict=True)
            state[name] = state[name][tuple(slice(own if pair == (saved, own) else None) for pair in pairs)]


def _load(network: AlignIQA, state: Mapping[str, Tensor]) -> None:
    try:
        missing, unknown = network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch: names and shapes that do not fit, a line each after the first
        problem = ' '.join(str(error).split('\n')[1].split())
        raise ValueError(f'it does not fit this network: {problem[:200]}{" ..." * (len(problem) > 200)}') from error
    frozen = tuple(f'{name}.' for name in frozen_parts(network))
    problems = unknown + [name for name in missing if not name.startswith(frozen) and name != 'trained']
    if problems:
        raise ValueError(
            f'it does not fit this network: {counted(len(problems), "tensor is", "tensors are")} missing or unknown, such as '
            f'{problems[0]}.'
        )


# Files of version 0.3.0: other names for the same networks

AGGREGATIONS_OF_0_3 = {'msfa': 'stage_pool', 'msfa_pyramid': 'msfa', 'none': 'stage_pool', 'last_map': 'msfa'}


def _from_0_3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if '_extra_state' not in state:
        return state
    data = _parse(state.pop('_extra_state'))
    first = int((data['network'].get('injection_options') or {}).get('first_block', 0))
    data['network'] = _network_from_0_3(data['network'], state)
    renamed = {}
    for name, tensor in state.items():
        name = name.replace('head.centres', 'head.support_vectors')
        if name.startswith('injection.blocks.'):
            place, _, rest = name.removeprefix('injection.blocks.').partition('.')
            name = f'injection.{first + int(place)}.{rest}'
        elif name.startswith('injection.'):
            name = f'injection.{first}.{name.removeprefix("injection.")}'
        renamed[name] = tensor
    return renamed | {METADATA: torch.tensor(list(json.dumps(data, sort_keys=True).encode()), dtype=torch.uint8)}


def _network_from_0_3(network: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    network = {'guide': 'none', 'injection': 'none', **network}  # the defaults of that version
    aggregation = network.get('aggregation', 'msfa')
    if aggregation in ('none', 'last_map'):
        network['stages'] = 1
    network['aggregation'] = AGGREGATIONS_OF_0_3.get(aggregation, aggregation)
    if network.get('injection', 'none') != 'none':
        options = dict(network.get('injection_options') or {})
        first = options.pop('first_block', 11)
        count = len({name.split('.')[2] for name in names if name.startswith('injection.blocks.')}) or 1
        network['injection_options'] = options | {'blocks': list(range(first, first + count))}
    return network
