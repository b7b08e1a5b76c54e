//! Numbers that are the same on every machine: a generator for what must look random, a sequence for what must be spread, an
//! even choice.

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// A generator for a purpose within a seed.
    pub(crate) fn new(seed: u64, purpose: &[u64]) -> Self {
        let mut state = Self(seed);
        for &part in purpose {
            state = Self(state.next() ^ part);
        }
        state
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [low, high).
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts elements into another order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, elements: &mut [T]) {
        for last in (1..elements.len()).rev() {
            let other = self.uniform(0.0, (last + 1) as f64) as usize;
            elements.swap(last, other.min(last));
        }
    }
}

/// Element `index` of the van der Corput sequence of a base, in [0, 1); several bases make Halton's sequence (1960).
pub(crate) fn halton(mut index: u64, base: u64) -> f64 {
    let (mut digit, mut sum) = (1.0, 0.0);
    while index > 0 {
        digit /= base as f64;
        sum += digit * (index % base) as f64;
        index /= base;
    }
    sum
}

/// All of these, or `most` of them that lie evenly among them.
pub(crate) fn evenly<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let count = all.len().min(most);
    (0..count).filter_map(move |at| all.get(at * all.len() / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_wanted_lie_evenly_among_all() {
        let of =
            |count: usize, most| evenly(&(0..count).collect::<Vec<_>>(), most).copied().collect::<Vec<_>>();
        assert_eq!(of(7, 3), [0, 2, 4]);
        assert_eq!(of(3, 7), [0, 1, 2]);
        // One too many does not cost half of them.
        assert_eq!((of(61, 60).len(), of(0, 60).len(), of(5, 0).len()), (60, 0, 0));
    }

    #[test]
    fn sequences_repeat_and_spread() {
        assert_eq!([1, 2, 3, 4, 5].map(|i| halton(i, 2)), [0.5, 0.25, 0.75, 0.125, 0.625]);
        assert!((halton(5, 3) - (2.0 / 3.0 + 1.0 / 9.0)).abs() < 1e-12);
        let draw = |seed, purpose| SplitMix::new(seed, &[purpose]).uniform(-1.0, 1.0);
        assert_eq!(draw(1, 2).to_bits(), draw(1, 2).to_bits());
        assert!(draw(1, 2) != draw(2, 1) && draw(1, 2) != draw(1, 3));
        let mut order: Vec<usize> = (0..50).collect();
        SplitMix::new(3, &[]).shuffle(&mut order);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
