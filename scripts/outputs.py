"""Comparing the outputs of two models for one picture: dictionaries of arrays by the signature's names."""
import math

import numpy as np


def of_detections(outputs):
    """Names of the outputs that list detections, one row for each: these may change places where scores tie."""
    scores = outputs.get("detection_scores")
    if scores is None:
        return []
    return [key for key in sorted(outputs) if key.startswith("detection_") and outputs[key].shape[:2] == scores.shape[:2]]


def difference(a, b):
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))


def likes(a, b, atol):
    """For each detection of a the place of its like in b, alike in all outputs and each used once; None where there is none."""
    free, found = set(range(len(b["detection_scores"]))), []
    for i in range(len(a["detection_scores"])):
        like = [j for j in sorted(free, key=lambda j: abs(j - i)) if all(difference(a[k][i], b[k][j]) <= atol for k in a)]
        found.append(like[0] if like else None)
        free.discard(found[-1])
    return found


# A detection that comes out farther away is another one.
SAME = 0.01


def moved(a, b):
    """How far the detections of a that have one like them in b moved, in any output; and how many have none."""
    apart = np.zeros((len(a["detection_scores"]), len(b["detection_scores"])))
    for key in a:
        rows, others = (side[key].reshape(len(side[key]), math.prod(side[key].shape[1:])).astype(np.float64) for side in (a, b))
        for place, row in enumerate(rows):
            apart[place] = np.maximum(apart[place], np.abs(others - row).max(1, initial=0.0))
    nearest = apart.min(1, initial=np.inf)
    return float(nearest[nearest <= SAME].max(initial=0.0)), int((nearest > SAME).sum())
