"""Align-IQA, a quality metric for AI-generated images, as a plugin for pyiqa.

Importing this package imports neither torch nor pyiqa: it asks for the metric to be listed once pyiqa is there (`autoload.py`).
pyiqa finds the network, the dataset and the training model through `register.py`. For use without pyiqa's registries there are
`align_iqa_plugin.AlignIQA`, `create_align_iqa` (with weights), `AIGCIQADataset` and `read_image` (a file as the metric sees
it), imported when they are first asked for.
"""

from importlib import import_module

from align_iqa_plugin.autoload import install

__version__ = '0.10.0'

_PUBLIC = {
    'AlignIQA': 'align_iqa_plugin.archs.align_iqa_arch',
    'create_align_iqa': 'align_iqa_plugin.archs.pretrained',
    'AIGCIQADataset': 'align_iqa_plugin.data.aigc_dataset',
    'read_image': 'align_iqa_plugin.data.images',
}
__all__ = [*_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_PUBLIC[name]), name)


install()
