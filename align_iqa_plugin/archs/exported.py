"""Files of networks, with where they come from: `exported` ones need nothing else, a `checkpoint` the frozen weights."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.pretrained import checkpoint_state, full_state


def exported(network: AlignIQA, given: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """A safetensors file of the trained part, the frozen parts, the network and the provenance.

    Args:
        given: the keywords that the network was built with.
        provenance: what is stated about the file in it.
    """
    metadata = {
        'format': 'pt',
        'network': json.dumps(_keywords(network, given), sort_keys=True),
        'provenance': json.dumps(provenance, sort_keys=True),
    }
    # not save_file, which writes into a file of another name first, and leaves it behind where it is killed
    return save({name: tensor.contiguous() for name, tensor in full_state(network).items()}, metadata)


def checkpoint(network: AlignIQA, provenance: Mapping[str, Any]) -> bytes:
    """A safetensors file of the trained part and the provenance."""
    state = {name: tensor.contiguous() for name, tensor in checkpoint_state(network).items()}
    return save(state, {'format': 'pt', 'provenance': json.dumps(provenance, sort_keys=True)})


def _keywords(network: AlignIQA, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that build the network again from nothing but the file."""
    config: Any = network.backbone.vit.pretrained_cfg
    tag = config['tag']  # the mean and deviation that normalise images depend on it
    keywords = network.config | {'backbone_weights': 'random'}
    keywords['backbone'] += f'.{tag}' if tag else ''
    if given.get('guide_options'):
        keywords['guide_options'] = given['guide_options']
    if hasattr(network.guide, 'vlm'):  # its weights are in the file
        keywords['guide_options'] = keywords.get('guide_options', {}) | {'vlm_weights': 'random'}
    return keywords
