"""What guidance is made of: a registry of guides by name, so that another person can add one.

A guide is a module with an attribute `dim` (width of its tokens) and ``forward(image, prompts) -> (b, g, dim)``, image RGB in
[0, 1] of shape (b, 3, h, w), prompts None or a list of b texts or Nones. Its constructor's keywords become keys of
`guide_options` in a training file. One that makes no use of prompts says so by ``reads_prompts = False``::

    from align_iqa_plugin.archs.guides import GUIDES
    GUIDES['sharpness'] = 'my_package.sharpness:SharpnessGuide'    # or the class itself
"""

from importlib import import_module

from torch import nn

# by import path: the semantic guide loads open_clip, which the others do not need
GUIDES: dict[str, str | type[nn.Module]] = {
    'saliency': 'align_iqa_plugin.archs.guides.saliency:SaliencyGuide',
    'semantic': 'align_iqa_plugin.archs.guides.semantic:SemanticGuide',
}


def guide_class(name: str) -> type[nn.Module]:
    """The class behind a name in `GUIDES`."""
    guide = GUIDES[name]
    if isinstance(guide, str):
        module, attribute = guide.split(':')
        guide = getattr(import_module(module), attribute)
    return guide
