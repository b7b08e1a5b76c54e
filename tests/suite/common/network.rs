//! The frozen part of a model, opened as a retraining opens it.

use std::cell::RefCell;

use tfgraft::export::{VariableValues, Weights, layer_values};
use tfgraft::head::columns::LayerValues;
use tfgraft::head::{Understood, understand};
use tfgraft::runtime::SessionConfig;
use tfgraft::saved_model::SavedModel;
use tfgraft::train::Frozen;
use tfgraft::train::network::{Parts, open};

/// A network with what is known of its class layers.
pub struct Opened {
    /// The network.
    pub network: Box<dyn Frozen>,
    /// Its head.
    pub understood: Understood,
    /// The values of its class layers.
    pub values: Vec<LayerValues>,
}

impl Opened {
    /// Of a model in memory.
    pub fn of(model: &SavedModel) -> Self {
        let understood = understand(model.meta()).expect("a model that is understood");
        let variables = VariableValues::read(model, &understood).expect("its variables");
        let values = layer_values(model, &variables, &understood.layers).expect("values of its class layers");
        let weights = RefCell::new(Weights::of(&variables));
        let parts = Parts {
            model,
            understood: &understood,
            variables: &variables,
            values: &values,
            weights: &weights,
        };
        let network = open(parts, &SessionConfig::default()).expect("a network that can be trained");
        Self { network, understood, values }
    }
}
