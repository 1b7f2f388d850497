"""Files at addresses: object stores (``s3://``, ``gs://``, ``abfs://``, ``hdfs://``), web servers, and all that fsspec knows.

Credentials and endpoints come from where the stores' own tools look for them, such as ``AWS_ENDPOINT_URL``.
"""

import re
from functools import lru_cache
from urllib.request import Request, urlopen

ARROW_SCHEMES = ('s3', 'gs', 'gcs', 'abfs', 'abfss', 'hdfs', 'viewfs', 'file')  # without a further package
WEB_SCHEMES = ('http', 'https')
WEB_SECONDS = 60  # without a sign of life from a web server


def is_uri(name) -> bool:
    """Whether this is an address, ``SCHEME://...``, and not the path of a file."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*://', str(name)) is not None


def read_uri(address: str) -> bytes:
    """All bytes of the file there.

    Raises:
        OSError: it cannot be read; the message says why.
    """
    scheme = address.partition('://')[0].lower()
    try:
        if scheme in WEB_SCHEMES:
            with urlopen(Request(address, headers={'User-Agent': 'align-iqa'}), timeout=WEB_SECONDS) as answer:
                return answer.read()
        if scheme in ARROW_SCHEMES:
            store, path = _arrow_store(address)
            with store.open_input_file(path) as file:
                return file.read()
        import fsspec

        store, path = fsspec.core.url_to_fs(address)
        return store.cat_file(path)
    except OSError:
        raise
    # an unknown scheme, a missing package, a bad address: each library has kinds of its own
    except Exception as error:
        raise OSError(' '.join(str(error).split()) or type(error).__name__) from error


def list_uri(address: str) -> list[str]:
    """Addresses of all files below this one, sorted, hidden ones left out; this one alone if it is a file.

    Raises:
        OSError: it cannot be listed, or there is nothing.
    """
    scheme = address.partition('://')[0].lower()
    if scheme in WEB_SCHEMES:
        return [address]  # a web server lists nothing
    try:
        if scheme in ARROW_SCHEMES:
            from pyarrow.fs import FileSelector, FileType

            store, path = _arrow_store(address)
            if store.get_file_info(path).type == FileType.File:
                return [address]
            below = [info.path for info in store.get_file_info(FileSelector(path, recursive=True)) if info.is_file]
        else:
            import fsspec

            store, path = fsspec.core.url_to_fs(address)
            if store.isfile(path):
                return [address]
            below = store.find(path)
    except OSError:
        raise
    except Exception as error:
        raise OSError(' '.join(str(error).split()) or type(error).__name__) from error
    start = path.rstrip('/') + '/'
    names = sorted(each[len(start) :] for each in below if each.startswith(start))
    visible = [name for name in names if not any(part.startswith('.') for part in name.split('/'))]
    return [f'{address.rstrip("/")}/{name}' for name in visible]


def _arrow_store(address: str):
    """The store, and the path in it: literally what follows, since names of objects may hold blanks, % and ?."""
    root, name = re.match(r'([^:]+://[^/]*)/?(.*)', address, re.DOTALL).groups()
    store, path = _store_of_root(root)
    return store, f'{path.rstrip("/")}/{name}' if name else path


@lru_cache(maxsize=64)  # to open a store may ask it for its region
def _store_of_root(root: str):
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f'{root}/' if root.lower() == 'file://' else root)
