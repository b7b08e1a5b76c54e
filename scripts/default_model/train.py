"""Trains a detector: train.py DIR DATA STEPS [--config detector.config] [--batch 16] [--rate 1e-3] [--test DATA]

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
BLOCK = re.compile(r"(?:Conv1|bn_Conv1|expanded_conv_\w*|block_(\d+)_\w*)/\w+(?::0)?$")


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


def evaluate(checkpoint, config, folder):
    """Mean AP at .5 and at .5:.95 over the classes that appear, by pycocotools; and the same per class at .5."""
    import contextlib
    import io
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    tf.keras.backend.set_learning_phase(False)
    model = detector.build(False, config)
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
    arguments.add_argument("--config", type=pathlib.Path, default=detector.CONFIG)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--freeze", type=int, default=5, help="the last block of the backbone that is not trained")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--test")
    arguments.add_argument("--every", type=int, default=500)
    arguments.add_argument("--until", type=int, help="stop after this step of STEPS")
    arguments.add_argument("--alpha", type=float, help="weight of positives in the focal loss, where not the configuration's")
    given = arguments.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(1)
    directory = pathlib.Path(given.directory)
    directory.mkdir(parents=True, exist_ok=True)

    tf.keras.backend.set_learning_phase(True)
    model = detector.build(True, given.config, given.alpha)
    started = detector.start(model, directory) if given.config == detector.CONFIG else detector.start_from_default(model)
    print("backbone variables set:", started, flush=True)
    variables = model.trainable_variables
    # The first blocks see edges and textures, which photographs have taught them; their gradients cost most of a step.
    frozen = lambda v: (block := BLOCK.search(v.name)) and int(block.group(1) or 0) <= given.freeze
    variables = list({id(v): v for v in variables if not frozen(v)}.values())
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
        return {name.removeprefix("Loss/"): loss for name, loss in losses.items()}

    # Another seed after a stop, so that the pictures just seen are not the first ones again.
    data = iter(batches(model, read(given.data), given.batch, 1 + done))
    began, shown = time.time(), []
    end = given.until or given.steps
    for number in range(done + 1, end + 1):
        decayed = 0.5 + 0.5 * np.cos(np.pi * number / given.steps)
        optimizer.learning_rate.assign(given.rate * min((number - done) / warm, decayed))
        shown.append({name: float(loss) for name, loss in step(*next(data)).items()})
        if number % 50 == 0:
            means = (f"{name} {np.mean([one[name] for one in shown]):.3f}" for name in shown[0])
            print(number, *means, f"{time.time() - began:.0f} s", flush=True)
            shown = []
        if number % given.every == 0 or number == end:
            path = checkpoint.write(str(directory / f"ckpt-{number}"))
            if given.test:
                half, whole, _ = evaluate(path, given.config, given.test)
                tf.keras.backend.set_learning_phase(True)
                print(f"{number} mAP@.5 {half:.3f} mAP {whole:.3f}", flush=True)


if __name__ == "__main__":
    main()
