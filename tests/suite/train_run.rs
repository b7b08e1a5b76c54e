//! Trains on red squares with a network that sees the mean colour of each cell.

use crate::common;

use std::path::Path;

use tfgraft::data::{BoxYxyx, Dataset, ImageSource, Incomplete, LabelledImage, Object, Picture};
use tfgraft::error::{Error, Result};
use tfgraft::head::columns::{LayerValues, NewColumns};
use tfgraft::runtime::AnyTensor;
use tfgraft::train::cache::CacheOptions;
use tfgraft::train::copy_back::DescentOptions;
use tfgraft::train::frozen_columns::FitOptions;
use tfgraft::train::parameters::Penalties;
use tfgraft::train::{
    Backbone, Classes, Geometry, Input, Level, NetworkShape, Phase, Strategy, TrainOptions, Trained,
    ViewFeatures, train, views_within,
};

const SIDE: usize = 64;
const DEPTH: usize = 3;
/// Old columns of each anchor, the background first.
const COLUMNS: usize = 3;

/// Two maps, of 8 x 8 cells with one anchor and 4 x 4 with two; decoded boxes are the anchors.
struct Colours(NetworkShape);

impl Colours {
    fn new(geometry: Geometry) -> Self {
        let level = |side, anchors, layer, first_anchor| Level {
            height: side,
            width: side,
            anchors,
            depth: DEPTH,
            layer,
            first_anchor,
        };
        let levels = vec![level(8, 1, 0, 0), level(4, 2, 1, 64)];
        let mut boxes = Vec::new();
        for level in &levels {
            let side = level.width as f32;
            for cell in 0..level.cells() {
                for a in 0..level.anchors {
                    let (y, x) = ((cell / level.width) as f32 / side, (cell % level.width) as f32 / side);
                    let grow = a as f32 * 0.1 / side;
                    boxes.push(BoxYxyx::new(
                        y - grow,
                        x - grow,
                        y + 1.0 / side + grow,
                        x + 1.0 / side + grow,
                    ));
                }
            }
        }
        let input = Input { size: (SIDE, SIDE), geometry };
        Self(NetworkShape { levels, anchors: boxes, input })
    }
}

impl Backbone for Colours {
    fn shape(&self) -> &NetworkShape {
        &self.0
    }

    fn run(&self, rgb: &[u8], height: usize, width: usize) -> Result<ViewFeatures> {
        assert_eq!((rgb.len(), height, width), (SIDE * SIDE * 3, SIDE, SIDE));
        let levels = self.0.levels.iter().map(|level| {
            let step = SIDE / level.width;
            let mut values = vec![0.0; level.cells() * DEPTH];
            for (at, value) in rgb.iter().enumerate() {
                let (y, x, channel) = (at / 3 / SIDE, at / 3 % SIDE, at % 3);
                let cell = y / step * level.width + x / step;
                values[cell * DEPTH + channel] += f32::from(*value) / 255.0 / (step * step) as f32;
            }
            AnyTensor::new(&[level.cells(), DEPTH], &values)
        });
        Ok(ViewFeatures { levels: levels.collect::<Result<_>>()?, boxes: self.0.anchors.clone() })
    }
}

/// Pictures of a red square that fills one cell of either map, on blue, and one picture without it.
fn squares(dir: &Path) -> Dataset {
    let mut dataset = Dataset { categories: vec!["square".into()], ..Dataset::default() };
    for number in 0..6u32 {
        let side = if number % 2 == 0 { 8 } else { 16 };
        let (top, left) = (number * 5 % (64 / side) * side, number * 3 % (64 / side) * side);
        let inside =
            |x: u32, y: u32| number < 5 && (left..left + side).contains(&x) && (top..top + side).contains(&y);
        let rgb = (0..64)
            .flat_map(|y| (0..64).flat_map(move |x| if inside(x, y) { [250, 20, 20] } else { [20, 20, 90] }));
        let path = dir.join(format!("{number}.png"));
        Picture { width: 64, height: 64, rgb: rgb.collect() }.save(&path).unwrap();
        let part = |v: u32| v as f32 / 64.0;
        let bbox = BoxYxyx::new(part(top), part(left), part(top + side), part(left + side));
        let square =
            Object { class: "square".into(), bbox, crowd: false, difficult: false, area: 64.0, mask: None };
        let objects = if number < 5 { vec![square] } else { Vec::new() };
        dataset.images.push(LabelledImage {
            source: ImageSource::File(path),
            width: 64,
            height: 64,
            objects,
            incomplete: Incomplete::Nothing,
        });
    }
    dataset
}

fn old() -> Vec<LayerValues> {
    let layer = |anchors: usize| {
        let wide = anchors * COLUMNS;
        let kernel = (0..DEPTH * wide).map(|i| (i as f32 * 1.7).sin() * 0.1).collect();
        LayerValues { kernel, biases: vec![-3.0; wide] }
    };
    vec![layer(1), layer(2)]
}

fn run(dataset: &Dataset, options: &TrainOptions, geometry: Geometry) -> Result<Trained> {
    let classes = Classes { new: vec!["square".into()], ..Classes::default() };
    let mut last = None;
    let trained = train(&Colours::new(geometry), dataset, &classes, &old(), true, options, &mut |phase| {
        last = Some(phase)
    })?;
    assert!(matches!(last, Some(Phase::Fit { .. })));
    Ok(trained)
}

/// The logits of anchor 0 of a map for red and for blue.
fn red_and_blue(columns: &NewColumns) -> (f32, f32) {
    let anchors = columns.biases.len();
    let logit = |rgb: [f32; 3]| {
        columns.biases[0] + (0..DEPTH).map(|f| rgb[f] * columns.kernel[f * anchors]).sum::<f32>()
    };
    (logit([0.98, 0.08, 0.08]), logit([0.08, 0.08, 0.35]))
}

#[test]
fn frozen_columns_tell_red_from_blue_the_same_every_time() {
    if !common::has_tensorflow() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dataset = squares(dir.path());
    for geometry in [Geometry::Squash, Geometry::KeepAspect] {
        // Six pictures of three features are far less than the usual priors expect.
        let penalties = Penalties { columns: 0.5, ..Penalties::default() };
        let strategy = Strategy::FrozenColumns(FitOptions { penalties, ..FitOptions::default() });
        let options = TrainOptions { strategy, ..TrainOptions::default() };
        let trained = run(&dataset, &options, geometry).unwrap();
        for columns in &trained.columns {
            let (red, blue) = red_and_blue(columns);
            assert!(red > blue + 1.0, "{red} {blue}");
        }
        let (shape, fit) = (&trained.statistics, &trained.losses);
        assert_eq!((shape.images, shape.views, shape.boxes.as_slice()), (6, 5 * 8 + 2, [5].as_slice()));
        assert_eq!(fit.len(), trained.iterations + 1);
        assert!(fit.windows(2).all(|pair| pair[1] <= pair[0]));
        assert!(shape.matched[0][0] > 0 && shape.positives[0][0] > 0.0 && shape.rows[0] > 0);
        assert!(shape.memory_bytes > 0 && shape.disk_bytes == 0);
        let spilled = TrainOptions {
            cache: CacheOptions { dir: Some(dir.path().into()), limit: 0, keep: None },
            ..options
        };
        let spilled = run(&dataset, &spilled, geometry).unwrap();
        assert!(spilled.statistics.memory_bytes == 0 && spilled.statistics.disk_bytes > 0);
        assert_eq!(spilled.columns, trained.columns);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6, "the cache leaves nothing behind");
}

#[test]
fn unlabelled_squares_do_less_harm_where_their_pictures_are_named() {
    if !common::has_tensorflow() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let full = squares(dir.path());
    let mut hidden = full.clone();
    hidden.images[2..5].iter_mut().for_each(|image| image.objects.clear());
    let mut named = hidden.clone();
    named.images[2..5]
        .iter_mut()
        .for_each(|image| image.incomplete = Incomplete::Classes(vec!["square".into()]));
    // What cannot be had back is what the labels would have taught; the harm is the distance to pictures left out.
    let mut removed = hidden.clone();
    removed.images.drain(2..5);
    let penalties = Penalties { columns: 0.1, ..Penalties::default() };
    // Columns can be compared where priors are equally strong; held-out pictures would choose for each of these by itself.
    let fit = FitOptions { penalties, divide: false, ..FitOptions::default() };
    let options = TrainOptions { strategy: Strategy::FrozenColumns(fit), ..TrainOptions::default() };
    let pseudo = Strategy::FrozenColumns(FitOptions { pseudo_labels: true, ..fit });
    let pseudo = TrainOptions { strategy: pseudo, ..options.clone() };
    let reds = |data: &Dataset, options: &TrainOptions| {
        let trained = run(data, options, Geometry::Squash).unwrap();
        let reds: Vec<f32> = trained.columns.iter().map(|columns| red_and_blue(columns).0).collect();
        (reds, trained.statistics)
    };
    let ((harmless, _), (harmed, plain)) = (reds(&removed, &options), reds(&hidden, &options));
    let ((helped, told), (taught, taken)) = (reds(&named, &options), reds(&named, &pseudo));
    for ((harmless, harmed), helped) in harmless.iter().zip(&harmed).zip(&helped) {
        assert!(*helped > (harmless + harmed) / 2.0, "{harmless} {harmed} {helped}");
    }
    assert_eq!((plain.alike.ignored, plain.incomplete, told.incomplete), (0, 0, 3));
    assert!(told.alike.ignored > 0 && told.alike.taken == 0);
    // What is taken for squares teaches more of red than what is ignored.
    assert!(taken.alike.taken > 0);
    assert_eq!(taken.alike.taken + taken.alike.ignored, told.alike.ignored);
    let sum = |reds: &[f32]| reds.iter().sum::<f32>();
    assert!(sum(&taught) > sum(&helped), "{helped:?} {taught:?}");

    let strategy = Strategy::CopyBack(DescentOptions::default());
    let refused = run(&named, &TrainOptions { strategy, ..options.clone() }, Geometry::Squash);
    assert!(refused.unwrap_err().to_string().contains("copy-back"));
}

#[test]
fn a_time_buys_views() {
    if !common::has_tensorflow() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dataset = squares(dir.path());
    let network = Colours::new(Geometry::Squash);
    let within = |seconds| views_within(seconds, &network, &dataset, true).unwrap();
    assert_eq!([1e9, 1e-9].map(within), [32, 1]);
}

#[test]
fn copy_back_gives_new_columns_only() {
    if !common::has_tensorflow() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dataset = squares(dir.path());
    let strategy = Strategy::CopyBack(DescentOptions { steps: 200, rate: 0.2, ..DescentOptions::default() });
    let options = TrainOptions { strategy, ..TrainOptions::default() };
    let trained = run(&dataset, &options, Geometry::Squash).unwrap();
    assert_eq!(trained.columns[1].kernel.len(), DEPTH * 2);
    let (red, blue) = red_and_blue(&trained.columns[0]);
    assert!(red > blue + 1.0, "{red} {blue}");
    assert!(trained.statistics.matched[0][0] > 0);
}

#[test]
fn what_cannot_be_trained_is_said() {
    if !common::has_tensorflow() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut dataset = squares(dir.path());
    let options = TrainOptions::default();
    let none = TrainOptions { views: Some(0), ..options.clone() };
    assert!(matches!(run(&dataset, &none, Geometry::Squash), Err(Error::Usage(_))));
    std::fs::write(dir.path().join("3.png"), b"no picture").unwrap();
    let error = run(&dataset, &options, Geometry::Squash).unwrap_err().to_string();
    assert!(error.contains("3.png"), "{error}");
    dataset.images.retain(|image| image.objects.is_empty());
    let error = run(&dataset, &options, Geometry::Squash).unwrap_err().to_string();
    assert!(error.contains("\"square\""), "{error}");
    let bad = vec![LayerValues { kernel: vec![], biases: vec![] }];
    let classes = Classes { new: vec!["square".into()], ..Classes::default() };
    assert!(
        train(&Colours::new(Geometry::Squash), &dataset, &classes, &bad, true, &options, &mut |_| {})
            .is_err()
    );
}
