"""Prompt-disjoint train / val / test splits, named as pyiqa's own datasets name their split columns.

Images of one prompt, and byte-identical files, never stand on two sides of a split. The order of the groups is the
order of a hash of (seed, split, prompt): a split depends neither on the order of the rows nor on a library's random
stream.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

SEED = 123  # the only seed whose columns pyiqa's datasets find when `split_index` is a number
RATIO = '712'


def split_name(split: int, *, seed: int = SEED, ratio: str = RATIO) -> str:
    """Column name in pyiqa's form, for example ``ratio712_seed123_split_01``."""
    return f'ratio{ratio}_seed{seed}_split_{split:02d}'


def content_hashes(paths: Sequence[str | Path]) -> list[str]:
    """SHA-256 of each file's bytes, as hexadecimal text; a progress bar shows on a terminal's standard error.

    Raises:
        OSError: a file cannot be read.
    """
    progress = track(paths, description='Hashing images', console=Console(stderr=True), transient=True)
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in progress]


def prompt_groups(prompts: Sequence[str], contents: Sequence[str]) -> list[str]:
    """The name of each row's group: rows that share a prompt or a file's content, directly or through others, share it.

    Prompts that differ only in case or white space count as one. A row without a prompt is held only by its content.

    Args:
        prompts: the prompt of each row, '' where it has none.
        contents: the hash of each row's file, see `content_hashes`.
    """
    parent = {}

    def root(node):
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]  # halves the way up, which else grows with each prompt joined
            node = parent[node]
        return node

    names = _names(prompts, contents)
    for name, content in zip(names, contents, strict=True):
        parent[root(('content', content))] = root(('prompt', ' '.join(name.split()).casefold()))

    # Which node became a root depends on the order of the rows; the first name of a group in sorted order does not.
    members = {}
    for name, content in zip(names, contents, strict=True):
        members.setdefault(root(('content', content)), set()).add(name)
    group_names = {node: min(group) for node, group in members.items()}
    return [group_names[root(('content', content))] for content in contents]


def prompt_disjoint_split(
    prompts: Sequence[str], contents: Sequence[str], split: int, *, seed: int = SEED, ratio: str = RATIO
) -> list[str]:
    """'train', 'val' or 'test' for each row; the shares of `ratio` are shares of the prompts, not of the images.

    Groups (see `prompt_groups`) fill test first, then val, then train, so a share is exceeded by less than one group.
    Fewer prompts than ten can leave a side empty.

    Args:
        prompts: the prompt of each row, '' where it has none.
        contents: the hash of each row's file, see `content_hashes`.
        split: number of the split, from 1.
        seed: part of the hash that orders the groups.
        ratio: tenths of train, val and test, one digit each.

    Raises:
        ValueError: `ratio` is not three digits that add up to ten.
    """
    if not (len(ratio) == 3 and ratio.isdecimal() and sum(map(int, ratio)) == 10):
        raise ValueError(f'the ratio {ratio!r} is not three digits (tenths of train, val, test) that add up to ten')
    _, val_tenths, test_tenths = map(int, ratio)

    groups = prompt_groups(prompts, contents)
    sizes = dict.fromkeys(groups, 0)
    for _, group in set(zip(_names(prompts, contents), groups, strict=True)):
        sizes[group] += 1
    total, placed, phases = sum(sizes.values()), 0, {}
    for group in sorted(sizes, key=lambda name: hashlib.sha256(f'{seed}/{split}/{name}'.encode()).hexdigest()):
        if 10 * placed < test_tenths * total:
            phases[group] = 'test'
        elif 10 * placed < (test_tenths + val_tenths) * total:
            phases[group] = 'val'
        else:
            phases[group] = 'train'
        placed += sizes[group]
    return [phases[group] for group in groups]


def _names(prompts, contents):
    """What a row is counted and named by: its prompt, or its content where it has none."""
    return [prompt if prompt.strip() else content for prompt, content in zip(prompts, contents, strict=True)]
