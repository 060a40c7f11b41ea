"""From files to pixels: as pictures are shown, and fingerprints that change for the folders alone whose pixels do."""

import hashlib
import os
import warnings

import numpy as np
import pytest
from images import deep_png, grey, make_tree, opened
from PIL import Image

from raysp.data.pictures import to_array
from raysp.data.sources import DataError, load_splits


def plain_fingerprint(root):
    """What every folder's fingerprint was before anything but squashing was done to images."""
    digest = hashlib.sha256()
    for part in ("train", "test"):
        for folder in sorted((root / part).iterdir()):
            for file in sorted(folder.iterdir()):
                content = hashlib.sha256(file.read_bytes()).digest()
                digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + content)
    return digest.hexdigest()


def upright():
    """A picture with another grey level in each quarter, smooth enough for JPEG."""
    return Image.fromarray(np.kron(np.array([[20, 90], [160, 230]], np.uint8), np.ones((16, 24), np.uint8))).convert("RGB")


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # of the pixels as they lie: what undoes it turns the other way
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_lie_as_they_are_shown(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = make_tree(tmp_path / "data")
    upright().transpose(TURNS[orientation]).save(root / "test" / "cat" / f"0.{suffix}", quality=95, exif=exif)
    if suffix != "png":
        (root / "test" / "cat" / "0.png").unlink()
    source = opened(root, size=32)
    (found,) = (image for image in load_splits(source).test.images[:3] if image.std() > 40)
    assert np.abs(found.astype(int) - to_array(upright(), 32)).mean() < 4
    is_new = suffix != "tif"  # which Pillow has always turned
    assert (source.config.fingerprint != plain_fingerprint(root)) == is_new
    assert source.notes == (("1 image is turned as the EXIF orientation says",) if is_new else ())


def test_exif_that_turns_nothing_changes_nothing(tmp_path):
    root = make_tree(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 1
    upright().save(root / "train" / "cat" / "a.jpg", exif=exif)
    upright().save(root / "train" / "cat" / "b.jpg", exif=b"Exif\0\0damaged")
    upright().convert("RGBA").save(root / "train" / "dog" / "opaque.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "train" / "dog" / "deep.png")
    source = opened(root)
    assert source.config.fingerprint == plain_fingerprint(root) and source.notes == ()
    assert "depth" not in source.config.to_json() and "every_class_kept" not in source.config.to_json()


def test_transparent_areas_are_grey_whatever_colour_lies_below(tmp_path):
    root = make_tree(tmp_path / "data", train=2)
    mark = np.zeros((16, 16, 4), np.uint8)
    mark[...] = (0, 255, 0, 0)  # a loud colour that can't be seen
    mark[4:12, 4:12] = (255, 255, 255, 255)
    where = root / "test" / "cat"
    Image.fromarray(mark).save(where / "0.png")
    Image.fromarray(mark).convert("LA").save(where / "1.png")
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 255, 0, 255, 255, 255])
    palette.paste(1, (4, 4, 12, 12))
    palette.save(where / "2.png", transparency=bytes([0, 255]))
    source = opened(root, size=16, selection="test")
    for image in load_splits(source).test.images[:3]:
        assert image[:, 0, 0].tolist() == [128] * 3 and image[:, 8, 8].tolist() == [255] * 3
    assert source.config.fingerprint != plain_fingerprint(root)
    assert source.notes[0] == "transparent areas of 3 images are put on grey (128 of 255)"


@pytest.mark.parametrize(("peak", "depth"), [(4095, 12), (65535, 16), (200, 8)])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_of_colours_of_16_bits_those_that_are_used_are_taken(tmp_path, channels, peak, depth):
    root = make_tree(tmp_path / "data")
    values = np.random.default_rng(0).integers(0, peak, (8, 8, channels), endpoint=True).astype(np.uint16)
    values[0, 0, 0] = peak
    if channels != 3:
        values[..., -1] = 65535
        values[0, 1:, -1] = 0
    (root / "test" / "cat" / "0.png").write_bytes(deep_png(values))
    (root / "test" / "cat" / "1.png").write_bytes(deep_png(np.full((8, 8, 3), peak, np.uint16), interlaced=True))
    source = opened(root)
    first, second = load_splits(source).test.images[:2]
    expected = (values >> (depth - 8)).transpose(2, 0, 1)[[0, 0, 0] if channels == 2 else [0, 1, 2]].astype(np.uint8)
    if channels != 3:
        expected[:, 0, 1:] = 128
    assert (first == expected).all() and (second == peak >> (depth - 8)).all()
    assert (source.config.depth, source.config.fingerprint == plain_fingerprint(root)) == (depth, depth == 16 and channels == 3)
    assert (f"no pixel of 2 16-bit images uses more than {depth} bits: the upper 8 of these are taken" in source.notes) == (
        depth < 16
    )


@pytest.mark.parametrize(("peak", "depth"), [(4095, 12), (1023, 10), (65535, 16), (200, 8)])
def test_bits_that_no_sixteen_bit_image_uses_are_left_out(tmp_path, peak, depth):
    root = make_tree(tmp_path / "data")
    for name, top in (("a", peak // 2), ("b", peak)):
        ramp = np.linspace(0, top, 64).reshape(8, 8).astype(np.uint16)
        Image.fromarray(ramp).save(root / "test" / "cat" / f"{name}.{'png' if name == 'a' else 'tif'}")
    source = opened(root)
    images = load_splits(source).test.images[3:5]
    assert source.config.depth == depth
    assert images[1].max() == peak >> (depth - 8) and images[0].max() == (peak // 2) >> (depth - 8)
    assert (source.config.fingerprint == plain_fingerprint(root)) == (depth == 16)
    told = (f"no pixel of 2 16-bit images uses more than {depth} bits: the upper 8 of these are taken",)
    assert source.notes == (() if depth == 16 else told)


def test_no_warning_of_pillow_s_reaches_the_terminal(tmp_path, monkeypatch):
    root = make_tree(tmp_path / "data")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of which up to twice as many are a warning
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 255, 0, 255, 255, 255])
    palette.save(root / "train" / "cat" / "p.png", transparency=bytes([0, 255]))
    grey(root / "train" / "cat" / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_splits(opened(root))
    assert [str(warning.message) for warning in caught] == []


def test_what_viewers_open_is_read(tmp_path):
    """Printers' colours, palettes, several frames, a single pixel, a damaged profile."""
    root = make_tree(tmp_path / "data")
    colours = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 4), dtype=np.uint8)
    first, *others = (Image.fromarray(each[..., :3]) for each in colours)
    cats = root / "train" / "cat"
    Image.fromarray(colours[0], "CMYK").save(cats / "cmyk.jpg")
    first.quantize(16).save(cats / "palette.png", transparency=3)
    first.save(cats / "frames.webp", save_all=True, append_images=others)
    first.save(cats / "frames.png", save_all=True, append_images=others)
    first.save(cats / "pages.tif", save_all=True, append_images=others)
    first.save(cats / "profile.png", icc_profile=b"bad")
    first.convert("LA").save(cats / "grey and alpha.png")
    first.convert("1").save(cats / "one bit.png")
    first.resize((1, 1)).save(cats / "pixel.jpg")
    first.resize((1, 2000)).save(cats / "line.png")
    source = opened(root, selection="test")
    images = load_splits(source).train.images
    assert len(images) == 30 and source.notes == ("transparent areas of 1 image are put on grey (128 of 255)",)
    by_name = {entry.file.name: row for row, entry in enumerate(source.folder.listing.parts["train"])}
    resized = np.asarray(first.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    for name in ("frames.png", "pages.tif", "profile.png"):
        assert (images[by_name[name]] == resized).all(), "of several the first"


def test_pictures_whose_range_is_not_known_and_pipes_are_told(tmp_path):
    root = make_tree(tmp_path / "data")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    assert opened(root).passed_over == "1 file passed over (1 .png that is no file)"
    Image.fromarray(np.full((8, 8), -5, np.int32)).save(root / "train" / "cat" / "signed.tif")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(root / "train" / "cat" / "floats.tif")
    Image.new("1", (20_000, 12_000)).save(root / "train" / "cat" / "large.png")
    with pytest.raises(DataError) as refused:
        load_splits(opened(root))
    for said in (
        "pixels are signed, or of 32 bits",
        "pixels are floats, whose range",
        "more pixels than are opened, 178,956,970",
    ):
        assert said in str(refused.value)
