//! Tables of measures, for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::eval::{Assessment, ClassMetrics, FalsePositives, FiredOn, Measures};

/// So many classes are named in a line before the rest is counted.
const NAMED: usize = 6;

/// Prints all measures of a model; `new` says of a class's name whether it is a new one.
pub fn print(out: &mut impl Write, found: &Assessment, new: &dyn Fn(&str) -> bool) -> io::Result<()> {
    print_measures(out, "class", &found.boxes)?;
    if let Some(masks) = &found.masks {
        print_measures(out, "masks", masks)?;
    }
    print_false_positives(out, &found.false_positives, new)?;
    print_confusion(out, &found.confusion, new)
}

fn print_measures(out: &mut impl Write, title: &str, measures: &Measures) -> io::Result<()> {
    let named = measures.per_class.keys().map(|name| name.chars().count());
    let width = named.chain([5]).max().unwrap_or(5);
    writeln!(
        out,
        "\n{title:width$} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
        "objects", "AP", "AP50", "AP75", "small", "medium", "large", "AR100"
    )?;
    let with_objects = measures.per_class.iter().filter(|(_, class)| class.metrics.objects > 0);
    for (name, class) in with_objects {
        print_row(out, name, width, &class.metrics)?;
    }
    writeln!(out, "{}", "-".repeat(width + 1 + 8 + 7 * 7 - 1))?;
    for group in ["old", "new", "all"] {
        if let Some(metrics) = measures.groups.get(group) {
            print_row(out, group, width, metrics)?;
        }
    }
    let without = measures.per_class.iter().filter(|(_, class)| class.metrics.objects == 0);
    let empty: Vec<&str> = without.map(|(name, _)| name.as_str()).collect();
    if !empty.is_empty() {
        writeln!(out, "\nwithout objects in the data, not measured: {}", empty.join(", "))?;
    }
    Ok(())
}

fn print_row(out: &mut impl Write, name: &str, width: usize, m: &ClassMetrics) -> io::Result<()> {
    write!(out, "{name:width$} {:>7}", m.objects)?;
    for value in [m.ap, m.ap50, m.ap75, m.ap_small, m.ap_medium, m.ap_large, m.ar100] {
        match value {
            Some(value) => write!(out, " {value:>6.3}")?,
            None => write!(out, " {:>6}", "-")?,
        }
    }
    writeln!(out)
}

fn print_false_positives(
    out: &mut impl Write,
    found: &FalsePositives,
    new: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    writeln!(out, "\nfalse positives a picture, scores from {} on:", found.score)?;
    let mut labelled: Vec<_> = found.per_class.iter().filter(|(_, class)| class.labelled).collect();
    labelled.sort_by_key(|(name, _)| !new(name));
    for (name, class) in labelled {
        let group = if new(name) { " (new)" } else { "" };
        writeln!(
            out,
            "  {:.3}  {name}{group}: {} of {} detections",
            class.per_image, class.false_positives, class.detections
        )?;
    }
    if let Some(median) = found.median_old {
        let of = if found.old_labelled { "that the data labels" } else { "(the data labels none of them)" };
        writeln!(out, "  {median:.3}  median of {} old classes {of}", found.old_classes)?;
    }
    Ok(())
}

fn print_confusion(
    out: &mut impl Write,
    found: &BTreeMap<String, FiredOn>,
    new: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    // Of an old class's objects it is told what new classes do there, of a new one's what all others do.
    let lines: Vec<String> = found
        .iter()
        .filter_map(|(name, on)| {
            let strange = |other: &&String| *other != name && (new(name) || new(other));
            let mut by: Vec<(&String, usize)> =
                on.by.iter().filter(|(other, _)| strange(other)).map(|(other, n)| (other, *n)).collect();
            by.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let more = by.len().saturating_sub(NAMED);
            let mut list: Vec<String> =
                by.iter().take(NAMED).map(|(other, count)| format!("{other} {count}")).collect();
            if more > 0 {
                list.push(format!("{more} more"));
            }
            let own = on.by.get(name).copied().unwrap_or(0);
            (new(name) || !list.is_empty()).then(|| {
                let others = if list.is_empty() { "no other class".to_owned() } else { list.join(", ") };
                format!(
                    "  {name}: {} objects, itself on {own}, nothing on {}; {others}",
                    on.objects, on.nothing
                )
            })
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nwhat fires on the objects of a class (overlap and score from 0.5 on):")?;
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}
