//! Options of every command that runs TensorFlow.

use std::path::PathBuf;

use clap::Args;

use crate::detect::RunOptions;
use crate::worker;

/// How to run TensorFlow.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// Threads for TensorFlow [default: all cores, and 8 at most where each runs a picture of its own]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Folder of TensorFlow's library
    #[arg(long, value_name = "DIR")]
    pub tensorflow: Option<PathBuf>,
    /// Run the model although it holds operations that touch files, processes or the network (see `inspect`)
    #[arg(long)]
    pub trust: bool,
    /// Most memory for the process that runs the model: bytes, or a number with KiB, MiB or GiB (Linux)
    #[arg(long, value_name = "SIZE", value_parser = worker::parse_bytes)]
    pub memory_limit: Option<u64>,
}

impl RuntimeArgs {
    /// The same for the library.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            threads: self.threads,
            tensorflow: self.tensorflow.clone(),
            trust: self.trust,
            pictures: 1,
            memory_limit: self.memory_limit,
        }
    }
}
