"""A damaged installation breaks no `import torch`: the worst that happens is a line on stderr.

The interpreters of these tests see the standard library and one folder, into which the package was installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# what torch does at its import, where it turns any exception into its own
IMPORT_TORCH = """
from importlib.metadata import entry_points
points = entry_points(group='torch.backends')
assert [point.name for point in points] == ['align_iqa']
for point in points:
    point.load()()
"""
BUILD = "from setuptools import build_meta; build_meta.build_{kind}('..')"


def run(*command, **options):
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A copy of the source tree, without weights and samples."""
    clone = tmp_path_factory.mktemp('source') / 'clone'
    left_out = shutil.ignore_patterns('__pycache__', 'weights', 'samples')
    shutil.copytree(ROOT / 'align_iqa_plugin', clone / 'align_iqa_plugin', ignore=left_out)
    for name in ('pyproject.toml', 'setup.cfg', 'setup.py', 'align_iqa_plugin_autoload.py', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, clone)
    return clone


def install(clone, kind):
    """Installs the source tree into a folder: kind 'wheel', or 'editable'."""
    run('-c', BUILD.format(kind=kind), cwd=clone)
    (built,) = clone.parent.glob('*.whl')
    run('-m', 'pip', 'install', '--no-deps', '--no-index', '--target', clone.parent / kind, built)
    built.unlink()
    return clone.parent / kind


@pytest.fixture(scope='module')
def whole(clone):
    return install(clone, 'wheel')


@pytest.fixture
def folder(whole, tmp_path):
    """An installation to be damaged."""
    return shutil.copytree(whole, tmp_path / 'installed')


def import_torch(folder, *more):
    """What is said at an `import torch` that succeeds."""
    add = f'import site, sys\nsite.addsitedir({str(folder)!r})\n'
    result = run('-I', '-S', '-W', 'error', '-c', add + '\n'.join([*more, IMPORT_TORCH]))
    assert result.stdout == ''
    return result.stderr


def test_a_whole_installation_says_nothing(folder):
    waits = "assert 'align_iqa_plugin.autoload' in sys.modules and type(sys.meta_path[0]).__name__ == '_Finder'"
    assert import_torch(folder) == ''
    assert run('-I', '-S', '-c', f'import sys\nsys.path.append({str(folder)!r})\n{IMPORT_TORCH}\n{waits}').stderr == ''


@pytest.mark.parametrize(
    'damage',
    [
        lambda package: shutil.rmtree(package),
        lambda package: (shutil.rmtree(package), package.mkdir()),
        lambda package: (package / 'autoload.py').unlink(),
        lambda package: (package / 'autoload.py').write_text(''),
        lambda package: (package / 'autoload.py').write_text('def install('),
        lambda package: (package / 'autoload.py').write_bytes(bytes(999)),
        lambda package: (package / '__init__.py').write_text('import no_such_module'),
        lambda package: (package / '__init__.py').write_bytes(b'\xff'),
    ],
    ids=['gone', 'empty folder', 'no autoload', 'empty', 'cut', 'zeros', 'import fails', 'no text'],
)
def test_a_damaged_package_is_one_line(folder, damage):
    damage(folder / 'align_iqa_plugin')
    said = import_torch(folder)
    assert said.startswith('align-iqa-plugin is damaged (') and said.endswith('Reinstall or uninstall it.\n')
    assert said.count('\n') == 1


def test_a_damage_that_cannot_be_reported_breaks_no_import_either(folder):
    shutil.rmtree(folder / 'align_iqa_plugin')
    for silence in ('sys.stderr.close()', 'sys.stderr = None'):
        assert import_torch(folder, silence) == ''


def test_a_deleted_clone_of_an_editable_install_is_one_line(clone):
    folder = install(clone, 'editable')
    assert (folder / 'align_iqa_plugin_autoload.py').is_file() and not (folder / 'align_iqa_plugin').exists()
    assert import_torch(folder) == ''
    clone.rename(clone.with_name('elsewhere'))
    said = import_torch(folder)
    clone.with_name('elsewhere').rename(clone)
    assert said.startswith('align-iqa-plugin is damaged (') and said.count('\n') == 1
