//! What can go wrong, told apart where a caller or a test must tell it apart.
//!
//! Every message says what, where, got and expected, and what to do. The command line adds context with `anyhow`.

use std::path::PathBuf;

/// Result of the library's own operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The path names nothing that is a detection model.
    #[error("{path} is not a model: {reason}")]
    NotAModel {
        /// The path given.
        path: PathBuf,
        /// What is missing there and what was expected.
        reason: String,
    },
    /// Bytes that are not what the format says.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// The file or message.
        what: String,
        /// Where and why.
        reason: String,
    },
    /// A protobuf field that this version does not know and would therefore lose.
    #[error(
        "{what} has a field that tfgraft does not know: number {number} of message {message}; it would be lost \
         on writing, so the model is refused"
    )]
    UnknownField {
        /// The file.
        what: String,
        /// The message's name.
        message: String,
        /// The field's number.
        number: u32,
    },
    /// The model is not one whose class head is understood.
    #[error("cannot grow this model: {reason} (at {tensor})")]
    NotUnderstood {
        /// The tensor or node that could not be explained, with its function.
        tensor: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A graph that breaks the rules of a graph, before or after an edit.
    #[error("{scope}: {reason}")]
    BadGraph {
        /// The main graph or the function.
        scope: String,
        /// The rule and the node.
        reason: String,
    },
    /// TensorFlow's library was not found or is too old.
    #[error(
        "TensorFlow's C library was not found\n{tried}\nrun scripts/fetch-tensorflow, or name a folder with --tensorflow DIR"
    )]
    NoLibrary {
        /// One line per place that was tried.
        tried: String,
    },
    /// TensorFlow itself reported an error.
    #[error("TensorFlow: {0}")]
    TensorFlow(String),
    /// Labels or pictures that cannot be used.
    #[error("{0}")]
    Data(String),
    /// Options that do not fit each other or the model.
    #[error("{0}")]
    Usage(String),
    /// A model that holds what could harm the machine it runs on.
    #[error(
        "{path} is refused, since running it could touch more than pictures: {}; if you know where it comes from, \
         give --trust",
        .found.join("; ")
    )]
    Unsafe {
        /// The model.
        path: PathBuf,
        /// Each finding with its place.
        found: Vec<String>,
    },
    /// The process that ran a model was ended, by TensorFlow or by the system.
    #[error("the process that ran the model was ended by {0}; nothing was written")]
    Crashed(String),
    /// A check said no: what was made differs from what was promised.
    #[error("check failed: {0}")]
    CheckFailed(String),
}

impl Error {
    /// An I/O error at a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// The exit code of the command line: 1 when a check said no, 2 when something could not run.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::CheckFailed(_) | Self::Unsafe { .. } => 1,
            _ => 2,
        }
    }
}
