//! At which logit a score of one half belongs, by detections in pictures that a fit did not see.
//!
//! A fit to few pictures is surer of them than of new ones, and its training views are full of objects. So the fit is done
//! again without some of the pictures, these are shown whole to the network, as serving shows them, and what the fit finds
//! there is suppressed and matched as an evaluation does it. The logit that divides true from false detections becomes a
//! score of one half, the score that users take for a yes. All columns of a class move by the same number, so that the
//! order of its detections, and with it its average precision, stays what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::features::{Seen, Showing};
use super::incomplete::Weights;
use super::kept::KeptRows;
use super::loss::Logits;
use super::parameters::Columns;
use super::shape::{Backbone, ViewFeatures};
use crate::data::{BoxYxyx, Dataset, LabelledImage};
use crate::error::Result;
use crate::eval::OVERLAP;
use crate::eval::matching::{Pairs, Scored, Truth};
use crate::runtime::{AnyTensor, SessionConfig};

/// Parts that the pictures are divided in, each of which is held out once.
const FOLDS: usize = 3;
/// From so many pictures on one part is enough.
const MANY: usize = 100;
/// Held-out pictures that are looked at, so that thousands cost no more than these.
const MOST: usize = 60;
/// Suppression of overlapping detections, as nearly all single-stage configurations of the OD API have it.
const SUPPRESSED: f32 = 0.6;
/// How much more the recall counts than the precision: half as much. A class that is new to a detector is rare where the
/// detector is used, and its training pictures are full of it.
const BETA: f64 = 0.5;
/// Logits over which a found or a false object is counted by parts, so that one picture does not decide.
const SOFTNESS: f64 = 0.3;
/// The division where nothing is known of pictures that were not seen.
const PRIOR: f64 = 1.0;
/// Pictures with the object that weigh as much as that belief.
const DOUBT: f64 = 3.0;
/// Where the division is looked for, logits.
const RANGE: (f64, f64) = (-1.0, 5.0);

/// Where a class's score of one half was put, and what held-out pictures said there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Division {
    /// The logit of the fit that became a score of one half; 0 where nothing was moved.
    pub logit: f64,
    /// Held-out pictures that were looked at.
    pub pictures: usize,
    /// Objects in them.
    pub objects: usize,
    /// Of these, how many are found from a score of one half on.
    pub found: usize,
    /// False detections from a score of one half on.
    pub wrong: usize,
}

impl Division {
    /// The fit's own zero.
    pub const NONE: Self = Self { logit: 0.0, pictures: 0, objects: 0, found: 0, wrong: 0 };

    /// What it says of a class, for people; nothing where nothing was moved.
    pub fn sentence(&self, class: &str) -> Option<String> {
        let Self { pictures, objects, found, wrong, .. } = self;
        match pictures {
            0 if self.logit == 0.0 => None,
            0 => Some(format!(
                "{class}: no picture could be held out; one half stands for a high logit, to be on the safe side"
            )),
            _ => Some(format!(
                "{class}: {found} of {objects} objects in {pictures} held-out pictures score 0.5 or more, and {wrong} false \
                 detections"
            )),
        }
    }
}

/// The pictures and the network that kept rows come from.
pub struct HeldOut<'a> {
    network: &'a dyn Backbone,
    showing: &'a Showing<'a>,
    /// For each view the number of its picture.
    shown: Vec<usize>,
    /// For each picture the classes that it shows.
    shows: Vec<BTreeSet<usize>>,
    /// For each picture the part of the data that it belongs to.
    parts: Vec<usize>,
}

impl fmt::Debug for HeldOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldOut").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// What is found of one class in held-out pictures.
#[derive(Debug, Clone, Default)]
struct Found {
    /// Logits of detections on objects, each object counted once.
    right: Vec<f64>,
    /// Logits of all others, but for those on what counts neither way.
    wrong: Vec<f64>,
    objects: usize,
    pictures: usize,
    /// Pictures that show an object.
    showing: usize,
}

impl<'a> HeldOut<'a> {
    /// For rows that `network` made of what `showing` shows; classes are numbered from 0.
    pub fn new(network: &'a dyn Backbone, showing: &'a Showing<'a>) -> Self {
        let shown = showing.pictures(network.shape().input.geometry);
        let shows = |image: &LabelledImage| -> BTreeSet<usize> {
            let examples = image.objects.iter().filter(|object| !object.crowd);
            examples.filter_map(|object| showing.classes.get(object.class.as_str()).copied()).collect()
        };
        let shows: Vec<_> = showing.dataset.images.iter().map(shows).collect();
        // Pictures of one class often stand together, or in turn: each class is divided by itself.
        let mut counts: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        let part = |classes: &BTreeSet<usize>| {
            let first = classes.first().copied();
            let count = counts.entry(first).or_insert(first.unwrap_or(0));
            *count += 1;
            (*count - 1) % FOLDS
        };
        let parts = shows.iter().map(part).collect();
        Self { network, showing, shown, shows, parts }
    }

    /// For each class the division between objects and all else.
    ///
    /// `fit` makes columns by other weights than those of the kept rows; `weights` are those of the fit itself.
    pub(super) fn divisions(
        &self,
        kept: KeptRows<'_>,
        classes: usize,
        weights: &Weights,
        mut fit: impl FnMut(&Weights) -> Result<Vec<Columns>>,
    ) -> Result<Vec<Division>> {
        let mut found = vec![Found::default(); classes];
        let rounds = if self.parts.len() < MANY { FOLDS } else { 1 };
        let logits = Logits::new(&SessionConfig::default())?;
        for round in 0..rounds {
            let held: Vec<usize> = (0..self.parts.len()).filter(|&at| self.parts[at] == round).collect();
            // What a fit that saw no object of a class finds of it says nothing.
            let learned: Vec<usize> =
                (0..classes).filter(|&class| self.shown_elsewhere(class, round)).collect();
            if held.is_empty() || learned.is_empty() {
                continue;
            }
            let columns = fit(&self.without(kept, weights, round)?)?;
            let step = held.len().div_ceil(MOST / rounds);
            let chosen = held.iter().step_by(step).map(|&at| self.showing.dataset.images[at].clone());
            let dataset = Dataset { images: chosen.collect(), ..Dataset::default() };
            let whole = Showing { dataset: &dataset, views: 1, ..self.showing.clone() };
            whole.run(self.network.shape().input, 0, |seen| {
                let features = self.network.run(&seen.rgb, seen.size.0, seen.size.1)?;
                for &class in learned.iter().filter(|class| !seen.open.contains(class)) {
                    let detections = self.detections(&features, &columns, (class, classes), &logits)?;
                    found[class].add(&seen, class, &detections);
                }
                Ok(())
            })?;
        }
        Ok(found.iter().map(Found::division).collect())
    }

    fn shown_elsewhere(&self, class: usize, part: usize) -> bool {
        self.shows.iter().zip(&self.parts).any(|(shows, &of)| of != part && shows.contains(&class))
    }

    /// The weights without those of the pictures of one part.
    fn without(&self, kept: KeptRows<'_>, weights: &Weights, part: usize) -> Result<Weights> {
        let mut out = Weights::new();
        for layer in 0..kept.layers() {
            let mut before = 0;
            let mut held = kept.view_ends(layer).zip(&self.shown).flat_map(|(end, &picture)| {
                let rows = end - std::mem::replace(&mut before, end);
                std::iter::repeat_n(self.parts.get(picture) == Some(&part), rows)
            });
            for chunk in 0..kept.chunks(layer) {
                let made = kept.read(layer, chunk, |parts| {
                    let Some(own) = parts.get(2) else { return Ok(None) };
                    let v = weights.get(&(layer, chunk)).unwrap_or(own);
                    let shape = v.shape();
                    let width = shape.get(1).copied().unwrap_or(1).max(1);
                    let mut values = v.f32()?.to_vec();
                    for (row, held) in values.chunks_exact_mut(width).zip(&mut held) {
                        if held {
                            row.fill(0.0);
                        }
                    }
                    AnyTensor::new(&shape, &values).map(Some)
                })?;
                if let Some(values) = made.flatten() {
                    out.insert((layer, chunk), values);
                }
            }
        }
        Ok(out)
    }

    /// What columns find of one class in a view, the best first, those suppressed that overlap a better one.
    fn detections(
        &self,
        features: &ViewFeatures,
        columns: &[Columns],
        (class, classes): (usize, usize),
        logits: &Logits,
    ) -> Result<Vec<(f64, BoxYxyx)>> {
        let mut candidates: Vec<(f64, BoxYxyx)> = Vec::new();
        for (level, x) in self.network.shape().levels.iter().zip(&features.levels) {
            let Some(columns) = columns.get(level.layer) else { continue };
            let of_class = |values: &[f64]| -> Vec<f32> {
                values.iter().skip(class).step_by(classes).map(|v| *v as f32).collect()
            };
            let w = AnyTensor::new(&[level.depth, level.anchors], &of_class(&columns.kernel))?;
            let b = AnyTensor::new(&[level.anchors], &of_class(&columns.biases))?;
            for (at, &logit) in logits.run(x, &w, &b)?.f32()?.iter().enumerate() {
                if let Some(bbox) = features.boxes.get(level.first_anchor + at)
                    && f64::from(logit) >= RANGE.0 - SOFTNESS
                {
                    candidates.push((f64::from(logit), bbox.clip()));
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut kept: Vec<(f64, BoxYxyx)> = Vec::new();
        for (logit, bbox) in candidates {
            if !kept.iter().any(|(_, other)| other.iou(&bbox) > SUPPRESSED) {
                kept.push((logit, bbox));
            }
        }
        Ok(kept)
    }
}

impl Found {
    /// Adds what was found in one view.
    fn add(&mut self, seen: &Seen, class: usize, detections: &[(f64, BoxYxyx)]) {
        let corner = |b: &BoxYxyx| [b.xmin, b.ymin, b.width(), b.height()].map(f64::from);
        let truth = |t: &super::targets::Truth| Truth {
            class: 0,
            bbox: corner(&t.bbox),
            area: f64::from(t.bbox.area()),
            crowd: t.crowd,
            ignore: !t.shown(),
        };
        let truths: Vec<Truth> = seen.truths.iter().filter(|t| t.class == class).map(truth).collect();
        let scored: Vec<Scored> =
            detections.iter().map(|(logit, b)| Scored { class: 0, bbox: corner(b), score: *logit }).collect();
        let matched = Pairs::new(truths.iter().collect(), scored.iter().collect(), usize::MAX)
            .evaluate((0.0, f64::INFINITY), &[OVERLAP]);
        self.pictures += 1;
        self.objects += matched.positives;
        self.showing += usize::from(matched.positives > 0);
        for ((&logit, found), ignored) in
            matched.scores.iter().zip(&matched.found[0]).zip(&matched.ignored[0])
        {
            match (*found, *ignored) {
                (_, true) => {}
                (true, false) => self.right.push(logit),
                (false, false) => self.wrong.push(logit),
            }
        }
    }

    /// The logit with the best F-measure, shrunk towards the prior where few pictures speak for it.
    fn division(&self) -> Division {
        let above = |logits: &[f64], at: f64| -> f64 {
            logits.iter().map(|logit| 1.0 / (1.0 + ((at - logit) / SOFTNESS).exp())).sum()
        };
        let squared = BETA * BETA;
        let measure = |at: f64| {
            let (found, wrong) = (above(&self.right, at), above(&self.wrong, at));
            let all = (1.0 + squared) * found + squared * (self.objects as f64 - found) + wrong;
            (1.0 + squared) * found / all.max(f64::MIN_POSITIVE)
        };
        const STEPS: usize = 120;
        let place = |step: usize| RANGE.0 + (RANGE.1 - RANGE.0) * step as f64 / STEPS as f64;
        let best = (0..=STEPS).map(place).max_by(|a, b| measure(*a).total_cmp(&measure(*b)));
        let evidence = self.showing as f64;
        let logit = PRIOR + (best.unwrap_or(PRIOR) - PRIOR) * evidence / (evidence + DOUBT);
        let count = |logits: &[f64]| logits.iter().filter(|z| **z >= logit).count();
        Division {
            logit,
            pictures: self.pictures,
            objects: self.objects,
            found: count(&self.right),
            wrong: count(&self.wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::{CacheOptions, FeatureCache};
    use super::super::kept::OpenRows;
    use super::super::outlines::Outlines;
    use super::super::shape::{Geometry, Input, Level, NetworkShape};
    use super::*;
    use crate::data::{ImageSource, Object, Picture};
    use crate::runtime::testing;

    /// A network of one anchor, the whole picture, whose one feature is how bright the first pixel is, 0 to 5.
    struct Brightness(NetworkShape);

    const WHOLE: BoxYxyx = BoxYxyx::new(0.0, 0.0, 1.0, 1.0);

    impl Brightness {
        fn new() -> Self {
            let level = Level { height: 1, width: 1, anchors: 1, depth: 1, layer: 0, first_anchor: 0 };
            let input = Input { size: (4, 4), geometry: Geometry::Squash };
            Self(NetworkShape { levels: vec![level], anchors: vec![WHOLE], input })
        }
    }

    impl Backbone for Brightness {
        fn shape(&self) -> &NetworkShape {
            &self.0
        }

        fn run(&self, rgb: &[u8], _: usize, _: usize) -> Result<ViewFeatures> {
            let x = f32::from(rgb[0]) / 51.0;
            Ok(ViewFeatures { levels: vec![AnyTensor::new(&[1, 1], &[x])?], boxes: vec![WHOLE] })
        }
    }

    /// Pictures of one brightness each, with an object of a class over all of it or none.
    fn dataset(dir: &std::path::Path, pictures: &[(u8, Option<&str>)]) -> Dataset {
        let image = |(number, (grey, class)): (usize, &(u8, Option<&str>))| {
            let path = dir.join(format!("{number}.png"));
            Picture { width: 4, height: 4, rgb: vec![*grey; 48] }.save(&path).unwrap();
            let object = |class: &&str| Object {
                class: (*class).to_owned(),
                bbox: WHOLE,
                crowd: false,
                difficult: false,
                area: 16.0,
                mask: None,
            };
            LabelledImage {
                source: ImageSource::File(path),
                width: 4,
                height: 4,
                objects: class.iter().map(object).collect(),
                incomplete: Default::default(),
            }
        };
        Dataset { images: pictures.iter().enumerate().map(image).collect(), ..Dataset::default() }
    }

    /// Divisions for columns whose logit is the feature, two views a picture and three rows a view; for each fit the sum of
    /// its weights.
    fn divide(pictures: &[(u8, Option<&str>)], names: &[&'static str]) -> (Vec<Division>, Vec<f32>) {
        let dir = tempfile::tempdir().unwrap();
        let dataset = dataset(dir.path(), pictures);
        let classes = names.iter().enumerate().map(|(number, name)| (*name, number)).collect();
        let showing =
            Showing { dataset: &dataset, classes, first_new: 0, views: 2, seed: 0, outlines: false };
        let wide = names.len();
        let mut cache = FeatureCache::new(vec![vec![1, wide, wide]], CacheOptions::default());
        let mut open = OpenRows::new(1);
        for _ in 0..2 * pictures.len() {
            for _ in 0..3 {
                cache.push(0, &[&[0.0], &vec![0.0; wide], &vec![1.0; wide]]).unwrap();
                open.push(0, &[].into());
            }
            cache.view_done(Vec::new).unwrap();
        }
        cache.finish().unwrap();
        let network = Brightness::new();
        let held_out = HeldOut::new(&network, &showing);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let mut sums = Vec::new();
        let found = held_out.divisions(kept, wide, &Weights::new(), |weights| {
            sums.push(weights.values().map(|v| v.f32().unwrap().iter().sum::<f32>()).sum());
            Ok(vec![Columns { kernel: vec![1.0; wide], biases: vec![0.0; wide] }])
        });
        (found.unwrap(), sums)
    }

    #[test]
    fn one_half_lies_between_objects_and_all_else() {
        if testing::library().is_none() {
            return;
        }
        // Objects at a logit of 3, another thing at 1: both are above the fit's own zero.
        let pictures: Vec<_> =
            (0..24).map(|number| if number % 2 == 0 { (153, Some("a")) } else { (51, None) }).collect();
        let (found, sums) = divide(&pictures, &["a"]);
        assert!((1.4..2.6).contains(&found[0].logit), "{found:?}");
        let got = (found[0].pictures, found[0].objects, found[0].found, found[0].wrong);
        assert_eq!(got, (24, 12, 12, 0));
        let said = found[0].sentence("a").unwrap();
        assert!(said.starts_with("a: 12 of 12 objects in 24 held-out pictures"), "{said}");
        // Each of three fits lacks eight of 24 pictures, of two views with three rows each.
        assert_eq!(sums, [96.0; 3]);
    }

    #[test]
    fn with_one_picture_of_a_class_there_is_only_the_prior() {
        if testing::library().is_none() {
            return;
        }
        let (found, sums) = divide(&[(153, Some("a"))], &["a"]);
        assert_eq!((found[0].logit, found[0].pictures, sums.len()), (PRIOR, 0, 0));
        assert!(found[0].sentence("a").is_some_and(|said| said.contains("safe side")));
        assert_eq!(Division::NONE.sentence("a"), None);
        // Held out, the one picture of a class leaves a fit that never saw it, which says nothing of it.
        let (found, _) = divide(&[(153, Some("a")), (153, Some("b")), (102, None)], &["a", "b"]);
        assert_eq!(found.iter().map(|f| f.objects).collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn few_pictures_move_it_little() {
        let found = |showing: usize| Found {
            right: vec![4.0; showing],
            wrong: vec![2.0; showing],
            objects: showing,
            pictures: showing,
            showing,
        };
        let [few, some, many] = [1, 10, 100].map(|count| found(count).division().logit);
        assert!(PRIOR < few && few < some && some < many && many < 4.0, "{few} {some} {many}");
        assert_eq!(Found::default().division().logit, PRIOR);
    }

    #[test]
    fn doubles_are_wrong_and_crowds_count_neither_way() {
        let truth =
            |bbox: BoxYxyx, crowd| super::super::targets::Truth { class: 0, bbox, visible: 1.0, crowd };
        let (left, right) = (BoxYxyx::new(0.0, 0.0, 1.0, 0.4), BoxYxyx::new(0.0, 0.6, 1.0, 1.0));
        let seen = Seen {
            number: 0,
            of_picture: 1,
            truths: vec![truth(left, false), truth(right, true)],
            outlines: Outlines::default(),
            open: [].into(),
            rgb: Vec::new(),
            size: (1, 1),
        };
        let mut found = Found::default();
        found.add(&seen, 0, &[(3.0, left), (2.0, left), (1.0, right), (0.5, right)]);
        assert_eq!((found.right, found.wrong, found.objects), (vec![3.0], vec![2.0], 1));
    }

    #[test]
    fn classes_are_divided_each_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let pictures: Vec<_> = ["a", "b", "c"].into_iter().cycle().take(9).map(|c| (1, Some(c))).collect();
        let dataset = dataset(dir.path(), &pictures);
        let classes = [("a", 0), ("b", 1), ("c", 2)].into();
        let showing =
            Showing { dataset: &dataset, classes, first_new: 0, views: 1, seed: 0, outlines: false };
        let network = Brightness::new();
        let held_out = HeldOut::new(&network, &showing);
        for class in 0..3 {
            let mut parts: Vec<usize> = held_out.parts.iter().skip(class).step_by(3).copied().collect();
            parts.sort_unstable();
            assert_eq!(parts, [0, 1, 2]);
        }
    }
}
