//! The parts that pictures are divided in, so that each can be held out, and the rows that are left without one.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::super::cache::FeatureCache;
use super::super::features::Showing;
use super::super::incomplete::Weights;
use super::super::kept::KeptRows;
use super::super::shape::Geometry;
use super::super::task::Loss;
use crate::data::LabelledImage;
use crate::error::Result;
use crate::random::evenly;

/// Parts that the pictures are divided in, each of which is held out once.
const FOLDS: usize = 3;
/// From so many pictures on one part is enough.
const MANY: usize = 100;
/// Most stretches of pictures that stand together in one part of a class, and how many pictures each has at least.
const STRETCHES: usize = 4;
const TOGETHER: usize = 8;
/// Pictures of one class that the fits without held-out pictures learn from, so that thousands cost no more than these.
const ENOUGH: usize = 100;

/// The parts.
#[derive(Debug)]
pub(super) struct Folds {
    /// For each view the number of its picture.
    shown: Vec<usize>,
    /// For each picture the classes that it shows.
    shows: Vec<BTreeSet<usize>>,
    /// For each picture the part of the data that it belongs to.
    parts: Vec<usize>,
}

impl Folds {
    /// Of the pictures of what is shown; classes are numbered from 0.
    pub fn new(showing: &Showing<'_>, geometry: Geometry) -> Self {
        let shown = showing.pictures(geometry);
        let shows = |image: &LabelledImage| -> BTreeSet<usize> {
            let examples = image.objects.iter().filter(|object| !object.crowd);
            examples.filter_map(|object| showing.classes.get(object.class.as_str()).copied()).collect()
        };
        let shows: Vec<_> = showing.dataset.images.iter().map(shows).collect();
        let parts = parts(&shows);
        Self { shown, shows, parts }
    }

    /// How many pictures there are.
    pub fn pictures(&self) -> usize {
        self.parts.len()
    }

    /// How many of the parts are held out.
    pub fn rounds(&self) -> usize {
        if self.pictures() < MANY { FOLDS } else { 1 }
    }

    /// The pictures of a part.
    pub fn held(&self, part: usize) -> Vec<usize> {
        (0..self.pictures()).filter(|&at| self.parts[at] == part).collect()
    }

    /// Whether a class is in pictures that are not of a part.
    pub fn shown_elsewhere(&self, class: usize, part: usize) -> bool {
        self.shows.iter().zip(&self.parts).any(|(shows, &of)| of != part && shows.contains(&class))
    }

    /// Whether any class is in pictures of a part.
    pub fn shows_objects(&self, part: usize) -> bool {
        self.shows.iter().zip(&self.parts).any(|(shows, &of)| of == part && !shows.is_empty())
    }

    /// Of each class so many pictures that are not of one part, spread over all that there are: for each picture whether.
    fn learned_from(&self, part: usize) -> Vec<bool> {
        let mut of_class: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (at, shows) in self.shows.iter().enumerate().filter(|(at, _)| self.parts[*at] != part) {
            for &class in shows {
                of_class.entry(Some(class)).or_default().push(at);
            }
            if shows.is_empty() {
                of_class.entry(None).or_default().push(at);
            }
        }
        let mut learned = vec![false; self.parts.len()];
        for pictures in of_class.values() {
            evenly(pictures, ENOUGH).for_each(|&picture| learned[picture] = true);
        }
        learned
    }

    /// The rows of some pictures that are not of one part.
    pub fn without(&self, kept: KeptRows<'_>, weights: &Weights, part: usize) -> Result<FeatureCache> {
        self.some(kept, weights, &self.learned_from(part))
    }

    /// The rows of the pictures of a part.
    pub fn only(&self, kept: KeptRows<'_>, weights: &Weights, part: usize) -> Result<FeatureCache> {
        let held: Vec<bool> = self.parts.iter().map(|&of| of == part).collect();
        self.some(kept, weights, &held)
    }

    /// The rows of some pictures, with the stand-ins in their places.
    fn some(&self, kept: KeptRows<'_>, weights: &Weights, pictures: &[bool]) -> Result<FeatureCache> {
        let mut out = kept.beside();
        for layer in 0..kept.layers() {
            let mut before = 0;
            let mut wanted = kept.view_ends(layer).zip(&self.shown).flat_map(|(end, &picture)| {
                let rows = end - mem::replace(&mut before, end);
                std::iter::repeat_n(pictures.get(picture) == Some(&true), rows)
            });
            for chunk in 0..kept.chunks(layer) {
                let others = weights.get(&(layer, chunk));
                kept.read(layer, chunk, |parts| {
                    let mut columns = Vec::with_capacity(parts.len());
                    for (number, part) in parts.iter().enumerate() {
                        let name = Loss::Sigmoid.parts().get(number);
                        let other = name.and_then(|name| others.and_then(|others| others.part(name)));
                        let part = other.unwrap_or(part);
                        let width = part.shape().get(1).copied().unwrap_or(1).max(1);
                        columns.push(part.f32()?.chunks_exact(width));
                    }
                    let rows = columns.first().map_or(0, |rows| rows.len());
                    for wanted in wanted.by_ref().take(rows) {
                        let row: Vec<&[f32]> = columns.iter_mut().filter_map(Iterator::next).collect();
                        if wanted {
                            out.push(layer, &row)?;
                        }
                    }
                    out.close_full()
                })?;
            }
        }
        out.finish()?;
        Ok(out)
    }
}

/// The part of each picture, by the classes that it shows. Each class is divided by itself, the first third of its pictures from the
/// second and the last: pictures that stand together often show the same thing, as those of a video do, and a fit that saw one of
/// them would know the other. Of many pictures a part has several such stretches, so that it is like the whole. Classes begin with
/// different parts, so that those of one picture are not all held out together.
fn parts(shows: &[BTreeSet<usize>]) -> Vec<usize> {
    let mut of_class: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (picture, classes) in shows.iter().enumerate() {
        of_class.entry(classes.first().copied()).or_default().push(picture);
    }
    let mut parts = vec![0; shows.len()];
    for (class, pictures) in of_class {
        let stretches = FOLDS * (pictures.len() / (FOLDS * TOGETHER)).clamp(1, STRETCHES);
        for (at, &picture) in pictures.iter().enumerate() {
            parts[picture] = (at * stretches / pictures.len() + class.unwrap_or(0)) % FOLDS;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{BoxYxyx, Dataset, ImageSource, Object};

    /// The parts of pictures that each show an object of a class or nothing.
    fn folds(pictures: &[Option<&str>], classes: &[(&'static str, usize)]) -> Folds {
        let image = |class: &Option<&str>| LabelledImage {
            source: ImageSource::File("none.png".into()),
            width: 4,
            height: 4,
            objects: class
                .iter()
                .map(|class| Object {
                    class: (*class).to_owned(),
                    bbox: BoxYxyx::new(0.0, 0.0, 1.0, 1.0),
                    crowd: false,
                    difficult: false,
                    area: 16.0,
                    mask: None,
                })
                .collect(),
            incomplete: Default::default(),
        };
        let dataset = Dataset { images: pictures.iter().map(image).collect(), ..Dataset::default() };
        let classes = classes.iter().copied().collect();
        let showing =
            Showing { dataset: &dataset, classes, first_new: 0, views: 1, seed: 0, outlines: false };
        Folds::new(&showing, Geometry::Squash)
    }

    #[test]
    fn of_thousands_a_hundred_of_each_class_are_learned_from() {
        let one = |at: usize| {
            if at < 600 {
                Some("a")
            } else if at < 604 {
                Some("b")
            } else {
                None
            }
        };
        let pictures: Vec<_> = (0..1000).map(one).collect();
        let folds = folds(&pictures, &[("a", 0), ("b", 1)]);
        let learned = folds.learned_from(0);
        let count = |part: &[bool]| part.iter().filter(|learned| **learned).count();
        let [a, b, none] = [&learned[..600], &learned[600..604], &learned[604..]];
        assert_eq!((count(a), count(none)), (ENOUGH, ENOUGH));
        let of_part = folds.parts[600..604].iter().filter(|part| **part == 0).count();
        assert_eq!(count(b), 4 - of_part);
        assert!(count(&a[..300]).abs_diff(ENOUGH / 2) <= 1, "they are spread over all");
        assert!(learned.iter().zip(&folds.parts).all(|(learned, part)| !learned || *part != 0));
    }

    #[test]
    fn classes_are_divided_each_by_itself() {
        let pictures: Vec<_> = ["a", "b", "c"].into_iter().cycle().take(9).map(Some).collect();
        let folds = folds(&pictures, &[("a", 0), ("b", 1), ("c", 2)]);
        for class in 0..3 {
            let mut parts: Vec<usize> = folds.parts.iter().skip(class).step_by(3).copied().collect();
            parts.sort_unstable();
            assert_eq!(parts, [0, 1, 2]);
        }
    }

    #[test]
    fn pictures_that_stand_together_are_held_out_together() {
        let of = |counts: [usize; 2]| {
            let names = [("a", counts[0]), ("b", counts[1])];
            let pictures: Vec<_> =
                names.iter().flat_map(|&(name, count)| std::iter::repeat_n(Some(name), count)).collect();
            folds(&pictures, &[("a", 0), ("b", 1)]).parts
        };
        assert_eq!(of([7, 3]), [0, 0, 0, 1, 1, 2, 2, 1, 2, 0]);
        assert_eq!(of([1, 2]), [0, 1, 2]);
        // Of many pictures several stretches: two of eight, and four at most.
        let many = of([48, 1200]);
        let stretch = |from: usize, length: usize| {
            (many[from], many[from..][..length].iter().all(|p| *p == many[from]))
        };
        assert_eq!([0, 8, 16, 24, 40].map(|from| stretch(from, 8)), [0, 1, 2, 0, 2].map(|part| (part, true)));
        assert_eq!(
            [48, 148, 348, 1148].map(|from| stretch(from, 100)),
            [1, 2, 1, 0].map(|part| (part, true))
        );
    }
}
