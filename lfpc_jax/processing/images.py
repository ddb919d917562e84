"""Pictures into patches: any PIL image to RGB, Qwen's resize, and the window-major layout.

Everything stays uint8: pixels are normalised on the device, so `mean` and `std` only travel here.
Resized pictures equal transformers' PIL backend bit for bit; its torchvision one is not compared.

Layout. A token is `merge` x `merge` patches, a window is `window` x `window` tokens. Windows lie in
raster order over the picture, tokens in raster order in their window, patches in their token, and
the values of a patch in the order (channel, row, column). A window at the right or lower edge
keeps the places of the tokens that it lacks; they are zero. A still picture's `temporal_patch`
frames are identical, and only one is stored.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Int32, UInt8
from PIL.ExifTags import Base as Exif

from lfpc_jax.processing.preprocessor_config import processor_fields
from lfpc_jax.shapes import ASPECT_LIMIT, windows_for


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any picture as RGB, upright by its EXIF orientation, with transparency laid on white.

    Measure sizes and boxes on the result, not on the file. The result equals transformers' with
    these exceptions:

    - Orientation: in transformers the loader applies it, not the processor.
    - 16-bit grey (I;16 in any byte order, and I with values over 255) is scaled to 8 bits. Pillow
      clips it at 255, which turns nearly every 16-bit photograph white.
    - Premultiplied alpha (La, RGBa) and a palette's transparency are laid on white too, where
      transformers refuses La and ignores the others.
    - Float pictures with a value that is not finite, and I outside 0..65535, are refused.
    """
    image.load()
    if image.getexif().get(Exif.Orientation, 1) != 1:
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ValueError(f"float picture of size {image.size} has NaN or infinity; drop it")
    elif image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class ImageProcessor:
    """Qwen2-VL's resize rule and the layout of its patches. The defaults are those of the published
    checkpoints."""

    patch: int = 14
    merge: int = 2
    temporal_patch: int = 2
    min_pixels: int = 3136
    max_pixels: int = 12_845_056
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    window: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels {self.min_pixels}, max_pixels {self.max_pixels}: "
                "need 1 <= min_pixels <= max_pixels; raise the token budget or lower min_pixels"
            )
        if min(self.patch, self.merge, self.temporal_patch, self.window) < 1:
            raise ValueError(f"{self}: patch, merge, temporal_patch and window must be at least 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean}, std {self.std}: need three each, std positive")

    @classmethod
    def from_folder(cls, folder: Path) -> "ImageProcessor":
        """The processor that a model folder's files describe; see `preprocessor_config` for what is
        refused."""
        fields = processor_fields(folder)
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{folder}: its image processor's file: {error}") from error

    @property
    def factor(self) -> int:
        """The side of a merged token in pixels."""
        return self.patch * self.merge

    @property
    def window_shape(self) -> tuple[int, int]:
        """Patches of a window, and values of a patch."""
        return (self.window * self.merge) ** 2, 3 * self.patch**2

    def with_tokens(self, max_tokens: int) -> "ImageProcessor":
        """The same processor with a budget of `max_tokens` merged tokens for each picture."""
        return dataclasses.replace(self, max_pixels=max_tokens * self.factor**2)

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Qwen's rule: sides that are multiples of `factor`, and an area within the limits.

        With a budget of T tokens, the rule exceeds it for strips whose sides differ by more than a
        factor of T, because the short side keeps at least one token.
        """
        if min(width, height) < 1 or max(width, height) > ASPECT_LIMIT * min(width, height):
            raise ValueError(
                f"image of {width}x{height} pixels: both sides must be at least 1 and neither over "
                f"{ASPECT_LIMIT} times the other; drop it or crop it less narrowly"
            )
        columns, rows = round(width / self.factor), round(height / self.factor)
        area = columns * rows * self.factor**2
        if area > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            columns = max(1, math.floor(width / shrink / self.factor))
            rows = max(1, math.floor(height / shrink / self.factor))
        elif area < self.min_pixels:
            stretch = math.sqrt(self.min_pixels / (height * width))
            columns = math.ceil(width * stretch / self.factor)
            rows = math.ceil(height * stretch / self.factor)
        return columns * self.factor, rows * self.factor

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of merged tokens of a picture that measures width x height before its
        resize."""
        shown_width, shown_height = self.resized_size(width, height)
        return shown_height // self.factor, shown_width // self.factor

    def resize(self, image: PIL.Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """The picture as the model sees it."""
        upright = to_rgb(image)
        size = self.resized_size(*upright.size)
        return np.asarray(upright.resize(size, PIL.Image.Resampling.BICUBIC))

    def patchify(
        self, pixels: UInt8[np.ndarray, "height width 3"], windows: int
    ) -> UInt8[np.ndarray, "W P C"]:
        """A resized picture in the layout above, padded with zeros to `windows` windows."""
        rows, cols = self.grid_of(pixels)
        down, across = -(-rows // self.window), -(-cols // self.window)
        needed = windows_for(rows, cols, self.window)
        if windows < needed:
            raise ValueError(
                f"picture of {rows}x{cols} merged tokens needs {needed} windows, not {windows}; "
                "fit the count into a bucket first"
            )
        side = self.window * self.factor
        canvas = np.zeros((3, down * side, across * side), np.uint8)
        canvas[:, : pixels.shape[0], : pixels.shape[1]] = np.moveaxis(pixels, 2, 0)
        lengths = self.window, self.merge, self.patch
        split = canvas.reshape(3, down, *lengths, across, *lengths)
        split = split.transpose(1, 5, 2, 6, 3, 7, 0, 4, 8)
        patches = np.zeros((windows, *self.window_shape), np.uint8)
        patches[:needed].reshape(split.shape)[:] = split
        return patches

    def image_index(self, grid: tuple[int, int]) -> Int32[np.ndarray, "tokens"]:
        """Where `patchify` puts each merged token, in raster order: window * window**2 + place."""
        rows, cols = np.indices(grid, np.int32)
        across = -(-grid[1] // self.window)
        window = (rows // self.window) * across + cols // self.window
        place = (rows % self.window) * self.window + cols % self.window
        return (window * self.window**2 + place).ravel()

    def grid_of(self, pixels: np.ndarray) -> tuple[int, int]:
        height, width = pixels.shape[:2]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"picture of {width}x{height} pixels: sides must be multiples of {self.factor}; "
                "`resize` it first"
            )
        return height // self.factor, width // self.factor


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey of 16 bits (or of 32 that hold 16) scaled to 8. A picture of mode I whose values fit 8
    bits keeps them."""
    values = np.asarray(image)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise ValueError(
            f"grey picture of size {image.size} has values from {low} to {high}; "
            "only 8 and 16 bits are known: rescale it to 0..65535"
        )
    if image.mode != "I" or high > 255:
        values = np.rint(values / 257)
    return PIL.Image.fromarray(values.astype(np.uint8))
