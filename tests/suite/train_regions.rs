//! Trains a position-sensitive fixture of random weights and looks at what its new columns say of the regions it was shown.

use crate::common;
use crate::common::network::Opened;

use std::collections::BTreeMap;
use std::path::Path;

use tfgraft::data::{Dataset, load};
use tfgraft::head::columns::LayerValues;
use tfgraft::saved_model::SavedModel;
use tfgraft::train::bins::gathered;
use tfgraft::train::cache::{CacheOptions, FeatureCache};
use tfgraft::train::features::Showing;
use tfgraft::train::frozen_columns::FitOptions;
use tfgraft::train::kept::OpenRows;
use tfgraft::train::parameters::Penalties;
use tfgraft::train::task::ViewRows;
use tfgraft::train::{Classes, Frozen, Strategy, TrainOptions, train};

const VIEWS: usize = 8;

/// Shares of the softmax that a new class's columns get on regions that show it, and on those that do not, in as many views
/// as it was trained on.
fn shares(network: &dyn Frozen, data: &Dataset, class: &str, columns: &LayerValues) -> [Vec<f64>; 2] {
    let tasks = network.tasks(true).unwrap();
    let widths = tasks.iter().map(|task| task.loss.row_widths(task.sizes[0], 1)).collect();
    let mut cache = FeatureCache::new(widths, CacheOptions::default());
    let mut open = OpenRows::new(tasks.len());
    let classes = BTreeMap::from([(class, 0)]);
    let showing = Showing { dataset: data, classes, first_new: 0, views: VIEWS, seed: 0, outlines: false };
    let mut matched: Vec<Vec<usize>> = network.maps(&tasks).iter().map(|map| vec![0; map.anchors]).collect();
    showing
        .run(
            network.input(),
            0,
            |seen| ViewRows::of(network, &seen, &tasks, (0, 1)),
            |rows| rows.keep(&mut cache, &mut open, &mut matched),
        )
        .unwrap();
    cache.finish().unwrap();
    let columns = gathered(columns, tasks[0].bins).unwrap();
    let mut found = [Vec::new(), Vec::new()];
    for chunk in 0..cache.chunks(0) {
        let read = cache.read(0, chunk, |parts| {
            let [x, y, _, old] = [0, 1, 2, 3].map(|part| parts[part].f32().unwrap());
            for ((x, y), old) in x.chunks_exact(columns.kernel.len()).zip(y).zip(old) {
                let product: f64 =
                    x.iter().zip(&columns.kernel).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let logit = product + f64::from(columns.biases[0]);
                found[usize::from(*y == 0.0)].push(1.0 / (1.0 + (f64::from(*old) - logit).exp()));
            }
            Ok(())
        });
        read.unwrap();
    }
    found
}

/// Trains on what a label file names and gives the mean share of regions that show the class, that of all others, and how
/// often one of the first is above one of the second.
fn learned(labels: &Path, class: &str) -> (f64, f64, f64) {
    let fixture = common::fixture("tf1_position_sensitive/base");
    let model = SavedModel::read(fixture.path()).unwrap();
    let Opened { network, values, .. } = Opened::of(&model);
    let dataset = load(&[labels.to_owned()], None).unwrap();
    let classes = Classes { new: vec![class.into()], ..Classes::default() };
    // A few pictures of 144 features are far less than the usual priors expect. What is tried is whether the layer can learn its
    // pictures at all: unseen ones would ask for a stronger prior, since random features say little of them.
    let penalties = Penalties { columns: 0.5, ..Penalties::default() };
    let strategy = Strategy::FrozenColumns(FitOptions { penalties, divide: false, ..FitOptions::default() });
    let options = TrainOptions { strategy, views: Some(VIEWS), ..TrainOptions::default() };
    let trained = train(network.as_ref(), &dataset, &classes, &values, true, &options, &mut |_| {}).unwrap();
    let scores = network.tasks(true).unwrap()[0].layers[0];
    let columns = &trained.columns[scores];
    assert_eq!(
        columns.kernel.len(),
        values[scores].kernel.len() / 4,
        "one column beside three and the background"
    );
    let columns = LayerValues { kernel: columns.kernel.clone(), biases: columns.biases.clone() };
    let [shown, others] = shares(network.as_ref(), &dataset, class, &columns);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let above = shown.iter().flat_map(|a| others.iter().map(move |b| f64::from(u8::from(a > b))));
    let found = (mean(&shown), mean(&others), mean(&above.collect::<Vec<_>>()));
    println!("{class}: {} regions show it, {} do not: {found:?}", shown.len(), others.len());
    found
}

#[test]
fn a_position_sensitive_layer_learns_squares() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let (shown, others, above) = learned(&common::squares(data.path(), 6), "square");
    assert!(above > 0.9, "{above}");
    assert!(shown > 2.0 * others, "{shown} and {others}");
}

#[test]
fn a_position_sensitive_layer_learns_ducks() {
    let Some(shared) = common::shared().filter(|_| common::has_tensorflow()) else { return };
    let (shown, others, above) = learned(&shared.join("data/ducky/train/annotations.json"), "rubber_ducky");
    assert!(above > 0.9, "{above}");
    assert!(shown > 2.0 * others, "{shown} and {others}");
}
