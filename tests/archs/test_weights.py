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
