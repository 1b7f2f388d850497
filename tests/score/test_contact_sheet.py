"""The contact sheet: best first, room for every image, whatever the images and names are like."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from align_iqa_plugin.score import contact_sheet as sheet
from align_iqa_plugin.score.rows import Row


def row(name, score, **more):
    return Row(name, Path(name), score=score, **more)


def test_the_sheet_shows_the_images_best_first(grey):
    for value in (50, 200, 120):
        grey(f'{value}.png', value=value)
    rows = [row('50.png', 1.0), row('200.png', 4.0), row('120.png', 2.0), row('none.png', None, error='is damaged.')]
    assert 'Contact sheet drawn: sheet.png.' in sheet.write_sheet(Path('sheet.png'), rows)
    with Image.open('sheet.png') as drawn:
        centres = [sheet.GAP + column * (sheet.SIDE + sheet.GAP) + sheet.SIDE // 2 for column in range(3)]
        colours = [drawn.getpixel((centre, sheet.HEADER + sheet.SIDE // 2)) for centre in centres]
    assert colours == [(value,) * 3 for value in (200, 120, 50)]


def test_a_contact_sheet_is_known_as_one(grey):
    grey('a.png')
    sheet.write_sheet(Path('sheet.png'), [row('a.png', 1.0)])
    Path('text.png').write_text('no picture')
    assert [sheet.is_contact_sheet(Path(name)) for name in ('sheet.png', 'a.png', 'text.png', 'missing.png')] == [
        *[True],
        *[False] * 3,
    ]


def test_without_a_score_there_is_no_sheet(folder):
    with pytest.raises(ValueError, match='no image has a score'):
        sheet.write_sheet(Path('sheet.png'), [row('a.png', None, error='is damaged.')])
    with pytest.raises(ValueError, match='no image is kept'):
        sheet.write_sheet(Path('sheet.png'), [])
    assert not Path('sheet.png').exists()


def test_a_long_sheet_is_thinned_out_evenly_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(sheet, 'MAX_TILES', 4)
    shown = []
    monkeypatch.setattr(sheet, '_draw_tile', lambda drawn, tile, rank, left, top: shown.append((tile.name, rank)))
    sentence = sheet.write_sheet(Path('sheet.png'), [row(f'{number}.png', -float(number)) for number in range(10)])
    assert '(4 of 10 images)' in sentence
    assert shown == [('0.png', 0), ('3.png', 3), ('6.png', 6), ('9.png', 9)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 130))
def test_the_grid_has_room_for_every_tile_and_no_empty_line(number):
    places = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, '_draw_tile', lambda drawn, tile, rank, left, top: places.append((left, top)))
        drawn = sheet.draw_sheet([sheet.Tile(Path('a'), 'a', 1.0)] * number)
    assert len(set(places)) == len(places) == min(number, sheet.MAX_TILES)
    assert all(left + sheet.SIDE + sheet.GAP <= drawn.width for left, _ in places)
    bottom = max(top for _, top in places) + sheet.SIDE + sheet.CAPTION
    assert bottom <= drawn.height <= bottom + 2 * sheet.GAP


@settings(deadline=None)
@given(st.text(max_size=400), st.booleans())
def test_a_shortened_text_fits(text, keep_end):
    font = sheet.draw_font(13)
    assert font.getlength(sheet._shortened(text, font, 224, keep_end=keep_end)) <= 224


def test_a_sheet_survives_a_thin_image_and_one_that_is_gone(grey):
    grey('thin.png', size=(16_000, 32))
    tiles = [sheet.Tile(Path('thin.png'), 'thin.png', 2.0), sheet.Tile(Path('gone.png'), 'gone.png', 1.0, 3.0, 'a cat')]
    assert sheet.draw_sheet(tiles).width == 3 * (sheet.SIDE + sheet.GAP) + sheet.GAP


def test_the_deviation_is_drawn_behind_the_score(folder):
    plain, with_std = (sheet.draw_sheet([sheet.Tile(Path('gone.png'), 'a', 2.0, std=std)]) for std in (None, 0.4))
    left, top, right, bottom = ImageChops.difference(plain, with_std).getbbox()
    assert sheet.GAP < left and right < sheet.GAP + sheet.SIDE and top > sheet.HEADER + sheet.SIDE
