//! The committed models are what their README says: they load, detect something, and each oracle is its base with
//! more class columns.

use crate::common;

use std::path::Path;

use tfgraft::runtime::{AnyTensor, ServingModel, SessionConfig};

/// Name, classes of the base, class columns that the new ones copy (background is column 0 where there is one).
const PAIRS: [(&str, usize, bool); 8] = [
    ("tf1_frozen", 5, true),
    ("tf2_levels", 3, true),
    ("tf2_shared", 4, true),
    ("tf2_efficientdet", 5, false),
    ("tf1_masks", 7, true),
    ("tf2_masks", 4, true),
    ("tf1_position_sensitive", 3, true),
    ("tf1_position_sensitive_fixed", 3, true),
];
const LIKE: [usize; 2] = [2, 1];

struct Ran {
    classes: Vec<f32>,
    scores: Vec<f32>,
    multiclass: Vec<Vec<f32>>,
}

fn run(folder: &Path) -> Ran {
    let config = SessionConfig { threads: Some(2), optimize: false };
    let model = ServingModel::load(&folder.join("saved_model"), &config).unwrap();
    let picture = image::open(common::probe()).unwrap().to_rgb8();
    let out = model.run_image(&picture, picture.height() as usize, picture.width() as usize).unwrap();
    let floats = |tensor: &AnyTensor| tensor.f32().unwrap().to_vec();
    let multiclass = &out["detection_multiclass_scores"];
    let columns = multiclass.shape()[2];
    Ran {
        classes: floats(&out["detection_classes"]),
        scores: floats(&out["detection_scores"]),
        multiclass: multiclass.f32().unwrap().chunks(columns).map(<[f32]>::to_vec).collect(),
    }
}

#[test]
fn oracles_have_the_columns_of_their_bases_and_copies_of_some() {
    if !common::has_tensorflow() {
        return;
    }
    for (name, classes, background) in PAIRS {
        let [base, oracle] =
            ["base", "oracle"].map(|kind| run(common::fixture(&format!("{name}/{kind}")).path()));
        let column = |label: usize| label - 1 + usize::from(background);
        assert_eq!(base.multiclass[0].len(), column(classes + 1), "{name}");
        assert_eq!(oracle.multiclass[0].len(), column(classes + 1) + LIKE.len(), "{name}");
        let found = base.scores.iter().filter(|score| **score > 0.2).count();
        assert!(found >= 3, "{name}: {:?}", base.scores);
        for row in &oracle.multiclass {
            for (i, like) in LIKE.into_iter().enumerate() {
                let (new, old) = (row[column(classes + 1 + i)], row[column(like)]);
                assert!((new - old).abs() < 1e-5, "{name}: {new} and {old}");
            }
        }
        let kinds = |ran: &Ran| {
            let mut kinds: Vec<_> = ran.classes.iter().map(|class| *class as usize).collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds.len()
        };
        assert!(kinds(&base) > 1, "{name}: one class only");
        assert!(kinds(&oracle) > kinds(&base), "{name}: no new class among the detections");
    }
}

#[test]
fn the_classifier_loads_and_is_no_detector() {
    if !common::has_tensorflow() {
        return;
    }
    let folder = common::fixture("classifier");
    let config = SessionConfig::default();
    let model = ServingModel::load(&folder.path().join("saved_model"), &config).unwrap();
    assert!(model.outputs().keys().all(|name| !name.starts_with("detection")));
    let out = model.run_image(&[0; 12], 2, 2).unwrap();
    assert_eq!(out["probabilities"].shape(), [1, 4]);
}
