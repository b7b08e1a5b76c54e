//! How many views of each picture a time allows.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::data::Dataset;
use crate::error::Result;
use crate::runtime::runs_at_once;
use crate::train::features::{Seen, Showing};
use crate::train::task::{Frozen, ViewRows};

/// Views that are timed for each run at once, after one that is not: the first run of a graph prepares it.
const TIMED: usize = 3;
/// More views of one picture than these tell next to nothing.
const MOST: usize = 32;

/// The views of each picture, 1 to 32, that the network sees in about `seconds`; the time is measured, and so the number
/// differs from machine to machine.
///
/// Errors: those of reading pictures and of TensorFlow.
pub fn views_within(
    seconds: f64,
    network: &dyn Frozen,
    dataset: &Dataset,
    background: bool,
) -> Result<usize> {
    let tasks = network.tasks(background)?;
    let timed = TIMED * runs_at_once();
    let images = dataset.images.iter().cycle().take(1 + timed).cloned().collect();
    let sample = Dataset { images, ..Dataset::default() };
    let showing = Showing {
        dataset: &sample,
        classes: BTreeMap::new(),
        first_new: 0,
        views: 1,
        seed: 0,
        outlines: false,
    };
    let mut ready = None;
    let rows_of = |seen: Seen| ViewRows::of(network, &seen, &tasks, (0, 1));
    showing.run(network.input(), 0, rows_of, |_| {
        ready.get_or_insert_with(Instant::now);
        Ok(())
    })?;
    let each = ready.map_or(0.0, |ready| ready.elapsed().as_secs_f64()) / timed as f64;
    Ok(affordable(seconds, each, dataset.images.len()))
}

fn affordable(seconds: f64, each: f64, pictures: usize) -> usize {
    let views = seconds / (each.max(1e-6) * pictures.max(1) as f64);
    (views as usize).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_divided_among_pictures() {
        assert_eq!(affordable(60.0, 0.1, 30), 20);
        assert_eq!(affordable(60.0, 0.1, 10_000), 1);
        assert_eq!(affordable(60.0, 0.1, 3), MOST);
        assert_eq!(affordable(60.0, 0.0, 0), MOST);
    }
}
