"""Trains new classes with the Object Detection API's own input pipeline, targets, losses and optimizer: the recipe of 2017.

  odapi_loop.py ZOO DATA OUT STEPS [--seed 0] [--batch 8] [--rate 0.01]

ZOO is a TF2 folder of the zoo (pipeline.config, checkpoint/), DATA a COCO file whose categories beyond ZOO's classes are the new
ones. A class head for all classes, old and new, starts from random weights and is trained, everything else is frozen; then the old
columns are put back. OUT gets saved_model/. Prints one line of JSON: seconds of each part.
"""
import argparse
import io
import json
import pathlib
import shutil
import sys
import tempfile
import time

BEGAN = time.time()
SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(SCRIPTS / "fixtures"), str(SCRIPTS / "default_model")]
import compat  # noqa: F401  (before the OD API)
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from object_detection import exporter_lib_v2, inputs, model_lib
from object_detection.builders import model_builder, optimizer_builder
from object_detection.core import standard_fields
from object_detection.protos import input_reader_pb2, pipeline_pb2, train_pb2
from PIL import Image, ImageFile
from tensorflow.python.ops import control_flow_ops

import detector  # noqa: F401  (extractors of its own, and no downloads)

# As tfgraft does, a photograph that ends early is shown as far as it goes.
ImageFile.LOAD_TRUNCATED_IMAGES = True
# Reading and augmenting call these where older releases of TensorFlow have them.
control_flow_ops.case, control_flow_ops.cond = tf.case, tf.cond
# Keras multiplies a MobileNet's widths by alpha, and so do the layers that the API hands it: once is what the zoo's weights have.
APPLICATIONS = tf.compat.v1.keras.applications
MOBILENET = APPLICATIONS.MobileNet
APPLICATIONS.MobileNet = lambda alpha, **other: MOBILENET(alpha=1.0, **other)

# Augmentations of ssd_mobilenet_v2_320x320_coco17_tpu-8.config; rate and momentum of the API's few-shot colab; a constant rate.
TRAINING = """
data_augmentation_options {{ random_horizontal_flip {{ }} }}
data_augmentation_options {{ ssd_random_crop {{ }} }}
batch_size: {batch}
optimizer {{ momentum_optimizer {{
  learning_rate {{ constant_learning_rate {{ learning_rate: {rate} }} }}
  momentum_optimizer_value: 0.9
}} use_moving_average: false }}
"""
READER = 'tf_record_input_reader {{ input_path: "{path}" }} shuffle_buffer_size: 256 num_readers: 1'
# What is shown of each kind's losses.
LOSSES = {"ssd": "Loss/classification_loss", "faster_rcnn": "Loss/BoxClassifierLoss/classification_loss",
          "center_net": "Loss/object_center"}
FIELDS = standard_fields.InputDataFields


def pipeline(zoo, classes):
    config = pipeline_pb2.TrainEvalPipelineConfig()
    text_format.Merge((zoo / "pipeline.config").read_text(), config)
    name = config.model.WhichOneof("model")
    kind = getattr(config.model, name)
    before, kind.num_classes = kind.num_classes, classes or kind.num_classes
    # Statistics of a few pictures would move what the old classes see. CenterNet's are frozen where nothing says training.
    if name == "ssd":
        kind.freeze_batchnorm = True
    elif name == "faster_rcnn":
        kind.feature_extractor.batch_norm_trainable = False
    return config, before


def build(config, training):
    """The model with its variables made."""
    model = model_builder.build(config.model, is_training=training)
    if training:
        # Two stages draw their samples from proposals and the truth.
        model.provide_groundtruth([tf.constant([[0.0, 0.0, 0.5, 0.5]])], [tf.one_hot([0], model.num_classes)],
                                  groundtruth_weights_list=[tf.ones([1])])
    model.predict(*model.preprocess(tf.zeros([1, 300, 300, 3])))
    return model


def records(data, path):
    """Writes DATA as the API's examples, without crowds; returns the categories."""
    document = json.loads(data.read_text())
    of = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if not annotation.get("iscrowd"):
            of[annotation["image_id"]].append(annotation)
    floats = lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values))
    integers = lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    strings = lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in document["images"]:
            pixels = Image.open(data.parent / image["file_name"]).convert("RGB")
            encoded = io.BytesIO()
            pixels.save(encoded, "PNG")
            boxes = np.array([a["bbox"] for a in of[image["id"]]], np.float64).reshape(-1, 4)
            low, high = boxes[:, :2] / pixels.size, (boxes[:, :2] + boxes[:, 2:]) / pixels.size
            (x0, y0), (x1, y1) = np.clip(low, 0, 1).T, np.clip(high, 0, 1).T
            writer.write(tf.train.Example(features=tf.train.Features(feature={
                "image/height": integers([pixels.size[1]]), "image/width": integers([pixels.size[0]]),
                "image/filename": strings([image["file_name"].encode()]),
                "image/source_id": strings([str(image["id"]).encode()]),
                "image/encoded": strings([encoded.getvalue()]), "image/format": strings([b"png"]),
                "image/object/bbox/xmin": floats(x0), "image/object/bbox/xmax": floats(x1),
                "image/object/bbox/ymin": floats(y0), "image/object/bbox/ymax": floats(y1),
                "image/object/class/label": integers([a["category_id"] for a in of[image["id"]]]),
            })).SerializeToString())
    return {category["id"]: category["name"] for category in document["categories"]}


def head_of(model, base):
    """Pairs of variables (trained, the base's) that classes widen; all others are given the base's values."""
    head = []
    for here, there in zip(model.variables, base.variables, strict=True):
        if here.shape == there.shape:
            here.assign(there)
        else:
            head.append((here, there))
    return head


def put_back(head, before, after, background):
    """The old columns, the background first where there is one, in their places again."""
    for here, there in head:
        wide = lambda value, columns: value.numpy().reshape(*value.shape[:-1], -1, columns + background)
        new, old = wide(here, after), wide(there, before)
        new[..., :before + background] = old
        here.assign(new.reshape(here.shape))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("zoo", type=pathlib.Path)
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("steps", type=int)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--rate", type=float, default=0.01)
    given = arguments.parse_args()
    tf.keras.utils.set_random_seed(given.seed)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        names = records(given.data, folder / "train.record")
        _, before = pipeline(given.zoo, None)
        config, _ = pipeline(given.zoo, max(before, *names))
        after = max(before, *names)
        base = build(pipeline(given.zoo, None)[0], False)
        # The file of the newest checkpoint by name: what `checkpoint` says may be a path of another machine.
        saved = sorted((given.zoo / "checkpoint").glob("ckpt-*.index"))[-1].with_suffix("")
        tf.train.Checkpoint(model=base).read(str(saved)).assert_existing_objects_matched().expect_partial()
        model = build(config, True)
        head = head_of(model, base)
        trained = [variable for variable, _ in head]
        training = text_format.Parse(TRAINING.format(batch=given.batch, rate=given.rate), train_pb2.TrainConfig())
        reader = text_format.Parse(READER.format(path=folder / "train.record"), input_reader_pb2.InputReader())
        data = iter(inputs.train_input(training, reader, config.model, model=model).repeat())
        optimizer, _ = optimizer_builder.build(training.optimizer)

        scores = LOSSES[config.model.WhichOneof("model")]

        @tf.function
        def step(features, labels):
            labels = model_lib.unstack_batch(labels, unpad_groundtruth_tensors=True)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(trained)
                model_lib.provide_groundtruth(model, labels)
                predicted = model.predict(features[FIELDS.image], features[FIELDS.true_image_shape])
                losses = model.loss(predicted, features[FIELDS.true_image_shape])
                total = tf.add_n([*losses.values(), *model.regularization_losses()])
            optimizer.apply_gradients(zip(tape.gradient(total, trained), trained))
            return losses[scores]

        ready = time.time()
        shown = []
        for number in range(1, given.steps + 1):
            shown.append(float(step(*next(data))))
            if number % 50 == 0:
                print(f"{number} classification {np.mean(shown):.3f} {time.time() - ready:.0f} s", file=sys.stderr, flush=True)
                shown = []
        done = time.time()
        put_back(head, before, after, int(config.model.WhichOneof("model") != "center_net"))
        tf.train.CheckpointManager(tf.train.Checkpoint(model=model), folder / "trained", 1).save()
        exporter_lib_v2.export_inference_graph("image_tensor", config, str(folder / "trained"), str(folder / "export"))
        given.out.mkdir(parents=True)
        shutil.move(folder / "export" / "saved_model", given.out / "saved_model")
    print(json.dumps({"start": ready - BEGAN, "steps": done - ready, "export": time.time() - done}))


if __name__ == "__main__":
    main()
