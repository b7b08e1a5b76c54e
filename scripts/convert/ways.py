"""One way from a SavedModel to numbers, in a process of its own since converters crash: ways.py WAY MODEL FEED WORK

WAY is one of those in WAYS, MODEL a folder with saved_model.pb, FEED an .npz with the one input under its signature's name,
WORK a folder for what the converter writes. outputs.npz and said.json appear in WORK: in said.json "stage" tells how far
it came (convert, run, done), "reason" why no further, "note" what the reader of the table should know.
"""
import base64
import json
import os
import pathlib
import subprocess
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

SIGNATURE = "serving_default"


def tensorflow(model, work):
    """TensorFlow itself: what every other way is compared with."""
    import tensorflow as tf

    loaded = tf.saved_model.load(model)
    function = loaded.signatures[SIGNATURE]
    return "", lambda feed: {k: v.numpy() for k, v in function(**{k: tf.constant(v) for k, v in feed.items()}).items()}


def onnx(model, work):
    import onnxruntime
    from tf2onnx import convert

    target = os.path.join(work, "model.onnx")
    sys.argv = ["tf2onnx", "--saved-model", model, "--opset", "17", "--output", target]
    convert.main()

    def run(feed):
        session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        # The names of a TF1 export's signature are lost: the converter names inputs and outputs by tensor.
        said = signature(model)
        names = {key: info.name for side in (said.inputs, said.outputs) for key, info in side.items()}
        feed = {by_name(session.get_inputs(), key, names).name: value for key, value in feed.items()}
        wanted = {key: by_name(session.get_outputs(), key, names).name for key in said.outputs}
        return dict(zip(wanted, session.run(list(wanted.values()), feed)))

    return "", run


def openvino(model, work):
    import openvino as ov

    compiled = ov.Core().compile_model(ov.convert_model(model), "CPU")

    def run(feed):
        # A name of the signature is one of the names of its port.
        return {name: value for port, value in compiled(feed).items() for name in port.get_names()}

    return "", run


def tflite(model, work):
    import tensorflow as tf

    builtins, select = tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS
    try:
        return "builtins", tflite_with(model, [builtins])
    except Exception as error:
        print(f"builtins alone: {error}", file=sys.stderr)
    return "select ops", tflite_with(model, [builtins, select])


def tflite_with(model, operations):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(model, signature_keys=[SIGNATURE], tags={"serve"})
    converter.target_spec.supported_ops = operations
    written = converter.convert()

    def run(feed):
        return tf.lite.Interpreter(model_content=written).get_signature_runner(SIGNATURE)(**feed)

    return run


def tfjs(model, work):
    # Imported for models of JAX and of decision trees only, and not installed: see docs/CONVERTERS.md.
    jax = types.ModuleType("tensorflowjs.converters.jax_conversion")
    jax.convert_jax = None
    sys.modules["tensorflowjs.converters.jax_conversion"] = jax
    sys.modules["tensorflow_decision_forests"] = types.ModuleType("tensorflow_decision_forests")
    from tensorflowjs.converters import tf_saved_model_conversion_v2

    target = os.path.join(work, "tfjs")
    # The tool's command line strips assertions by default, its function does not; TensorFlow.js has no operation for them.
    tf_saved_model_conversion_v2.convert_tf_saved_model(
        model, target, signature_def=SIGNATURE, saved_model_tags="serve", strip_debug_ops=True)

    def run(feed):
        ((name, value),) = feed.items()
        asked = {"model": target, "input": name, "shape": value.shape, "pixels": base64.b64encode(value.tobytes()).decode()}
        script = pathlib.Path(__file__).with_name("tfjs_run.js")
        node = subprocess.run(["node", str(script)], input=json.dumps(asked), capture_output=True, text=True)
        if node.returncode:
            raise RuntimeError(next((line for line in node.stderr.splitlines() if "Error" in line), node.stderr))
        answer = json.loads(node.stdout)
        # The converter knows outputs by their shape alone; those that share one are called by their tensor: by the exporter's
        # name, or, of a function, by the place among its outputs, which are in the order of their keys.
        outputs = signature(model).outputs
        keys = {f"Identity_{place}:0" if place else "Identity:0": key for place, key in enumerate(sorted(outputs))}
        keys |= {info.name: key for key, info in outputs.items()}
        answer = {keys.get(name, name): output for name, output in answer.items()}
        return {k: np.frombuffer(base64.b64decode(o["values"]), np.float32).reshape(o["shape"]) for k, o in answer.items()}

    return "", run


def signature(model):
    """The signature that serves, of a folder with saved_model.pb."""
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel.FromString(pathlib.Path(model, "saved_model.pb").read_bytes())
    return message.meta_graphs[0].signature_def[SIGNATURE]


def by_name(ports, key, names):
    """The port called as the signature's key, or as the key's tensor."""
    for port in ports:
        if port.name in (key, names[key]):
            return port
    raise RuntimeError(f"{key} of the signature is lost: there are {', '.join(port.name for port in ports)}")


WAYS = {"tensorflow": tensorflow, "onnx": onnx, "openvino": openvino, "tflite": tflite, "tfjs": tfjs}


def main():
    way, model, feed, work = sys.argv[1:]
    said = {"stage": "convert", "reason": "", "note": ""}

    def save():
        pathlib.Path(work, "said.json").write_text(json.dumps(said))

    save()
    try:
        said["note"], run = WAYS[way](model, work)
        said["stage"] = "run"
        save()
        np.savez(os.path.join(work, "outputs.npz"), **run(dict(np.load(feed))))
        said["stage"] = "done"
    except (Exception, SystemExit) as error:  # whatever a converter raises is the finding
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        said["reason"] = f"{type(error).__name__}: {error}"
    save()


if __name__ == "__main__":
    main()
