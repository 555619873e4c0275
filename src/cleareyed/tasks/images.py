"""Pictures from outside: decoded when needed, within bounds; and their bytes as they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image, ImageOps, UnidentifiedImageError

from cleareyed.errors import InputError
from cleareyed.tasks.task import LoadImage

MAX_PIXELS = 50_000_000
"""The largest picture that is decoded, in pixels (150 MB as RGB)."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders that are allowed to see the data; Pillow has others that start programs."""


@runtime_checkable
class Stored(Protocol):
    """A `LoadImage` whose picture lies encoded somewhere."""

    def data(self) -> bytes:
        """The encoded picture, byte for byte as it is stored. InputError if it can no longer be read."""


@dataclass(frozen=True)
class FileImage:
    """Loads a picture file. `where` names the data file and row in errors."""

    path: Path
    where: str

    def data(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.where}: image file {self.path} cannot be read: {error.strerror}") from error

    def __call__(self) -> Image.Image:
        return decode_image(self.data(), f"{self.where} ({self.path})")


def picture_bytes(load: LoadImage) -> bytes:
    """The encoded picture: as it is stored where it comes from a file, else the rendered pixels as PNG.

    InputError as `load` itself raises it.
    """
    if isinstance(load, Stored):
        return load.data()
    out = BytesIO()
    load().save(out, "PNG")
    return out.getvalue()


def decode_image(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as RGB, turned upright, transparency on white.

    `where` names the file and row in errors. The size is read from the header and checked before any pixel
    is decoded. InputError: not a picture of a known format, truncated or broken, more than `max_pixels`
    pixels, or samples of more than 8 bits.
    """
    with _decoded(data, where, max_pixels) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            raise InputError(f"{where}: image has more than 8 bits per sample; save it as 8-bit RGB")
        return _opaque(upright)


def decoded_size(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height as stored, of a picture that decodes. InputError as `decode_image`, but for the samples' bits:
    who is sent the bytes reads them as it likes."""
    with _decoded(data, where, max_pixels) as image:
        return image.size


class Looked:
    """Pictures that may come again, each decoded once. `size_of` decodes one: (data, where) to (width, height)."""

    def __init__(self, size_of: Callable[[bytes, str], tuple[int, int]]) -> None:
        self._size_of = size_of
        self.sizes: dict[bytes, tuple[int, int, int]] = {}
        """Digest of a picture to its width, height and bytes."""

    def look(self, load: LoadImage, data: bytes, name: str) -> bytes:
        """The digest of a picture of sample `name`, `data` being `picture_bytes(load)`. InputError as `size_of`."""
        digest = sha256(data).digest()
        if digest not in self.sizes:
            path = f" ({load.path})" if isinstance(load, FileImage) else ""
            width, height = self._size_of(data, getattr(load, "where", f"sample {name}") + path)
            self.sizes[digest] = (width, height, len(data))
        return digest


@contextmanager
def _decoded(data: bytes, where: str, max_pixels: int) -> Iterator[Image.Image]:
    """The picture as stored, its pixels decoded; errors also of what is done with it become InputError."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(where, f"{width} x {height} pixels", max_pixels)
            image.load()
            yield image
    except Image.DecompressionBombError as error:
        raise _too_large(where, "far too many pixels", max_pixels) from error
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, OverflowError) as error:
        # Pillow raises all of these on damaged data.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "format not recognised" if unknown else " ".join(str(error).split())[:120]
        formats = ", ".join(FORMATS)
        raise InputError(
            f"{where}: image cannot be decoded, truncated or not one of {formats} ({reason}); save it anew"
        ) from error


def _too_large(where: str, size: str, max_pixels: int) -> InputError:
    return InputError(f"{where}: image has {size}, the limit is {max_pixels}; make it smaller")


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page
