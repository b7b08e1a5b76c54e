//! How much slower the feature pass is than the pruned network alone on as many views.
//!
//!     cargo run --release --example feature_pass -- MODEL DATA
//!
//! Prints both times and their ratio. The pass also decodes pictures, renders views, sets targets and keeps rows.
#![allow(clippy::print_stdout)]

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use tfgraft::Error;
use tfgraft::data::load;
use tfgraft::export::{VariableValues, Weights, layer_values};
use tfgraft::head::understand;
use tfgraft::runtime::{SessionConfig, library};
use tfgraft::saved_model::SavedModel;
use tfgraft::train::network::{Parts, SingleStage};
use tfgraft::train::{Backbone, Classes, TrainOptions, train};

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, data] = &arguments[..] else {
        return Err(Error::Usage("expected MODEL DATA".into()));
    };
    library::load(None)?;
    let model = SavedModel::read(Path::new(model))?;
    let understood = understand(model.meta())?;
    let variables = VariableValues::read(&model, &understood)?;
    let values = layer_values(&model, &variables, &understood.layers)?;
    let weights = RefCell::new(Weights::of(&variables));
    let parts = Parts {
        model: &model,
        understood: &understood,
        variables: &variables,
        values: &values,
        weights: &weights,
    };
    let network = SingleStage::open(parts, &SessionConfig::default())?;
    let dataset = load(&[data], None)?;
    let classes = Classes { new: dataset.categories.clone(), ..Classes::default() };
    let (height, width) = network.shape().input.size;
    let picture: Vec<u8> = (0..height * width * 3).map(|i| (i * 7 % 251) as u8).collect();
    for _ in 0..5 {
        network.run(&picture, height, width)?;
    }
    let background = understood.located.background;
    let trained =
        train(&network, &dataset, &classes, &values, background, &TrainOptions::default(), &mut |_| {})?;
    let views = trained.statistics.views;
    let start = Instant::now();
    for _ in 0..views {
        network.run(&picture, height, width)?;
    }
    let bare = start.elapsed().as_secs_f64();
    let pass = trained.statistics.feature_seconds;
    println!("{views} views: network alone {bare:.2} s, feature pass {pass:.2} s, ratio {:.2}", pass / bare);
    Ok(())
}
