"""Draws scored images on a contact sheet, best first, so that the eye can judge the scores."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from align_iqa_plugin.data.images import ImageError, read_image
from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.score.rows import Row

MAX_TILES = 120
"""Of more images, this many are drawn, evenly spaced, so that the sheet can still be opened and looked at."""

SIDE = 224  # of a thumbnail; all lengths here are in pixels of the sheet
GAP = 24
CAPTION = 78  # height of the three lines under a thumbnail
HEADER = 92
MAX_COLUMNS = 10

SOFTWARE = 'Align-IQA contact sheet'  # stands in the PNG, so that an image of the user is not taken for an earlier sheet

_PAPER, _FRAME, _DARK, _GREY = '#fafaf8', '#e4e4de', '#1c1c1c', '#6e6e6a'


class Tile(NamedTuple):
    """One scored image; `mos`, `prompt` and `std` where they are known."""

    path: Path | str  # or its URI
    name: str
    score: float
    mos: float | None = None
    prompt: str | None = None
    std: float | None = None


def write_sheet(path: Path, rows: list[Row]) -> str:
    """Draw the rows that have a score into a PNG file, best first; gives a sentence about what was drawn.

    Raises:
        ValueError: no row has a score, or there is none at all.
        OSError: the file cannot be written.
    """
    tiles = [Tile(row.path, row.image, row.score, row.mos, row.prompt, row.std) for row in rows if row.score is not None]
    if not tiles:
        raise ValueError(f'No contact sheet was drawn: no image {"has a score" if rows else "is kept"}.')
    info = PngInfo()
    info.add_text('Software', SOFTWARE)
    tiles.sort(key=lambda tile: -tile.score)
    sheet = draw_sheet(tiles, without_score=len(rows) - len(tiles))
    with atomic_file(path) as part:
        sheet.save(part, format='PNG', pnginfo=info)
    drawn = f' ({MAX_TILES} of {len(tiles)} images)' if len(tiles) > MAX_TILES else ''
    return f'Contact sheet drawn: {path}{drawn}.'


def is_contact_sheet(path: Path) -> bool:
    """Whether `write_sheet` has written this file."""
    try:
        with Image.open(path, formats=('PNG',)) as image:
            return image.info.get('Software') == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False


def draw_sheet(tiles: list[Tile], *, without_score: int = 0) -> Image.Image:
    """The images in the order given (best first) on an even grid, each above its score ± its std, MOS, name and prompt.

    Args:
        tiles: at least one. Of more than `MAX_TILES`, that many are drawn, evenly spaced from first to last.
        without_score: how many further images have no score: the header says so.
    """
    total = len(tiles)
    ranks: Sequence[int] = range(total)
    if total > MAX_TILES:
        ranks = [round(number * (total - 1) / (MAX_TILES - 1)) for number in range(MAX_TILES)]
    columns = min(MAX_COLUMNS, len(ranks), max(3, round(sqrt(len(ranks) * 4 / 3))))
    lines = -(-len(ranks) // columns)
    # a sheet of one or two images still has room for its title
    width = max(GAP + columns * (SIDE + GAP), 3 * (SIDE + GAP) + GAP)
    sheet = Image.new('RGB', (width, HEADER + lines * (SIDE + CAPTION + GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)

    notes = ['best first', 'score: higher is better, about 0 to 5']
    if len(ranks) < total:
        notes.append(f'{len(ranks)} of {total:,} shown, evenly spaced')
    if without_score:
        notes.append(f'{without_score:,} without a score')
    title = f'Align-IQA scores of {total:,} image{"s" * (total != 1)}'
    draw.text((GAP, 20), title, _DARK, draw_font(26, bold=True))
    draw.text((GAP, 58), _shortened('  ·  '.join(notes), draw_font(15), width - 2 * GAP), _GREY, draw_font(15))

    for place, rank in enumerate(ranks):
        line, column = divmod(place, columns)
        _draw_tile(sheet, tiles[rank], rank, GAP + column * (SIDE + GAP), HEADER + line * (SIDE + CAPTION + GAP))
    return sheet


def _draw_tile(sheet: Image.Image, tile: Tile, rank: int, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), _FRAME)
    try:
        image = read_image(tile.path)
        scale = SIDE / max(image.size)
        thumbnail = image.resize([max(1, round(length * scale)) for length in image.size])
        sheet.paste(thumbnail, (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2))
    except ImageError:  # it was there when it was scored
        draw.text((left + SIDE // 2, top + SIDE // 2), 'no longer readable', _GREY, draw_font(15), anchor='mm')
    base = top + SIDE + 26
    draw.text((left, base), f'{tile.score:.2f}', _DARK, draw_font(22, bold=True), anchor='ls')
    if tile.std is not None:
        after = draw.textlength(f'{tile.score:.2f} ', draw_font(22, bold=True))
        draw.text((left + after, base), f'± {tile.std:.2f}', _GREY, draw_font(16), anchor='ls')
    if tile.mos is not None:
        draw.text((left + SIDE, base), f'MOS {tile.mos:.2f}', _GREY, draw_font(16), anchor='rs')
    name = _shortened(f'{rank + 1}. {tile.name}', draw_font(13), SIDE, keep_end=True)
    draw.text((left, base + 21), name, _GREY, draw_font(13), anchor='ls')
    if tile.prompt:
        draw.text((left, base + 40), _shortened(tile.prompt, draw_font(13), SIDE), _GREY, draw_font(13), anchor='ls')


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int, *, keep_end: bool = False) -> str:
    """Cut to `width`: a prompt at its end, but a file's name in the middle, because its end tells most."""
    text = whole = ' '.join(text.split())
    kept = min(len(whole), width)  # no letter is narrower than a pixel
    while font.getlength(text) > width:
        kept -= 1
        text = f'{whole[: kept // 3]}…{whole[kept // 3 - kept :]}' if keep_end else f'{whole[:kept].rstrip()}…'
    return text


def draw_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib  # takes a second, which only a sheet is worth

    folder = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
    return ImageFont.truetype(folder / ('DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'), size)
