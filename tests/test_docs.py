"""The pages keep to what the package has: links, commands, options, option files, versions."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
import yaml
from torchvision.transforms.functional import to_pil_image

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.cli import app
from align_iqa_plugin.models.options import read_options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def code_lines(page: Path) -> list[str]:
    """The lines inside the code blocks of a page."""
    lines, inside = [], False
    for line in page.read_text(encoding='utf-8').splitlines():
        if line.lstrip().startswith('```'):
            inside = not inside
        elif inside:
            lines.append(line.strip())
    return lines


def commands() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in code_lines(page) if line.startswith('align-iqa ')]


def test_the_readme_is_one_page_of_short_lines():
    lines = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 130
    assert not [line for line in lines if len(line) > 120]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r'\]\((?!https?://)([^)#\s]+)[^)]*\)', page.read_text(encoding='utf-8'))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def sections(page: Path) -> set[str]:
    """The fragments by which GitHub links to the headings of a page."""
    headings = re.findall(r'^#+ +(.+)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading.strip().lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_link_to_a_section_leads_to_one(page):
    links = re.findall(r'\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)', page.read_text(encoding='utf-8'))
    targets = [(page.parent / name if name else page, fragment) for name, fragment in links]
    assert not [link for link, (target, fragment) in zip(links, targets, strict=True) if fragment not in sections(target)]


@pytest.mark.parametrize(('page', 'line'), commands(), ids=str)
def test_every_command_has_the_options_that_a_page_gives_it(page, line):
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, 'commands'):
        name = words.pop(0)
        assert name in command.commands, f'{page}: align-iqa has no command {name}'
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if re.match(r'--?[a-z]', word) and word not in known]
    assert not unknown
    files = [word for word in words if word.startswith('options/')]
    assert all((ROOT / file).is_file() for file in files)


def test_the_example_of_a_whole_option_file_is_one(tmp_path):
    page = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')
    example = re.search(r'```yaml\n(.+?)```', page, re.DOTALL)[1]
    (tmp_path / 'mine.yml').write_text(example, encoding='utf-8')
    options = read_options(tmp_path / 'mine.yml', ())
    assert options['datasets']['val']['score_column'] == 'quality'


# The reward of docs/reward.md


@pytest.fixture(scope='module')
def reward_of():
    """Builds the example of the page, with a small network whose scores lie above its range."""
    page = (ROOT / 'docs' / 'reward.md').read_text(encoding='utf-8')
    space: dict = {}
    exec(re.search(r'```python\n(.+?)```', page, re.DOTALL)[1], space)
    torch.manual_seed(0)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=32, head_options={'components': 16}).eval()
    vectors = torch.stack([net.forward_features(torch.rand(1, 3, 64, 64))[0].detach() for _ in range(12)])
    net.head.fit(vectors, 2 + torch.randn(12, 1), alpha=0.1, folds=list(range(12)))
    net.is_trained, net.score_range = True, (0.0, 1.0)

    return lambda **options: space['QualityReward'](net, **options)


IMAGES, PROMPTS = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0)), ('a cat', 'a dog')


def test_the_example_of_a_reward_gives_as_many_as_there_are_images_the_same_for_a_seed(reward_of):
    rewards, metadata = reward_of()(IMAGES, PROMPTS, ({}, {}))
    assert rewards.shape == (2,) and metadata == {} and not rewards.requires_grad
    assert torch.equal(rewards, reward_of()(IMAGES, PROMPTS)[0])
    assert not torch.equal(rewards, reward_of(seed=1)(IMAGES, PROMPTS)[0])
    pictures = [to_pil_image(image) for image in IMAGES]
    torch.testing.assert_close(reward_of()(pictures, PROMPTS)[0], rewards, atol=0.05, rtol=0)  # of 8 bits


def test_the_example_of_a_reward_is_the_same_with_gradients_which_reach_the_images_alone(reward_of):
    images = IMAGES.clone().requires_grad_()
    reward = reward_of()
    rewards, _ = reward(images, PROMPTS)
    assert torch.equal(rewards, reward_of()(IMAGES, PROMPTS)[0])
    rewards.sum().backward()
    assert images.grad.isfinite().all() and (images.grad.abs().sum((1, 2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in reward.network.parameters())


def test_the_example_of_a_reward_stays_in_range_and_falls_with_caution(reward_of):
    rewards = [reward_of(caution=caution)(IMAGES, PROMPTS)[0] for caution in (0.0, 1.0, 2.0)]
    assert (rewards[0] <= 1).all() and (rewards[0] > 0.9).all()
    assert (rewards[0] > rewards[1]).all() and (rewards[1] > rewards[2]).all()


def test_the_citation_is_of_the_newest_version_in_the_changelog():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    changelog = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    assert citation['cff-version'] == '1.2.0'
    assert citation['version'] == re.search(r'^## (\d\S+)', changelog, re.MULTILINE)[1]
