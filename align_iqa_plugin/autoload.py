"""Lists the metric in pyiqa's table without an import by the user.

pyiqa offers no entry point for `pyiqa.default_model_configs.DEFAULT_CONFIGS`. torch, which pyiqa needs, calls every
function of the entry-point group ``torch.backends`` at its own import; `install` is one. If pyiqa's table is loaded by
then, `install` fills it at once. Otherwise it puts a finder in front of `sys.meta_path`, which waits for the import of
that one module, fills the table right after it, and removes itself.

To switch it off, set the environment variable ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``: torch then calls no such function,
and one ``import align_iqa_plugin``, before or after ``import pyiqa``, does the same job.

torch turns an exception raised here into a failing ``import torch``, and the import system one raised in the finder
into a failing ``import pyiqa``. So this file imports only the standard library, and what goes wrong is a line on stderr
(not a warning, which ``python -W error`` would raise).
"""

import sys

TABLE = 'pyiqa.default_model_configs'


def install() -> None:
    """Fill pyiqa's table of metrics now if it is loaded, else as soon as it is. Never raises; may be called again."""
    try:
        if TABLE in sys.modules:
            _fill_table()
        elif not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _TableFinder())
    except Exception as error:
        _report(error)


class _TableFinder:
    """Finds nothing by itself: lets the finders behind it find pyiqa's table, and has it filled once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != TABLE:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                try:
                    self._fill_after(spec.loader)
                except Exception as error:
                    _report(error)
                return spec
        return None

    def _fill_after(self, loader):
        load = loader.exec_module

        def exec_module(module):
            loader.exec_module = load
            load(module)
            try:
                sys.meta_path.remove(self)
                _fill_table()
            except Exception as error:
                _report(error)

        loader.exec_module = exec_module


def _fill_table() -> None:
    from align_iqa_plugin.register import register_configs

    register_configs()


def _report(error: Exception) -> None:
    try:
        sys.stderr.write(
            f'The metric align_iqa could not be listed in pyiqa ({type(error).__name__}: {error}). '
            'Reinstall align-iqa-plugin, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to leave it out.\n'
        )
    except Exception:
        pass  # there is no stderr or it is closed: no place is left to say it, and `import torch` must go on
