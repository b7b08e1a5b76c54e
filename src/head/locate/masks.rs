//! Masks of each class's own: every detection takes that of its class
//! (object_detection/meta_architectures/faster_rcnn_meta_arch.py, _gather_instance_masks).

use super::Head;
use super::suppression::Group;
use super::walk::Walk;
use crate::error::Result;
use crate::graph::Source;

impl Walk<'_, '_> {
    /// The layers of masks of which a gather picks some by what was detected; none where there are no masks, or the
    /// classes share them.
    ///
    /// With a single class the two look alike; it is then taken to share, which computes the same.
    pub(super) fn mask_heads(&self, home: usize, detections: &Group) -> Result<Vec<Head>> {
        let here = &self.view.scopes[home];
        let mut heads: Vec<Head> = Vec::new();
        for (gather, _) in here.nodes.iter().enumerate().filter(|(_, node)| node.op == "GatherV2") {
            let &[masks, indices, _] = &here.inputs[gather][..] else { continue };
            let Some((layer_scope, bias)) = self.reshaped_layer(home, masks) else { continue };
            if self.depends_on(home, indices, detections) {
                let head = self.head(layer_scope, bias)?;
                if !heads.contains(&head) {
                    heads.push(head);
                }
            }
        }
        Ok(heads)
    }

    /// The BiasAdd of which a tensor is another arrangement.
    fn reshaped_layer(&self, mut scope: usize, mut source: Source) -> Option<(usize, usize)> {
        for _ in 0..20 {
            (scope, source) = self.view.origin(scope, source);
            let Source::Node { node, .. } = source else { return None };
            let here = &self.view.scopes[scope];
            match &*here.nodes[node].op {
                "Reshape" | "Squeeze" | "ExpandDims" | "Transpose" | "Cast" => {
                    source = *here.inputs[node].first()?;
                }
                "BiasAdd" => return Some((scope, node)),
                _ => return None,
            }
        }
        None
    }
}
