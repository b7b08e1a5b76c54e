//! What each bin of a region shows: crops of a feature map, averaged (object_detection/utils/ops.py,
//! position_sensitive_crop_regions with `global_pool`).

use crate::data::BoxYxyx;
use crate::error::{Error, Result};
use crate::graph::nodes::{graph, integers, node};
use crate::pb::DataType;
use crate::runtime::{AnyTensor, GraphSession, SessionConfig};

/// Regions cropped at once: with 3×3 bins of 6×6 samples of 1024 numbers their crops take 85 MB.
const AT_ONCE: usize = 64;

/// How a region is parted, and how many samples of each part are averaged; both as rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bins {
    /// Parts of a region.
    pub parts: (usize, usize),
    /// Samples of a part.
    pub samples: (usize, usize),
    /// Whether a sample that rounding puts beyond the map counts as on its edge, as crops by products have it, and not as zero.
    pub within: bool,
}

impl Bins {
    /// The number of parts.
    pub fn count(&self) -> usize {
        self.parts.0 * self.parts.1
    }

    /// The parts of a region, row by row, in the API's own arithmetic.
    pub fn of(&self, region: &BoxYxyx) -> Vec<BoxYxyx> {
        let (rows, columns) = self.parts;
        let step_y = (region.ymax - region.ymin) / rows as f32;
        let step_x = (region.xmax - region.xmin) / columns as f32;
        let part = |row: usize, column: usize| {
            let (y, x) = (row as f32, column as f32);
            let place = |v: f32| if self.within { v.clamp(0.0, 1.0) } else { v };
            BoxYxyx::new(
                place(region.ymin + y * step_y),
                place(region.xmin + x * step_x),
                place(region.ymin + (y + 1.0) * step_y),
                place(region.xmin + (x + 1.0) * step_x),
            )
        };
        (0..rows).flat_map(|row| (0..columns).map(move |column| part(row, column))).collect()
    }
}

/// What the bins of some regions show.
#[derive(Debug)]
pub struct Pooled {
    /// Means of the samples, [regions, bins · depth].
    pub rows: AnyTensor,
    /// Parts of the samples that lie on the map, [regions · bins]. Others are zeros, before any bias: CropAndResize knows nothing
    /// beyond the map, and rounding puts the last samples of some bins there.
    pub inside: Vec<f32>,
}

/// A small graph that averages the bins of regions.
#[derive(Debug)]
pub struct Pool {
    bins: Bins,
    session: GraphSession,
}

impl Pool {
    /// Makes the graph.
    pub fn new(bins: Bins, config: &SessionConfig) -> Result<Self> {
        let placeholder = |name, dtype| node::<&str>(name, "Placeholder", &[]).dtype("dtype", dtype).build();
        let crop = |name, map| {
            let crops = node(name, "CropAndResize", &[map, "parts", "picture", "samples"]);
            crops.dtype("T", DataType::DtFloat).build()
        };
        let mean = |name, crops| {
            let means = node(name, "Mean", &[crops, "within"]).dtype("T", DataType::DtFloat);
            means.dtype("Tidx", DataType::DtInt32).build()
        };
        let (height, width) = bins.samples;
        let side = |side: usize| i32::try_from(side).unwrap_or(i32::MAX);
        let nodes = vec![
            placeholder("map", DataType::DtFloat),
            placeholder("parts", DataType::DtFloat),
            placeholder("picture", DataType::DtInt32),
            integers("samples", &[2], &[side(height), side(width)]),
            integers("within", &[2], &[1, 2]),
            crop("crops", "map"),
            mean("means", "crops"),
            placeholder("ones", DataType::DtFloat),
            crop("covered", "ones"),
            mean("inside", "covered"),
        ];
        // There is nothing to optimise, and the optimiser complains about maps of unknown size.
        let config = SessionConfig { optimize: false, ..*config };
        Ok(Self { bins, session: GraphSession::new(&graph(nodes), &config)? })
    }

    /// How regions are parted.
    pub fn bins(&self) -> Bins {
        self.bins
    }

    /// What the bins of these regions show of a map [1, height, width, depth].
    ///
    /// Errors: [`Error::Data`] for a map of another shape.
    pub fn run(&self, map: &AnyTensor, regions: &[BoxYxyx]) -> Result<Pooled> {
        let shape = map.shape();
        let &[1, height, width, depth] = &shape[..] else {
            return Err(Error::Data(format!(
                "a feature map has shape {shape:?}, expected [1, height, width, depth]"
            )));
        };
        let wide = self.bins.count() * depth;
        let ones = AnyTensor::new(&[1, height, width, 1], &vec![1.0f32; height * width])?;
        let (mut rows, mut inside) = (Vec::with_capacity(regions.len() * wide), Vec::new());
        for regions in regions.chunks(AT_ONCE) {
            let parts: Vec<f32> =
                regions.iter().flat_map(|region| self.bins.of(region)).flat_map(|b| b.to_array()).collect();
            let number = parts.len() / 4;
            let parts = AnyTensor::new(&[number, 4], &parts)?;
            let picture = AnyTensor::new(&[number], &vec![0i32; number])?;
            let feeds = [("map", map), ("ones", &ones), ("parts", &parts), ("picture", &picture)];
            let found = self.session.run(&feeds, &["means:0", "inside:0"], &[])?;
            for (values, means) in [&mut rows, &mut inside].into_iter().zip(&found) {
                values.extend_from_slice(means.f32()?);
            }
        }
        Ok(Pooled { rows: AnyTensor::new(&[regions.len(), wide], &rows)?, inside })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::position_sensitive::OldColumns;
    use super::*;
    use crate::head::LayerValues;
    use crate::runtime::testing;

    fn floats(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    fn sizes(value: &Value) -> Vec<usize> {
        value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
    }

    #[test]
    fn features_and_columns_give_the_apis_logits() {
        if testing::library().is_none() {
            return;
        }
        let all: Value = serde_json::from_str(include_str!("../../../testdata/train/api.json")).unwrap();
        let case = &all["position_sensitive"];
        let (parts, samples, shape) =
            (sizes(&case["bins"]), sizes(&case["samples"]), sizes(&case["map_shape"]));
        let bins = Bins { parts: (parts[0], parts[1]), samples: (samples[0], samples[1]), within: false };
        let mut map_shape = vec![1];
        map_shape.extend(&shape);
        let map = AnyTensor::new(&map_shape, &floats(&case["map"])).unwrap();
        let regions: Vec<BoxYxyx> = case["regions"]
            .as_array()
            .unwrap()
            .iter()
            .map(floats)
            .map(|b| BoxYxyx::new(b[0], b[1], b[2], b[3]))
            .collect();
        let values = LayerValues { kernel: floats(&case["kernel"]), biases: floats(&case["biases"]) };
        let config = SessionConfig::default();
        let pool = Pool::new(bins, &config).unwrap();
        let pooled = pool.run(&map, &regions).unwrap();
        assert_eq!(pooled.rows.shape(), [regions.len(), bins.count() * shape[2]]);
        assert!(pooled.inside.contains(&1.0) && pooled.inside.iter().any(|part| *part < 0.9));
        let old = OldColumns::new(&values, bins.count(), shape[2], &config).unwrap();
        let logits = old.logits(&pooled).unwrap();
        let expected = floats(&case["logits"]);
        assert_eq!(logits.len(), expected.len());
        for (got, expected) in logits.iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-5, "{got} and {expected}");
        }
        // Many regions are cut in several goes.
        let many: Vec<BoxYxyx> = regions.iter().copied().cycle().take(2 * AT_ONCE + 3).collect();
        let again = pool.run(&map, &many).unwrap();
        assert_eq!(again.rows.f32().unwrap()[..pooled.rows.len()], *pooled.rows.f32().unwrap());
        assert_eq!(again.inside.len(), many.len() * bins.count());
        let flat = AnyTensor::new(&[3], &[0.0f32; 3]).unwrap();
        assert!(pool.run(&flat, &regions).is_err());
        let within = Bins { within: true, ..bins }.of(&BoxYxyx::new(-0.1, 0.5, 0.6, 1.2));
        assert!(within.iter().flat_map(|part| part.to_array()).all(|v| (0.0..=1.0).contains(&v)));
    }
}
