#!/usr/bin/env python3
"""Makes testdata/train/api.json: targets that the Object Detection API itself computes.

Needs the environment of scripts/make_fixtures (object_detection). The Rust test tests/suite/train_reference.rs holds
src/train/gaussian.rs and src/train/rois.rs to these numbers, and src/train/network/pool.rs holds itself to them.

    python scripts/api_oracle.py testdata/train/api.json
"""
import json
import sys

import numpy as np
import tensorflow as tf
from object_detection.box_coders import faster_rcnn_box_coder
from object_detection.core import box_list, target_assigner
from object_detection.utils import ops

rng = np.random.default_rng(11)


def boxes(count, least, most):
    """Boxes ymin, xmin, ymax, xmax inside the unit square."""
    size = rng.uniform(least, most, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (1 - size)
    return np.concatenate([low, low + size], 1).astype(np.float32)


def heatmap_case(side, stride, count):
    """The heatmap of some objects of two classes."""
    objects, classes = boxes(count, 0.03, 0.7), rng.integers(0, 2, count)
    assigner = target_assigner.CenterNetCenterHeatmapTargetAssigner(stride=stride, min_overlap=0.7)
    one_hot = tf.one_hot(classes, 2)
    map_ = assigner.assign_center_targets_from_boxes(side, side, [tf.constant(objects)], [one_hot])[0].numpy()
    cells = map_.reshape(-1, 2)
    kept = [[int(cell), int(c), float(cells[cell, c])] for cell, c in zip(*np.nonzero(cells > 1e-3))]
    return {"side": side // stride, "objects": objects.tolist(), "classes": classes.tolist(), "target": kept}


def radius_case():
    """Radii of boxes, in cells."""
    sides = rng.uniform(0.5, 90, (40, 2)).astype(np.float32)
    found = target_assigner.max_distance_for_overlap(tf.constant(sides[:, 0]), tf.constant(sides[:, 1]), 0.7)
    return {"sides": sides.tolist(), "radius": found.numpy().tolist()}


def encode_case():
    """Encodings of objects about regions, with the second stage's scales."""
    objects, regions = boxes(30, 0.05, 0.6), boxes(30, 0.05, 0.6)
    coder = faster_rcnn_box_coder.FasterRcnnBoxCoder(scale_factors=[10.0, 10.0, 5.0, 5.0])
    codes = coder.encode(box_list.BoxList(tf.constant(objects)), box_list.BoxList(tf.constant(regions)))
    return {"objects": objects.tolist(), "regions": regions.tolist(), "codes": codes.numpy().tolist()}


def assign_case():
    """Objects of the regions of a second stage, -1 for none."""
    objects = boxes(4, 0.2, 0.6)
    near = objects[rng.integers(0, 4, 60)] + rng.normal(0, 0.06, (60, 4)).astype(np.float32)
    regions = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], 1).clip(0, 1)
    assigner = target_assigner.create_target_assigner("FasterRCNN", "detection")
    *_, match = assigner.assign(box_list.BoxList(tf.constant(regions)), box_list.BoxList(tf.constant(objects)),
                                tf.one_hot(np.arange(4), 4), unmatched_class_label=tf.zeros(4))
    return {"objects": objects.tolist(), "regions": regions.tolist(), "match": match.numpy().tolist()}


def position_sensitive_case():
    """Logits of regions: a 1×1 layer over a feature map, cut into 2×3 bins of 3×2 samples and averaged."""
    (height, width, depth), (rows, columns), classes = (5, 7, 3), (2, 3), 2
    map_ = rng.normal(0, 1, (height, width, depth)).astype(np.float32)
    kernel = rng.normal(0, 1, (depth, rows * columns * classes)).astype(np.float32)
    biases = rng.normal(0, 1, rows * columns * classes).astype(np.float32)
    regions = np.concatenate([boxes(6, 0.1, 0.9), np.float32([[0, 0, 1, 1], [0.4, 0.4, 0.4, 0.4], [-0.1, 0.5, 0.6, 1.2]])])
    # Of unknown shape, as in the zoo: otherwise the API replaces crop_and_resize by products.
    pooled = tf.function(
        lambda scores, boxes: ops.position_sensitive_crop_regions(scores, boxes, [6, 6], [rows, columns], global_pool=True),
        input_signature=[tf.TensorSpec([None, None, len(biases)]), tf.TensorSpec([None, 4])])(map_ @ kernel + biases, regions)
    return {"map_shape": list(map_.shape), "map": map_.ravel().tolist(), "kernel": kernel.ravel().tolist(),
            "biases": biases.tolist(), "bins": [rows, columns], "samples": [3, 2], "regions": regions.tolist(),
            "logits": pooled.numpy().ravel().tolist()}


cases = {"heatmaps": [heatmap_case(128, 4, 3), heatmap_case(96, 4, 5)], "radii": radius_case(),
         "encodings": encode_case(), "assignments": assign_case(), "position_sensitive": position_sensitive_case()}
short = json.loads(json.dumps(cases), parse_float=lambda text: float(f"{float(text):.9g}"))
with open(sys.argv[1], "w") as file:
    json.dump(short, file, separators=(",", ":"))
