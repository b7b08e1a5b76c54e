#!/usr/bin/env python3
"""Makes testdata/eval/*.json: random and contrived cases with the numbers of pycocotools and of TensorFlow.

Needs numpy, pycocotools and tensorflow (any 2.x, for pasted masks): the environment of scripts/fixtures/environment has
them. The Rust test tests/suite/eval_oracle.rs holds src/eval and src/data to these numbers.

    python3 scripts/eval_oracle.py testdata/eval
"""
import contextlib
import io
import json
import os
import sys

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KEYS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
        "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]


def twelve(images, anns, dets, classes, kind):
    """The twelve numbers of pycocotools, None for what it does not say; `kind` is "bbox" or "segm"."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco, results = COCO(), COCO()
        coco.dataset = {"images": images, "annotations": anns, "categories": [{"id": c} for c in classes], "info": {}}
        results.dataset = dict(coco.dataset, annotations=dets)
        coco.createIndex()
        results.createIndex()
        ev = COCOeval(coco, results, kind)
        ev.params.catIds = classes
        ev.evaluate()
        ev.accumulate()
        ev.summarize()
    return {k: (None if v == -1 else float(v)) for k, v in zip(KEYS, ev.stats)}


def summary(images, classes):
    """The twelve numbers of pycocotools for images = [{truths, detections}] and the given class ids."""
    anns, dets = [], []
    for index, image in enumerate(images):
        for t in image["truths"]:
            anns.append({"id": len(anns) + 1, "image_id": index + 1, "category_id": t[0], "bbox": t[1:5],
                         "area": t[5], "iscrowd": t[6]})
        for d in image["detections"]:
            dets.append({"id": len(dets) + 1, "image_id": index + 1, "category_id": d[0], "bbox": d[1:5], "score": d[5],
                         "area": d[3] * d[4], "iscrowd": 0})
    return twelve([{"id": i + 1} for i in range(len(images))], anns, dets, classes, "bbox")


def random_case(rng, images, classes, objects, noise, quantum, score_steps, crowd, spread):
    out = []
    for _ in range(images):
        truths, detections = [], []
        for _ in range(rng.integers(0, objects + 1)):
            size = float(np.exp(rng.uniform(np.log(6), np.log(spread))))
            w, h = size * rng.uniform(.6, 1.6), size * rng.uniform(.6, 1.6)
            x, y = rng.uniform(0, 300), rng.uniform(0, 300)
            box = [round(v / quantum) * quantum for v in (x, y, max(w, quantum), max(h, quantum))]
            c = int(rng.integers(1, classes + 1))
            area = round(box[2] * box[3] * rng.choice([1.0, rng.uniform(.3, 1)]), 2)
            truths.append([c, *box, area, int(rng.random() < crowd)])
            for _ in range(rng.integers(0, 4)):
                k = c if rng.random() < .85 else int(rng.integers(1, classes + 2))
                d = [v + rng.normal(0, noise) * size for v in box]
                d = [d[0], d[1], max(d[2], .5), max(d[3], .5)]
                detections.append([k, *[round(v / quantum) * quantum for v in d],
                                   round(float(rng.integers(0, score_steps + 1)) / score_steps, 4)])
        for _ in range(rng.integers(0, 3)):
            detections.append([int(rng.integers(1, classes + 1)), *[round(v) for v in rng.uniform(1, 200, 4)],
                               round(float(rng.integers(0, score_steps + 1)) / score_steps, 4)])
        out.append({"truths": truths, "detections": detections})
    return out


def contrived():
    box = [10, 10, 40, 40]
    truth = [1, *box, 1600, 0]
    crowd = [1, 0, 0, 200, 200, 40000, 1]
    yield "nothing", [{"truths": [], "detections": []}], [1]
    yield "no detections", [{"truths": [truth], "detections": []}], [1]
    yield "no objects", [{"truths": [], "detections": [[1, *box, .9]]}], [1]
    yield "only a crowd", [{"truths": [crowd], "detections": [[1, *box, .9]]}], [1]
    yield "crowd swallows", [{"truths": [crowd, truth], "detections": [[1, *box, .9], [1, 60, 60, 20, 20, .95],
                                                                      [1, 90, 90, 20, 20, .8],
                                                                      [1, 190, 190, 20, 20, .7]]}], [1]
    yield "doubles", [{"truths": [truth], "detections": [[1, *box, .5]] * 5}], [1]
    yield "equal scores", [{"truths": [truth], "detections": [[1, 12, 12, 40, 40, .5], [1, *box, .5]]},
                           {"truths": [truth], "detections": [[1, 100, 12, 40, 40, .5], [1, *box, .5]]}], [1]
    yield "exactly half", [{"truths": [[1, 0, 0, 10, 10, 100, 0]], "detections": [[1, 0, 0, 10, 5, .5]]}], [1]
    yield "area bounds", [{"truths": [[1, 0, 0, 32, 32, 1024, 0], [1, 100, 0, 96, 96, 9216, 0],
                                      [1, 300, 0, 32, 33, 1056, 0], [1, 400, 0, 97, 96, 9312, 0]],
                           "detections": [[1, 0, 0, 32, 32, .9], [1, 100, 0, 96, 96, .8], [1, 300, 0, 32, 33, .7],
                                          [1, 401, 0, 97, 96, .6], [1, 600, 0, 32, 32, .95]]}], [1]
    yield "mask area", [{"truths": [[1, 0, 0, 100, 100, 500, 0]], "detections": [[1, 0, 0, 100, 100, .9]]}], [1]
    many = [[1, 10 + (i % 12) * 30, 10 + (i // 12) * 30, 20, 20, round(1 - i / 200, 4)] for i in range(150)]
    yield "more than 100", [{"truths": [[1, *d[1:5], 400, 0] for d in many], "detections": many[::-1]}], [1]
    yield "one object for two", [{"truths": [truth, [1, 14, 10, 40, 40, 1600, 0]],
                                  "detections": [[1, 12, 10, 40, 40, .9], [1, 11, 10, 40, 40, .8]]}], [1]
    yield "ignored beats", [{"truths": [[1, 10, 10, 40, 40, 20000, 0], [1, 12, 12, 30, 30, 900, 0]],
                             "detections": [[1, 10, 10, 40, 40, .9], [1, 10, 10, 39, 40, .8]]}], [1]
    yield "empty detection", [{"truths": [truth], "detections": [[1, 10, 10, 0, 0, .9], [1, *box, .3]]}], [1]
    yield "class without objects", [{"truths": [truth], "detections": [[1, *box, .9], [2, *box, .9]]}], [1, 2]


def outline(rng, height, width, corners, reach, step):
    """A polygon of random corners: crossing itself, leaving the picture, with repeated corners and fine or coarse numbers."""
    points = rng.uniform(-reach, 1 + reach, (corners, 2)) * [width, height]
    if rng.random() < .5:  # a star around a centre, as real outlines are
        centre = rng.uniform(.2, .8, 2) * [width, height]
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(.1, .5, corners) * min(height, width)
        points = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    if rng.random() < .2:
        points = np.repeat(points, rng.integers(1, 3, corners), axis=0)
    return [round(round(float(v) / step) * step, 4) for v in points.reshape(-1)]


def polygons_to_mask(polygons, height, width):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def text(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def counts(mask):
    """Uncompressed runs, as COCO writes them for crowds."""
    flat, out, last = mask.reshape(-1, order="F"), [0], 0
    for value in flat:
        if value != last:
            out.append(0)
            last = value
        out[-1] += 1
    return out


def raster_cases(rng):
    out = []
    for _ in range(120):
        height, width = int(rng.integers(1, 60)), int(rng.integers(1, 60))
        polygons = [outline(rng, height, width, int(rng.integers(3, 12)), float(rng.choice([0, .4])),
                            float(rng.choice([1, .5, .1, .0001]))) for _ in range(rng.integers(1, 4))]
        mask = polygons_to_mask(polygons, height, width)
        out.append({"size": [height, width], "polygons": polygons, "counts": counts(mask), "text": text(mask),
                    "area": int(mask.sum())})
    return out


def overlap_cases(rng):
    out = []
    for number in range(40):
        height, width = int(rng.integers(1, 40)), int(rng.integers(1, 40))
        fill = [0, 1, .02, .5][number % 4]
        masks = [(rng.random((height, width)) < f).astype(np.uint8) for f in (fill, .5)]
        if number % 3 == 0:
            masks = [polygons_to_mask([outline(rng, height, width, 6, .1, .1)], height, width) for _ in range(2)]
        a, b = (coco_mask.encode(np.asfortranarray(m)) for m in masks)
        out.append({"size": [height, width], "texts": [text(m) for m in masks],
                    "iou": float(coco_mask.iou([a], [b], [0])[0, 0]), "crowd": float(coco_mask.iou([a], [b], [1])[0, 0])})
    return out


def paste_cases(rng):
    """Masks of boxes as masks of pictures: reframe_box_masks_to_image_masks of the OD API's utils/ops.py."""
    import tensorflow as tf
    out = []
    for number in range(40):
        height, width = (int(v) for v in rng.integers(1, 50, 2))
        rows, columns = (int(v) for v in rng.choice([1, 2, 7, 15, 33], 2))
        mask = rng.random((rows, columns)).astype(np.float32)
        if number % 2:  # smooth blobs, as networks give them
            y, x = np.mgrid[-1:1:rows * 1j, -1:1:columns * 1j]
            mask = np.exp(-(x * x * rng.uniform(.3, 3) + y * y * rng.uniform(.3, 3))).astype(np.float32)
        low, high = rng.uniform(-.2, .6, 2), rng.uniform(.3, 1.2, 2)
        box = np.array([*low, *high], np.float32)
        if number % 8 == 0:
            box = np.array([[0, 0, 1, 1], [.5, .5, .5, .5], [.8, .1, .2, .9], [0, 0, 1e-5, 1]][number // 8 % 4], np.float32)
        ymin, xmin, ymax, xmax = tf.constant(box)
        h, w = tf.maximum(ymax - ymin, 1e-4), tf.maximum(xmax - xmin, 1e-4)
        corners = tf.stack([(0 - ymin) / h, (0 - xmin) / w, (1 - ymin) / h, (1 - xmin) / w])[None]
        pasted = tf.image.crop_and_resize(mask[None, :, :, None], corners, [0], [height, width], extrapolation_value=0)
        pasted = tf.greater(pasted[0, :, :, 0], .5).numpy()
        out.append({"size": [height, width], "mask_size": [rows, columns], "mask": [float(v) for v in mask.reshape(-1)],
                    "box": [float(v) for v in box], "text": text(pasted)})
    return out


def mask_summary(images, classes):
    """The twelve numbers of pycocotools for masks."""
    anns, dets = [], []
    for index, image in enumerate(images):
        height, width = image["size"]
        for t in image["truths"]:
            bbox = coco_mask.toBbox({"size": [height, width], "counts": t["text"].encode()})
            anns.append({"id": len(anns) + 1, "image_id": index + 1, "category_id": t["class"], "area": t["area"],
                         "iscrowd": t["crowd"], "segmentation": t["segmentation"], "bbox": [float(v) for v in bbox]})
        for d in image["detections"]:
            rle = {"size": [height, width], "counts": d["text"].encode()}
            dets.append({"id": len(dets) + 1, "image_id": index + 1, "category_id": d["class"], "score": d["score"],
                         "segmentation": rle, "area": float(coco_mask.area(rle)), "iscrowd": 0,
                         "bbox": [float(v) for v in coco_mask.toBbox(rle)]})
    sizes = [{"id": i + 1, "height": m["size"][0], "width": m["size"][1]} for i, m in enumerate(images)]
    return twelve(sizes, anns, dets, classes, "segm")


def mask_images(rng, count, classes, objects, crowds, empties):
    out = []
    for _ in range(count):
        height, width = int(rng.integers(30, 160)), int(rng.integers(30, 160))
        truths, detections = [], []
        for _ in range(rng.integers(0, objects + 1)):
            polygons = [outline(rng, height, width, int(rng.integers(3, 9)), .1, .1) for _ in range(rng.integers(1, 3))]
            mask = polygons_to_mask(polygons, height, width)
            crowd = int(rng.random() < crowds)
            kind = rng.integers(0, 3)
            size = [height, width]
            segmentation = polygons if kind == 0 and not crowd else {"size": size, "counts": counts(mask)}
            if kind == 2:
                segmentation = {"size": size, "counts": text(mask)}
            c = int(rng.integers(1, classes + 1))
            truths.append({"class": c, "segmentation": segmentation, "text": text(mask), "crowd": crowd,
                           "area": float(mask.sum()) if rng.random() < .7 else round(float(mask.sum()) * 1.3 + 1, 1)})
            for _ in range(rng.integers(0, 4)):
                shift = rng.integers(-6, 7, 2) if rng.random() < .7 else (0, 0)
                moved = np.roll(mask, shift, (0, 1)) * (rng.random(mask.shape) > rng.choice([0, .05, .3]))
                if rng.random() < empties:
                    moved = np.zeros_like(mask)
                k = c if rng.random() < .85 else int(rng.integers(1, classes + 2))
                detections.append({"class": k, "text": text(moved), "score": round(float(rng.integers(0, 11)) / 10, 4)})
        out.append({"size": [height, width], "truths": truths, "detections": detections})
    return out


def mask_cases(rng):
    yield "nothing", [{"size": [9, 7], "truths": [], "detections": []}], [1]
    for number in range(24):
        classes = int(rng.integers(1, 4))
        images = mask_images(rng, int(rng.integers(1, 7)), classes, int(rng.integers(1, 7)),
                             float(rng.choice([0, .3, 1])), float(rng.choice([0, .3])))
        yield f"random masks {number}", images, list(range(1, classes + 1))


def write(path, cases):
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")


def main():
    rng = np.random.default_rng(7)
    cases = [{"name": name, "classes": classes, "images": images, "expected": summary(images, classes)}
             for name, images, classes in contrived()]
    for number in range(40):
        classes = int(rng.integers(1, 5))
        images = random_case(rng, int(rng.integers(1, 9)), classes, int(rng.integers(1, 10)),
                             float(rng.choice([.02, .08, .2])), float(rng.choice([1, .25])),
                             int(rng.choice([4, 1000])), float(rng.choice([0, .25])), float(rng.choice([60, 250])))
        ids = list(range(1, classes + 1))
        cases.append({"name": f"random {number}", "classes": ids, "images": images,
                      "expected": summary(images, ids)})
    folder = sys.argv[1]
    write(os.path.join(folder, "cases.json"), cases)
    rng = np.random.default_rng(11)
    write(os.path.join(folder, "rasters.json"), raster_cases(rng))
    write(os.path.join(folder, "overlaps.json"), overlap_cases(rng))
    write(os.path.join(folder, "pastes.json"), paste_cases(rng))
    write(os.path.join(folder, "masks.json"), [{"name": name, "classes": ids, "images": images,
                                                "expected": mask_summary(images, ids)}
                                               for name, images, ids in mask_cases(rng)])


if __name__ == "__main__":
    main()
