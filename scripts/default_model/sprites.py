"""Fetches the icon sets from the npm registry and draws their icons: RGBA arrays cut to what is visible.

  sprites.py DIR     fetches into DIR (once) and prints which class has how many icons in which set
"""
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import resvg_py
from PIL import Image

from classes import HELD_OUT_STYLE, ICONS, NAMES, NEW, STYLES

# Version and SHA-256 of the package, licence of the drawings.
PACKAGES = {
    "noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0, Google"),
    "twemoji": ("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7", "CC-BY-4.0, Twitter and jdecked"),
    "fluent-emoji-flat": ("1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175", "MIT, Microsoft"),
    "fluent-emoji": ("1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b", "MIT, Microsoft"),
    "emojione": ("1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "CC-BY-4.0, Emoji One"),
    "fxemoji": ("1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "Apache-2.0, Mozilla"),
}
SIDE = 192


def fetch(directory, style):
    """The icon set of a style, from its npm package."""
    version, sha256, _ = PACKAGES[style]
    archive = directory / f"iconify-json-{style}-{version}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", f"@iconify-json/{style}@{version}"], cwd=directory, check=True,
                       stdout=subprocess.DEVNULL)
    data = archive.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        sys.exit(f"{archive}: SHA-256 {found}, expected {sha256}")
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        return json.load(package.extractfile("package/icons.json"))


def draw(icons, name):
    """One icon as RGBA, its visible part only, longest side SIDE; None when the set does not have it."""
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIDE * 2}" '
           f'height="{SIDE * 2}" viewBox="0 0 {width} {height}">{icon["body"]}</svg>')
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = SIDE / max(image.size)
    return np.asarray(image.resize([max(1, round(s * scale)) for s in image.size], Image.LANCZOS))


def load(directory):
    """{key: {style: [RGBA, ...]}}; keys are ids with icons and names of new classes."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    cache = directory / "sprites.npz"
    wanted = {str(id): names for id, names in ICONS.items()}
    if not cache.exists():
        drawn = {}
        for style in (*STYLES, HELD_OUT_STYLE):
            icons = fetch(directory, style)
            mine = {name: icon for name, (_, of, icon) in NEW.items() if of == style}
            for key, names in (wanted | mine).items():
                seen = set()
                for name in names.split():
                    image = draw(icons, name)
                    if image is not None and image.tobytes() not in seen:
                        seen.add(image.tobytes())
                        drawn[f"{key}/{style}/{name}"] = image
        np.savez_compressed(cache, **drawn)
    sprites = {}
    with np.load(cache) as drawn:
        for path in drawn.files:
            key, style, _ = path.split("/")
            sprites.setdefault(key, {}).setdefault(style, []).append(drawn[path])
    return sprites


if __name__ == "__main__":
    for key, styles in load(sys.argv[1]).items():
        name = NAMES.get(int(key), key) if key.isdigit() else key
        print(f"{key:>10} {name:15}", " ".join(f"{style}:{len(images)}" for style, images in styles.items()))
