#!/usr/bin/env python3
"""Makes testdata/eval/cases.json: random and contrived cases with the numbers of pycocotools.

Needs numpy and pycocotools. The Rust test tests/eval_oracle.rs holds src/eval to these numbers.

    python3 scripts/eval_oracle.py testdata/eval/cases.json
"""
import contextlib
import io
import json
import sys

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KEYS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
        "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]


def summary(images, classes):
    """The twelve numbers of pycocotools for images = [{truths, detections}] and the given class ids."""
    anns, dets = [], []
    for index, image in enumerate(images):
        for t in image["truths"]:
            anns.append({"id": len(anns) + 1, "image_id": index + 1, "category_id": t[0], "bbox": t[1:5],
                         "area": t[5], "iscrowd": t[6]})
        for d in image["detections"]:
            dets.append({"image_id": index + 1, "category_id": d[0], "bbox": d[1:5], "score": d[5]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": i + 1} for i in range(len(images))], "annotations": anns,
                        "categories": [{"id": c} for c in classes], "info": {}}
        coco.createIndex()
        results = COCO()
        results.dataset = {"images": coco.dataset["images"], "categories": coco.dataset["categories"],
                           "annotations": [dict(d, id=i + 1, area=d["bbox"][2] * d["bbox"][3], iscrowd=0)
                                           for i, d in enumerate(dets)]}
        results.createIndex()
        ev = COCOeval(coco, results, "bbox")
        ev.params.catIds = classes
        ev.evaluate()
        ev.accumulate()
        ev.summarize()
    return {k: (None if v == -1 else float(v)) for k, v in zip(KEYS, ev.stats)}


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
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
