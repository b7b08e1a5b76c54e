//! Running a flat graph: tensors in by name, tensors out by name.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use prost::Message;
use tensorflow::{Graph, ImportGraphDefOptions, Operation, Output, Session, SessionOptions, SessionRunArgs};

use super::{AnyTensor, failed, library};
use crate::error::Result;

/// How TensorFlow is to run a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Threads that are shared out as [`Sharing`] says; without it the number given to [`set_threads`].
    ///
    /// The first session of a process decides for all later ones: TensorFlow makes the pools once.
    pub threads: Option<usize>,
    /// Whether the graph is optimised on the first run of each set of feeds and fetches. That costs seconds for a
    /// whole detector and pays after a few dozen pictures; for small graphs and single runs it is a loss.
    pub optimize: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { threads: None, optimize: true }
    }
}

/// What sessions use whose configuration names no number; 0 leaves it to TensorFlow (all cores).
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Whether the threads are shared out by runs.
static BY_RUNS: AtomicBool = AtomicBool::new(false);

/// What threads are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All of them for each operation: the least time and memory for one run. Sums are cut up by the number of threads, which
    /// shows in their last bits.
    #[default]
    Operations,
    /// One for each run, and [`runs_at_once`]: the least time for many. Nothing depends on the number of threads.
    Runs,
}

/// Sets the number of threads for sessions that name none, and what they are for: call it before the first of them, which
/// may be one that only reads a checkpoint.
pub fn set_threads(threads: Option<usize>, sharing: Sharing) {
    THREADS.store(threads.unwrap_or(0), Ordering::Relaxed);
    BY_RUNS.store(sharing == Sharing::Runs, Ordering::Relaxed);
}

/// Runs at the same time where no number of threads is given: each holds a picture's intermediate tensors, up to half a gigabyte.
const MOST_RUNS: usize = 8;

/// How many runs there should be at the same time.
pub fn runs_at_once() -> usize {
    match (BY_RUNS.load(Ordering::Relaxed), THREADS.load(Ordering::Relaxed)) {
        (false, _) => 1,
        (true, 0) => thread::available_parallelism().map_or(1, usize::from).min(MOST_RUNS),
        (true, threads) => threads,
    }
}

/// `tensorflow.ConfigProto`, the fields set here.
#[derive(Message)]
struct ConfigProto {
    #[prost(int32, tag = "2")]
    intra_op_parallelism_threads: i32,
    #[prost(int32, tag = "5")]
    inter_op_parallelism_threads: i32,
    #[prost(message, optional, tag = "10")]
    graph_options: Option<GraphOptions>,
}

/// `tensorflow.GraphOptions`, the fields set here.
#[derive(Message)]
struct GraphOptions {
    #[prost(message, optional, tag = "3")]
    optimizer_options: Option<OptimizerOptions>,
    #[prost(message, optional, tag = "10")]
    rewrite_options: Option<RewriterConfig>,
}

/// `tensorflow.OptimizerOptions`, the fields set here.
#[derive(Message)]
struct OptimizerOptions {
    /// L1 is 0, L0 (none) is -1.
    #[prost(int32, tag = "3")]
    opt_level: i32,
}

/// `tensorflow.RewriterConfig`, the fields set here.
#[derive(Message)]
struct RewriterConfig {
    #[prost(int32, tag = "3")]
    constant_folding: i32,
    #[prost(int32, tag = "4")]
    memory_optimization: i32,
    #[prost(bool, tag = "19")]
    disable_meta_optimizer: bool,
}

/// `tensorflow.RewriterConfig.MemOptType`.
const NO_MEMORY_OPTIMIZATION: i32 = 1;

/// `tensorflow.RewriterConfig.Toggle`.
const DEFAULT: i32 = 0;
const OFF: i32 = 2;

impl SessionConfig {
    fn to_proto(self) -> ConfigProto {
        let threads = self.threads.unwrap_or_else(|| THREADS.load(Ordering::Relaxed));
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // Folding constants takes four seconds for the suppression of 90 classes, most of what optimising costs, and
        // saves nothing that could be measured per picture.
        let rewrite_options = RewriterConfig {
            constant_folding: if self.optimize { OFF } else { DEFAULT },
            // It estimates what each operation costs, and complains on standard error of those that it cannot tell.
            memory_optimization: if self.optimize { NO_MEMORY_OPTIMIZATION } else { 0 },
            disable_meta_optimizer: !self.optimize,
        };
        let optimizer_options = (!self.optimize).then_some(OptimizerOptions { opt_level: -1 });
        ConfigProto {
            intra_op_parallelism_threads: if BY_RUNS.load(Ordering::Relaxed) { 1 } else { threads },
            inter_op_parallelism_threads: threads,
            graph_options: Some(GraphOptions { optimizer_options, rewrite_options: Some(rewrite_options) }),
        }
    }

    /// The options in TensorFlow's form. Needs the library.
    pub(super) fn to_options(self) -> Result<SessionOptions> {
        let mut options = SessionOptions::new();
        let config = self.to_proto().encode_to_vec();
        options.set_config(&config).map_err(|status| failed("the session's configuration", status))?;
        Ok(options)
    }
}

/// Tensors by the name of the placeholder that they are fed to.
pub type Fed = Vec<(String, Arc<AnyTensor>)>;

/// A graph with a session that runs it.
///
/// Every distinct set of feeds, fetches and targets is prepared once and kept for the session's life: use few sets.
/// Runs from several threads at once are allowed; those that assign the same variable race.
#[derive(Debug)]
pub struct GraphSession {
    graph: Graph,
    session: Session,
    /// What every run is fed.
    fed: Fed,
    /// The sets that were run.
    prepared: Mutex<HashSet<Vec<String>>>,
}

impl GraphSession {
    /// Imports a serialized GraphDef, with its function library, into a graph of its own.
    pub fn new(graph_def: &[u8], config: &SessionConfig) -> Result<Self> {
        library::load(None)?;
        let graph = import(graph_def)?;
        let session = Session::new(&config.to_options()?, &graph)
            .map_err(|status| failed("making a session", status))?;
        Ok(Self::from_parts(graph, session))
    }

    /// A graph and a session that are there already.
    pub(super) fn from_parts(graph: Graph, session: Session) -> Self {
        Self { graph, session, fed: Fed::new(), prepared: Mutex::default() }
    }

    /// The same with tensors that every run is fed, for its placeholders.
    pub fn with_fed(self, fed: Fed) -> Self {
        Self { fed, ..self }
    }

    /// Feeds tensors, runs what the fetches and targets need, returns the fetches in their order.
    ///
    /// Feeds and fetches are named `node:index`, or `node` for output 0; targets are nodes. A control-flow graph may
    /// be cut anywhere: a fed tensor's producer does not run.
    pub fn run(
        &self,
        feeds: &[(&str, &AnyTensor)],
        fetches: &[&str],
        targets: &[&str],
    ) -> Result<Vec<AnyTensor>> {
        let mut run = SessionRunArgs::new();
        let always = self.fed.iter().map(|(name, tensor)| (name.as_str(), &**tensor));
        for (name, tensor) in always.chain(feeds.iter().copied()) {
            let output = output(&self.graph, name)?;
            tensor.feed(&mut run, &output.operation, output.index);
        }
        let mut tokens = Vec::with_capacity(fetches.len());
        for name in fetches {
            let output = output(&self.graph, name)?;
            tokens.push(run.request_fetch(&output.operation, output.index));
        }
        for name in targets {
            run.add_target(&node(&self.graph, name)?);
        }
        let of_feeds = feeds.iter().map(|(name, _)| name);
        let set = of_feeds.chain(fetches).chain(targets).map(|name| (*name).to_owned()).collect();
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        // TensorFlow prepares a set as often as it is first run: seconds and hundreds of megabytes each time.
        let held = prepared.insert(set).then_some(prepared);
        let result = self.session.run(&mut run);
        drop(held);
        result.map_err(|status| failed("running the graph", status))?;
        let named = tokens.into_iter().zip(fetches).enumerate();
        named.map(|(index, (token, name))| AnyTensor::fetch(&mut run, token, index, name)).collect()
    }

    /// The shape of a tensor as far as the graph alone says: none where not even the number of axes is known, and none for
    /// sizes that are not.
    pub fn static_shape(&self, name: &str) -> Result<Option<Vec<Option<usize>>>> {
        let shape =
            self.graph.tensor_shape(output(&self.graph, name)?).map_err(|status| failed(name, status))?;
        let sizes: Option<Vec<Option<i64>>> = shape.into();
        Ok(sizes.map(|sizes| {
            sizes.into_iter().map(|size| size.and_then(|size| usize::try_from(size).ok())).collect()
        }))
    }

    /// Whether the graph has a node of this name.
    pub fn has_node(&self, name: &str) -> bool {
        node(&self.graph, name).is_ok()
    }
}

/// A graph with these nodes. Needs the library.
pub(super) fn import(graph_def: &[u8]) -> Result<Graph> {
    let mut graph = Graph::new();
    graph
        .import_graph_def(graph_def, &ImportGraphDefOptions::new())
        .map_err(|status| failed("importing the graph", status))?;
    Ok(graph)
}

/// The node of this name.
fn node(graph: &Graph, name: &str) -> Result<Operation> {
    match graph.operation_by_name(name) {
        Ok(Some(operation)) => Ok(operation),
        Ok(None) | Err(_) => Err(failed(name, "the graph has no node of this name")),
    }
}

/// The output that a tensor's name means. TensorFlow aborts on an index that the node has not, so it is checked.
pub(super) fn output(graph: &Graph, name: &str) -> Result<Output> {
    let (node_name, index) = match name.rsplit_once(':') {
        Some((node_name, index)) => {
            let index = index.parse::<usize>().map_err(|_| failed(name, "not of the form node:index"))?;
            (node_name, index)
        }
        None => (name, 0),
    };
    let operation = node(graph, node_name)?;
    let outputs = operation.num_outputs();
    if index >= outputs {
        return Err(failed(name, format!("the node has {outputs} outputs")));
    }
    // No more outputs than an int of the C interface counts.
    Ok(Output { operation, index: index as i32 })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::graph::nodes::{graph, node};
    use crate::pb::DataType;

    fn adder() -> Vec<u8> {
        graph(vec![
            node::<&str>("x", "Placeholder", &[]).dtype("dtype", DataType::DtFloat).build(),
            node::<&str>("y", "Placeholder", &[]).dtype("dtype", DataType::DtFloat).build(),
            node("sum", "AddV2", &["x", "y"]).dtype("T", DataType::DtFloat).build(),
            node("twice", "AddV2", &["x", "sum"]).dtype("T", DataType::DtFloat).build(),
        ])
    }

    #[test]
    fn config_has_the_bytes_that_tensorflow_reads() {
        let config = SessionConfig { threads: Some(3), optimize: false };
        // What Python's SerializeToString gives for the same fields.
        let expected = b"\x10\x03\x28\x03\x52\x12\x1a\x0b\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x52\x03\x98\x01\x01";
        assert_eq!(config.to_proto().encode_to_vec(), expected);
        assert_eq!(SessionConfig::default().to_proto().encode_to_vec(), b"\x52\x06\x52\x04\x18\x02\x20\x01");
    }

    #[test]
    fn runs_by_name() {
        if testing::library().is_none() {
            return;
        }
        for optimize in [true, false] {
            let session = GraphSession::new(&adder(), &SessionConfig { threads: Some(1), optimize }).unwrap();
            let x = AnyTensor::new(&[2], &[1.0f32, 2.0]).unwrap();
            let y = AnyTensor::new(&[2], &[10.0f32, 20.0]).unwrap();
            let out = session.run(&[("x:0", &x), ("y", &y)], &["sum:0", "twice"], &["sum"]).unwrap();
            assert_eq!(out[0].f32().unwrap(), [11.0, 22.0]);
            assert_eq!(out[1].f32().unwrap(), [12.0, 24.0]);
            assert_eq!(session.static_shape("sum:0").unwrap(), None, "placeholders of any shape");
        }
    }

    #[test]
    fn tensors_without_elements_go_in_and_come_out() {
        if testing::library().is_none() {
            return;
        }
        let session = GraphSession::new(&adder(), &SessionConfig::default()).unwrap();
        let nothing = AnyTensor::new::<f32>(&[0, 3], &[]).unwrap();
        let out = session.run(&[("x", &nothing), ("y", &nothing)], &["sum"], &[]).unwrap();
        assert_eq!(out[0].shape(), [0, 3]);
        assert!(out[0].f32().unwrap().is_empty());
    }

    #[test]
    fn wrong_names_types_and_graphs_are_errors() {
        if testing::library().is_none() {
            return;
        }
        let session = GraphSession::new(&adder(), &SessionConfig::default()).unwrap();
        let x = AnyTensor::scalar(1.0f32).unwrap();
        let wrong = AnyTensor::scalar(1u8).unwrap();
        for (feeds, fetch) in [
            (vec![("x", &x), ("y", &x)], "none:0"),
            (vec![("x", &x), ("y", &x)], "sum:1"),
            (vec![("x", &x), ("y", &x)], "sum:-1"),
            (vec![("x", &x), ("y", &x)], "su\0m"),
            (vec![("x", &x)], "sum:0"),
            (vec![("x", &x), ("y", &wrong)], "sum:0"),
            (vec![("x:7", &x)], "sum:0"),
        ] {
            assert!(session.run(&feeds, &[fetch], &[]).is_err(), "{fetch}");
        }
        assert!(GraphSession::new(b"\xff\xffnot a graph", &SessionConfig::default()).is_err());
        // An empty graph is a graph; asking it for anything is the mistake.
        let empty = GraphSession::new(b"", &SessionConfig::default()).unwrap();
        assert!(empty.run(&[], &["x:0"], &[]).is_err());
        let unknown = graph(vec![node::<&str>("a", "NoSuchOp", &[]).build()]);
        assert!(GraphSession::new(&unknown, &SessionConfig::default()).is_err());
    }
}
