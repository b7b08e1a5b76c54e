//! Pictures with what both models found, the best and the worst.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops;
use maud::{Markup, html};

use super::super::look::Look;
use crate::data::LabelledImage;
use crate::detect::color_of;
use crate::error::{Error, Result};
use crate::eval::EvalImage;

/// Pictures of each kind that are shown.
const EACH: usize = 4;
/// Longest side of a picture in the page, pixels.
const SIDE: u32 = 360;
/// Quality of its JPEG.
const QUALITY: u8 = 72;
/// Detections from this score on are drawn, and at most so many of one model.
const DRAWN: (f64, usize) = (0.3, 12);
/// Overlap from which on a detection is of an object.
const ON: f64 = 0.5;

/// Which pictures to show: numbers of the best, and of the worst with the worst first.
pub fn choose(look: &Look<'_>) -> (Vec<usize>, Vec<usize>) {
    let is_new = |class: u32| look.roster.is_new(class);
    let mut ranked: Vec<(usize, f64)> = look
        .after
        .iter()
        .enumerate()
        .filter_map(|(number, image)| Some((number, quality(image, &is_new)?)))
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let half = ranked.len().div_ceil(2).min(EACH);
    let best = ranked.iter().take(half).map(|(number, _)| *number).collect();
    let worst = ranked.iter().skip(half).rev().take(EACH).map(|(number, _)| *number).collect();
    (best, worst)
}

/// The mean over new objects of the score with which each is found, less the best score of a new class elsewhere;
/// `None` for a picture without either.
fn quality(image: &EvalImage, is_new: &impl Fn(u32) -> bool) -> Option<f64> {
    let objects: Vec<_> = image.truths.iter().filter(|t| is_new(t.class) && !t.crowd && !t.ignore).collect();
    let found = |detection: &crate::eval::Scored, truth: &crate::eval::Truth| {
        detection.class == truth.class && detection.overlap(truth) >= ON
    };
    let scores = objects
        .iter()
        .map(|t| image.detections.iter().filter(|d| found(d, t)).map(|d| d.score).fold(0.0, f64::max));
    let false_one = image
        .detections
        .iter()
        .filter(|d| is_new(d.class) && !image.truths.iter().any(|t| found(d, t)))
        .map(|d| d.score)
        .fold(0.0, f64::max);
    if objects.is_empty() {
        return (false_one >= DRAWN.0).then_some(-false_one);
    }
    Some(scores.sum::<f64>() / objects.len() as f64 - false_one)
}

/// Pictures side by side: what the source found, what the result found. `first` numbers them within the page.
pub fn pairs(look: &Look<'_>, numbers: &[usize], first: usize) -> Result<Markup> {
    let mut shown = Vec::new();
    for (at, &number) in numbers.iter().enumerate() {
        let (Some(image), Some(before), Some(after)) =
            (look.data.images.get(number), look.before.get(number), look.after.get(number))
        else {
            continue;
        };
        let id = format!("shot{}", first + at);
        let (width, height, jpeg) = small_jpeg(image)?;
        let frame = |found: &EvalImage, definition: Option<&str>| {
            marked(look, found, image, (width, height), &id, definition)
        };
        let data = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
        shown.push(html! {
            div class="pair" {
                figure { (frame(before, Some(&data))) figcaption { "before" } }
                figure { (frame(after, None)) figcaption { "after" } }
                p class="name" { (image.name()) }
            }
        });
    }
    Ok(html! { @for pair in shown { (pair) } })
}

/// The picture with frames; its bytes stand where `definition` gives them, elsewhere they are referred to by `id`.
fn marked(
    look: &Look<'_>,
    found: &EvalImage,
    image: &LabelledImage,
    (width, height): (u32, u32),
    id: &str,
    definition: Option<&str>,
) -> Markup {
    let scale = [
        f64::from(width) / f64::from(image.width.max(1)),
        f64::from(height) / f64::from(image.height.max(1)),
    ];
    let scaled = |b: [f64; 4]| [b[0] * scale[0], b[1] * scale[1], b[2] * scale[0], b[3] * scale[1]];
    let mut drawn: Vec<_> = found
        .detections
        .iter()
        .filter(|d| d.score >= DRAWN.0 && d.bbox.iter().all(|v| v.is_finite()))
        .collect();
    drawn.sort_by(|a, b| b.score.total_cmp(&a.score));
    drawn.truncate(DRAWN.1);
    let label =
        |class: u32| look.roster.names.get(&class).cloned().unwrap_or_else(|| format!("class_{class}"));
    let colour = |class: u32| {
        let [r, g, b] = color_of(class);
        format!("#{r:02x}{g:02x}{b:02x}")
    };
    // The best ones choose where their names stand, and are drawn last.
    let mut taken = Vec::new();
    let mut named = Vec::with_capacity(drawn.len());
    for detection in drawn {
        let bbox = scaled(detection.bbox);
        let name = format!("{} {:.2}", label(detection.class), detection.score);
        let at = free_place(&name, bbox, f64::from(height), &mut taken);
        named.push((detection, bbox, name, at));
    }
    html! {
        svg viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height) {
            @match definition {
                Some(data) => { image id=(id) href=(data) width=(width) height=(height) {} }
                None => { use href=(format!("#{id}")) {} }
            }
            @for truth in &found.truths {
                @let [x, y, w, h] = scaled(truth.bbox).map(one);
                rect class="truth" x=(x) y=(y) width=(w) height=(h) { title { "labelled: " (label(truth.class)) } }
            }
            @for (detection, [x, y, w, h], name, at) in named.iter().rev() {
                rect class="found" style=(format!("stroke:{}", colour(detection.class))) x=(one(*x)) y=(one(*y)) width=(one(w.max(0.0))) height=(one(h.max(0.0))) {}
                text class="mark" style=(format!("fill:{}", colour(detection.class))) x=(one(at.0)) y=(one(at.1)) { (name) }
            }
        }
    }
}

/// Height of a line of names, and about the width of a letter of them, pixels.
const LETTER: (f64, f64) = (14.0, 7.0);

/// Where a name's line begins, its lower left corner: at the top of its box, else on the first line below, then above, where no
/// name stands that was placed before; at the top where there is no such line.
fn free_place(name: &str, [x, y, ..]: [f64; 4], height: f64, taken: &mut Vec<(f64, f64, f64)>) -> (f64, f64) {
    let (line, letter) = LETTER;
    let lowest = height.max(line);
    let (x, top) = (x.max(0.0) + 4.0, (y + line).clamp(line, lowest));
    let width = name.chars().count() as f64 * letter;
    let free = |y: &f64| {
        !taken.iter().any(|&(left, right, at)| x < right && left < x + width && (at - y).abs() < line)
    };
    let down = (0..).map(|lines| top + f64::from(lines) * line).take_while(|y| *y <= lowest);
    let up = (1..).map(|lines| top - f64::from(lines) * line).take_while(|y| *y >= line);
    let y = down.chain(up).find(free).unwrap_or(top);
    taken.push((x, x + width, y));
    (x, y)
}

fn one(v: f64) -> String {
    format!("{v:.1}")
}

/// The picture at most [`SIDE`] pixels long: width, height, JPEG bytes.
fn small_jpeg(image: &LabelledImage) -> Result<(u32, u32, Vec<u8>)> {
    let picture = image.picture()?;
    let failed = |what: String| Error::Data(format!("{}: {what}", image.name()));
    let full = image::RgbImage::from_raw(picture.width, picture.height, picture.rgb)
        .ok_or_else(|| failed("pixels do not fit the size".to_owned()))?;
    let shrink = (f64::from(SIDE) / f64::from(full.width().max(full.height()))).min(1.0);
    let side = |length: u32| ((f64::from(length) * shrink).round() as u32).max(1);
    let small = imageops::thumbnail(&full, side(full.width()), side(full.height()));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .encode_image(&small)
        .map_err(|e| failed(format!("cannot be encoded for the report: {e}")))?;
    Ok((small.width(), small.height(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Scored, Truth};

    #[test]
    fn names_do_not_cover_each_other() {
        let mut taken = Vec::new();
        let mut place =
            |x: f64, y: f64| free_place("sports ball 0.61", [x, y, 50.0, 50.0], 100.0, &mut taken);
        // Three boxes of one corner, one that is near it, one that is beside it, one at the lower edge.
        assert_eq!(
            [place(10.0, 0.0), place(10.0, 0.0), place(12.0, 5.0)],
            [(14.0, 14.0), (14.0, 28.0), (16.0, 47.0)]
        );
        assert_eq!(place(200.0, 0.0), (204.0, 14.0));
        assert_eq!([place(200.0, 95.0), place(200.0, 95.0)], [(204.0, 100.0), (204.0, 86.0)]);
        assert_eq!(place(-30.0, -50.0).0, 4.0);
    }

    #[test]
    fn quality_falls_with_misses_and_false_alarms() {
        let truth =
            Truth { class: 9, bbox: [0.0, 0.0, 10.0, 10.0], area: 100.0, crowd: false, ignore: false };
        let found = |class, x: f64, score| Scored { class, bbox: [x, 0.0, 10.0, 10.0], score };
        let of = |truths: Vec<Truth>, detections: Vec<Scored>| {
            quality(&EvalImage { truths, detections, masks: None }, &|class| class == 9)
        };
        assert_eq!(of(vec![truth], vec![found(9, 0.0, 0.9), found(3, 40.0, 1.0)]), Some(0.9));
        assert_eq!(of(vec![truth], vec![]), Some(0.0));
        assert_eq!(of(vec![truth], vec![found(9, 0.0, 0.75), found(9, 40.0, 0.5)]), Some(0.25));
        assert_eq!(of(vec![], vec![found(9, 0.0, 0.75)]), Some(-0.75));
        assert_eq!(of(vec![], vec![found(9, 0.0, 0.1)]), None);
    }
}
