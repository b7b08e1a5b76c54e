//! Running a SavedModel the way TF Serving does: through its serving signature.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use tensorflow::{Graph, SavedModelBundle};

use super::pictures::{Form, Ops};
use super::{AnyTensor, Fed, GraphSession, SessionConfig, failed, library};
use crate::error::{Error, Result};
use crate::graph::nodes::{constant, graph};
use crate::pb::{DataType, MetaGraphDef, SignatureDef, TensorInfo, TensorProto, tensor_info};

/// The tag of the graph that serves.
const TAG: &str = "serve";
/// The signature that clients use.
pub(crate) const SIGNATURE: &str = "serving_default";

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfoLite {
    /// The tensor in the graph, `node:index`.
    pub name: String,
    /// The type of its elements.
    pub dtype: DataType,
    /// The length of each axis, -1 where unknown; `None` when even their number is unknown.
    pub shape: Option<Vec<i64>>,
}

/// A detector with its weights, ready to run on pictures.
#[derive(Debug)]
pub struct ServingModel {
    session: GraphSession,
    form: Form,
    input: TensorInfoLite,
    outputs: BTreeMap<String, TensorInfoLite>,
}

/// `tensorflow.MetaGraphDef`, the fields read here: the loader returns the whole message, with all weights of a frozen
/// model, and only this is wanted.
#[derive(Message)]
struct Signatures {
    #[prost(message, optional, tag = "2")]
    graph_def: Option<Ops>,
    #[prost(btree_map = "string, message", tag = "5")]
    signature_def: BTreeMap<String, SignatureDef>,
}

impl ServingModel {
    /// Loads the SavedModel in a folder. Frozen and resource-variable models load alike.
    pub fn load(folder: &Path, config: &SessionConfig) -> Result<Self> {
        library::load(None)?;
        let options = config.to_options()?;
        let mut graph = Graph::new();
        let bundle = SavedModelBundle::load(&options, [TAG], &mut graph, folder)
            .map_err(|status| failed(folder.display(), status))?;
        // Deprecated in favour of the crate's own decoded form, which lacks what this crate's messages have.
        #[allow(deprecated)]
        let meta = bundle.meta_graph_def;
        let mut meta =
            Signatures::decode(meta.as_slice()).map_err(|error| failed(folder.display(), error))?;
        let ops = meta.graph_def.take().unwrap_or_default();
        let (input, outputs) = signature(folder, meta.signature_def)?;
        Self::assemble(GraphSession::from_parts(graph, bundle.session), &ops, input, outputs)
            .map_err(|error| failed(folder.display(), error))
    }

    /// A model without variables, from its messages; `path` names it in errors.
    pub fn from_meta(path: &Path, meta: &MetaGraphDef, config: &SessionConfig) -> Result<Self> {
        let (input, outputs) = signature(path, meta.signature_def.clone())?;
        let graph = meta.graph_def.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        Self::from_graph(&graph, input, outputs, config).map_err(|error| failed(path.display(), error))
    }

    /// A frozen graph without a signature, whose input and outputs the caller knows.
    pub fn from_graph(
        graph_def: &[u8],
        input: TensorInfoLite,
        outputs: BTreeMap<String, TensorInfoLite>,
        config: &SessionConfig,
    ) -> Result<Self> {
        Self::assemble(GraphSession::new(graph_def, config)?, &Ops::read(graph_def)?, input, outputs)
    }

    fn assemble(
        session: GraphSession,
        ops: &Ops,
        input: TensorInfoLite,
        outputs: BTreeMap<String, TensorInfoLite>,
    ) -> Result<Self> {
        let Some(form) = Form::of(input.dtype, ops) else {
            let (name, other) = (&input.name, input.dtype.as_str_name());
            return Err(Error::Data(format!(
                "input {name} takes {other}, expected pictures as uint8, float or strings: export the model with \
                 --input_type image_tensor"
            )));
        };
        Ok(Self { session, form, input, outputs })
    }

    /// The model with weights that its graph has placeholders for.
    pub fn with_weights(self, weights: Fed) -> Self {
        Self { session: self.session.with_fed(weights), ..self }
    }

    /// The input of the serving signature.
    pub fn input(&self) -> &TensorInfoLite {
        &self.input
    }

    /// The outputs of the serving signature, by the names that clients see.
    pub fn outputs(&self) -> &BTreeMap<String, TensorInfoLite> {
        &self.outputs
    }

    /// The graph below the signature, to feed and fetch any tensor of it.
    pub fn session(&self) -> &GraphSession {
        &self.session
    }

    /// Runs the model on one picture (rows of red, green, blue bytes) and returns all outputs.
    pub fn run_image(&self, rgb: &[u8], height: usize, width: usize) -> Result<BTreeMap<String, AnyTensor>> {
        self.run(&self.picture(rgb, height, width)?)
    }

    /// Runs the model on a tensor that its input takes and returns all outputs.
    pub fn run(&self, input: &AnyTensor) -> Result<BTreeMap<String, AnyTensor>> {
        let fetches: Vec<&str> = self.outputs.values().map(|info| info.name.as_str()).collect();
        let fetched = self.session.run(&[(self.input.name.as_str(), input)], &fetches, &[])?;
        Ok(self.outputs.keys().cloned().zip(fetched).collect())
    }

    /// A picture in the form that the input takes, with the axis of the batch.
    pub fn picture(&self, rgb: &[u8], height: usize, width: usize) -> Result<AnyTensor> {
        self.form.tensor(rgb, height, width)
    }
}

/// A tensor out of a message, made by TensorFlow: so it may hold bytes, which the crate `tensorflow` cannot be given.
pub fn tensor(message: &TensorProto) -> Result<AnyTensor> {
    let node = constant("value", message.dtype(), message.clone());
    let session = GraphSession::new(&graph(vec![node]), &SessionConfig { threads: None, optimize: false })?;
    session.run(&[], &["value"], &[])?.pop().ok_or_else(|| failed("reading a tensor", "nothing came out"))
}

/// The one input and the outputs of the serving signature.
fn signature(
    folder: &Path,
    mut signatures: BTreeMap<String, SignatureDef>,
) -> Result<(TensorInfoLite, BTreeMap<String, TensorInfoLite>)> {
    let refuse = |reason: String| Error::NotAModel { path: folder.to_owned(), reason };
    let Some(signature) = signatures.remove(SIGNATURE) else {
        let names: Vec<_> = signatures.keys().map(String::as_str).collect();
        return Err(refuse(format!("it has no signature {SIGNATURE}, only [{}]", names.join(", "))));
    };
    let lite = |(key, info): (&String, &TensorInfo)| {
        let lite =
            lite(info).ok_or_else(|| refuse(format!("{key} of signature {SIGNATURE} is no plain tensor")))?;
        Ok((key.clone(), lite))
    };
    let inputs = signature.inputs.iter().map(lite).collect::<Result<Vec<_>>>()?;
    let outputs = signature.outputs.iter().map(lite).collect::<Result<_>>()?;
    match <[_; 1]>::try_from(inputs) {
        Ok([(_, input)]) => Ok((input, outputs)),
        Err(inputs) => {
            Err(refuse(format!("signature {SIGNATURE} has {} inputs, expected one picture", inputs.len())))
        }
    }
}

fn lite(info: &TensorInfo) -> Option<TensorInfoLite> {
    let Some(tensor_info::Encoding::Name(name)) = &info.encoding else { return None };
    let known = info.tensor_shape.as_ref().filter(|shape| !shape.unknown_rank);
    let shape = known.map(|shape| shape.dim.iter().map(|dim| dim.size).collect());
    Some(TensorInfoLite { name: name.clone(), dtype: DataType::try_from(info.dtype).ok()?, shape })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::graph::nodes::{integers, node};

    const CONFIG: SessionConfig = SessionConfig { threads: None, optimize: false };

    #[test]
    fn runs_both_exports_of_a_real_model_alike() {
        let (Some(_), Some(shared)) = (testing::library(), testing::shared()) else { return };
        let model = shared.join("models/ssd_mobilenet_v1_075_coco");
        let picture = image::open(shared.join("data/coco_photos/image1.jpg")).unwrap().to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        for kind in ["tf1", "tf2"] {
            let model = ServingModel::load(&model.join(kind).join("saved_model"), &CONFIG).unwrap();
            assert_eq!(model.input().dtype, DataType::DtUint8);
            assert_eq!(model.input().shape.as_ref().unwrap()[3], 3);
            let out = model.run_image(&picture, height, width).unwrap();
            assert_eq!(out.len(), model.outputs().len());
            let boxes = &out["detection_boxes"];
            assert_eq!(boxes.shape(), [1, 100, 4]);
            // The picture shows dogs, which this model finds in either form.
            assert_eq!(out["detection_classes"].f32().unwrap()[0], 18.0, "{kind}");
            assert!(out["detection_scores"].f32().unwrap()[0] > 0.5, "{kind}");
        }
    }

    #[test]
    fn takes_encoded_and_float_pictures() {
        if testing::library().is_none() {
            return;
        }
        let info = |name: &str, dtype| TensorInfoLite { name: name.to_owned(), dtype, shape: None };
        let outputs = BTreeMap::from([("out".to_owned(), info("out:0", DataType::DtUint8))]);
        let index = node("first", "Reshape", &["in", "scalar"])
            .dtype("T", DataType::DtString)
            .dtype("Tshape", DataType::DtInt32);
        let encoded = graph(vec![
            node::<&str>("in", "Placeholder", &[]).dtype("dtype", DataType::DtString).build(),
            integers("scalar", &[0], &[]),
            index.build(),
            node("out", "DecodePng", &["first"]).dtype("dtype", DataType::DtUint8).build(),
        ]);
        let rgb: Vec<u8> = (0..2 * 3 * 3).map(|value| value * 13).collect();
        let model =
            ServingModel::from_graph(&encoded, info("in:0", DataType::DtString), outputs.clone(), &CONFIG)
                .unwrap();
        let out = model.run_image(&rgb, 2, 3).unwrap();
        assert_eq!(out["out"].shape(), [2, 3, 3]);
        assert_eq!(out["out"].u8().unwrap(), rgb);

        let float = graph(vec![
            node::<&str>("in", "Placeholder", &[]).dtype("dtype", DataType::DtFloat).build(),
            node("out", "Identity", &["in"]).dtype("T", DataType::DtFloat).build(),
        ]);
        let model =
            ServingModel::from_graph(&float, info("in:0", DataType::DtFloat), outputs.clone(), &CONFIG)
                .unwrap();
        assert_eq!(model.run_image(&rgb, 2, 3).unwrap()["out"].f32().unwrap()[1], 13.0);
        assert!(model.run_image(&rgb, 2, 4).is_err());
        assert!(ServingModel::from_graph(&float, info("in:0", DataType::DtInt64), outputs, &CONFIG).is_err());
    }

    #[test]
    fn what_is_no_model_is_an_error_with_its_path() {
        if testing::library().is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let message = || ServingModel::load(folder.path(), &CONFIG).unwrap_err().to_string();
        assert!(message().contains(&folder.path().display().to_string()));
        for bytes in [&b""[..], b"\xff\xff\xff", b"\x08\x01"] {
            std::fs::write(folder.path().join("saved_model.pb"), bytes).unwrap();
            assert!(message().contains(&folder.path().display().to_string()));
        }
    }
}
