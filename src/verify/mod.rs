//! Reference outputs of a model, and the comparison of outputs.
//!
//! | file | idea |
//! |---|---|
//! | `array` | numbers outside of TensorFlow, as `.npy` |
//! | `numbers` | comparing number by number |
//! | `detections` | comparing lists of detections |
//! | `judge` | which comparison fits which output; the verdict over all pictures |
//! | `reference` | the layout on disk |
//! | `run` | recording, checking, comparing two models |

pub mod array;
pub mod detections;
pub mod judge;
pub mod numbers;
pub mod reference;
pub mod run;

pub use judge::{Growth, Kind, Verdict};
pub use reference::Reference;
pub use run::{Outcome, RecordOptions, check, compare, record};
