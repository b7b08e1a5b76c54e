#!/usr/bin/env python3
"""Puts attacks into a committed model, built by TensorFlow's own Python, and shows that tfgraft runs none of them:
PYTHON scripts/attack_check.py TFGRAFT (PYTHON: the environment of scripts/python-env).

Each operation is put where serving runs it, where loading runs it, and where nothing does. `detect` and `grow` must refuse with
exit code 1 and name it, and no file may appear. So that the check is known to be able to fail, the same model is then
run with --trust: attacks that write a file must have written it.
"""
import argparse
import gzip
import os
import pathlib
import shutil
import subprocess
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf  # noqa: E402
from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "testdata/fixtures/probe.png"
SECRET = "/etc/passwd"
raw = tf.raw_ops


def attacks(mark):
    """Name → (what builds it, whether it writes the file `mark` where it is run)."""
    scalar = tf.TensorSpec([], tf.float32)

    def inside_a_function(x):
        tf.io.write_file(mark, "x")
        return x

    def function(f):
        return tf.function(f).get_concrete_function(scalar)

    def table():
        handle = raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
        raw.InitializeTableFromTextFileV2(table_handle=handle, filename=SECRET, key_index=-2, value_index=-1)

    one = [1.0]
    return {
        "WriteFile": (lambda: raw.WriteFile(filename=mark, contents="x"), True),
        "WriteFile in a function": (lambda: raw.StatefulPartitionedCall(args=one, Tout=[tf.float32], f=function(inside_a_function)), True),
        "PrintV2 to a file": (lambda: raw.PrintV2(input="x", output_stream=f"file://{mark}"), True),
        "Save": (lambda: raw.Save(filename=mark, tensor_names=["a"], data=[tf.constant(one)]), True),
        "SaveV2": (lambda: raw.SaveV2(prefix=mark, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(one)]), True),
        "CreateSummaryFileWriter": (lambda: raw.CreateSummaryFileWriter(
            writer=raw.SummaryWriter(), logdir=mark, max_queue=1, flush_millis=1, filename_suffix=""), True),
        "MergeV2Checkpoints": (lambda: raw.MergeV2Checkpoints(checkpoint_prefixes=[f"{mark}.part"], destination_prefix=mark), False),
        "ReadFile": (lambda: raw.ReadFile(filename=SECRET), False),
        "RestoreV2": (lambda: raw.RestoreV2(prefix=SECRET, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]), False),
        "TextLineDataset": (lambda: raw.TextLineDataset(filenames=[SECRET], compression_type="", buffer_size=0), False),
        "ImmutableConst": (lambda: raw.ImmutableConst(dtype=tf.uint8, shape=[10], memory_region_name=SECRET), False),
        "PyFunc": (lambda: tf.numpy_function(lambda: 1.0, [], tf.float32), False),
        "DebugIdentityV2": (lambda: raw.DebugIdentityV2(
            input=one, tfdbg_context_id="a", op_name="a", output_slot=0, tensor_debug_mode=2, debug_urls=[f"file://{mark}"]), False),
        "InitializeTableFromTextFileV2": (table, False),
        "MatchingFiles": (lambda: raw.MatchingFiles(pattern="/etc/*"), False),
        "WholeFileReaderV2": (lambda: raw.WholeFileReaderV2(), False),
        "DeleteSessionTensor": (lambda: raw.DeleteSessionTensor(handle="x"), False),
        "RemoteCall": (lambda: raw.RemoteCall(target="/job:worker", args=one, Tout=[tf.float32], f=function(lambda x: x)), False),
        "DecodeProtoV2": (lambda: raw.DecodeProtoV2(
            bytes=["x"], message_type="a", field_names=["a"], output_types=[tf.int32], descriptor_source=SECRET), False),
        "DatasetFromGraph": (lambda: raw.DatasetFromGraph(graph_def=b""), False),
    }


def attacked(base, build, place):
    """The model with one more operation, whose name is returned beside it."""
    with tf.Graph().as_default() as graph, tf.name_scope("attack"):
        build()
    added = graph.as_graph_def()
    model = saved_model_pb2.SavedModel.FromString(base)
    meta = model.meta_graphs[0]
    meta.graph_def.node.extend(added.node)
    meta.graph_def.library.function.extend(added.library.function)
    last = added.node[-1].name
    if place == "serving":
        next(n for n in meta.graph_def.node if n.name == "detection_boxes").input.append(f"^{last}")
    elif place == "loading":
        meta.collection_def["saved_model_main_op"].node_list.value.append(last)
    return model.SerializeToString()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tfgraft", type=lambda p: str(pathlib.Path(p).resolve()))
    program = arguments.parse_args().tfgraft
    failures = refused = effective = 0
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        mark, model, output = str(work / "touched"), work / "model", work / "grown"
        (model / "saved_model").mkdir(parents=True)
        file = model / "saved_model/saved_model.pb"
        base = gzip.decompress((ROOT / "testdata/fixtures/tf1_frozen/base/saved_model/saved_model.pb.gz").read_bytes())

        def touched():
            found = list(work.glob("touched*"))
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return bool(found)

        def run(*command):
            return subprocess.run([program, *map(str, command)], capture_output=True, text=True)

        for name, (build, writes) in attacks(mark).items():
            for place in ("serving", "loading", "nowhere"):
                file.write_bytes(attacked(base, build, place))
                for command in (("detect", model, PICTURE), ("grow", model, "--add", "a", "--output", output)):
                    done = run(*command)
                    if done.returncode != 1 or name.split()[0] not in done.stderr or touched() or output.exists():
                        failures += 1
                        print(f"FAIL {name}, {place}: {command[0]} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
                    else:
                        refused += 1
                if writes and place != "nowhere":
                    run("detect", "--trust", model, PICTURE)
                    if touched():
                        effective += 1
                    else:
                        failures += 1
                        print(f"FAIL {name}, {place}: wrote nothing even with --trust: this attack shows nothing")
    print(f"{refused} runs refused, {effective} of the attacks shown to work with --trust, {failures} failures")
    return failures > 0


if __name__ == "__main__":
    raise SystemExit(main())
