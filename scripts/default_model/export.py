"""Exports a trained checkpoint: export.py CHECKPOINT OUT [--config detector.config] [--keep-checkpoint]

OUT gets saved_model/, pipeline.config and label_map.pbtxt. Weights are rounded to bfloat16: half of their bytes are zero then and
the model packs to half its size.
"""
import argparse
import pathlib
import shutil
import tempfile

import detector
import numpy as np
import tensorflow as tf
from classes import NAMES
from object_detection import exporter_lib_v2


def rounded(value):
    """The nearest bfloat16, as float32."""
    return tf.cast(tf.cast(value, tf.bfloat16), tf.float32)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("checkpoint")
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--config", type=pathlib.Path, default=detector.CONFIG)
    arguments.add_argument("--keep-checkpoint", action="store_true", help="as scripts/bench_odapi wants it")
    given = arguments.parse_args()
    out = given.out
    model = detector.build(False, given.config)
    tf.train.Checkpoint(model=model).read(given.checkpoint).assert_existing_objects_matched().expect_partial()
    for variable in model.variables:
        if variable.dtype == tf.float32:
            variable.assign(rounded(variable))
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)
    with tempfile.TemporaryDirectory() as folder:
        tf.train.CheckpointManager(tf.train.Checkpoint(model=model), folder, 1).save()
        exporter_lib_v2.export_inference_graph("image_tensor", detector.pipeline(given.config), folder, str(out))
    if not given.keep_checkpoint:
        shutil.rmtree(out / "checkpoint")
    items = [f'item {{\n  name: "{name}"\n  id: {id}\n}}\n' for id, name in sorted(NAMES.items())]
    (out / "label_map.pbtxt").write_text("".join(items))


if __name__ == "__main__":
    main()
