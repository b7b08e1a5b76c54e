//! Finds protobuf fields that the definitions under `proto/` do not have.
//!
//! A generated decoder drops what it does not know. A model that lost a field on the way through would be a wrong
//! model, so every file is walked on the wire first and refused by the field's name if anything is unknown.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

use crate::error::{Error, Result};
use crate::pb::DESCRIPTORS;

/// Deeper nesting than this is refused; prost's own decoder stops at 100.
const MAX_DEPTH: usize = 100;

/// What a field number of a message means for the walk.
#[derive(Clone, Copy)]
enum Kind {
    Scalar,
    Message(usize),
}

struct Schema {
    names: Vec<String>,
    fields: Vec<HashMap<u32, Kind>>,
    index: HashMap<String, usize>,
}

/// Checks that `bytes`, a serialized `message` (its short name, such as `SavedModel`), hold known fields only.
///
/// `what` names the file in errors. Errors: [`Error::UnknownField`], [`Error::Damaged`].
pub fn check(what: &str, message: &str, bytes: &[u8]) -> Result<()> {
    let schema = schema()?;
    let root = *schema
        .index
        .get(&format!(".tfgraft.pb.{message}"))
        .ok_or_else(|| damaged(what, format!("no definition of message {message}")))?;
    walk(schema, what, root, bytes, 0)
}

fn walk(schema: &Schema, what: &str, message: usize, mut bytes: &[u8], depth: usize) -> Result<()> {
    let name = &schema.names[message];
    if depth > MAX_DEPTH {
        return Err(damaged(what, format!("messages nest deeper than {MAX_DEPTH} in {name}")));
    }
    while !bytes.is_empty() {
        let key = varint(&mut bytes).ok_or_else(|| truncated(what, name))?;
        let (number, wire) = ((key >> 3) as u32, key & 7);
        let kind = schema.fields[message].get(&number).copied().ok_or_else(|| Error::UnknownField {
            what: what.to_owned(),
            message: name.trim_start_matches(".tfgraft.pb.").to_owned(),
            number,
        })?;
        match wire {
            0 => {
                varint(&mut bytes).ok_or_else(|| truncated(what, name))?;
            }
            1 => skip(&mut bytes, 8).ok_or_else(|| truncated(what, name))?,
            5 => skip(&mut bytes, 4).ok_or_else(|| truncated(what, name))?,
            2 => {
                let length = varint(&mut bytes).ok_or_else(|| truncated(what, name))?;
                let length = usize::try_from(length).map_err(|_| truncated(what, name))?;
                let (body, rest) = bytes.split_at_checked(length).ok_or_else(|| truncated(what, name))?;
                bytes = rest;
                if let Kind::Message(inner) = kind {
                    walk(schema, what, inner, body, depth + 1)?;
                }
            }
            _ => return Err(damaged(what, format!("wire type {wire} in {name}, field {number}"))),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in 0..10 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << (7 * shift);
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn skip(bytes: &mut &[u8], count: usize) -> Option<()> {
    *bytes = bytes.get(count..)?;
    Some(())
}

fn truncated(what: &str, message: &str) -> Error {
    damaged(what, format!("ends in the middle of message {}", message.trim_start_matches(".tfgraft.pb.")))
}

fn damaged(what: &str, reason: String) -> Error {
    Error::Damaged { what: what.to_owned(), reason }
}

fn schema() -> Result<&'static Schema> {
    static SCHEMA: OnceLock<std::result::Result<Schema, String>> = OnceLock::new();
    SCHEMA
        .get_or_init(|| {
            FileDescriptorSet::decode(DESCRIPTORS).map(|set| Schema::new(&set)).map_err(|e| e.to_string())
        })
        .as_ref()
        .map_err(|reason| damaged("the built-in message definitions", reason.clone()))
}

impl Schema {
    fn new(set: &FileDescriptorSet) -> Self {
        let mut found = Vec::new();
        for file in &set.file {
            for message in &file.message_type {
                collect(&format!(".{}", file.package()), message, &mut found);
            }
        }
        let index: HashMap<String, usize> =
            found.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        let fields = found
            .iter()
            .map(|(_, message)| {
                let kind = |f: &prost_types::FieldDescriptorProto| match f.r#type() {
                    Type::Message => index.get(f.type_name()).map_or(Kind::Scalar, |&i| Kind::Message(i)),
                    _ => Kind::Scalar,
                };
                message.field.iter().map(|f| (f.number() as u32, kind(f))).collect()
            })
            .collect();
        Self { names: found.into_iter().map(|(name, _)| name).collect(), fields, index }
    }
}

fn collect<'a>(
    prefix: &str,
    message: &'a prost_types::DescriptorProto,
    found: &mut Vec<(String, &'a prost_types::DescriptorProto)>,
) {
    let name = format!("{prefix}.{}", message.name());
    for inner in &message.nested_type {
        collect(&name, inner, found);
    }
    found.push((name, message));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn model() -> pb::SavedModel {
        pb::SavedModel { saved_model_schema_version: 1, meta_graphs: vec![pb::MetaGraphDef::default()] }
    }

    #[test]
    fn known_fields_pass() {
        check("m", "SavedModel", &model().encode_to_vec()).unwrap();
    }

    #[test]
    fn an_unknown_field_is_named() {
        let mut bytes = model().encode_to_vec();
        bytes.extend([0xf8, 0x01, 0x05]); // field 31, varint
        match check("m", "SavedModel", &bytes) {
            Err(Error::UnknownField { message, number, .. }) => {
                assert_eq!((message.as_str(), number), ("SavedModel", 31))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_a_prefix() {
        let bytes =
            pb::NodeDef { name: "n".into(), op: "Const".into(), ..Default::default() }.encode_to_vec();
        for end in 0..bytes.len() {
            let _ = check("m", "NodeDef", &bytes[..end]);
        }
        assert!(check("m", "NodeDef", &bytes[..bytes.len() - 1]).is_err());
    }
}
