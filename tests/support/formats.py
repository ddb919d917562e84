"""One small picture in every format that Pillow reads, also in those that it does not write.

Some of these are only recognised here: Pillow has no decoder for them, or calls another program."""

import io
import struct
from collections.abc import Callable

import numpy as np
import PIL.Image

WIDTH, HEIGHT = 64, 48
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
PICTURE = PIL.Image.fromarray(NOISE)
RGB, GREY = NOISE.tobytes(), NOISE[..., 0].tobytes()


def encoded(kind: str) -> bytes:
    """The picture in a format of `PIL.Image.OPEN`."""
    if kind in _BY_HAND:
        return _BY_HAND[kind]()
    for mode in ("RGB", "RGBA", "P", "L", "1", "F"):
        data = io.BytesIO()
        try:
            PICTURE.convert(mode).save(data, kind)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        return data.getvalue()
    raise ValueError(f"{kind}: Pillow does not write it, and it is not written by hand here")


def _cursor() -> bytes:
    data = io.BytesIO()
    PICTURE.save(data, "ICO", bitmap_format="bmp", sizes=[(WIDTH, HEIGHT)])
    return b"\0\0\2\0" + data.getvalue()[4:]


def _fits() -> bytes:
    values = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 2, "NAXIS1": WIDTH, "NAXIS2": HEIGHT}
    cards = [f"{key:<8}= {value:>20}".ljust(80) for key, value in values.items()]
    head = "".join([*cards, "END"]).encode().ljust(2880)
    return head + GREY.ljust(-(-len(GREY) // 2880) * 2880, b"\0")


def _fli() -> bytes:
    chunk = struct.pack("<IH", 6 + len(GREY), 16) + GREY
    frame = struct.pack("<IHH8x", 16 + len(chunk), 0xF1FA, 1) + chunk
    size = 128 + len(frame)
    return struct.pack("<I6HI108x", size, 0xAF12, 1, WIDTH, HEIGHT, 8, 3, 70) + frame


def _iptc() -> bytes:
    def field(record: int, number: int, data: bytes) -> bytes:
        return struct.pack(">3BH", 0x1C, record, number, len(data)) + data

    size = [field(3, 20, struct.pack(">I", WIDTH)), field(3, 30, struct.pack(">I", HEIGHT))]
    about = [field(3, 60, b"\1\0"), *size, field(3, 120, b"\1"), field(8, 10, GREY)]
    return b"".join(about) + bytes(5)


def _mcidas() -> bytes:
    words = [0] * 64  # which the format counts from 1
    for place, value in {2: 4, 9: HEIGHT, 10: WIDTH, 11: 1, 14: 1, 34: 256}.items():
        words[place - 1] = value
    return struct.pack("!64i", *words) + GREY


def _pixar() -> bytes:
    head = bytearray(1024)
    head[:4] = b"\200\350\0\0"
    struct.pack_into("<2H4x2H", head, 416, HEIGHT, WIDTH, 14, 2)
    return bytes(head) + RGB


def _psd() -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, HEIGHT, WIDTH, 8, 3)
    return head + struct.pack(">3IH", 0, 0, 0, 0) + NOISE.transpose(2, 0, 1).tobytes()


def _xpm() -> bytes:
    rows = ["".join("ab"[value >> 7] for value in row) for row in NOISE[..., 0]]
    lines = [f"{WIDTH} {HEIGHT} 2 1", "a c #102030", "b c #ffffff", *rows]
    quoted = "".join(f'"{line}",\n' for line in lines)
    return f"/* XPM */\nstatic char *x[] = {{\n{quoted}}};\n".encode()


_BY_HAND: dict[str, Callable[[], bytes]] = {
    "CUR": _cursor,
    "DCX": lambda: struct.pack("<3I", 0x3ADE68B1, 12, 0) + encoded("PCX"),
    "FITS": _fits,
    "FLI": _fli,
    "FTEX": lambda: b"FTEX" + struct.pack("<8i", 1, WIDTH, HEIGHT, 1, 1, 1, 32, len(RGB)) + RGB,
    "GBR": lambda: (
        struct.pack(">5I4sI", 32, 2, WIDTH, HEIGHT, 4, b"GIMP", 10)
        + b"abc\0"
        + PICTURE.convert("RGBA").tobytes()
    ),
    "IMT": lambda: f"width {WIDTH}\nheight {HEIGHT}\npixel n8\n\f".encode() + GREY,
    "IPTC": _iptc,
    "MCIDAS": _mcidas,
    "MPEG": lambda: b"\0\0\1\xb3" + (WIDTH << 12 | HEIGHT).to_bytes(3, "big") + RGB,
    "PCD": lambda: (
        bytes(2048) + b"PCD_".ljust(1539, b"\0") + bytes(96 * 2048 - 3587 + 768 * 512 * 3 // 2)
    ),
    "PIXAR": _pixar,
    "PSD": _psd,
    "SUN": lambda: struct.pack(">8I", 0x59A66A95, WIDTH, HEIGHT, 24, len(RGB), 1, 0, 0) + RGB,
    "XPM": _xpm,
    "XVTHUMB": lambda: f"P7 332\n#END_OF_COMMENTS\n{WIDTH} {HEIGHT} 255\n".encode() + GREY,
    "BUFR": lambda: b"BUFR" + RGB,
    "GRIB": lambda: b"GRIB\0\0\0\1" + RGB,
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + RGB,
    "WMF": lambda: (
        struct.pack("<IH4hHIH", 0x9AC6CDD7, 0, 0, 0, WIDTH * 20, HEIGHT * 20, 1440, 0, 0)
        + b"\1\0\t\0"
        + RGB
    ),
}
