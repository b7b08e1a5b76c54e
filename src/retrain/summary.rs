//! What the report says of a training.

use super::flow::Options;
use super::page::MapEvidence;
use super::plan::Plan;
use super::report::{Fit, MaskColumns, Training};
use crate::data::Dataset;
use crate::graft::Graft;
use crate::head::locate::Role;
use crate::train::{Fitted, Masks, Strategy, Trained};

/// Of the training as a whole.
pub(super) fn training(
    trained: &Trained,
    options: &Options,
    graft: &Graft,
    maps: Vec<MapEvidence>,
    added: usize,
) -> Training {
    let s = &trained.statistics;
    let anchors = |layer: usize| graft.understood.layers[layer].axis.outer.unwrap_or(1);
    let rows = |(layer, counts): (usize, &Vec<usize>)| {
        counts.chunks(added.max(1)).take(anchors(layer)).map(<[usize]>::to_vec).collect()
    };
    Training {
        strategy: match options.strategy {
            Strategy::FrozenColumns(_) => "frozen-columns",
            Strategy::CopyBack(_) => "copy-back",
        },
        images: s.images,
        views: s.views,
        views_per_picture: s.views_per_picture,
        rows: s.rows.clone(),
        matched_anchors: s.matched.iter().enumerate().map(rows).collect(),
        incomplete_pictures: s.incomplete,
        ignored_anchors: s.alike.ignored,
        pseudo_labelled_anchors: s.alike.taken,
        maps,
        losses: trained.losses.clone(),
        fits: trained.fits.iter().map(fit_summary).collect(),
        old_loss: None,
        copy_back: trained.comparison.clone(),
        masks: None,
        cache_bytes: [s.memory_bytes, s.disk_bytes],
    }
}

/// What masks can be learned from; tells where they cannot.
pub(super) fn mask_columns(masks: Masks<'_>, data: &Dataset, plan: &Plan) -> Option<MaskColumns> {
    let objects = data.images.iter().flat_map(|image| &image.objects);
    let objects: Vec<_> = objects.filter(|object| object.mask.is_some() && !object.crowd).collect();
    let of = |name: &str| objects.iter().filter(|object| object.class == name).count();
    let counts: Vec<usize> = plan.new.iter().map(|class| of(&class.name)).collect();
    let not_learned = match masks {
        Masks::None => return None,
        Masks::Learned => None,
        Masks::Mean(reason) => Some(reason.to_owned()),
    };
    if let Some(reason) = &not_learned {
        tracing::warn!("new columns of masks are the mean of the old ones: {reason}");
    }
    for (class, _) in plan.new.iter().zip(&counts).filter(|(_, count)| **count == 0 && not_learned.is_none())
    {
        tracing::warn!(
            "DATA has no mask of {}: its column of masks is the mean of the old ones; give COCO segmentations",
            class.name
        );
    }
    Some(MaskColumns { objects: counts, not_learned })
}

fn fit_summary(fitted: &Fitted) -> Fit {
    Fit {
        columns: match fitted.role {
            Role::Scores => "scores",
            Role::Boxes => "boxes",
            Role::Masks => "masks",
        },
        layers: fitted.layers.clone(),
        loss_before: fitted.losses.first().copied(),
        loss_after: fitted.losses.last().copied(),
        prior_strength: fitted.strength,
        divisions: fitted.divisions.clone(),
    }
}
