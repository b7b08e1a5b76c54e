"""Checks what tfgraft wrote with TensorFlow's own Python: another implementation of every loader.

  crosscheck.py models BASE GROWN IMAGE... --added N [--oracle DIR] [--atol 1e-5] [--no-old-columns]
      GROWN must load, run, re-save and show everywhere that BASE does, give the same numbers in every way, and have N
      more classes. With an oracle (the same model built larger by other means) every output must agree with its. Where the
      batch is free, two pictures at once are compared, too.
  crosscheck.py roundtrip A.pb B.pb [--message saved_model|graph]
      Both files must hold the same message, and no field unknown to TensorFlow.

A model is a SavedModel folder, or a folder with saved_model/ inside. Exits 0 when all checks passed, 1 when one failed,
2 when the arguments are wrong.
"""
import argparse
import ctypes
import gc
import io
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf
from google.protobuf.unknown_fields import UnknownFieldSet
from PIL import Image
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from outputs import difference, likes, moved, of_detections

SIGNATURE = "serving_default"
failures = 0


# Outputs of two-stage models with an axis of classes that is not the last, or not called scores.
OF_EACH_CLASS = ("class_predictions_with_background", "mask_predictions", "refined_box_encodings")


def report(passed, what):
    global failures
    failures += not passed
    print(f"{'ok  ' if passed else 'FAIL'} {what}", flush=True)
    return passed


def give_back():
    """Frees models that were loaded before: they lie in cycles, gigabytes each, and the allocator keeps what is free."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def forget():
    """Where memory is short, no other model stays loaded while one is."""
    if Model.alone:
        Model.alone.loaded = Model.alone = None
        give_back()


def attempt(what, function, control=None):
    """The function's result, or None after saying why there is none: a failure, unless the control fails too."""
    give_back()
    try:
        result = function()
    except Exception as error:  # any failure of a loader is a finding, not a crash
        said = f"{what}: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    else:
        report(True, what)
        return result
    if control is not None:
        try:
            control()
        except Exception:
            print(f"     {said} (and so with the base)", flush=True)
            return None
    report(False, said)
    return None


class Model:
    """A SavedModel on disk with its serving signature."""

    alone = None  # the one that is loaded, where only one may be

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.folder = folder / "saved_model" if (folder / "saved_model").is_dir() else folder
        message = saved_model_pb2.SavedModel.FromString((self.folder / "saved_model.pb").read_bytes())
        self.graph = message.meta_graphs[0]
        signature = self.graph.signature_def[SIGNATURE]
        ((self.key, self.info),) = signature.inputs.items()
        self.outputs = dict(signature.outputs)
        self.loaded = None

    def feed(self, *pictures):
        """Pictures, all of one size, as the input takes them."""
        if self.info.dtype != tf.string.as_datatype_enum:
            return np.stack(pictures).astype(tf.as_dtype(self.info.dtype).as_numpy_dtype)
        return np.array([self.text(png(picture)) for picture in pictures], object)

    def text(self, file):
        """The bytes of a file, or the example that holds them."""
        graph = self.graph.graph_def
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        if not any(node.op.startswith("Parse") and "Example" in node.op for node in nodes):
            return file
        values = {"image/encoded": file, "image/format": b"png"}
        feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for key, v in values.items()}
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    def takes_many(self):
        shape = self.info.tensor_shape
        return not shape.unknown_rank and shape.dim[0].size < 0

    def shape(self, output):
        """The static shape of an output, None for what it does not say."""
        shape = self.outputs[output].tensor_shape
        return None if shape.unknown_rank else [None if d.size < 0 else d.size for d in shape.dim]

    def load(self):
        """The model, loaded once: most of a check's time would go into loading it for every question."""
        if self.loaded is None:
            forget()
            self.loaded = tf.saved_model.load(str(self.folder))
            Model.alone = self if options.one_at_a_time else None
        return self.loaded

    def signature(self, *images):
        function = self.load().signatures[SIGNATURE]
        return numpy(function(**{self.key: tf.constant(self.feed(*images))}))

    def call(self, image):
        """The object itself called, as Python users of a TF2 export do; frozen exports have none to call."""
        return numpy(self.load()(tf.constant(self.feed(image))))

    def resaved(self, image):
        loaded = self.load()
        with tempfile.TemporaryDirectory() as target:
            tf.saved_model.save(loaded, target, signatures=loaded.signatures[SIGNATURE])
            del loaded
            return Model(target).signature(image)

    def session(self, image):
        forget()
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            tf.compat.v1.saved_model.load(session, ["serve"], str(self.folder))
            names = {key: info.name for key, info in self.outputs.items()}
            return session.run(names, {self.info.name: self.feed(image)})

    def tool(self, *arguments):
        forget()
        command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError((result.stderr.strip().splitlines() or ["no message"])[-1])
        return result.stdout

    def shown(self):
        return self.tool("show", "--dir", str(self.folder), "--all")

    def run_by_tool(self, image):
        with tempfile.TemporaryDirectory() as target:
            np.save(os.path.join(target, "in.npy"), self.feed(image), allow_pickle=True)
            self.tool("run", "--dir", str(self.folder), "--tag_set", "serve", "--signature_def", SIGNATURE,
                      "--inputs", f"{self.key}={target}/in.npy", "--outdir", target, "--overwrite")
            return {key: np.load(os.path.join(target, key + ".npy")) for key in self.outputs}


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def numpy(tensors):
    return {key: tensor.numpy() for key, tensor in tensors.items()}


def compare(what, a, b, atol, other=None):
    """Every output of a and b; what belongs to single detections may change places where scores tie.

    `other` is the same two of the oracle, or the base: nothing needs to be nearer than these are to each other.
    """
    if not report(set(a) == set(b), f"{what}: the same outputs"):
        return
    per_detection = of_detections(a)
    also = apart_by(*other) if other else {}
    for key in sorted(a):
        if a[key].shape != b[key].shape:
            report(False, f"{what}: {key} has shape {a[key].shape} and {b[key].shape}")
        elif key not in per_detection:
            apart = difference(a[key], b[key])
            said = f", as another model's by {also[key]:.3g}" if also.get(key, 0) > atol else ""
            report(apart <= max(atol, also.get(key, 0)), f"{what}: {key} {list(a[key].shape)} differs by {apart:.3g}{said}")
    if not per_detection or any(a[key].shape != b[key].shape for key in per_detection):
        return
    atol = max(atol, *also.values(), 0)
    count, lost, cut, others_lost, farthest = 0, [], 0, 0, 0.0
    for picture, scores in enumerate(a["detection_scores"]):
        of_picture = lambda side: {key: side[key][picture] for key in per_detection}
        far, without = moved(*map(of_picture, other)) if other else (0.0, 0)
        farthest, others_lost = max(farthest, far), others_lost + without
        found = likes(of_picture(a), of_picture(b), max(atol, far))
        # Of equals at the end of a full list one is in it and the other not.
        full = 0 < scores.min()
        alone = [place for place, like in enumerate(found) if like is None]
        tied = [place for place in alone if full and scores[place] <= scores.min() + atol]
        count, cut = count + len(found), cut + len(tied)
        lost += [(picture, place) for place in alone if place not in tied]
    said = f", {cut} equal to the last of a full list" if cut else ""
    said += f"; another model's move by {farthest:.3g}, {others_lost} without their like" if max(farthest, others_lost) > atol else ""
    report(len(lost) <= others_lost, f"{what}: {count} detections, {len(lost)} without their like" + (f": {lost[:5]}" if lost else "") + said)


def of_pictures(model, pictures):
    """The outputs that have a row for each picture: run at once, and run alone and joined."""
    together, alone = model.signature(*pictures), [model.signature(picture) for picture in pictures]
    keys = [key for key in together if len(together[key]) == len(pictures) and all(len(one[key]) == 1 for one in alone)]
    return {key: together[key] for key in keys}, {key: np.concatenate([one[key] for one in alone]) for key in keys}


def apart_by(a, b):
    """How far outputs that do not belong to detections are apart, by output."""
    return {key: difference(a[key], b[key]) for key in a if key in b and a[key].shape == b[key].shape and key not in of_detections(a)}


def of_base(base, way, image, apart, atol):
    """Where the grown model moves by more than the tolerance: the base loaded in the same way, and as always."""
    return None if all(by <= atol for by in apart.values()) else (way(base, image), base.signature(image))


def check_models(options):
    base, grown = Model(options.base), Model(options.grown)
    oracle = Model(options.oracle) if options.oracle else None
    first = pixels_of(options.images[0])
    report((base.key, base.info.dtype) == (grown.key, grown.info.dtype), f"the input is still {base.key}")

    expected = attempt("tf.saved_model.load", lambda: grown.signature(first))
    if expected is None:
        return
    ways = {"calling the object": Model.call, "saving again and loading that": Model.resaved,
            "tf.compat.v1.saved_model.load": Model.session, "saved_model_cli run": Model.run_by_tool}
    for way, function in ways.items():
        got = attempt(way, lambda: function(grown, first), lambda: function(base, first))
        if got is not None:
            same = {key: expected[key] for key in expected if key in got}
            compare(way, got, same, options.atol, of_base(base, function, first, apart_by(got, same), options.atol))
    attempt("saved_model_cli show --all", grown.shown)

    # Columns, classes and shapes, as the signature says them and as they come out.
    old = base.signature(first)
    wider = 0
    for key in sorted(old):
        if key not in expected:
            report(False, f"output {key} is lost")
            continue
        grew = [n - o for o, n in zip(old[key].shape, expected[key].shape)]
        scores = key in ("detection_multiclass_scores", "raw_detection_scores")
        wider += scores
        if key in OF_EACH_CLASS:
            right = [g for g in grew if g] == [options.added]
        else:
            right = grew == [0] * (len(grew) - 1) + [options.added] if scores else not any(grew)
        report(right,
               f"{key}: {list(old[key].shape)} became {list(expected[key].shape)}")
        said, before = grown.shape(key), base.shape(key)
        fits = said is None or len(said) == len(expected[key].shape) and all(
            s in (None, n) for s, n in zip(said, expected[key].shape))
        known = [s is None for s in said or []] == [s is None for s in before or []]
        report(fits and known, f"{key}: the signature says {said}, before {before}")
    report(wider > 0, "some output has a column per class")

    models = {name: model for name, model in (("base", base), ("grown", grown), ("oracle", oracle)) if model}
    for image in options.images:
        picture, name = pixels_of(image), pathlib.Path(image).name
        ran = {name: model.signature(picture) for name, model in models.items()}
        if options.old_columns and "raw_detection_scores" in old:
            before, after = ran["base"]["raw_detection_scores"], ran["grown"]["raw_detection_scores"]
            columns = before.shape[-1]
            if np.allclose(before.sum(-1), 1, atol=1e-3):
                # A softmax over background and classes: the old ones share what the new ones leave.
                before = before * (1 - after[..., columns:].sum(-1, keepdims=True))
            apart = difference(before, after[..., :columns])
            report(apart <= options.atol, f"{name}: old columns of raw_detection_scores differ by {apart:.3g}")
        if oracle:
            compare(f"{name}: oracle", ran["grown"], ran["oracle"], options.atol)
        if grown.takes_many():
            two = [picture, np.ascontiguousarray(picture[::-1, ::-1])]
            both = attempt(f"{name}: two pictures", lambda: grown.signature(*two), lambda: base.signature(*two))
            # Sums over another batch are taken in another order, and random weights make much of it.
            compare(f"{name}: two pictures and each alone", *of_pictures(grown, two), options.atol, of_pictures(oracle or base, two))
            if both and oracle and oracle.takes_many():
                compare(f"{name}: two pictures, oracle", both, oracle.signature(*two), options.atol)


def unknown_fields(message, path=""):
    """Every field that TensorFlow's definitions do not have, by where it lies."""
    for field in UnknownFieldSet(message):
        yield f"{path or message.DESCRIPTOR.name}: number {field.field_number}"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        here = f"{path}.{field.name}"
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in value:
                    yield from unknown_fields(value[key], f"{here}[{key}]")
        elif hasattr(value, "DESCRIPTOR"):
            yield from unknown_fields(value, here)
        else:
            for i, item in enumerate(value):
                yield from unknown_fields(item, f"{here}[{i}]")


def first_difference(a, b, path=""):
    """Where two messages of one type differ."""
    for field in a.DESCRIPTOR.fields:
        x, y = getattr(a, field.name), getattr(b, field.name)
        here = f"{path}.{field.name}"
        if field.message_type is not None and hasattr(x, "DESCRIPTOR"):
            if a.HasField(field.name) != b.HasField(field.name):
                return f"{here} is set in one only"
            if x.SerializeToString(deterministic=True) != y.SerializeToString(deterministic=True):
                return first_difference(x, y, here)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            if set(x) != set(y):
                return f"{here} has other keys: {sorted(map(str, set(x) ^ set(y)))[:5]}"
            for key in x:
                if hasattr(x[key], "DESCRIPTOR"):
                    if x[key].SerializeToString(deterministic=True) != y[key].SerializeToString(deterministic=True):
                        return first_difference(x[key], y[key], f"{here}[{key}]")
                elif x[key] != y[key]:
                    return f"{here}[{key}]"
        elif field.message_type is not None:
            if len(x) != len(y):
                return f"{here} has {len(x)} and {len(y)} items"
            for i, (u, v) in enumerate(zip(x, y)):
                if u.SerializeToString(deterministic=True) != v.SerializeToString(deterministic=True):
                    return first_difference(u, v, f"{here}[{i}]")
        elif x != y:
            return here
    return f"{path}: bytes only"


def check_roundtrip(options):
    kind = {"saved_model": saved_model_pb2.SavedModel, "graph": graph_pb2.GraphDef}[options.message]
    a, b = (kind.FromString(pathlib.Path(path).read_bytes()) for path in (options.a, options.b))
    # Not a == b: there a number that is no number differs from itself.
    same = a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)
    report(same, "the same message" if same else f"messages differ at {first_difference(a, b)}")
    for path, message in ((options.a, a), (options.b, b)):
        unknown = list(unknown_fields(message))
        report(not unknown, f"{path}: {len(unknown)} unknown fields" + (f": {unknown[:3]}" if unknown else ""))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(required=True)
models = commands.add_parser("models")
models.set_defaults(run=check_models)
models.add_argument("base")
models.add_argument("grown")
models.add_argument("images", nargs="+")
models.add_argument("--added", type=int, required=True)
models.add_argument("--oracle")
models.add_argument("--atol", type=float, default=1e-5)
models.add_argument("--one-at-a-time", action="store_true",
                    help="keep no more than one model in memory: TensorFlow takes 10 GB for a graph of 400 MB in constants")
models.add_argument("--no-old-columns", dest="old_columns", action="store_false",
                    help="old scores may change: softmax heads share one probability among more classes")
roundtrip = commands.add_parser("roundtrip")
roundtrip.set_defaults(run=check_roundtrip)
roundtrip.add_argument("a")
roundtrip.add_argument("b")
roundtrip.add_argument("--message", choices=["saved_model", "graph"], default="saved_model")

options = parser.parse_args()
options.run(options)
print(f"{failures} failures")
sys.exit(1 if failures else 0)
