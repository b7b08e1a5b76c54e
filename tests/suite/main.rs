//! Tests of the whole: the commands as a user runs them, data formats and metrics against reference numbers, rewrites of
//! whole graphs. One program, since linking TensorFlow's bindings two dozen times costs minutes, and since the tests of all
//! files then share the cores: `cargo test --test suite cli_grow` runs one file's.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod common;

mod cli_bad_input;
mod cli_detect;
mod cli_evaluate;
mod cli_grow;
mod cli_inputs;
mod cli_publish;
mod cli_resume;
mod cli_retrain;
mod cli_retrain_kinds;
mod cli_verify;
mod cli_worker;
mod data_formats;
mod data_fuzz;
mod data_pictures;
mod default_model;
mod eval_oracle;
mod fixtures;
mod head_rewrite;
mod heatmap_rewrite;
mod hostile_bytes;
mod hostile_shapes;
mod loop_rewrite;
mod one_class_model;
mod real_model;
mod train_heatmap;
mod train_masks;
mod train_reference;
mod train_regions;
mod train_run;
