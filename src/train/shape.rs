//! What training needs to know of a network, and how it asks for features.

use crate::data::BoxYxyx;
use crate::error::{Error, Result};
use crate::runtime::AnyTensor;

/// How a picture is brought to the size of the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometry {
    /// Stretched to the input, whatever its shape (`fixed_shape_resizer`).
    Squash,
    /// Scaled as a whole into the top left corner, the rest black (`keep_aspect_ratio_resizer` with padding).
    KeepAspect,
    /// Scaled as a whole and left so (`keep_aspect_ratio_resizer`).
    Range {
        /// What the shorter side becomes, pixels.
        least: usize,
        /// What the longer side becomes where it would be longer than that.
        most: usize,
    },
}

/// The pictures that a network takes in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Height and width in pixels; those of a square picture where the size depends on the picture.
    pub size: (usize, usize),
    /// How pictures come to that size.
    pub geometry: Geometry,
}

/// One feature map under the class head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Rows of the map.
    pub height: usize,
    /// Columns of the map.
    pub width: usize,
    /// Anchors at each cell.
    pub anchors: usize,
    /// Numbers that the class layer sees at each cell: kernel height · kernel width · channels.
    pub depth: usize,
    /// Which class layer looks at this map: one layer per map, or one for all.
    pub layer: usize,
    /// Number of the map's first anchor; anchor `a` of cell `(y, x)` is `first_anchor + (y·width + x)·anchors + a`.
    pub first_anchor: usize,
}

impl Level {
    /// Cells of the map.
    pub fn cells(&self) -> usize {
        self.height * self.width
    }
}

/// A detector as training sees it.
#[derive(Debug, Clone)]
pub struct NetworkShape {
    /// The feature maps, in the order of their anchors.
    pub levels: Vec<Level>,
    /// All anchors, unclipped, as fractions of the network's input.
    pub anchors: Vec<BoxYxyx>,
    /// The pictures it takes.
    pub input: Input,
}

/// Size of a class layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    /// Rows of its kernel.
    pub depth: usize,
    /// Anchors at each cell.
    pub anchors: usize,
}

impl NetworkShape {
    /// The size of each class layer, by its number.
    ///
    /// Errors: [`Error::Data`] when maps, layers and anchors do not fit each other.
    pub fn layers(&self) -> Result<Vec<LayerSize>> {
        let wrong =
            |reason: String| Err(Error::Data(format!("the network's shape is not consistent: {reason}")));
        let (height, width) = self.input.size;
        if height == 0 || width == 0 {
            return wrong(format!("an input of {height} x {width} pixels"));
        }
        let mut next = 0;
        let mut layers: Vec<Option<LayerSize>> = Vec::new();
        for (number, level) in self.levels.iter().enumerate() {
            if level.first_anchor != next {
                return wrong(format!(
                    "map {number} starts at anchor {}, expected {next}",
                    level.first_anchor
                ));
            }
            next += level.cells() * level.anchors;
            if level.layer >= self.levels.len() {
                return wrong(format!(
                    "map {number} uses layer {} of at most {}",
                    level.layer,
                    self.levels.len()
                ));
            }
            if layers.len() <= level.layer {
                layers.resize(level.layer + 1, None);
            }
            let size = LayerSize { depth: level.depth, anchors: level.anchors };
            let known = layers[level.layer].get_or_insert(size);
            if *known != size || size.depth == 0 || size.anchors == 0 {
                return wrong(format!(
                    "map {number} needs a layer like {size:?}, layer {} is {known:?}",
                    level.layer
                ));
            }
        }
        if next != self.anchors.len() {
            return wrong(format!("the maps have {next} anchors, {} were given", self.anchors.len()));
        }
        match layers.iter().copied().collect::<Option<Vec<_>>>() {
            Some(layers) if !layers.is_empty() => Ok(layers),
            _ => wrong("a class layer that no map uses".into()),
        }
    }
}

/// What the frozen part of a network makes of one view.
#[derive(Debug)]
pub struct ViewFeatures {
    /// What the class layer sees: for each map float32 [cells, depth].
    pub levels: Vec<AnyTensor>,
    /// The decoded box of each anchor, unclipped, as fractions of the network's input.
    pub boxes: Vec<BoxYxyx>,
}

/// The frozen part of a network with one answer for each anchor.
pub trait Backbone: Sync {
    /// The network's maps and anchors.
    fn shape(&self) -> &NetworkShape;

    /// Runs one picture of the size of the network's input: `height · width · 3` bytes, row by row, red first.
    fn run(&self, rgb: &[u8], height: usize, width: usize) -> Result<ViewFeatures>;
}

/// Errors when features are not of the network's shape.
pub(super) fn check_features(shape: &NetworkShape, features: &ViewFeatures) -> Result<()> {
    let wrong =
        |reason: String| Err(Error::Data(format!("the network gave features of another shape: {reason}")));
    if features.boxes.len() != shape.anchors.len() {
        return wrong(format!("{} boxes for {} anchors", features.boxes.len(), shape.anchors.len()));
    }
    if features.levels.len() != shape.levels.len() {
        return wrong(format!("{} maps, expected {}", features.levels.len(), shape.levels.len()));
    }
    for (number, (got, level)) in features.levels.iter().zip(&shape.levels).enumerate() {
        if got.shape() != [level.cells(), level.depth] {
            return wrong(format!("map {number} is {got:?}, expected [{}, {}]", level.cells(), level.depth));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(levels: Vec<Level>, anchors: usize) -> NetworkShape {
        let anchors = vec![BoxYxyx::new(0.0, 0.0, 1.0, 1.0); anchors];
        NetworkShape { levels, anchors, input: Input { size: (8, 8), geometry: Geometry::Squash } }
    }

    #[test]
    fn layers_of_consistent_maps_only() {
        let level = |layer, depth, first_anchor| Level {
            height: 2,
            width: 3,
            anchors: 2,
            depth,
            layer,
            first_anchor,
        };
        let size = LayerSize { depth: 4, anchors: 2 };
        assert_eq!(shape(vec![level(0, 4, 0), level(0, 4, 12)], 24).layers().unwrap(), [size]);
        assert_eq!(shape(vec![level(1, 4, 0), level(0, 4, 12)], 24).layers().unwrap(), [size; 2]);
        for (levels, anchors) in [
            (vec![], 0),
            (vec![level(0, 4, 0)], 11),
            (vec![level(0, 4, 0), level(0, 5, 12)], 24),
            (vec![level(0, 4, 0), level(1, 4, 13)], 24),
            (vec![level(1, 4, 0)], 12),
            (vec![level(usize::MAX, 4, 0)], 12),
            (vec![level(0, 0, 0)], 12),
        ] {
            assert!(shape(levels, anchors).layers().is_err());
        }
    }
}
