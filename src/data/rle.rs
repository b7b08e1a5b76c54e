//! Masks as runs of pixels, column by column, and what COCO does with them.
//!
//! Rasterisation, strings and overlaps after `maskApi.c` of pycocotools (cocoapi, BSD-2-Clause), whose pixels these are.

/// Polygons reach at most so far from the origin, pixels; what lies farther is damage, and tracing it would take for ever.
const FARTHEST: f64 = 65_536.0;
/// Corners are rounded to a fifth of a pixel before edges are traced.
const FINER: f64 = 5.0;

/// A mask of `height` x `width` pixels: lengths of runs, background first, down the columns from the left one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rle {
    height: u32,
    width: u32,
    counts: Vec<u32>,
}

impl Rle {
    /// From lengths of runs; `None` where they do not sum to the number of pixels.
    pub fn from_counts(height: u32, width: u32, counts: impl IntoIterator<Item = u32>) -> Option<Self> {
        let pixels = u64::from(height) * u64::from(width);
        let mut builder = Builder::new(height, width);
        let mut sum = 0u64;
        for (number, run) in counts.into_iter().enumerate() {
            sum += u64::from(run);
            if sum > pixels {
                return None;
            }
            builder.push(number % 2 == 1, run);
        }
        (sum == pixels && u32::try_from(pixels).is_ok()).then(|| builder.done())
    }

    /// From COCO's string form: six bits a character, the lengths from the third on as differences.
    pub fn from_string(height: u32, width: u32, text: &str) -> Option<Self> {
        let mut counts: Vec<i64> = Vec::new();
        let (mut value, mut bits) = (0i64, 0u32);
        for byte in text.bytes() {
            let c = i64::from(byte.checked_sub(48).filter(|c| *c < 64)?);
            if bits > 30 {
                return None;
            }
            value |= (c & 0x1f) << bits;
            bits += 5;
            if c & 0x20 != 0 {
                continue;
            }
            if c & 0x10 != 0 {
                value |= -1 << bits;
            }
            if counts.len() > 2 {
                value += counts[counts.len() - 2];
            }
            counts.push(value);
            (value, bits) = (0, 0);
        }
        let counts = counts.into_iter().map(|count| u32::try_from(count).ok()).collect::<Option<Vec<_>>>()?;
        (bits == 0).then(|| Self::from_counts(height, width, counts)).flatten()
    }

    /// The inside of a polygon `x0, y0, x1, y1, …` in pixels; `None` for fewer than three corners or numbers that
    /// are not finite or far outside of any picture.
    pub fn from_polygon(height: u32, width: u32, corners: &[f64]) -> Option<Self> {
        let sound = |v: &f64| v.is_finite() && v.abs() <= FARTHEST;
        if corners.len() < 6 || corners.len() % 2 == 1 || !corners.iter().all(sound) {
            return None;
        }
        let mut crossings = crossings(height, width, corners);
        let pixels = height.checked_mul(width)?;
        crossings.push(pixels);
        crossings.sort_unstable();
        let mut builder = Builder::new(height, width);
        let mut last = 0;
        for (number, at) in crossings.into_iter().enumerate() {
            let at = at.min(pixels);
            builder.push(number % 2 == 1, at - last);
            last = at;
        }
        Some(builder.done())
    }

    /// From a rule that says of a pixel (row, column) whether it is covered.
    pub(crate) fn from_pixels(height: u32, width: u32, inside: impl Fn(u32, u32) -> bool) -> Self {
        let mut builder = Builder::new(height, width);
        for x in 0..width {
            for y in 0..height {
                builder.push(inside(y, x), 1);
            }
        }
        builder.done()
    }

    /// What any of the masks covers; `None` for none, or masks of different sizes.
    pub fn union(masks: &[Self]) -> Option<Self> {
        let (first, rest) = masks.split_first()?;
        let mut all = first.clone();
        for mask in rest {
            if (mask.height, mask.width) != (all.height, all.width) {
                return None;
            }
            let mut builder = Builder::new(all.height, all.width);
            for (a, b, run) in together(&all, mask) {
                builder.push(a || b, run);
            }
            all = builder.done();
        }
        Some(all)
    }

    /// Height and width, pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.height, self.width)
    }

    /// Lengths of the runs, background first; only the first may be 0.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Covered pixels.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|&run| u64::from(run)).sum()
    }

    /// Common pixels over all covered ones, or over those of `self` where `other` is a crowd.
    pub fn overlap(&self, other: &Self, crowd: bool) -> f64 {
        if self.size() != other.size() {
            return 0.0;
        }
        let (mut common, mut either) = (0u64, 0u64);
        for (a, b, run) in together(self, other) {
            common += if a && b { u64::from(run) } else { 0 };
            either += if a || b { u64::from(run) } else { 0 };
        }
        match if crowd { self.area() } else { either } {
            0 => 0.0,
            whole => common as f64 / whole as f64,
        }
    }
}

/// Puts runs together; equal neighbours become one.
struct Builder {
    height: u32,
    width: u32,
    counts: Vec<u32>,
}

impl Builder {
    fn new(height: u32, width: u32) -> Self {
        Self { height, width, counts: vec![0] }
    }

    fn push(&mut self, inside: bool, run: u32) {
        if run == 0 {
            return;
        }
        let last_inside = self.counts.len().is_multiple_of(2);
        match self.counts.last_mut() {
            Some(last) if last_inside == inside => *last += run,
            _ => self.counts.push(run),
        }
    }

    fn done(self) -> Rle {
        Rle { height: self.height, width: self.width, counts: self.counts }
    }
}

/// Runs in which neither mask changes, with what each says.
fn together<'a>(a: &'a Rle, b: &'a Rle) -> impl Iterator<Item = (bool, bool, u32)> + 'a {
    let (mut at_a, mut at_b) = (0, 0);
    let mut left_a = a.counts.first().copied().unwrap_or(0);
    let mut left_b = b.counts.first().copied().unwrap_or(0);
    std::iter::from_fn(move || {
        while left_a == 0 {
            at_a += 1;
            left_a = *a.counts.get(at_a)?;
        }
        while left_b == 0 {
            at_b += 1;
            left_b = *b.counts.get(at_b)?;
        }
        let run = left_a.min(left_b);
        left_a -= run;
        left_b -= run;
        Some((at_a % 2 == 1, at_b % 2 == 1, run))
    })
}

/// Where the outline crosses the middle of a column of pixels, as numbers of pixels in the order of runs.
fn crossings(height: u32, width: u32, corners: &[f64]) -> Vec<u32> {
    // Casts to integers cut towards zero, in C and here; the numbers are far from where they would differ.
    let finer: Vec<(i64, i64)> =
        corners.chunks_exact(2).map(|c| ((FINER * c[0] + 0.5) as i64, (FINER * c[1] + 0.5) as i64)).collect();
    let mut out = Vec::new();
    let mut last: Option<(i64, i64)> = None;
    for (number, &start) in finer.iter().enumerate() {
        let end = finer[(number + 1) % finer.len()];
        trace(start, end, |point| {
            if let Some(last) = last.replace(point)
                && let Some(crossing) = crossing(height, width, last, point)
            {
                out.push(crossing);
            }
        });
    }
    out
}

/// Hands the points of an edge to `visit`, from its start on, one for each step along its longer side.
fn trace(start: (i64, i64), end: (i64, i64), mut visit: impl FnMut((i64, i64))) {
    let (dx, dy) = ((end.0 - start.0).abs(), (end.1 - start.1).abs());
    let along_x = dx >= dy;
    let flipped = if along_x { start.0 > end.0 } else { start.1 > end.1 };
    let (low, high) = if flipped { (end, start) } else { (start, end) };
    let steps = dx.max(dy);
    let (rise, run) = if along_x { (high.1 - low.1, dx) } else { (high.0 - low.0, dy) };
    let slope = if run == 0 { 0.0 } else { rise as f64 / run as f64 };
    for step in 0..=steps {
        let t = if flipped { steps - step } else { step };
        visit(if along_x {
            (t + low.0, (low.1 as f64 + slope * t as f64 + 0.5) as i64)
        } else {
            ((low.0 as f64 + slope * t as f64 + 0.5) as i64, t + low.1)
        });
    }
}

fn crossing(height: u32, width: u32, last: (i64, i64), point: (i64, i64)) -> Option<u32> {
    if point.0 == last.0 {
        return None;
    }
    let coarse = |v: i64| (v as f64 + 0.5) / FINER - 0.5;
    let x = coarse(if point.0 < last.0 { point.0 } else { point.0 - 1 });
    if x.floor() != x || x < 0.0 || x > f64::from(width) - 1.0 {
        return None;
    }
    let y = coarse(point.1.min(last.1)).clamp(0.0, f64::from(height)).ceil();
    (x as u32).checked_mul(height)?.checked_add(y as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_fit_and_runs_that_do_not() {
        let mask = Rle::from_counts(2, 3, [1, 2, 3]).unwrap();
        assert_eq!((mask.area(), mask.counts()), (2, &[1, 2, 3][..]));
        assert_eq!(Rle::from_counts(2, 3, [1, 0, 1, 2, 2]).unwrap().counts(), [2, 2, 2]);
        for bad in [vec![], vec![7], vec![1, 2], vec![u32::MAX, u32::MAX]] {
            assert_eq!(Rle::from_counts(2, 3, bad), None);
        }
        assert_eq!(Rle::from_counts(0, 3, []).unwrap().area(), 0);
        for text in ["", "!", "1", "oooooooooooooooo", "ÿ", "0P"] {
            assert_eq!(Rle::from_string(2, 3, text), None, "{text}");
        }
    }

    #[test]
    fn a_square_and_its_overlaps() {
        let square =
            |x: f64| Rle::from_polygon(10, 10, &[x, 2.0, x + 4.0, 2.0, x + 4.0, 6.0, x, 6.0]).unwrap();
        assert_eq!(square(2.0).area(), 16);
        assert_eq!(square(2.0).overlap(&square(4.0), false), 8.0 / 24.0);
        assert_eq!(square(2.0).overlap(&square(4.0), true), 0.5);
        assert_eq!(square(8.0).area(), 8);
        assert_eq!(Rle::union(&[square(0.0), square(2.0), square(2.0)]).unwrap().area(), 24);
        assert_eq!(Rle::union(&[]), None);
        assert_eq!(square(0.0).overlap(&Rle::from_counts(1, 1, [1]).unwrap(), false), 0.0);
        for bad in
            [&[0.0; 4][..], &[0.0; 7], &[0.0, 0.0, 1.0, f64::NAN, 3.0, 3.0], &[0.0, 0.0, 1e9, 0.0, 3.0, 3.0]]
        {
            assert_eq!(Rle::from_polygon(10, 10, bad), None);
        }
        assert_eq!(Rle::from_polygon(10, 10, &[5.0; 6]).unwrap().area(), 0);
    }
}
