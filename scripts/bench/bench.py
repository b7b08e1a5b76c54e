"""tfgraft beside the Object Detection API's own loop, on the same pictures and the same machine; started by scripts/bench_odapi.

For each number of pictures and each seed both train on the same choice of pictures and are measured by `tfgraft evaluate` on TEST.
Prints a table and keeps every run in --results, from which a stopped bench goes on.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = ("tfgraft", "OD API")


def choose(train, count, seed, folder):
    """COCO file in `folder` of `count` pictures of each category (all without), those that examples/ablation.rs takes."""
    document = json.loads(train.read_text())
    images = document["images"]
    if count is not None:
        showing = {c["id"]: {a["image_id"] for a in document["annotations"]
                             if a["category_id"] == c["id"] and not a.get("iscrowd")} for c in document["categories"]}
        order = sorted(range(len(images)), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest())
        kept = set()
        for shows in showing.values():
            kept.update([i for i in order if images[i]["id"] in shows][:count])
        images = [images[i] for i in sorted(kept)]
    ids = {image["id"] for image in images}
    folder.mkdir(parents=True)
    for image in images:
        (folder / image["file_name"]).symlink_to((train.parent / image["file_name"]).resolve())
    document = {**document, "images": images, "annotations": [a for a in document["annotations"] if a["image_id"] in ids]}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder / "annotations.json"


def measured(command, log):
    """Runs a command: wall seconds, processor seconds and peak MB of it and its children, and what it printed."""
    began = time.monotonic()
    with open(log, "wb") as errors:
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=errors)
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{pathlib.Path(log).read_text()[-2000:]}")
    return {"wall": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime, "mb": used.ru_maxrss / 1024}, printed


def evaluate(given, model, names):
    command = [given.tfgraft, "evaluate", "--json", "--quiet", model, "--data", given.test, "--new", *names]
    found = json.loads(measured(command, given.work / "evaluate.log")[1])
    return {"ap": found["groups"]["new"]["ap"], "ap50": found["groups"]["new"]["ap50"],
            "classes": {name: found["per_class"][name]["ap"] for name in names},
            "false": {name: found["false_positives"]["per_class"].get(name, {"per_image": 0})["per_image"] for name in names}}


def run(given, count, seed):
    """Both tools once."""
    folder = given.work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    data = choose(given.train, count, seed, folder / "data")
    steps = given.steps_many if count is None or count > 10 else given.steps_few
    graft = [given.tfgraft, "retrain", "--quiet", given.model, "--data", data, "--seed", seed, "--output", folder / "tfgraft"]
    loop = [given.api, HERE / "odapi_loop.py", given.model, data, folder / "OD API", steps, "--seed", seed]
    done = {}
    for tool, command in zip(TOOLS, (graft, loop)):
        done[tool], _ = measured(command, given.work / "train.log")
    report = json.loads((folder / "tfgraft" / "report.json").read_text())
    names = [new["name"] for new in report["new"]]
    shutil.copy(folder / "tfgraft" / "label_map.pbtxt", folder / "OD API")
    for tool in TOOLS:
        done[tool].update(evaluate(given, folder / tool, names))
    done["OD API"]["steps"] = steps
    shutil.rmtree(folder)
    return done


def table(results):
    """Means over seeds; of AP also the standard deviation."""
    lines = ["| pictures of each class | seeds | trained by | AP | AP50 | AP of each class | false per picture | s | s of processor | MB |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for count in dict.fromkeys(r["pictures"] for r in results):
        of = [r for r in results if r["pictures"] == count]
        for tool in TOOLS:
            runs = [r[tool] for r in of]
            mean = lambda key: statistics.fmean(run[key] for run in runs)
            each = lambda key: ", ".join(f"{name} {statistics.fmean(run[key][name] for run in runs):.3f}" for name in runs[0][key])
            spread = f" ± {statistics.stdev(run['ap'] for run in runs):.3f}" if len(runs) > 1 else ""
            steps = f", {runs[0]['steps']} steps" if "steps" in runs[0] else ""
            lines.append(f"| {count} | {len(runs)} | {tool}{steps} | {mean('ap'):.3f}{spread} | {mean('ap50'):.3f} | {each('classes')} | "
                         f"{each('false')} | {mean('wall'):.0f} | {mean('cpu'):.0f} | {mean('mb'):.0f} |")
    return "\n".join(lines)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model", type=pathlib.Path, help="TF2 folder of the zoo: pipeline.config, checkpoint/, saved_model/")
    arguments.add_argument("train", type=pathlib.Path, help="COCO file")
    arguments.add_argument("test", type=pathlib.Path, help="COCO file")
    arguments.add_argument("--pictures", default="1,3,5,10,30,all", help="of each new class")
    arguments.add_argument("--seeds", default="0", help="such as 0,1,2")
    arguments.add_argument("--steps-few", type=int, default=300, help="steps of the API's loop for up to ten pictures a class")
    arguments.add_argument("--steps-many", type=int, default=600, help="steps for more")
    arguments.add_argument("--results", type=pathlib.Path, required=True)
    arguments.add_argument("--work", type=pathlib.Path, required=True)
    arguments.add_argument("--tfgraft", required=True)
    arguments.add_argument("--api", required=True, help="python with the OD API")
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results = json.loads(given.results.read_text()) if given.results.exists() else []
    for seed in map(int, given.seeds.split(",")):
        for count in given.pictures.split(","):
            if any((r["pictures"], r["seed"]) == (count, seed) for r in results):
                continue
            number = None if count == "all" else int(count)
            results.append({"pictures": count, "seed": seed, **run(given, number, seed)})
            given.results.write_text(json.dumps(results, indent=1))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
