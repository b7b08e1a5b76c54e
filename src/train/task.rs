//! What is fitted, and what every kind of detector does for it: turn views into rows.

use std::sync::Arc;

use super::bins::{dealt, gathered};
use super::cache::FeatureCache;
use super::features::Seen;
use super::finder::Finder;
use super::kept::OpenRows;
use super::mask_rows::Masks;
use super::shape::{Backbone, Input, LayerSize};
use crate::error::{Error, Result};
use crate::head::LayerValues;
use crate::head::columns::NewColumns;
use crate::head::locate::Role;

/// What the loss graph calls the targets of rows.
pub(super) const TARGETS: &str = "y";
/// What the loss graph calls the weights of rows.
pub(super) const WEIGHTS: &str = "v";

/// What the rows of a layer are and what is minimised over them. Rows begin with the features, [depth].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Cross entropy of sigmoids. Targets and weights [anchors·classes].
    Sigmoid,
    /// Cross entropy of a softmax whose old columns are frozen. Targets [classes], weight [1], and the logarithm of the
    /// sum of the old columns' exponentials [1].
    Softmax,
    /// The focal loss of sigmoids, γ = 2. Hard targets and weights [anchors·classes].
    Focal,
    /// Half the squares of the differences. Targets and weights [anchors·classes].
    Squares,
}

impl Loss {
    /// Widths of a row's parts.
    pub fn row_widths(self, size: LayerSize, classes: usize) -> Vec<usize> {
        let wide = size.anchors * classes;
        match self {
            Self::Sigmoid | Self::Focal | Self::Squares => vec![size.depth, wide, wide],
            Self::Softmax => vec![size.depth, wide, 1, 1],
        }
    }

    /// What the loss graph calls the parts.
    pub(super) fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Softmax => &["x", TARGETS, WEIGHTS, "s"],
            _ => &["x", TARGETS, WEIGHTS],
        }
    }
}

/// Layers that are fitted together, because one likeness to old classes serves all of them.
#[derive(Debug, Clone)]
pub struct Task {
    /// What their columns are.
    pub role: Role,
    /// What is minimised.
    pub loss: Loss,
    /// Their numbers among the model's class layers.
    pub layers: Vec<usize>,
    /// Their sizes. The four numbers of a box are as many anchors: each has a column of its own for every class.
    pub sizes: Vec<LayerSize>,
    /// Whether column 0 of their groups is the background.
    pub background: bool,
    /// Parts of a region that have columns of their own, see [`super::bins`]; 1 where one column answers for all of it. Depths
    /// are those of all parts together.
    pub bins: usize,
}

impl Task {
    /// How many numbers of one class stand side by side.
    fn inner(&self) -> usize {
        if self.role == Role::Boxes { 4 } else { 1 }
    }

    /// The old layers with their columns in groups, [depth, anchors, columns], depth being that of the rows.
    ///
    /// Errors: [`Error::Data`] where `old` lacks a layer or its numbers do not fit.
    pub fn old(&self, old: &[LayerValues]) -> Result<Vec<LayerValues>> {
        let grouped = |&layer: &usize| {
            let values =
                old.get(layer).ok_or_else(|| Error::Data(format!("class layer {layer} has no values")))?;
            let values = if self.bins == 1 { values } else { &gathered(values, self.bins)? };
            let group = |v: &[f32]| regroup(v, self.inner(), values.biases.len());
            Ok(LayerValues { kernel: group(&values.kernel), biases: group(&values.biases) })
        };
        self.layers.iter().map(grouped).collect()
    }

    /// Fitted columns as the layer has them: the numbers of one class side by side, one group for each bin.
    pub fn ungrouped(&self, columns: NewColumns, classes: usize) -> NewColumns {
        let back = |v: &[f32]| regroup(v, classes, self.inner() * classes);
        let columns = if self.inner() == 1 {
            columns
        } else {
            NewColumns { kernel: back(&columns.kernel), biases: back(&columns.biases) }
        };
        if self.bins == 1 { columns } else { dealt(&columns, self.bins) }
    }
}

/// Within every row of `wide` numbers, [wide / inner, inner] becomes [inner, wide / inner].
fn regroup(values: &[f32], inner: usize, wide: usize) -> Vec<f32> {
    let outer = wide / inner.max(1);
    let turned = |row: &[f32]| -> Vec<f32> {
        (0..row.len()).map(|at| row.get(at % outer * inner + at / outer).copied().unwrap_or(0.0)).collect()
    };
    values.chunks(wide.max(1)).flat_map(turned).collect()
}

/// What one view adds. Views are shown at the same time; what they add is kept in their order.
#[derive(Debug)]
pub struct ViewRows<'a> {
    /// The tasks.
    tasks: &'a [Task],
    /// Objects of classes below this number are of old classes, by their columns; those from it on of new ones. Where it is
    /// not zero, rows of a softmax end with a label, see [`copy_back::regions`](super::copy_back::regions).
    pub first_new: usize,
    /// The classes that its picture does not fully label.
    open: Arc<[usize]>,
    /// Rows with their layers, all layers of all tasks being numbered one behind the other.
    rows: Vec<(usize, Vec<f32>)>,
    /// Positives as the OD API matches them: the map, and anchor · classes + class.
    positives: Vec<(usize, usize)>,
}

impl<'a> ViewRows<'a> {
    /// What a view adds for `classes` new classes, the first of them being `first_new`.
    pub fn of(
        network: &dyn Frozen,
        seen: &Seen,
        tasks: &'a [Task],
        (first_new, classes): (usize, usize),
    ) -> Result<Self> {
        let open = Arc::clone(&seen.open);
        let mut rows = Self { tasks, first_new, open, rows: Vec::new(), positives: Vec::new() };
        network.rows_of(seen, classes, &mut rows)?;
        Ok(rows)
    }

    /// Adds a row to a task's layer.
    pub fn row(&mut self, (task, layer): (usize, usize), parts: &[&[f32]]) -> Result<()> {
        if task >= self.tasks.len() {
            return Err(Error::Data(format!("there is no fit {task} to keep rows for")));
        }
        self.rows.push((first_layer(self.tasks, task) + layer, parts.concat()));
        Ok(())
    }

    /// Keeps the rows, says which may be unlabelled objects, and counts the positives: for each map of [`Frozen::maps`]
    /// [anchors, classes].
    pub fn keep(
        self,
        cache: &mut FeatureCache,
        open: &mut OpenRows,
        matched: &mut [Vec<usize>],
    ) -> Result<()> {
        let layers = |task: &Task| std::iter::repeat_n(task.role, task.layers.len());
        let roles: Vec<Role> = self.tasks.iter().flat_map(layers).collect();
        for (layer, row) in &self.rows {
            cache.push_row(*layer, row)?;
            // Only scores have rows that say "nothing is here".
            if roles.get(*layer) == Some(&Role::Scores) {
                open.push(*layer, &self.open);
            }
        }
        for (map, at) in self.positives {
            if let Some(count) = matched.get_mut(map).and_then(|counts| counts.get_mut(at)) {
                *count += 1;
            }
        }
        Ok(())
    }

    /// The number of an object's class among the new ones; none for an old class.
    pub fn new_class(&self, class: usize) -> Option<usize> {
        class.checked_sub(self.first_new)
    }

    /// Counts a positive of a map; `at` is anchor · classes + class.
    pub fn positive(&mut self, map: usize, at: usize) {
        self.positives.push((map, at));
    }
}

/// The number of a task's first layer among the layers of all tasks.
pub(super) fn first_layer(tasks: &[Task], task: usize) -> usize {
    tasks.iter().take(task).map(|task| task.layers.len()).sum()
}

/// Places of one feature map, or the regions of a picture, that a class layer answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// The number of the class layer.
    pub layer: usize,
    /// Anchors at each place.
    pub anchors: usize,
}

/// The frozen part of a detector of any kind. Several views are run at once.
pub trait Frozen: Sync {
    /// The pictures it takes.
    fn input(&self) -> Input;

    /// What is to be fitted, scores first.
    ///
    /// Errors: [`Error::Data`] where the network's shape is not consistent.
    fn tasks(&self, background: bool) -> Result<Vec<Task>>;

    /// Where positives are counted, for each layer of the tasks one map unless a layer serves several.
    fn maps(&self, tasks: &[Task]) -> Vec<Map> {
        let of = |task: &Task| task.layers.iter().copied().zip(&task.sizes).map(map).collect::<Vec<_>>();
        tasks.iter().flat_map(of).collect()
    }

    /// Runs a view and adds rows of it for `classes` new classes.
    fn rows_of(&self, seen: &Seen, classes: usize, rows: &mut ViewRows<'_>) -> Result<()>;

    /// Whether masks are learned.
    fn masks(&self) -> Masks<'_> {
        Masks::None
    }

    /// Itself as what tells what columns find in a picture, where it can.
    fn finder(&self) -> Option<Box<dyn Finder + '_>> {
        None
    }

    /// Itself, where it has one answer for each anchor.
    fn single_stage(&self) -> Option<&dyn Backbone> {
        None
    }
}

fn map((layer, size): (usize, &LayerSize)) -> Map {
    Map { layer, anchors: size.anchors }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(depth: usize, bins: usize) -> Task {
        let sizes = vec![LayerSize { depth, anchors: 4 }];
        Task { role: Role::Boxes, loss: Loss::Squares, layers: vec![0], sizes, background: false, bins }
    }

    #[test]
    fn boxes_are_grouped_by_their_numbers_and_back() {
        let task = boxes(2, 1);
        // Three classes: y of each, x of each, ...
        let values = LayerValues {
            kernel: (0..24).map(|v| v as f32).collect(),
            biases: (0..12).map(|v| v as f32).collect(),
        };
        let grouped = task.old(std::slice::from_ref(&values)).unwrap();
        assert_eq!(grouped[0].biases, [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]);
        assert_eq!(grouped[0].kernel[12..15], [12.0, 16.0, 20.0]);
        let columns = NewColumns { kernel: grouped[0].kernel.clone(), biases: grouped[0].biases.clone() };
        let back = task.ungrouped(columns, 3);
        assert_eq!((back.kernel, back.biases), (values.kernel, values.biases));
        assert!(task.old(&[]).is_err());
    }

    #[test]
    fn boxes_of_several_bins_are_grouped_and_back() {
        let task = boxes(6, 2);
        // Two bins of three classes: of each class y, x, height, width.
        let values = LayerValues {
            kernel: (0..72).map(|v| v as f32).collect(),
            biases: (0..12).map(|v| v as f32).collect::<Vec<_>>().repeat(2),
        };
        let rows = task.old(std::slice::from_ref(&values)).unwrap();
        assert_eq!(rows[0].biases[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        // The first number of the second bin of the second row: y of the first class.
        assert_eq!(rows[0].kernel[(3 + 1) * 12], (24.0 + 12.0) / 2.0);
        let columns = NewColumns { kernel: rows[0].kernel.clone(), biases: rows[0].biases.clone() };
        let back = task.ungrouped(columns, 3);
        assert_eq!((back.kernel, back.biases), (values.kernel, values.biases));
        assert!(boxes(6, 5).old(&[values_of(24)]).is_err());
    }

    fn values_of(channels: usize) -> LayerValues {
        LayerValues { kernel: vec![0.0; 3 * channels], biases: vec![0.0; channels] }
    }
}
