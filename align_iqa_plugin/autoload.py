"""Lists the metric and the data sets in pyiqa's tables, and the reader of files, without an import by the user.

pyiqa offers no entry point for `pyiqa.default_model_configs.DEFAULT_CONFIGS`, nor for what `pyiqa.get_dataset_info` and
`pyiqa.load_dataset` know, nor for how a file is read. torch, which pyiqa needs, calls every function of the entry-point
group ``torch.backends`` at its own import; ours calls `install` (align_iqa_plugin_autoload.py). What is loaded of pyiqa by
then, `install` fills at once. For the rest it puts a finder in front of `sys.meta_path`, which waits for the import of these
modules, fills each right after it, and removes itself.

To switch it off, set the environment variable ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``: torch then calls no such function,
and one ``import align_iqa_plugin``, before or after ``import pyiqa``, does the same job.

torch turns an exception raised here into a failing ``import torch``, and the import system one raised in the finder
into a failing ``import pyiqa``. So this file imports only the standard library, and what goes wrong is a line on stderr
(not a warning, which ``python -W error`` would raise).
"""

import importlib.util
import sys

FILLED_BY = {
    'pyiqa.default_model_configs': 'register_configs',
    'pyiqa.models.inference_model': 'register_reader',
    'pyiqa.data.dataset_api': 'register_releases',
}
"""Modules of pyiqa, and the function of `register.py` that fills each."""


def install() -> None:
    """Fill pyiqa's tables, now where they are loaded, else as soon as they are. Never raises; may be called again."""
    try:
        for module in FILLED_BY:
            if module in sys.modules:
                _fill(module)
        awaited = {module for module in FILLED_BY if module not in sys.modules}
        if awaited and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder(awaited))
    except Exception as error:
        _report(error)


class _Finder:
    """Finds nothing by itself: lets all other finders find pyiqa's modules, and has each filled once it is loaded."""

    def __init__(self, awaited):
        self.awaited = awaited

    def find_spec(self, name, path=None, target=None):
        if name not in self.awaited:
            return None
        self.awaited.discard(name)  # so that the search below passes over this finder
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.awaited.add(name)
        if spec is not None:
            try:
                self._fill_after(name, spec.loader)
            except Exception as error:
                _report(error)
        return spec

    def _fill_after(self, name, loader):
        load = loader.exec_module

        def exec_module(module):
            loader.exec_module = load
            load(module)
            try:
                self.awaited.discard(name)
                if not self.awaited:
                    sys.meta_path.remove(self)
                _fill(name)
            except Exception as error:
                _report(error)

        loader.exec_module = exec_module


def _fill(module: str) -> None:
    from align_iqa_plugin import register

    getattr(register, FILLED_BY[module])()


def _report(error: Exception) -> None:
    try:
        sys.stderr.write(
            f'What align-iqa-plugin adds could not be listed in pyiqa ({type(error).__name__}: {error}). '
            'Reinstall align-iqa-plugin, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to leave it out.\n'
        )
    except Exception:
        pass  # there is no stderr or it is closed: no place is left to say it, and `import torch` must go on
