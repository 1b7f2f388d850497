"""Files by URI: object stores (``s3://``, ``gs://``, ``abfs://``, ``hdfs://``), web servers, and all that fsspec knows.

Credentials and endpoints are found where the stores' own tools look for them, such as in ``AWS_ENDPOINT_URL``.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from queue import Empty, SimpleQueue
from typing import TypeGuard
from urllib.request import Request, urlopen

ARROW_SCHEMES = ('s3', 'gs', 'gcs', 'abfs', 'abfss', 'hdfs', 'viewfs', 'file')  # without a further package
WEB_SCHEMES = ('http', 'https')
WEB_SECONDS = 60  # that a web server may stay silent

MAX_BYTES = 2**28  # that are read of a file: more than any picture but an uncompressed one of 10,000 x 10,000 pixels needs
MAX_SECONDS = 300  # that reading it may take: the largest file at 1 MB a second
PIECE = 2**20  # bytes


def is_uri(name: object) -> TypeGuard[str]:
    """Whether this is a URI, ``SCHEME://...``, and not the path of a file."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', str(name)) is not None


def read_uri(uri: str) -> bytes:
    """All bytes of the file there, at most `MAX_BYTES`, within `MAX_SECONDS`.

    Raises:
        OSError: it cannot be read, is no regular file, is larger, or takes longer; the message says why.
    """
    end = time.monotonic() + MAX_SECONDS
    answer: SimpleQueue[bytes | OSError] = SimpleQueue()

    def read() -> None:
        try:
            with _errors_as_oserror():
                answer.put(_read(uri, end))
        except OSError as error:
            answer.put(error)

    # the libraries have no limit of their own for all that they do: a connection, a pipe in place of an archive ...
    threading.Thread(target=read, daemon=True).start()
    try:
        content = answer.get(timeout=MAX_SECONDS)
    except Empty:
        raise _too_slow() from None
    if isinstance(content, OSError):
        raise content
    return content


def _read(uri: str, end: float) -> bytes:
    scheme = uri.partition('://')[0].lower()
    if scheme in WEB_SCHEMES:
        with urlopen(Request(uri, headers={'User-Agent': 'align-iqa'}), timeout=WEB_SECONDS) as answer:
            length = answer.length
            content = _take(answer.read1, length, end)  # read would wait for a whole piece of a server that sends bytes
            if length is not None and len(content) < length:
                raise OSError(f'the server ended after {len(content):,} of {length:,} bytes')
            return content
    if scheme in ARROW_SCHEMES:
        from pyarrow.fs import FileType

        store, path = _arrow_store(uri)
        if scheme == 'file' and store.get_file_info(path).type == FileType.Unknown:
            raise _not_regular()
        with store.open_input_file(path) as file:
            return _take(file.read, file.size(), end)
    import fsspec

    store, path = fsspec.core.url_to_fs(uri)
    info = store.info(path)
    if info['type'] not in ('file', 'directory'):
        raise _not_regular()
    with store.open(path, 'rb') as file:
        return _take(file.read, info['size'], end)


def _take(read: Callable[[int], bytes], size: int | None, end: float) -> bytes:
    """All that `read` gives, piece by piece, whatever the stated size, within the limits."""
    content, taken = BytesIO(), 0
    while max(size or 0, taken) <= MAX_BYTES:
        piece = read(PIECE)
        if not piece:
            return content.getvalue()
        if time.monotonic() > end:
            raise _too_slow()
        taken += content.write(piece)
    raise OSError(f'it has more than {MAX_BYTES:,} bytes; download it, and name the file')


def _too_slow() -> OSError:
    return OSError(f'it takes more than {MAX_SECONDS} seconds; download it, and name the file')


def _not_regular() -> OSError:
    return OSError('it is a pipe or a device, and not a file')


def list_uri(uri: str) -> list[str]:
    """The URIs of all files below this one, sorted, without hidden ones; this one alone if it is a file.

    Raises:
        OSError: it cannot be listed, or there is nothing.
    """
    scheme = uri.partition('://')[0].lower()
    if scheme in WEB_SCHEMES:
        return [uri]  # a web server has no list
    with _errors_as_oserror():
        if scheme in ARROW_SCHEMES:
            from pyarrow.fs import FileSelector, FileType

            store, path = _arrow_store(uri)
            if store.get_file_info(path).type == FileType.File:
                return [uri]
            below = [info.path for info in store.get_file_info(FileSelector(path, recursive=True)) if info.is_file]
        else:
            import fsspec

            store, path = fsspec.core.url_to_fs(uri)
            if store.isfile(path):
                return [uri]
            below = store.find(path)
    start = path.rstrip('/') + '/'
    names = sorted(each[len(start) :] for each in below if each.startswith(start))
    visible = [name for name in names if not any(part.startswith('.') for part in name.split('/'))]
    return [f'{uri.rstrip("/")}/{name}' for name in visible]


@contextmanager
def _errors_as_oserror() -> Iterator[None]:
    """Turns what the libraries raise at an unknown scheme, a missing package or a wrong URI into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each library has kinds of its own
        raise OSError(' '.join(str(error).split()) or type(error).__name__) from error


def _arrow_store(uri: str):
    """The store, and the path in it: literally what follows, since names of objects may hold blanks, % and ?."""
    scheme, _, place = uri.partition('://')
    root, _, name = place.partition('/')
    store, path = _store_of_root(f'{scheme}://{root}')
    return store, f'{path.rstrip("/")}/{name}' if name else path


@lru_cache(maxsize=64)  # opening a store may ask it for its region
def _store_of_root(root: str):
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f'{root}/' if root.lower() == 'file://' else root)
