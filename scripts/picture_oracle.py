#!/usr/bin/env python3
"""Makes testdata/data/pictures: small pictures of every form people have, and the pixels TensorFlow decodes from them.

    python3 scripts/picture_oracle.py testdata/data/pictures      (needs tensorflow, numpy and pillow)

pixels.json has for each file its size and what `tf.io.decode_jpeg` or `decode_image` gives with three channels, base64 of row by
row, red first; of WebP, which these do not read, the pixels that were encoded (losslessly). Files that TensorFlow refuses have
null.
"""
import base64
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

WIDTH, HEIGHT = 24, 16


def decode(data, suffix):
    """TensorFlow's pixels; of JPEG with the exact inverse cosine transform, since no decoder outside libjpeg shares its fast one."""
    if suffix == ".jpg":
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_image(data, channels=3).numpy()


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgb = np.stack([10 * x, 15 * y, 255 - 5 * (x + y)], -1).clip(0, 255).astype(np.uint8)
    plain = Image.fromarray(rgb)
    # A picture of 16 bits whose low bytes would round up; PIL writes such only in grey.
    deep = Image.fromarray((np.stack([rgb[..., 0]], -1)[..., 0].astype(np.uint16) << 8) | 0xd0)
    exif = plain.getexif()
    exif[0x0112] = 6
    alpha = Image.fromarray(np.concatenate([rgb, (10 * x + 5)[..., None].clip(0, 255).astype(np.uint8)], -1))
    plain.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    plain.save(folder / "progressive.jpg", quality=95, progressive=True, subsampling=0)
    plain.save(folder / "turned.jpg", quality=95, exif=exif, subsampling=0)
    plain.convert("L").save(folder / "grey.jpg", quality=95)
    deep.save(folder / "deep.png")
    alpha.save(folder / "alpha.png")
    plain.convert("LA").save(folder / "grey_alpha.png")
    plain.quantize(32).save(folder / "palette.png", transparency=3)
    plain.convert("1").save(folder / "bits.png")
    plain.save(folder / "plain.bmp")
    alpha.save(folder / "alpha.webp", lossless=True, exact=True)
    for name, source, end in [("cut.jpg", "turned.jpg", -150), ("cut_end.jpg", "turned.jpg", -2), ("cut.png", "alpha.png", -40),
                              ("cut_progressive.jpg", "progressive.jpg", -60), ("cut_end.png", "alpha.png", -12),
                              ("cut.bmp", "plain.bmp", -100)]:
        (folder / name).write_bytes((folder / source).read_bytes()[:end])
    (folder / "more.jpg").write_bytes((folder / "turned.jpg").read_bytes() + b"something else")
    pixels = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            continue
        try:
            decoded = rgb if path.suffix == ".webp" else decode(path.read_bytes(), path.suffix)
        except tf.errors.InvalidArgumentError:
            pixels[path.name] = None
            continue
        pixels[path.name] = {"height": decoded.shape[0], "width": decoded.shape[1],
                             "rgb": base64.b64encode(decoded.tobytes()).decode()}
    (folder / "pixels.json").write_text(json.dumps(pixels, indent=0))


if __name__ == "__main__":
    main()
