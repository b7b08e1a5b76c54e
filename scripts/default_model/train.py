"""Trains the default model: train.py DIR DATA STEPS [--batch 16] [--rate 1e-3] [--test DATA]

The OD API's model, targets and losses in a plain loop: Adam with warm-up and cosine decay, horizontal flips.
Writes DIR/ckpt-* every 500 steps and prints mean average precision at .5 on DATA of --test then. Started again, it goes on
from its last checkpoint with the optimizer's moments at zero and pictures in another order.
"""
import argparse
import json
import pathlib
import re
import time

import detector
import numpy as np
import tensorflow as tf

CLASSES = 90
MOST = 8
FROZEN = re.compile(r"(Conv1|bn_Conv1|expanded_conv_\w*|block_[1-5]_\w*)/\w+(:0)?$")


def read(folder):
    """Encoded pictures, boxes [n, MOST, 4] as (ymin, xmin, ymax, xmax) in 0..1, classes from 0, counts."""
    folder = pathlib.Path(folder)
    document = json.loads((folder / "annotations.json").read_text())
    of = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        of[annotation["image_id"]].append(annotation)
    images = document["images"]
    boxes = np.zeros((len(images), MOST, 4), np.float32)
    classes = np.zeros((len(images), MOST), np.int32)
    counts = np.zeros(len(images), np.int32)
    for row, image in enumerate(images):
        for at, annotation in enumerate(of[image["id"]][:MOST]):
            x, y, width, height = annotation["bbox"]
            boxes[row, at] = (y / image["height"], x / image["width"], (y + height) / image["height"],
                              (x + width) / image["width"])
            classes[row, at] = annotation["category_id"] - 1
            counts[row] = at + 1
    return [(folder / image["file_name"]).read_bytes() for image in images], boxes, classes, counts, document


def batches(model, data, size, seed):
    pictures, boxes, classes, counts, _ = data

    def one(picture, boxes, classes, count):
        image = tf.cast(tf.io.decode_jpeg(picture, channels=3), tf.float32)
        flip = tf.random.uniform([]) < 0.5
        image = tf.cond(flip, lambda: image[:, ::-1], lambda: image)
        mirrored = tf.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], -1)
        boxes = tf.cond(flip, lambda: mirrored, lambda: boxes)
        image, shape = model.preprocess(image[None])
        return image[0], shape[0], boxes, tf.one_hot(classes, CLASSES), count

    options = tf.data.Options()
    options.deterministic = True
    data = tf.data.Dataset.from_tensor_slices((pictures, boxes, classes, counts))
    data = data.shuffle(len(pictures), seed=seed).repeat().map(one, num_parallel_calls=2, deterministic=True)
    return data.batch(size, drop_remainder=True).prefetch(3).with_options(options)


def evaluate(checkpoint, folder):
    """Mean AP at .5 and at .5:.95 over the classes that appear, by pycocotools; and the same per class at .5."""
    import contextlib
    import io
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model = detector.build(training=False)
    tf.train.Checkpoint(model=model).read(checkpoint).expect_partial()

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])
    def detect(image):
        image, shape = model.preprocess(image)
        return model.postprocess(model.predict(image, shape), shape)

    pictures, *_, document = read(folder)
    found = []
    for picture, image in zip(pictures, document["images"]):
        output = detect(tf.cast(tf.io.decode_jpeg(picture, channels=3), tf.float32)[None])
        height, width = image["height"], image["width"]
        for box, label, score in zip(*(output[f"detection_{name}"][0].numpy() for name in ("boxes", "classes", "scores"))):
            y0, x0, y1, x1 = (float(v) for v in box)
            found.append({"image_id": image["id"], "category_id": int(label) + 1, "score": float(score),
                          "bbox": [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(pathlib.Path(folder) / "annotations.json"))
        metric = COCOeval(truth, truth.loadRes(found), "bbox")
        metric.evaluate()
        metric.accumulate()
    precision = metric.eval["precision"][:, :, :, 0, 2]
    used = [k for k in range(precision.shape[2]) if precision[0, 0, k] > -1]
    ids = metric.params.catIds
    return (precision[0][:, used].mean(), precision[:, :, used].mean(),
            {ids[k]: float(precision[0, :, k].mean()) for k in used})


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("directory")
    arguments.add_argument("data")
    arguments.add_argument("steps", type=int)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--test")
    arguments.add_argument("--every", type=int, default=500)
    arguments.add_argument("--until", type=int, help="stop after this step of STEPS")
    arguments.add_argument("--alpha", type=float, help="weight of positives in the focal loss, where not the configuration's")
    given = arguments.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(1)
    directory = pathlib.Path(given.directory)
    directory.mkdir(parents=True, exist_ok=True)

    model = detector.build(training=True, alpha=given.alpha)
    print("backbone variables set:", detector.start(model, directory), flush=True)
    variables = model.feature_extractor.trainable_variables + model._box_predictor.trainable_variables  # noqa: SLF001
    # The first blocks see edges and textures, which photographs have taught them; their gradients cost most of a step.
    variables = list({id(v): v for v in variables if not FROZEN.search(v.name)}.values())
    print("variables trained:", len(variables), flush=True)
    warm = 200
    optimizer = tf.keras.optimizers.Adam(0.0)
    checkpoint = tf.train.Checkpoint(model=model)
    step_of = lambda path: int(path.stem.split("-")[1])
    last = max(directory.glob("ckpt-*.index"), key=step_of, default=None)
    done = step_of(last) if last else 0
    if last:
        checkpoint.read(str(last.with_suffix(""))).assert_existing_objects_matched()
        print("going on after step", done, flush=True)

    @tf.function
    def step(images, shapes, boxes, classes, counts):
        rows = range(given.batch)
        model.provide_groundtruth(
            groundtruth_boxes_list=[boxes[i, :counts[i]] for i in rows],
            groundtruth_classes_list=[classes[i, :counts[i]] for i in rows],
            groundtruth_weights_list=[tf.ones([counts[i]]) for i in rows])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = model.loss(model.predict(images, shapes), shapes)
            total = tf.add_n([*losses.values(), *model.regularization_losses()])
        gradients, _ = tf.clip_by_global_norm(tape.gradient(total, variables), 10.0)
        optimizer.apply_gradients(zip(gradients, variables))
        return losses["Loss/classification_loss"], losses["Loss/localization_loss"]

    # Another seed after a stop, so that the pictures just seen are not the first ones again.
    data = iter(batches(model, read(given.data), given.batch, 1 + done))
    began, shown = time.time(), []
    end = given.until or given.steps
    for number in range(done + 1, end + 1):
        decayed = 0.5 + 0.5 * np.cos(np.pi * number / given.steps)
        optimizer.learning_rate.assign(given.rate * min((number - done) / warm, decayed))
        shown.append([float(v) for v in step(*next(data))])
        if number % 50 == 0:
            print(number, "classification %.3f localization %.3f" % tuple(np.mean(shown, 0)),
                  f"{time.time() - began:.0f} s", flush=True)
            shown = []
        if number % given.every == 0 or number == end:
            path = checkpoint.write(str(directory / f"ckpt-{number}"))
            if given.test:
                half, whole, _ = evaluate(path, given.test)
                print(f"{number} mAP@.5 {half:.3f} mAP {whole:.3f}", flush=True)


if __name__ == "__main__":
    main()
