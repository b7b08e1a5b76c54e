//! Which sizes and shapes of objects training has seen, by feature map and anchor.

use maud::{Markup, html};
use serde::Serialize;

use crate::train::NetworkShape;

/// From this width over height on a box is wide, below the inverse tall.
const WIDE: f32 = 1.5;
/// Fewer matched anchors than this are thin evidence.
const THIN: usize = 10;

/// The anchors of one feature map and what was matched to them in training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MapEvidence {
    /// Rows and columns of the map.
    pub cells: [usize; 2],
    /// Height and width of each anchor, fractions of the network's input.
    pub anchors: Vec<[f32; 2]>,
    /// Anchors matched as the OD API matches them, in all views: [anchor][new class].
    pub matched: Vec<Vec<usize>>,
}

/// Puts a network's anchors beside what was matched: for each map [anchors, classes], row by row.
pub fn gather(shape: &NetworkShape, matched: &[Vec<usize>], classes: usize) -> Vec<MapEvidence> {
    let one = |(level, matched): (&crate::train::Level, &Vec<usize>)| {
        // A cell in the middle: at the rim some exporters clip.
        let middle = level.height / 2 * level.width + level.width / 2;
        let first = level.first_anchor + middle * level.anchors;
        let anchors = shape.anchors.get(first..first + level.anchors).unwrap_or_default();
        MapEvidence {
            cells: [level.height, level.width],
            anchors: anchors.iter().map(|a| [a.height(), a.width()]).collect(),
            matched: matched.chunks(classes.max(1)).map(<[usize]>::to_vec).collect(),
        }
    };
    shape.levels.iter().zip(matched).map(one).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Wide,
    Square,
    Tall,
}

fn form([height, width]: [f32; 2]) -> Form {
    match width / height.max(f32::MIN_POSITIVE) {
        ratio if ratio >= WIDE => Form::Wide,
        ratio if ratio <= 1.0 / WIDE => Form::Tall,
        _ => Form::Square,
    }
}

/// Sentences on sizes and shapes of a class that training has not, or hardly, seen.
pub fn warnings(maps: &[MapEvidence], class: usize, name: &str) -> Vec<String> {
    let count = |map: &MapEvidence, chosen: &dyn Fn([f32; 2]) -> bool| -> usize {
        let pairs = map.anchors.iter().zip(&map.matched).filter(|(anchor, _)| chosen(**anchor));
        pairs.filter_map(|(_, matched)| matched.get(class)).sum()
    };
    let mut none = Vec::new();
    let mut thin = Vec::new();
    for map in maps {
        let size = format!("about {} of the picture across", percent(typical(map)));
        match count(map, &|_| true) {
            0 => none.push(size),
            few if few < THIN => thin.push(size),
            _ => {}
        }
    }
    for (wanted, words) in [
        (Form::Wide, "clearly wider than high"),
        (Form::Square, "about as wide as high"),
        (Form::Tall, "clearly higher than wide"),
    ] {
        let fits = |anchor| form(anchor) == wanted;
        let offered = maps.iter().any(|map| map.anchors.iter().any(|a| fits(*a)));
        match maps.iter().map(|map| count(map, &fits)).sum::<usize>() {
            _ if !offered => {}
            0 => none.push(words.to_owned()),
            few if few < THIN => thin.push(words.to_owned()),
            _ => {}
        }
    }
    let mut out = Vec::new();
    if !none.is_empty() {
        out.push(format!(
            "{name}: no training example for objects {}. Objects like that rest on what other sizes and shapes taught: \
             expect misses, and add pictures of them if they matter.",
            none.join(", ")
        ));
    }
    if !thin.is_empty() {
        out.push(format!("{name}: hardly any training example for objects {}.", thin.join(", ")));
    }
    out
}

/// Square root of the area of a map's middle anchor.
fn typical(map: &MapEvidence) -> f32 {
    let mut sides: Vec<f32> = map.anchors.iter().map(|[h, w]| (h * w).sqrt()).collect();
    sides.sort_by(f32::total_cmp);
    sides.get(sides.len() / 2).copied().unwrap_or(0.0)
}

fn percent(part: f32) -> String {
    format!("{:.0} %", part * 100.0)
}

/// A table of maps and anchors with the matched anchors of one class.
pub fn table(maps: &[MapEvidence], class: usize) -> Markup {
    let columns = maps.iter().map(|map| map.anchors.len()).max().unwrap_or(0);
    let at = |map: &MapEvidence, anchor: usize| map.matched.get(anchor).and_then(|m| m.get(class)).copied();
    let most =
        maps.iter().flat_map(|map| (0..map.anchors.len()).filter_map(|a| at(map, a))).max().unwrap_or(0);
    // Counts differ by powers; the shade follows their logarithm.
    let shade = |count: usize| (count as f64).ln_1p() / (most.max(1) as f64).ln_1p();
    html! {
        div class="scroll" {
            table class="heat" {
                tr { th { "feature map" } th colspan=(columns) { "anchors: width × height in % of the picture, examples below" } }
                @for map in maps {
                    tr {
                        th { (map.cells[0]) " × " (map.cells[1]) }
                        @for (anchor, [height, width]) in map.anchors.iter().enumerate() {
                            @let count = at(map, anchor).unwrap_or(0);
                            td class=(if count == 0 { "none" } else { "some" }) style=(format!("--shade:{:.2}", shade(count))) {
                                small { (format!("{:.0} × {:.0}", width * 100.0, height * 100.0)) } br;
                                (count)
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::BoxYxyx;
    use crate::train::{Geometry, Input, Level};

    fn maps() -> Vec<MapEvidence> {
        let at = |h: f32, w: f32| BoxYxyx::new(0.5 - h / 2.0, 0.5 - w / 2.0, 0.5 + h / 2.0, 0.5 + w / 2.0);
        let level = |side, first_anchor, layer| Level {
            height: side,
            width: side,
            anchors: 2,
            depth: 1,
            layer,
            first_anchor,
        };
        let shape = NetworkShape {
            levels: vec![level(2, 0, 0), level(1, 8, 1)],
            anchors: [[at(0.2, 0.2), at(0.1, 0.4)].repeat(4), vec![at(0.8, 0.8), at(0.9, 0.3)]].concat(),
            input: Input { size: (8, 8), geometry: Geometry::Squash },
        };
        gather(&shape, &[vec![30, 1, 5, 0], vec![0, 0, 0, 40]], 2)
    }

    #[test]
    fn anchors_and_counts_come_together() {
        let maps = maps();
        assert_eq!(maps[0].cells, [2, 2]);
        let close = |a: [f32; 2], b: [f32; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(maps[0].anchors[1], [0.1, 0.4]) && close(maps[1].anchors[1], [0.9, 0.3]));
        assert_eq!(maps[0].matched, [[30, 1], [5, 0]]);
        assert_eq!(maps[1].matched, [[0, 0], [0, 40]]);
    }

    #[test]
    fn what_was_not_seen_is_told() {
        let text = warnings(&maps(), 0, "owl").join("\n");
        assert!(
            text.contains(
                "no training example for objects about 80 % of the picture across, clearly higher than wide"
            ),
            "{text}"
        );
        assert!(text.contains("hardly any training example for objects clearly wider than high"), "{text}");
        let text = warnings(&maps(), 1, "elk").join("\n");
        assert!(text.contains("no training example for objects clearly wider than high"), "{text}");
        assert!(
            text.contains("hardly any training example for objects about 20 % of the picture across, about as wide as high"),
            "{text}"
        );
        let shown = table(&maps(), 0).into_string();
        assert!(shown.contains("40 × 10") && shown.contains("class=\"none\""), "{shown}");
    }
}
