//! Source and result on the same pictures: what the report shows and the gate judges.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::plan::Plan;
use super::report::Validation;
use crate::data::{Dataset, LabelMap, LabelledImage};
use crate::detect::Detector;
use crate::error::Result;
use crate::eval::{
    ClassMetrics, EvalImage, Gate, Roster, assess, class_ids, class_names, confusion, evaluate, run_images,
};
use crate::progress;
use crate::random::evenly;
use crate::runtime::ServingModel;

/// Training pictures that are looked at where no pictures are held back: few, since both models run on each.
const SAMPLE: usize = 16;

/// What two models say of the same pictures.
#[derive(Debug)]
pub struct Look<'a> {
    /// The pictures.
    pub data: Cow<'a, Dataset>,
    /// Whether they were held back from training.
    pub held_back: bool,
    /// Ids of the data's classes, by name.
    pub ids: BTreeMap<String, u32>,
    /// The classes of the result.
    pub roster: Roster,
    /// What the source says.
    pub before: Vec<EvalImage>,
    /// What the result says.
    pub after: Vec<EvalImage>,
}

impl<'a> Look<'a> {
    /// Runs both models, source and result, on the held-back pictures, else on a sample of the training pictures.
    pub fn take(
        training: &Dataset,
        held_back: Option<&'a Dataset>,
        models: [ServingModel; 2],
        plan: &Plan,
    ) -> Result<Self> {
        let data = match held_back {
            Some(data) => Cow::Borrowed(data),
            None => Cow::Owned(sample(training, plan)),
        };
        let ids = class_ids(&data, &plan.labels, "of the result", &plan.others)?;
        let roster = roster(&ids, plan);
        let bar = progress::bar(2 * data.images.len() as u64, "looking");
        let [before, after] = models.map(|model| {
            let detector = Detector::new(model, plan.labels.clone());
            run_images(&detector, &data, &ids, false, || bar.inc(1))
        });
        bar.finish_and_clear();
        let (before, after) = (before?, after?);
        Ok(Self { held_back: held_back.is_some(), data, ids, roster, before, after })
    }

    /// Measures of both.
    pub fn validation(&self) -> Validation {
        let after = assess(&self.after, &self.roster, false);
        let old_names = self.names(false);
        let before = evaluate(&self.before, &old_names);
        let group = |name: &str| after.boxes.groups.get(name).cloned().unwrap_or_default();
        Validation {
            images: self.after.len(),
            old_before: before.mean(|_| true),
            old_after: group("old"),
            new_after: group("new"),
            per_class: after.boxes.of_classes(|_| true),
            per_old_class_before: before.per_class,
            false_positives: after.false_positives,
            confusion_before: confusion(&self.before, &self.roster),
            confusion_after: after.confusion,
        }
    }

    /// Classes that the data labels, new or old ones.
    pub fn names(&self, new: bool) -> BTreeMap<u32, String> {
        let mine = |id: &u32| self.roster.is_new(*id) == new;
        let ids = self.roster.labelled.iter().filter(|id| mine(id));
        ids.filter_map(|id| Some((*id, self.roster.names.get(id)?.clone()))).collect()
    }
}

/// Errors where the held-back data cannot answer what the gate asks; before anything costs time.
pub fn check_gate(gate: &Gate, held_back: &Dataset, plan: &Plan) -> Result<()> {
    let ids = class_ids(held_back, &plan.labels, "of the result", &plan.others)?;
    let mut objects: BTreeMap<&str, usize> = ids.keys().map(|name| (name.as_str(), 0)).collect();
    // A new class counts although the held-back data does not even declare it.
    objects.extend(plan.new.iter().map(|class| (class.name.as_str(), 0)));
    let counted =
        held_back.images.iter().flat_map(|image| &image.objects).filter(|o| !o.crowd && !o.difficult);
    for object in counted {
        *objects.entry(&object.class).or_default() += 1;
    }
    let is_new = |name: &str| plan.new.iter().any(|class| class.name == name);
    let (new, old): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(name, _)| is_new(name));
    gate.check_data(new, old)
}

/// The measures of one group of classes.
pub fn of_classes(
    per_class: &BTreeMap<String, ClassMetrics>,
    chosen: impl Fn(&str) -> bool,
) -> BTreeMap<String, ClassMetrics> {
    per_class.iter().filter(|(name, _)| chosen(name)).map(|(name, m)| (name.clone(), m.clone())).collect()
}

fn roster(ids: &BTreeMap<String, u32>, plan: &Plan) -> Roster {
    let all = |labels: &LabelMap| labels.items.iter().map(|item| item.id).collect::<Vec<u32>>();
    Roster {
        names: class_names(all(&plan.labels).into_iter().chain(ids.values().copied()), &plan.labels),
        labelled: ids.values().copied().collect(),
        new: Some(plan.new.iter().map(|class| class.id).collect()),
    }
}

/// Training pictures that show new objects, spread over the data.
fn sample(training: &Dataset, plan: &Plan) -> Dataset {
    let is_new = |name: &str| plan.new.iter().any(|class| class.name == name);
    let shows = |image: &&LabelledImage| image.objects.iter().any(|object| is_new(&object.class));
    let showing: Vec<&LabelledImage> = training.images.iter().filter(shows).collect();
    Dataset {
        images: evenly(&showing, SAMPLE).copied().cloned().collect(),
        categories: training.categories.clone(),
        ..Dataset::default()
    }
}
