"""Files by URI: read and listed wherever they are, and a reason where they cannot be."""

import threading
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


@given(st.text())
def test_a_path_is_no_uri(name):
    assert not is_uri(name.replace('://', ''))
    assert is_uri(f's3://{name}')


def test_a_path_of_windows_is_no_uri():
    assert not is_uri(r'C:\pictures\a.png') and not is_uri('C:/pictures/a.png')
