//! What a retraining will do, decided before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::data::{Dataset, LabelMap};
use crate::error::{Error, Result};

/// Which classes are new, which are old, and how many pictures speak for each.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// New classes with their label ids, in order.
    pub new: Vec<PlannedClass>,
    /// Old classes that DATA labels too: negatives for the new ones.
    pub old_in_data: BTreeMap<String, usize>,
    /// Classes that DATA labels and that are neither: where new classes are named, others are background.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub others_in_data: BTreeMap<String, usize>,
    /// Classes that DATA declares and that are neither, whether it labels any or not.
    #[serde(skip)]
    pub others: BTreeSet<String>,
    /// Classes of the source.
    pub classes_before: usize,
    /// The label map of the result.
    #[serde(skip)]
    pub labels: LabelMap,
}

/// A class to add.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedClass {
    /// Its name.
    pub name: String,
    /// Its label id.
    pub id: u32,
    /// Labelled objects, crowds included.
    pub objects: usize,
    /// Pictures that show it.
    pub pictures: usize,
}

impl Plan {
    /// New classes are those of DATA that the label map lacks, or those named by `add`.
    ///
    /// Errors: [`Error::Data`] where nothing is new or a new class has no object; [`Error::Usage`] where a name to add
    /// exists or the label map does not fit the model.
    pub fn new(
        data: &Dataset,
        labels: &LabelMap,
        labels_from: &str,
        classes: usize,
        add: &[String],
    ) -> Result<Self> {
        let first_id = u32::try_from(classes).unwrap_or(u32::MAX).saturating_add(1);
        labels.check_fits(classes, labels_from)?;
        let is_old = |name: &str| labels.by_name(name);
        let names: Vec<String> = if add.is_empty() {
            data.categories.iter().filter(|c| is_old(c).is_none()).cloned().collect()
        } else {
            if let Some((name, item)) = add.iter().find_map(|n| Some((n, is_old(n)?))) {
                return Err(Error::Usage(format!(
                    "--add {name}: the label map has this name already, with id {}; give the new class another name",
                    item.id
                )));
            }
            add.to_vec()
        };
        if names.is_empty() {
            return Err(Error::Data(format!(
                "no new class: the label map ({labels_from}) has every category of the data already ({})",
                data.categories.join(", ")
            )));
        }
        let counts = data.counts();
        let mut new = Vec::new();
        for (name, id) in names.iter().zip(first_id..) {
            let objects = counts.get(name).copied().unwrap_or(0);
            let shows =
                |i: &&crate::data::LabelledImage| i.objects.iter().any(|o| o.class == *name && !o.crowd);
            let pictures = data.images.iter().filter(shows).count();
            if pictures == 0 {
                let near = labels.near_misses(name);
                let hint = if near.is_empty() {
                    String::new()
                } else {
                    format!(" (the label map has {})", near.join(", "))
                };
                let remedy = if add.is_empty() { "; name the classes to learn with --add NAME" } else { "" };
                return Err(Error::Data(format!(
                    "no box of the new class {name:?} in the data{hint}; it cannot be learned{remedy}"
                )));
            }
            new.push(PlannedClass { name: name.clone(), id, objects, pictures });
        }
        let neither = |name: &&String| !names.contains(name) && is_old(name).is_none();
        let declared = data.categories.iter().filter(neither).cloned().collect();
        let others = counts.into_iter().filter(|(name, n)| *n > 0 && !names.contains(name));
        let (old_in_data, others_in_data) = others.partition(|(name, _)| is_old(name).is_some());
        let mut labels = labels.clone();
        labels.append(&names, first_id)?;
        Ok(Self { new, old_in_data, others_in_data, others: declared, classes_before: classes, labels })
    }

    /// Classes of the result.
    pub fn classes_after(&self) -> usize {
        self.classes_before + self.new.len()
    }
}
