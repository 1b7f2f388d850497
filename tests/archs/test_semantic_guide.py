"""The semantic guide against open_clip itself, on a tiny model with random weights; once on CLIP's real image tower."""

import copy
import json
import os
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from align_iqa_plugin.archs.guides import semantic
from align_iqa_plugin.archs.guides.semantic import SemanticGuide

TINY = 'align-iqa-test-tiny'
OTHER = 'align-iqa-test-other'
PATCHES = 16  # of 8 x 8 pixels in 32 x 32
PROMPT = 'a red fox in the snow'


def write_config(folder: Path, name: str, width: int) -> None:
    path = folder / f'{name}.json'
    vision = {'image_size': 32, 'layers': 2, 'width': width, 'head_width': 16, 'patch_size': 8}
    text = {'context_length': 77, 'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 2}
    path.write_text(json.dumps({'embed_dim': 24, 'vision_cfg': vision, 'text_cfg': text}))
    open_clip.add_model_config(path)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('vlm')
    write_config(folder, TINY, width=32)
    write_config(folder, OTHER, width=48)
    torch.manual_seed(0)
    path = folder / 'tiny.safetensors'
    save_file(open_clip.create_model(TINY).state_dict(), path)
    return path


@pytest.fixture
def guide(weights):
    torch.manual_seed(1)
    return SemanticGuide(vlm=TINY, vlm_weights=str(weights), dim=12).eval()


@pytest.fixture(scope='module')
def shared_guide(weights):
    """For hypothesis, which runs its examples on one fixture."""
    return SemanticGuide(vlm=TINY, vlm_weights=str(weights), dim=12).eval()


def images(count: int, height: int = 32, width: int = 32, seed: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def count_texts(guide, monkeypatch) -> list[int]:
    """A list that grows by the number of texts at each call of the text tower."""
    calls, encode_text = [], guide.vlm.encode_text

    def counted(tokens, normalize):
        calls.append(len(tokens))
        return encode_text(tokens, normalize=normalize)

    monkeypatch.setattr(guide.vlm, 'encode_text', counted)
    return calls


def vlm_input(guide, image):
    image = F.interpolate(image, size=guide.vlm.visual.image_size, mode='bicubic', antialias=True)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (image - mean) / std


@torch.no_grad()
def expected_features(guide, image, texts):
    """Image, patch and text features of length 1 by open_clip's own forward."""
    visual = guide.vlm.visual
    visual.output_tokens = True
    pooled, tokens = visual(vlm_input(guide, image))
    visual.output_tokens = False
    text_features = guide.vlm.encode_text(open_clip.get_tokenizer(TINY)(texts))
    return F.normalize(pooled, dim=-1), F.normalize(tokens @ visual.proj, dim=-1), F.normalize(text_features, dim=-1)


def test_tokens_with_a_prompt_are_the_relations_of_the_docstring_computed_by_open_clip(guide):
    image = images(1, 40, 56)
    words = ('badly', 'poorly', 'fairly', 'well', 'perfectly')
    texts = [PROMPT, *(f"a photo that {word} matches '{PROMPT}'" for word in words)]
    v, patches, (t, *levels) = expected_features(guide, image, texts)
    probabilities = (guide.vlm.logit_scale.exp() * v @ torch.stack(levels).T).softmax(-1)
    expected = torch.cat(
        [
            guide.patch_product(patches * t * 24) + guide.patch_cosine((patches @ t)[..., None] * 24**0.5),
            guide.image_product(v * t * 24)[None],
            guide.image_difference((v - t).abs() * 24**0.5)[None],
            guide.match_levels(probabilities)[None],
        ],
        dim=1,
    )
    torch.testing.assert_close(guide(image, [PROMPT]), expected, atol=1e-5, rtol=1e-4)


def test_tokens_without_a_prompt_use_the_learned_text_and_the_quality_texts(guide):
    image = images(1)
    texts = ['Bad photo.', 'Good photo.', *(f'a {word} photo' for word in ('bad', 'poor', 'fair', 'good', 'perfect'))]
    v, patches, quality = expected_features(guide, image, texts)
    logits = guide.vlm.logit_scale.exp() * v @ quality.T
    probabilities = torch.cat([logits[:, 2:].softmax(-1), logits[:, :2].softmax(-1)], dim=-1)
    null = F.normalize(guide.null_text, dim=0)
    tokens = guide(image, None)
    torch.testing.assert_close(tokens[:, -1], guide.quality_levels(probabilities), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:, -3], guide.image_product(v * null * 24), atol=1e-5, rtol=1e-4)
    patch_tokens = guide.patch_product(patches * null * 24) + guide.patch_cosine((patches @ null)[..., None] * 24**0.5)
    torch.testing.assert_close(tokens[:, :PATCHES], patch_tokens, atol=1e-5, rtol=1e-4)


def test_the_pooled_feature_is_that_of_encode_image(guide):
    image = images(2, 30, 50)
    pooled, _ = guide._encode_image(image)
    torch.testing.assert_close(pooled, guide.vlm.encode_image(vlm_input(guide, image), normalize=True))


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.none() | st.text(max_size=40), min_size=1, max_size=3),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
)
def test_any_prompts_and_any_size_give_the_same_number_of_finite_tokens(shared_guide, prompts, height, width):
    tokens = shared_guide(images(len(prompts), height, width), prompts)
    assert tokens.shape == (len(prompts), PATCHES + 3, shared_guide.dim)
    assert tokens.isfinite().all()


def test_a_mixed_batch_gives_the_tokens_of_its_images_one_by_one(guide):
    image, prompts = images(4), [PROMPT, None, 'a cat', PROMPT]
    alone = torch.cat([guide(image[i : i + 1], prompts[i : i + 1]) for i in range(4)])
    guide._forget_texts()
    torch.testing.assert_close(guide(image, prompts), alone, atol=1e-5, rtol=1e-4)


def test_none_and_empty_and_blank_prompts_are_the_same(guide):
    image = images(1)
    expected = guide(image, None)
    for prompt in (None, '', '  \n\t'):
        assert torch.equal(guide(image, [prompt]), expected)
    assert not torch.equal(guide(image, [PROMPT]), expected)


def test_blanks_around_a_prompt_do_not_matter_and_its_words_do(guide):
    image = images(1)
    assert torch.equal(guide(image, [f' {PROMPT}\n']), guide(image, [PROMPT]))
    assert not torch.allclose(guide(image, ['a cat']), guide(image, [PROMPT]), atol=1e-3)


def test_only_the_projections_and_the_learned_text_train(guide):
    image = images(2).requires_grad_()
    guide.train()
    guide.prompt_dropout = 0.0
    guide(image, [PROMPT, None]).square().sum().backward()
    for name, parameter in guide.named_parameters():
        assert parameter.requires_grad != name.startswith('vlm.'), name
        if name.startswith('vlm.'):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().sum() > 0, name
    assert (image.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize(('prompt', 'unused'), [(PROMPT, {'null_text', 'quality_levels'}), (None, {'match_levels'})])
def test_gradients_reach_what_a_batch_with_or_without_prompts_uses(guide, prompt, unused):
    image = images(2).requires_grad_()
    guide(image, [prompt, prompt]).square().sum().backward()
    reached = {name.split('.')[0] for name, p in guide.named_parameters() if p.requires_grad and p.grad.any()}
    trainable = {name.split('.')[0] for name, p in guide.named_parameters() if p.requires_grad}
    assert reached == trainable - unused
    # Distributed training waits for every parameter's gradient, a zero one included.
    assert all(p.grad is not None for p in guide.parameters() if p.requires_grad)
    assert (image.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_gradient_with_respect_to_the_image_is_that_of_finite_differences(weights):
    guide = SemanticGuide(vlm=TINY, vlm_weights=str(weights), dim=3).eval().double()
    image = images(1, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda image: guide(image, [PROMPT]), image, fast_mode=True)


def test_the_vlm_stays_in_evaluation_mode_in_training(guide):
    guide.train()
    assert guide.training and guide.patch_product.training
    assert not any(module.training for module in guide.vlm.modules())
    torch.nn.Sequential(guide).train()
    assert not any(module.training for module in guide.vlm.modules())


def test_no_trainable_name_holds_the_name_of_another_part(guide):
    names = [name for name, parameter in guide.named_parameters() if parameter.requires_grad]
    assert not [n for n in names for part in ('vlm', 'backbone', 'injection', 'msfa', 'head', 'guide') if part in n]


def test_the_state_dict_holds_parameters_alone(guide):
    guide(images(1), [PROMPT])
    assert set(guide.state_dict()) == {name for name, _ in guide.named_parameters()}


def test_prompt_dropout_leaves_prompts_out_in_training_alone(guide):
    image = images(1)
    with_prompt, without = guide(image, [PROMPT]), guide(image, None)
    guide.prompt_dropout = 1.0
    assert torch.equal(guide(image, [PROMPT]), with_prompt)
    guide.train()
    assert torch.equal(guide(image, [PROMPT]), without)
    guide.prompt_dropout = 0.0
    assert torch.equal(guide(image, [PROMPT]), with_prompt)


def test_prompt_dropout_leaves_out_its_share_and_follows_the_seed(guide):
    guide.prompt_dropout = 0.25
    guide.train()
    torch.manual_seed(3)
    first = guide._drop_prompts([PROMPT] * 2000)
    torch.manual_seed(3)
    assert guide._drop_prompts([PROMPT] * 2000) == first
    assert 400 < first.count(None) < 600


def test_each_prompt_is_encoded_once_and_a_hit_equals_the_miss(guide, monkeypatch):
    image, prompts = images(3), [PROMPT, 'a cat', PROMPT]
    calls = count_texts(guide, monkeypatch)
    first = guide(image, prompts)
    assert calls == [6 + 6 + 7]  # two prompts with five levels each; five levels and two antonyms of quality
    assert torch.equal(guide(image, prompts), first)
    guide(image, ['a cat', None, ''])
    assert len(calls) == 1
    guide(image, ['a dog', PROMPT, None])
    assert calls[1:] == [6]


def test_many_new_prompts_are_encoded_in_parts(guide, monkeypatch):
    monkeypatch.setattr(semantic, 'TEXTS_AT_ONCE', 4)
    calls = count_texts(guide, monkeypatch)
    image, prompts = images(2), [PROMPT, 'a cat']
    tokens = guide(image, prompts)
    assert calls == [4, 4, 4, 4, 3]
    monkeypatch.undo()
    guide._forget_texts()
    torch.testing.assert_close(guide(image, prompts), tokens, atol=1e-5, rtol=1e-4)


def test_the_cache_is_bounded_and_keeps_what_was_used_last(guide, monkeypatch):
    monkeypatch.setattr(semantic, 'CACHED_PROMPTS', 3)
    image = images(4)
    guide(image, ['a', 'b', 'c', 'd'])
    assert list(guide._text_cache) == ['c', 'd', None]
    guide(image[:2], ['c', 'e'])
    assert list(guide._text_cache) == ['c', 'e', None]
    assert all(len(f) * 24 == f.untyped_storage().nbytes() / 4 for f in guide._text_cache.values())


def test_prompts_cached_in_inference_mode_or_under_autocast_can_be_trained_with(guide):
    image = images(1)
    expected = guide(image, [PROMPT])
    guide._forget_texts()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        guide(image, [PROMPT])
    image.requires_grad_()
    tokens = guide(image, [PROMPT])
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    tokens.sum().backward()
    assert guide.image_product.weight.grad.any() and image.grad.any()


def test_cached_prompts_are_forgotten_with_the_weights_or_the_type(guide):
    image = images(1)
    before = guide(image, [PROMPT])
    guide.double()
    assert not guide._text_cache
    torch.testing.assert_close(guide(image, [PROMPT]), before.double(), atol=1e-4, rtol=1e-4)
    guide.float()
    guide(image, [PROMPT])
    twin = copy.deepcopy(guide)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in guide.state_dict().items()}
    torch.nn.Sequential(twin).load_state_dict({f'0.{name}': value for name, value in state.items()})
    assert not twin._text_cache and guide._text_cache
    assert not torch.allclose(twin(image, [PROMPT]), before, atol=1e-3)
    assert torch.equal(guide(image, [PROMPT]), before)


def test_a_long_prompt_is_cut_and_keeps_its_end_token(guide):
    long = 'word ' * 200
    tokens = guide.tokenizer(semantic._texts(long))
    end = open_clip.SimpleTokenizer().eot_token_id
    assert tokens.shape == (6, 77)
    assert (tokens[:, -1] == end).all() and (tokens.argmax(-1) == 76).all()
    # The words of the levels stand before the prompt, so that the cut cannot make the levels equal.
    assert len(set(map(tuple, tokens.tolist()))) == 6
    image = images(1)
    assert torch.equal(guide(image, [long]), guide(image, [long + 'and a tail that is never read']))


def test_bfloat16_autocast_changes_the_tokens_by_its_rounding_alone(guide):
    image, prompts = images(2), [PROMPT, None]
    exact = guide(image, prompts)
    with torch.autocast('cpu', torch.bfloat16):
        tokens = guide(image, prompts)
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), exact, atol=0.1, rtol=0.05)


def test_a_guide_in_bfloat16_takes_images_in_float(guide):
    image, prompts = images(2), [PROMPT, None]
    exact = guide(image, prompts)
    tokens = guide.bfloat16()(image, prompts)
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), exact, atol=0.3, rtol=0.1)


@pytest.mark.parametrize(
    ('prompts', 'error', 'words'),
    [
        ([PROMPT], ValueError, 'one for each image, not 1 of them'),
        ('ab', ValueError, 'not a single text'),
        ([1.5, 1.5], TypeError, 'prompts'),
    ],
)
def test_prompts_that_do_not_fit_the_images_are_refused(guide, prompts, error, words):
    with pytest.raises(error, match=words):
        guide(images(2), prompts)


def test_a_share_of_dropped_prompts_above_one_is_refused():
    with pytest.raises(ValueError, match='from 0 to 1, not 10'):
        SemanticGuide(prompt_dropout=10)


def test_files_of_all_kinds_give_the_same_model(weights, tmp_path, guide):
    state = load_file(weights)
    torch.save(state, tmp_path / 'plain.pt')
    torch.save({'epoch': 3, 'state_dict': {f'module.{k}': v for k, v in state.items()}}, tmp_path / 'training.pth')
    for name in ('plain.pt', 'training.pth'):
        loaded = SemanticGuide(vlm=TINY, vlm_weights=str(tmp_path / name)).vlm.state_dict()
        assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_file_named_like_published_weights_is_read_as_a_file(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {'own': {'hf_hub': 'nobody/nothing/'}})
    monkeypatch.chdir(tmp_path)
    torch.save(load_file(weights), 'own')
    guide = SemanticGuide(vlm=TINY, vlm_pretrained='own', vlm_weights='own')
    assert torch.equal(guide.vlm.visual.proj, load_file(weights)['visual.proj'])


def test_a_file_is_used_with_the_mean_and_the_activation_of_its_published_weights(weights, monkeypatch):
    facts = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.3, 0.4), 'quick_gelu': True, 'hf_hub': 'nobody/nothing/'}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {'own': facts})
    guide = SemanticGuide(vlm=TINY, vlm_pretrained='own', vlm_weights=str(weights))
    torch.testing.assert_close(guide.mean.flatten(), torch.tensor(facts['mean']))
    torch.testing.assert_close(guide.std.flatten(), torch.tensor(facts['std']))
    assert 'QuickGELU' in str(guide.vlm.visual) and 'QuickGELU' in str(guide.vlm.transformer)
    plain = SemanticGuide(vlm=TINY, vlm_pretrained=None, vlm_weights=str(weights))
    torch.testing.assert_close(plain.mean.flatten(), torch.tensor(open_clip.OPENAI_DATASET_MEAN))
    assert 'QuickGELU' not in str(plain.vlm)


def image_tower_file(weights, path):
    state = load_file(weights)
    save_file({key.removeprefix('visual.'): value for key, value in state.items() if key.startswith('visual.')}, path)


def unreadable_file(weights, path):
    path.write_bytes(b'these are no weights')


def half_file(weights, path):
    path.write_bytes(weights.read_bytes()[:-1000])


def poorer_file(weights, path):
    state = load_file(weights)
    del state['text_projection']
    save_file(state, path)


@pytest.mark.parametrize(
    ('spoil', 'vlm', 'words'),
    [
        (image_tower_file, TINY, 'text tower is missing'),
        (unreadable_file, TINY, 'cannot be read'),
        (half_file, TINY, 'cannot be read'),
        (poorer_file, TINY, f"does not hold open_clip's state dict of '{TINY}'"),
        (lambda weights, path: path.write_bytes(weights.read_bytes()), OTHER, f"state dict of '{OTHER}'"),
    ],
)
@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
def test_a_file_without_the_weights_of_the_model_is_refused_in_one_sentence(weights, tmp_path, spoil, vlm, words, suffix):
    path = tmp_path / 'spoilt.safetensors'
    spoil(weights, path)
    if suffix == '.pt' and spoil not in (unreadable_file, half_file):
        torch.save(load_file(path), path.with_suffix('.pt'))
    elif suffix == '.pt':
        path.rename(path.with_suffix('.pt'))
    with pytest.raises(ValueError, match=words) as caught:
        SemanticGuide(vlm=vlm, vlm_weights=str(path.with_suffix(suffix)))
    message = str(caught.value)
    assert f'spoilt{suffix}' in message and 'torch.save(open_clip.create_model(' in message
    assert '\n' not in message and '. ' not in message


def test_a_file_that_is_not_there_is_named(weights):
    with pytest.raises(FileNotFoundError, match="no file 'nowhere.pt': set vlm_weights to a file"):
        SemanticGuide(vlm=TINY, vlm_weights='nowhere.pt')


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'vlm': 'ViT-B-16-quickgleu'}, 'ViT-B-16-quickgelu'),
        ({'vlm': 'zzzz'}, "unknown vlm 'zzzz'; choose from"),
        ({'vlm': 'ViT-B-16', 'vlm_pretrained': 'openia'}, 'vlm_pretrained to one of openai'),
        ({'vlm': 'ViT-B-16', 'vlm_pretrained': None}, 'vlm_weights to a local file'),
        ({'vlm': 'ViT-H-14', 'vlm_weights': 'file.pt'}, 'vlm_pretrained to one of .*, or vlm_pretrained to None'),
        ({'vlm': TINY}, 'set vlm_weights to a local file'),
        ({'vlm': 'RN50'}, "open_clip's own vision transformer"),
        ({'vlm': 'ViT-B-16-SigLIP', 'vlm_pretrained': 'webli'}, "open_clip's own vision transformer"),
        ({'vlm': 'coca_ViT-B-32', 'vlm_pretrained': 'laion2b_s13b_b90k'}, 'no attentional pooling'),
    ],
)
def test_settings_that_name_no_usable_weights_are_refused_with_the_way_out(weights, settings, words):
    with pytest.raises(ValueError, match=words):
        SemanticGuide(**settings)


def test_without_a_network_the_missing_weights_are_named_and_nothing_random_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'openai' of 'ViT-B-16-quickgelu'.* set vlm_weights to a local file"):
        SemanticGuide()


def test_a_tokenizer_that_cannot_be_loaded_is_named(weights, monkeypatch):
    def fail(name):
        raise OSError('no network')

    monkeypatch.setattr(open_clip, 'get_tokenizer', fail)
    with pytest.raises(FileNotFoundError, match='needs the tokenizer'):
        SemanticGuide(vlm=TINY, vlm_weights=str(weights))


@pytest.mark.slow
@pytest.mark.skipif(
    'ALIGN_IQA_CLIP_OPENCLIP' not in os.environ,
    reason="ALIGN_IQA_CLIP_OPENCLIP does not name a file with open_clip's ViT-B-16-quickgelu or its image tower",
)
def test_the_real_image_tower_gives_the_features_of_open_clip(tmp_path):
    torch.manual_seed(0)
    name = 'ViT-B-16-quickgelu'
    state = open_clip.create_model(name).state_dict()
    real = load_file(os.environ['ALIGN_IQA_CLIP_OPENCLIP'])
    state.update(real if 'visual.proj' in real else {f'visual.{key}': value for key, value in real.items()})
    save_file(state, tmp_path / 'clip.safetensors')
    guide = SemanticGuide(vlm_weights=str(tmp_path / 'clip.safetensors')).eval()

    image = images(2, 300, 200)
    with torch.no_grad():
        tokens = guide(image, [PROMPT, None])
        pooled, patches = guide._encode_image(image)
        expected = guide.vlm.encode_image(vlm_input(guide, image), normalize=True)
    assert tokens.shape == (2, 14 * 14 + 3, 64)
    assert tokens.isfinite().all() and 0.1 < tokens.std() < 10
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    # Patch features of a trained tower agree with its image far beyond chance, which is 1 / sqrt(512) = 0.04.
    assert (patches * pooled[:, None]).sum(-1).mean() > 0.2
