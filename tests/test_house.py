"""House rules that a machine can check: what lives where, who imports whom, how long files are, which words they use."""

import ast
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'align_iqa_plugin'
MODULES = sorted(PACKAGE.rglob('*.py'))
# each may import what stands to its right
ORDER = ('cli', 'compare', 'score', 'evaluation', 'models', 'data', 'archs', 'runtime')
# register names classes as strings, and data sets; autoload and the package's own file stand below all others
ALLOWED_AT_THE_TOP = {'register': {'data'}, 'autoload': {'register'}, '__init__': {'autoload'}, 'torchmetrics': {'archs'}}

# identifiers, by the word of the field that replaces them
REPLACED = {
    r'readings(_width)?': 'pooled stage features',
    r'plain_blocks': 'frozen trunk',
    r'summaries|summary_token': 'class_tokens',
    r'to_map': 'split_tokens',
    r'agreement': 'correlation',
    r'opinions?': 'MOS',
    r'faults?|\w*_faults?': 'problem',
    r'_?refuse\w*': 'check, fail',
    r'told|tell': 'state',
    r'shifts|stale': 'target_offsets, validations_without_improvement',
    r'joined|summed|make_equal': 'process_group, all_reduce, broadcast',
    r'write_whole|run_states?': 'atomic_write, training_state',
    r'Batches': 'ResumableBatchSampler',
    r'addresses|is_address|read_address|list_address': 'URIs',
    r'manifest|read_manifest': 'image table',
    r'centres|curved': 'support_vectors, rbf',
}


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in the file, as dotted names below the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}, line {node.lineno}: imports are absolute here'
            if (node.module or '').split('.')[0] == 'align_iqa_plugin':
                found |= {f'{node.module}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith('align_iqa_plugin.')}
    return {name.removeprefix('align_iqa_plugin.') for name in found}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def test_the_package_has_few_rooms():
    rooms = {path.name for path in PACKAGE.iterdir() if path.name != '__pycache__'}
    assert len(rooms) <= 14, sorted(rooms)
    assert set(ORDER) <= rooms


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    here = room(path)
    allowed = set(ORDER[ORDER.index(here) :]) if here in ORDER else ALLOWED_AT_THE_TOP[here]
    if here in ('cli', 'compare', 'models'):
        allowed |= {'register'}  # the names that pyiqa knows
    for name in imports(path):
        assert name == '__version__' or name.split('.')[0] in allowed, f'{path} imports {name}'


def test_no_module_imports_itself_through_others():
    modules = {'.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('.__init__'): path for path in MODULES}
    # an imported name is a module, or stands in one
    arrows = {
        name: {each if each in modules else each.rpartition('.')[0] for each in imports(path)} - {name}
        for name, path in modules.items()
    }
    done, visiting = set(), []

    def visit(name):
        assert name not in visiting, ' -> '.join([*visiting[visiting.index(name) :], name])
        if name not in done:
            visiting.append(name)
            for each in arrows.get(name, ()):
                visit(each)
            done.add(visiting.pop())

    for name in modules:
        visit(name)


def test_a_module_can_be_held_in_the_head():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding='utf-8').splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert {name: count for name, count in lines.items() if name.startswith('cli/') and count > 150} == {}
    assert median(count for count in lines.values() if count) < 150


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_home_folders_are_found_in_the_one_way_that_does_not_raise(path):
    """Path.expanduser raises RuntimeError at the ~NAME of no user; of a text, os.path.expanduser gives a text."""
    if path != PACKAGE / 'runtime' / 'files.py':
        found = re.search(r'(?<!os\.path)\.expanduser\(|Path\(os\.path\.expanduser', path.read_text(encoding='utf-8'))
        assert not found, f'{path}: use expand_home'


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_words_of_the_field_are_used(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg | ast.keyword)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for old, new in REPLACED.items():
        found = {name for name in names if name and re.fullmatch(old, name)}
        assert not found, f'{path}: say {new} in place of {sorted(found)}'
    assert 'is not possible; possible are' not in path.read_text(encoding='utf-8')
