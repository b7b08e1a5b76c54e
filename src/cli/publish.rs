//! `tfgraft publish`: a model as the next version of a TensorFlow Serving folder.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use super::output;
use super::pictures;
use super::runtime::RuntimeArgs;
use crate::data::Picture;
use crate::export::prove::probe_pictures;
use crate::progress;
use crate::publish::{self, Options, Published, replay, warmup};
use crate::saved_model::ModelSource;

/// Put a model into BASE/N+1 for TensorFlow Serving: complete and verified, or not at all
#[derive(Debug, Parser)]
pub struct Args {
    /// What `retrain` or `grow` made, or any folder with a SavedModel
    #[arg(value_name = "DIR")]
    pub source: PathBuf,
    /// The folder of versions that the server watches (created)
    #[arg(value_name = "BASE")]
    pub base: PathBuf,
    /// The version's number [default: one more than the highest there]
    #[arg(long = "number", value_name = "N", value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    pub number: Option<u64>,
    /// Pictures to warm up with [default: the model's own warm-up file, else two drawn ones]
    #[arg(long, num_args = 1.., value_name = "IMAGE")]
    pub warmup: Vec<PathBuf>,
    /// Write no warm-up file
    #[arg(long, conflicts_with = "warmup")]
    pub no_warmup: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// How to run TensorFlow.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Look at a staged version as a server would; run by `publish` in a process of its own
#[derive(Debug, Parser)]
pub struct ReplayArgs {
    /// The staged folder
    pub folder: PathBuf,
    /// How to run TensorFlow.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let source = ModelSource::resolve(&args.source)?;
    let pictures = match &args.warmup[..] {
        _ if args.no_warmup => Vec::new(),
        [] if source.path().join(warmup::FILE).is_file() => Vec::new(),
        [] => probe_pictures(),
        given => pictures::expand(given)?.iter().map(|p| Picture::open(p)).collect::<Result<_, _>>()?,
    };
    let options = Options { run: args.runtime.options(), version: args.number, warmup: pictures };
    let spinner = progress::spinner("staging and verifying");
    let published = publish::publish(&args.source, &args.base, &options)?;
    spinner.finish_and_clear();
    if args.json {
        return output::json(&published);
    }
    for line in lines(&published) {
        output::line(&line)?;
    }
    Ok(())
}

/// Runs the hidden command.
pub fn run_replay(args: ReplayArgs) -> Result<()> {
    output::json(&replay::replay(&args.folder, &args.runtime.options())?)
}

fn lines(published: &Published) -> Vec<String> {
    vec![
        format!("version {}: {}", published.version, published.path.display()),
        format!(
            "verified           {} files, loaded in a fresh process (TensorFlow {}), {} warm-up requests replayed",
            published.files, published.verified.tensorflow, published.verified.requests
        ),
        format!(
            "fingerprint.pb     {}",
            if published.fingerprint {
                "the source's"
            } else {
                "none: the source has none (a changed graph)"
            }
        ),
    ]
}
