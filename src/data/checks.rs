//! What can be told only when all labels are together: which pictures can be decoded, which are the same, which show nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;

use super::dataset::{Dataset, LabelledImage};
use super::picture::Picture;
use super::problems::ProblemKind;
use crate::error::{Error, Result};

/// Most pictures decoded at once: each may take 300 MB.
const AT_ONCE: usize = 4;

/// Leaves out the pictures that cannot be decoded, and counts those, pictures that have the bytes of another, and pictures
/// without objects.
///
/// A header that can be read says nothing of the rest. Whoever trains or measures must know before anything else is counted or
/// run: the only picture of a class may be one of these.
pub(super) fn check(set: &mut Dataset) -> Result<()> {
    let decoded = decode_all(&set.images)?;
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut kept = Vec::with_capacity(set.images.len());
    for (image, decoded) in std::mem::take(&mut set.images).into_iter().zip(decoded) {
        let digest = match decoded {
            Ok(digest) => digest,
            Err(error) => {
                set.problems.add(ProblemKind::UnreadablePicture, || error.to_string());
                set.left_out.push(image.source);
                continue;
            }
        };
        match names.entry(digest) {
            Entry::Occupied(first) => {
                let told = || format!("{} is {}", image.name(), first.get());
                set.problems.add(ProblemKind::SameBytes, told);
            }
            Entry::Vacant(place) => {
                place.insert(image.name());
            }
        }
        if image.objects.is_empty() {
            set.problems.add(ProblemKind::NoObjects, || image.name());
        }
        kept.push(image);
    }
    set.images = kept;
    Ok(())
}

/// Of each picture a number that its bytes give, or why it cannot be decoded.
fn decode_all(images: &[LabelledImage]) -> Result<Vec<Result<u64>>> {
    let threads =
        thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE).min(images.len().max(1));
    let part = |first: usize| images.iter().skip(first).step_by(threads).map(decode).collect::<Vec<_>>();
    let part = &part;
    let parts: Vec<Vec<Result<u64>>> = thread::scope(|scope| {
        let run =
            |first| thread::Builder::new().name("pictures".into()).spawn_scoped(scope, move || part(first));
        let running = (0..threads).map(run).collect::<std::io::Result<Vec<_>>>();
        let running =
            running.map_err(|error| Error::Data(format!("no thread to read pictures with: {error}")))?;
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        let failed = |_| Error::Data("a thread that reads pictures failed".into());
        ended.map(|part| part.map_err(failed)).collect::<Result<_>>()
    })?;
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    Ok((0..images.len()).filter_map(|at| parts.get_mut(at % threads)?.next()).collect())
}

fn decode(image: &LabelledImage) -> Result<u64> {
    let bytes = image.source.read()?;
    Picture::decode(&bytes, &image.name())?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::super::dataset::{ImageSource, Incomplete};
    use super::*;

    #[test]
    fn pictures_are_decoded_in_their_order_and_damaged_ones_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let image = |number: u32| {
            let path = dir.path().join(format!("{number:02}.png"));
            image::RgbImage::from_fn(30, 20, |x, y| image::Rgb([(x * y) as u8, number as u8, 7]))
                .save(&path)
                .unwrap();
            LabelledImage {
                source: ImageSource::File(path),
                width: 30,
                height: 20,
                objects: Vec::new(),
                incomplete: Incomplete::Nothing,
            }
        };
        let images: Vec<LabelledImage> = (0..11).map(image).collect();
        let path = |number: usize| dir.path().join(format!("{number:02}.png"));
        let whole = std::fs::read(path(3)).unwrap();
        std::fs::write(path(3), &whole[..whole.len() * 2 / 3]).unwrap();
        std::fs::copy(path(5), path(8)).unwrap();
        std::fs::remove_file(path(10)).unwrap();
        let mut set = Dataset { images, ..Dataset::default() };
        check(&mut set).unwrap();
        // Who lists incomplete pictures need not know which of them are damaged.
        set.mark_incomplete("03.png\n04.png", "list").unwrap();
        assert_eq!(set.images.iter().filter(|image| !image.incomplete.is_complete()).count(), 1);
        assert!(set.mark_incomplete("33.png", "list").is_err());
        let left: Vec<String> = set.images.iter().map(LabelledImage::name).collect();
        let expected: Vec<String> =
            [0, 1, 2, 4, 5, 6, 7, 8, 9].map(|number| path(number).display().to_string()).to_vec();
        assert_eq!(left, expected);
        assert_eq!(set.problems.count(ProblemKind::UnreadablePicture), 2);
        assert_eq!(set.problems.count(ProblemKind::NoObjects), 9);
        let told = set.problems.to_string();
        assert!(told.contains(&format!("{} is {}", path(8).display(), path(5).display())), "{told}");
        assert!(told.contains("03.png: the picture cannot be decoded"), "{told}");
        check(&mut Dataset::default()).unwrap();
    }
}
