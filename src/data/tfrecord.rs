//! TFRecord files of OD API examples.
//!
//! Keys as in the OD API's `tf_example_decoder.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message;

use super::assemble::{RawObject, assemble};
use super::dataset::{Dataset, ImageSource};
use super::picture;
use super::problems::{ProblemKind, Problems};
use super::records::Records;
use super::segmentation::Segmentation;
use super::text;
use crate::error::{Error, Result};

#[derive(Clone, PartialEq, Message)]
struct Example {
    #[prost(message, optional, tag = "1")]
    features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
struct Features {
    #[prost(btree_map = "string, message", tag = "1")]
    feature: BTreeMap<String, Feature>,
}

#[derive(Clone, PartialEq, Message)]
struct Feature {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Bytes(BytesList),
    #[prost(message, tag = "2")]
    Floats(FloatList),
    #[prost(message, tag = "3")]
    Ints(Int64List),
}

#[derive(Clone, PartialEq, Message)]
struct BytesList {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    value: Vec<bytes::Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct FloatList {
    #[prost(float, repeated, tag = "1")]
    value: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct Int64List {
    #[prost(int64, repeated, tag = "1")]
    value: Vec<i64>,
}

/// Reads TFRecord files of one data set.
pub fn read_files(files: &[PathBuf]) -> Result<Dataset> {
    let mut out = Dataset::default();
    let mut labels: BTreeMap<String, i64> = BTreeMap::new();
    for path in files {
        let mut records = Records::open(path)?;
        while let Some((offset, bytes)) = records.next_record()? {
            let place = format!("{}, record {} at byte {offset}", path.display(), records.count);
            let example = Example::decode(bytes).map_err(|e| Error::Damaged {
                what: place.clone(),
                reason: format!("not a tf.Example: {e}"),
            })?;
            let source = (path.as_path(), offset, records.count);
            read_example(&example, source, &place, &mut labels, &mut out)?;
        }
    }
    let mut categories: Vec<(i64, String)> = labels.into_iter().map(|(name, label)| (label, name)).collect();
    categories.sort();
    out.categories = categories.into_iter().map(|(_, name)| name).collect();
    Ok(out)
}

/// The bytes of an example with these strings of bytes by key.
pub(crate) fn example(features: BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    let feature = features.into_iter().map(|(key, value)| {
        let kind = Some(Kind::Bytes(BytesList { value: vec![value.into()] }));
        (key.to_owned(), Feature { kind })
    });
    Example { features: Some(Features { feature: feature.collect() }) }.encode_to_vec()
}

/// Reads `image/encoded` of the record whose frame starts at `offset`.
pub fn read_encoded(path: &Path, offset: u64) -> Result<Vec<u8>> {
    let mut records = Records::open(path)?;
    records.seek(offset)?;
    let damaged = |reason: &str| Error::Damaged {
        what: format!("{}, record at byte {offset}", path.display()),
        reason: reason.to_owned(),
    };
    let (_, bytes) = records.next_record()?.ok_or_else(|| damaged("the file ends before it"))?;
    let example = Example::decode(bytes).map_err(|e| damaged(&format!("not a tf.Example: {e}")))?;
    example
        .bytes("image/encoded")
        .first()
        .map(|b| b.to_vec())
        .ok_or_else(|| damaged("it has no image/encoded"))
}

fn read_example(
    example: &Example,
    (path, offset, number): (&Path, u64, usize),
    place: &str,
    labels: &mut BTreeMap<String, i64>,
    out: &mut Dataset,
) -> Result<()> {
    let name = example.text("image/filename", 0, place, &mut out.problems);
    let name = name.unwrap_or_else(|| format!("record {number}"));
    let source = ImageSource::Record { path: path.to_owned(), offset, name };
    let Some(encoded) = example.bytes("image/encoded").first() else {
        out.problems.add(ProblemKind::UnreadablePicture, || {
            let keys = example.keys().join(", ");
            format!("{place}: no image/encoded; expected examples of the OD API, got the keys {keys}")
        });
        return Ok(());
    };
    let edges =
        ["xmin", "ymin", "xmax", "ymax"].map(|edge| example.floats(&format!("image/object/bbox/{edge}")));
    let texts = example.bytes("image/object/class/text").len();
    let ids = example.ints("image/object/class/label");
    let count = edges[0].len();
    let named = if texts > 0 { texts } else { ids.len() };
    if edges.iter().any(|edge| edge.len() != count) || named != count {
        return Err(Error::Data(format!(
            "{place}: image/object has {} xmin, {} ymin, {} xmax, {} ymax, {texts} class/text and {} class/label; \
             expected as many of each",
            edges[0].len(),
            edges[1].len(),
            edges[2].len(),
            edges[3].len(),
            ids.len()
        )));
    }
    if let Some(pixels) = edges.iter().flat_map(|edge| edge.iter()).find(|v| v.abs() > 4.0) {
        return Err(Error::Data(format!(
            "{place}: a box has the edge {pixels}; image/object/bbox holds fractions of the picture, 0 to 1, not pixels"
        )));
    }
    let info = match picture::probe(encoded, &source.display()) {
        Ok(info) => info,
        Err(error) => {
            out.problems.add(ProblemKind::UnreadablePicture, || error.to_string());
            return Ok(());
        }
    };
    let size = (example.ints("image/width").first(), example.ints("image/height").first());
    let declared = match size {
        (Some(&w), Some(&h)) => u32::try_from(w).ok().zip(u32::try_from(h).ok()),
        _ => None,
    };
    let (width, height) = declared.filter(|(w, h)| *w > 0 && *h > 0).unwrap_or((info.width, info.height));
    let (w, h) = (f64::from(width), f64::from(height));
    let flag = |key: &str, index: usize| example.ints(key).get(index).is_some_and(|v| *v != 0);
    let masks = read_masks(example, count, (info.width, info.height), place, &mut out.problems);
    let mut raw = Vec::with_capacity(count);
    let [xmins, ymins, xmaxs, ymaxs] = edges;
    for (index, (((xmin, ymin), xmax), ymax)) in xmins.iter().zip(ymins).zip(xmaxs).zip(ymaxs).enumerate() {
        let label = ids.get(index).copied();
        let class = match example.text("image/object/class/text", index, place, &mut out.problems) {
            Some(text) if !text.is_empty() => text,
            _ => format!("class_{}", label.unwrap_or(0)),
        };
        labels.entry(class.clone()).or_insert(label.unwrap_or(i64::MAX));
        let [x0, y0, x1, y1] = [xmin, ymin, xmax, ymax].map(|edge| f64::from(*edge));
        raw.push(RawObject {
            class,
            corners: [x0 * w, y0 * h, x1 * w, y1 * h],
            crowd: flag("image/object/is_crowd", index) || flag("image/object/group_of", index),
            difficult: flag("image/object/difficult", index),
            area: example.floats("image/object/area").get(index).map(|v| f64::from(*v)),
            mask: masks.get(index).and_then(Clone::clone),
            place: format!("object {}", index + 1),
        });
    }
    let image = assemble(source, info, Some((width, height)), raw, &mut out.problems);
    out.images.push(image);
    Ok(())
}

/// The masks of so many objects: pictures in which what is not black belongs to the object (tf_example_decoder.py,
/// `_decode_png_instance_masks`).
fn read_masks(
    example: &Example,
    count: usize,
    size: (u32, u32),
    place: &str,
    problems: &mut Problems,
) -> Vec<Option<Segmentation>> {
    let encoded = example.bytes("image/object/mask");
    if !encoded.is_empty() && encoded.len() != count {
        problems.add(ProblemKind::UnusableMask, || {
            format!("{place}: {} masks for {count} objects", encoded.len())
        });
        return Vec::new();
    }
    let read = |(number, bytes): (usize, &bytes::Bytes)| {
        let mask = picture::mask(bytes, &format!("{place}, mask {}", number + 1), size);
        mask.map_err(|error| problems.add(ProblemKind::UnusableMask, || error.to_string())).ok()
    };
    encoded.iter().enumerate().map(read).map(|mask| mask.map(Segmentation::Runs)).collect()
}

impl Example {
    fn kind(&self, key: &str) -> Option<&Kind> {
        self.features.as_ref()?.feature.get(key)?.kind.as_ref()
    }

    fn keys(&self) -> Vec<&str> {
        self.features.iter().flat_map(|f| f.feature.keys().map(String::as_str)).take(20).collect()
    }

    fn bytes(&self, key: &str) -> &[bytes::Bytes] {
        if let Some(Kind::Bytes(list)) = self.kind(key) { &list.value } else { &[] }
    }

    fn floats(&self, key: &str) -> &[f32] {
        if let Some(Kind::Floats(list)) = self.kind(key) { &list.value } else { &[] }
    }

    fn ints(&self, key: &str) -> &[i64] {
        if let Some(Kind::Ints(list)) = self.kind(key) { &list.value } else { &[] }
    }

    fn text(&self, key: &str, index: usize, place: &str, problems: &mut Problems) -> Option<String> {
        self.bytes(key).get(index).map(|b| text::decode(b, &format!("{place}, {key}"), problems).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::boxes::BoxYxyx;
    use crate::data::records::frame;

    fn example(edge: f32) -> Vec<u8> {
        let mut png = Vec::new();
        image::RgbImage::new(40, 20)
            .write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png)
            .unwrap();
        let bytes = |v: &[u8]| Kind::Bytes(BytesList { value: vec![v.to_vec().into()] });
        let float = |v: f32| Kind::Floats(FloatList { value: vec![v] });
        let feature: BTreeMap<String, Feature> = [
            ("image/encoded", bytes(&png)),
            ("image/object/bbox/xmin", float(0.0)),
            ("image/object/bbox/ymin", float(0.25)),
            ("image/object/bbox/xmax", float(edge)),
            ("image/object/bbox/ymax", float(1.0)),
            ("image/object/class/text", bytes(b"duck")),
            ("image/object/class/label", Kind::Ints(Int64List { value: vec![91] })),
        ]
        .into_iter()
        .map(|(key, kind)| (key.to_owned(), Feature { kind: Some(kind) }))
        .collect();
        Example { features: Some(Features { feature }) }.encode_to_vec()
    }

    #[test]
    fn reads_examples() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.record");
        std::fs::write(&path, [frame(&example(0.5)), frame(&example(1.0))].concat()).unwrap();
        let set = read_files(std::slice::from_ref(&path)).unwrap();
        assert_eq!((set.images.len(), set.categories.as_slice()), (2, &["duck".to_owned()][..]));
        assert_eq!(set.images[0].objects[0].bbox, BoxYxyx::new(0.25, 0.0, 1.0, 0.5));
        assert_eq!(set.images[1].picture().unwrap().width, 40);
        std::fs::write(&path, frame(&example(30.0))).unwrap();
        assert!(read_files(&[path]).unwrap_err().to_string().contains("not pixels"));
    }

    #[test]
    fn what_is_wrong_with_one_example_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.record");
        let with = |key: &str, value: Option<&[u8]>| {
            let mut example = Example::decode(&*example(0.5)).unwrap();
            let all = &mut example.features.as_mut().unwrap().feature;
            all.remove(key);
            if let Some(value) = value {
                let kind = Some(Kind::Bytes(BytesList { value: vec![value.to_vec().into()] }));
                all.insert(key.to_owned(), Feature { kind });
            }
            frame(&example.encode_to_vec())
        };
        let latin = with("image/object/class/text", Some(b"carr\xe9"));
        let named = with("image/filename", Some(b"caf\xe9.png"));
        let without = with("image/encoded", None);
        std::fs::write(&path, [latin, named, without].concat()).unwrap();
        let set = read_files(std::slice::from_ref(&path)).unwrap();
        assert_eq!((set.images.len(), set.images[0].objects[0].class.as_str()), (2, "carré"));
        assert!(set.images[1].name().ends_with("a.record:café.png"));
        assert_eq!(set.problems.count(ProblemKind::NotUtf8), 2);
        assert_eq!(set.problems.count(ProblemKind::UnreadablePicture), 1);
        let told = set.problems.to_string();
        assert!(told.contains("record 3") && told.contains("got the keys image/object/bbox"), "{told}");
    }

    #[test]
    fn reads_masks_and_tells_of_damaged_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.record");
        let mut png = Vec::new();
        let half = image::GrayImage::from_fn(40, 20, |x, _| image::Luma([if x < 20 { 1 } else { 0 }]));
        half.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let with = |masks: Vec<Vec<u8>>| {
            let mut example = Example::decode(&*example(0.5)).unwrap();
            let value = masks.into_iter().map(Into::into).collect();
            let kind = Some(Kind::Bytes(BytesList { value }));
            example.features.as_mut().unwrap().feature.insert("image/object/mask".into(), Feature { kind });
            std::fs::write(&path, frame(&example.encode_to_vec())).unwrap();
            read_files(std::slice::from_ref(&path)).unwrap()
        };
        let set = with(vec![png.clone()]);
        let mask = set.images[0].objects[0].mask.clone().unwrap().rasterise(20, 40).unwrap();
        assert_eq!((mask.area(), mask.counts()), (400, &[0, 400, 400][..]));
        assert!(set.problems.is_empty());
        for masks in [vec![b"no picture".to_vec()], vec![png.clone(), png]] {
            let set = with(masks);
            assert!(set.images[0].objects[0].mask.is_none() && set.problems.to_string().contains("masks"));
        }
    }

    #[test]
    fn every_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.record");
        let good = frame(&example(0.5));
        for cut in 1..good.len() {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(read_files(std::slice::from_ref(&path)).is_err(), "{cut}");
        }
        let mut bad = good.clone();
        bad[40] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(read_files(std::slice::from_ref(&path)).unwrap_err().to_string().contains("checksum"));
        std::fs::write(&path, frame(&[0xff; 30])).unwrap();
        assert!(read_files(&[path]).is_err());
    }
}
