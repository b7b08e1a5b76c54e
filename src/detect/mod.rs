//! Running a detector on pictures and showing what it found.

mod decode;
mod draw;
mod open;
mod run;

pub use decode::{Detection, Outputs, decode_outputs};
pub use draw::{Caption, color_of, draw};
pub use open::{Opened, RunOptions};
pub use run::{BoxMask, Detector, DetectorOptions};
