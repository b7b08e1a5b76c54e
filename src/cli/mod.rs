//! The command line: one file per subcommand, arguments and output only.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;
use crate::export::Staging;
use crate::progress;
use crate::worker;

use runtime::RuntimeArgs;

pub mod detect;
pub mod evaluate;
mod gate;
pub mod grow;
pub mod inspect;
mod measures;
mod output;
mod pictures;
pub mod publish;
pub mod retrain;
mod runtime;
pub mod verify;

/// Grafts new classes onto a trained TensorFlow detection model and exports it again
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more on standard error
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Grow(grow::Args),
    Retrain(retrain::Args),
    Detect(detect::Args),
    Evaluate(evaluate::Args),
    Verify(verify::Args),
    Publish(publish::Args),
    #[command(hide = true)]
    ReplayWarmup(publish::ReplayArgs),
}

/// Runs the command line. Exit code 0: done; 1: the check said no; 2: it could not run.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    progress::set_quiet(cli.quiet);
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => tracing::Level::ERROR,
        (_, true) => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(
            io::IsTerminal::is_terminal(&io::stderr())
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        )
        .with_target(false)
        .without_time()
        .init();
    let result = execute(cli.command);
    match result {
        Ok(code) => ExitCode::from(code),
        // The reader of our output went away (`tfgraft inspect | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&format!("error: {error:#}"));
            let code = error.chain().find_map(|e| e.downcast_ref::<Error>()).map_or(2, Error::exit_code);
            ExitCode::from(u8::try_from(code).unwrap_or(2))
        }
    }
}

/// Runs a command here, or in a worker where it runs a model.
fn execute(command: Command) -> anyhow::Result<u8> {
    if let Some((runtime, target)) = command.runs() {
        if worker::is_worker() {
            worker::adopt(runtime.memory_limit)?;
        } else {
            return supervised(runtime, target);
        }
    }
    worker::on_stop(|| {
        // Ctrl-C leaves no half output.
        Staging::remove_all();
        std::process::exit(2);
    });
    match command {
        Command::Inspect(args) => inspect::run(args),
        Command::Grow(args) => grow::run(args),
        Command::Retrain(args) => retrain::run(args),
        Command::Detect(args) => detect::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Publish(args) => publish::run(args),
        Command::ReplayWarmup(args) => publish::run_replay(args),
    }
    .map(|()| 0)
}

/// Runs this command line again in a worker, and sweeps what that may have left.
fn supervised(runtime: &RuntimeArgs, target: Option<&Path>) -> anyhow::Result<u8> {
    worker::on_stop(worker::stop);
    let mut anew = worker::command()?;
    anew.args(std::env::args_os().skip(1));
    let ended = worker::supervise(anew, runtime.memory_limit);
    if let Some(target) = target {
        Staging::sweep_for(target);
    }
    Ok(u8::try_from(ended?).unwrap_or(2))
}

impl Command {
    /// How a command runs its model, and beside what it stages its output; none where it does not run one here.
    fn runs(&self) -> Option<(&RuntimeArgs, Option<&Path>)> {
        match self {
            Self::Inspect(_) | Self::Publish(_) => None,
            Self::Grow(args) => Some((&args.runtime, Some(&args.output))),
            Self::Retrain(args) => (!args.dry_run).then_some((&args.runtime, Some(&args.output))),
            Self::Detect(args) => Some((&args.runtime, None)),
            Self::Evaluate(args) => Some((&args.runtime, None)),
            Self::Verify(args) => Some(args.runs()),
            Self::ReplayWarmup(args) => Some((&args.runtime, None)),
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
