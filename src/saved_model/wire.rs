//! Finds protobuf fields that the definitions under `proto/` do not have.
//!
//! A generated decoder drops what it does not know. A model that lost a field on the way through would be a wrong
//! model, so every file is walked on the wire first and refused by the field's name if anything is unknown. A message that
//! stands twice where there is one is refused as well: decoders merge the two, each in its way, and no writer does it.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};

use crate::error::{Error, Result};
use crate::pb::DESCRIPTORS;

/// Deeper nesting than this is refused; prost's own decoder stops at 100.
const MAX_DEPTH: usize = 100;

/// What a field number of a message means for the walk.
#[derive(Clone, Copy)]
enum Kind {
    Scalar,
    /// A message, and whether there may be many.
    Message(usize, bool),
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
    let mut seen: Vec<u32> = Vec::new();
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
                if let Kind::Message(inner, many) = kind {
                    if !many {
                        if seen.contains(&number) {
                            let name = name.trim_start_matches(".tfgraft.pb.");
                            return Err(damaged(
                                what,
                                format!("field {number} of message {name} stands twice"),
                            ));
                        }
                        seen.push(number);
                    }
                    walk(schema, what, inner, body, depth + 1)?;
                }
            }
            _ => return Err(damaged(what, format!("wire type {wire} in {name}, field {number}"))),
        }
    }
    Ok(())
}

/// How often a field stands in a message, nested ones aside; what is cut off counts as much as is there.
pub fn occurrences(mut bytes: &[u8], field: u64) -> usize {
    let mut found = 0;
    while let Some(key) = varint(&mut bytes) {
        let rest = match key & 7 {
            0 => varint(&mut bytes).map(drop),
            1 => skip(&mut bytes, 8),
            5 => skip(&mut bytes, 4),
            2 => varint(&mut bytes).and_then(|n| skip(&mut bytes, usize::try_from(n).ok()?)),
            _ => None,
        };
        found += usize::from(key >> 3 == field);
        if rest.is_none() {
            break;
        }
    }
    found
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
                    Type::Message => index
                        .get(f.type_name())
                        .map_or(Kind::Scalar, |&i| Kind::Message(i, f.label() == Label::Repeated)),
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
    fn what_stands_twice_is_refused_or_counted() {
        let graph = pb::MetaGraphDef { graph_def: Some(pb::GraphDef::default()), ..Default::default() };
        let twice = [graph.encode_to_vec(), graph.encode_to_vec()].concat();
        let error = check("m", "MetaGraphDef", &twice).unwrap_err().to_string();
        assert!(error.contains("field 2 of message MetaGraphDef stands twice"), "{error}");
        check("m", "MetaGraphDef", &graph.encode_to_vec()).unwrap();
        // Of a list there may be many.
        let two = [model().encode_to_vec(), model().encode_to_vec()].concat();
        check("m", "SavedModel", &two).unwrap();
        assert_eq!(
            (occurrences(&two, 2), occurrences(&two, 1), occurrences(&two[..two.len() - 1], 3)),
            (2, 2, 0)
        );
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
