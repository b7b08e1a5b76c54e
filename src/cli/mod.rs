//! The command line: one file per subcommand, arguments and output only.

use std::process::ExitCode;

pub mod detect;
pub mod evaluate;

/// Runs the command line.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
