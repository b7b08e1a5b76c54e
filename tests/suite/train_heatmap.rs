//! Trains a column of a heatmap on the green middles of red squares, with a graph small enough to be written here.

use crate::common;
use crate::common::graphs::{node, number, served, value, vector, with};
use crate::common::network::Opened;
use tfgraft::data::load;
use tfgraft::graph::tensor::{float_tensor, shape_proto};
use tfgraft::pb::attr_value::{ListValue, Value};
use tfgraft::pb::{self, DataType};
use tfgraft::saved_model::SavedModel;
use tfgraft::train::copy_back::DescentOptions;
use tfgraft::train::frozen_columns::FitOptions;
use tfgraft::train::parameters::Penalties;
use tfgraft::train::{Classes, Geometry, Strategy, TrainOptions, Trained, train};

const SIDE: i32 = 64;
const STRIDE: usize = 4;
const DEPTH: usize = 3;
const CLASSES: usize = 2;
const BEST: usize = 10;
/// Cells along a side of the map.
const CELLS: i32 = SIDE / STRIDE as i32;
/// Height and width of every detection, as parts of the picture: what a square of 43 by 43 of 160 by 120 pixels measures.
const BOX: [f32; 2] = [0.36, 0.27];

fn typed(node: pb::NodeDef, dtype: DataType) -> pb::NodeDef {
    with(node, "T", Value::Type(dtype as i32))
}

fn convolution(name: &str, inputs: &[&str], stride: i64) -> pb::NodeDef {
    let strides = ListValue { i: vec![1, stride, stride, 1], ..Default::default() };
    let node = typed(node(name, "Conv2D", inputs), DataType::DtFloat);
    with(
        with(node, "strides", Value::List(Box::new(strides))),
        "padding",
        Value::S("VALID".as_bytes().to_vec().into()),
    )
}

fn typed_value(name: &str, shape: &[usize], values: &[f32]) -> pb::NodeDef {
    with(value(name, float_tensor(shape, values)), "dtype", Value::Type(DataType::DtFloat as i32))
}

/// A network whose features are the mean colours of cells of 4 by 4 pixels.
fn detector() -> pb::MetaGraphDef {
    let mut means = vec![0.0; STRIDE * STRIDE * DEPTH * DEPTH];
    for (at, weight) in means.iter_mut().enumerate() {
        // [height, width, channel in, channel out]
        if at / DEPTH % DEPTH == at % DEPTH {
            *weight = 1.0 / (255 * STRIDE * STRIDE) as f32;
        }
    }
    let picture = with(node("image", "Placeholder", &[]), "dtype", Value::Type(DataType::DtUint8 as i32));
    let cast = with(node("cast", "Cast", &["image"]), "SrcT", Value::Type(DataType::DtUint8 as i32));
    let size = with(vector("size", &[SIDE, SIDE]), "dtype", Value::Type(DataType::DtInt32 as i32));
    let mut meta = served(
        vec![
            picture,
            with(cast, "DstT", Value::Type(DataType::DtFloat as i32)),
            size,
            typed(node("resized", "ResizeBilinear", &["cast", "size"]), DataType::DtFloat),
            typed_value("means", &[STRIDE, STRIDE, DEPTH, DEPTH], &means),
            convolution("colours", &["resized", "means"], STRIDE as i64),
            typed(node("features", "Relu", &["colours"]), DataType::DtFloat),
            typed_value("kernel", &[1, 1, DEPTH, CLASSES], &[0.3, -0.2, 0.1, 0.2, -0.1, 0.4]),
            typed_value("biases", &[CLASSES], &[-4.0, -3.5]),
            convolution("conv", &["features", "kernel"], 1),
            typed(node("logits", "BiasAdd", &["conv", "biases"]), DataType::DtFloat),
            typed(node("heat", "Sigmoid", &["logits"]), DataType::DtFloat),
            with(vector("flat", &[1, -1]), "dtype", Value::Type(DataType::DtInt32 as i32)),
            typed(node("ranked", "Reshape", &["heat", "flat"]), DataType::DtFloat),
            with(number("best", BEST as i32), "dtype", Value::Type(DataType::DtInt32 as i32)),
            with(node("top", "TopKV2", &["ranked", "best"]), "T", Value::Type(DataType::DtFloat as i32)),
        ]
        .into_iter()
        .chain(detections())
        .collect(),
        &[
            ("detection_scores", "top", &[1, BEST]),
            ("detection_boxes", "boxes", &[1, BEST, 4]),
            ("detection_classes", "labels", &[1, BEST]),
        ],
    );
    let input = pb::TensorInfo {
        dtype: DataType::DtUint8 as i32,
        tensor_shape: Some(shape_proto(&[1, 64, 64, 3])),
        encoding: Some(pb::tensor_info::Encoding::Name("image:0".into())),
    };
    meta.signature_def.get_mut("serving_default").unwrap().inputs.insert("image".into(), input);
    meta
}

/// Boxes of one size around the cells of the best scores, and label ids.
fn detections() -> Vec<pb::NodeDef> {
    let whole = |name: &str, op: &str, inputs: &[&str]| typed(node(name, op, inputs), DataType::DtInt32);
    let real = |name: &str, op: &str, inputs: &[&str]| typed(node(name, op, inputs), DataType::DtFloat);
    let integer =
        |name: &str, value: i32| with(number(name, value), "dtype", Value::Type(DataType::DtInt32 as i32));
    let cast = |name: &str, input: &str| {
        let cast = with(node(name, "Cast", &[input]), "SrcT", Value::Type(DataType::DtInt32 as i32));
        with(cast, "DstT", Value::Type(DataType::DtFloat as i32))
    };
    let packed = |name: &str, inputs: &[&str]| {
        let pack = with(real(name, "Pack", inputs), "N", Value::I(inputs.len() as i64));
        with(pack, "axis", Value::I(-1))
    };
    vec![
        integer("classes", CLASSES as i32),
        integer("width", CELLS),
        integer("one", 1),
        whole("position", "FloorDiv", &["top:1", "classes"]),
        whole("row", "FloorDiv", &["position", "width"]),
        whole("column", "FloorMod", &["position", "width"]),
        whole("class", "FloorMod", &["top:1", "classes"]),
        whole("label", "AddV2", &["class", "one"]),
        cast("labels", "label"),
        cast("y", "row"),
        cast("x", "column"),
        packed("corner", &["y", "x"]),
        typed_value("size_of_cell", &[], &[1.0 / CELLS as f32]),
        real("placed", "Mul", &["corner", "size_of_cell"]),
        typed_value("half", &[2], &[BOX[0] / 2.0 - 0.5 / CELLS as f32, BOX[1] / 2.0 - 0.5 / CELLS as f32]),
        typed_value("whole", &[2], &BOX),
        real("from", "Sub", &["placed", "half"]),
        real("to", "AddV2", &["from", "whole"]),
        integer("behind", -1),
        with(
            with(real("boxes", "ConcatV2", &["from", "to", "behind"]), "N", Value::I(2)),
            "Tidx",
            Value::Type(DataType::DtInt32 as i32),
        ),
    ]
}

#[test]
fn a_heatmap_learns_centres_the_same_every_time() {
    if !common::has_tensorflow() {
        return;
    }
    let fixture = common::fixture("tf1_frozen/base");
    let mut model = SavedModel::read(fixture.path()).unwrap();
    model.proto.meta_graphs = vec![detector()];
    let Opened { network, values, .. } = Opened::of(&model);
    assert_eq!((network.input().size, network.input().geometry), ((64, 64), Geometry::Squash));

    let data = tempfile::tempdir().unwrap();
    let labels = common::squares(data.path(), 6);
    mark_centres(data.path(), &labels);
    let dataset = load(&[labels], None).unwrap();
    let classes = Classes { new: vec!["square".into()], ..Classes::default() };
    // Six pictures of three features are far less than the usual priors expect.
    let penalties = Penalties { columns: 0.5, ..Penalties::default() };
    let frozen = Strategy::FrozenColumns(FitOptions { penalties, ..FitOptions::default() });
    let copied = Strategy::CopyBack(DescentOptions { rate: 0.1, ..DescentOptions::default() });
    let run = |strategy: &Strategy| -> Trained {
        let strategy = strategy.clone();
        let options = TrainOptions { strategy, ..TrainOptions::default() };
        train(network.as_ref(), &dataset, &classes, &values, false, &options, &mut |_| {}).unwrap()
    };
    for strategy in [&frozen, &copied] {
        check(strategy, &run(strategy), &run(strategy));
    }
    // Each picture was held out once, and what serving would detect in it was matched with its square.
    let [division] = run(&frozen).fits[0].divisions[..] else { panic!("one class has one division") };
    assert_eq!((division.pictures, division.objects), (6, 6));
    assert!(division.found > 0, "{division:?}");
    // Squares of three kinds are more classes than the heatmap has.
    let text = std::fs::read_to_string(data.path().join("data.json")).unwrap();
    let mut labels: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (at, object) in labels["annotations"].as_array_mut().unwrap().iter_mut().enumerate() {
        object["category_id"] = (if at % 2 == 1 { 1 } else { 7 + at / 2 % 3 }).into();
    }
    let kinds = ["square", "second", "third"];
    let named = kinds.iter().enumerate().map(|(at, name)| serde_json::json!({"id": 7 + at, "name": name}));
    labels["categories"].as_array_mut().unwrap().truncate(1);
    labels["categories"].as_array_mut().unwrap().extend(named);
    let file = data.path().join("kinds.json");
    std::fs::write(&file, labels.to_string()).unwrap();
    let dataset = load(&[file], None).unwrap();
    let classes = Classes { new: kinds.map(String::from).to_vec(), ..Classes::default() };
    let options = TrainOptions { strategy: frozen.clone(), ..TrainOptions::default() };
    let trained = train(network.as_ref(), &dataset, &classes, &values, false, &options, &mut |_| {}).unwrap();
    let divisions = &trained.fits[0].divisions;
    assert_eq!(divisions.iter().map(|d| d.objects).collect::<Vec<_>>(), [2, 2, 2]);
    assert!(divisions.iter().all(|d| d.pictures == 6), "{divisions:?}");
}

/// A green middle, by which the centre of a square can be told from the rest of it.
fn mark_centres(folder: &std::path::Path, labels: &std::path::Path) {
    let labels: serde_json::Value = serde_json::from_slice(&std::fs::read(labels).unwrap()).unwrap();
    for (at, square) in labels["annotations"].as_array().unwrap().iter().step_by(2).enumerate() {
        let file = folder.join(format!("square{at}.png"));
        let mut picture = image::open(&file).unwrap().to_rgb8();
        let [left, top, side, _] = [0, 1, 2, 3].map(|at| square["bbox"][at].as_u64().unwrap() as u32);
        for (y, x) in (0..12).flat_map(|y| (0..12).map(move |x| (y, x))) {
            picture.put_pixel(left + side / 2 - 6 + x, top + side / 2 - 6 + y, image::Rgb([60, 230, 40]));
        }
        picture.save(&file).unwrap();
    }
}

fn check(strategy: &Strategy, trained: &Trained, again: &Trained) {
    let columns = &trained.columns[0];
    assert_eq!((columns.kernel.len(), columns.biases.len()), (DEPTH, 1), "{strategy:?}");
    let logit = |rgb: [f32; 3]| columns.biases[0] + (0..3).map(|c| rgb[c] * columns.kernel[c]).sum::<f32>();
    let (green, blue) = (logit([0.24, 0.9, 0.16]), logit([0.2, 0.4, 0.4]));
    assert!(green > blue + 0.5, "{strategy:?}: {green} and {blue}");
    assert_eq!(columns, &again.columns[0]);
    assert!(trained.losses.last() <= trained.losses.first() && !trained.losses.is_empty());
    let statistics = &trained.statistics;
    assert!(statistics.matched[0][0] >= 6, "{:?}", statistics.matched);
    // Cells far from squares are kept in part only.
    assert!(statistics.rows[0] < statistics.views * 16 * 16, "{:?}", statistics.rows);
}
