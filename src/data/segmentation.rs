//! COCO's `segmentation` of an object: polygons, or runs of pixels as a list or a string.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::rle::Rle;

/// The mask of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Segmentation {
    /// What any of the polygons `x0, y0, x1, y1, …` (pixels) covers.
    Polygons(Vec<Vec<f64>>),
    /// The pixels themselves.
    Runs(Rle),
}

impl Segmentation {
    /// Whether it is a mask of a picture of this size: runs say their own.
    pub fn fits(&self, height: u32, width: u32) -> bool {
        match self {
            Self::Polygons(_) => true,
            Self::Runs(runs) => runs.size() == (height, width),
        }
    }

    /// The covered pixels of a picture of this size, as pycocotools' `annToRLE` has them; `None` where it does not fit.
    pub fn rasterise(&self, height: u32, width: u32) -> Option<Rle> {
        match self {
            Self::Polygons(polygons) => {
                let parts: Option<Vec<Rle>> =
                    polygons.iter().map(|corners| Rle::from_polygon(height, width, corners)).collect();
                Rle::union(&parts?)
            }
            Self::Runs(runs) => self.fits(height, width).then(|| runs.clone()),
        }
    }
}

/// What may stand in a file.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Read {
    Polygons(Vec<Vec<f64>>),
    Runs { size: (u32, u32), counts: Counts },
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Counts {
    List(Vec<u32>),
    Text(String),
}

impl Read {
    /// The mask; nothing for the empty list that many tools write for objects without one; else why it is none.
    pub fn understand(self) -> Result<Option<Segmentation>, &'static str> {
        match self {
            Self::Polygons(polygons) if polygons.iter().all(Vec::is_empty) => Ok(None),
            Self::Polygons(polygons) => {
                // Tracing on a picture of one pixel tells whether the numbers can be traced at all.
                if polygons.iter().any(|corners| Rle::from_polygon(1, 1, corners).is_none()) {
                    return Err(
                        "a polygon with fewer than three corners, an odd count, or numbers out of any range",
                    );
                }
                Ok(Some(Segmentation::Polygons(polygons)))
            }
            Self::Runs { size: (height, width), counts } => {
                let runs = match counts {
                    Counts::List(counts) => Rle::from_counts(height, width, counts),
                    Counts::Text(text) => Rle::from_string(height, width, &text),
                };
                runs.map(|runs| Some(Segmentation::Runs(runs)))
                    .ok_or("runs that do not sum to the mask's size")
            }
            Self::Other(_) => Err("a segmentation that is neither polygons nor runs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Segmentation>, &'static str> {
        serde_json::from_str::<Read>(text).unwrap().understand()
    }

    #[test]
    fn reads_all_forms() {
        assert_eq!(read("[]"), Ok(None));
        assert_eq!(read("[[]]"), Ok(None));
        let square = read("[[1,1,3,1,3,3,1,3]]").unwrap().unwrap();
        assert_eq!(square.rasterise(4, 5).unwrap().area(), 4);
        let runs = read(r#"{"size":[4,5],"counts":[5,2,2,2,9]}"#).unwrap().unwrap();
        assert_eq!(runs.rasterise(4, 5), square.rasterise(4, 5));
        assert_eq!(runs.rasterise(5, 4), None);
        assert!(!runs.fits(5, 4) && square.fits(5, 4));
        // 5 2 2, then 2 and 9 as differences to the length two before.
        assert_eq!(read(r#"{"size":[4,5],"counts":"52207"}"#), Ok(Some(runs)));
    }

    #[test]
    fn damage_is_told() {
        for text in [
            "[[1,2,3,4]]",
            "[[1,2,3,4,5,6,7]]",
            "[[1,2,3,4,5,1e300]]",
            r#"{"size":[4,5],"counts":[1]}"#,
            r#"{"size":[4,5],"counts":"¿"}"#,
            r#"{"size":[4,5]}"#,
            "7",
            r#""x""#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
