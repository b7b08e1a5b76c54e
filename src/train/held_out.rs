//! Which score divides objects from all else in pictures that a fit did not see.
//!
//! A fit to few pictures is surer of them than of new ones, and rows weigh more or less than they are worth. So the fit is
//! done again without some pictures, and the highest scores in these, of objects and of places without one, say where the
//! score belongs that users take for a yes.

use super::incomplete::Weights;
use super::kept::KeptRows;
use super::parameters::Columns;
use super::rows::Rows;
use super::shape::LayerSize;
use crate::error::Result;
use crate::runtime::AnyTensor;

/// Parts that the pictures are divided in, each of which is held out once.
const FOLDS: usize = 3;
/// From so many pictures on one part is enough.
const MANY: usize = 100;
/// Target from which on an anchor shows an object.
const OBJECT: f32 = 0.5;
/// How much more the recall counts than the precision: half as much. A class that is new to a detector is rare where the
/// detector is used, and its training pictures are full of it.
const BETA: f64 = 0.5;
/// Logits over which a found or a false object is counted by parts, so that one picture does not decide.
const SOFTNESS: f64 = 0.3;
/// Pictures with the object that weigh as much as the belief that the fit's own zero is right.
const DOUBT: f64 = 2.0;
/// Where the division is looked for, logits.
const RANGE: (f64, f64) = (-1.0, 4.0);

/// The highest logits of a class in the views of held-out pictures.
#[derive(Debug, Clone, Default)]
struct Peaks {
    /// On objects, one for each view that shows one.
    objects: Vec<f64>,
    /// Elsewhere, one for each view.
    elsewhere: Vec<f64>,
    /// Pictures that show an object.
    pictures: usize,
}

/// For each class the logit that best divides objects from all else; 0, the fit's own, where too few pictures show any.
///
/// `fit` makes columns by other weights than those of the kept rows; `weights` are those of the fit itself.
pub(super) fn divisions(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    weights: &Weights,
    mut fit: impl FnMut(&Weights) -> Result<Vec<Columns>>,
) -> Result<Vec<f64>> {
    let pictures = kept.pictures();
    let rounds = match pictures {
        0 | 1 => return Ok(vec![0.0; classes]),
        2..MANY => FOLDS.min(pictures),
        _ => 1,
    };
    let folds = FOLDS.min(pictures);
    let mut peaks = vec![Peaks::default(); classes];
    for fold in 0..rounds {
        let held = |picture: usize| picture % folds == fold;
        let columns = fit(&without(kept, weights, held)?)?;
        gather(kept, sizes, classes, &columns, held, &mut peaks)?;
    }
    Ok(peaks.iter().map(division).collect())
}

/// The weights without those of held-out pictures.
fn without(kept: KeptRows<'_>, weights: &Weights, held: impl Fn(usize) -> bool) -> Result<Weights> {
    let mut out = Weights::new();
    for layer in 0..kept.layers() {
        let mut pictures = row_views(kept, layer).map(|(_, picture)| picture);
        for chunk in 0..kept.chunks(layer) {
            let made = kept.read(layer, chunk, |parts| {
                let Some(own) = parts.get(2) else { return Ok(None) };
                let v = weights.get(&(layer, chunk)).unwrap_or(own);
                let shape = v.shape();
                let width = shape.get(1).copied().unwrap_or(1).max(1);
                let mut values = v.f32()?.to_vec();
                for (row, picture) in values.chunks_exact_mut(width).zip(&mut pictures) {
                    if held(picture) {
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

/// The view and the picture of each row of a layer.
fn row_views<'a>(kept: KeptRows<'a>, layer: usize) -> impl Iterator<Item = (usize, usize)> + use<'a> {
    let mut before = 0;
    kept.views(layer).enumerate().flat_map(move |(view, (picture, end))| {
        let rows = end - before;
        before = end;
        std::iter::repeat_n((view, picture), rows)
    })
}

/// Adds the highest logits in views of held-out pictures.
fn gather(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    columns: &[Columns],
    held: impl Fn(usize) -> bool,
    peaks: &mut [Peaks],
) -> Result<()> {
    let shown: Vec<usize> = kept.views(0).map(|(picture, _)| picture).collect();
    // For each view and class the highest logit on an object and elsewhere.
    let mut highest = vec![[f64::NEG_INFINITY; 2]; shown.len() * classes];
    for (layer, size) in sizes.iter().enumerate() {
        let wide = size.anchors * classes;
        let mut row_views = row_views(kept, layer);
        for chunk in 0..kept.chunks(layer) {
            kept.read(layer, chunk, |parts| {
                let rows = Rows::new(parts, size.depth, wide)?;
                for number in 0..rows.count {
                    let Some((view, picture)) = row_views.next() else { break };
                    if !held(picture) {
                        continue;
                    }
                    let row = rows.row(number);
                    let weights = &rows.weights[number * rows.per_row..][..rows.per_row];
                    for (at, score) in row.scores(&columns[layer]).into_iter().enumerate() {
                        let known = weights.get(at).or(weights.first()).is_some_and(|weight| *weight > 0.0);
                        let kind = match row.targets[at] {
                            target if target >= OBJECT => 0,
                            target if target == 0.0 && known => 1,
                            _ => continue,
                        };
                        let highest = &mut highest[view * classes + at % classes][kind];
                        *highest = highest.max(score);
                    }
                }
                Ok(())
            })?;
        }
    }
    for (class, peaks) in peaks.iter_mut().enumerate() {
        let mut last = None;
        for (view, &picture) in shown.iter().enumerate().filter(|(_, picture)| held(**picture)) {
            let [object, elsewhere] = highest[view * classes + class];
            if object.is_finite() {
                peaks.objects.push(object);
                peaks.pictures += usize::from(last != Some(picture));
                last = Some(picture);
            }
            if elsewhere.is_finite() {
                peaks.elsewhere.push(elsewhere);
            }
        }
    }
    Ok(())
}

/// The logit with the best F-measure, shrunk towards zero where few pictures speak for it.
fn division(peaks: &Peaks) -> f64 {
    let above = |logits: &[f64], at: f64| -> f64 {
        logits.iter().map(|logit| 1.0 / (1.0 + ((at - logit) / SOFTNESS).exp())).sum()
    };
    let measure = |at: f64| {
        let (found, wrong) = (above(&peaks.objects, at), above(&peaks.elsewhere, at));
        let missed = peaks.objects.len() as f64 - found;
        let squared = BETA * BETA;
        (1.0 + squared) * found / ((1.0 + squared) * found + squared * missed + wrong).max(f64::MIN_POSITIVE)
    };
    if peaks.objects.is_empty() {
        return 0.0;
    }
    const STEPS: usize = 100;
    let place = |step: usize| RANGE.0 + (RANGE.1 - RANGE.0) * step as f64 / STEPS as f64;
    let best = (0..=STEPS).map(place).max_by(|a, b| measure(*a).total_cmp(&measure(*b)));
    let pictures = peaks.pictures as f64;
    best.unwrap_or(0.0) * pictures / (pictures + DOUBT)
}

#[cfg(test)]
mod tests {
    use super::super::cache::{CacheOptions, FeatureCache};
    use super::super::kept::OpenRows;
    use super::*;
    use crate::runtime::testing;

    const SIZE: LayerSize = LayerSize { depth: 1, anchors: 1 };

    /// One layer, one feature, one class: a view is rows of feature and target.
    fn filled(views: &[&[(f32, f32)]]) -> (FeatureCache, OpenRows) {
        let mut cache = FeatureCache::new(vec![vec![1, 1, 1]], CacheOptions::default());
        let mut open = OpenRows::new(1);
        for view in views {
            for (x, y) in *view {
                cache.push(0, &[&[*x], &[*y], &[1.0]]).unwrap();
                open.push(0, &[].into());
            }
            cache.view_done(Vec::new).unwrap();
        }
        cache.finish().unwrap();
        (cache, open)
    }

    /// The divisions for columns whose logit is the feature, and for each fit the sum of its weights.
    fn divide(views: &[&[(f32, f32)]], pictures: &[usize]) -> (Vec<f64>, Vec<f32>) {
        let (cache, open) = filled(views);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap().of_pictures(pictures);
        let mut sums = Vec::new();
        let found = divisions(kept, &[SIZE], 1, &Weights::new(), |weights| {
            sums.push(weights.values().map(|v| v.f32().unwrap().iter().sum::<f32>()).sum());
            Ok(vec![Columns { kernel: vec![1.0], biases: vec![0.0] }])
        });
        (found.unwrap(), sums)
    }

    #[test]
    fn the_division_lies_between_objects_and_all_else() {
        if testing::library().is_none() {
            return;
        }
        // Two views of each picture: an object at 2.5 and something else up to 1.5, or only that.
        let (first, second): (&[_], &[_]) =
            (&[(2.5, 1.0), (1.5, 0.0), (9.0, 0.2)], &[(-2.0, 0.0), (1.5, 0.0)]);
        let views: Vec<_> = (0..12).map(|number| if number % 2 == 0 { first } else { second }).collect();
        let pictures: Vec<usize> = (0..12).map(|number| number / 2).collect();
        let (found, sums) = divide(&views, &pictures);
        // Six pictures weigh six eighths.
        let raw = found[0] * 8.0 / 6.0;
        assert!((1.6..2.4).contains(&raw), "{found:?}");
        // Each of three fits lacks two of six pictures, of five rows each.
        assert_eq!(sums, [20.0; 3]);
    }

    #[test]
    fn without_objects_or_pictures_nothing_moves() {
        if testing::library().is_none() {
            return;
        }
        let background: &[_] = &[(3.0, 0.0)];
        assert_eq!(divide(&[background, background], &[0, 1]).0, [0.0]);
        let object: &[_] = &[(3.0, 1.0)];
        for pictures in [&[][..], &[0]] {
            let (found, sums) = divide(&[object], pictures);
            assert_eq!((found, sums.len()), (vec![0.0], 0));
        }
    }
}
