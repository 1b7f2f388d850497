"""The images of a data set with their labels, from a release, a data set of pyiqa, an option file or a table."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from align_iqa_plugin.compare.store import LabelledImage
from align_iqa_plugin.data.dataset_options import check_dataset_options
from align_iqa_plugin.data.labels import LabelError, Labels, read_labels
from align_iqa_plugin.data.releases import find_release
from align_iqa_plugin.data.splits import content_hashes, phases_of, split_name
from align_iqa_plugin.data.uris import is_uri, read_uri
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.names import suggest

SAMPLES = Path(__file__).parents[1] / 'samples' / 'samples.csv'
ALIGNMENT_COLUMNS = ('mos_align', 'mos_correspondence', 'MOS_c')
"""Names in the releases of the column with the MOS of how well an image shows its prompt."""

DOWNLOADS = 16  # of images at a time, whose contents are hashed

UNUSABLE = ('augment', 'input_size', 'split_file')  # options that change images, or their split, in training


def dataset_options(name: str, files: Mapping[str, dict], root: Path | None) -> dict:
    """Options of a data set in pyiqa's form, with paths below `root`.

    Args:
        name: a section of an option file, a release (releases.py), a data set of pyiqa, or a table of labels.
        files: the sections of the option file.
        root: the folder of the data sets, in place of ./datasets; or of the release itself.

    Raises:
        ValueError: there is no such data set.
    """
    import pyiqa

    known = pyiqa.get_dataset_info()
    if name in files:
        options = dict(files[name])
    elif name in known or _release_key(name) in known:
        options = dict(known.get(name) or known[_release_key(name)])
    elif Path(name).exists():
        return {'type': 'AIGCIQADataset', 'meta_info_file': name}
    else:
        raise ValueError(f"unknown data set or table '{name}'{suggest(name, [*files, *known])}")
    if root is not None:
        for key in ('dataroot_target', 'dataroot_ref', 'meta_info_file'):
            path = Path(str(options.get(key) or ''))
            if path.parts[:1] == ('datasets',):
                options[key] = str(_below(root, path.parts[1:]))
    return options


def _below(root: Path, parts: Sequence[str]) -> Path:
    """ROOT/AGIQA-3K/data.csv, or ROOT/data.csv where ROOT is the folder AGIQA-3K itself."""
    inside = root.joinpath(*parts[1:])
    return inside if len(parts) > 0 and not root.joinpath(*parts).exists() and inside.exists() else root.joinpath(*parts)


def _release_key(name: str) -> str | None:
    try:
        return find_release(name).key
    except ValueError:
        return None


def read_dataset(
    options: Mapping, *, columns: Mapping[str, str | None] | None = None, split: str | None = None, phase: str | None = None
) -> list[LabelledImage]:
    """The images that the options of a data set name, in the order of the labels, none of them opened.

    For every MOS, higher is better: where the options say `lower_better`, it is mirrored in `mos_range`. An image whose file
    is missing has a `problem`.

    Args:
        options: as `dataset_options` gives them.
        columns: of 'image', 'score', 'prompt' and 'generator', in place of those in the options where not None; a prompt
            column '' stands for data without prompts.
        split: name of a column, or number of a prompt-disjoint split, in place of the one in the options.
        phase: 'train', 'val' or 'test', in place of the one in the options; by default test.

    Raises:
        ValueError: the labels cannot be used, the message names the file and the row; or a phase of no split.
    """
    for key in UNUSABLE:
        if options.get(key):
            raise ValueError(f"{options.get('name')}: leave out '{key}': images are scored as they are.")
    options = {**options, 'phase': phase or options.get('override_phase') or options.get('phase') or 'test'}
    if split is not None:
        options['split_index'] = (
            split_name(int(split), ratio=str(options.get('split_ratio', '712'))) if split.isdecimal() else split
        )
    if phase is not None and options.get('split_index') is None:
        raise ValueError(f'{options.get("name")}: --phase {phase} needs a split: add --split, or leave it out for all images.')
    named = {f'{kind}_column': name for kind, name in (columns or {}).items() if name is not None}
    own = options.get('type') == 'AIGCIQADataset'
    if named and not own:
        raise ValueError(f"{options.get('name')}: pyiqa's class of it reads columns by position, so none can be named.")
    options |= {key: name or None for key, name in named.items()}
    images = _from_table(options) if own else _from_pyiqa(options)
    if not images:
        raise ValueError(f'{options.get("meta_info_file")}: there is no image in the phase {options["phase"]!r}.')
    return _oriented(images, options)


def sample_images() -> list[LabelledImage]:
    """The sample images of this package, 12 of AGIQA-3K, with their prompts and MOS."""
    return read_dataset({'type': 'AIGCIQADataset', 'meta_info_file': str(SAMPLES), 'score_column': 'mos_quality'})


def with_other_prompts(images: Sequence[LabelledImage], *, seed: int) -> list[LabelledImage]:
    """Each image with the prompt of another one as `other_prompt`, which depends on seed, image and the prompts there are."""
    prompts = sorted({image.prompt for image in images} - {''})
    if len(prompts) < 2:
        return list(images)
    changed = []
    for image in images:
        others = [prompt for prompt in prompts if prompt != image.prompt]
        place = hashlib.sha256(f'{seed} {image.sha256} {image.prompt}'.encode()).digest()
        changed.append(replace(image, other_prompt=others[int.from_bytes(place[:8], 'big') % len(others)]))
    return changed


def _from_table(options: Mapping) -> list[LabelledImage]:
    check_dataset_options(options)
    table = options.get('meta_info_file') or options['dataroot_target']
    settings: dict[str, Any] = {
        'images': options.get('dataroot_target'),
        'image_column': options.get('image_column'),
        'score_column': options.get('score_column'),
        'generator_column': options.get('generator_column'),
        'score_range': options.get('mos_range'),
    }
    labels = read_labels(table, **settings, prompt_column=None, uris=True)  # for its header
    settings['prompt_column'] = options.get('prompt_column', 'prompt' if 'prompt' in labels.header else None)
    alignment = next((name for name in ALIGNMENT_COLUMNS if name in labels.header and name != labels.score_column), None)
    further = [name for name in (_deviation_column(labels), alignment) if name]
    labels = read_labels(table, **settings, further_score_columns=further, uris=True)
    missing = list(labels.missing)
    if not labels.rows:
        labels.raise_problems()
    labels.problems[:] = [problem for problem in labels.problems if problem not in missing]
    labels.raise_problems()
    hashes: dict[str, str] = {}  # SHA-256 by path or URI
    unreadable: dict[str, str] = {}  # why there is none

    def hash_files(paths: list[str]) -> list[str]:
        new = sorted({*paths} - hashes.keys() - unreadable.keys())
        local, remote = ([path for path in new if is_uri(path) is there] for there in (False, True))
        hashes.update(zip(local, content_hashes(local), strict=True))
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            for path, (content, problem) in zip(remote, pool.map(_remote_hash, remote), strict=True):
                if problem:
                    unreadable[path] = problem
                else:
                    hashes[path] = content
        return [hashes.get(path, '') for path in paths]

    phases = None
    if options.get('split_index') is not None:
        if missing:  # the phases of the other images may depend on them
            raise LabelError(
                f'{labels.source}: {counted(len(missing), "image is", "images are")} missing, and a split needs the whole '
                f'table; the first is that of row {missing[0][0]}, {missing[0][1]}'
            )
        index = options['split_index']
        name = index if isinstance(index, str) else split_name(index, ratio=str(options.get('split_ratio', '802')))
        phases = phases_of(labels, name, hash_files)
        # a split that had to be computed depends on every file
        labels.problems.extend(
            (row.number, f'{row.path} {unreadable[row.path]}') for row in labels.rows if row.path in unreadable
        )
        labels.raise_problems()
    rows = [row for number, row in enumerate(labels.rows) if phases is None or phases[number] == options['phase']]
    reasons = {row: sentence.partition(': ')[2] for row, (_, sentence) in zip(labels.rows_without_image, missing, strict=True)}
    hash_files([row.path for row in rows])

    def cell(row, name):
        return row.cells[labels.header.index(name)] if name in labels.header else ''

    images = []
    for row in sorted({*rows, *reasons}, key=lambda row: row.number):
        numbers: dict[str | None, float] = dict(zip(further, row.further_scores, strict=True))
        images.append(
            LabelledImage(
                image=cell(row, labels.image_column),
                path=row.path,
                sha256=hashes.get(row.path, ''),
                prompt=row.prompt if row.prompt.strip() else '',
                prompt_id=cell(row, 'prompt_id'),
                generator=cell(row, 'generator'),
                style=cell(row, 'style'),
                mos=row.score,
                mos_std=numbers.get(_deviation_column(labels), math.nan),
                mos_align=numbers.get(alignment, math.nan),
                problem=reasons.get(row) or unreadable.get(row.path, ''),
            )
        )
    return images


def _remote_hash(uri: str) -> tuple[str, str]:
    """SHA-256 of what is at a URI and '', or '' and the reason why it cannot be read."""
    try:
        return hashlib.sha256(read_uri(uri)).hexdigest(), ''
    except OSError as error:
        return '', f'cannot be read: {" ".join(str(error).split()).rstrip(".")}.'


def _deviation_column(labels: Labels) -> str | None:
    """mos_quality and std_quality, mos and std: the column beside the score's with `std` for `mos`."""
    name = labels.score_column.replace('mos', 'std')
    return name if name != labels.score_column and name in labels.header else None


def _from_pyiqa(options: Mapping) -> list[LabelledImage]:
    """The images that pyiqa's own class of the data set finds by its options and its meta info CSV."""
    from pyiqa.data import build_dataset

    try:
        dataset = build_dataset(dict(options))
    # an assertion, a missing file, an unknown type: whatever stands in the way is in the message
    except Exception as error:
        raise ValueError(f'{options.get("name")}: pyiqa cannot build the data set: {" ".join(str(error).split())}') from error
    folder = str(options.get('dataroot_target') or '')
    named = []
    for item in dataset.paths_mos:
        texts = [value for value in item[:2] if isinstance(value, str)]
        try:
            # with a reference image: reference, image, score; else image, score
            path, score = item[len(texts) - 1], float(item[len(texts)])
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f'{options.get("name")}: {options.get("type")} has no images with one score each.') from error
        named.append((path if os.path.isfile(path) else os.path.join(folder, path), score))
    present = [path for path, _ in named if os.path.isfile(path)]
    hashes = dict(zip(present, content_hashes(present), strict=True))
    return [
        LabelledImage(
            image=os.path.relpath(path, folder) if folder else path,
            path=path,
            sha256=hashes.get(path, ''),
            mos=score,
            problem='' if path in hashes else f"there is no such file in '{folder}'.",
        )
        for path, score in named
    ]


def _oriented(images: list[LabelledImage], options: Mapping) -> list[LabelledImage]:
    if not options.get('lower_better'):
        return images
    low, high = options.get('mos_range') or (0.0, 0.0)
    return [replace(image, mos=low + high - image.mos) for image in images]
