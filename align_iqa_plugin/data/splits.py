"""Splits of a data set into train, val and test; each is a column of a meta info CSV, with a name that defines it.

==============================  ==========================================================================================
``ratio712_seed123_split_01``   Prompt-disjoint: no prompt is on two sides. pyiqa's own datasets look for this name when
                                `split_index` is 1; 7, 1 and 2 are tenths of the prompts.
``image712_seed123_split_01``   By image: prompts are on both sides, which flatters the results on test. It is only for
                                comparison with papers that split so; 7, 1 and 2 are tenths of the images.
``generator_split_AttnGAN``     That generator left out: test is all of its images, val all images that the others made
                                for a tenth of their prompts, train the rest. Test and train share prompts.
``official_split``              As the authors of a release split it into training and test (BIQ2021). Val is a tenth of their
                                training images.
``ipce_split_01``               The folds of IPCE and ACL-IQA on AGIQA-3K: test is 60 prompts, train the other 240, and val is
                                empty. In ``ipce_val_split_01`` a tenth of the 240 is val.
==============================  ==========================================================================================

Byte-identical files are never on two sides of a split. Where test is fixed (the last three kinds), copies of a test image are
'unused': in no phase. Images or prompts are dealt out in the order of a hash of seed, split and name, so that a split depends
neither on the order of the rows nor on a library's random stream.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from align_iqa_plugin.data.labels import LabelError, Labels
from align_iqa_plugin.data.uris import is_uri, read_uri
from align_iqa_plugin.runtime.files import file_digest
from align_iqa_plugin.runtime.names import suggest

SEED = 123  # the only seed whose columns pyiqa's datasets find when `split_index` is a number
RATIO = '712'
SPLITS = 10
PHASES = ('train', 'val', 'test')
UNUSED = 'unused'
OFFICIAL_SPLIT = 'official_split'


def split_name(split: int, *, seed: int = SEED, ratio: str = RATIO) -> str:
    """Column name of a prompt-disjoint split in pyiqa's form, for example ``ratio712_seed123_split_01``."""
    return f'ratio{ratio}_seed{seed}_split_{split:02d}'


def image_split_name(split: int, *, seed: int = SEED, ratio: str = RATIO) -> str:
    """Column name of a split by image, for example ``image712_seed123_split_01``."""
    return f'image{ratio}_seed{seed}_split_{split:02d}'


def generator_split_name(generator: str) -> str:
    """Column name of the split that leaves this generator out, for example ``generator_split_AttnGAN``."""
    return f'generator_split_{generator}'


def ipce_split_name(fold: int, *, val: bool = False) -> str:
    """Column name of a fold of IPCE, for example ``ipce_split_01``; with `val`, the one with a validation part."""
    return f'ipce{"_val" if val else ""}_split_{fold:02d}'


def split_names(labels: Labels) -> list[str]:
    """The names of the splits that `data prepare` writes.

    Ten by prompt, ten by image, one for each generator where a table has several, and the official one where there is one.
    """
    numbers = range(1, SPLITS + 1)
    generators = sorted(set(labels.generators) - {''})
    return [
        *(split_name(number) for number in numbers),
        *(image_split_name(number) for number in numbers),
        *(generator_split_name(generator) for generator in generators if len(generators) > 1),
        *([OFFICIAL_SPLIT] if labels.release and labels.release.test_table and 'phase' in labels.header else []),
    ]


def all_splits(labels: Labels) -> dict[str, list[str]]:
    """The phase of each row in every split of `split_names`.

    Raises:
        LabelError: a split has an empty side.
        OSError: a file cannot be read.
    """
    contents = content_hashes([row.path for row in labels.rows])
    splits = {name: split_by_name(labels, name, contents) for name in split_names(labels)}
    for name, column in splits.items():
        for phase in PHASES:
            if phase not in column:
                raise LabelError(f"'{labels.source}': too few prompts or images, nothing is left for {phase} of {name}.")
    return splits


def split_by_name(labels: Labels, name: str, contents: Sequence[str] | None = None) -> list[str]:
    """The phase of each row in the split of this name, computed from prompts, generators and files.

    A column of this name in the table itself is not used. The name may have another seed and ratio than those of `split_names`,
    for example ``ratio802_seed7_split_03``.

    Args:
        labels: the table.
        name: a name as `split_names` gives it.
        contents: the hash of each row's file, where it is known already; see `content_hashes`.

    Returns:
        'train', 'val' or 'test' for each row, and where test is not dealt out also 'unused'.

    Raises:
        LabelError: the split is unknown; the message lists the known ones.
        OSError: a file cannot be read.
    """
    numbered = re.fullmatch(r'(ratio|image)(\d{3})_seed(\d+)_split_(\d{2,})', name)
    names, digits = split_names(labels), _ipce_digits(labels)
    if not numbered and name not in (*names, *digits):
        ipce = [f'{ipce_split_name(1)} to {ipce_split_name(SPLITS)}'] if digits else []
        raise LabelError(
            f"unknown split {name!r} of '{labels.source}'; choose from {names[0]} to {names[SPLITS - 1]}, "
            + ', '.join([f'{names[SPLITS]} to {names[2 * SPLITS - 1]}', *names[2 * SPLITS :], *ipce])
            + '.'
        )
    if contents is None:
        contents = content_hashes([row.path for row in labels.rows])
    prompts = [row.prompt for row in labels.rows]
    if name == OFFICIAL_SPLIT:
        return fixed_test_split(
            [phase == 'test' for phase in labels.column('phase')], prompts, contents, order=f'official/{SEED}'
        )
    if name in digits:
        tested = [prompt_id.endswith(digits[name]) for prompt_id in labels.column('prompt_id')]
        val = name.startswith('ipce_val')
        return fixed_test_split(tested, prompts, contents, order=f'ipce/{SEED}/{name[-2:]}', val=val)
    if not numbered:
        left_out = name.removeprefix(generator_split_name(''))
        return leave_one_generator_out_split(labels.generators, prompts, contents, left_out)
    kind, ratio, seed, split = numbered.groups()
    try:
        if kind == 'image':
            return image_level_split(contents, int(split), seed=int(seed), ratio=ratio)
        return prompt_disjoint_split(prompts, contents, int(split), seed=int(seed), ratio=ratio)
    except ValueError as error:
        raise LabelError(f'{name}: {error}.') from error


def phases_of(labels: Labels, name: str, hash_files: Callable[[list[str]], list[str]] | None = None) -> list[str]:
    """The phase of each row in a split: from the table's column of this name, or computed where it has no split columns.

    A split column is one with 'split' in its name.

    Args:
        labels: the table.
        name: of the split.
        hash_files: the function that hashes the rows' files; it is not called for a table with split columns.

    Raises:
        LabelError: the table has split columns, but not this one; or there is no such split.
    """
    present = [column for column in labels.header if 'split' in column or column == name]
    if not present:
        return split_by_name(labels, name, hash_files and hash_files([row.path for row in labels.rows]))
    if name not in present:
        raise LabelError(f"'{labels.source}' has no split column {name!r} (split_index, split_ratio){suggest(name, present)}")
    phases = labels.column(name)
    for row, phase in zip(labels.rows, phases, strict=True):
        if phase not in (*PHASES, UNUSED):
            labels.problems.append((row.number, f'{name} is {phase!r}, not train, val, test or unused.'))
    return phases


def content_hashes(paths: Sequence[str | Path]) -> list[str]:
    """SHA-256 of the bytes at each path or URI, as hexadecimal text; a progress bar shows on a terminal's standard error.

    Raises:
        OSError: a file cannot be read.
    """
    console = Console(stderr=True)
    progress = track(paths, 'Hashing images', console=console, transient=True, disable=not console.is_terminal)
    return [hashlib.sha256(read_uri(path)).hexdigest() if is_uri(path) else file_digest(path) for path in progress]


def prompt_groups(prompts: Sequence[str], contents: Sequence[str]) -> list[str]:
    """The name of each row's group: rows that share a prompt or a file's content, directly or through others, share it.

    Prompts that differ only in case or white space count as one. A row without a prompt is grouped by its content alone.

    Args:
        prompts: the prompt of each row, '' where it has none.
        contents: the hash of each row's file, see `content_hashes`.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]  # halves the path to the root, which would grow with each prompt
            node = parent[node]
        return node

    names = _names(prompts, contents)
    for name, content in zip(names, contents, strict=True):
        parent[root(('content', content))] = root(('prompt', ' '.join(name.split()).casefold()))

    # Which node became a root depends on the order of the rows; the first name of a group in sorted order does not.
    members: dict[tuple[str, str], set[str]] = {}
    for name, content in zip(names, contents, strict=True):
        members.setdefault(root(('content', content)), set()).add(name)
    group_names = {node: min(group) for node, group in members.items()}
    return [group_names[root(('content', content))] for content in contents]


def prompt_disjoint_split(
    prompts: Sequence[str], contents: Sequence[str], split: int, *, seed: int = SEED, ratio: str = RATIO
) -> list[str]:
    """'train', 'val' or 'test' for each row; the shares of `ratio` are shares of the prompts, not of the images.

    Groups (see `prompt_groups`) fill test first, then val, then train: a share is exceeded by less than one group. With fewer
    prompts than ten a side can be empty.

    Args:
        prompts: the prompt of each row, '' where it has none.
        contents: the hash of each row's file, see `content_hashes`.
        split: number of the split, from 1.
        seed: part of the hash that orders the groups.
        ratio: tenths of train, val and test, one digit each.

    Raises:
        ValueError: `ratio` is not three digits that add up to ten.
    """
    groups = prompt_groups(prompts, contents)
    sizes = Counter(group for _, group in set(zip(_names(prompts, contents), groups, strict=True)))
    phases = _deal(sizes, ratio, f'{seed}/{split}')
    return [phases[group] for group in groups]


def image_level_split(contents: Sequence[str], split: int, *, seed: int = SEED, ratio: str = RATIO) -> list[str]:
    """'train', 'val' or 'test' for each row; the shares of `ratio` are shares of the rows, and sides share prompts.

    Args:
        contents: the hash of each row's file, see `content_hashes`; rows with the same one stay together.
        split: number of the split, from 1.
        seed: part of the hash that orders the files.
        ratio: tenths of train, val and test, one digit each.

    Raises:
        ValueError: `ratio` is not three digits that add up to ten.
    """
    phases = _deal(Counter(contents), ratio, f'image/{seed}/{split}')
    return [phases[content] for content in contents]


def leave_one_generator_out_split(
    generators: Sequence[str], prompts: Sequence[str], contents: Sequence[str], left_out: str, *, seed: int = SEED
) -> list[str]:
    """'test' for the rows of one generator; 'train' or 'val' for the others, by prompt; 'unused' for copies of test images.

    Val is a tenth of the prompts (see `prompt_groups`) of the other generators, with all their images of these prompts.

    Args:
        generators: the generator of each row, '' where it is not known: such a row is never in test.
        prompts: the prompt of each row, '' where it has none.
        contents: the hash of each row's file, see `content_hashes`.
        left_out: the generator to test on.
        seed: part of the hash that orders the prompts.
    """
    tested = [generator == left_out for generator in generators]
    return fixed_test_split(tested, prompts, contents, order=f'generator/{seed}/{left_out}')


def fixed_test_split(
    tested: Sequence[bool], prompts: Sequence[str], contents: Sequence[str], *, order: str, val: bool = True
) -> list[str]:
    """'test' for the rows of `tested`; 'train' or 'val' for the others, by prompt; 'unused' for copies of test images.

    Val is a tenth of the prompts (see `prompt_groups`) of the other rows.

    Args:
        tested: whether each row is in test.
        prompts: the prompt of each row, '' where it has none.
        contents: the hash of each row's file, see `content_hashes`.
        order: part of the hash that orders the prompts.
        val: False leaves val empty.
    """
    test_contents = {content for content, is_test in zip(contents, tested, strict=True) if is_test}
    groups, names = prompt_groups(prompts, contents), _names(prompts, contents)
    others = [row for row, content in enumerate(contents) if content not in test_contents]
    sizes = Counter(group for _, group in {(names[row], groups[row]) for row in others})
    phases = _deal(sizes, '910', order) if val else dict.fromkeys(sizes, 'train')
    result = ['test' if is_test else UNUSED for is_test in tested]
    for row in others:
        result[row] = phases[groups[row]]
    return result


def _ipce_digits(labels: Labels) -> dict[str, tuple[str, ...]]:
    """The last digits of the test prompts' ids in each fold of IPCE, by the names of its splits; none but for AGIQA-3K."""
    folds = labels.release.ipce_folds if labels.release else ()
    return {ipce_split_name(fold, val=val): tuple(digits) for val in (False, True) for fold, digits in enumerate(folds, 1)}


def _deal(sizes, ratio, order):
    """The phase of each group. Groups fill test first, then val, then train: a share is exceeded by less than one group."""
    if not (len(ratio) == 3 and ratio.isdecimal() and sum(map(int, ratio)) == 10):
        raise ValueError(f'the ratio {ratio!r} is not three digits (tenths of train, val, test) that add up to ten')
    _, val_tenths, test_tenths = map(int, ratio)
    total, placed, phases = sum(sizes.values()), 0, {}
    for group in sorted(sizes, key=lambda name: hashlib.sha256(f'{order}/{name}'.encode()).hexdigest()):
        if 10 * placed < test_tenths * total:
            phases[group] = 'test'
        elif 10 * placed < (test_tenths + val_tenths) * total:
            phases[group] = 'val'
        else:
            phases[group] = 'train'
        placed += sizes[group]
    return phases


def _names(prompts, contents):
    """The name by which each row is counted: its prompt, or its content where it has none."""
    return [prompt if prompt.strip() else content for prompt, content in zip(prompts, contents, strict=True)]
