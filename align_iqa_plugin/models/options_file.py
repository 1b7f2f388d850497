"""Option files as plain data: read safely, put together from `_base_` files, changed by ``--set``, and written.

A file states what it has otherwise than the file that it names with ``_base_: FILE``, relative to its own folder; sections are
merged key by key, everything else is replaced. ``_delete_: [KEY, ...]`` in a section leaves keys of the base out.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from align_iqa_plugin.runtime.atomic import atomic_write
from align_iqa_plugin.runtime.files import expand_home, read_bytes
from align_iqa_plugin.runtime.names import suggest

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000  # of a file with its anchors expanded; the longest file of this package has 100
MAX_DEPTH = 50
MAX_BASES = 5  # one below the other

# YAML 1.1, which PyYAML reads, takes 1e-4 for a text
_FLOAT = 'tag:yaml.org,2002:float', re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789')


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)  # so that a text such as '1e5' is quoted


def read_file(path: Path) -> dict:
    """The content of an option file, merged with its bases, as plain data.

    Raises:
        ValueError: a file cannot be read, is not plain YAML, or has a base that cannot be used.
    """
    return _read_with_bases(path, [])


def write_file(options: dict, path: Path) -> None:
    """Write options as one file without `_base_`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    atomic_write(path, dump(options).encode())


def dump(options: dict) -> str:
    """Options as YAML that `parse`, and any reader of YAML 1.1, reads back unchanged."""
    return yaml.dump(options, Dumper=_Dumper, sort_keys=False)


def parse(text: str, name: str) -> Any:
    """YAML as plain data: no key twice in a section, no anchors that expand to a huge file, ``1e-4`` as a number.

    Raises:
        ValueError: it is something else; `name` says where it stands.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node)
        return _unshared(loader.construct_document(node))
    except RecursionError as error:
        raise ValueError(f'{name}: its sections and lists are nested more than {MAX_DEPTH} deep.') from error
    # beside YAMLError: what PyYAML raises at a wrong date, number or tag
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(f'{name} is not valid YAML: {reason}.') from error


def read_text(path: Path) -> str:
    """The text of a YAML file, at most `MAX_BYTES`.

    Raises:
        ValueError: it cannot be read; the message is why.
    """
    try:
        return read_bytes(path, most=MAX_BYTES).decode()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'it is not UTF-8 text, {error}') from error


def set_key(options: dict, change: str) -> None:
    """Apply a change such as ``train.optim.lr=1e-4``, whose value is YAML; sections that are missing are made.

    Raises:
        ValueError: it is not of this form, or leads through what is not a section.
    """
    key, equals, text = change.partition('=')
    *names, last = key.strip().split('.')
    if not equals or not all([*names, last]):
        raise ValueError(f"--set '{change}' is not KEY=VALUE, such as train.optim.lr=1e-4.")
    if len(names) >= MAX_DEPTH:
        raise ValueError(f"--set '{key.strip()[:20]}...' has more than {MAX_DEPTH} names.")
    section = options
    for number, name in enumerate(names):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise ValueError(f"--set '{change}': {'.'.join(names[: number + 1])} is not a section of keys.")
    section[last] = parse(text, f"--set '{change}'")


def _read_with_bases(path: Path, above: list[Path]) -> dict:
    options = _read(path)
    base = options.pop('_base_', None)
    if base is None:
        return _merge({}, options, path)
    if not isinstance(base, str) or not base:
        raise ValueError(f'{path}: _base_ is {base!r}, not the name of a file.')
    above = [*above, path.resolve()]
    below = path.parent / expand_home(base)
    if below.resolve() in above:
        raise ValueError(f'{path}: _base_ leads back to {below}: a file cannot be its own base.')
    if len(above) > MAX_BASES:
        raise ValueError(f'{path}: _base_: {len(above)} files are based on each other, and {MAX_BASES} at most can be.')
    if not below.is_file():
        raise ValueError(f'{path}: _base_: there is no file {below}.')
    return _merge(_read_with_bases(below, above), options, path)


def _read(path: Path) -> dict:
    if not path.exists():
        raise ValueError(f'there is no training file {path}.')
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f'{path} cannot be read: {error}.') from error
    options = parse(text, str(path))
    if not isinstance(options, dict):
        raise ValueError(f'{path} is not a training file: options/train/AlignIQA/ has complete ones to start from.')
    return options


def _merge(base: dict, change: dict, path: Path, key: str = '') -> dict:
    """The base with the departures of the file at `path`."""
    merged, change = dict(base), dict(change)
    deleted = change.pop('_delete_', [])
    if not isinstance(deleted, list) or not all(isinstance(name, str) for name in deleted):
        raise ValueError(f'{path}: {key}_delete_ is {deleted!r}, not a list of keys.')
    for name in deleted:
        if name not in merged:
            raise ValueError(f"{path}: {key}_delete_: the base has no key '{name}' there{suggest(name, merged)}")
        del merged[name]
    for name, value in change.items():
        if isinstance(value, dict):
            below = merged.get(name)
            value = _merge(below if isinstance(below, dict) else {}, value, path, f'{key}{name}.')
        merged[name] = value
    return merged


def _check_node(root: yaml.Node) -> None:
    """ValueError where a key stands twice in a section, or anchors expand to more than a file may hold."""
    measured: dict[yaml.Node, tuple[int, int] | None] = {}  # None while a node is being measured

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Values inside, and how deep they are nested."""
        if node in measured:
            known = measured[node]
            if known is None:
                raise ValueError('an anchor refers to itself')
            return known
        measured[node] = None
        inside = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inside = [part for pair in node.value for part in pair]
        values, depth = 1, 0
        for part in inside:
            further, below = measure(part)
            values, depth = values + further, max(depth, below + 1)
            if values > MAX_VALUES:
                raise ValueError(f'it holds more than {MAX_VALUES:,} values once its anchors are expanded')
            if depth > MAX_DEPTH:
                raise ValueError(f'its sections and lists are nested more than {MAX_DEPTH} deep')
        measured[node] = values, depth
        return values, depth

    measure(root)


def _check_keys(node: yaml.MappingNode) -> None:
    """PyYAML keeps the last of equal keys in silence."""
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == 'tag:yaml.org,2002:merge':
            continue
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands there twice", key.start_mark)
        seen.add(key.value)


def _unshared(value: Any) -> Any:
    """YAML's anchors make one section stand at two places, where it is to be changed at one."""
    if isinstance(value, dict):
        return {key: _unshared(inside) for key, inside in value.items()}
    return [_unshared(inside) for inside in value] if isinstance(value, list) else value
