//! Options of every command that runs TensorFlow.

use std::path::PathBuf;

use clap::Args;

/// How to run TensorFlow.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// Threads for TensorFlow [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Folder of TensorFlow's library
    #[arg(long, value_name = "DIR")]
    pub tensorflow: Option<PathBuf>,
}
