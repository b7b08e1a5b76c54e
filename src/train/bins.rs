//! Position-sensitive layers (R-FCN, arXiv 1605.06409) as layers of rows.
//!
//! Such a layer is a 1×1 convolution with columns of its own for each of `bins` parts of a region. The logit of a region is
//! the mean over the bins of what its columns say on the mean x̄ of its part of the feature map
//! (object_detection/utils/ops.py, position_sensitive_crop_regions with `global_pool`), and cutting and averaging are
//! linear:
//!
//! ```text
//! logit = 1/bins · Σ_bin (w_bin · x̄_bin + b_bin) = [x̄_1 … x̄_bins] · v + b,   v = [w_1 … w_bins] / bins,   b = Σ b_bin / bins
//! ```
//!
//! So a region is a row of bins · depth numbers and its columns are v and b. The biases of new columns are the same in all bins.
//! (Samples beyond the map are zeros that have no bias. A region lies within the picture, so only rounding puts one there; old
//! logits take that into account, new biases count in full.)

use crate::error::{Error, Result};
use crate::head::columns::{LayerValues, NewColumns};

/// Columns over a region's bins, kernel [bins · depth, wide] and biases [wide], of a layer whose kernel is
/// [depth, bins, wide] and whose biases are [bins, wide].
///
/// Errors: [`Error::Data`] where the values do not hold so many bins.
pub fn gathered(values: &LayerValues, bins: usize) -> Result<LayerValues> {
    let channels = values.biases.len();
    let fits = bins > 0
        && channels > 0
        && channels.is_multiple_of(bins)
        && values.kernel.len().is_multiple_of(channels);
    if !fits {
        return Err(Error::Data(format!(
            "a position-sensitive layer of {} weights and {channels} biases does not hold {bins} bins",
            values.kernel.len()
        )));
    }
    let wide = channels / bins;
    let part = bins as f32;
    let of_bin = |bin: usize| {
        values.kernel.chunks_exact(channels).flat_map(move |row| &row[bin * wide..(bin + 1) * wide])
    };
    let kernel = (0..bins).flat_map(of_bin).map(|w| w / part).collect();
    let mean = |column: usize| {
        values.biases.iter().skip(column).step_by(wide).map(|&b| f64::from(b)).sum::<f64>() / f64::from(part)
    };
    Ok(LayerValues { kernel, biases: (0..wide).map(|column| mean(column) as f32).collect() })
}

/// Columns over a region's bins, as fitted, in the layer's own order: the inverse of [`gathered`] for layers whose biases are
/// the same in all bins.
pub fn dealt(columns: &NewColumns, bins: usize) -> NewColumns {
    let wide = columns.biases.len();
    let depth = columns.kernel.len() / (bins * wide).max(1);
    let mut kernel = Vec::with_capacity(columns.kernel.len());
    for row in 0..depth {
        for bin in 0..bins {
            let at = (bin * depth + row) * wide;
            kernel.extend(columns.kernel.iter().skip(at).take(wide).map(|v| v * bins as f32));
        }
    }
    NewColumns { kernel, biases: columns.biases.repeat(bins) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    const DEPTH: usize = 3;
    const BINS: usize = 4;
    const WIDE: usize = 5;

    fn draw(count: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix::new(seed, &[]);
        (0..count).map(|_| random.uniform(-1.0, 1.0) as f32).collect()
    }

    #[test]
    fn a_row_over_all_bins_gives_the_mean_of_their_logits() {
        let values = LayerValues { kernel: draw(DEPTH * BINS * WIDE, 1), biases: draw(BINS * WIDE, 2) };
        let gathered = gathered(&values, BINS).unwrap();
        assert_eq!((gathered.kernel.len(), gathered.biases.len()), (BINS * DEPTH * WIDE, WIDE));
        // What each bin of a region shows, [bins, depth].
        let parts = draw(BINS * DEPTH, 3);
        for column in 0..WIDE {
            let channel = |bin: usize| bin * WIDE + column;
            let of_bin = |bin: usize| -> f32 {
                let product = (0..DEPTH)
                    .map(|d| parts[bin * DEPTH + d] * values.kernel[d * BINS * WIDE + channel(bin)]);
                values.biases[channel(bin)] + product.sum::<f32>()
            };
            let expected = (0..BINS).map(of_bin).sum::<f32>() / BINS as f32;
            let product = (0..BINS * DEPTH).map(|f| parts[f] * gathered.kernel[f * WIDE + column]);
            let got = gathered.biases[column] + product.sum::<f32>();
            assert!((got - expected).abs() < 1e-6, "{column}: {got} and {expected}");
        }
    }

    #[test]
    fn columns_come_back_in_the_layers_order() {
        let values = LayerValues { kernel: draw(DEPTH * BINS * WIDE, 4), biases: draw(WIDE, 5).repeat(BINS) };
        let rows = gathered(&values, BINS).unwrap();
        let back = dealt(&NewColumns { kernel: rows.kernel, biases: rows.biases }, BINS);
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!((back.kernel.len(), back.biases.len()), (values.kernel.len(), values.biases.len()));
        assert!(apart(&back.kernel, &values.kernel) < 1e-6 && apart(&back.biases, &values.biases) < 1e-6);
    }

    #[test]
    fn layers_of_other_sizes_are_refused() {
        let layer = |kernel: usize, biases: usize| LayerValues {
            kernel: vec![0.0; kernel],
            biases: vec![0.0; biases],
        };
        for (values, bins) in [(layer(6, 6), 4), (layer(7, 6), 3), (layer(0, 0), 3), (layer(6, 6), 0)] {
            assert!(gathered(&values, bins).is_err(), "{values:?} {bins}");
        }
        assert!(dealt(&NewColumns { kernel: vec![], biases: vec![] }, 9).kernel.is_empty());
    }
}
