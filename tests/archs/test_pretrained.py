import doctest
import json

import pyiqa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.head import SINCE_0_5
from align_iqa_plugin.archs.pretrained import checkpoint_state, create_align_iqa, full_state, load_checkpoint, read_network
from align_iqa_plugin.register import register_archs

BARE = {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool'}
TINY = {'backbone': 'test_vit', 'backbone_weights': 'random', 'input_size': 32} | BARE
GUIDED = {**TINY, 'guide': 'saliency', 'guide_options': {'scales': (32,)}, 'injection': 'cgi'}
MSFA = {'aggregation': 'msfa', 'aggregation_options': {'channels': 4}, 'head': 'mlp'}
VARIANTS = [
    TINY,
    GUIDED,
    {**GUIDED, 'injection_options': {'blocks': [2, 4], 'bottleneck': 8}, **MSFA},
    {**GUIDED, 'injection': 'vpt_concat', **MSFA, 'stages': 1},
    {**TINY, 'head': 'linear', 'stages': 3},
    {**TINY, 'views': 2},
    {**GUIDED, 'views': 2, 'guided_views': 1, 'view_weights': [0.6, 0.4]},
]


def network(*, trained=True, seed=0, **options):
    """Random weights, the same for the same seed; with `trained` the head is fitted to noise and every gate is open."""
    torch.manual_seed(seed)
    net = AlignIQA(**TINY | options)
    if trained:
        vectors, scores = torch.randn(12, len(net.column_weights())), torch.randn(12, net.config['targets'])
        net.head.fit(vectors, scores, alpha=0.1, folds=list(range(12)))
        net.is_trained = True
        for name, parameter in net.named_parameters():
            if name.endswith('gate') or name.startswith('head.mlp.4'):
                torch.nn.init.normal_(parameter)
    return net.eval()


def save(state, path, **metadata):
    if path.suffix == '.safetensors':
        save_file(state, path, metadata)
    else:
        torch.save({'params': state}, path)
    return str(path)


def edited(state, **changes):
    """A state with another content in its metadata."""
    content = json.loads(bytes(state['metadata'].tolist())) | changes
    return {**state, 'metadata': torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)}


IMAGE = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))


def test_the_example_of_the_docstring_runs():
    names = {'create_align_iqa': create_align_iqa, 'torch': torch}
    (example,) = doctest.DocTestFinder(recurse=False).find(create_align_iqa, globs=names)
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_a_checkpoint_brings_back_every_score(options, tmp_path):
    net = network(**options)
    path = save(checkpoint_state(net), tmp_path / 'net.pth')
    torch.manual_seed(0)  # the random backbone has to be the same: the checkpoint does not hold it
    other = create_align_iqa(**options, pretrained_model_path=path).eval()
    assert torch.equal(other(IMAGE), net(IMAGE))


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_an_exported_file_needs_no_other_weights_and_no_keywords(options, tmp_path):
    net = network(**options)
    path = save(full_state(net), tmp_path / 'net.safetensors', network=json.dumps(options))
    torch.manual_seed(1)
    assert torch.equal(create_align_iqa(pretrained_model_path=path).eval()(IMAGE), net(IMAGE))


def test_a_checkpoint_states_the_network_that_it_fits(tmp_path):
    options = VARIANTS[2]
    path = save(checkpoint_state(network(**options)), tmp_path / 'net.pth')
    torch.manual_seed(0)
    net = create_align_iqa(backbone_weights='random', guide_options={'scales': (32,)}, pretrained_model_path=path)
    assert net.config == network(**options).config


def test_a_checkpoint_does_not_hold_the_frozen_parts(tiny_vlm):
    state = checkpoint_state(network(**{**GUIDED, **MSFA, 'guide': 'semantic', 'guide_options': tiny_vlm}))
    assert not any(key.startswith(('backbone.', 'guide.vlm.')) for key in state)
    assert {key.split('.')[0] for key in state} == {'guide', 'injection', 'msfa', 'head', 'metadata'}


def test_a_checkpoint_of_a_trained_backbone_holds_it(tmp_path):
    net = network(freeze_backbone=False)
    path = save(checkpoint_state(net), tmp_path / 'net.pth')
    torch.manual_seed(1)
    assert torch.equal(create_align_iqa(pretrained_model_path=path).eval()(IMAGE), net(IMAGE))


def test_other_frozen_weights_than_those_of_the_training_are_an_error():
    state = checkpoint_state(network())
    with pytest.raises(ValueError, match='net.pth: .*other frozen weights in backbone'):
        load_checkpoint(network(seed=1), state, 'net.pth')


def test_a_frozen_part_that_a_file_holds_in_part_is_an_error():
    state = full_state(network())
    del state['backbone.vit.norm.weight']
    with pytest.raises(ValueError, match='tensors of backbone: all or none'):
        load_checkpoint(network(), state, 'net')


@pytest.mark.parametrize(('key', 'value'), [('stages', 3), ('head', 'linear'), ('input_size', 64)])
def test_a_checkpoint_of_another_network_is_an_error_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=f'{key}: '):
        load_checkpoint(network(**{key: value}), checkpoint_state(network()), 'net')


def test_a_file_that_states_no_number_of_views_is_of_one():
    state, two = checkpoint_state(network()), network(views=2)
    saved = json.loads(bytes(state['metadata'].tolist()))['network']
    later = ('views', 'guided_views', 'view_weights')
    state = edited(state, network={key: value for key, value in saved.items() if key not in later})
    load_checkpoint(network(trained=False), state, 'old.pth')
    with pytest.raises(ValueError, match='old.pth: it belongs to a network with views: 1, but this one has 2'):
        load_checkpoint(two, state, 'old.pth')


def test_a_file_that_states_no_guided_views_guides_all_of_them():
    both = network(**GUIDED, views=2)
    saved = json.loads(bytes(checkpoint_state(both)['metadata'].tolist()))['network']
    state = edited(checkpoint_state(both), network={key: value for key, value in saved.items() if key != 'guided_views'})
    load_checkpoint(network(**GUIDED, views=2, trained=False), state, 'old.pth')
    with pytest.raises(ValueError, match='old.pth: it belongs to a network with guided_views: 2, but this one has 1'):
        load_checkpoint(network(**GUIDED, views=2, guided_views=1), state, 'old.pth')


def test_a_file_of_one_head_for_two_views_is_of_an_earlier_version():
    two = network(views=2)
    saved = json.loads(bytes(checkpoint_state(two)['metadata'].tolist()))['network']
    state = edited(checkpoint_state(two), network={key: value for key, value in saved.items() if key != 'view_weights'})
    with pytest.raises(ValueError, match=r'old.pth: it has one head for two views, .* fit it again, or use version 0\.7\.'):
        load_checkpoint(two, state, 'old.pth')


@pytest.mark.parametrize('views', [{'views': 2}, {'views': 2, 'guided_views': 1}])
def test_all_but_the_head_may_come_from_a_network_of_other_views_and_another_head(views):
    one, two = network(**GUIDED), network(**GUIDED, **views, head='linear')
    for parameter in (*two.guide.parameters(), *two.injection.parameters()):
        torch.nn.init.zeros_(parameter)
    head = {name: tensor.clone() for name, tensor in two.head.state_dict().items()}
    load_checkpoint(two, checkpoint_state(one), 'one.pth', head=False)
    assert all(torch.equal(tensor, head[name]) for name, tensor in two.head.state_dict().items())
    for part in ('guide', 'injection'):
        theirs = getattr(two, part).state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in getattr(one, part).state_dict().items())
    with pytest.raises(ValueError, match='stages'):
        load_checkpoint(network(**GUIDED, stages=3), checkpoint_state(one), 'one.pth', head=False)


def test_a_checkpoint_of_another_normalisation_is_an_error():
    state = edited(checkpoint_state(network()), normalisation=[[0.5] * 3, [0.25] * 3])
    with pytest.raises(ValueError, match='normalises images'):
        load_checkpoint(network(), state, 'net')


def test_a_checkpoint_of_several_targets_gives_its_first_ones_to_a_network_of_fewer():
    net = network(targets=3, head_options={'components': 3})
    for targets in (1, 2, 3):
        other = network(trained=False, targets=targets, head_options={'components': 3})
        load_checkpoint(other, checkpoint_state(net), 'net')
        torch.testing.assert_close(other(IMAGE), net(IMAGE)[:, :targets])


def test_a_checkpoint_of_fewer_targets_than_the_network_has_is_an_error():
    with pytest.raises(ValueError, match='fewer targets'):
        load_checkpoint(network(targets=2), checkpoint_state(network()), 'net')


def test_as_a_metric_of_pyiqa_one_target_is_one_column(tmp_path):
    net = network(targets=2)
    path = save(checkpoint_state(net), tmp_path / 'net.pth')
    register_archs()
    for chosen, columns in (({}, 1), ({'targets': 2}, 2)):
        torch.manual_seed(0)
        options = {**TINY, **chosen, 'pretrained': False, 'pretrained_model_path': path}
        metric = pyiqa.create_metric('align_iqa', device='cpu', **options)
        torch.testing.assert_close(metric(IMAGE), net(IMAGE)[:, :columns])


def test_tensors_without_metadata_have_to_be_all_tensors_of_the_network(tmp_path):
    net = network()
    path = save(net.state_dict(), tmp_path / 'all.pth')
    assert torch.equal(create_align_iqa(**TINY, pretrained_model_path=path).eval()(IMAGE), net(IMAGE))
    path = save({'conv.weight': torch.ones(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='other.pth: .*no metadata.* conv.weight'):
        create_align_iqa(**TINY, pretrained_model_path=path)


@pytest.mark.parametrize(
    'state_of', [checkpoint_state, full_state, torch.nn.Module.state_dict], ids=['checkpoint', 'full', 'bare']
)
def test_files_of_before_0_5_0_give_the_same_scores_and_no_deviation(tmp_path, state_of):
    net = network()
    path = save(state_of(net), tmp_path / 'new.pth')
    torch.manual_seed(0)  # the backbone that a checkpoint leaves out
    new = create_align_iqa(**TINY, pretrained_model_path=path).eval().predict(IMAGE)
    assert torch.equal(new.std, net.predict(IMAGE).std)
    old = {name: value for name, value in state_of(net).items() if name.removeprefix('head.') not in SINCE_0_5}
    path = save(old, tmp_path / 'old.pth')
    torch.manual_seed(0)
    prediction = create_align_iqa(**TINY, pretrained_model_path=path).eval().predict(IMAGE)
    assert torch.equal(prediction.scores, net(IMAGE)) and prediction.std is None


@pytest.mark.parametrize(('saved', 'read'), [((1.0, 9.0), (1.0, 9.0)), (None, None), ((9.0, 1.0), None)], ids=str)
@pytest.mark.parametrize('state_of', [checkpoint_state, full_state])
def test_the_range_of_the_ratings_comes_back_from_a_file_if_it_is_one(tmp_path, state_of, saved, read):
    net = network()
    net.score_range = saved
    path = save(state_of(net), tmp_path / 'net.pth')
    torch.manual_seed(0)  # the backbone that a checkpoint leaves out
    assert create_align_iqa(**TINY, pretrained_model_path=path).score_range == read


def test_an_untrained_network_stays_untrained_in_a_file(tmp_path):
    path = save(full_state(network(trained=False)), tmp_path / 'net.pth')
    with pytest.raises(RuntimeError, match='no trained weights'):
        create_align_iqa(**TINY, pretrained_model_path=path).eval()(IMAGE)


def test_a_misspelt_keyword_is_named_also_beside_a_file(tmp_path):
    path = save(full_state(network()), tmp_path / 'net.pth')
    with pytest.raises(TypeError, match='stagse'):
        create_align_iqa(stagse=3, pretrained_model_path=path)


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'{}', b'\xff', b'{"network": 3, "frozen": {}, "trained": true}'])
def test_metadata_that_cannot_be_read_is_an_error(content, tmp_path):
    state = checkpoint_state(network()) | {'metadata': torch.tensor(list(content), dtype=torch.uint8)}
    for name in ('a.pth', 'a.safetensors'):
        with pytest.raises(ValueError, match='metadata'):
            read_network(save(state, tmp_path / name), 'key')
    with pytest.raises(ValueError, match='metadata'):
        load_checkpoint(network(), state, 'net')


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_wrong_bytes_states_a_network_or_is_named_and_raises_nothing_else(name, data, tmp_path):
    state = edited({'metadata': torch.tensor(list(b'{}'), dtype=torch.uint8)}, network={'stages': 3}, frozen={}, trained=True)
    path = tmp_path / name
    save(state, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        read_network(path, 'key')
    except ValueError as error:
        assert str(error).startswith(f'key: {path}')


# Files of version 0.3.0. The packaged model is one; tests/test_packaged_model.py holds its scores.


def as_in_0_3(state, **network):
    """A checkpoint with the names and the metadata of version 0.3.0."""
    content = json.loads(bytes(state['metadata'].tolist()))
    blocks = content['network'].get('injection_options', {}).get('blocks')
    if blocks:
        options = content['network']['injection_options'] | {'first_block': blocks[0]}
        content['network']['injection_options'] = {key: value for key, value in options.items() if key != 'blocks'}
    content['network'] |= network
    renamed = {'_extra_state': torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)}
    for name, tensor in state.items():
        if name.startswith('injection.'):
            _, block, rest = name.split('.', 2)
            cgi = content['network']['injection'] == 'cgi'
            name = f'injection.blocks.{int(block) - blocks[0]}.{rest}' if cgi else f'injection.{rest}'
        if name != 'metadata':
            renamed[name.replace('support_vectors', 'centres')] = tensor
    return renamed


@pytest.mark.parametrize(
    ('options', 'network_then'),
    [
        (TINY, {'aggregation': 'msfa'}),
        ({**TINY, 'stages': 1}, {'aggregation': 'none', 'stages': 4}),
        ({**GUIDED, 'injection_options': {'blocks': [4, 5]}, **MSFA}, {'aggregation': 'msfa_pyramid'}),
        ({**GUIDED, 'injection': 'vpt_add', 'injection_options': {'blocks': [5]}}, {'aggregation': 'msfa'}),
        ({**GUIDED, 'injection_options': {'blocks': [5]}, **MSFA, 'stages': 1}, {'aggregation': 'last_map', 'stages': 4}),
    ],
    ids=str,
)
@pytest.mark.parametrize('exported', [False, True])
def test_files_of_0_3_0_give_the_same_scores(options, network_then, exported, tmp_path):
    net = network(**options)
    state = as_in_0_3((full_state if exported else checkpoint_state)(net), **network_then)
    torch.manual_seed(0)
    if exported:
        keywords = {key: value for key, value in options.items() if key not in ('injection_options', 'stages')} | network_then
        if 'injection_options' in options:
            keywords['injection_options'] = {'first_block': options['injection_options']['blocks'][0]}
        path = save(state, tmp_path / 'net.safetensors', network=json.dumps(keywords))
        other = create_align_iqa(pretrained_model_path=path)
    else:
        path = save(state, tmp_path / 'net.pth')
        guide_options = {'guide_options': options['guide_options']} if 'guide_options' in options else {}
        other = create_align_iqa(backbone_weights='random', **guide_options, pretrained_model_path=path)
    assert other.config == net.config
    assert torch.equal(other.eval()(IMAGE), net(IMAGE))


@pytest.mark.parametrize('write', [checkpoint_state, full_state])
def test_a_network_that_is_loaded_draws_no_random_numbers_for_its_backbone(tmp_path, monkeypatch, write):
    net = network()
    path = save(write(net), tmp_path / 'net.pt')
    save_file(net.backbone.vit.state_dict(), tmp_path / 'vit.safetensors')
    before = torch.random.get_rng_state()
    loaded = create_align_iqa(
        backbone_weights=str(tmp_path / 'vit.safetensors'), pretrained_model_path=path, input_size=32
    ).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(loaded(IMAGE), net(IMAGE))


def test_parts_that_are_not_loaded_start_from_the_numbers_of_their_seed(tmp_path):
    net = network(trained=False, **GUIDED)
    save_file(net.backbone.vit.state_dict(), tmp_path / 'vit.safetensors')
    torch.manual_seed(0)
    other = create_align_iqa(**GUIDED | {'backbone_weights': str(tmp_path / 'vit.safetensors')})
    assert torch.equal(other.guide.position, net.guide.position)
