//! Judgements of fits that are told what they find, on a network of one anchor.

use super::super::cache::{CacheOptions, FeatureCache};
use super::super::finder::OfAnchors;
use super::super::kept::OpenRows;
use super::super::shape::{Backbone, Geometry, Input, Level, NetworkShape, ViewFeatures};
use super::*;
use crate::data::{BoxYxyx, ImageSource, LabelledImage, Object, Picture};
use crate::runtime::{AnyTensor, testing};

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

/// So many pictures, in turn one of a brightness that shows an object and one of another that shows none.
fn in_turn(count: usize, object: u8, other: u8) -> Vec<(u8, Option<&'static str>)> {
    (0..count).map(|number| if number % 2 == 0 { (object, Some("a")) } else { (other, None) }).collect()
}

/// Columns whose logit is so many times the feature.
fn columns(kernel: f64, wide: usize) -> Vec<Columns> {
    vec![Columns { kernel: vec![kernel; wide], biases: vec![0.0; wide] }]
}

/// Columns of some rows by strength of the prior and numbers of steps.
type Fit<'f> = dyn FnMut(KeptRows<'_>, f64, &[usize]) -> Vec<Vec<Columns>> + 'f;

/// A fit that is told what it finds, and what of its losses: these by the last strength asked for.
struct Told<'f> {
    fit: &'f mut Fit<'f>,
    loss: fn(f64) -> f64,
    strength: f64,
}

impl Learner for Told<'_> {
    fn learn(&mut self, rows: Rows<'_>, strength: f64, steps: &[usize]) -> Result<Vec<Vec<Columns>>> {
        self.strength = strength;
        Ok((self.fit)(rows.0, strength, steps))
    }

    fn loss(&mut self, _: Rows<'_>, _: &[Columns]) -> Result<f64> {
        Ok((self.loss)(self.strength))
    }
}

/// What is judged of a fit to these pictures, two views a picture and three rows a view; it may take 60 steps or more.
fn judge(
    pictures: &[(u8, Option<&str>)],
    names: &[&'static str],
    most_false: Option<f64>,
    (fit, loss): (&mut Fit<'_>, fn(f64) -> f64),
) -> (Effort, Vec<Division>) {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), pictures);
    let classes = names.iter().enumerate().map(|(number, name)| (*name, number)).collect();
    let showing = Showing { dataset: &dataset, classes, first_new: 0, views: 2, seed: 0, outlines: false };
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
    let finder = OfAnchors(&network);
    let held_out = HeldOut::new(&finder, &showing);
    let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
    let asked = Asked { classes: wide, usual: 60, most_false };
    let mut told = Told { fit: &mut |rows, strength, steps| fit(rows, strength, steps), loss, strength: 0.0 };
    held_out.judge((kept, &Weights::new()), asked, &mut told).unwrap()
}

/// All strengths are worth the same.
fn level(_: f64) -> f64 {
    1.0
}

/// Divisions, and for each fit of the usual strength the sum of its weights.
fn divide(pictures: &[(u8, Option<&str>)], names: &[&'static str]) -> (Vec<Division>, Vec<f32>) {
    let mut sums = Vec::new();
    let mut fit = |kept: KeptRows<'_>, strength: f64, steps: &[usize]| {
        assert_eq!(steps, [60]);
        let sum = |parts: &[AnyTensor]| Ok(parts[2].f32()?.iter().sum::<f32>());
        if strength == USUAL {
            sums.push((0..kept.chunks(0)).filter_map(|chunk| kept.read(0, chunk, sum).unwrap()).sum());
        }
        vec![columns(1.0, names.len())]
    };
    let (effort, divisions) = judge(pictures, names, None, (&mut fit, level));
    assert_eq!(effort, Effort { strength: USUAL, steps: 60 });
    (divisions, sums)
}

#[test]
fn a_fit_goes_on_while_it_finds_more() {
    if testing::library().is_none() {
        return;
    }
    // Objects are darker than all else.
    let pictures = in_turn(36, 51, 153);
    for longest in [60, 120] {
        let mut asked = Vec::new();
        let mut fit = |_: KeptRows<'_>, strength: f64, steps: &[usize]| {
            asked.push((strength, steps.to_vec()));
            // It learns that sign after so many steps, and what it knew before it only knows better.
            let known = |&steps: &usize| steps.min(longest) as f64 / 60.0;
            steps.iter().map(|steps| columns(1.0 - 0.6 * known(steps), 1)).collect()
        };
        let (effort, found) = judge(&pictures, &["a"], None, (&mut fit, level));
        assert_eq!(effort, Effort { strength: 1.0, steps: longest }, "{asked:?}");
        assert_eq!(found[0].pictures, 36);
        asked.dedup();
        let mut all = vec![(1.0, vec![60, 120]), (10.0, vec![60]), (0.1, vec![60])];
        all.extend((longest > 60).then(|| (1.0, vec![240])));
        assert_eq!(asked, all);
    }
}

#[test]
fn the_prior_is_as_strong_as_unseen_rows_say() {
    if testing::library().is_none() {
        return;
    }
    let pictures = in_turn(8, 153, 51);
    // What is found is what the fit of the strength chosen finds: with ten times the prior objects lie at a
    // logit of 7.5 and all else at 2.5.
    let mut fit = |_: KeptRows<'_>, strength: f64, _: &[usize]| vec![columns(strength / 4.0, 1)];
    let (effort, found) = judge(&pictures, &["a"], None, (&mut fit, |strength| (strength - 11.0).abs()));
    assert_eq!(effort, Effort { strength: 10.0, steps: 60 });
    assert!(found[0].logit > 1.5 && (found[0].found, found[0].wrong) == (4, 0), "{found:?}");
    // Where one picture shows the class, unseen rows are all background, and a column that never fires is best there.
    let one: Vec<_> = (0..5).map(|number| (51, (number == 1).then_some("a"))).collect();
    let (effort, _) = judge(&one, &["a"], None, (&mut fit, |strength| -strength));
    assert_eq!(effort.strength, USUAL);
}

#[test]
fn one_half_lies_between_objects_and_all_else() {
    if testing::library().is_none() {
        return;
    }
    // Objects at a logit of 3, another thing at 1: both are above the fit's own zero.
    let pictures = in_turn(24, 153, 51);
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
fn false_detections_are_limited_as_asked() {
    if testing::library().is_none() {
        return;
    }
    // Of pictures that look like objects one in four is none.
    let pictures: Vec<_> = (0..32).map(|at| (153, if at % 4 == 0 { None } else { Some("a") })).collect();
    let divided = |most_false| {
        let mut fit = |_: KeptRows<'_>, _: f64, steps: &[usize]| vec![columns(1.0, 1); steps.len()];
        let (_, found) = judge(&pictures, &["a"], most_false, (&mut fit, level));
        (found[0].found, found[0].wrong)
    };
    assert_eq!([None, Some(0.3), Some(0.1)].map(divided), [(24, 8), (24, 8), (0, 0)]);
}

#[test]
fn with_one_picture_of_a_class_there_is_only_the_prior() {
    if testing::library().is_none() {
        return;
    }
    let (found, sums) = divide(&[(153, Some("a"))], &["a"]);
    assert_eq!((found[0].logit, found[0].pictures, sums.len()), (super::super::division::PRIOR, 0, 0));
    assert!(found[0].sentence("a").is_some_and(|said| said.contains("safe side")));
    assert_eq!(Division::NONE.sentence("a"), None);
    // Held out, the one picture of a class leaves a fit that never saw it, which says nothing of it.
    let (found, _) = divide(&[(153, Some("a")), (153, Some("b")), (102, None)], &["a", "b"]);
    assert_eq!(found.iter().map(|f| f.objects).collect::<Vec<_>>(), [0, 0]);
}
