"""Builds models of the zoo with the OD API, grows and trains them with tfgraft, and writes down what happened.

  matrix.py --tfgraft BINARY --api PYTHON --python PYTHON --data ANNOTATIONS --work DIR [--pictures N] [NAME...]

For each model: a base and its oracle (the same model built by the API with two more classes) → `tfgraft grow` → every output
compared with the oracle's and every loader tried (crosscheck.py) → a short `tfgraft retrain`. Results are kept by name in
docs/zoo.json, from which docs/ZOO.md is written anew; a model that is not named keeps its last result.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import models

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "docs" / "zoo.json"
PAGE = ROOT / "docs" / "ZOO.md"
# MB of a model of which TensorFlow's Python does not hold three at once in 24 GB.
LARGE = 300


class Failed(Exception):
    """A step that ended with an error; its text is the last line it printed."""


def run(log, *command, check=True):
    """Output, seconds and most memory in MB of a command; everything it prints is appended to the log."""
    start = time.monotonic()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONHASHSEED": "0"}
    command = [str(c) for c in command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    with open(log, "a") as file:
        file.write(f"$ {' '.join(command)}\n{output}\n{seconds:.1f} s\n\n")
    if check and process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(error|caused by|\w*Error)\b", line, re.IGNORECASE)]
        raise Failed((errors or lines or [f"exit code {process.returncode}"])[-1][:300])
    return output, seconds, usage.ru_maxrss / 1024


def build(model, options, folder, log):
    """Exports the pair, unless it is there."""
    if (folder / "pair.json").exists():
        return
    config = folder.with_suffix(".config")
    labels = folder.with_suffix(".keypoints")
    labels.write_text(models.KEYPOINT_LABELS)
    config.write_text(model.config.replace(models.KEYPOINT_FILE, str(labels)))
    more = ["--tf1"] if model.export == "TF1" else []
    run(log, options.api, ROOT / "scripts/fixtures/export.py", config, folder, "--full-width", "--unpacked", "--seed", options.seed,
        "--classes", options.classes, "--like", options.like, "--picture", options.picture, *more)


def grow(options, folder, log):
    """Grows the base as the oracle grew, and what other programs say about it."""
    out = folder / "grown"
    shutil.rmtree(out, ignore_errors=True)
    like = options.like.split(",")
    adds = [part for n, label in enumerate(like, 1) for part in ("--add", f"new_{n}=like:{label}")]
    _, seconds, memory = run(log, options.tfgraft, "grow", folder / "base", *adds, "--output", out)
    size = sum(f.stat().st_size for f in (folder / "base" / "saved_model").rglob("*") if f.is_file()) / 2**20
    # What TensorFlow takes to load the model and look at one picture: nothing that proves a growth can take less.
    *_, loaded = run(log, options.tfgraft, "detect", folder / "base", options.picture, *label_map(options, folder))
    found = {"grow_seconds": round(seconds, 1), "grow_mb": round(memory), "model_mb": round(size), "run_mb": round(loaded)}
    more = ["--one-at-a-time"] if size > LARGE else []
    output, *_ = run(log, options.python, ROOT / "scripts/crosscheck.py", "models", folder / "base", out, options.picture,
                     "--added", len(like), "--oracle", folder / "oracle", *more, check=False)
    apart = [float(d) for d in re.findall(r": oracle: .* differs by (\S+)", output)]
    failures = re.findall(r"^FAIL (.*)", output, re.MULTILINE)
    found["loads"] = bool(re.search(r"^ok +tf\.saved_model\.load", output, re.MULTILINE))
    found["difference"] = max(apart) if apart else None
    if failures or not apart:
        found["failure"] = failures[0][:200] if failures else f"the cross-check ended after: {output.strip().splitlines()[-1][:200]}"
    return found


def train(options, folder, log):
    out = folder / "trained"
    shutil.rmtree(out, ignore_errors=True)
    try:
        _, seconds, memory = run(log, options.tfgraft, "retrain", folder / "base", *data(options, folder), "--views", 2,
                                 "--output", out, *label_map(options, folder))
    except Failed as failed:
        return {"train": str(failed)}
    return {"train": "yes", "train_pictures": options.pictures, "train_seconds": round(seconds, 1), "train_mb": round(memory)}


def data(options, folder):
    """The annotations, or those of their first pictures."""
    if not options.pictures:
        return ["--data", options.data]
    whole = json.loads(options.data.read_text())
    images = whole["images"][:options.pictures]
    numbers = {image["id"] for image in images}
    annotations = [a for a in whole["annotations"] if a["image_id"] in numbers]
    shown = {a["category_id"] for a in annotations}
    categories = [c for c in whole["categories"] if c["id"] in shown]
    path = folder / "few.json"
    path.write_text(json.dumps(whole | {"images": images, "annotations": annotations, "categories": categories}))
    return ["--data", path, "--images", options.data.parent]


def label_map(options, folder):
    """Names for classes that have none: models are built with fewer than COCO's 90."""
    path = folder / "label_map.pbtxt"
    path.write_text("".join(f"item {{ name: 'class_{n}' id: {n} }}\n" for n in range(1, options.classes + 1)))
    return ["--label-map", path]


def examine(model, options):
    """One model's result."""
    folder = options.work / model.name
    log = options.work / f"{model.name}.log"
    log.unlink(missing_ok=True)
    about = {"export": model.export, "same": list(model.same), "classes": f"{options.classes} → {options.classes + len(options.like.split(','))}"}
    try:
        build(model, options, folder, log)
    except Failed as failed:
        return about | {"missing": f"the OD API could not build it: {failed}"}
    try:
        about |= grow(options, folder, log)
    except Failed as failed:
        about |= {"failure": str(failed)}
    about |= train(options, folder, log)
    if not options.keep and "failure" not in about and about["train"] == "yes":
        shutil.rmtree(folder)
    return about


def page(results):
    """The table of all results."""
    lines = [
        "# The zoo, model by model", "",
        "Written by `scripts/zoo_matrix`. Each model was built by the Object Detection API with random weights, smaller pictures and",
        "few classes, twice: as the base and, with two more classes of copied columns, as the oracle. `grow` must compute what",
        "the oracle computes: the column *difference* is the largest in any output. *Loads*: tf.saved_model.load and the other",
        "loaders of scripts/crosscheck.py. *MB to run*: what `detect` takes at its peak to load the base and look at one picture (not",
        "measured in older rows), beside the peak of `grow`. *Train*: a `retrain` of two views a picture ran through, with its seconds",
        "and memory, on the 15 pictures of testdata/scenes/new_train or as many of them as stand there.", "",
        "| model | export | classes | grow | difference | loads | s | MB of model | MB to run | MB peak | train | s | MB peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for model in models.MODELS:
        found = results.get(model.name)
        name = model.name + "".join(f"<br>as {other}" for other in model.same)
        if model.missing or found is None or "missing" in found:
            reason = model.missing or (found or {}).get("missing") or "not run yet"
            lines.append(f"| {name} | {model.export} | | not compared: {reason} | | | | | | | | | |")
            continue
        grown = "failure" not in found
        few = found.get("train_pictures")
        trained = f"{found.get('train')}, {few} pictures" if few else found.get("train")
        cells = [name, model.export, found["classes"], "yes" if grown else f"no: {found['failure']}"]
        cells += [found.get("difference"), "yes" if found.get("loads") else "no"] + [
            found.get(key) for key in ("grow_seconds", "model_mb", "run_mb", "grow_mb")]
        cells += [trained, found.get("train_seconds"), found.get("train_mb")]
        lines.append("| " + " | ".join("" if c is None else f"{c:g}" if isinstance(c, float) else str(c).replace("|", "/") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--tfgraft", required=True)
    arguments.add_argument("--api", required=True, help="Python with the OD API")
    arguments.add_argument("--python", required=True, help="Python with TensorFlow")
    arguments.add_argument("--data", required=True, type=pathlib.Path, help="annotations to train on")
    arguments.add_argument("--work", required=True, type=pathlib.Path)
    arguments.add_argument("--picture", default=ROOT / "testdata/fixtures/probe.png", type=pathlib.Path)
    arguments.add_argument("--pictures", type=int, help="train on the first so many pictures of the data")
    arguments.add_argument("--classes", type=int, default=6)
    arguments.add_argument("--like", default="2,1")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--keep", action="store_true", help="keep models that passed")
    options = arguments.parse_args()
    unknown = set(options.names) - {model.name for model in models.MODELS}
    if unknown:
        arguments.error(f"not in the list: {', '.join(sorted(unknown))}")
    options.work.mkdir(parents=True, exist_ok=True)
    for model in models.MODELS:
        if model.missing or options.names and model.name not in options.names:
            continue
        print(f"zoo_matrix: {model.name}", flush=True)
        found = examine(model, options)
        print("   " + json.dumps({k: v for k, v in found.items() if k not in ("same", "export")}), flush=True)
        # Read only now: another run may have added to it.
        results = (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | {model.name: found}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
