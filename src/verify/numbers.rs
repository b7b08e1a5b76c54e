//! Comparing outputs number by number.

use serde::{Deserialize, Serialize};

use super::array::Array;

/// How far a number may lie from the expected one: |got − expected| ≤ atol + rtol · |expected|, as in
/// `numpy.testing.assert_allclose`. The same bits are always near: an infinity, or no number at all, where one was
/// expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// Part that grows with the expected number.
    pub rtol: f64,
    /// Part that does not.
    pub atol: f64,
}

impl Tolerance {
    /// Nothing but the same bits.
    pub const EXACT: Self = Self { rtol: 0.0, atol: 0.0 };
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Difference {
    /// Numbers compared.
    pub compared: usize,
    /// Numbers farther from the expected ones than allowed.
    pub differing: usize,
    /// Largest |got − expected|; infinite where one of the two is no finite number and the other is something else.
    pub largest: f64,
    /// The number that exceeds its tolerance most, or comes nearest to it.
    pub worst: Option<Worst>,
}

/// The worst number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worst {
    /// Its flat index in the expected array.
    pub at: usize,
    /// What came out.
    pub got: f64,
    /// What was expected.
    pub expected: f64,
    /// The least `atol` that would let it pass, with the same `rtol`; infinite where none would.
    pub atol_needed: f64,
}

/// Compares arrays of one type. With `added` above 0 the new one may be longer by so much on one axis, the classes':
/// what lies behind the old columns is not looked at.
///
/// Errors: a sentence, where type or shape differ.
pub fn compare(
    expected: &Array,
    got: &Array,
    added: usize,
    tolerance: Tolerance,
) -> std::result::Result<Difference, String> {
    if expected.dtype() != got.dtype() {
        return Err(format!("it is {}, expected {}", got.dtype(), expected.dtype()));
    }
    let wider = wider_axis(&expected.shape, &got.shape, added).ok_or_else(|| {
        let more = if added > 0 { format!(", or {added} more on one axis") } else { String::new() };
        format!("its shape is {:?}, expected {:?}{more}", got.shape, expected.shape)
    })?;
    // Numbers of one step on the wider axis with all that lies behind it, in both arrays.
    let (run, stride) = match wider {
        Some(axis) => {
            let inner: usize = expected.shape[axis + 1..].iter().product();
            (expected.shape[axis] * inner, got.shape[axis] * inner)
        }
        None => (expected.len().max(1), expected.len().max(1)),
    };
    let mut out = Difference::default();
    for at in 0..expected.len() {
        let there = at / run.max(1) * stride + at % run.max(1);
        out.compared += 1;
        let (want, have) = (expected.number(at), got.number(there));
        let (apart, needed) = if expected.same_bits(at, got, there) {
            (0.0, 0.0)
        } else {
            let apart = (have - want).abs();
            if apart.is_finite() {
                (apart, apart - tolerance.rtol * want.abs())
            } else {
                (f64::INFINITY, f64::INFINITY)
            }
        };
        // Large integers may differ although their rounded difference is 0, and zeros by their sign.
        let exact = tolerance == Tolerance::EXACT && !expected.same_bits(at, got, there);
        if exact || needed > tolerance.atol {
            out.differing += 1;
        }
        out.largest = out.largest.max(apart);
        if out.worst.is_none_or(|w| needed > w.atol_needed) {
            out.worst = Some(Worst { at, got: have, expected: want, atol_needed: needed });
        }
    }
    Ok(out)
}

/// `None`: the shapes do not fit. `Some(None)`: they are equal.
fn wider_axis(expected: &[usize], got: &[usize], added: usize) -> Option<Option<usize>> {
    if expected.len() != got.len() {
        return None;
    }
    let mut differing = expected.iter().zip(got).enumerate().filter(|(_, (old, new))| old != new);
    match (differing.next(), differing.next()) {
        (None, _) => Some(None),
        (Some((axis, (old, new))), None) if added > 0 && *new == old + added => Some(Some(axis)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::array::Values;
    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array { shape: shape.to_vec(), values: Values::F32(values.to_vec()) }
    }

    const NEAR: Tolerance = Tolerance { rtol: 0.1, atol: 0.01 };

    #[test]
    fn says_how_many_how_far_where_and_what_would_pass() {
        let expected = floats(&[2, 2], &[1.0, 0.0, 10.0, -10.0]);
        let found = compare(&expected, &floats(&[2, 2], &[1.05, 0.02, 10.9, -12.0]), 0, NEAR).unwrap();
        assert_eq!((found.compared, found.differing), (4, 2));
        assert!((found.largest - 2.0).abs() < 1e-6);
        let worst = found.worst.unwrap();
        assert_eq!((worst.at, worst.got, worst.expected), (3, -12.0, -10.0));
        assert!((worst.atol_needed - 1.0).abs() < 1e-6);
        let wide = Tolerance { rtol: 0.1, atol: worst.atol_needed };
        assert_eq!(
            compare(&expected, &floats(&[2, 2], &[1.05, 0.02, 10.9, -12.0]), 0, wide).unwrap().differing,
            0
        );
    }

    #[test]
    fn what_is_no_number_is_near_nothing_but_itself() {
        let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        let expected = floats(&[4], &wild);
        assert_eq!(compare(&expected, &expected.clone(), 0, NEAR).unwrap().differing, 0);
        let other = floats(&[4], &[0.0, 1.0, f32::INFINITY, f32::NAN]);
        let found = compare(&expected, &other, 0, NEAR).unwrap();
        assert_eq!(found.differing, 4);
        assert_eq!(found.worst.unwrap().atol_needed, f64::INFINITY);
    }

    #[test]
    fn exact_means_every_bit() {
        let big = |v: i64| Array { shape: vec![1], values: Values::I64(vec![v]) };
        let found = compare(&big(i64::MAX), &big(i64::MAX - 1), 0, Tolerance::EXACT).unwrap();
        assert_eq!(found.differing, 1);
        assert_eq!(compare(&big(7), &big(7), 0, Tolerance::EXACT).unwrap().differing, 0);
        let zeros = compare(&floats(&[1], &[0.0]), &floats(&[1], &[-0.0]), 0, Tolerance::EXACT).unwrap();
        assert_eq!(zeros.differing, 1);
    }

    #[test]
    fn new_columns_are_passed_over_on_any_axis() {
        let old = floats(&[2, 2, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let last = floats(&[2, 2, 3], &[0., 1., 9., 2., 3., 9., 4., 5., 9., 6., 7., 9.]);
        let middle = floats(&[2, 3, 2], &[0., 1., 2., 3., 9., 9., 4., 5., 6., 7., 9., 9.]);
        for new in [&last, &middle] {
            let found = compare(&old, new, 1, Tolerance::EXACT).unwrap();
            assert_eq!((found.compared, found.differing), (8, 0));
            assert!(compare(&old, new, 0, NEAR).unwrap_err().contains("expected [2, 2, 2]"));
            assert!(compare(&old, new, 2, NEAR).is_err());
        }
        let mut moved = middle.clone();
        moved.values = Values::F32(vec![0., 1., 2., 3., 9., 9., 4., 5., 6., 8., 9., 9.]);
        assert_eq!(compare(&old, &moved, 1, Tolerance::EXACT).unwrap().worst.unwrap().at, 7);
        let bytes = Array { shape: vec![1], values: Values::U8(vec![1]) };
        assert!(
            compare(&bytes, &floats(&[1], &[1.0]), 0, NEAR).unwrap_err().contains("float32, expected uint8")
        );
    }
}
