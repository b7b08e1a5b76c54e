//! Rows of networks with one answer for each anchor.

use super::features::Seen;
use super::finder::{Finder, OfAnchors};
use super::shape::{Backbone, Input, Level, ViewFeatures, check_features};
use super::targets::{matched, soft};
use super::task::{Frozen, Loss, Map, Task, ViewRows};
use crate::error::Result;
use crate::head::locate::Role;

/// Runs the network over a view.
pub(super) fn features_of(backbone: &dyn Backbone, seen: &Seen) -> Result<ViewFeatures> {
    let (height, width) = seen.size;
    let features = backbone.run(&seen.rgb, height, width)?;
    check_features(backbone.shape(), &features)?;
    Ok(features)
}

impl<B: Backbone> Frozen for B {
    fn input(&self) -> Input {
        self.shape().input
    }

    fn tasks(&self, background: bool) -> Result<Vec<Task>> {
        let sizes = self.shape().layers()?;
        let layers = (0..sizes.len()).collect();
        Ok(vec![Task { role: Role::Scores, loss: Loss::Sigmoid, layers, sizes, background, bins: 1 }])
    }

    fn maps(&self, _tasks: &[Task]) -> Vec<Map> {
        let map = |level: &Level| Map { layer: level.layer, anchors: level.anchors };
        self.shape().levels.iter().map(map).collect()
    }

    fn finder(&self) -> Option<Box<dyn Finder + '_>> {
        Some(Box::new(OfAnchors(self)))
    }

    fn rows_of(&self, seen: &Seen, classes: usize, rows: &mut ViewRows<'_>) -> Result<()> {
        let (shape, found) = (self.shape(), features_of(self, seen)?);
        let targets = soft(&shape.anchors, &found.boxes, &seen.truths, classes);
        let of_picture = seen.of_picture.max(1) as f32;
        let mut weights = Vec::new();
        for (level, x) in shape.levels.iter().zip(&found.levels) {
            let x = x.f32()?;
            let wide = level.anchors * classes;
            for kept in targets.select(level, (seen.number, seen.of_all)) {
                let first = level.first_anchor * classes + kept.cell * wide;
                let known = &targets.weight[first..first + wide];
                weights.clear();
                weights.extend(known.iter().map(|w| w * kept.stands_for / of_picture));
                let features = &x[kept.cell * level.depth..(kept.cell + 1) * level.depth];
                let parts = [features, &targets.target[first..first + wide], &weights];
                rows.row((0, level.layer), &parts)?;
            }
        }
        let matched = matched(&shape.anchors, &seen.truths);
        for (map, level) in shape.levels.iter().enumerate() {
            for at in 0..level.cells() * level.anchors {
                if let Some(t) = matched[level.first_anchor + at] {
                    rows.positive(map, at % level.anchors * classes + seen.truths[t].class);
                }
            }
        }
        Ok(())
    }

    fn single_stage(&self) -> Option<&dyn Backbone> {
        Some(self)
    }
}
