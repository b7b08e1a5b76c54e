//! Trains a column of a heatmap on red squares, with a graph small enough to be written here.

use crate::common;
use std::cell::RefCell;

use crate::common::graphs::{node, number, served, value, vector, with};
use tfgraft::data::load;
use tfgraft::export::{VariableValues, Weights, layer_values};
use tfgraft::graph::tensor::{float_tensor, shape_proto};
use tfgraft::head::understand;
use tfgraft::pb::attr_value::{ListValue, Value};
use tfgraft::pb::{self, DataType};
use tfgraft::runtime::SessionConfig;
use tfgraft::saved_model::SavedModel;
use tfgraft::train::copy_back::DescentOptions;
use tfgraft::train::frozen_columns::FitOptions;
use tfgraft::train::network::{Parts, open};
use tfgraft::train::parameters::Penalties;
use tfgraft::train::{Classes, Geometry, Strategy, TrainOptions, Trained, train};

const SIDE: i32 = 64;
const STRIDE: usize = 4;
const DEPTH: usize = 3;
const CLASSES: usize = 2;

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
            node("heat", "Sigmoid", &["logits"]),
            vector("flat", &[1, -1]),
            node("ranked", "Reshape", &["heat", "flat"]),
            number("best", 10),
            node("top", "TopKV2", &["ranked", "best"]),
        ],
        &[("detection_scores", "top", &[1, 10])],
    );
    let input = pb::TensorInfo {
        dtype: DataType::DtUint8 as i32,
        tensor_shape: Some(shape_proto(&[1, 64, 64, 3])),
        encoding: Some(pb::tensor_info::Encoding::Name("image:0".into())),
    };
    meta.signature_def.get_mut("serving_default").unwrap().inputs.insert("image".into(), input);
    meta
}

#[test]
fn a_heatmap_learns_centres_the_same_every_time() {
    if !common::has_tensorflow() {
        return;
    }
    let fixture = common::fixture("tf1_frozen/base");
    let mut model = SavedModel::read(fixture.path()).unwrap();
    model.proto.meta_graphs = vec![detector()];
    let understood = understand(model.meta()).unwrap();
    let variables = VariableValues::default();
    let values = layer_values(&model, &variables, &understood.layers).unwrap();
    let weights = RefCell::new(Weights::default());
    let parts = Parts {
        model: &model,
        understood: &understood,
        variables: &variables,
        values: &values,
        weights: &weights,
    };
    let network = open(parts, &SessionConfig::default()).unwrap();
    assert_eq!((network.input().size, network.input().geometry), ((64, 64), Geometry::Squash));

    let data = tempfile::tempdir().unwrap();
    let labels = common::squares(data.path(), 6);
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
}

fn check(strategy: &Strategy, trained: &Trained, again: &Trained) {
    let columns = &trained.columns[0];
    assert_eq!((columns.kernel.len(), columns.biases.len()), (DEPTH, 1), "{strategy:?}");
    let logit = |rgb: [f32; 3]| columns.biases[0] + (0..3).map(|c| rgb[c] * columns.kernel[c]).sum::<f32>();
    let (red, blue) = (logit([0.9, 0.12, 0.16]), logit([0.2, 0.4, 0.4]));
    // Of the cells of a square one is its centre, the others are near it: the best logit is not high.
    assert!(red > blue + 0.5, "{strategy:?}: {red} and {blue}");
    assert_eq!(columns, &again.columns[0]);
    assert!(trained.losses.last() <= trained.losses.first() && !trained.losses.is_empty());
    let statistics = &trained.statistics;
    assert!(statistics.matched[0][0] >= 6, "{:?}", statistics.matched);
    // Cells far from squares are kept in part only.
    assert!(statistics.rows[0] < statistics.views * 16 * 16, "{:?}", statistics.rows);
}
