"""Composes scenes of icons: pictures of several things, turned, shaded, half hidden, on made-up backgrounds.

  scenes.py SPRITES OUT KIND COUNT SEED    writes OUT/*.jpg and OUT/annotations.json (COCO)

KIND: old       things of the label map's classes
      held-out  the same in the style that training never shows
      new       one or two things of the new classes, with old ones around them
"""
import json
import multiprocessing
import pathlib
import sys

import cv2
import numpy as np

import sprites
from classes import HELD_OUT_STYLE, NAMES, NEW, STYLES

# Longest side of a thing, in parts of the picture's shorter side.
SIZES = (0.22, 0.8)
# What is drawn over a thing leaves at least so much of it; a scene in which less than VISIBLE shows, because it hangs over
# the edge too, is drawn anew.
SHOWN = 0.6
VISIBLE = 0.5
OLD = 90


def noise(rng, height, width, cell):
    """Smooth noise in 0..1 whose spots are about `cell` pixels wide."""
    grid = rng.random((max(2, height // cell + 2), max(2, width // cell + 2)), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def background(rng, height, width):
    """Gradients, noise of several widths, stripes, tiles, a horizon, cells: two or three colours."""
    colors = rng.uniform(0, 255, (3, 3)).astype(np.float32)
    if rng.random() < 0.6:  # muted, as indoors and outdoors mostly are
        colors = colors.mean(1, keepdims=True) + 0.35 * (colors - colors.mean(1, keepdims=True))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    kind = rng.integers(6)
    if kind == 0:
        angle = rng.uniform(0, 2 * np.pi)
        mix = np.cos(angle) * x / width + np.sin(angle) * y / height
        mix = (mix - mix.min()) / np.ptp(mix)
    elif kind == 1:
        mix = sum(w * noise(rng, height, width, c) for w, c in ((0.5, 96), (0.3, 32), (0.2, 9)))
    elif kind == 2:
        angle, period = rng.uniform(0, np.pi), rng.uniform(8, 70)
        mix = 0.5 + 0.5 * np.sign(np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period))
    elif kind == 3:
        side = rng.uniform(12, 60)
        mix = ((x // side + y // side) % 2).astype(np.float32)
    elif kind == 4:
        line = height * rng.uniform(0.35, 0.75) + 12 * (noise(rng, 1, width, 40)[0] - 0.5)
        mix = np.where(y < line, 0.15 * y / height, 0.7 + 0.3 * y / height)
    else:
        points = rng.uniform(0, 1, (12, 2)) * (height, width)
        nearest = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(-1)
        mix = rng.random(12, dtype=np.float32)[nearest]
    mix = mix.astype(np.float32)[..., None]
    picture = np.where(mix < 0.5, colors[0] + 2 * mix * (colors[1] - colors[0]),
                       colors[1] + (2 * mix - 1) * (colors[2] - colors[1]))
    grain = noise(rng, height, width, int(rng.integers(3, 30)))[..., None] - 0.5
    return picture + rng.uniform(0, 60) * grain


def recolor(rng, rgb):
    """Hue a little, saturation and brightness more, light from one side."""
    hsv = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-7, 7)) % 180
    hsv[..., 1] *= rng.uniform(0.6, 1.2)
    hsv[..., 2] *= rng.uniform(0.65, 1.15)
    rgb = cv2.cvtColor(hsv.clip(0, (179, 255, 255)).astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    height, width = rgb.shape[:2]
    y, x = np.mgrid[-0.5:0.5:height * 1j, -0.5:0.5:width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    return rgb * (1 + rng.uniform(0, 0.5) * (np.cos(angle) * x + np.sin(angle) * y))[..., None]


def turned(rng, sprite, side):
    """The sprite `side` pixels long, mirrored, turned, sheared and stretched a little: premultiplied RGBA, float."""
    rgb, alpha = recolor(rng, sprite[..., :3]), sprite[..., 3:].astype(np.float32) / 255
    image = np.concatenate([rgb * alpha, alpha], -1)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    angle, shear = np.deg2rad(rng.normal(0, 11)), rng.normal(0, 0.08)
    stretch = np.exp(rng.normal(0, 0.1))
    matrix = (np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
              @ np.array([[stretch, shear], [0, 1 / stretch]])) * side / max(height, width)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix.T
    low = corners.min(0)
    size = np.ceil(corners.max(0) - low).astype(int) + 2
    shrink = max(height, width) / side
    if shrink > 1.5:  # against the moire of a plain bilinear reduction
        image = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), 0.4 * shrink)
    matrix = np.concatenate([matrix, (1 - low)[:, None]], 1)
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, tuple(int(s) for s in size), flags=cv2.INTER_LINEAR)


class Scene:
    """A picture and, for every thing in it, where it shows."""

    def __init__(self, rng):
        self.rng = rng
        self.width, self.height = [(256, 192), (224, 224), (192, 256), (256, 224)][rng.integers(4)]
        self.picture = background(rng, self.height, self.width)
        self.things = []

    def place(self, sprite, label):
        """Draws a sprite somewhere, over what is there; False when that would hide too much."""
        rng = self.rng
        side = np.exp(rng.uniform(*np.log(SIZES))) * min(self.height, self.width)
        image = turned(rng, sprite, side)
        height, width = image.shape[:2]
        # A few hang over the edge.
        slack = 0.15 if rng.random() < 0.2 else 0.0
        spot = lambda length, room: int(rng.uniform(min(-slack * length, room - length + slack * length),
                                                    max(-slack * length, room - length + slack * length)))
        top, left = spot(height, self.height), spot(width, self.width)
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, self.height), min(left + width, self.width)
        part = image[y0 - top:y1 - top, x0 - left:x1 - left]
        if min(part.shape[:2]) < 8:
            return False
        mask = np.zeros((self.height, self.width), bool)
        mask[y0:y1, x0:x1] = part[..., 3] > 0.4
        whole = (image[..., 3] > 0.4).sum()
        if any((thing["mask"] & ~mask).sum() < SHOWN * thing["whole"] for thing in self.things):
            return False
        if rng.random() < 0.3:
            self.shadow(part[..., 3], y0, x0)
        region = self.picture[y0:y1, x0:x1]
        region *= 1 - part[..., 3:]
        region += part[..., :3]
        for thing in self.things:
            thing["mask"] &= ~mask
        self.things.append({"label": label, "mask": mask, "whole": whole})
        return True

    def shadow(self, alpha, top, left):
        """A soft shadow beside what is about to be drawn."""
        shift = int(self.rng.integers(2, 8))
        soft = cv2.GaussianBlur(alpha, (0, 0), 3)
        y1, x1 = min(top + shift + alpha.shape[0], self.height), min(left + shift + alpha.shape[1], self.width)
        soft = soft[:y1 - top - shift, :x1 - left - shift]
        if soft.size:
            self.picture[top + shift:y1, left + shift:x1] *= 1 - 0.4 * soft[..., None]

    def finish(self):
        """The picture as bytes of colour: light, blur and noise of a camera."""
        rng, picture = self.rng, self.picture
        picture = (picture - 128) * rng.uniform(0.75, 1.15) + 128 + rng.uniform(-25, 25)
        if rng.random() < 0.4:
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.2))
        picture = picture + rng.normal(0, rng.uniform(0, 7), picture.shape)
        return picture.clip(0, 255).astype(np.uint8)

    def boxes(self):
        """(label, x, y, width, height) of what can be seen of every labelled thing."""
        for thing in self.things:
            rows, columns = np.flatnonzero(thing["mask"].any(1)), np.flatnonzero(thing["mask"].any(0))
            if not rows.size or thing["mask"].sum() < VISIBLE * thing["whole"]:
                continue
            yield (thing["label"], int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1),
                   int(rows[-1] - rows[0] + 1))


def compose(kind, pool, seed):
    """One scene and its boxes, by its seed."""
    rng = np.random.default_rng(seed)
    styles = (HELD_OUT_STYLE,) if kind == "held-out" else STYLES

    def pick(keys):
        key = keys[rng.integers(len(keys))]
        having = [s for s in styles if pool[key].get(s)]
        images = pool[key][having[rng.integers(len(having))]]
        return key, images[rng.integers(len(images))]

    old = [key for key in pool if key.isdigit() and any(pool[key].get(s) for s in styles)]
    new = list(NEW)
    while True:
        scene = Scene(rng)
        count = int(rng.integers(2, 6))
        # What a picture was taken for stands in front: new things come last.
        new_things = int(rng.integers(1, 3)) if kind == "new" else 0
        for number in range(count):
            if number >= count - new_things:
                key = new[rng.integers(len(new))]
                label, style, _ = NEW[key]
                image = pool[key][style][0]
            else:
                key, image = pick(["1"] if rng.random() < 0.06 else old)
                label = int(key)
            any(scene.place(image, label) for _ in range(12))
        boxes = list(scene.boxes())
        if boxes and len(boxes) == len(scene.things) and (kind != "new" or boxes[-1][0] > OLD):
            return scene.finish(), boxes, int(rng.integers(72, 92))


POOL = {}


def work(job):
    kind, out, number, seed = job
    picture, boxes, quality = compose(kind, POOL, (seed, number))
    name = f"{number:05}.jpg"
    cv2.imwrite(str(out / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return {"id": number, "file_name": name, "width": picture.shape[1], "height": picture.shape[0]}, boxes


def main(directory, out, kind, count, seed):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    POOL.update(sprites.load(directory))
    cv2.setNumThreads(1)
    with multiprocessing.get_context("fork").Pool() as pool:
        done = pool.map(work, [(kind, out, n, int(seed)) for n in range(int(count))], chunksize=16)
    annotations = []
    for image, boxes in done:
        for label, x, y, width, height in boxes:
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], "category_id": label,
                                "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0})
    used = sorted({a["category_id"] for a in annotations} | (set(NAMES) if kind != "new" else set()))
    names = NAMES | {id: name for name, (id, *_) in NEW.items()}
    document = {"images": [image for image, _ in done], "annotations": annotations,
                "categories": [{"id": id, "name": names[id]} for id in used]}
    (out / "annotations.json").write_text(json.dumps(document, separators=(",", ":")))
    print(f"{out}: {len(done)} pictures, {len(annotations)} things of {len({a['category_id'] for a in annotations})} classes")


if __name__ == "__main__":
    main(*sys.argv[1:])
