"""The cache of decoded images, alone; what the dataset makes of it stands in test_aigc_dataset.py."""

import json
import logging
import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.backbone import resize, view_size
from align_iqa_plugin.cli.score import sample_rows
from align_iqa_plugin.data import image_cache
from align_iqa_plugin.data.image_cache import ImageCache, read_resized
from align_iqa_plugin.data.images import read_image

SIZES = [(40, 56), (64, 64), (33, 200)]  # width, height


@pytest.fixture
def paths(tmp_path):
    """Twelve PNGs of three sizes."""
    random = np.random.default_rng(0)
    made = []
    for i in range(12):
        width, height = SIZES[i % 3]
        made.append(str(tmp_path / f'{i}.png'))
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(made[-1])
    return made


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'cache'


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded, one after the other."""
    seen = []

    def read(path, input_size):
        seen.append(path)
        return read_resized(path, input_size)

    monkeypatch.setattr(image_cache, 'read_resized', read)
    return seen


def filled(folder, paths, input_size=None, workers=0):
    cache = ImageCache(folder, input_size)
    assert cache.fill(paths, workers=workers) == {}
    return cache


def assert_right(cache, paths, input_size=None):
    for path in paths:
        assert np.array_equal(np.array(cache.read(path)), np.array(read_resized(path, input_size))), path


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('input_size', [None, 32, [48, 32]])
def test_it_gives_the_pixels_of_every_image_whatever_its_size(folder, paths, input_size, workers):
    assert_right(filled(folder, paths, input_size, workers), paths, input_size)


def test_what_was_decoded_once_is_not_decoded_again(folder, paths, decoded):
    filled(folder, paths[:6])
    assert decoded == paths[:6]
    assert_right(filled(folder, paths), paths)  # the second call takes in the rest beside the first
    assert decoded == paths
    assert_right(filled(folder, paths[3:9]), paths[3:9])
    assert decoded == paths
    assert len(list(folder.glob('*.uint8'))) == 1


def test_each_size_has_its_own_pixels(folder, paths):
    caches = {size: filled(folder, paths, size) for size in (None, 32, 48, (48, 32))}
    for size, cache in caches.items():
        assert_right(cache, paths, size)


def test_only_a_file_that_changed_is_decoded_again(folder, paths, decoded):
    filled(folder, paths)
    Image.new('RGB', (50, 70), 'red').save(paths[4])
    decoded.clear()
    cache = filled(folder, paths)
    assert decoded == [paths[4]]
    assert_right(cache, paths)
    assert cache.read(paths[4]).size == (50, 70)


def test_a_file_that_was_moved_or_touched_is_known_by_its_content(folder, paths, decoded, tmp_path):
    filled(folder, paths)
    os.utime(paths[0])
    os.replace(paths[1], tmp_path / 'moved.png')
    now = [paths[0], str(tmp_path / 'moved.png'), *paths[2:]]
    decoded.clear()
    assert_right(filled(folder, now), now)
    assert decoded == []


def test_a_file_that_is_no_picture_is_named_and_the_others_are_kept(folder, paths):
    with open(paths[2], 'r+b') as file:
        file.truncate(100)
    os.remove(paths[3])
    for _ in range(2):
        cache = ImageCache(folder)
        problems = cache.fill(paths)
        assert set(problems) == {paths[2], paths[3]}
        assert all(path in problem for path, problem in problems.items())
        assert_right(cache, [path for path in paths if path not in problems])


@pytest.mark.parametrize('what', ['pixels cut', 'pixels gone', 'index cut', 'index of another kind', 'index gone'])
def test_damaged_files_are_made_anew_and_that_is_said_in_one_line(folder, paths, caplog, what):
    filled(folder, paths)
    (pixels,), (index,) = folder.glob('*.uint8'), folder.glob('*.json')
    if what == 'pixels cut':
        os.truncate(pixels, pixels.stat().st_size - 1)
    elif what == 'index cut':
        index.write_bytes(index.read_bytes()[:-10])
    elif what == 'index of another kind':
        index.write_text('[1]')
    else:
        (pixels if what == 'pixels gone' else index).unlink()
    with caplog.at_level(logging.WARNING):
        assert_right(filled(folder, paths), paths)
    # without an index nobody can tell a damaged cache from one that was never finished
    assert [f'{index} or its pixels are damaged' in line for line in caplog.messages] == (
        [] if what == 'index gone' else [True]
    )
    assert len(list(folder.glob('*.uint8'))) == 1
    caplog.clear()
    assert_right(filled(folder, paths), paths)
    assert caplog.messages == []


def test_a_reader_goes_on_when_another_process_makes_the_files_anew(folder, paths):
    mapped, unmapped = filled(folder, paths), filled(folder, paths)
    mapped.read(paths[0])
    for file in folder.iterdir():
        file.unlink()
    filled(folder, paths[::-1])
    assert_right(mapped, paths)
    assert_right(unmapped, paths)


def test_a_copy_for_a_worker_is_small_and_reads_the_same(folder, paths):
    cache = filled(folder, paths)
    cache.read(paths[0])
    copied = pickle.dumps(cache)
    assert len(copied) < 5000
    assert_right(pickle.loads(copied), paths)


def fill_slowly(folder, paths, started=None):
    """In another process: every image takes a while, and the index is saved after each."""
    image_cache.SECONDS_BETWEEN_SAVES = 0

    def slowly(path, input_size):
        time.sleep(0.05)
        with open(folder / 'decoded.txt', 'a') as file:
            file.write(f'{path}\n')
        if started is not None and path == paths[4]:
            started.set()
            time.sleep(60)
        return read_resized(path, input_size)

    image_cache.read_resized = slowly
    filled(folder, paths)


def test_two_processes_that_fill_it_at_once_do_the_work_once(folder, paths):
    context = multiprocessing.get_context('fork')
    builders = [context.Process(target=fill_slowly, args=(folder, order)) for order in (paths, paths[::-1])]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert sorted((folder / 'decoded.txt').read_text().splitlines()) == sorted(paths)
    assert_right(filled(folder, paths), paths)


def test_a_builder_that_was_killed_blocks_nobody_and_loses_no_more_than_its_last_images(folder, paths, decoded):
    context = multiprocessing.get_context('fork')
    started = context.Event()
    builder = context.Process(target=fill_slowly, args=(folder, paths, started))
    builder.start()
    assert started.wait(60)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert_right(filled(folder, paths), paths)
    assert decoded == paths[4:]


def test_a_waiting_process_says_so(folder, paths, caplog):
    context = multiprocessing.get_context('fork')
    started = context.Event()
    builder = context.Process(target=fill_slowly, args=(folder, paths, started))
    builder.start()
    assert started.wait(60)
    killer = context.Process(target=kill_later, args=(builder.pid,))
    killer.start()
    with caplog.at_level(logging.WARNING):
        assert_right(filled(folder, paths), paths)
    assert caplog.messages == [f'image_cache: waiting for another process that fills {folder}.']
    builder.join()
    killer.join()


def kill_later(pid):
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)


def test_what_a_killed_builder_left_behind_the_last_saved_image_is_overwritten(folder, paths):
    filled(folder, paths[:6])
    (pixels,) = folder.glob('*.uint8')
    with pixels.open('ab') as file:
        file.write(b'x' * 1000)
    assert_right(filled(folder, paths), paths)
    index = json.loads(next(folder.glob('*.json')).read_text())
    assert index['end'] == sum(np.array(read_image(path)).nbytes for path in paths)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, paths):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'image_cache: .*file.* cannot be written: '):
        ImageCache(tmp_path / 'file' / 'cache').fill(paths)


@given(
    height=st.integers(32, 3000),
    width=st.integers(32, 3000),
    input_size=st.integers(32, 600),
    patch=st.sampled_from([8, 14, 16, 32]),
)
@settings(max_examples=500, deadline=None)
def test_the_view_of_a_view_is_the_view_itself(height, width, input_size, patch):
    size = view_size(height, width, input_size, patch)
    assert view_size(*size, input_size, patch) == size


@pytest.mark.parametrize('size', [(512, 512), (480, 640), (1000, 240), (100, 100)])
def test_an_image_is_resized_as_the_network_does_it_to_half_a_level(tmp_path, size):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8))
    coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / 'image.png')
    net = AlignIQA(backbone='vit_tiny_patch16_224', backbone_weights='random', guide='none', injection='none')
    image = to_tensor(read_image(tmp_path / 'image.png'))[None]
    small = to_tensor(read_resized(tmp_path / 'image.png', 224))[None]
    levels = (net.backbone.view(small) - net.backbone.view(image)) * net.backbone.std * 255
    assert levels.abs().max() < 0.501
    assert net.backbone.grid(small) == net.backbone.grid(image)
    assert torch.equal(resize(small, small.shape[-2:]), small)


def test_the_packaged_model_scores_images_at_its_input_size_as_it_scores_them_whole():
    net = AlignIQA(pretrained=True).eval()
    paths = [row.path for row in sample_rows()]
    with torch.no_grad():
        whole, small = (
            net(torch.stack([to_tensor(read_resized(path, input_size)) for path in paths])) for input_size in (None, 224)
        )
    assert (whole - small).abs().max() < 0.05  # of 5: what rounding to 8 bits does
