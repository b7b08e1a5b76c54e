#!/usr/bin/env python3
"""Makes testdata/train/cases.json: views, targets and a fit computed independently, in NumPy.

Needs numpy alone. The Rust test tests/suite/train_reference.rs holds src/train to these numbers. The fit is convex: it is
solved here by Newton's method in other variables than there, to the end.

    python3 scripts/train_oracle.py testdata/train/cases.json
"""
import json
import sys

import numpy as np

rng = np.random.default_rng(7)


def halton(index, base):
    """Element `index` (from 1) of the van der Corput sequence."""
    value, digit = 0.0, 1.0
    while index:
        digit /= base
        value += digit * (index % base)
        index //= base
    return value


def view_case():
    """A window around one of some objects, its mirroring, and where that object then lies."""
    picture, number, seed = int(rng.integers(0, 500)), int(rng.integers(0, 12)), int(rng.integers(0, 4))
    low = rng.uniform(0, 0.6, (int(rng.integers(1, 4)), 2))
    objects = np.concatenate([low, low + rng.uniform(0.05, 0.4, low.shape)], 1).astype(np.float32).astype(float)
    ymin, xmin, ymax, xmax = objects[number % len(objects)]
    height, width = ymax - ymin, xmax - xmin
    steps = {2: 0.6180339887, 3: 0.7548776662, 5: 0.5698402910, 7: 0.8191725134}
    scale, aspect, down, across = (
        np.modf(halton(number + 1 + 1000 * seed, base) + np.modf((picture * 7919 + seed * 31) * step)[0])[0]
        for base, step in steps.items())
    side = np.sqrt(height * width) / (0.12 * (0.95 / 0.12) ** scale)
    jitter = np.exp(0.35 * (2 * aspect - 1))
    tall, wide = max(side * jitter, height), max(side / jitter, width)
    top, left = ymax - tall + (tall - height) * down, xmax - wide + (wide - width) * across
    flip = number % 2 == 1
    seen = np.array([(ymin - top) / tall, (xmin - left) / wide, (ymax - top) / tall, (xmax - left) / wide])
    if flip:
        seen[[1, 3]] = 1 - seen[[3, 1]]
    clipped = seen.clip(0, 1)
    area = lambda b: (b[2] - b[0]) * (b[3] - b[1])
    return {"picture": picture, "number": number, "seed": seed, "objects": objects.tolist(),
            "window": [top, left, top + tall, left + wide], "flip": flip, "placed": clipped.tolist(),
            "visible": area(clipped) / area(seen)}


def iou(a, b):
    """[n, m] overlaps of boxes ymin, xmin, ymax, xmax."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clip(0).prod(-1)
    area = lambda x: (x[:, 2:] - x[:, :2]).clip(0).prod(-1)
    union = area(a)[:, None] + area(b)[None] - both
    return np.where(union > 0, both / np.where(union > 0, union, 1), 0)


def targets_case():
    """Soft targets and weights of 60 anchors for 2 classes."""
    classes, count = 2, 60
    centre, size = rng.uniform(0.1, 0.9, (4, 2)), rng.uniform(0.2, 0.7, (4, 2))
    truths = np.concatenate([centre - size / 2, centre + size / 2], 1).clip(0, 1)
    of = rng.integers(0, classes, 4)
    crowd = rng.random(4) < 0.2
    visible = np.where(rng.random(4) < 0.3, rng.choice([0.01, 0.1, 0.29], 4), 1.0)
    near = truths[rng.integers(0, 4, count)]
    anchors = near + rng.normal(0, 0.1, near.shape)
    decoded = near + rng.normal(0, 0.05, near.shape)
    for boxes in (anchors, decoded):
        boxes[:, :2], boxes[:, 2:] = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    anchors, decoded, truths = (b.astype(np.float32).astype(float) for b in (anchors, decoded, truths))
    a, d = iou(anchors, truths), iou(decoded.clip(0, 1), truths)
    shown = ~crowd & (visible >= 0.3)
    unsure = ~shown & (visible > 0.02)
    target, weight = np.zeros((count, classes)), np.ones((count, classes))
    for c in range(classes):
        best = lambda x, of_these: np.where(of_these & (of == c), x, 0).max(1)
        ramp = lambda x, low, high: ((x - low) / (high - low)).clip(0, 1)
        target[:, c] = ramp(best(d, shown), 0.5, 0.85) * ramp(best(a, shown), 0.25, 0.5)
        weight[:, c] = ~((target[:, c] == 0) & (best(np.maximum(a, d), unsure) > 0.25))
    return {"anchors": anchors.tolist(), "decoded": decoded.tolist(),
            "truths": [{"class": int(c), "bbox": b.tolist(), "crowd": bool(k), "visible": float(v)}
                       for c, b, k, v in zip(of, truths, crowd, visible)],
            "target": target.tolist(), "weight": weight.tolist(),
            "overlap": np.maximum(a, d).max(1).tolist()}


def fit_case():
    """Columns of two layers for two new classes: background, four old classes and one that is silent."""
    sizes, old, classes, rows = [(5, 2), (4, 3)], 6, 2, 60
    single = lambda x: np.asarray(x, np.float32).astype(float)
    layers = []
    for depth, anchors in sizes:
        kernel, biases = rng.normal(0, 0.5, (depth, anchors, old)), rng.normal(-2, 0.5, (anchors, old))
        kernel[..., 3], biases[:, 3] = 0, -1000
        x = rng.gamma(1.0, 1.0, (rows, depth))
        y = np.where(rng.random((rows, anchors, classes)) < 0.15, rng.random((rows, anchors, classes)), 0)
        v = rng.choice([0.0, 0.5, 1.0, 8.0], (rows, anchors, classes), p=[0.1, 0.4, 0.4, 0.1])
        layers.append([single(value) for value in (kernel, biases, x, y, v)])
    used = [1, 2, 4, 5]
    likeness, columns, share, bias = 30.0, 60.0, 0.98, 0.01
    columns_of = [[np.zeros((d, a, classes)), np.zeros((a, classes))] for d, a in sizes]
    objective = 0.0
    for c in range(classes):
        # z is affine in the numbers that are fitted: one row of A for each cell, anchor.
        names = [("alpha", k) for k in used] + ["b0"]
        precision = [likeness] * len(used) + [bias]
        for l, (depth, anchors) in enumerate(sizes):
            names += [("d", l, f) for f in range(depth)]
            precision += [columns / share] * depth
            names += [("e", l, a, f) for a in range(anchors) for f in range(depth)]
            precision += [columns / (1 - share)] * (anchors * depth)
            names += [("beta", l, a) for a in range(anchors)]
            precision += [bias] * anchors
        at = {name: i for i, name in enumerate(names)}
        design, offset, target, weight, moments = [], [], [], [], []
        for l, ((depth, anchors), (kernel, biases, x, y, v)) in enumerate(zip(sizes, layers)):
            w = v.max((1, 2))
            mean = (w[:, None] * x).sum(0) / w.sum()
            deviation = np.sqrt((w[:, None] * (x - mean) ** 2).sum(0) / w.sum()) + 0.05
            moments.append((mean, deviation))
            middle, middle_bias = kernel[..., used].mean(-1), biases[:, used].mean(-1)
            for a in range(anchors):
                block = np.zeros((rows, len(names)))
                for k in used:
                    block[:, at["alpha", k]] = (x @ (kernel[:, a, k] - middle[:, a])
                                                + biases[a, k] - middle_bias[a])
                block[:, at["b0"]] = block[:, at["beta", l, a]] = 1
                white = (x - mean) / deviation
                for f in range(depth):
                    block[:, at["d", l, f]] = block[:, at["e", l, a, f]] = white[:, f]
                design.append(block)
                offset.append(x @ middle[:, a] + middle_bias[a])
                target.append(y[:, a, c])
                weight.append(v[:, a, c])
        design, offset, target, weight = (np.concatenate(x) for x in (design, offset, target, weight))
        weight = weight * (1 + target)
        precision, theta = np.array(precision), np.zeros(len(names))
        value = lambda t: ((weight * (np.logaddexp(0, offset + design @ t) - target * (offset + design @ t))).sum()
                           + 0.5 * (precision * t * t).sum())
        for _ in range(200):
            p = 1 / (1 + np.exp(-(offset + design @ theta)))
            slope = design.T @ (weight * (p - target)) + precision * theta
            step = np.linalg.solve((design.T * (weight * p * (1 - p))) @ design + np.diag(precision), slope)
            length = 1.0
            while value(theta - length * step) > value(theta) and length > 1e-12:
                length /= 2
            theta = theta - length * step
        assert np.abs(slope).max() < 1e-7, "not solved to the end"
        objective += value(theta)
        for l, ((depth, anchors), (kernel, biases, *_)) in enumerate(zip(sizes, layers)):
            mean, deviation = moments[l]
            for a in range(anchors):
                free = np.array([theta[at["d", l, f]] + theta[at["e", l, a, f]] for f in range(depth)]) / deviation
                alpha = np.array([theta[at["alpha", k]] for k in used])
                middle, middle_bias = kernel[:, a, used].mean(-1), biases[a, used].mean()
                columns_of[l][0][:, a, c] = middle + (kernel[:, a, used] - middle[:, None]) @ alpha + free
                columns_of[l][1][a, c] = (middle_bias + (biases[a, used] - middle_bias) @ alpha + theta[at["b0"]]
                                          + theta[at["beta", l, a]] - mean @ free)
    flat = lambda x: np.asarray(x).reshape(-1).tolist()
    return {"classes": classes, "objective": objective, "layers": [
        {"depth": d, "anchors": a, "kernel": flat(k), "biases": flat(b), "x": flat(x), "y": flat(y), "v": flat(v),
         "new_kernel": flat(new[0]), "new_biases": flat(new[1])}
        for (d, a), (k, b, x, y, v), new in zip(sizes, layers, columns_of)]}


cases = {"views": [view_case() for _ in range(40)], "targets": [targets_case() for _ in range(6)], "fit": fit_case()}
short = json.loads(json.dumps(cases), parse_float=lambda text: float(f"{float(text):.9g}"))
with open(sys.argv[1], "w") as file:
    json.dump(short, file, separators=(",", ":"))
