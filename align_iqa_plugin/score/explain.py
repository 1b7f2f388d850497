"""Maps of where an image is better and worse: an array and an overlay for each image, with names from that image."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from align_iqa_plugin.archs.views import MINIMUM_SIDE
from align_iqa_plugin.runtime.atomic import atomic_file
from align_iqa_plugin.score.contact_sheet import draw_font
from align_iqa_plugin.score.copy_to import file_name
from align_iqa_plugin.score.metric import NetworkMetric
from align_iqa_plugin.score.rows import Row, fail_without_prompts
from align_iqa_plugin.score.run import BatchScorer, Picture, score_images

COLOURS = 'PuOr'  # from orange, which is worse, to purple: told apart by the colour-blind too (ColorBrewer)
FULL_COLOUR = 0.1  # of the range of scores: the same colours for all images, so that a map without a weak spot is pale
OPACITY = 0.8  # of a full colour
SIDE = 1024  # of an overlay, in pixels, at most; at least SMALLEST wide, where its legend can be read
SMALLEST = 256


def explain_rows(metric: NetworkMetric, rows: Sequence[Row], folder: Path) -> Iterator[Row]:
    """Score rows, and write NAME.map.npy and NAME.map.png of each that has a score; `columns['map']` has the NAME.

    Args:
        folder: which exists. Two images of one name get a number, in the order of the rows; files of an earlier command are
            replaced.

    Raises:
        OSError: a file cannot be written.
    """
    yield from fail_without_prompts(metric, rows)
    rows = [row for row in rows if not row.error]
    names = _names(rows)
    low, high = metric.score_range
    scorer = _MapScorer(metric)
    images = [(row.path, row.prompt) for row in rows]
    for result in score_images(images, scorer, batch_size=1, minimum_side=MINIMUM_SIDE):
        row = rows[result.index]
        if result.score is not None:
            pixels, quality = scorer.found
            row.columns = row.columns | {'map': names[result.index]}
            with atomic_file(folder / f'{names[result.index]}.map.npy') as part, part.open('wb') as file:
                np.save(file, quality, allow_pickle=False)
            overlay = draw_map(Image.fromarray(pixels), quality, full=FULL_COLOUR * (high - low))
            with atomic_file(folder / f'{names[result.index]}.map.png') as part:
                overlay.save(part, format='PNG')
        row.score, row.std, row.error = result.score, result.std, result.reason
        row.width, row.height = result.decoded.full_size or (None, None)
        yield row


def draw_map(image: Image.Image, quality: np.ndarray, *, full: float) -> Image.Image:
    """The image in gray, with orange where the map is negative and purple where it is positive, above a legend.

    Args:
        image: mode 'RGB'.
        quality: (rows, columns), the top left cell first.
        full: the value, above or below 0, at which the colour is full; further ones look the same.
    """
    scale = min(SIDE / max(image.size), max(1, SMALLEST / image.width))
    width, height = (max(1, round(side * scale)) for side in image.size)
    gray = image.convert('L').convert('RGB').resize((width, height))
    # the colours go over smoothly from the centre of a cell to the next
    smooth = Image.fromarray(quality.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    drawn = _coloured(np.asarray(smooth), np.asarray(gray), full)

    bar = max(16, width // 16)
    sheet = Image.new('RGB', (width, height + 2 * bar), 'white')
    sheet.paste(Image.fromarray(drawn), (0, 0))
    steps = np.broadcast_to(np.linspace(-full, full, width, dtype=np.float32), (bar, width))
    sheet.paste(Image.fromarray(_coloured(steps, np.full((bar, width, 3), 255, np.uint8), full)), (0, height))
    draw, font = ImageDraw.Draw(sheet), draw_font(bar * 2 // 3)
    middle = height + bar * 3 // 2
    draw.text((2, middle), f'-{full:.3g} worse', 'black', font, anchor='lm')
    draw.text((width // 2, middle), 'score', 'black', font, anchor='mm')
    draw.text((width - 2, middle), f'better +{full:.3g}', 'black', font, anchor='rm')
    return sheet


class _MapScorer(BatchScorer):
    """Scores one image at a time, and keeps its pixels and its map until the next one.

    Attributes:
        found: (h, w, 3) of 8 bits, and (rows, columns).
    """

    found: tuple[np.ndarray, np.ndarray]

    def __init__(self, metric: NetworkMetric):
        super().__init__(metric, metric.device)
        self._map = metric.quality_map

    def run(self, pictures: Sequence[Picture]) -> tuple[list[float], list[float | None], float]:
        results = super().run(pictures)
        (picture,) = pictures
        image = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None] / 255
        self.found = picture.pixels, self._map(image, picture.prompt)
        return results


def _coloured(values: np.ndarray, gray: np.ndarray, full: float) -> np.ndarray:
    """Colours (h, w, 3) of 8 bits over gray ones; the further a value is from 0, the less of the gray shows through."""
    from matplotlib import colormaps  # takes a second

    strength = np.clip(values / full, -1, 1)
    colours = colormaps[COLOURS](strength / 2 + 0.5)[..., :3] * 255
    opacity = OPACITY * np.abs(strength)[..., None]
    return np.rint(opacity * colours + (1 - opacity) * gray).astype(np.uint8)


def _names(rows: Iterable[Row]) -> list[str]:
    """A name for each row: that of its file without the ending, with a number where another row has it."""
    names: list[str] = []
    taken: set[str] = set()  # in some file systems A and a are one name
    for row in rows:
        stem = name = Path(file_name(row)).stem
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f'{stem}_{number}'
        taken.add(name.casefold())
        names.append(name)
    return names
