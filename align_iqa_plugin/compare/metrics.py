"""The no-reference metrics that pyiqa can name: which there are, and one of them loaded, with all that its scores depend on."""

import difflib
import inspect
import json
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from traceback import walk_tb

import torch
import yaml
from torch import Tensor

from align_iqa_plugin import __version__
from align_iqa_plugin.compare.store import Configuration
from align_iqa_plugin.runtime.errors import reason_of
from align_iqa_plugin.runtime.hashes import weights_digest
from align_iqa_plugin.runtime.seeds import seed_everything

PROMPT_KEYWORDS = ('caption_list', 'captions', 'prompts', 'prompt')
"""What a network's `forward` calls the texts that the images were made from, a list with one for each image."""

SEED = 123  # of whatever a metric draws; pyiqa's own default, which it does not use


class MetricUnavailable(Exception):
    """A metric cannot be loaded; the message is the end of a sentence that begins with the metric's name."""


def metric_names(asked: Sequence[str]) -> list[str]:
    """The metrics asked for, each once; 'all' stands for all no-reference metrics that score single images.

    Raises:
        ValueError: one is no metric of pyiqa, or none that scores an image on its own.
    """
    import pyiqa

    possible = pyiqa.list_models('NR')
    names, problems = {}, []
    for name in asked:
        if name == 'all':
            names |= dict.fromkeys(each for each in possible if not _scores_folders(each))
        elif name in possible and _scores_folders(name):
            problems.append(f"'{name}' scores whole folders of images, not single ones.")
        elif name in possible:
            names[name] = None
        elif name in pyiqa.list_models():
            problems.append(f"'{name}' needs a reference image, which generated images do not have.")
        else:
            near = difflib.get_close_matches(name, possible, 3)
            problems.append(
                f"pyiqa has no metric '{name}'"
                + (f'; did you mean {" or ".join(near)}?' if near else '; `pyiqa -ls` lists all.')
            )
    if problems:
        raise ValueError(' '.join(problems))
    return list(names)


def add_metrics(file: Path) -> list[str]:
    """Make the metrics of an option file known to pyiqa, and give their names.

    The file is YAML in pyiqa's form, ``NAME: {metric_opts: {type: NETWORK, ...}, metric_mode: NR, lower_better: ...}``. A name
    that pyiqa has is replaced in this process.

    Raises:
        ValueError: the file cannot be read, or has another form.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    options = read_yaml(file)
    for name, config in options.items():
        network = config.get('metric_opts') if isinstance(config, dict) else None
        if not isinstance(network, dict) or not isinstance(network.get('type'), str) or 'metric_mode' not in config:
            raise ValueError(f"'{file}': {name} needs metric_opts, with the type of the network, and metric_mode.")
    DEFAULT_CONFIGS.update(options)
    return list(options)


def read_yaml(file: Path) -> dict:
    """The sections of an option file; nothing in it is run.

    Raises:
        ValueError: it cannot be read, is no YAML, or has no sections.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding='utf-8'))
    except OSError as error:
        raise ValueError(f"'{file}' cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"'{file}' is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"'{file}' has no sections, NAME: {{...}}.")
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
        from pyiqa.utils import get_root_logger

        get_root_logger().setLevel(logging.WARNING)
        self.device = device
        seed_everything(SEED)  # parts without weights, if a metric has any, are then the same in every run
        try:
            with redirect_stdout(StringIO()):
                self._model = pyiqa.create_metric(name, device=device)
        # whatever the code of some 70 metrics, torch, timm, transformers and open_clip raise
        except Exception as error:
            raise MetricUnavailable(_what_is_missing(error)) from error
        network = self._model.net
        parameters = inspect.signature(network.forward).parameters
        # a network may take prompts and make no use of them, and then say so
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
        """One score for each image.

        Args:
            images: (n, 3, h, w), RGB in [0, 1].
            prompts: n of them, or None where there are none, which metrics that need one refuse.

        Raises:
            ValueError: the metric gives another number of scores than there are images.
            Exception: whatever the metric raises.
        """
        seed_everything(SEED)  # some metrics draw crops: the score of an image is then the same in every run
        keywords = {self._prompt_keyword: list(prompts)} if prompts and self._prompt_keyword else {}
        with torch.no_grad(), redirect_stdout(StringIO()):
            output = self._model(images, **keywords)
        scores = torch.as_tensor(output).detach().double().flatten().tolist()
        if len(scores) != len(images):
            raise ValueError(f'{len(scores)} scores for {len(images)} images')
        return scores


def _scores_folders(name: str) -> bool:
    """Whether the metric takes folders of images; the network is looked at, not built."""
    from pyiqa import archs
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

    network = DEFAULT_CONFIGS[name]['metric_opts']['type']
    try:
        if network not in ARCH_REGISTRY:
            archs._lazy_import_arch(network)
        forward = ARCH_REGISTRY.get(network).forward
    except (ImportError, KeyError):  # a package that it needs is missing: loading it will tell
        return False
    first = list(inspect.signature(forward).parameters)[1]
    return 'dir' in first


def _what_is_missing(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        # setuptools had it until version 81
        package = 'setuptools<81' if error.name == 'pkg_resources' else error.name.partition('.')[0]
        return f"needs the Python module '{error.name}': pip install '{package}'."
    wanted = _wanted_file(error)
    if wanted is None:
        return f'cannot be loaded: {reason_of(error)}'
    if _no_connection(error):
        _stop_asking_the_hub()
    return f'needs a file that could not be downloaded ({type(error).__name__}): {wanted}.'


def _chain(error: BaseException | None) -> list[BaseException]:
    errors = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def _wanted_file(error: BaseException) -> str | None:
    """What was being downloaded when the error arose, and where it is looked for.

    None of the libraries names both in its message, but all have them in the arguments of their downloading functions.
    """
    for each in _chain(error):
        for frame, _ in walk_tb(each.__traceback__):
            given = frame.f_locals
            url, repository, file = given.get('url'), given.get('repo_id'), given.get('filename')
            if frame.f_code.co_name == 'download_url_to_file' and isinstance(url, str):
                return f'put {url} at {given.get("dst")}'
            if isinstance(repository, str) and isinstance(file, str):
                return f'get {file} of https://huggingface.co/{repository} (huggingface-cli download {repository} {file})'
            name = given.get('pretrained_model_name_or_path')
            if isinstance(name, str):
                return f'get https://huggingface.co/{name} (huggingface-cli download {name})'
            if isinstance(url, str) and url.startswith('http') and isinstance(given.get('root'), str):
                return f'put {url} into {given["root"]}'
    return None


def _no_connection(error: BaseException) -> bool:
    return any('onnect' in type(each).__name__ or 'URLError' in type(each).__name__ for each in _chain(error))


def _stop_asking_the_hub() -> None:
    """Without a connection the hub's client tries each file for half a minute: once is enough for all metrics."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
