"""What a metric lacks that cannot be loaded, from the exception alone: a module, or a file that could not be downloaded."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from align_iqa_plugin.runtime.errors import reason_of

# what pyiqa prints before it downloads a file
DOWNLOADING = re.compile(r'^Downloading: "(\S+)" to (.+)$', re.MULTILINE)
HUB_FILE = re.compile(r'https://huggingface\.co/(?P<repository>[^/\s]+/[^/\s]+)/resolve/[^/\s]+/(?P<file>[^\s\'",]+)')


def what_is_missing(error: BaseException, printed: str = '') -> str:
    """The end of a sentence that begins with the metric's name: what it lacks, and where to get it.

    Args:
        printed: what was printed before the error.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        # setuptools had it until version 81
        package = 'setuptools<81' if error.name == 'pkg_resources' else error.name.partition('.')[0]
        return f"needs the Python module '{error.name}': pip install '{package}'."
    if not _is_download(error):
        return f'cannot be loaded: {reason_of(error)}'
    problem = f'needs a file that could not be downloaded ({type(error).__name__})'
    for each in _chain(error):
        if found := HUB_FILE.search(f'{_url(each)} {each}'):
            repository, file = found['repository'], found['file']
            file = '' if file == 'config.json' else f' {file}'  # that is only the first of the files that are needed
            page = f'https://huggingface.co/{repository}'
            return f'{problem}: get{file or " all"} of {page} (huggingface-cli download {repository}{file}).'
    if downloads := DOWNLOADING.findall(printed):
        url, path = downloads[-1]
        return f'{problem}: put {url} at {path}.'
    urls = [url for each in _chain(error) if (url := _url(each))]
    where = f' from {urls[0]}' if urls else ''
    return f'{problem}{where}: {" ".join(str(error).split())}. Load the metric once where there is a connection.'


def is_offline(error: BaseException) -> bool:
    """Whether a download failed for want of a connection."""
    # the clients have their own kinds, such as ConnectError; an HTTPError, a kind of URLError, is an answer
    return any(
        isinstance(each, ConnectionError) or 'Connect' in type(each).__name__ or type(each) is URLError
        for each in _chain(error)
    )


@contextmanager
def hub_offline() -> Iterator[None]:
    """Hugging Face's hub is not asked inside.

    Without a connection, its client tries for half a minute to get each file. It reads its environment variable at import
    only, so the constant is what can still be changed.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_download(error: BaseException) -> bool:
    kinds = URLError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    return is_offline(error) or any(isinstance(each, kinds) for each in _chain(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    errors = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors


def _url(error: BaseException) -> str:
    """The address that an error of urllib, requests or httpx carries; '' if it carries none."""
    try:
        request = getattr(error, 'request', None)
    except RuntimeError:  # httpx raises it where there is no request
        request = None
    return str(getattr(request, 'url', None) or getattr(error, 'url', None) or '')
