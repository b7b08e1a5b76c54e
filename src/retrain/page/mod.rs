//! report.html: the report for eyes. One file, nothing from the network, no scripts, light and dark.
//!
//! Names of classes and files come from anywhere; `maud` escapes every one of them, and the page forbids scripts besides.

mod charts;
mod evidence;
mod shots;

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::look::Look;
use super::report::Report;
use crate::error::Result;
use crate::eval::{FalsePositives, FiredOn, assess, confusion, precision_recall_curve};
use charts::{Axes, Line, chart};

pub use evidence::{MapEvidence, gather};

/// New classes with sections of their own; of more only the numbers are told.
const CLASSES: usize = 12;
/// Rows of a table of other classes.
const ROWS: usize = 12;
/// Nothing is loaded and nothing runs, whatever a name holds.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// The page.
///
/// Errors: [`crate::Error::Data`] where a picture that is shown can no longer be read.
pub fn html(report: &Report, look: &Look<'_>) -> Result<String> {
    let names: Vec<&str> = report.plan.new.iter().map(|class| class.name.as_str()).collect();
    let name = report.model_name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    let title = format!("{name}{} → {} classes", report.plan.classes_before, report.plan.classes_after());
    let (best, worst) = shots::choose(look);
    let (best_shots, worst_shots) = (shots::pairs(look, &best, 0)?, shots::pairs(look, &worst, best.len())?);
    let found = assess(&look.after, &look.roster, false);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "tfgraft: " (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { (title) }
                p class="soft" { (report.source.path) }
                (gate(report))
                (summary(report))
                (watch(report, &names))
                h2 { "Training" }
                div class="charts" {
                    (losses(report))
                    (curves(look))
                }
                (curve_note(look))
                @if let Some(comparison) = &report.training.copy_back {
                    p { "Copy-back: " (comparison.sentence()) "." }
                }
                @if !report.training.maps.is_empty() {
                    h2 { "What training has seen" }
                    p { "Anchors matched to a labelled object in all views, as the Object Detection API matches them. \
                         One with 0 had no example of its own." }
                    @for (number, name) in names.iter().enumerate().take(CLASSES) {
                        h3 { (name) }
                        (evidence::table(&report.training.maps, number))
                    }
                }
                h2 { "Before and after" }
                p { "Source model and result on the same " (of_what(look)) ". Dashed: labelled. Drawn from score 0.3 on." }
                @if !best.is_empty() { h3 { "Best" } div class="pairs" { (best_shots) } }
                @if !worst.is_empty() { h3 { "Worst" } div class="pairs" { (worst_shots) } }
                h2 { "What the old classes said about the new objects" }
                (fired(look, &confusion(&look.before, &look.roster)))
                h2 { "False detections" }
                (false_positives(look, &found.false_positives))
                @for sentence in report.training.held_out(&report.plan.new) { p class="soft" { (sentence) "." } }
                h2 { "Data" }
                (data(report))
                h2 { "Run" }
                (run(report))
            }
        }
    };
    Ok(page.into_string())
}

fn of_what(look: &Look<'_>) -> String {
    let kind = if look.held_back { "held-back" } else { "training" };
    format!("{} {kind} pictures", look.after.len())
}

fn gate(report: &Report) -> Markup {
    html! {
        @if let Some(verdict) = &report.gate {
            @if verdict.passed { p class="good" { "Gate passed." } }
            @for failure in &verdict.failures { p class="warn" { (failure) } }
        }
    }
}

fn summary(report: &Report) -> Markup {
    let ap = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), |v| format!("{v:.3}"));
    html! {
        table {
            tr { th { "new class" } th class="n" { "id" } th class="n" { "objects" } th class="n" { "pictures" }
                 @if report.validation.is_some() { th class="n" { "AP" } th class="n" { "AP50" } } }
            @for class in &report.plan.new {
                tr {
                    td { (class.name) } td class="n" { (class.id) } td class="n" { (class.objects) } td class="n" { (class.pictures) }
                    @if let Some(validation) = &report.validation {
                        @let metrics = validation.per_class.get(&class.name);
                        td class="n" { (ap(metrics.and_then(|m| m.ap))) } td class="n" { (ap(metrics.and_then(|m| m.ap50))) }
                    }
                }
            }
        }
        @if let Some(validation) = &report.validation {
            p { "Old classes on the held-back pictures: AP " (ap(validation.old_before.ap)) " before, "
                (ap(validation.old_after.ap)) " after." }
        } @else {
            p class="soft" { "No pictures were held back (--validation), so that nothing here says how well the new classes are \
                              found in pictures that training has not seen." }
        }
        p { "Old weights: " (report.weights.unchanged) " tensors unchanged bit for bit, " (report.weights.changed.len())
            " class tensors wider with old columns bit-equal. Old detections: " (report.old_scores.detections) " on "
            (report.old_scores.pictures) " probe pictures keep their scores." }
    }
}

fn watch(report: &Report, names: &[&str]) -> Markup {
    let maps = &report.training.maps;
    html! {
        @for (number, name) in names.iter().enumerate().take(CLASSES) {
            @for sentence in evidence::warnings(maps, number, name) { p class="warn" { (sentence) } }
        }
    }
}

fn losses(report: &Report) -> Markup {
    let losses = &report.training.losses;
    let finite = || losses.iter().copied().filter(|l| l.is_finite());
    let (low, high) =
        finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), l| (low.min(l), high.max(l)));
    if losses.is_empty() || low > high {
        return html! {};
    }
    let log_y = low > 0.0 && high / low > 20.0;
    let y_range = if log_y { (low, high) } else { (low.min(0.0), high) };
    let axes =
        Axes { x: "step", y: "loss", x_range: (0.0, (losses.len() - 1).max(1) as f64), y_range, log_y };
    let points = losses.iter().enumerate().map(|(step, loss)| (step as f64, *loss)).collect();
    chart(&axes, &[Line { name: "", points }])
}

fn curves(look: &Look<'_>) -> Markup {
    let names = look.names(true);
    let line = |(id, name): (&u32, &String)| {
        let points = precision_recall_curve(&look.after, *id)?;
        Some((name.clone(), points))
    };
    let found: Vec<(String, Vec<(f64, f64)>)> = names.iter().take(CLASSES).filter_map(line).collect();
    let lines: Vec<Line<'_>> =
        found.iter().map(|(name, points)| Line { name, points: points.clone() }).collect();
    let axes = Axes { x: "recall", y: "precision", x_range: (0.0, 1.0), y_range: (0.0, 1.0), log_y: false };
    html! { @if !lines.is_empty() { (chart(&axes, &lines)) } }
}

fn curve_note(look: &Look<'_>) -> Markup {
    html! {
        p class="soft" {
            "Precision and recall of the new classes at overlap 0.5, on " (of_what(look)) "."
            @if !look.held_back { " These pictures were trained on: the curves show what was learned, not how well it carries over." }
        }
    }
}

fn fired(look: &Look<'_>, before: &BTreeMap<String, FiredOn>) -> Markup {
    let names = look.names(true);
    html! {
        p { "Before the graft, on " (of_what(look)) ": which old class fires (score and overlap from 0.5 on) on the objects of \
             each new class. Old scores stay as they are, so that a class that fires on many will go on doing so beside the new one." }
        @for name in names.values().take(CLASSES) {
            @if let Some(on) = before.get(name) {
                h3 { (name) ": " (on.objects) " objects" }
                table {
                    @for (other, count) in most(&on.by) {
                        tr { td { (other) } td class="n" { (count) } td class="n" { (share(count, on.objects)) } }
                    }
                    tr { td class="soft" { "nothing" } td class="n" { (on.nothing) } td class="n" { (share(on.nothing, on.objects)) } }
                }
            }
        }
    }
}

/// The largest counts, the largest first.
fn most(by: &BTreeMap<String, usize>) -> Vec<(&str, usize)> {
    let mut list: Vec<(&str, usize)> = by.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    list.truncate(ROWS);
    list
}

fn share(part: usize, whole: usize) -> String {
    format!("{:.0} %", 100.0 * part as f64 / whole.max(1) as f64)
}

fn false_positives(look: &Look<'_>, found: &FalsePositives) -> Markup {
    let names = look.names(true);
    html! {
        p { "The result on " (of_what(look)) ", from score " (found.score) " on: detections on no object of their class." }
        table {
            tr { th { "class" } th class="n" { "a picture" } th class="n" { "false" } th class="n" { "detections" } }
            @for name in names.values().take(CLASSES) {
                @if let Some(class) = found.per_class.get(name) {
                    tr { td { (name) } td class="n" { (format!("{:.3}", class.per_image)) } td class="n" { (class.false_positives) } td class="n" { (class.detections) } }
                }
            }
            @if let Some(median) = found.median_old {
                tr {
                    td class="soft" { "median of " (found.old_classes) " old classes" @if !found.old_labelled { " (not labelled in the data)" } }
                    td class="n" { (format!("{median:.3}")) } td {} td {}
                }
            }
        }
    }
}

fn data(report: &Report) -> Markup {
    html! {
        p { (report.training.images) " pictures in training."
            @for (counts, said) in [
                (&report.plan.old_in_data, " Old classes in them, negatives for the new ones: "),
                (&report.plan.others_in_data, " Classes that are neither old nor added, background here: "),
            ] {
                @if !counts.is_empty() {
                    (said)
                    (most(counts).iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")) "."
                }
            }
        }
        @if report.data_problems.is_empty() { p { "No problems were found in the data." } }
        @else {
            table {
                tr { th class="n" { "count" } th { "problem" } th { "for example" } }
                @for (kind, counted) in report.data_problems.iter() {
                    tr { td class="n" { (counted.count) } td { (kind.description()) } td class="soft" { (counted.examples.first().map_or("", String::as_str)) } }
                }
            }
        }
    }
}

fn run(report: &Report) -> Markup {
    html! {
        p { "Strategy " (report.training.strategy) ", " (report.training.views) " views, "
            @for (name, version) in &report.versions { (name) " " (version) ", " }
            @if let Some(memory) = report.peak_memory_bytes { "peak memory " (memory >> 20) " MB, " }
            "the rest in report.json." }
        @if let Some(old) = &report.training.old_loss {
            p { "Old scores were trained with a focal loss of γ " (old.loss.gamma)
                (if old.from.is_some() { ", says the pipeline.config beside the model." } else { ": assumed, no pipeline.config says it." }) }
        }
        table {
            @for (phase, seconds) in &report.seconds { tr { td { (phase) } td class="n" { (format!("{seconds:.1} s")) } } }
        }
    }
}
