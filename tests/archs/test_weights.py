import json
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from align_iqa_plugin.archs.weights import dequantise, read_weights


@pytest.fixture
def state():
    return {'a.weight': torch.rand(3, 4), 'a.bias': torch.rand(3)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_safetensors_and_pytorch_files_and_their_usual_wrappings_read_alike(state, tmp_path):
    save_file(state, tmp_path / 'a.safetensors')
    torch.save(state, tmp_path / 'b.pth')
    torch.save({'params': state}, tmp_path / 'c.pth')
    torch.save({'state_dict': {f'module.{key}': value for key, value in state.items()}}, tmp_path / 'd.pt')
    for file in sorted(tmp_path.iterdir()):
        assert same(read_weights(file, 'key'), state), file.name


def test_the_packaged_model_has_a_name():
    parts = {name.split('.')[0] for name in read_weights('packaged', 'path.pretrain_network')}
    assert {'guide', 'injection', 'msfa', 'head'} <= parts


def test_a_missing_file_is_named_with_its_option(tmp_path):
    with pytest.raises(FileNotFoundError, match='vlm_weights: there is no file .*gone.pth'):
        read_weights(tmp_path / 'gone.pth', 'vlm_weights')


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
@pytest.mark.parametrize('content', [b'', b'hello', b'\x80\x04\x95'])
def test_a_damaged_file_is_named_with_its_option(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'backbone_weights: .*{name} cannot be read'):
        read_weights(tmp_path / name, 'backbone_weights')


def test_a_truncated_file_is_named(state, tmp_path):
    for name, write in (('a.safetensors', save_file), ('a.pth', torch.save)):
        file = tmp_path / name
        write(state, file)
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ValueError, match='cannot be read'):
            read_weights(file, 'key')


class Command:
    def __reduce__(self):
        import os

        return os.getcwd, ()


def test_code_in_a_pickle_is_never_run(tmp_path):
    torch.save({'a': Command()}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='nothing but tensors|cannot be read'):
        read_weights(tmp_path / 'a.pth', 'key')


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({'epoch': 3}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds no tensors by name'):
        read_weights(tmp_path / 'a.pth', 'key')


@settings(deadline=None)
@given(
    st.lists(st.integers(-128, 127), min_size=6, max_size=6),
    st.lists(st.floats(2**-12, 1.0, width=32), min_size=2, max_size=2),
    st.lists(st.integers(-128, 127), min_size=2, max_size=2),
)
def test_int8_weights_become_zero_point_and_scale_applied_row_by_row(values, scales, zero_points):
    packed = {
        'w': torch.tensor(values, dtype=torch.int8).view(2, 3),
        'w.scale': torch.tensor(scales).view(2, 1),
        'w.zero_point': torch.tensor(zero_points, dtype=torch.int8).view(2, 1),
        'layer.scale': torch.ones(3),  # a parameter that happens to be called so
    }
    state = dequantise(packed)
    assert state.keys() == {'w', 'layer.scale'}
    expected = [(values[3 * i + j] - zero_points[i]) * scales[i] for i in range(2) for j in range(3)]
    torch.testing.assert_close(state['w'].flatten(), torch.tensor(expected))


def test_an_empty_file_of_tensors_and_names_that_are_no_texts_are_refused(tmp_path):
    for content in ({}, {3: torch.ones(1)}, [torch.ones(1)], torch.ones(1), {'params': {}}):
        torch.save(content, tmp_path / 'a.pth')
        with pytest.raises(ValueError, match='a.pth holds no tensors by name'):
            read_weights(tmp_path / 'a.pth', 'key')


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_wrong_bytes_is_read_or_named_and_raises_nothing_else(name, data, state, tmp_path):
    file = tmp_path / name
    (save_file if name == 'a.safetensors' else torch.save)(state, file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        read_weights(file, 'key')
    except ValueError as error:
        assert str(error).startswith(f'key: {file}')


# Files that would fill the memory


def test_a_file_of_torch_that_unpacks_to_more_than_it_holds_is_not_unpacked(tmp_path, monkeypatch):
    torch.save({'a': torch.zeros(10**6)}, tmp_path / 'whole.pth')
    with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(tmp_path / 'a.pth', 'w') as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch, 'load', lambda *_, **__: pytest.fail('it is unpacked'))
    with pytest.raises(ValueError, match=r'^key: .*a\.pth is not read: it unpacks to 4,'):
        read_weights(tmp_path / 'a.pth', 'key')


def test_a_file_whose_entries_share_their_bytes_is_not_unpacked(tmp_path):
    torch.save({'a': torch.zeros(10**5)}, tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    with zipfile.ZipFile(tmp_path / 'a.pth') as archive:
        start, entries = archive.start_dir, len(archive.infolist())
    directory = content[start : content.index(b'PK\x06\x06', start)] * 100
    end = struct.pack('<4s4H2LH', b'PK\x05\x06', 0, 0, 100 * entries, 100 * entries, len(directory), start, 0)
    (tmp_path / 'a.pth').write_bytes(content[:start] + directory + end)
    with pytest.raises(ValueError, match='is not read: it unpacks to 40,'):
        read_weights(tmp_path / 'a.pth', 'key')


def test_a_pickle_that_states_more_numbers_than_its_file_holds_is_an_error(tmp_path):
    torch.save({'a': torch.zeros(10)}, tmp_path / 'whole.pth')
    with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(tmp_path / 'a.pth', 'w') as changed:
        for entry in whole.infolist():  # K\n: the number 10
            changed.writestr(entry.filename, whole.read(entry).replace(b'K\n', b'J' + struct.pack('<i', 10**6)))
    with pytest.raises(ValueError, match='is not read|cannot be read'):
        read_weights(tmp_path / 'a.pth', 'key')


def test_a_call_that_makes_a_number_large_is_not_run(tmp_path, monkeypatch):
    torch.save({'a': torch.zeros(3), 'b': bytearray(3)}, tmp_path / 'a.pth')
    monkeypatch.setattr(torch, 'load', lambda *_, **__: pytest.fail('it is run'))
    with pytest.raises(ValueError, match='calls .*bytearray, but has to be a file of nothing but tensors'):
        read_weights(tmp_path / 'a.pth', 'key')


def test_a_tensor_of_a_few_numbers_that_its_strides_repeat_is_not_used(tmp_path):
    torch.save({'a': torch.zeros(1).expand(10**6)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='tensor a states more numbers than it holds'):
        read_weights(tmp_path / 'a.pth', 'key')


def test_a_scale_that_would_enlarge_its_tensor_is_not_applied(tmp_path):
    for part, shape in (('scale', (1, 100)), ('zero_point', (2, 100, 1))):
        packed = {'w': torch.zeros(100, 1, dtype=torch.int8), 'w.scale': torch.ones(1), 'w.zero_point': torch.zeros(1)}
        save_file(packed | {f'w.{part}': torch.ones(shape)}, tmp_path / 'a.safetensors')
        with pytest.raises(ValueError, match=rf'the shape of w\.{part} does not fit that of w'):
            read_weights(tmp_path / 'a.safetensors', 'key')


@pytest.mark.parametrize(
    ('length', 'header'),
    [
        (2**40, {'a': {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}}),
        (None, {'a': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}}),
        (None, {'a': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 16]}}),
        (None, {'a': {'dtype': 'F32', 'shape': [2**62, 2], 'data_offsets': [0, 0]}}),
        (None, {name: {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]} for name in ('a', 'b')}),
    ],
    ids=['length', 'offsets', 'shape', 'overflow', 'shared'],
)
def test_a_header_of_safetensors_that_states_more_than_the_file_holds_is_an_error(tmp_path, length, header):
    text = json.dumps(header).encode()
    (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', length or len(text)) + text + bytes(16))
    with pytest.raises(ValueError, match=r'^key: .*a\.safetensors cannot be read'):
        read_weights(tmp_path / 'a.safetensors', 'key')
