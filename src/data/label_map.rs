//! The OD API's label map: ids and names of classes.

use std::fmt::Write as _;
use std::path::Path;

use super::coco_names::COCO;
use super::label_map_text;
use crate::error::{Error, Result};
use crate::input;

/// One class of a label map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The id that the model emits, 1 or more.
    pub id: u32,
    /// `name`: what `image/object/class/text` is matched with; often a knowledge-graph id such as `/m/01g317`.
    pub name: String,
    /// `display_name`: what people read.
    pub display_name: Option<String>,
}

impl Item {
    /// What to show: the display name, or the name.
    pub fn label(&self) -> &str {
        self.display_name.as_deref().unwrap_or(&self.name)
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.display_name.as_deref() == Some(name)
    }
}

/// A label map, in the order of its file; knows the text it was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelMap {
    /// The classes in the order of the file.
    pub items: Vec<Item>,
    text: String,
}

impl LabelMap {
    /// Reads a `label_map.pbtxt`.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&input::read_text(path)?, &path.display().to_string())
    }

    /// Parses text; `name` is the file's name in errors.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let items = label_map_text::parse(text).map_err(|e| Error::Data(format!("{name}:{e}")))?;
        Ok(Self { items, text: text.to_owned() })
    }

    /// The 80 classes of COCO with ids from 1 to 90, as in `mscoco_label_map.pbtxt`.
    pub fn coco() -> Self {
        let item = |&(id, name, display): &(u32, &str, &str)| Item {
            id,
            name: name.to_owned(),
            display_name: Some(display.to_owned()),
        };
        Self::from_items(COCO.iter().map(item).collect())
    }

    /// `class_1` to `class_N`, for a model about whose classes nothing is known.
    pub fn numbered(classes: u32) -> Self {
        let item = |id| Item { id, name: format!("class_{id}"), display_name: None };
        Self::from_items((1..=classes).map(item).collect())
    }

    /// The label map of a model: `given`, else the `label_map.pbtxt` found `beside` it, else COCO's when it has 90
    /// classes, else [`Self::numbered`]. `classes` counts them where names do not come from a file. The second value
    /// says which it was.
    pub fn for_model(
        given: Option<&Path>,
        beside: Option<&Path>,
        classes: impl FnOnce() -> Result<u32>,
    ) -> Result<(Self, String)> {
        if let Some(path) = given.or(beside) {
            return Ok((Self::read(path)?, path.display().to_string()));
        }
        Ok(match classes()? {
            90 => (Self::coco(), "COCO's names (the model has 90 classes)".to_owned()),
            other => (Self::numbered(other), "no label map: classes are called class_N".to_owned()),
        })
    }

    /// The class of an id.
    pub fn by_id(&self, id: u32) -> Option<&Item> {
        self.items.iter().find(|item| item.id == id)
    }

    /// The class of a name or display name, case-sensitive; `name` wins over another item's `display_name`.
    pub fn by_name(&self, name: &str) -> Option<&Item> {
        self.items
            .iter()
            .find(|item| item.name == name)
            .or_else(|| self.items.iter().find(|item| item.is(name)))
    }

    /// What to show for an id; `class_N` for one that is not in the map.
    pub fn label(&self, id: u32) -> String {
        self.by_id(id).map_or_else(|| format!("class_{id}"), |item| item.label().to_owned())
    }

    /// The greatest id, 0 for an empty map.
    pub fn max_id(&self) -> u32 {
        self.items.iter().map(|item| item.id).max().unwrap_or(0)
    }

    /// Errors where the map names an id that a model of so many classes does not have. `from` says where the map is from.
    pub fn check_fits(&self, classes: usize, from: &str) -> Result<()> {
        if self.max_id() as usize > classes {
            return Err(Error::Usage(format!(
                "label map {from} names id {}, but the model has classes 1 to {classes}; is it the map of another model?",
                self.max_id()
            )));
        }
        Ok(())
    }

    /// Names that a mistyped name may have meant: the same but for case, spaces, `_` and `-`, or at most two edits away.
    pub fn near_misses(&self, name: &str) -> Vec<&str> {
        let wanted = folded(name);
        let limit = if wanted.chars().count() > 5 { 2 } else { 1 };
        let mut found: Vec<(usize, &str)> = self
            .items
            .iter()
            .flat_map(|item| [Some(item.name.as_str()), item.display_name.as_deref()])
            .flatten()
            .filter(|candidate| !candidate.starts_with("/m/"))
            .filter_map(|candidate| {
                let distance = edits(&wanted, &folded(candidate));
                (distance <= limit).then_some((distance, candidate))
            })
            .collect();
        found.sort_unstable();
        found.dedup_by_key(|(_, candidate)| *candidate);
        found.into_iter().map(|(_, candidate)| candidate).take(3).collect()
    }

    /// The class of a name, or an error that lists near misses.
    pub fn require(&self, name: &str) -> Result<&Item> {
        self.by_name(name).ok_or_else(|| {
            let near = self.near_misses(name);
            let hint = if near.is_empty() {
                "names are matched with case".to_owned()
            } else {
                format!("did you mean {}?", near.join(" or "))
            };
            Error::Data(format!("the label map has no class {name:?}; {hint}"))
        })
    }

    /// Appends classes with ids `first_id`, `first_id + 1`, … after the old text, which stays as it is byte for byte.
    pub fn append<S: AsRef<str>>(&mut self, names: &[S], first_id: u32) -> Result<()> {
        let mut grown = self.clone();
        let newline = if grown.text.contains("\r\n") { "\r\n" } else { "\n" };
        if !grown.text.is_empty() && !grown.text.ends_with('\n') {
            grown.text.push_str(newline);
        }
        for (name, id) in names.iter().map(AsRef::as_ref).zip(first_id..) {
            if name.trim().is_empty() {
                return Err(Error::Data("a class name is empty; give each new class a name".to_owned()));
            }
            if let Some(old) = grown.by_name(name) {
                return Err(Error::Data(format!(
                    "class {name:?} is already in the label map with id {}; choose another name",
                    old.id
                )));
            }
            if id == 0 || grown.by_id(id).is_some() {
                return Err(Error::Data(format!(
                    "class {name:?} cannot have id {id}: the label map uses it already"
                )));
            }
            let item = Item { id, name: name.to_owned(), display_name: Some(name.to_owned()) };
            grown.text.push_str(&item_text(&item).replace('\n', newline));
            grown.items.push(item);
        }
        *self = grown;
        Ok(())
    }

    /// The file's text.
    pub fn to_text(&self) -> &str {
        &self.text
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, &self.text).map_err(|e| Error::io(path, e))
    }

    fn from_items(items: Vec<Item>) -> Self {
        let text = items.iter().map(item_text).collect();
        Self { items, text }
    }
}

fn item_text(item: &Item) -> String {
    let mut out = format!("item {{\n  name: {}\n  id: {}\n", label_map_text::quote(&item.name), item.id);
    if let Some(display) = &item.display_name {
        let _ = writeln!(out, "  display_name: {}", label_map_text::quote(display));
    }
    out.push_str("}\n");
    out
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coco_has_80_classes() {
        let coco = LabelMap::coco();
        assert_eq!((coco.items.len(), coco.max_id()), (80, 90));
        assert_eq!(coco.by_name("person").unwrap().id, 1);
        assert_eq!(coco.by_name("/m/01g317").unwrap().id, 1);
        assert_eq!((coco.label(18).as_str(), coco.label(12).as_str()), ("dog", "class_12"));
        assert_eq!(LabelMap::parse(coco.to_text(), "x").unwrap(), coco);
    }

    #[test]
    fn appends_and_keeps_the_old_bytes() {
        for text in ["# mine\nitem{id:1 name:'a'}", "item {\r\n id: 2\r\n name: \"b\" }\r\n", ""] {
            let mut map = LabelMap::parse(text, "x").unwrap();
            map.append(&["raccoon \"x\"", "käng\\uru"], 91).unwrap();
            assert!(map.to_text().starts_with(text));
            assert_eq!(LabelMap::parse(map.to_text(), "y").unwrap(), map);
            assert_eq!(map.by_name("käng\\uru").unwrap().id, 92);
        }
        let mut coco = LabelMap::coco();
        let before = coco.clone();
        assert!(coco.append(&["new", "dog"], 91).unwrap_err().to_string().contains("id 18"));
        assert!(coco.append(&["new"], 90).is_err());
        assert!(coco.append(&["x", "x"], 91).is_err());
        assert_eq!(coco, before);
    }

    #[test]
    fn hints_at_near_misses() {
        let coco = LabelMap::coco();
        assert_eq!(coco.near_misses("Traffic_Light"), ["traffic light"]);
        assert!(coco.require("persn").unwrap_err().to_string().contains("person"));
        assert!(coco.near_misses("rubber_ducky").is_empty());
    }
}
