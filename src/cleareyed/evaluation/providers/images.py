"""Pictures as a provider takes them: typed by their bytes, within its limits, and otherwise left as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError
from cleareyed.tasks.images import FORMATS, MAX_PIXELS, decode_image

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
QUALITIES = (95, 85)
"""JPEG qualities tried at each size, with full colour resolution (4:4:4)."""
SHRINK = 0.75
"""If none of them is small enough, both sides are scaled by this, again and again."""


@dataclass(frozen=True)
class ImageLimits:
    """What a provider takes. None means no limit that is known."""

    provider: str
    types: tuple[str, ...] | None = None
    """Media types; None for whatever `decode_image` reads."""
    animated: bool = True
    """Whether a GIF may have several frames."""
    image_bytes: int | None = None
    """Largest picture: of its base64 text if `as_base64`, else of its bytes."""
    as_base64: bool = True
    request_bytes: int | None = None
    """Largest sum over the pictures of a request, counted likewise."""
    side: int | None = None
    """Longest side, in pixels."""
    images: int | None = None
    """Most pictures in a request."""
    many: int | None = None
    """With more pictures than this, `side_of_many` holds in place of `side`."""
    side_of_many: int | None = None


_WEB = ("image/png", "image/jpeg", "image/gif", "image/webp")
_MB = 1024 * 1024

# platform.claude.com/docs/en/build-with-claude/vision (November 2026): 8000 x 8000 px, 2000 x 2000 px with more than
# 20 pictures, 100 pictures for models of 200k tokens, 32 MB a request (1 MB of it is left to the text). The API's own
# error states the size: "image exceeds 5 MB maximum: N bytes > 5242880 bytes", N being that of the base64 text.
ANTHROPIC = ImageLimits(
    "anthropic",
    types=_WEB,
    image_bytes=5 * _MB,
    request_bytes=31 * _MB,
    side=8000,
    images=100,
    many=20,
    side_of_many=2000,
)
# platform.openai.com/docs/guides/images-vision (2025): PNG, JPEG, WebP and GIFs that do not move, 20 MB a picture,
# 500 pictures and 50 MB of picture bytes a request. Larger pictures are scaled down by the provider.
OPENAI = ImageLimits(
    "openai",
    types=_WEB,
    animated=False,
    image_bytes=20 * _MB,
    as_base64=False,
    request_bytes=50 * _MB,
    images=500,
)
# ai.google.dev/gemini-api/docs/image-understanding: PNG, JPEG, WebP (and HEIC); 3,600 pictures a request. Inline data
# up to 100 MB a request since January 2026 (blog.google, "Increased file size limits"), 20 MB before.
GOOGLE = ImageLimits("google", types=("image/png", "image/jpeg", "image/webp"), request_bytes=99 * _MB, images=3600)
# vLLM, SGLang and llama.cpp set none of their own; what the picture costs is theirs to say.
HOSTED = ImageLimits("hosted")


@dataclass(frozen=True, slots=True)
class SentImage:
    """A picture as it goes out."""

    data: bytes
    media_type: str
    note: str | None = None
    """What was done to it, and why; None where these are the very bytes of the source."""


def media_type(data: bytes) -> str | None:
    """The type that the first bytes declare, never that of a file name; None if it is none of those known here."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith(b"BM"):
        return "image/bmp"
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return "image/tiff"
    return None


def check_images(images: Sequence[bytes], limits: ImageLimits) -> list[SentImage]:
    """Every picture of a request as the provider takes it, their number and sum included.

    Where the sum is over `request_bytes`, the largest pictures are brought down to the one size at which it is not.

    Raises:
        AskError (permanent): as `check_image`, or more pictures than the provider takes.
    """
    if limits.images is not None and len(images) > limits.images:
        raise AskError(
            "permanent", f"{len(images)} images in one request; {limits.provider} takes {limits.images} at most"
        )
    many = limits.many is not None and len(images) > limits.many
    side = limits.side_of_many if many else limits.side
    sent = [_checked(data, limits, limits.image_bytes, side, f"image {n}") for n, data in enumerate(images, start=1)]
    if limits.request_bytes is None:
        return sent
    sizes = [_counted(len(image.data), limits) for image in sent]
    if sum(sizes) <= limits.request_bytes:
        return sent
    level = _level(sizes, limits.request_bytes)
    return [
        image if size <= level else _checked(data, limits, level, side, f"image {n}")
        for n, (data, image, size) in enumerate(zip(images, sent, sizes, strict=True), start=1)
    ]


def check_image(data: bytes, limits: ImageLimits) -> SentImage:
    """One picture as the provider takes it: the very bytes unless a limit forbids, then changed and noted.

    Of a picture within the limits no more than the header is read, and that only where a limit speaks of pixels. One
    that is not is decoded (upright, transparency on white, the first frame), scaled down to the longest side allowed
    (Lanczos), and written as PNG if its source was without loss and the result is small enough, else as JPEG of
    quality 95, then 85; if even that is too large, sides times 0.75, and so on. The note says what was done and why.

    Raises:
        AskError (permanent): not a picture of a known type, or one that must be changed and can't be decoded.
    """
    return _checked(data, limits, limits.image_bytes, limits.side, "image")


def _checked(data: bytes, limits: ImageLimits, most: int | None, side: int | None, where: str) -> SentImage:
    kind = media_type(data)
    if kind is None:
        raise AskError("permanent", f"{where} begins with no known type's bytes; save it as PNG, JPEG, WebP or GIF")
    reasons = []
    if limits.types is not None and kind not in limits.types:
        reasons.append(f"{kind} is not taken")
    still = kind == "image/gif" and not limits.animated
    if side is not None or still:
        width, height, moves = _header(data, where)
        if side is not None and max(width, height) > side:
            reasons.append(f"{width} x {height} px, {side} a side at most")
        if moves and still:
            reasons.append("moving pictures are not taken")
    if most is not None and _counted(len(data), limits) > most:
        reasons.append(f"{_counted(len(data), limits):,} bytes{_unit(limits)}, {most:,} at most")
    if not reasons:
        return SentImage(data, kind)
    return _changed(data, kind, limits, most, side, f"{limits.provider}: {', '.join(reasons)}", where)


def _changed(
    data: bytes, kind: str, limits: ImageLimits, most: int | None, side: int | None, why: str, where: str
) -> SentImage:
    try:
        image = decode_image(data, where, MAX_PIXELS)
    except InputError as error:
        raise AskError("permanent", f"{error} ({why})") from error
    done = [kind.removeprefix("image/"), *_lost(data)]
    if side is not None and max(image.size) > side:
        image = _scaled(image, side / max(image.size))
        done.append(f"scaled to {image.width} x {image.height} px (Lanczos)")
    lossless = kind not in ("image/jpeg", "image/webp")
    written, name = _written(image, lossless, limits, most)
    size = Image.open(BytesIO(written)).size
    if size != image.size:
        done.append(f"scaled to {size[0]} x {size[1]} px (Lanczos)")
    done.append(f"written as {name}, {len(written):,} bytes")
    sent_type = "image/png" if name == "PNG" else "image/jpeg"
    return SentImage(written, sent_type, f"{where}: {why}: {', '.join(done)}")


def _written(image: Image.Image, lossless: bool, limits: ImageLimits, most: int | None) -> tuple[bytes, str]:
    if lossless:
        page = BytesIO()
        image.save(page, "PNG")
        if most is None or _counted(page.tell(), limits) <= most:
            return page.getvalue(), "PNG"
    scale = 1.0
    while True:
        smaller = image if scale == 1 else _scaled(image, scale)
        for quality in QUALITIES:
            page = BytesIO()
            smaller.save(page, "JPEG", quality=quality, subsampling="4:4:4")
            if most is None or _counted(page.tell(), limits) <= most:
                return page.getvalue(), f"JPEG of quality {quality}"
        if smaller.size == (1, 1):
            raise AskError("permanent", f"no picture fits into {most} bytes; {limits.provider} takes no more")
        scale *= SHRINK


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _header(data: bytes, where: str) -> tuple[int, int, bool]:
    """Width, height and whether there are several frames, without decoding a pixel."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.width, image.height, bool(getattr(image, "is_animated", False))
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, OverflowError) as error:
        raise AskError("permanent", f"{where} has a damaged header; save it anew") from error
    except Image.DecompressionBombError as error:
        raise AskError("permanent", f"{where} has far too many pixels; make it smaller") from error


def _lost(data: bytes) -> list[str]:
    """What decoding to one upright, opaque picture does to this one."""
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        turned = image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT
        return [
            said
            for said, true in (
                ("turned upright", turned),
                ("put on white", image.has_transparency_data),
                ("first frame only", getattr(image, "is_animated", False)),
            )
            if true
        ]


def _counted(size: int, limits: ImageLimits) -> int:
    """Bytes as the provider counts them: base64 writes 4 characters for every 3 bytes begun."""
    return (size + 2) // 3 * 4 if limits.as_base64 else size


def _unit(limits: ImageLimits) -> str:
    return " in base64" if limits.as_base64 else ""


def _level(sizes: Sequence[int], total: int) -> int:
    """The size to which all larger ones must come down for the sum to be `total`."""
    left = total
    ordered = sorted(sizes)
    for place, size in enumerate(ordered):
        share = left // (len(ordered) - place)
        if size > share:
            return share
        left -= size
    return ordered[-1]
