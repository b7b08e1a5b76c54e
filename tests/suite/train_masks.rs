//! Learns columns of masks from outlines on the committed Mask R-CNNs, and measures them on other pictures.

use crate::common;
use crate::common::graphs::{node, vector, with};
use crate::common::network::Opened;
use crate::common::outlines::{ellipse, outlined, triangle};
use tfgraft::data::{Dataset, load};
use tfgraft::head::columns::{LayerValues, NewColumns};
use tfgraft::head::{Role, understand};
use tfgraft::pb::DataType;
use tfgraft::pb::attr_value::Value;
use tfgraft::saved_model::SavedModel;
use tfgraft::train::cache::{CacheOptions, FeatureCache};
use tfgraft::train::features::Showing;
use tfgraft::train::kept::OpenRows;
use tfgraft::train::task::{Task, ViewRows};
use tfgraft::train::{Classes, Frozen, Masks, TrainOptions, Trained, train};

const VIEWS: usize = 2;

/// A network with its layer of masks.
struct Masked {
    network: Box<dyn Frozen>,
    values: Vec<LayerValues>,
    masks: usize,
}

impl Masked {
    fn new(name: &str) -> Self {
        Self::of_model(&SavedModel::read(common::fixture(name).path()).unwrap())
    }

    fn of_model(model: &SavedModel) -> Self {
        let Opened { network, understood, values } = Opened::of(model);
        let masks = understood.layers.iter().position(|layer| layer.role == Role::Masks).unwrap();
        Self { network, values, masks }
    }

    fn train(&self, data: &Dataset, classes: &[&str]) -> Trained {
        let new = classes.iter().map(|&name| name.to_owned()).collect();
        let classes = Classes { new, ..Classes::default() };
        let options = TrainOptions { views: Some(VIEWS), ..TrainOptions::default() };
        train(self.network.as_ref(), data, &classes, &self.values, true, &options, &mut |_| {}).unwrap()
    }

    /// The column of masks that training gave.
    fn of(&self, trained: &Trained) -> NewColumns {
        trained.columns[self.masks].clone()
    }

    /// The mean of the old columns.
    fn mean(&self) -> NewColumns {
        let LayerValues { kernel, biases } = &self.values[self.masks];
        let mean = |row: &[f32]| row.iter().sum::<f32>() / row.len() as f32;
        NewColumns { kernel: kernel.chunks(biases.len()).map(mean).collect(), biases: vec![mean(biases)] }
    }

    /// The mean loss of a column over the pixels of these pictures' regions.
    fn loss(&self, data: &Dataset, column: &NewColumns) -> f64 {
        let tasks: Vec<Task> = self.network.tasks(true).unwrap();
        let widths =
            tasks.iter().flat_map(|task| task.sizes.iter().map(|&size| task.loss.row_widths(size, 1)));
        let mut cache = FeatureCache::new(widths.collect(), CacheOptions::default());
        let mut open = OpenRows::new(cache.layers());
        let mut matched = vec![vec![0; 4]; tasks.len()];
        let showing = Showing {
            dataset: data,
            classes: [("shape", 0)].into(),
            first_new: 0,
            views: 1,
            seed: 0,
            outlines: true,
        };
        showing
            .run(
                self.network.input(),
                0,
                |seen| ViewRows::of(self.network.as_ref(), &seen, &tasks, (0, 1)),
                |rows| rows.keep(&mut cache, &mut open, &mut matched),
            )
            .unwrap();
        cache.finish().unwrap();
        let layer = tasks.len() - 1;
        let (mut loss, mut weights) = (0.0, 0.0);
        for chunk in 0..cache.chunks(layer) {
            cache
                .read(layer, chunk, |parts| {
                    let [x, y, v] = parts else { panic!("three parts") };
                    for ((x, &y), &v) in x.f32()?.chunks(column.kernel.len()).zip(y.f32()?).zip(v.f32()?) {
                        let z = x.iter().zip(&column.kernel).map(|(x, w)| f64::from(x * w)).sum::<f64>()
                            + f64::from(column.biases[0]);
                        let (y, v) = (f64::from(y), f64::from(v));
                        loss += v * (z.max(0.0) - z * y + (-z.abs()).exp().ln_1p());
                        weights += v;
                    }
                    Ok(())
                })
                .unwrap();
        }
        assert!(weights > 0.0, "no pixel was kept");
        loss / weights
    }
}

fn data(count: u32, first: u32, shape: fn([f64; 4]) -> Vec<f64>) -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let dataset = load(&[outlined(folder.path(), count, first, shape)], None).unwrap();
    (folder, dataset)
}

#[test]
fn a_learned_column_outlines_other_pictures_better_than_the_mean() {
    if !common::has_tensorflow() {
        return;
    }
    let ((_a, few), (_b, others)) = (data(4, 0, triangle), data(6, 40, triangle));
    for name in ["tf1_masks/base", "tf2_masks/base"] {
        let opened = Masked::new(name);
        assert_eq!(opened.network.masks(), Masks::Learned, "{name}");
        let trained = opened.train(&few, &["shape"]);
        let fit = trained.fits.last().unwrap();
        assert_eq!(fit.role, Role::Masks);
        assert!(fit.losses.last() < fit.losses.first(), "{name}: {:?}", fit.losses);
        assert!(trained.statistics.matched[opened.masks][0] >= 4 * VIEWS, "{name}");
        let (before, after) =
            (opened.loss(&others, &opened.mean()), opened.loss(&others, &opened.of(&trained)));
        println!("{name}: loss of a pixel {before:.3} by the mean column, {after:.3} by the learned one");
        assert!(after < before - 0.05, "{name}: {before} and {after}");
    }
}

#[test]
fn outlines_decide_what_is_learned_and_without_them_columns_are_the_mean() {
    if !common::has_tensorflow() {
        return;
    }
    let ((_a, triangles), (_b, others)) = (data(4, 0, triangle), data(6, 40, triangle));
    let opened = Masked::new("tf1_masks/base");
    // The same pictures and boxes with the outlines of ellipses.
    let (_c, ellipses) = data(4, 0, ellipse);
    let mut misleading = triangles.clone();
    for (image, other) in misleading.images.iter_mut().zip(&ellipses.images) {
        image.objects[0].mask = other.objects[0].mask.clone();
    }
    let losses = [&triangles, &misleading]
        .map(|data| opened.loss(&others, &opened.of(&opened.train(data, &["shape"]))));
    assert!(losses[0] < losses[1] - 0.02, "{losses:?}");

    // One more picture, with an object of a class that has no outline.
    let mut mixed = triangles.clone();
    let mut plain = mixed.images[0].clone();
    plain.objects[0].mask = None;
    plain.objects[0].class = "plain".into();
    mixed.images.push(plain);
    let trained = opened.train(&mixed, &["shape", "plain"]);
    let (columns, mean) = (&trained.columns[opened.masks], opened.mean());
    let furthest = |class: usize| {
        let pairs = columns.kernel.iter().skip(class).step_by(2).zip(&mean.kernel);
        pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    assert!(furthest(0) > 1e-2 && furthest(1) < 1e-5, "{} and {}", furthest(0), furthest(1));
    let counts = &trained.statistics.matched[opened.masks];
    assert!(counts[0] > 0 && counts[1] == 0, "{counts:?}");

    mixed.images.retain(|image| image.objects[0].class == "plain");
    let trained = opened.train(&mixed, &["plain"]);
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
    assert!(opened.of(&trained).kernel.iter().zip(&mean.kernel).all(close));
    assert_eq!(trained.statistics.rows[opened.masks], 0);
    assert!(trained.fits.last().unwrap().losses.is_empty());
}

#[test]
fn where_boxes_cannot_be_fed_columns_are_the_mean_and_the_reason_is_told() {
    if !common::has_tensorflow() {
        return;
    }
    let mut model = SavedModel::read(common::fixture("tf1_masks/base").path()).unwrap();
    let conv = understand(model.meta()).unwrap().located.bodies[0].masks[0].conv;
    let graph = model.proto.meta_graphs[0].graph_def.as_mut().unwrap();
    let features = std::mem::replace(&mut graph.node[conv].input[0], "tied".into());
    // Masks that look at the number of detections too hang on more than the boxes.
    let typed = |node, key: &str, dtype: DataType| with(node, key, Value::Type(dtype as i32));
    let sum = typed(node("tied/sum", "Sum", &["num_detections", "tied/axes"]), "T", DataType::DtFloat);
    let added = node("tied", "AddV2", &[features.as_str(), "tied/zero"]);
    graph.node.extend([
        typed(vector("tied/axes", &[0]), "dtype", DataType::DtInt32),
        typed(sum, "Tidx", DataType::DtInt32),
        typed(node("tied/zero", "ZerosLike", &["tied/sum"]), "T", DataType::DtFloat),
        typed(added, "T", DataType::DtFloat),
    ]);
    let opened = Masked::of_model(&model);
    let Masks::Mean(reason) = opened.network.masks() else { panic!("{:?}", opened.network.masks()) };
    assert!(reason.contains("tied") && reason.contains("boxes"), "{reason}");
    let (_a, few) = data(2, 0, triangle);
    let trained = opened.train(&few, &["shape"]);
    let (columns, mean) = (opened.of(&trained), opened.mean());
    assert!(columns.kernel.iter().zip(&mean.kernel).all(|(a, b)| (a - b).abs() < 1e-5));
    assert!(!trained.losses.is_empty() && trained.fits.last().unwrap().losses.is_empty());
}
