import pytest

from align_iqa_plugin.runtime.counts import counted


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        ((1, 'image'), '1 image'),
        ((0, 'image'), '0 images'),
        ((1200, 'other file'), '1,200 other files'),
        ((1, 'image has', 'images have'), '1 image has'),
        ((2, 'image has', 'images have'), '2 images have'),
    ],
)
def test_one_thing_is_not_several(arguments, text):
    assert counted(*arguments) == text
