#!/usr/bin/env python3
"""Makes testdata/data/two.record: two OD API examples written by TensorFlow itself (needs tensorflow and numpy).

    python3 scripts/data_oracle.py testdata/data/two.record
"""
import sys

import numpy as np
import tensorflow as tf


def floats(*values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def texts(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def ints(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def main():
    picture = (np.arange(64 * 48 * 3) % 255).astype(np.uint8).reshape(48, 64, 3)
    common = {"image/encoded": texts(tf.io.encode_png(picture).numpy()), "image/format": texts(b"png"),
              "image/width": ints(64), "image/height": ints(48)}
    first = dict(common, **{
        "image/filename": texts(b"one.png"),
        "image/object/bbox/xmin": floats(8 / 64, 0), "image/object/bbox/xmax": floats(32 / 64, 1),
        "image/object/bbox/ymin": floats(12 / 48, 0), "image/object/bbox/ymax": floats(36 / 48, 1),
        "image/object/class/text": texts(b"duck", b"pond"), "image/object/class/label": ints(1, 2)})
    second = dict(common, **{"image/filename": texts(b"two.png")})
    with tf.io.TFRecordWriter(sys.argv[1]) as writer:
        for features in (first, second):
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
