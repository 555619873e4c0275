from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cleareyed.evaluation.answers import AskError
from cleareyed.evaluation.providers.images import (
    ANTHROPIC,
    GOOGLE,
    HOSTED,
    OPENAI,
    ImageLimits,
    check_image,
    check_images,
    media_type,
)

NARROW = ImageLimits("narrow", types=("image/png", "image/jpeg"), image_bytes=4000, side=64, images=3)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def flat(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "teal")


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    page = BytesIO()
    image.save(page, kind, **options)
    return page.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_the_type_is_that_of_the_bytes(kind: str) -> None:
    assert media_type(written(flat(8, 8), kind)) == f"image/{kind}"


def test_bytes_of_no_known_type_have_no_type() -> None:
    assert media_type(b"") is None
    assert media_type(b"RIFF\x00\x00\x00\x00WAVEfmt ") is None
    assert media_type(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None


@pytest.mark.parametrize("limits", [ANTHROPIC, OPENAI, GOOGLE, HOSTED], ids=lambda limits: limits.provider)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_within_the_limits_goes_out_as_it_is(kind: str, limits: ImageLimits) -> None:
    data = written(noise(40, 30), kind)
    sent = check_image(data, limits)
    assert sent.data is data
    assert sent.media_type == f"image/{kind.lower()}"
    assert sent.note is None


def test_pixels_of_a_picture_within_the_limits_are_not_read() -> None:
    cut = written(noise(40, 30), "PNG")[:60]  # a header, and nothing to decode
    assert check_image(cut, ANTHROPIC).data is cut


def test_a_type_that_is_not_taken_is_written_anew_without_loss() -> None:
    image = noise(20, 10)
    sent = check_image(written(image, "BMP"), GOOGLE)
    assert sent.media_type == "image/png"
    assert np.array_equal(np.asarray(opened(sent.data)), np.asarray(image))
    assert sent.note is not None
    assert sent.note.startswith("image: google: image/bmp is not taken: bmp, written as PNG, ")


def test_a_moving_gif_is_sent_as_its_first_frame_where_it_must_stand_still() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    moving = written(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert check_image(moving, ANTHROPIC).data is moving
    sent = check_image(moving, OPENAI)
    assert opened(sent.data).convert("RGB").getpixel((4, 4)) == (255, 0, 0)
    assert sent.note is not None and "first frame only" in sent.note
    still = written(frames[0], "GIF")
    assert check_image(still, OPENAI).data is still


def test_a_side_that_is_too_long_is_scaled_to_the_limit() -> None:
    sent = check_image(written(flat(200, 30), "PNG"), NARROW)
    assert opened(sent.data).size == (64, 9)
    assert sent.media_type == "image/png"
    assert sent.note is not None
    assert "200 x 30 px, 64 a side at most" in sent.note
    assert "scaled to 64 x 9 px (Lanczos)" in sent.note


def test_a_picture_of_too_many_bytes_keeps_its_size_where_jpeg_is_enough() -> None:
    data = written(noise(36, 32), "PNG")
    assert len(data) * 4 / 3 > 4000
    sent = check_image(data, NARROW)
    assert len(sent.data) * 4 / 3 <= 4000
    assert opened(sent.data).format == "JPEG"
    assert opened(sent.data).size == (36, 32)
    assert sent.note is not None and "bytes in base64, 4,000 at most" in sent.note
    assert f"written as JPEG of quality 85, {len(sent.data):,} bytes" in sent.note


def test_a_picture_is_scaled_until_it_fits_and_the_note_says_to_what() -> None:
    sent = check_image(written(noise(64, 64), "JPEG", quality=100, subsampling=0), NARROW)
    size = opened(sent.data).size
    assert size[0] < 64
    assert len(sent.data) * 4 / 3 <= 4000
    assert sent.note is not None and f"scaled to {size[0]} x {size[1]} px (Lanczos)" in sent.note


def test_the_change_is_the_same_each_time() -> None:
    data = written(noise(64, 64), "PNG")
    assert check_image(data, NARROW) == check_image(data, NARROW)


def test_the_note_says_that_a_picture_was_turned_and_put_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = check_image(written(flat(100, 20), "JPEG", exif=exif), NARROW)
    assert opened(turned.data).size == (12, 64)
    assert turned.note is not None and "turned upright" in turned.note
    clear = check_image(written(Image.new("RGBA", (100, 20), (0, 0, 0, 0)), "PNG"), NARROW)
    assert opened(clear.data).getpixel((5, 5)) == (255, 255, 255)
    assert clear.note is not None and "put on white" in clear.note


def test_base64_is_counted_where_the_provider_counts_it() -> None:
    data = written(noise(30, 30), "PNG")
    plain = ImageLimits("plain", image_bytes=len(data), as_base64=False)
    assert check_image(data, plain).note is None
    assert check_image(data, replace(plain, as_base64=True)).note is not None
    exact = (len(data) + 2) // 3 * 4
    assert check_image(data, replace(plain, as_base64=True, image_bytes=exact)).note is None
    assert check_image(data, replace(plain, as_base64=True, image_bytes=exact - 1)).note is not None


def test_what_cannot_be_sent_is_an_error_with_a_reason() -> None:
    with pytest.raises(AskError, match="no known type") as error:
        check_image(b"not a picture", HOSTED)
    assert error.value.kind == "permanent"
    with pytest.raises(AskError, match="damaged header"):
        check_image(b"\x89PNG\r\n\x1a\nand no more", NARROW)
    with pytest.raises(AskError, match=r"truncated.*px, 64 a side at most"):
        check_image(written(noise(200, 200), "PNG")[:500], NARROW)
    with pytest.raises(AskError, match="no picture fits into 10 bytes"):
        check_image(written(flat(8, 8), "PNG"), replace(NARROW, image_bytes=10))
    with pytest.raises(AskError, match="4 images in one request; narrow takes 3 at most"):
        check_images([written(flat(8, 8), "PNG")] * 4, NARROW)


def test_with_many_pictures_the_shorter_side_limit_holds() -> None:
    many = replace(NARROW, many=2, side_of_many=16)
    data = written(flat(40, 40), "PNG")
    assert [image.data for image in check_images([data] * 2, many)] == [data] * 2
    three = check_images([data] * 3, many)
    assert [opened(image.data).size for image in three] == [(16, 16)] * 3
    assert three[1].note is not None and three[1].note.startswith("image 2: narrow: 40 x 40 px, 16 a side at most")


def test_the_sum_over_a_request_takes_from_the_largest_only() -> None:
    small, large = written(noise(10, 10), "PNG"), written(noise(60, 60), "PNG")
    limits = ImageLimits("sum", request_bytes=12_000, as_base64=False)
    sent = check_images([large, small, large], limits)
    assert sent[1].data is small
    assert sum(len(image.data) for image in sent) <= 12_000
    assert min(len(sent[0].data), len(sent[2].data)) > 3_000
    assert sent[0].note is not None and sent[2].note is not None
    assert check_images([small, large], limits)[1].data is large
