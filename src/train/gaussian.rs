//! Rows of networks that answer for each cell of a heatmap.

use super::features::Seen;
use super::finder::{Finder, OfCells};
use super::network::Heatmap;
use super::shape::{Input, LayerSize, Level};
use super::targets::{Truth, select};
use super::task::{Frozen, Loss, Task, ViewRows};
use crate::error::Result;
use crate::head::locate::Role;

/// The overlap that a box keeps whose corners move by the radius (`center_net_meta_arch`, `min_box_overlap_iou`).
const LEAST_OVERLAP: f32 = 0.7;
/// The power of 1 − target by which a negative near a centre counts less (β of arXiv 1904.07850).
const NEAR_POWER: i32 = 4;
/// The logit of an old class from which on a cell is kept: what looks like a centre of something is not plain background.
const HOT: f32 = -2.2;

/// Targets of one view, for each cell and class.
#[derive(Debug, Clone, PartialEq)]
pub struct Splat {
    /// [cells, classes]: 1 at the centre of an object, less around it, 0 elsewhere.
    pub target: Vec<f32>,
    /// [cells, classes]: 0 where nothing is known, else 1.
    pub known: Vec<f32>,
}

/// How far the corners of a box may move, in the unit of its sides (`max_distance_for_overlap`).
///
/// The API takes the roots of quadratic equations without dividing by 2a (`_smallest_positive_root`), as the CenterNet
/// paper's code does; old classes were trained so.
pub fn radius(height: f32, width: f32) -> f32 {
    let root = |a: f32, b: f32, c: f32| (-b + (b * b - 4.0 * a * c).sqrt()) / 2.0;
    let (sum, product) = (height + width, height * width);
    let beside = root(1.0, -sum, product * ((1.0 - LEAST_OVERLAP) / (1.0 + LEAST_OVERLAP)));
    let inside = root(4.0, -2.0 * sum, (1.0 - LEAST_OVERLAP) * product);
    let around = root(4.0 * LEAST_OVERLAP, 2.0 * LEAST_OVERLAP * sum, (LEAST_OVERLAP - 1.0) * product);
    beside.min(inside).min(around)
}

/// A Gaussian around the centre of each object (`assign_center_targets_from_boxes`): its deviation is a sixth of
/// 2·⌊radius⌋ + 1 cells, its peak lies in the cell of the centre.
pub fn splat(height: usize, width: usize, truths: &[Truth], classes: usize) -> Splat {
    let cells = height * width;
    let mut splat = Splat { target: vec![0.0; cells * classes], known: vec![1.0; cells * classes] };
    let (rows, columns) = (height as f32, width as f32);
    for truth in truths.iter().filter(|truth| truth.class < classes) {
        let b = truth.bbox;
        let (ymin, xmin, ymax, xmax) = (b.ymin * rows, b.xmin * columns, b.ymax * rows, b.xmax * columns);
        let at = |cell: usize| ((cell / width) as f32, (cell % width) as f32);
        if !truth.shown() {
            for cell in (0..cells).filter(|_| truth.unsure()) {
                let (y, x) = at(cell);
                if (ymin.floor()..=ymax).contains(&y) && (xmin.floor()..=xmax).contains(&x) {
                    splat.known[cell * classes + truth.class] = 0.0;
                }
            }
            continue;
        }
        let sigma = (2.0 * radius(ymax - ymin, xmax - xmin).floor() + 1.0) / 6.0;
        let (centre_y, centre_x) =
            ((ymin + (ymax - ymin) / 2.0).floor(), (xmin + (xmax - xmin) / 2.0).floor());
        for cell in 0..cells {
            let (y, x) = at(cell);
            let distance = (y - centre_y).powi(2) + (x - centre_x).powi(2);
            let value = (-distance / (2.0 * sigma * sigma)).exp();
            let target = &mut splat.target[cell * classes + truth.class];
            *target = target.max(value);
        }
    }
    // An object is one, whatever else is there.
    for (known, target) in splat.known.iter_mut().zip(&splat.target) {
        if *target == 1.0 {
            *known = 1.0;
        }
    }
    splat
}

/// Which cells are kept, and how many each stands for.
fn kept(map: &Level, view: (usize, usize), splat: &Splat, classes: usize, old: &[f32]) -> Vec<(usize, f32)> {
    let near: Vec<f32> =
        splat.target.chunks_exact(classes).map(|t| t.iter().copied().fold(0.0, f32::max)).collect();
    let columns = old.len() / map.cells().max(1);
    let hot = |cell: usize| {
        let logits = old.get(cell * columns..(cell + 1) * columns).unwrap_or_default();
        near[cell] == 1.0 || logits.iter().any(|&z| z > HOT)
    };
    select(map, view, &near, hot).into_iter().map(|kept| (kept.cell, kept.stands_for)).collect()
}

impl Frozen for Heatmap {
    fn input(&self) -> Input {
        Heatmap::input(self)
    }

    fn tasks(&self, background: bool) -> Result<Vec<Task>> {
        let sizes = vec![LayerSize { depth: self.map.depth, anchors: 1 }];
        Ok(vec![Task {
            role: Role::Scores,
            loss: Loss::Focal,
            layers: vec![self.map.layer],
            sizes,
            background,
            bins: 1,
        }])
    }

    fn rows_of(&self, seen: &Seen, classes: usize, rows: &mut ViewRows<'_>) -> Result<()> {
        let (map, (height, width)) = (&self.map, seen.size);
        let [x, old] = self.run(&seen.rgb, height, width)?;
        let x = x.f32()?;
        let splat = splat(map.height, map.width, &seen.truths, classes);
        let of_picture = seen.of_picture.max(1) as f32;
        for (cell, stands_for) in kept(map, (seen.number, seen.of_all), &splat, classes, old.f32()?) {
            let (mut y, mut v) = (Vec::with_capacity(classes), Vec::with_capacity(classes));
            for class in 0..classes {
                let at = cell * classes + class;
                let target = splat.target[at];
                let centre = target == 1.0;
                if centre {
                    rows.positive(0, class);
                }
                let weight = if centre { 1.0 } else { (1.0 - target).powi(NEAR_POWER) };
                y.push(if centre { 1.0 } else { 0.0 });
                v.push(weight * splat.known[at] * stands_for / of_picture);
            }
            rows.row((0, 0), &[&x[cell * map.depth..(cell + 1) * map.depth], &y, &v])?;
        }
        Ok(())
    }

    fn finder(&self) -> Option<Box<dyn Finder + '_>> {
        self.detects().map(|_| Box::new(OfCells(self)) as Box<dyn Finder>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::BoxYxyx;

    #[test]
    fn objects_that_are_hardly_seen_are_neither_positive_nor_negative() {
        let bbox = BoxYxyx::new(0.25, 0.25, 0.75, 0.75);
        let whole = Truth { class: 0, bbox, visible: 1.0, crowd: false };
        let crowd = Truth { crowd: true, ..whole };
        let got = splat(8, 8, &[crowd], 2);
        assert_eq!(got.target.iter().filter(|t| **t > 0.0).count(), 0);
        assert_eq!(got.known.iter().filter(|k| **k == 0.0).count(), 25);
        let both = splat(8, 8, &[crowd, whole], 2);
        assert_eq!(both.target.iter().filter(|t| **t == 1.0).count(), 1);
        assert_eq!(both.known[(4 * 8 + 4) * 2], 1.0);
        let unseen = Truth { visible: 0.01, ..whole };
        assert!(splat(8, 8, &[unseen], 2).known.iter().all(|k| *k == 1.0));
    }

    #[test]
    fn centres_and_what_looks_like_some_are_kept() {
        let map = Level { height: 20, width: 20, anchors: 1, depth: 1, layer: 0, first_anchor: 0 };
        let bbox = BoxYxyx::new(0.1, 0.1, 0.3, 0.3);
        let splat = splat(20, 20, &[Truth { class: 0, bbox, visible: 1.0, crowd: false }], 1);
        let mut old = vec![-5.0; 2 * 400];
        old[2 * 399 + 1] = 0.0;
        let cells = kept(&map, (0, 1), &splat, 1, &old);
        assert!(cells.contains(&(4 * 20 + 4, 1.0)) && cells.contains(&(399, 1.0)), "{cells:?}");
        let all: f32 = cells.iter().map(|(_, stands_for)| stands_for).sum();
        assert!(cells.len() < 100 && (200.0..700.0).contains(&all), "{} {all}", cells.len());
    }
}
