//! Options of the gate, for `evaluate` and `retrain`.

use clap::Args;

use crate::eval::Gate;

/// Limits; the exit code is 1 where a class breaks one.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// Fail where a new class has a lower average precision (COCO's, 0 to 1)
    #[arg(long, value_name = "AP", value_parser = share)]
    pub min_new_ap: Option<f64>,
    /// Fail where an old class has lost more average precision than this
    #[arg(long, value_name = "AP", value_parser = share)]
    pub max_old_drop: Option<f64>,
}

impl GateArgs {
    /// The limits.
    pub fn gate(&self) -> Gate {
        Gate { min_new_ap: self.min_new_ap, max_old_drop: self.max_old_drop }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number from 0 to 1".to_owned())?;
    (0.0..=1.0).contains(&value).then_some(value).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}
