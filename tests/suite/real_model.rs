//! Real exported models survive decoding and encoding, and are understood. Skipped where they are not at hand.

use crate::common;

use std::fs;
use std::path::PathBuf;

use prost::Message;
use serde_json::Value;
use tempfile::tempdir;
use tfgraft::pb;
use tfgraft::saved_model::SavedModel;

fn models() -> Vec<(&'static str, PathBuf)> {
    let Some(shared) = common::shared() else { return Vec::new() };
    let folder = shared.join("models/ssd_mobilenet_v1_075_coco");
    ["tf1", "tf2"].map(|kind| (kind, folder.join(kind))).to_vec()
}

#[test]
fn nothing_is_lost_by_decoding_and_encoding() {
    for (kind, folder) in models() {
        let bytes = fs::read(folder.join("saved_model/saved_model.pb")).unwrap();
        let read = SavedModel::read(&folder).unwrap().proto;
        let encoded = read.encode_to_vec();
        // Values of map entries that equal the default may be left out; nothing can be added. That the messages are the
        // same to an independent parser is checked by `scripts/crosscheck.py roundtrip`.
        assert!(encoded.len() <= bytes.len(), "{kind}: {} bytes became {}", bytes.len(), encoded.len());
        let again = pb::SavedModel::decode(encoded.as_slice()).unwrap();
        assert!(again.encode_to_vec() == encoded, "{kind}: encoding is not stable");
        // By bytes rather than by values: a number that is no number differs from itself.
        let plain = pb::SavedModel::decode(bytes.as_slice()).unwrap();
        assert!(plain.encode_to_vec() == encoded, "{kind}: the second decoder reads something else");

        // A file made of it is read as the same model.
        let copy = tempdir().unwrap();
        fs::write(copy.path().join("saved_model.pb"), &encoded).unwrap();
        let variables = folder.join("saved_model/variables");
        if variables.is_dir() {
            fs::create_dir(copy.path().join("variables")).unwrap();
            for entry in common::entries(&variables) {
                fs::copy(variables.join(&entry), copy.path().join("variables").join(entry)).unwrap();
            }
        }
        assert!(SavedModel::read(copy.path()).unwrap().proto.encode_to_vec() == encoded, "{kind}");
    }
}

#[test]
fn inspect_understands_both_exports() {
    let mut heads = Vec::new();
    for (kind, folder) in models() {
        let mut command = common::tfgraft();
        command.args(["inspect", "--json"]).arg(&folder).env("TFGRAFT_TENSORFLOW", "/nowhere");
        let told = common::json(&mut command);
        assert_eq!(told["can_grow"], true, "{kind}: {told}");
        assert_eq!(told["head"]["classes"], 90, "{kind}");
        assert_eq!(told["head"]["background"], true, "{kind}");
        let layers = told["head"]["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 6, "{kind}");
        for layer in layers {
            assert_eq!(layer["columns"], 91, "{kind}");
        }
        heads.push(layers.iter().map(|l| l["shape"].clone()).collect::<Vec<_>>());
    }
    // Both are exports of one checkpoint, though their layers may be listed in another order.
    let mut sorted = heads.iter().map(|shapes| {
        let mut shapes: Vec<String> = shapes.iter().map(Value::to_string).collect();
        shapes.sort();
        shapes
    });
    assert_eq!(sorted.next(), sorted.next());
}
