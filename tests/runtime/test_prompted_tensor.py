"""PromptedTensor: the pixels of each image are the number that is its prompt, and no operation may give it another."""

import copy
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyiqa.data import build_dataloader, build_dataset
from torch import Tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.guides import GUIDES
from align_iqa_plugin.archs.guides.saliency import SaliencyGuide
from align_iqa_plugin.register import register_datasets
from align_iqa_plugin.runtime.prompted_tensor import PromptedTensor, split_prompts

CHANNELS = 3  # as many as there may be images, so that a wrong dimension has a chance to go unnoticed


def image(number: int) -> PromptedTensor:
    return PromptedTensor(torch.full((CHANNELS, 4, 4), float(number)), [str(number)])


def batch(numbers) -> PromptedTensor:
    return torch.stack([image(number) for number in numbers])


def assert_no_wrong_prompt(tensor: Tensor) -> None:
    """A tensor has no prompts, or each image has its own, the number that its pixels are."""
    plain, prompts = split_prompts(tensor)
    assert type(plain) is Tensor
    if prompts is not None:
        images = plain if plain.ndim == 4 else plain[None]
        assert len(prompts) == len(images)
        for pixels, prompt in zip(images, prompts, strict=True):
            assert (pixels == float(prompt)).all()


def changed(change):
    """An operation in place: its result is the tensor itself."""

    def operation(tensor, other):
        change(tensor, other)
        return tensor

    return operation


def write_out(tensor, other):
    torch.flip(tensor, [0]).clone()
    torch.index_select(tensor.clone(), 0, torch.arange(len(tensor)).flip(0), out=tensor)


def write_through_a_view(tensor, other):
    tensor.as_subclass(Tensor)[:] = tensor.as_subclass(Tensor).flip(0).clone()


def give_other_data(tensor, other):
    tensor.data = tensor.data.flip(0)


def give_other_layout(tensor, other):
    tensor.data = tensor.data.transpose(0, 1)


def give_other_memory(tensor, other):
    tensor.set_(tensor.detach().as_subclass(Tensor).flip(0))


def swap_ends(tensor, other):
    tensor[[0, -1]] = tensor[[-1, 0]].clone()


OPERATIONS = [
    lambda x, y: x.flip(0),
    lambda x, y: x.flip(-1),
    lambda x, y: x[::2],
    lambda x, y: x[1:],
    lambda x, y: x[-1],
    lambda x, y: x[None],
    lambda x, y: x[torch.randperm(len(x))],
    lambda x, y: x[:, :1],
    lambda x, y: list(x),
    lambda x, y: x.unbind(1),
    lambda x, y: torch.cat([x, y]),
    lambda x, y: torch.cat([y, x.as_subclass(Tensor)]),
    lambda x, y: torch.stack([x, y]),
    lambda x, y: torch.stack([x[0], y[0]]),
    lambda x, y: torch.stack(list(x), 1),
    lambda x, y: torch.stack([image(7), image(5), image(2)], dim=1),
    lambda x, y: torch.stack([image(7), image(5), image(2)], -4),
    lambda x, y: torch.stack(tensors=[image(7), image(5), image(2)]),
    lambda x, y: torch.stack([image(7), torch.zeros(CHANNELS, 4, 4)]),
    lambda x, y: torch.where(x > 3, x, y[:1]),
    lambda x, y: torch.maximum(x, y[:1]),
    lambda x, y: y.as_subclass(Tensor).to(x),
    lambda x, y: y.as_subclass(Tensor).double().to(x),
    lambda x, y: y.to(x),
    lambda x, y: x.roll(1, 0),
    lambda x, y: x.transpose(0, 1),
    lambda x, y: x.reshape(-1, CHANNELS, 2, 4),
    lambda x, y: x.repeat(2, 1, 1, 1),
    lambda x, y: x.expand(2, *x.shape)[0],
    lambda x, y: x.chunk(2),
    lambda x, y: x.sort(0).values,
    lambda x, y: x * 2,
    lambda x, y: 1 - x,
    lambda x, y: x.double(),
    lambda x, y: x.to(torch.float64),
    lambda x, y: x.float(),
    lambda x, y: x.contiguous(memory_format=torch.channels_last),
    lambda x, y: x.detach(),
    lambda x, y: x.clone(),
    lambda x, y: copy.copy(x) if isinstance(x, PromptedTensor) else x,  # a plain copy shares memory unknown to torch
    lambda x, y: copy.deepcopy(x),
    lambda x, y: pickle.loads(pickle.dumps(x)),
    lambda x, y: torch.nn.functional.interpolate(x, scale_factor=2),
    changed(write_out),
    changed(write_through_a_view),
    changed(give_other_data),
    changed(give_other_layout),
    changed(give_other_memory),
    changed(swap_ends),
    changed(lambda x, y: x.mul_(2)),
    changed(lambda x, y: x.copy_(x.flip(0))),
    changed(lambda x, y: x.transpose_(0, 1)),
    changed(lambda x, y: x.resize_(len(x), CHANNELS, 2, 4)),
    changed(lambda x, y: x[0].fill_(6)),
    changed(lambda x, y: x.detach().neg_()),
    changed(lambda x, y: x.requires_grad_()),
]


@pytest.mark.parametrize('operation', OPERATIONS)
@pytest.mark.parametrize('inference', [False, True])
def test_no_operation_gives_any_of_three_images_the_prompt_of_another(operation, inference):
    with torch.inference_mode(inference):
        first, other = batch([3, 1, 2]), batch([5, 4, 6])
        try:
            results = operation(first, other)
        except RuntimeError:
            assert inference  # inference mode forbids changes that it cannot count
            results = []
        for result in [*(results if isinstance(results, (list, tuple)) else [results]), first, other]:
            assert_no_wrong_prompt(result)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.lists(st.sampled_from(range(len(OPERATIONS))), max_size=6),
    st.booleans(),
)
@example([0], [4, 4, 4, 4, 52], False)  # the last image four times, which is a number, and its length
def test_no_operation_gives_an_image_the_prompt_of_another(numbers, operations, inference):
    with torch.inference_mode(inference):
        first, other = batch(numbers), batch([number + 1 for number in reversed(numbers)])
        tensor = first
        for number in operations:
            if not tensor.ndim:  # of a single number torch has no length, and no image is left in it
                break
            try:
                results = OPERATIONS[number](tensor, other)
            except (RuntimeError, IndexError, ValueError):  # not possible for its present shape
                continue
            results = results if isinstance(results, (list, tuple)) else [results]
            for result in [*results, tensor, first, other]:
                assert_no_wrong_prompt(result)
            tensor = results[0] if results else tensor


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4), st.booleans())
def test_prompts_survive_every_step_between_dataset_and_metric(prompts, inference):
    with torch.inference_mode(inference):
        images = torch.stack([PromptedTensor(torch.rand(3, 4, 4), [prompt]) for prompt in prompts])
        images = pickle.loads(pickle.dumps(images))
        for step in (
            lambda images: images.to('cpu', non_blocking=True),
            lambda images: images.to(torch.float64),
            lambda images: images.float(),
            lambda images: images.contiguous(memory_format=torch.channels_last),
            lambda images: images.detach(),
            copy.deepcopy,
            copy.copy,
        ):
            images = step(images)
            assert images.prompts == prompts


def test_prompts_must_fit_the_images():
    for images, prompts, reason in [
        (torch.rand(2, 3, 4, 4), ['a'], 'a list of 2 prompts, one for each image, not 1 of them'),
        (torch.rand(1, 3, 4, 4), 'a', 'not a single text'),
        (torch.rand(3, 4, 4), [], 'a list of 1 prompt, one'),
        (torch.rand(4, 4), ['a'], r'not \(4, 4\)'),
    ]:
        with pytest.raises(ValueError, match=reason):
            PromptedTensor(images, prompts)


def test_gradients_reach_the_images():
    pixels = torch.rand(2, 3, 4, 4, requires_grad=True)
    images = PromptedTensor(pixels, ['a', 'b']).to(torch.float64)
    assert images.prompts == ['a', 'b']
    (images**2).sum().backward()
    assert torch.allclose(pixels.grad, 2 * pixels.detach())


def options(folder, **more) -> dict:
    register_datasets()
    return {
        'name': 'tiny',
        'type': 'AIGCIQADataset',
        'dataroot_target': str(folder),
        'score_column': 'mos_quality',
        'phase': 'test',
        'batch_size_per_gpu': 3,
        'prompts_with_images': True,
        **more,
    }


def test_the_dataset_gives_plain_images_by_default(tiny_images):
    plain = build_dataset(options(tiny_images, prompts_with_images=False))[5]['img']
    carrying = build_dataset(options(tiny_images))[5]['img']
    assert type(plain) is Tensor and torch.equal(plain, carrying.as_subclass(Tensor))
    assert carrying.prompts == ['prompt 2']


@pytest.mark.parametrize('start', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
@pytest.mark.filterwarnings('ignore:.*pin_memory.*:UserWarning')  # torch's, where there is nothing to pin for
def test_prompts_reach_the_main_process_from_workers(tiny_images, start):
    dataset = build_dataset(options(tiny_images))
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, num_workers=2, multiprocessing_context=start, pin_memory=True)
    batches = list(loader)
    assert [len(batch['img']) for batch in batches] == [3] * 13 + [1]
    for position, batch in enumerate(batches):
        assert batch['img'].prompts == batch['prompt']
        for row, pixels in enumerate(batch['img']):
            assert torch.equal(pixels, dataset[3 * position + row]['img'].as_subclass(Tensor))


@pytest.mark.gpu
def test_prompts_reach_the_accelerator_through_pinned_memory(tiny_images):
    section = options(tiny_images, num_worker_per_gpu=2, pin_memory=True, prefetch_mode='cpu', num_prefetch_queue=8)
    for batch in build_dataloader(build_dataset(section), section):
        assert batch['img'].is_pinned() and batch['img'].prompts == batch['prompt']
        assert batch['img'].to('cuda', non_blocking=True).prompts == batch['img'].cuda().prompts == batch['prompt']


class RecordingGuide(SaliencyGuide):
    """Records the images and prompts of each call."""

    def forward(self, image, prompts):
        assert type(image) is Tensor
        self.calls += zip(image.clone(), prompts or [None] * len(image), strict=True)
        return super().forward(image, prompts)


@pytest.fixture
def recording(monkeypatch):
    monkeypatch.setitem(GUIDES, 'recording', RecordingGuide)
    small = {'backbone': 'test_vit', 'backbone_weights': 'random', 'input_size': 32, 'head': 'linear'}
    net = AlignIQA(**small, guide='recording', injection='cgi', injection_options={'blocks': [4, 5], 'bottleneck': 8})
    net.is_trained, net.guide.calls = True, []
    return net.eval()


@pytest.mark.parametrize('workers', [0, 2])
def test_the_network_gets_each_image_with_its_own_prompt(tiny_images, recording, workers):
    section = options(tiny_images, num_worker_per_gpu=workers)
    dataset = build_dataset(section)
    with torch.no_grad():
        for data in build_dataloader(dataset, section):
            assert type(recording(data['img'])) is Tensor
    assert len(recording.guide.calls) == len(dataset) == 40
    for (pixels, prompt), sample in zip(recording.guide.calls, dataset, strict=True):
        assert prompt == sample['prompt'] and torch.equal(pixels, sample['img'].as_subclass(Tensor))


def test_prompts_given_to_the_network_go_before_those_that_the_images_carry(recording):
    images = PromptedTensor(torch.rand(2, 3, 32, 32), ['a', 'b'])
    with torch.no_grad():
        recording(images)
        recording(images, caption_list=['c', None])
        recording(images.flip(0))
    assert [prompt for _, prompt in recording.guide.calls] == ['a', 'b', 'c', None, None, None]
