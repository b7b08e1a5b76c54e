//! Warm-up requests of TensorFlow Serving: a TFRecord file of PredictionLog messages that a server replays before it
//! takes traffic, so that the first client does not wait for the graph to be optimised.

use std::fs;
use std::path::Path;

use prost::Message;

use crate::data::Picture;
use crate::data::records::{Records, frame};
use crate::error::{Error, Result};
use crate::pb;
use crate::runtime::pictures::Form;
use crate::runtime::serving::SIGNATURE;

/// Where a server looks for them in a version.
pub const FILE: &str = "assets.extra/tf_serving_warmup_requests";

/// A server takes no more.
pub const MOST: usize = 1000;

/// The input of the serving signature: the name that clients use, and its type.
///
/// Errors: [`Error::NotAModel`] where there is not one input.
pub fn input<'m>(path: &Path, meta: &'m pb::MetaGraphDef) -> Result<(&'m str, &'m pb::TensorInfo)> {
    let inputs = meta.signature_def.get(SIGNATURE).map(|s| &s.inputs);
    match inputs.into_iter().flatten().collect::<Vec<_>>()[..] {
        [(alias, info)] => Ok((alias, info)),
        ref others => Err(Error::NotAModel {
            path: path.to_owned(),
            reason: format!("signature {SIGNATURE} has {} inputs, expected one", others.len()),
        }),
    }
}

/// The bytes of the file: one request a picture.
pub fn requests(model_name: &str, alias: &str, form: Form, pictures: &[Picture]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for picture in pictures {
        let request = pb::PredictRequest {
            model_spec: Some(pb::ModelSpec {
                name: model_name.to_owned(),
                signature_name: SIGNATURE.to_owned(),
            }),
            inputs: [(alias.to_owned(), tensor(form, picture)?)].into(),
            output_filter: Vec::new(),
        };
        let log = pb::PredictionLog {
            log_type: Some(pb::prediction_log::LogType::PredictLog(pb::PredictLog {
                request: Some(request),
            })),
        };
        out.extend(frame(&log.encode_to_vec()));
    }
    Ok(out)
}

fn tensor(form: Form, picture: &Picture) -> Result<pb::TensorProto> {
    form.message(&picture.rgb, picture.height as usize, picture.width as usize)
}

/// Reads a file's requests: the tensor that each gives to `alias`.
///
/// Errors: [`Error::Damaged`] with the record, for whatever a server would fail on.
pub fn read(file: &Path, alias: &str) -> Result<Vec<pb::TensorProto>> {
    let mut records = Records::open(file)?;
    let mut tensors = Vec::new();
    while let Some((offset, bytes)) = records.next_record()? {
        let damaged = |reason: String| Error::Damaged {
            what: format!("{}, record at byte {offset}", file.display()),
            reason,
        };
        let log = pb::PredictionLog::decode(bytes).map_err(|e| damaged(e.to_string()))?;
        let Some(pb::prediction_log::LogType::PredictLog(pb::PredictLog { request: Some(mut request) })) =
            log.log_type
        else {
            return Err(damaged("it is no request for a prediction".into()));
        };
        let signature = request.model_spec.map(|spec| spec.signature_name).unwrap_or_default();
        if !(signature.is_empty() || signature == SIGNATURE) {
            return Err(damaged(format!("it asks for signature {signature}, expected {SIGNATURE}")));
        }
        match (request.inputs.remove(alias), request.inputs.len()) {
            (Some(tensor), 0) => tensors.push(tensor),
            _ => return Err(damaged(format!("its inputs are not the one of the signature, {alias}"))),
        }
        if tensors.len() > MOST {
            return Err(damaged(format!("a server replays at most {MOST} requests")));
        }
    }
    Ok(tensors)
}

/// Writes the file into a version.
pub fn write(version: &Path, bytes: &[u8]) -> Result<()> {
    let file = version.join(FILE);
    fs::write(&file, bytes).map_err(|e| Error::io(&file, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_file_and_their_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("requests");
        let picture = Picture { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 255] };
        for form in [Form::Bytes, Form::Float, Form::Encoded, Form::Example] {
            let pictures = [picture.clone(), picture.clone()];
            let bytes = requests("m", "input_tensor", form, &pictures).unwrap();
            std::fs::write(&file, &bytes).unwrap();
            let read_back = read(&file, "input_tensor").unwrap();
            assert_eq!(read_back, [tensor(form, &picture).unwrap(), tensor(form, &picture).unwrap()]);
            assert!(read(&file, "inputs").unwrap_err().to_string().contains("inputs"));
            for cut in [1, 11, 30, bytes.len() / 2 + 1, bytes.len() - 1] {
                std::fs::write(&file, &bytes[..cut]).unwrap();
                assert!(read(&file, "input_tensor").is_err(), "{cut}");
            }
        }
        std::fs::write(&file, frame(b"")).unwrap();
        assert!(read(&file, "input_tensor").unwrap_err().to_string().contains("no request"));
    }

    #[test]
    fn the_bytes_are_those_of_servings_own_messages() {
        // Python, tensorflow-serving-api 2.15.1: PredictionLog(predict_log=PredictLog(request=PredictRequest(model_spec=ModelSpec(name="m",
        // signature_name="serving_default"), inputs={"x": tf.make_tensor_proto(…uint8, shape [1, 1, 1, 3])})))
        let picture = Picture { width: 1, height: 1, rgb: vec![7, 8, 9] };
        let bytes = requests("m", "x", Form::Bytes, &[picture]).unwrap();
        let body = &bytes[12..bytes.len() - 4];
        let expected =
            b"\x32\x38\x0a\x36\x0a\x14\x0a\x01m\x1a\x0fserving_default\x12\x1e\x0a\x01x\x12\x19\x08\x04\
            \x12\x10\x12\x02\x08\x01\x12\x02\x08\x01\x12\x02\x08\x01\x12\x02\x08\x03\x22\x03\x07\x08\x09";
        assert_eq!(body, expected);
    }
}
