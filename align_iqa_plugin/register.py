"""What pyiqa can name, as strings: importing this file imports neither pyiqa nor torch.

pyiqa calls `register_archs`, `register_datasets` and `register_models` through the entry-point groups `pyiqa.archs`,
`pyiqa.datasets` and `pyiqa.models` (setup.cfg), the first time somebody asks it for a name that it does not know. The
classes themselves are imported when they are first used. No entry-point group leads to pyiqa's table of metrics, which
`create_metric`, `list_models` and the `pyiqa` command read, nor to its data sets, of which `get_dataset_info` and
`load_dataset` know, nor to what reads a file for a metric: `autoload.py` calls `register_configs`, `register_releases` and
`register_reader` for that.

Everything here may be called any number of times. A name that somebody else has already filled is left as it is.
"""

import copy
import functools
from pathlib import Path

CONFIGS = {
    'align_iqa': {
        'metric_opts': {'type': 'AlignIQA', 'pretrained': True},
        'metric_mode': 'NR',
        'score_range': '~0, ~5',
    },
    'align_iqa-fast': {
        'metric_opts': {'type': 'AlignIQA', 'pretrained_model_path': 'packaged-fast'},
        'metric_mode': 'NR',
        'score_range': '~0, ~5',
    },
}
ARCHS = {'AlignIQA': 'align_iqa_plugin.archs.pretrained:create_align_iqa'}
DATASETS = {'AIGCIQADataset': 'align_iqa_plugin.data.aigc_dataset:AIGCIQADataset'}
MODELS = {'AlignIQAModel': 'align_iqa_plugin.models.align_iqa_model:AlignIQAModel'}


def register_configs() -> None:
    """Add the metrics to the table behind `pyiqa.create_metric` and `pyiqa.list_models`."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for name, config in CONFIGS.items():
        DEFAULT_CONFIGS.setdefault(name, copy.deepcopy(config))


def register_archs() -> None:
    """Add the networks (``type:`` under ``network:`` in a training YAML), and the metrics built on them."""
    from pyiqa.utils.registry import ARCH_REGISTRY

    for name, import_path in ARCHS.items():
        ARCH_REGISTRY.register_lazy(name, import_path, override=True)
    register_configs()
    register_reader()


def register_datasets() -> None:
    """Add the datasets (``type:`` under ``datasets:`` in a training YAML)."""
    from pyiqa.utils.registry import DATASET_REGISTRY

    for name, import_path in DATASETS.items():
        DATASET_REGISTRY.register_lazy(name, import_path, override=True)


def register_models() -> None:
    """Add the training models (``model_type:`` in a training YAML)."""
    from pyiqa.utils.registry import MODEL_REGISTRY

    for name, import_path in MODELS.items():
        MODEL_REGISTRY.register_lazy(name, import_path, override=True)


def register_reader() -> None:
    """Have pyiqa read the files for our metrics by `align_iqa_plugin.read_image`, and state the range of their own weights.

    Other metrics are as before.

    pyiqa hands only tensors to a network, and makes them by Pillow's `convert('RGB')` alone: 16-bit grey is clipped at 255,
    transparent parts show the colours that lie under them, and EXIF turns nothing. Tensors in half precision are cast, since
    pyiqa compares their largest value with 1 + 1e-6, which is 1 in their type, and would not take white.
    """
    from PIL import Image
    from pyiqa.models.inference_model import InferenceModel

    read_as_pyiqa = InferenceModel._to_batched_tensor
    if read_as_pyiqa.__module__ == __name__:
        return

    @functools.wraps(read_as_pyiqa, assigned=('__name__', '__qualname__', '__doc__'))
    def _to_batched_tensor(model, image):
        import torch

        if model.metric_name in CONFIGS and isinstance(image, str | Path | bytes | Image.Image):
            from align_iqa_plugin.data.images import read_image

            image = read_image(image)
        elif model.metric_name in CONFIGS and getattr(image, 'dtype', None) in (torch.float16, torch.bfloat16):
            image = image.float()
        return read_as_pyiqa(model, image)

    InferenceModel._to_batched_tensor = _to_batched_tensor
    create = InferenceModel.__init__

    @functools.wraps(create)
    def __init__(model, metric_name, *arguments, **options):
        create(model, metric_name, *arguments, **options)
        if metric_name in CONFIGS and getattr(model.net, 'score_range', None):
            model.score_range = '~{:g}, ~{:g}'.format(*model.net.score_range)

    InferenceModel.__init__ = __init__


def register_releases() -> None:
    """Add the data sets of `releases.py` to `pyiqa.get_dataset_info` and `pyiqa.load_dataset`, under their keys."""
    import pyiqa
    from pyiqa import api_helpers
    from pyiqa.data import dataset_api

    if dataset_api.load_dataset.__module__ == __name__:
        return
    get_dataset_info = _with_releases(api_helpers.get_dataset_info)
    load_dataset = _from_releases(dataset_api.load_dataset, api_helpers.get_dataset_info)
    for module in (pyiqa, api_helpers, dataset_api):
        module.get_dataset_info = get_dataset_info
    # `pyiqa` takes its own from `dataset_api`, where it has not done so yet
    pyiqa.load_dataset = dataset_api.load_dataset = load_dataset


def _release_infos() -> dict[str, dict]:
    """What pyiqa calls the configuration of a data set: options of a dataset, with paths below the folder `datasets`."""
    from align_iqa_plugin.data.releases import RELEASES

    infos = {}
    for release in RELEASES:
        bounds = next(iter(release.score_ranges.values()))
        infos[release.key] = {
            'name': release.name,
            'type': 'AIGCIQADataset',
            'dataroot_target': f'./datasets/{release.name}',
            # the folder stands for two tables
            'meta_info_file': f'./datasets/{release.name}' + ('' if release.test_table else f'/{release.table}'),
            'mos_range': list(bounds) if bounds else None,
            'lower_better': False,
        }
        if release.prompt_column is None:
            infos[release.key]['prompt_column'] = None
    return infos


def _with_releases(get_pyiqas):
    @functools.wraps(get_pyiqas, assigned=('__name__', '__qualname__', '__doc__'))
    def get_dataset_info(dataset_name=None):
        infos = {**_release_infos(), **get_pyiqas()}
        if dataset_name is None:
            return infos
        return infos[dataset_name] if dataset_name in infos else get_pyiqas(dataset_name)

    return get_dataset_info


def _from_releases(load_pyiqas, get_pyiqas):
    @functools.wraps(load_pyiqas, assigned=('__name__', '__qualname__', '__doc__'))
    def load_dataset(name, data_root='./datasets', force_download=False, dataset_opts=None, **kwargs):
        if name in _release_infos() and name not in get_pyiqas():
            _fail_download(name, data_root, force_download, {**(dataset_opts or {}), **kwargs})
            register_datasets()
        return load_pyiqas(name, data_root, force_download, dataset_opts, **kwargs)

    return load_dataset


def _fail_download(name, data_root, force_download, options):
    """pyiqa looks for what is missing among its own downloads, where these data sets are not."""
    from align_iqa_plugin.data.releases import find_release

    release = find_release(name)
    folder = Path(data_root, release.name)
    get = f'get it from {release.home}, so that its {", ".join(release.tables)} and {release.image_folder}/ lie in'
    if force_download:
        raise ValueError(f'{release.name} is not among the data sets that pyiqa can download: {get} {folder}.')
    info = _release_infos()[name] | options
    for key in ('dataroot_target', 'meta_info_file'):
        path = Path(data_root, *Path(info[key]).parts[1:])  # as pyiqa puts them together
        if not path.exists():
            raise FileNotFoundError(f'{path} is not there. If you do not have {release.name}, {get} {folder}.')
