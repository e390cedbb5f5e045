"""What is laid over a picture: lines in space, captions and color bars."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = (38, 42, 50)


def draw_segments(view, image, depth, ends, color, opacity):
    """Blend straight lines into an image where nothing lies before them.

    Args:
        image: linear RGB, changed in place, shape [height * width, 3].
        depth: of what is drawn already [m], shape [height * width].
        ends: view coordinates of both ends [m], shape [k, 2, 3].
    """
    touched = []
    for a, b in np.asarray(ends, dtype=float):
        if max(a[2], b[2]) <= view.near:
            continue
        if min(a[2], b[2]) <= view.near:
            a, b = (a, b) if a[2] < b[2] else (b, a)
            a = a + (view.near * 1.001 - a[2]) / (b[2] - a[2]) * (b - a)
        x, y, _ = view.screen(np.stack([a, b]).astype(np.float32))
        share = np.linspace(0, 1, min(int(2 * np.hypot(*(np.ptp(x), np.ptp(y)))) + 2, 20000))
        column, row = x[0] + share * (x[1] - x[0]), y[0] + share * (y[1] - y[0])
        z = a[2] + share * (b[2] - a[2]) if view.orthographic else 1 / ((1 - share) / a[2] + share / b[2])
        for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):  # two samples wide: one pixel after supersampling
            i, j = np.floor(row + dy - 0.5).astype(int), np.floor(column + dx - 0.5).astype(int)
            inside = (i >= 0) & (i < view.height) & (j >= 0) & (j < view.width)
            pixels = i[inside] * view.width + j[inside]
            # a tolerance: an edge that lies in the ground is seen
            touched.append(pixels[z[inside] < depth[pixels] * 1.01])
    if touched:
        pixels = np.unique(np.concatenate(touched))
        image[pixels] += opacity * (color - image[pixels])


@lru_cache(maxsize=8)
def _font(pixels):
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", pixels)


def annotate(image, caption=None, bar=None):
    """An image with a caption at the lower left and a color bar at the right.

    Args:
        image: sRGB bytes, shape [height, width, 3].
        bar: (label, low, high, colormap), or None.
    """
    if not caption and bar is None:
        return image
    height, width, _ = image.shape
    text = max(10, round(height / 34))
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture, "RGBA")
    font = _font(text)
    if caption:
        box = draw.multiline_textbbox((text, 0), caption, font=font)
        lift, edge = height - text - box[3], text // 3
        panel = (box[0] - text // 2, box[1] + lift - edge, box[2] + text // 2, box[3] + lift + edge)
        draw.rounded_rectangle(panel, radius=edge, fill=(255, 255, 255, 150))
        draw.multiline_text((text, lift), caption, font=font, fill=INK)
    if bar is not None:
        _draw_bar(draw, picture, text, *bar)
    return np.asarray(picture)


def _draw_bar(draw, picture, text, label, low, high, colormap):
    width, height = picture.size
    long, thick = round(0.42 * height), max(6, round(0.75 * text))
    zero = 1e-6 * (high - low)  # rounding errors are not worth a number
    numbers = [f"{0.0 if abs(v) < zero else v:.3g}" for v in (high, (low + high) / 2, low)]
    room = max(draw.textlength(n, font=_font(text)) for n in numbers)
    label_width = draw.textlength(label, font=_font(text))
    right = width - text
    left = round(right - room - text // 2 - thick)
    top = 3 * text
    panel = min(left, right - label_width)
    draw.rounded_rectangle((panel - text // 2, text // 2, right + text // 2, top + long + text), radius=text // 3,
                           fill=(255, 255, 255, 150))  # fmt: skip
    draw.text((right - label_width, text * 0.75), label, font=_font(text), fill=INK)
    ramp = matplotlib.colormaps[colormap](np.linspace(1, 0, long))[:, None, :3]
    ramp = np.round(255 * np.repeat(ramp, thick, axis=1)).astype(np.uint8)
    picture.paste(Image.fromarray(ramp), (left, top))
    draw.rectangle((left, top, left + thick - 1, top + long - 1), outline=(*INK, 160))
    for share, number in zip((0, 0.5, 1), numbers, strict=True):
        y = top + share * (long - 1)
        draw.line((left + thick, y, left + thick + 3, y), fill=INK)
        draw.text((left + thick + text // 2, y), number, font=_font(text), fill=INK, anchor="lm")
