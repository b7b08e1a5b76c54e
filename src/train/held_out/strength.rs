//! How strong the prior of a column's own part is, by the loss of rows that fits did not see.
//!
//! Where old classes say much of the new ones, few pictures should add little to that; where they say nothing (a model of one old
//! class), a column is what its pictures make it. The difference is large, and a few held-out pictures see it: their loss is a sum
//! over thousands of rows. docs/TRAINING.md, "The strength of the prior", has what is gained.

use super::super::solver::USUAL;
use crate::error::Result;

/// Strengths that are tried, each as long as the one before it helps; the second way where the first leads nowhere.
const WAYS: [&[f64]; 2] = [&[10.0, 100.0], &[0.1]];

/// Climbs from the usual strength up, or else down, as long as the loss falls: the strength where it ends and the fit there.
/// `first` is the fit of the usual strength, here and in what `fit` gives with its loss.
pub(super) fn climb<T>(first: (T, f64), mut fit: impl FnMut(f64) -> Result<(T, f64)>) -> Result<(f64, T)> {
    let (mut best, mut least) = ((USUAL, first.0), first.1);
    for way in WAYS {
        for &strength in way {
            let (next, loss) = fit(strength)?;
            // What is no number is no fall.
            let falls = loss < least;
            if !falls {
                break;
            }
            (best, least) = ((strength, next), loss);
        }
        if best.0 != USUAL {
            break;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a climb ends, and what it tried, where losses of 0.1, 1, 10 and 100 are these.
    fn climbed(losses: [f64; 4]) -> (f64, Vec<f64>) {
        let at = |strength| {
            let loss = losses[[0.1, USUAL, 10.0, 100.0].iter().position(|&l| l == strength).unwrap()];
            (loss, loss)
        };
        let mut tried = Vec::new();
        let (strength, loss) = climb(at(USUAL), |strength| {
            tried.push(strength);
            Ok(at(strength))
        })
        .unwrap();
        assert_eq!(loss, at(strength).0);
        (strength, tried)
    }

    #[test]
    fn a_climb_ends_where_the_loss_is_least() {
        assert_eq!(climbed([3.0, 2.0, 2.0, 1.0]), (1.0, vec![10.0, 0.1]));
        assert_eq!(climbed([1.0, 2.0, 3.0, 0.0]), (0.1, vec![10.0, 0.1]));
        assert_eq!(climbed([0.0, 3.0, 2.0, 2.5]), (10.0, vec![10.0, 100.0]));
        assert_eq!(climbed([0.0, 3.0, 2.0, 1.0]), (100.0, vec![10.0, 100.0]));
        assert_eq!(climbed([f64::NAN, 1.0, f64::NAN, 0.0]).0, 1.0);
    }
}
