"""Converts base and grown models and compares what comes out with TensorFlow itself: see scripts/convert_check.

Results are kept in docs/converters.json, so that a run of some models replaces their rows alone; docs/CONVERTERS.md is
written from it. What converters print is kept in logs/ beside their environments. Exits 1 where a grown model fails and its
base does not.
"""
import argparse
import datetime
import gzip
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from outputs import difference, likes, of_detections
from ways import signature

CONVERTERS = {"onnx": "tf2onnx, onnxruntime", "openvino": "OpenVINO", "tflite": "TFLite", "tfjs": "TensorFlow.js"}
MODELS = {
    "tf1_frozen": "SSD MobileNet v1, TF1 export", "tf2_levels": "SSD MobileNet v1, TF2 export",
    "tf2_shared": "SSD MobileNet v2 FPNLite, TF2 export", "tf2_efficientdet": "EfficientDet-D0, TF2 export",
    "tf1_masks": "Mask R-CNN Inception v2, TF1 export", "tf2_masks": "Mask R-CNN ResNet 50, TF2 export",
    "tf1_position_sensitive": "R-FCN Inception v2, TF1 export", "default_model": "SSD of 90 classes, trained",
}
# A class that never fires and one that fires wherever class 1 does, so that a copy of the suppression has work.
ADD = ["--add", "silent", "--add", "copied=like:1"]
# Of the largest number of an output, or of 1 where that is smaller.
TOLERANCE = 1e-3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tfgraft", required=True)
    parser.add_argument("--environments", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, default=ROOT / "testdata/fixtures/probe.png")
    parser.add_argument("--converters", nargs="+", choices=CONVERTERS, default=list(CONVERTERS))
    parser.add_argument("--limit", type=int, default=280, help="seconds for one conversion and run")
    parser.add_argument("models", nargs="*", choices=[[], *MODELS])
    options = parser.parse_args()
    store = ROOT / "docs/converters.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    failed = []
    with tempfile.TemporaryDirectory() as work:
        for name in options.models or MODELS:
            pair = models_of(name, pathlib.Path(work), options.tfgraft)
            sides = {side: Side(folder, options) for side, folder in pair.items()}
            for converter in options.converters:
                row = {side: judged.by(converter) for side, judged in sides.items()}
                results.setdefault(name, {})[converter] = row | {"date": datetime.date.today().isoformat()}
                print(f"{name} {converter}: {row['base']['says']} | {row['grown']['says']}", flush=True)
                if worse(row):
                    failed.append(f"{name} {converter}")
                store.write_text(json.dumps(results, indent=1) + "\n")
            shutil.rmtree(work + "/" + name)
    (ROOT / "docs/CONVERTERS.md").write_text(page(results))
    if failed:
        print(f"convert_check: a grown model fails where its base does not: {', '.join(failed)}")
    sys.exit(bool(failed))


def worse(row):
    """Whether a grown model fails where its base does not."""
    runs = {side: row[side]["says"].startswith("runs") for side in ("base", "grown")}
    return (runs["base"] and not runs["grown"]) or (row["base"]["good"] and not row["grown"]["good"])


def models_of(name, work, tfgraft):
    """Folders with saved_model.pb of the base, unpacked, and of the model grown from it."""
    source = ROOT / "testdata" / (name if name == "default_model" else f"fixtures/{name}/base")
    base = work / name / "base"
    shutil.copytree(source, base)
    for packed in base.rglob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    grown = work / name / "grown"
    subprocess.run([tfgraft, "grow", base, "--quiet", *ADD, "--output", grown], check=True, stdout=subprocess.DEVNULL)
    return {"base": base / "saved_model", "grown": grown / "saved_model"}


class Side:
    """One SavedModel, with what TensorFlow says to the picture."""

    def __init__(self, model, options):
        self.model, self.options, self.work = model, options, model.parent / "work"
        self.work.mkdir()
        self.logs = options.environments / "logs" / model.parent.parent.name / model.parent.name
        self.logs.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(options.image).convert("RGB"))[np.newaxis]
        self.feed = self.work / "feed.npz"
        (name,) = signature(model).inputs
        np.savez(self.feed, **{name: pixels})
        said, self.expected = self.run("tensorflow")
        if said["stage"] != "done":
            raise SystemExit(f"TensorFlow does not run {model}: {said['reason']}")

    def run(self, way):
        work = self.work / way
        work.mkdir()
        environment = "openvino" if way == "openvino" else "tensorflow"
        python = self.options.environments / environment / "bin/python"
        command = [python, ROOT / "scripts/convert/ways.py", way, self.model, self.feed, work]
        reason = None
        with open(self.logs / f"{way}.log", "w") as log:
            try:
                status = subprocess.run(command, stdout=log, stderr=log,
                                        timeout=self.options.limit).returncode
                if status:
                    reason = f"the process ended with status {status}"
            except subprocess.TimeoutExpired:
                reason = f"not done after {self.options.limit} seconds"
        said = json.loads((work / "said.json").read_text())
        said["reason"] = reason or said["reason"]
        return said, dict(np.load(work / "outputs.npz")) if said["stage"] == "done" else None

    def by(self, converter):
        said, outputs = self.run(converter)
        note = f" ({said['note']})" if said["note"] else ""
        if said["stage"] == "done":
            good, text = compared(self.expected, outputs)
            return {"good": good, "says": text + note}
        what = "does not convert" if said["stage"] == "convert" else "converts, does not run"
        return {"good": False, "says": f"{what}{note}: {self.short(said['reason'])}"}

    def short(self, reason):
        """The first line that says something, without paths of the machine or what would break a table."""
        lines = [line.strip() for line in reason.splitlines() if not line.rstrip().endswith(":")] or ["no reason given"]
        line = re.sub(r"/\S+/", "", lines[0]).replace("|", "/").replace("`", "'")
        return line[:157] + "..." if len(line) > 160 else line


def compared(expected, got):
    """Whether outputs agree, and the sentence for the table. Detections may change places where scores tie."""
    lost = sorted(set(expected) - set(got))
    if lost:
        return False, f"runs, without {', '.join(lost)}"
    shapes = [key for key in sorted(expected) if expected[key].shape != got[key].shape]
    if shapes:
        key = shapes[0]
        return False, f"runs, {key} is {list(got[key].shape)}, not {list(expected[key].shape)}"
    scale = {key: max(1.0, np.abs(np.asarray(value, np.float64)).max(initial=0)) for key, value in expected.items()}
    a, b = ({key: np.asarray(side[key], np.float64) / scale[key] for key in expected} for side in (expected, got))
    listed = of_detections(a)
    far = [difference(a[key], b[key]) for key in a if key not in listed]
    one, other = ({key: side[key][0] for key in listed} for side in (a, b))
    found = likes(one, other, TOLERANCE)
    far += [difference(one[key][i], other[key][j]) for key in listed for i, j in enumerate(found) if j is not None]
    alone = found.count(None)
    good = bool(max(far) <= TOLERANCE and not alone)
    text = f"runs, difference {max(far):.1g}"
    return good, text + (f", {alone} of {len(found)} detections differ" if alone else "")


def page(results):
    versions = [line for name in ("tensorflow", "tensorflowjs", "openvino")
                for line in (ROOT / f"scripts/convert/requirements-{name}.txt").read_text().split()]
    lines = [(ROOT / "scripts/convert/page.md").read_text().format(versions=", ".join(v.replace("==", " ") for v in versions))]
    lines += ["| model | converter | base | grown | on |", "|---|---|---|---|---|"]
    for name, title in MODELS.items():
        for converter, called in CONVERTERS.items():
            row = results.get(name, {}).get(converter)
            said = [row["base"]["says"], row["grown"]["says"], row["date"]] if row else ["not run yet", "not run yet", ""]
            lines.append(f"| {title} (`{name}`) | {called} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


main()
