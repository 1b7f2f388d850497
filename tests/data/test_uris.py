"""Files by URI: read and listed wherever they are, and a reason where they cannot be."""

import os
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_iqa_plugin.data import uris
from align_iqa_plugin.data.uris import is_uri, list_uri, read_uri

OBJECTS = {'pictures/a b%20?.png': b'first', 'pictures/sub/c.png': b'second' * 1000, 'pictures/.hidden/d.png': b'', 'x': b'x'}


class Server(BaseHTTPRequestHandler):
    """As much of S3 as reading and listing take: a bucket `bucket`; any web client may read it too."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        place, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        name = place.removeprefix('/bucket').removeprefix('/')
        if 'list-type' in query:
            prefix = query.get('prefix', [''])[0]
            entries = ''.join(
                f'<Contents><Key>{key}</Key><Size>{len(OBJECTS[key])}</Size>'
                '<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>'
                for key in sorted(OBJECTS)
                if key.startswith(prefix)
            )
            self.answer(200, f'<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>'.encode())
        elif name in OBJECTS:
            first, _, last = self.headers.get('Range', 'bytes=0-').removeprefix('bytes=').partition('-')
            part = OBJECTS[name][int(first) : int(last) + 1 if last else None]
            self.answer(206 if 'Range' in self.headers else 200, part)
        else:
            self.answer(200 if not name else 404, b'')

    do_HEAD = do_GET

    def answer(self, status, content):
        self.send_response(status)
        self.send_header('Content-Length', str(len(content)))
        self.send_header('Last-Modified', 'Mon, 01 Jan 2024 00:00:00 GMT')
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope='module')
def server():
    """The URI of a web server that is also an object store, where Arrow looks for S3."""
    with ThreadingHTTPServer(('127.0.0.1', 0), Server) as running, pytest.MonkeyPatch.context() as settings:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        uri = f'http://127.0.0.1:{running.server_port}'
        settings.setenv('AWS_ENDPOINT_URL', uri)
        settings.setenv('AWS_ACCESS_KEY_ID', 'key')
        settings.setenv('AWS_SECRET_ACCESS_KEY', 'secret')
        settings.setenv('AWS_DEFAULT_REGION', 'us-east-1')
        settings.setenv('AWS_EC2_METADATA_DISABLED', 'true')
        settings.setenv('no_proxy', '127.0.0.1')
        uris._store_of_root.cache_clear()
        yield uri
        running.shutdown()


def test_objects_of_s3_are_read_by_their_literal_names(server):
    for name, content in OBJECTS.items():
        assert read_uri(f's3://bucket/{name}') == content


def test_objects_of_s3_are_listed_without_the_hidden_ones(server):
    wanted = ['s3://bucket/pictures/a b%20?.png', 's3://bucket/pictures/sub/c.png']
    assert list_uri('s3://bucket/pictures') == list_uri('s3://bucket/pictures/') == wanted
    assert list_uri('s3://bucket/x') == ['s3://bucket/x']


def test_a_uri_of_the_web_is_read_and_lists_itself(server):
    uri = f'{server}/bucket/pictures/sub/c.png'
    assert list_uri(uri) == [uri]
    assert read_uri(uri) == OBJECTS['pictures/sub/c.png']


def test_a_file_has_a_uri_too(tmp_path):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'a b%20?.png').write_bytes(b'here')
    (tmp_path / '.hidden').write_bytes(b'')
    uri = f'file://{tmp_path}/sub/a b%20?.png'
    assert list_uri(f'file://{tmp_path}') == [uri]
    assert read_uri(uri) == b'here'


def test_what_arrow_does_not_know_goes_to_fsspec():
    import fsspec

    store = fsspec.filesystem('memory')
    store.pipe_file('/folder/a.png', b'kept')
    assert list_uri('memory://folder') == list_uri('memory://folder/a.png') == ['memory://folder/a.png']
    assert read_uri('memory://folder/a.png') == b'kept'


@pytest.mark.parametrize('name', ['s3://bucket/none', 'HTTP/bucket/none', 'file:///none', 'memory://none', 'nothing://none'])
def test_what_cannot_be_read_is_an_os_error_with_a_reason(server, name):
    with pytest.raises(OSError) as caught:
        read_uri(name.replace('HTTP', server))
    assert str(caught.value)


# What has no end, or is too large


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(uris, 'MAX_BYTES', 5000)
    monkeypatch.setattr(uris, 'MAX_SECONDS', 2)
    monkeypatch.setattr(uris, 'PIECE', 1000)


class Hostile(BaseHTTPRequestHandler):
    """Answers that have no end, in the ways that its paths say."""

    def do_GET(self):
        if self.path == '/header':
            self.drip(b'HTTP/1.0 200 OK\r\nX: ', b'a')
        self.send_response(200)
        length = {'/large': 10**12, '/short': 2000}.get(self.path)
        if length:
            self.send_header('Content-Length', str(length))
        self.end_headers()
        if self.path == '/drip':
            self.drip(b'', b'a')
        self.wfile.write(b'a' * 1000)
        while self.path == '/endless':
            self.wfile.write(b'a' * 1000)

    def drip(self, start, byte):
        self.wfile.write(start)
        while True:
            self.wfile.write(byte)
            time.sleep(0.05)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope='module')
def hostile():
    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """The client has gone away."""

    with Quiet(('127.0.0.1', 0), Hostile) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


@pytest.mark.parametrize(
    ('place', 'reason'),
    [
        ('endless', 'more than 5,000 bytes'),
        ('large', 'more than 5,000 bytes'),
        ('drip', 'more than 2 seconds'),
        ('header', 'more than 2 seconds'),
        ('short', 'ended after 1,000 of 2,000 bytes'),
    ],
)
def test_an_answer_without_end_or_before_its_end_is_an_error(hostile, small_limits, monkeypatch, place, reason):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with pytest.raises(OSError, match=reason):
        read_uri(f'{hostile}/{place}')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='has no pipes in folders')
@pytest.mark.parametrize('scheme', ['file', 'local'])
@pytest.mark.parametrize('name', ['pipe', '/dev/zero'])
def test_a_pipe_or_a_device_is_not_read(tmp_path, scheme, name):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='pipe or a device'):
        read_uri(f'{scheme}://{tmp_path / name}')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='has no pipes in folders')
def test_an_archive_that_is_a_pipe_is_given_up(tmp_path, small_limits):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='more than 2 seconds'):
        read_uri(f'zip://a.png::file://{tmp_path}/pipe')


def test_a_file_in_an_archive_is_read_up_to_the_limit(tmp_path, small_limits):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('small.png', b'small')
        archive.writestr('bomb.png', bytes(10**7))
    assert read_uri(f'zip://small.png::file://{tmp_path}/a.zip') == b'small'
    with pytest.raises(OSError, match='more than 5,000 bytes'):
        read_uri(f'zip://bomb.png::file://{tmp_path}/a.zip')


@pytest.mark.parametrize('scheme', ['file', 'local'])
def test_a_large_file_is_not_read(tmp_path, small_limits, scheme):
    with open(tmp_path / 'sparse.png', 'wb') as file:
        file.truncate(10**12)
    with pytest.raises(OSError, match='more than 5,000 bytes'):
        read_uri(f'{scheme}://{tmp_path}/sparse.png')


@given(st.text())
def test_a_path_is_no_uri(name):
    assert not is_uri(name.replace('://', ''))
    assert is_uri(f's3://{name}')


def test_a_path_of_windows_is_no_uri():
    assert not is_uri(r'C:\pictures\a.png') and not is_uri('C:/pictures/a.png')
