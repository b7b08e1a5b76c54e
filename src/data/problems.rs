//! What was found wrong in a data set and set right or left out: counted, with examples, never silent.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

/// How many examples of each kind are kept.
pub const EXAMPLES: usize = 5;

/// A kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A picture that labels name does not exist: its labels are left out.
    MissingPicture,
    /// A picture that cannot be decoded to its end: its labels are left out.
    UnreadablePicture,
    /// A box reaches out of its picture: clipped.
    BoxOutside,
    /// A box without area, or wholly outside its picture: left out.
    EmptyBox,
    /// An object without a box: left out.
    NoBox,
    /// An object whose category is not declared: left out.
    UnknownCategory,
    /// An object of a picture that is not declared: left out.
    UnknownPicture,
    /// Two objects with one id: both kept.
    DuplicateId,
    /// One object labelled twice: kept once.
    DuplicateObject,
    /// The declared size is not the picture's: boxes are read as fractions of the declared size.
    WrongSize,
    /// The declared size is the picture's turned by its EXIF orientation: boxes are turned to the stored pixels.
    TurnedPicture,
    /// One picture in several places of the data: its objects are put together.
    SamePicture,
    /// Pictures of different names with the same bytes: both kept.
    SameBytes,
    /// Text that is not UTF-8: read as Windows-1252.
    NotUtf8,
    /// A mask that is damaged, or of another size than its picture: left out, the box kept.
    UnusableMask,
    /// A picture without objects: kept, it shows what the new classes are not.
    NoObjects,
}

impl ProblemKind {
    /// What was found and what was done, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::MissingPicture => "pictures not found (left out)",
            Self::UnreadablePicture => "pictures that cannot be read (left out)",
            Self::BoxOutside => "boxes reaching out of the picture (clipped)",
            Self::EmptyBox => "boxes without area inside the picture (left out)",
            Self::NoBox => "objects without a box (left out)",
            Self::UnknownCategory => "objects of an undeclared category (left out)",
            Self::UnknownPicture => "objects of an undeclared picture (left out)",
            Self::DuplicateId => "objects with an id used before (kept)",
            Self::DuplicateObject => "objects labelled twice (kept once)",
            Self::WrongSize => "pictures of another size than declared (boxes scaled)",
            Self::TurnedPicture => "pictures labelled as EXIF turns them (boxes turned back)",
            Self::SamePicture => "pictures found in several places (objects put together)",
            Self::SameBytes => "pictures with the bytes of another (kept)",
            Self::NotUtf8 => "files or names that are not UTF-8 (read as Windows-1252)",
            Self::UnusableMask => {
                "masks that are damaged or of another size than the picture (left out, boxes kept)"
            }
            Self::NoObjects => "pictures without objects (kept as negatives)",
        }
    }

    /// The key in reports.
    pub fn key(self) -> &'static str {
        match self {
            Self::MissingPicture => "missing_picture",
            Self::UnreadablePicture => "unreadable_picture",
            Self::BoxOutside => "box_outside",
            Self::EmptyBox => "empty_box",
            Self::NoBox => "no_box",
            Self::UnknownCategory => "unknown_category",
            Self::UnknownPicture => "unknown_picture",
            Self::DuplicateId => "duplicate_id",
            Self::DuplicateObject => "duplicate_object",
            Self::WrongSize => "wrong_size",
            Self::TurnedPicture => "turned_picture",
            Self::SamePicture => "same_picture",
            Self::SameBytes => "same_bytes",
            Self::NotUtf8 => "not_utf8",
            Self::UnusableMask => "unusable_mask",
            Self::NoObjects => "no_objects",
        }
    }
}

impl Serialize for ProblemKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

/// One kind's count and first examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// How often.
    pub count: usize,
    /// The first few, each with its place.
    pub examples: Vec<String>,
}

/// All problems of a data set; serialises as `{kind: {count, examples}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems {
    kinds: BTreeMap<ProblemKind, Counted>,
}

impl Problems {
    /// Counts one; `example` says where and is only made when it is kept.
    pub fn add(&mut self, kind: ProblemKind, example: impl FnOnce() -> String) {
        let counted = self.kinds.entry(kind).or_default();
        counted.count += 1;
        if counted.examples.len() < EXAMPLES {
            counted.examples.push(example());
        }
    }

    /// How often a kind was found.
    pub fn count(&self, kind: ProblemKind) -> usize {
        self.kinds.get(&kind).map_or(0, |counted| counted.count)
    }

    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The kinds that were found.
    pub fn iter(&self) -> impl Iterator<Item = (ProblemKind, &Counted)> {
        self.kinds.iter().map(|(kind, counted)| (*kind, counted))
    }

    /// Adds another set's problems.
    pub fn merge(&mut self, other: Self) {
        for (kind, more) in other.kinds {
            let counted = self.kinds.entry(kind).or_default();
            counted.count += more.count;
            counted.examples.extend(more.examples);
            counted.examples.truncate(EXAMPLES);
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, counted)) in self.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{} {}: {}", counted.count, kind.description(), counted.examples.join("; "))?;
            if counted.count > counted.examples.len() {
                write!(f, "; …")?;
            }
        }
        Ok(())
    }
}
