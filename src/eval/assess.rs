//! Everything that is measured of one model on one set of pictures.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::coco_map::{ClassMetrics, EvalImage, Metrics, evaluate, evaluate_masks};
use super::firing::{FalsePositives, FiredOn, Roster, confusion, false_positives};

/// Measures of one model.
#[derive(Debug, Clone, Serialize)]
pub struct Assessment {
    /// Pictures measured on.
    pub images: usize,
    /// COCO's measures of boxes.
    #[serde(flatten)]
    pub boxes: Measures,
    /// The same of masks, where the model and the data have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masks: Option<Measures>,
    /// False detections.
    pub false_positives: FalsePositives,
    /// For each class that the data labels, which classes fire on its objects.
    pub confusion: BTreeMap<String, FiredOn>,
}

/// COCO's measures of groups and of classes.
#[derive(Debug, Clone, Serialize)]
pub struct Measures {
    /// Means over `all` classes, and over `old` and `new` ones where it is known which these are.
    pub groups: BTreeMap<&'static str, ClassMetrics>,
    /// Each class that the data labels.
    pub per_class: BTreeMap<String, ClassReport>,
}

/// Measures of one class.
#[derive(Debug, Clone, Serialize)]
pub struct ClassReport {
    /// Its id.
    pub id: u32,
    /// Its measures.
    #[serde(flatten)]
    pub metrics: ClassMetrics,
}

/// Measures the classes that the data labels.
pub fn assess(images: &[EvalImage], roster: &Roster, masks: bool) -> Assessment {
    let names: BTreeMap<u32, String> = roster
        .names
        .iter()
        .filter(|(id, _)| roster.labelled.contains(id))
        .map(|(&id, n)| (id, n.clone()))
        .collect();
    Assessment {
        images: images.len(),
        boxes: Measures::of(&evaluate(images, &names), &names, roster),
        masks: masks.then(|| Measures::of(&evaluate_masks(images, &names), &names, roster)),
        false_positives: false_positives(images, roster),
        confusion: confusion(images, roster),
    }
}

impl Measures {
    fn of(metrics: &Metrics, names: &BTreeMap<u32, String>, roster: &Roster) -> Self {
        let mut groups = BTreeMap::from([("all", metrics.mean(|_| true))]);
        if roster.new.is_some() {
            let new: BTreeSet<&str> =
                names.iter().filter(|(id, _)| roster.is_new(**id)).map(|(_, name)| name.as_str()).collect();
            groups.insert("new", metrics.mean(|name| new.contains(name)));
            groups.insert("old", metrics.mean(|name| !new.contains(name)));
        }
        let report = |(&id, name): (&u32, &String)| {
            let metrics = metrics.per_class.get(name).cloned().unwrap_or_default();
            (name.clone(), ClassReport { id, metrics })
        };
        Self { groups, per_class: names.iter().map(report).collect() }
    }

    /// The measures of those classes whose id `chosen` accepts, by name.
    pub fn of_classes(&self, chosen: impl Fn(u32) -> bool) -> BTreeMap<String, ClassMetrics> {
        let mine = self.per_class.iter().filter(|(_, class)| chosen(class.id));
        mine.map(|(name, class)| (name.clone(), class.metrics.clone())).collect()
    }
}
