"""The parts of the network that option files choose by name. Add your own to a table, and name it in the file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from align_iqa_plugin.archs.guides import GUIDES, guide_class
from align_iqa_plugin.archs.head import HEADS
from align_iqa_plugin.archs.injection import INJECTIONS
from align_iqa_plugin.archs.msfa import AGGREGATIONS
from align_iqa_plugin.runtime.names import suggest

PARTS: dict[str, Mapping[str, Any]] = {
    'guide': GUIDES,
    'injection': INJECTIONS,
    'aggregation': AGGREGATIONS,
    'head': HEADS,
}
OPTIONAL = ('guide', 'injection')
"""Parts that may be 'none'."""


def part_names(part: str) -> list[str]:
    """What an option file may call a part."""
    return [*PARTS[part], *['none'] * (part in OPTIONAL)]


def part_class(part: str, name: str) -> Callable[..., nn.Module]:
    """The class behind a name.

    Raises:
        ValueError: the part has no such name.
    """
    if name not in PARTS[part]:
        raise ValueError(f"unknown {part} '{name}'{suggest(name, part_names(part))}")
    cls: Callable[..., nn.Module] = guide_class(name) if part == 'guide' else PARTS[part][name]
    return cls


def build_part(part: str, name: str, options: Mapping[str, Any] | None, **given: Any) -> tuple[Any, dict[str, Any]]:
    """The part of this name, and its options with the defaults filled in.

    Args:
        options: keywords that the option file gives.
        given: keywords that the network gives, such as the width.

    Raises:
        ValueError: an unknown name or option.
    """
    cls = part_class(part, name)
    known = {key: value.default for key, value in inspect.signature(cls).parameters.items() if key not in given}
    options = dict(options or {})
    for key in options:
        if key not in known:
            raise ValueError(f"{part}_options: {name} has no option '{key}'{suggest(key, known)}")
    return cls(**given, **options), known | options
