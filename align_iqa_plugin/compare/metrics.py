"""The no-reference metrics of pyiqa: which there are, and one of them loaded, with all that its scores depend on."""

import inspect
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from align_iqa_plugin import __version__
from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.compare.missing import is_offline, what_is_missing
from align_iqa_plugin.compare.store import Configuration
from align_iqa_plugin.models.options_file import parse, read_text
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.hashes import weights_digest
from align_iqa_plugin.runtime.names import suggest
from align_iqa_plugin.runtime.quiet import quiet_log
from align_iqa_plugin.runtime.seeds import seed_everything

PROMPT_KEYWORDS = ('caption_list', 'captions', 'prompts', 'prompt')
"""Names under which a network's `forward` takes the prompts, a list with one for each image."""

SEED = 123  # of whatever a metric draws; pyiqa's own default, which it does not use


class MetricUnavailable(Exception):
    """A metric cannot be loaded; the message is the end of a sentence that begins with the metric's name.

    Attributes:
        offline: whether a download failed because there is no connection.
    """

    def __init__(self, message: str, *, offline: bool = False):
        super().__init__(message)
        self.offline = offline


def metric_names(asked: Sequence[str]) -> list[str]:
    """The metrics asked for, each once; 'all' stands for all no-reference metrics that score single images.

    Raises:
        ValueError: pyiqa does not have one of them, or it needs more than a single image.
    """
    import pyiqa

    choices = pyiqa.list_models('NR')
    names: dict[str, None] = {}
    problems = []
    for name in asked:
        if name == 'all':
            names |= dict.fromkeys(each for each in choices if not _scores_folders(each))
        elif name in choices and _scores_folders(name):
            problems.append(f"'{name}' scores whole folders of images, not single ones.")
        elif name in choices:
            names[name] = None
        elif name in pyiqa.list_models():
            problems.append(f"'{name}' needs a reference image, which generated images do not have.")
        else:
            problems.append(f"unknown metric '{name}'{suggest(name, choices)} `pyiqa -ls` lists all.")
    if problems:
        raise ValueError(' '.join(problems))
    return list(names)


def add_metrics(file: Path) -> list[str]:
    """The names of the metrics of an option file, which are registered with pyiqa.

    The file is YAML in pyiqa's form, ``NAME: {metric_opts: {type: NETWORK, ...}, metric_mode: NR, lower_better: ...}``. A name
    that pyiqa has is replaced in this process.

    Raises:
        ValueError: the file cannot be read, or has another form.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    options = read_yaml(file)
    for name, config in options.items():
        network = config.get('metric_opts')
        if not isinstance(network, dict) or not isinstance(network.get('type'), str) or 'metric_mode' not in config:
            raise ValueError(f"'{file}': {name} needs metric_opts, with the type of the network, and metric_mode.")
    DEFAULT_CONFIGS.update(options)
    return list(options)


def read_yaml(file: Path) -> dict:
    """The sections of an option file; no code in it is run.

    Raises:
        ValueError: it cannot be read, is not YAML, or has no sections.
    """
    try:
        text = read_text(file)
    except ValueError as error:
        raise ValueError(f"'{file}' cannot be read: {error}.") from error
    content = parse(text, f"'{file}'")
    if not isinstance(content, dict) or not content:
        raise ValueError(f"'{file}' has no sections, NAME: {{...}}.")
    for name, section in content.items():
        if not isinstance(section, dict):
            raise ValueError(f"'{file}': {name} is {section!r}, not a section of keys.")
    return {str(name): section for name, section in content.items()}


class Metric:
    """A metric of pyiqa on a device.

    Attributes:
        configuration: what its scores depend on.
        device: where it computes.

    Raises:
        MetricUnavailable: its weights or a package are missing, or it fails to load; the message says what to get.
    """

    def __init__(self, name: str, device: torch.device):
        import pyiqa
        from pyiqa.default_model_configs import DEFAULT_CONFIGS

        self.device = device
        seed_everything(SEED)  # parts without weights, if a metric has any, are then the same in every run
        with quiet_log(), redirect_stdout(StringIO()) as printed:
            try:
                self._model = pyiqa.create_metric(name, device=device)
            # whatever the code of some 70 metrics, torch, timm, transformers and open_clip raise
            except Exception as error:
                reason = what_is_missing(error, printed.getvalue())
                raise MetricUnavailable(reason, offline=is_offline(error)) from error
        network = self._model.net
        parameters = inspect.signature(network.forward).parameters
        # a network whose `forward` takes prompts may declare that it does not read them
        keywords = PROMPT_KEYWORDS if getattr(network, 'reads_prompts', True) else ()
        self._prompt_keyword = next((keyword for keyword in keywords if keyword in parameters), None)
        config = DEFAULT_CONFIGS[name]
        self.configuration = Configuration(
            metric=name,
            options=json.dumps(config['metric_opts'], sort_keys=True, default=str),
            weights_sha256=weights_digest(self._model.net),
            code_version=f'align-iqa-plugin {__version__}, pyiqa {version("pyiqa")}',
            score_range=str(config.get('score_range') or ''),
            lower_better=bool(self._model.lower_better),
            uses_prompt=self._prompt_keyword is not None,
        )

    def __call__(self, images: Tensor, prompts: Sequence[str] | None) -> list[float]:
        """One score for each image; see `predict`."""
        return self.predict(images, prompts)[0]

    def predict(self, images: Tensor, prompts: Sequence[str] | None) -> tuple[list[float], list[float] | None]:
        """One score for each image, and the deviations of these scores where the metric states them, as Align-IQA does.

        Args:
            images: (n, 3, h, w), RGB in [0, 1].
            prompts: n of them, or None where there are none; a metric that needs them then fails.

        Raises:
            ValueError: the number of scores is not that of the images.
            Exception: whatever the metric raises.
        """
        seed_everything(SEED)  # some metrics draw crops: the score of an image is then the same in every run
        keywords = {self._prompt_keyword: list(prompts)} if prompts and self._prompt_keyword else {}
        with torch.no_grad(), quiet_log(), redirect_stdout(StringIO()):
            if isinstance(self._model.net, AlignIQA):
                output, std = self._model.net.predict(images, **keywords)
            else:
                output, std = self._model(images, **keywords), None
        scores = _flat(output)
        if len(scores) != len(images):
            raise ValueError(f'{counted(len(scores), "score")} for {counted(len(images), "image")}')
        return scores, None if std is None else _flat(std)


def _flat(numbers: object) -> list[float]:
    return torch.as_tensor(numbers).detach().double().flatten().tolist()


def _scores_folders(name: str) -> bool:
    """Whether the metric takes folders of images; the network is looked at, not built."""
    from pyiqa import archs
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

    network = DEFAULT_CONFIGS[name]['metric_opts']['type']
    try:
        if network not in ARCH_REGISTRY:
            archs._lazy_import_arch(network)
        built_by = ARCH_REGISTRY.get(network)
    except (ImportError, KeyError):  # a package that it needs is missing: loading the metric reports it
        return False
    # a class, or a function that builds the network; networks that take folders are classes
    return hasattr(built_by, 'forward') and 'dir' in list(inspect.signature(built_by.forward).parameters)[1]
