"""Cross-validation: train on every fold of a data set, test each network once, keep every number with its provenance.

A results file is JSON, written atomically after every fold:
    what was run: `name`, `options` (the training file as plain data), `split` (prompt, image, generator or ipce);
    `folds`: {fold: {column, seed, images {train, val, test}, data_sha256, iteration, validation {SRCC ...} or None,
        test {SRCC ...}, generator_floor {SRCC ...}, network_sha256, environment}}
Folds that the file has already are not run again. Several processes may fill one file: each takes folds that no other one
is at.
"""

import copy
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch

from align_iqa_plugin.archs.pretrained import create_align_iqa
from align_iqa_plugin.data.aigc_dataset import AIGCIQADataset
from align_iqa_plugin.data.feature_cache import FeatureCache
from align_iqa_plugin.data.labels import Labels, read_labels
from align_iqa_plugin.data.splits import (
    SPLITS,
    content_hashes,
    generator_split_name,
    image_split_name,
    ipce_split_name,
    split_by_name,
    split_name,
)
from align_iqa_plugin.data.training_images import check_unseen, starts_from_them
from align_iqa_plugin.evaluation.correlation import correlations
from align_iqa_plugin.evaluation.predict import predict
from align_iqa_plugin.models.run_folder import run_lock
from align_iqa_plugin.models.run_options import total_iterations
from align_iqa_plugin.models.trainer import train
from align_iqa_plugin.runtime.atomic import atomic_write
from align_iqa_plugin.runtime.devices import processor_name
from align_iqa_plugin.runtime.files import read_bytes
from align_iqa_plugin.runtime.lock import InUse, lock
from align_iqa_plugin.runtime.names import suggest

SPLIT_KINDS = {
    'prompt': 'prompt-disjoint: no prompt is on two sides',
    'image': 'image-level: prompts LEAK from training to test',
    'generator': 'leave one generator out: the test generator is not in training',
    'ipce': 'prompt-disjoint, the ten folds of IPCE and ACL-IQA: 240 prompts for training, 60 for test',
}
PACKAGES = ('align-iqa-plugin', 'torch', 'timm', 'pyiqa', 'numpy', 'scipy')
MAX_BYTES = 10**8  # of a results file; one of ten folds has 0.1 MB


def fold_columns(kind: str, options: Mapping) -> dict[str, str]:
    """The split column of each fold, by the fold's name: '1' to '10', or a generator's name.

    Args:
        kind: 'prompt', 'image', 'generator' or 'ipce'.
        options: of the training file.

    Raises:
        ValueError: a generator is to be left out, and the labels do not name generators; or 'ipce' is not for these labels.
    """
    if kind == 'ipce':
        labels = _labels(options['datasets']['train'])
        if not (labels.release and labels.release.ipce_folds):
            raise ValueError(f'{labels.source} is not the table of AGIQA-3K, whose prompts --split ipce names.')
        return {str(fold): ipce_split_name(fold, val=_chooses_an_epoch(options)) for fold in range(1, SPLITS + 1)}
    if kind == 'generator':
        labels = _labels(options['datasets']['train'])
        if 'generator' not in labels.header:
            raise ValueError(f"{labels.source} has no column 'generator' to leave one out: name theirs as generator_column.")
        return {name: generator_split_name(name) for name in sorted(set(labels.column('generator')))}
    name = {'prompt': split_name, 'image': image_split_name}[kind]
    return {str(number): name(number) for number in range(1, SPLITS + 1)}


def chosen_folds(folds: str | None, choices: Sequence[str]) -> list[str]:
    """'1-3,7' or 'AttnGAN,glide' as a list of folds; all of them for None.

    Raises:
        ValueError: a fold is not among the choices.
    """
    if folds is None:
        return list(choices)
    chosen = []
    for part in folds.split(','):
        first, dash, last = part.strip().partition('-')
        if dash and first.isdecimal() and last.isdecimal() and part.strip() not in choices:
            chosen += [str(number) for number in range(int(first), int(last) + 1)]
        else:
            chosen.append(part.strip())
    for fold in chosen:
        if fold not in choices:
            raise ValueError(f"--folds: unknown fold '{fold}'{suggest(fold, choices)}")
    return list(dict.fromkeys(chosen))


def run_protocol(
    options: Mapping, *, kind: str, folds: Sequence[str], root: Path, output: Path, report: Callable[[str], None]
) -> dict:
    """Train and test on each fold that `output` does not have yet.

    Args:
        options: of the training file; its split is replaced by each fold's, in all its data sets. A recipe without a step
            chooses nothing: with 'ipce', it is fitted to all prompts that are not in test, and its validation is left out.
        kind: 'prompt', 'image', 'generator' or 'ipce'.
        folds: names, as in `fold_columns`.
        root: holds experiments/NAME_KIND_FOLD/, from which a stopped fold resumes.
        output: the results file.
        report: is called with a line after each fold.

    Raises:
        ValueError: `output` holds results of another recipe, or the options cannot be trained.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise ValueError('a protocol runs in one process each: start the command several times, and they share the folds.')
    columns = fold_columns(kind, options)
    results = {'name': options['name'], 'split': kind, 'options': copy.deepcopy(dict(options)), 'folds': {}}
    results['folds'] = _kept_folds(output, results)
    waiting, deferred = deque(folds), set()
    while waiting:
        fold = waiting.popleft()
        name = f'{options["name"]}_{kind}_{fold}'
        try:
            # not for the training alone: its network is tested, and another process would rename the folder
            with run_lock(root, name, wait=fold in deferred):
                results['folds'] = _kept_folds(output, results)
                if fold in results['folds']:
                    report(f'fold {fold}: in {output} already.')
                    continue
                numbers = _run_fold({**options, 'name': name}, kind, columns[fold], root)
                results['folds'] = _add_fold(output, results, fold, numbers, list(columns))
        except InUse:
            report(f'fold {fold}: another process is at it, so it comes last here.')
            deferred.add(fold)
            waiting.append(fold)
        else:
            report(f'fold {fold}: {_line(numbers["test"])}')
    return results


def _kept_folds(output: Path, results: Mapping) -> dict[str, dict]:
    """The folds in a results file, if there is one; ValueError if they are of another recipe than `results`."""
    if not output.exists():
        return {}
    kept = read_results(output)
    if recipe(kept) != recipe(results):
        raise ValueError(f'{output} holds results of another recipe or kind of split: name another file with --output.')
    return kept['folds']


def _add_fold(output: Path, results: Mapping, fold: str, numbers: dict, order: Sequence[str]) -> dict[str, dict]:
    """Write a fold into the results file beside those that it has by now, and give them all."""
    with lock(output.parent / '.locks' / output.name, f'{output} is held by another process.', seconds=-1):
        found = _kept_folds(output, results) | {fold: numbers}
        folds = {name: found[name] for name in order if name in found}
        atomic_write(output, json.dumps({**results, 'folds': folds}, indent=1).encode())
    return folds


def read_results(path: Path) -> dict:
    """The content of a results file; ValueError if it is not one."""
    try:
        results = json.loads(read_bytes(path, most=MAX_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read as a results file of align-iqa protocol: {error}.') from error
    if not isinstance(results, dict) or {'name', 'split', 'options', 'folds'} - results.keys():
        raise ValueError(f'{path} is not a results file of align-iqa protocol.')
    return results


def recipe(results: Mapping) -> str:
    """A hash that is equal for runs whose folds may share a row of a table: of all options but names, seed, paths and speed."""
    ignored = ('name', 'manual_seed', 'logger', 'path', 'num_gpu')
    options = {key: value for key, value in results['options'].items() if key not in ignored}
    options['datasets'] = {
        phase: {key: value for key, value in section.items() if key not in ('name', 'dataroot_target', 'num_worker_per_gpu')}
        for phase, section in options['datasets'].items()
    }
    options['train'] = {key: value for key, value in options['train'].items() if key != 'frozen_cache'}
    options['network'] = {
        key: Path(value).name if key == 'backbone_weights' else value for key, value in options['network'].items()
    }
    return hashlib.sha256(json.dumps([results['split'], options], sort_keys=True).encode()).hexdigest()


def merged(parts: Sequence[dict]) -> dict:
    """Results of one recipe from several machines as one; ValueError if they differ in recipe or in a fold's numbers."""
    result = copy.deepcopy(parts[0])
    for part in parts[1:]:
        if recipe(part) != recipe(result):
            raise ValueError(f"results of '{part['name']}' and '{result['name']}' are not of one recipe and split.")
        for fold, numbers in part['folds'].items():
            if result['folds'].setdefault(fold, numbers)['test'] != numbers['test']:
                raise ValueError(f"the results of '{part['name']}' hold fold {fold} twice, with different numbers.")
    return result


def _run_fold(given: Mapping, kind: str, column: str, root: Path) -> dict:
    options = copy.deepcopy(dict(given))
    for section in options['datasets'].values():
        section['split_index'] = column
    section = next((s for phase, s in options['datasets'].items() if phase.startswith('val')), options['datasets']['train'])
    labels = _labels(section)
    phases = split_by_name(labels, column, contents := content_hashes([row.path for row in labels.rows]))
    if starts_from_them(options):
        tested = [content for content, phase in zip(contents, phases, strict=True) if phase == 'test']
        check_unseen(tested, f'{column}, phase test')
    if kind == 'ipce' and not _chooses_an_epoch(options):
        options['datasets'] = {'train': options['datasets']['train']}
    best = train(options, root=root, resume=True)
    models = root / 'experiments' / options['name'] / 'models'
    network = {key: value for key, value in options['network'].items() if key != 'type'}
    validates = any(phase.startswith('val') for phase in options['datasets'])
    checkpoint = models / ('net_best.pth' if validates else 'net_latest.pth')
    net = create_align_iqa(**network, pretrained_model_path=str(checkpoint))
    trained = total_iterations(options['train'], 1) > 0 and any(p.requires_grad for p in net.parameters())
    folder = options['train'].get('frozen_cache')
    cache = FeatureCache(folder, net) if folder and not trained else None
    device = 'cuda' if torch.cuda.is_available() and options.get('num_gpu') != 0 else 'cpu'

    def measured(phase: str) -> dict:
        dataset = AIGCIQADataset({**section, 'name': phase, 'phase': phase, 'check_images': cache is None})
        predicted = predict(net, dataset, device=device, cache=cache, description=phase)
        return correlations(predicted.scores, predicted.mos)

    result = {
        'column': column,
        'seed': options.get('manual_seed'),
        'images': {phase: phases.count(phase) for phase in ('train', 'val', 'test')},
        'data_sha256': _data_hash(labels, contents),
        'iteration': next((numbers['iter'] for metrics in best.values() for numbers in metrics.values()), None),
        # of the network that is tested: in an adaptation, validation sees another head
        'validation': measured('val') if validates else None,
        'test': measured('test'),
        'network_sha256': hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        'environment': environment(),
    }
    if kind != 'generator' and 'generator' in labels.header:
        result['generator_floor'] = _generator_floor(labels, phases)
    return result


def _chooses_an_epoch(options: Mapping) -> bool:
    validates = any(phase.startswith('val') for phase in options['datasets'])
    return validates and total_iterations(options['train'], 1) > 0


def _labels(section: Mapping) -> Labels:
    return read_labels(
        section.get('meta_info_file') or section['dataroot_target'],
        images=section.get('dataroot_target'),
        image_column=section.get('image_column'),
        score_column=section.get('score_column'),
        prompt_column=section.get('prompt_column', 'prompt'),
        generator_column=section.get('generator_column'),
    )


def _generator_floor(labels: Labels, phases: Sequence[str]) -> dict:
    """Correlations of a prediction that reads no pixel: the mean training MOS of an image's generator."""
    rows = list(zip(labels.column('generator'), [row.score for row in labels.rows], phases, strict=True))
    training: dict[str, list[float]] = {}
    for generator, mos, phase in rows:
        if phase == 'train':
            training.setdefault(generator, []).append(mos)
    means = {generator: fmean(mos) for generator, mos in training.items()}
    overall = fmean(mos for of_generator in training.values() for mos in of_generator)
    tests = [(means.get(generator, overall), mos) for generator, mos, phase in rows if phase == 'test']
    return correlations(*map(list, zip(*tests, strict=True)))


def _data_hash(labels: Labels, contents: Sequence[str]) -> str:
    """SHA-256 of the labels in use and of every image's name and content, in the order of the table."""
    digest = hashlib.sha256()
    for row, content in zip(labels.rows, contents, strict=True):
        digest.update(f'{Path(row.path).name}\n{row.score!r}\n{row.prompt}\n{content}\n'.encode('utf-8', 'surrogateescape'))
    return digest.hexdigest()


def environment() -> dict:
    """Command, hardware and versions of a measurement."""
    return {
        'command': shlex.join(['align-iqa', *sys.argv[1:]]),
        'hardware': f'{processor_name()}, {torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"}',
        'python': platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _line(numbers: Mapping) -> str:
    return ', '.join(f'{name} {value:.4f}' for name, value in numbers.items() if name in ('SRCC', 'PLCC'))
