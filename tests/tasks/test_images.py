import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.images import FileImage, decode_image, picture_bytes


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA"])
def test_pictures_come_out_as_rgb(mode: str) -> None:
    image = decode_image(encoded(noise(mode), "TIFF"), "here")
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_lossless_pixels_are_kept_and_transparency_is_white() -> None:
    assert decode_image(encoded(noise(), "PNG"), "here").tobytes() == noise().tobytes()
    see_through = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    see_through.putpixel((1, 0), (0, 0, 0, 0))
    image = decode_image(encoded(see_through, "PNG"), "here")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_photographs_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(noise(), "JPEG", exif=exif), "here").size == (20, 30)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_an_input_error(kind: str, share: float) -> None:
    data = encoded(noise(), kind)
    with pytest.raises(InputError, match=r"^rows\.jsonl, line 3: image cannot be decoded"):
        decode_image(data[: int(len(data) * share)], "rows.jsonl, line 3")


@pytest.mark.parametrize("data", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_data_that_is_no_picture_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match="format not recognised") as caught:
        decode_image(data, "here")
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


def test_sixteen_bits_are_refused_rather_than_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    with pytest.raises(InputError, match="more than 8 bits"):
        decode_image(encoded(deep, "PNG"), "here")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 10_000, 100_000])
def test_a_huge_picture_is_refused_from_its_header(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"here: image has .*pixels, the limit is 50000000; make it smaller"):
        decode_image(bomb, "here")


def test_the_limit_is_inclusive() -> None:
    data = encoded(noise(), "PNG")
    assert decode_image(data, "here", max_pixels=600).size == (30, 20)
    with pytest.raises(InputError, match="30 x 20 pixels, the limit is 599"):
        decode_image(data, "here", max_pixels=599)


def test_stored_pictures_keep_their_bytes_and_rendered_ones_become_png(tmp_path: Path) -> None:
    held = encoded(noise(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(held)
    assert picture_bytes(FileImage(tmp_path / "a.jpg", "row 1")) == held
    made = picture_bytes(noise)
    assert made.startswith(b"\x89PNG")
    assert decode_image(made, "here").tobytes() == noise().tobytes()
    with pytest.raises(InputError, match=r"row 7: image file .*gone\.png cannot be read"):
        picture_bytes(FileImage(tmp_path / "gone.png", "row 7"))
    assert hash(FileImage(tmp_path / "a.jpg", "row 1")) == hash(FileImage(tmp_path / "a.jpg", "row 1"))
