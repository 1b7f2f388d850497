"""A comparison from start to end: read the data sets, score them with each metric, write the results."""

import hashlib
import json
import platform
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas
import torch

from align_iqa_plugin.compare.behaviour import summarise_behaviour
from align_iqa_plugin.compare.datasets import dataset_options, read_dataset, sample_images, with_other_prompts
from align_iqa_plugin.compare.metrics import Metric, MetricUnavailable, read_yaml
from align_iqa_plugin.compare.missing import hub_offline
from align_iqa_plugin.compare.ray_scoring import score_with_ray
from align_iqa_plugin.compare.report.page import write_page
from align_iqa_plugin.compare.scoring import Scorer
from align_iqa_plugin.compare.statistics import summarise
from align_iqa_plugin.compare.store import LabelledImage, Store
from align_iqa_plugin.runtime.atomic import atomic_file, atomic_write
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.csv_text import csv_text
from align_iqa_plugin.runtime.devices import processor_name
from align_iqa_plugin.runtime.lock import lock
from align_iqa_plugin.runtime.memory import PeakMemory
from align_iqa_plugin.runtime.ray_workers import Workers

SAMPLES = 'samples'  # the name of the sample images as a data set
PACKAGES = ('align-iqa-plugin', 'pyiqa', 'torch', 'torchvision', 'timm', 'transformers', 'numpy', 'scipy', 'pillow')

Show = Callable[..., Callable[[int], None]]
"""``show(metric, what, images)`` shows what is done, and gives the function that counts images; ``show(metric, done=True)``."""


def read_tables(
    names: Sequence[str],
    option_file: Path | None,
    *,
    root: Path | None,
    samples: bool,
    columns: Mapping[str, str | None],
    split: str | None,
    phase: str | None,
    seed: int,
) -> dict[str, list[LabelledImage]]:
    """The images of each data set, by its name, with prompts of other images; see `datasets` for arguments and errors.

    Args:
        option_file: data sets in pyiqa's form, which are all read.
        samples: whether the sample images are one of the data sets.
        seed: of the other prompts.
    """
    sections = read_yaml(option_file) if option_file else {}
    if samples and not names and not sections and (split or phase):
        raise ValueError('the samples are in no split: leave out --split and --phase.')
    tables = {SAMPLES: sample_images()} if samples else {}
    for name in dict.fromkeys([*names, *sections]):
        called = Path(name).stem
        if called in tables:
            raise ValueError(f"'{name}' would replace another data set called '{called}': give one of them another name.")
        options = dataset_options(name, sections, root)
        tables[called] = read_dataset(options, columns=columns, split=split, phase=phase)
    return {name: with_other_prompts(images, seed=seed) for name, images in tables.items()}


@dataclass
class Comparison:
    """Scores data sets with metrics into a store.

    Args:
        store: where the scores go.
        datasets: by their names in the store, the images and copies to score.
        device: where the metrics compute; with a team, where they are loaded only to see whether they can be.
        batch_size: the most images that a metric is given together.
        workers: processes that decode images.
        team: workers of Ray that score in place of this process.
        show: see `Show`.
        warn: is called with a sentence for each metric that cannot be loaded.
    """

    store: Store
    datasets: Mapping[str, Sequence[LabelledImage]]
    device: torch.device
    batch_size: int
    workers: int
    team: Workers | None
    show: Show
    warn: Callable[[str], None]

    def score(self, names: Sequence[str]) -> None:
        """Score with each metric, if it can be loaded; those with which another process scores come last.

        Afterwards the store has these images, whatever another process gave the data sets meanwhile.
        """
        self._put_images()
        waiting, deferred = deque(names), set()
        with ExitStack() as stack:
            while waiting:
                name = waiting.popleft()
                memory = PeakMemory(self.device)
                self.show(name, 'is loaded')
                try:
                    metric = Metric(name, self.device)
                except MetricUnavailable as error:
                    if error.offline:
                        stack.enter_context(hub_offline())
                    self.store.put_unavailable(name, str(error))
                    self.warn(f'{name} {error}')
                else:
                    if not self._score_with(metric, memory, wait=name in deferred):
                        deferred.add(name)
                        waiting.append(name)
                        continue
                    del metric
                self.show(name, done=True)
        self._put_images()

    def _put_images(self) -> None:
        for name, images in self.datasets.items():
            self.store.put_images(name, images)

    def _score_with(self, metric: Metric, memory: PeakMemory, *, wait: bool) -> bool:
        """Whether it was done, which it is not where another process scores with the metric and `wait` is false."""
        configuration, name = metric.configuration, metric.configuration.metric
        with self.store.claim(configuration, wait=wait) as claimed:
            if not claimed:
                return False
            self.store.put_metric(configuration, self.team.device if self.team else str(self.device))
            for dataset in self.datasets:
                self.store.put_comparison(dataset, name)
            if self.team:
                show = partial(self.show, name)
                score_with_ray(self.team, self.store, list(self.datasets), configuration, self.batch_size, show)
                return True
            scorer = Scorer(metric, self.store, batch_size=self.batch_size, workers=self.workers, memory=memory)
            for dataset in self.datasets:
                count = len(self.store.pending(dataset, configuration))
                scorer.score(dataset, self.show(name, f'on {dataset}', count))
            return True


def write_results(
    out: Path, scores: pandas.DataFrame, copies: pandas.DataFrame, costs: pandas.DataFrame, provenance: Mapping
) -> dict:
    """Write the score table and, where there are scores, their statistics and the page; gives the statistics.

    Another process that writes results there is waited for.

    Args:
        scores, copies, costs: the tables of a `Store`.
        provenance: of `provenance_of`.

    Returns:
        The summary of `statistics.summarise`; data sets with copies have the one of `summarise_behaviour` as 'behaviour'.

    Raises:
        OSError: a file cannot be written.
    """
    with lock(out / '.locks' / 'results', f"'{out}' is being written.", seconds=-1):  # two commands would mix their files
        return _write_results(out, scores, copies, costs, provenance)


def _write_results(
    out: Path, scores: pandas.DataFrame, copies: pandas.DataFrame, costs: pandas.DataFrame, provenance: Mapping
) -> dict:
    for name, table in (('scores.csv', scores), ('behaviour_scores.csv', copies)):
        if name == 'scores.csv' or len(table):
            cells = table.astype(object).where(table.notna(), None)
            text = csv_text([list(table.columns), *cells.itertuples(index=False)])
            atomic_write(out / name, text.encode('utf-8', 'backslashreplace'))
    if not scores['score'].notna().any():  # else the page comes with this file
        with atomic_file(out / 'scores.parquet') as part, part.open('wb') as file:
            scores.to_parquet(file, index=False)
        return {'datasets': {}}
    settings = {key: provenance[key] for key in ('seed', 'resamples')}
    summary = summarise(scores, **settings)
    for name, rows in copies.groupby('dataset'):
        behaviour = summarise_behaviour(rows, scores[scores['dataset'] == name], **settings)
        summary['datasets'][name]['behaviour'] = behaviour
    write_page(out, summary, scores, costs, provenance)
    return summary


def provenance_of(
    tables: Mapping[str, Sequence[LabelledImage]],
    *,
    device: torch.device,
    team: Workers | None,
    seed: int,
    resamples: int,
    split: str | None,
    phase: str | None,
) -> dict:
    """What the results are made with, as plain data."""

    def digest(images):
        return hashlib.sha256(json.dumps([[each.sha256, each.prompt, each.mos] for each in images]).encode()).hexdigest()

    if team:
        hardware = f'{counted(team.number, "worker")} of Ray on {"GPUs" if team.device == "cuda" else "CPU cores"}'
    else:
        hardware = torch.cuda.get_device_name(device) if device.type == 'cuda' else processor_name()
    return {
        'command': ['align-iqa', *sys.argv[1:]],
        'finished': datetime.now().astimezone().isoformat(timespec='seconds'),
        'packages': {name: version(name) for name in PACKAGES},
        'python': platform.python_version(),
        'platform': platform.platform(),
        'hardware': hardware,
        'seed': seed,
        'resamples': resamples,
        'datasets': {
            name: {'images': len(images), 'split': split or '', 'phase': phase or '', 'labels_sha256': digest(images)}
            for name, images in tables.items()
        },
    }
