//! Columns of a class layer: where the old ones go, and what the new ones start as.

use std::str::FromStr;

use super::axis::{ClassAxis, Growth};
use super::locate::Role;
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// A bias so low that the sigmoid, or the share of a softmax, is exactly zero in float32.
pub const SILENT_BIAS: f32 = -1000.0;

/// Standard deviation of random kernels: the API's `random_normal_initializer { stddev: 0.01 }` of its SSD predictors.
const RANDOM_DEVIATION: f32 = 0.01;

/// Bias of random columns: the API's `class_prediction_bias_init`, a probability of 0.01 (RetinaNet, arXiv 1708.02002).
const RANDOM_BIAS: f32 = -4.6;

/// What a new class's columns start as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// It never fires.
    Silent,
    /// Seeded normal weights, as the API starts a head.
    Random,
    /// A copy of the columns of the class with this label id.
    Like(usize),
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "silent" => Ok(Self::Silent),
            "random" => Ok(Self::Random),
            _ => text.strip_prefix("like:").and_then(|id| id.parse().ok()).map(Self::Like).ok_or_else(|| {
                Error::Usage(format!(
                    "unknown start {text:?} of a new class; expected silent, random or like:ID"
                ))
            }),
        }
    }
}

/// Values of one class layer: kernel [rows, outer · columns] and biases [outer · columns], float32, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerValues {
    /// Kernel, rows = height · width · depth.
    pub kernel: Vec<f32>,
    /// Biases.
    pub biases: Vec<f32>,
}

/// New columns of one layer, for `outer` anchors and `added` numbers of each: one for a new class, four where the columns
/// are its box.
#[derive(Debug, Clone, PartialEq)]
pub struct NewColumns {
    /// [rows, outer, added], row-major.
    pub kernel: Vec<f32>,
    /// [outer, added], row-major.
    pub biases: Vec<f32>,
}

/// Puts new columns behind the old ones of every group: along the axis (outer, columns, 1) becomes
/// (outer, columns + added, 1). `old` is [rows, outer · columns], `new` [rows, outer, added].
pub fn widen(old: &[f32], new: &[f32], outer: usize, columns: usize, added: usize) -> Result<Vec<f32>> {
    let (old_row, new_row) = (outer * columns, outer * added);
    if old_row == 0 || !old.len().is_multiple_of(old_row) || new.len() != old.len() / old_row * new_row {
        return Err(Error::Damaged {
            what: "a class layer".into(),
            reason: format!(
                "{} values do not hold {outer} groups of {columns} columns, or {} new values do not fit",
                old.len(),
                new.len()
            ),
        });
    }
    let mut wide = Vec::with_capacity(old.len() + new.len());
    for (old, new) in old.chunks_exact(columns).zip(chunks(new, added)) {
        wide.extend_from_slice(old);
        wide.extend_from_slice(new);
    }
    Ok(wide)
}

/// `chunks_exact` that yields empty chunks without end for size zero.
fn chunks(values: &[f32], size: usize) -> impl Iterator<Item = &[f32]> {
    (0..).map_while(move |i| values.get(i * size..(i + 1) * size))
}

/// The old columns within a widened layer; the inverse of [`widen`].
pub fn old_columns(wide: &[f32], columns: usize, added: usize) -> Vec<f32> {
    wide.chunks_exact(columns + added).flat_map(|group| &group[..columns]).copied().collect()
}

/// The new columns within a widened layer, [rows, outer, added].
pub fn new_columns(wide: &[f32], columns: usize, added: usize) -> Vec<f32> {
    wide.chunks_exact(columns + added).flat_map(|group| &group[columns..]).copied().collect()
}

/// Starting columns of a layer. `axis` is that of its biases; label ids start at 1, after the background.
///
/// A silent class has the box of its anchor or proposal, unmoved, and a mask of one half. Errors: [`Error::Usage`] for a class to copy that the
/// model lacks.
pub fn initial(
    old: &LayerValues,
    axis: &ClassAxis,
    role: Role,
    growth: Growth,
    inits: &[Init],
    seed: u64,
) -> Result<NewColumns> {
    let (columns, outer, inner) = (axis.columns(growth), axis.outer.unwrap_or(1), axis.inner);
    let rows = old.kernel.len() / (outer * columns * inner).max(1);
    let added = inits.len();
    let mut random = Normal::new(seed);
    let (silent, first) = match role {
        Role::Scores => (SILENT_BIAS, RANDOM_BIAS),
        Role::Boxes | Role::Masks => (0.0, 0.0),
    };
    let mut kernel = vec![0.0; rows * outer * added * inner];
    let mut biases = vec![silent; outer * added * inner];
    for (new, init) in inits.iter().enumerate() {
        let source = match *init {
            Init::Like(id) if id == 0 || id > growth.classes => {
                return Err(Error::Usage(format!(
                    "like:{id} names no class; ids go from 1 to {}",
                    growth.classes
                )));
            }
            Init::Like(id) => Some(id - 1 + usize::from(axis.background)),
            _ => None,
        };
        for (group, part) in (0..outer).flat_map(|group| (0..inner).map(move |part| (group, part))) {
            let old_at =
                |row: usize, column: usize| ((row * outer + group) * columns + column) * inner + part;
            let new_at = |row: usize| ((row * outer + group) * added + new) * inner + part;
            biases[new_at(0)] = match (init, source) {
                (_, Some(column)) => old.biases[old_at(0, column)],
                (Init::Random, _) => first,
                _ => silent,
            };
            for row in 0..rows {
                kernel[new_at(row)] = match (init, source) {
                    (_, Some(column)) => old.kernel[old_at(row, column)],
                    (Init::Random, _) => RANDOM_DEVIATION * random.next(),
                    _ => 0.0,
                };
            }
        }
    }
    Ok(NewColumns { kernel, biases })
}

/// Normal numbers from a seed, the same on every machine: Box–Muller in float64.
struct Normal(SplitMix);

impl Normal {
    fn new(seed: u64) -> Self {
        Self(SplitMix::new(seed, &[]))
    }

    fn next(&mut self) -> f32 {
        let (a, b) = (1.0 - self.0.uniform(0.0, 1.0), self.0.uniform(0.0, 1.0));
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn old_and_new_columns_come_back_bit_for_bit(
            rows in 1usize..5, outer in 1usize..7, columns in 1usize..20, added in 0usize..5, bits in any::<u32>(),
        ) {
            let old: Vec<f32> = (0..rows * outer * columns).map(|i| f32::from_bits(bits.wrapping_mul(i as u32 + 1))).collect();
            let new: Vec<f32> = (0..rows * outer * added).map(|i| i as f32).collect();
            let wide = widen(&old, &new, outer, columns, added).unwrap();
            let same = |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
            prop_assert!(same(&old_columns(&wide, columns, added), &old));
            prop_assert!(same(&new_columns(&wide, columns, added), &new));
        }
    }

    #[test]
    fn columns_are_copied_by_label_id() {
        let growth = Growth { classes: 2, added: 1 };
        let axis = ClassAxis::last(1, 2, true);
        let old = LayerValues {
            kernel: (0..6).map(|v| v as f32).collect(),
            biases: (10..16).map(|v| v as f32).collect(),
        };
        let new = initial(&old, &axis, Role::Scores, growth, &[Init::Like(2)], 0).unwrap();
        assert_eq!(new, NewColumns { kernel: vec![2.0, 5.0], biases: vec![12.0, 15.0] });
        assert!(initial(&old, &axis, Role::Scores, growth, &[Init::Like(3)], 0).is_err());
        assert!(initial(&old, &axis, Role::Scores, growth, &[Init::Like(0)], 0).is_err());
    }

    #[test]
    fn boxes_are_copied_four_by_four_and_silent_ones_stay_where_they_are() {
        let growth = Growth { classes: 2, added: 2 };
        let axis = ClassAxis { inner: 4, ..ClassAxis::last(1, 1, false) };
        let old = LayerValues {
            kernel: (0..16).map(|v| v as f32).collect(),
            biases: (0..8).map(|v| 10.0 * v as f32).collect(),
        };
        let new = initial(&old, &axis, Role::Boxes, growth, &[Init::Like(2), Init::Silent], 0).unwrap();
        assert_eq!(new.biases, [40.0, 50.0, 60.0, 70.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(new.kernel[..4], [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(new.kernel[8..12], [12.0, 13.0, 14.0, 15.0]);
        let wide = widen(&old.kernel, &new.kernel, 1, axis.group(growth), axis.added(growth)).unwrap();
        assert_eq!(wide[..12], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn seeds_repeat() {
        let growth = Growth { classes: 1, added: 1 };
        let old = LayerValues { kernel: vec![0.0; 40], biases: vec![0.0; 4] };
        let axis = ClassAxis::last(1, 4, false);
        let draw = |seed| initial(&old, &axis, Role::Scores, growth, &[Init::Random], seed).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
