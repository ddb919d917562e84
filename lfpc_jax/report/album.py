"""The pictures of a page, each once, small enough to carry along.

Originals and crops are scaled down to a longest side for the page. Boxes are not scaled: they stay
in pixels of the original. What the model saw is made again as the rollout made it: the original is
downsampled to its `longest_side` and resized to the size that the trajectory states, and crops are
cut from the original by their box. Pictures that are small already are kept without loss, so that a
view of few pixels looks as poor as it was.
"""

import base64
import hashlib
import io
from dataclasses import dataclass, field

import PIL.Image

from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.geometry import Box, crop_box
from lfpc_jax.trajectory import Picture, Size

_LOSSLESS = 256 * 256
"""Pixels up to which a picture is kept without loss."""
_QUALITY = 82


@dataclass(frozen=True, eq=False)
class Opened:
    """A decoded original, and the digest that identifies it."""

    digest: str
    image: PIL.Image.Image


@dataclass(eq=False)
class Album:
    """`side` bounds the originals and shown images on the page, `crop_side` the crops. Methods
    return a picture's number, which is its index in `urls`."""

    side: int = 1024
    crop_side: int = 512
    urls: list[str] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    _known: dict[tuple[object, ...], int] = field(default_factory=dict)

    def open(self, picture: Picture, size: Size) -> Opened:
        """Raises `Unusable` for a picture that is missing or has another size than it had."""
        data = pictures.contents(picture)
        image = pictures.original(Picture(data=data))
        if image.size != tuple(size):
            raise Unusable(
                "unreadable picture",
                f"{picture.path}: is {image.width}x{image.height} now and was {size[0]}x{size[1]} "
                "when the trajectory was made; put the original back",
            )
        return Opened(hashlib.sha256(data).hexdigest(), image)

    def original(self, opened: Opened) -> int:
        return self._add((opened.digest,), opened.image, self.side)

    def shown(self, opened: Opened, longest_side: int | None, size: Size) -> int:
        key = (opened.digest, "shown", longest_side, size)
        if key in self._known:
            return self._known[key]
        seen = opened.image
        if longest_side is not None:
            seen = pictures.shrink(seen, longest_side)
        return self._add(key, seen.resize(size, PIL.Image.Resampling.BICUBIC), self.side)

    def crop(self, opened: Opened, box: Box, seen: Size | None) -> int:
        """`seen` is the size at which the model saw it; None leaves it as it was cut."""
        pixels = crop_box(box, opened.image.size)
        key = (opened.digest, "crop", pixels, seen)
        if key in self._known:
            return self._known[key]
        cut = opened.image.crop(pixels)
        if seen is not None:
            cut = cut.resize(seen, PIL.Image.Resampling.BICUBIC)
        return self._add(key, cut, self.crop_side)

    def artificial(self, image: PIL.Image.Image) -> int:
        """A picture shown in place of a crop that was not cut from an original."""
        key = (hashlib.sha256(image.tobytes()).hexdigest(), "artificial", image.size)
        return self._add(key, image, self.crop_side)

    def _add(self, key: tuple[object, ...], image: PIL.Image.Image, side: int) -> int:
        if key not in self._known:
            scale = side / max(image.size)
            if scale < 1:
                size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
                image = image.resize(size, PIL.Image.Resampling.LANCZOS, reducing_gap=2.0)
            self._known[key] = len(self.urls)
            self.urls.append(_data_url(image))
            self.sizes.append(image.size)
        return self._known[key]


def _data_url(image: PIL.Image.Image) -> str:
    encoded = io.BytesIO()
    lossless = image.width * image.height <= _LOSSLESS
    image.save(encoded, "WEBP", lossless=lossless, quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
