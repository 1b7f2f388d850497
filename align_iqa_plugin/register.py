"""What pyiqa can name, as strings: importing this file imports neither pyiqa nor torch.

pyiqa calls `register_archs`, `register_datasets` and `register_models` through the entry-point groups `pyiqa.archs`,
`pyiqa.datasets` and `pyiqa.models` (setup.cfg), the first time somebody asks it for a name that it does not know. The
classes themselves are imported when they are first used. No entry-point group leads to pyiqa's table of metrics, which
`create_metric`, `list_models` and the `pyiqa` command read: `autoload.py` calls `register_configs` for that.

Everything here may be called any number of times. A name that somebody else has already filled is left as it is.
"""

import copy

CONFIGS = {
    'align_iqa': {
        'metric_opts': {'type': 'AlignIQA', 'pretrained': True},
        'metric_mode': 'NR',
        'score_range': '~0, ~5',
    },
}
ARCHS = {'AlignIQA': 'align_iqa_plugin.align_iqa_arch:AlignIQA'}
DATASETS = {'AIGCIQADataset': 'align_iqa_plugin.aigc_dataset:AIGCIQADataset'}
MODELS = {'AlignIQAModel': 'align_iqa_plugin.align_iqa_model:AlignIQAModel'}


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
