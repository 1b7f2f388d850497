"""`align-iqa doctor`: what is installed, and whether it works, in one screen for a bug report."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import typer

from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.files import expand_home

PACKAGES = ('pyiqa', 'torch', 'torchvision', 'timm', 'open_clip_torch', 'pillow', 'numpy', 'scipy', 'pandas', 'safetensors')


def doctor() -> None:
    """Print what is installed and whether it works, to paste into a bug report.

    Exit status: 0 all is well, 1 something is not.
    """
    sound = True
    for name, text in _findings():
        sound = sound and not text.startswith('PROBLEM')
        typer.echo(f'{name + ":":14}{text}')
    raise typer.Exit(0 if sound else 1)


def _findings() -> Iterator[tuple[str, str]]:
    import align_iqa_plugin

    package = Path(align_iqa_plugin.__file__).parent
    installed = _version('align-iqa-plugin')
    text = f'{align_iqa_plugin.__version__} in {package}'
    if installed != align_iqa_plugin.__version__:
        text = f'PROBLEM: {text}, but its metadata states {installed or "no version"}: reinstall it.'
    yield 'package', text
    yield 'python', f'{platform.python_version()} in {sys.prefix}, {platform.platform()}'
    yield 'packages', ', '.join(f'{name} {_version(name) or "missing"}' for name in PACKAGES)
    yield 'extras', ', '.join(f'{name} {_version(name)}' for name in _extras() if _version(name)) or 'none'
    yield 'hook', _hook()
    yield 'pyiqa', _registered()
    yield 'device', _devices()
    yield from _weights().items()
    yield 'cache', _cache(Path('~/.cache/align_iqa'))


def _extras() -> list[str]:
    """The packages that the extras of this one install, but for those that only its tests need."""
    try:
        required = metadata.requires('align-iqa-plugin') or []
    except metadata.PackageNotFoundError:
        return []
    # for example: ray[data]>=2.54; extra == "ray"
    found = [re.match(r'([\w.-]+).*;.*extra == .(\w+)', requirement) for requirement in required]
    return sorted({each[1] for each in found if each and each[2] != 'test'})


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _hook() -> str:
    if os.environ.get('TORCH_DEVICE_BACKEND_AUTOLOAD') == '0':
        return 'off, since TORCH_DEVICE_BACKEND_AUTOLOAD is 0: import align_iqa_plugin before the metric is used'
    points = [point for point in metadata.entry_points(group='torch.backends') if 'align_iqa_plugin' in point.value]
    if not points:
        return 'PROBLEM: the metadata has no entry point for torch: reinstall align-iqa-plugin.'
    code = "import pyiqa; print('align_iqa' in pyiqa.list_models('NR'))"
    fresh = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    if fresh.stdout.strip() != 'True':
        reason = (fresh.stderr.strip().splitlines() or ['it does not list align_iqa'])[-1]
        return f'PROBLEM: in a new Python, `import pyiqa` does not find the metric ({reason}): reinstall align-iqa-plugin.'
    return f'on: torch calls {points[0].value}, and a new Python finds the metric'


def _registered() -> str:
    import pyiqa
    from pyiqa.utils.registry import ARCH_REGISTRY

    from align_iqa_plugin.register import CONFIGS

    lacking = [name for name in CONFIGS if name not in pyiqa.list_models('NR')]
    if lacking:
        return f'PROBLEM: it does not list {", ".join(lacking)}: import align_iqa_plugin, or reinstall it.'
    arch = ARCH_REGISTRY.get('AlignIQA')
    return f'in {Path(pyiqa.__file__).parent}; lists {", ".join(CONFIGS)}, built by {arch.__module__}.{arch.__qualname__}'


def _devices() -> str:
    import torch

    from align_iqa_plugin.runtime.devices import processor_name

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f'{processor_name()}; {", ".join(gpus) or "no GPU"}; torch uses {counted(torch.get_num_threads(), "thread")}'


def _weights() -> dict[str, str]:
    import json

    from align_iqa_plugin.archs.weights import PACKAGED, PACKAGED_FAST_CARD, PACKAGED_MODEL_CARD
    from align_iqa_plugin.runtime.files import file_digest

    found: dict[str, str] = {}
    files: dict[str, dict] = {}
    for card in (PACKAGED_MODEL_CARD, PACKAGED_FAST_CARD):
        try:
            files |= json.loads(card.read_text(encoding='utf-8'))['files']
        except (OSError, ValueError, KeyError) as error:
            return {'weights': f"PROBLEM: the card '{card}' cannot be read ({type(error).__name__}): reinstall it."}
    for number, (name, file) in enumerate(files.items(), 1):
        try:
            digest = file_digest(PACKAGED / name)
        except OSError as error:
            text = f'PROBLEM: {name} cannot be read ({error.strerror}): reinstall align-iqa-plugin.'
        else:
            whole = digest == file['sha256']
            text = f'{name}, sha256 {digest[:16]}' if whole else f'PROBLEM: {name} is damaged: reinstall align-iqa-plugin.'
        found[f'weights {number}'] = text
    return found


def _cache(folder: Path) -> str:
    folder = expand_home(folder)
    if not folder.is_dir():
        return f'{folder}: none yet'
    sizes = [entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()]
    return f'{folder}: features of images, {counted(len(sizes), "file")}, {sum(sizes) / 1e6:,.0f} MB; may be deleted'
