"""Files by URI: object stores (``s3://``, ``gs://``, ``abfs://``, ``hdfs://``), web servers, and all that fsspec knows.

Credentials and endpoints are found where the stores' own tools look for them, such as in ``AWS_ENDPOINT_URL``.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeGuard
from urllib.request import Request, urlopen

ARROW_SCHEMES = ('s3', 'gs', 'gcs', 'abfs', 'abfss', 'hdfs', 'viewfs', 'file')  # without a further package
WEB_SCHEMES = ('http', 'https')
WEB_SECONDS = 60  # that a web server may stay silent


def is_uri(name: object) -> TypeGuard[str]:
    """Whether this is a URI, ``SCHEME://...``, and not the path of a file."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', str(name)) is not None


def read_uri(uri: str) -> bytes:
    """All bytes of the file there.

    Raises:
        OSError: it cannot be read; the message says why.
    """
    scheme = uri.partition('://')[0].lower()
    with _errors_as_oserror():
        if scheme in WEB_SCHEMES:
            with urlopen(Request(uri, headers={'User-Agent': 'align-iqa'}), timeout=WEB_SECONDS) as answer:
                return answer.read()
        if scheme in ARROW_SCHEMES:
            store, path = _arrow_store(uri)
            with store.open_input_file(path) as file:
                return file.read()
        import fsspec

        store, path = fsspec.core.url_to_fs(uri)
        return store.cat_file(path)


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
