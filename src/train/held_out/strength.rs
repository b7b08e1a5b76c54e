//! How strong the prior of a column's own part is, by the loss of rows that fits did not see.
//!
//! Where old classes say much of the new ones, few pictures should add little to that; where they say nothing (a model of one old
//! class), a column is what its pictures make it. The difference is large, and a few held-out pictures see it: their loss is a sum
//! over thousands of rows. docs/TRAINING.md, "The strength of the prior", has what is gained.

use super::super::solver::USUAL;
use crate::error::Result;

/// Strengths that are tried.
const LADDER: [f64; 4] = [0.1, USUAL, 10.0, 100.0];
/// Where [`USUAL`] stands.
const START: usize = 1;

/// Climbs from the usual strength up, or else down, as long as the loss falls: the strength where it ends and what `fit` gave
/// there. `first` is what the usual strength gives.
pub(super) fn climb<T>(
    first: T,
    loss: impl Fn(&T) -> f64,
    mut fit: impl FnMut(f64) -> Result<T>,
) -> Result<(f64, T)> {
    let mut best = (USUAL, first);
    let up = LADDER[START + 1..].to_vec();
    let down = LADDER[..START].iter().rev().copied().collect();
    for way in [up, down] {
        for strength in way {
            let next = fit(strength)?;
            // What is no number is no fall.
            let falls = loss(&next) < loss(&best.1);
            if !falls {
                break;
            }
            best = (strength, next);
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

    /// Where a climb ends, and what it tried, where losses are these by the ladder.
    fn climbed(losses: [f64; LADDER.len()]) -> (f64, Vec<f64>) {
        let at = |strength| losses[LADDER.iter().position(|&l| l == strength).unwrap()];
        let mut tried = Vec::new();
        let (strength, loss) = climb(
            at(USUAL),
            |loss| *loss,
            |strength| {
                tried.push(strength);
                Ok(at(strength))
            },
        )
        .unwrap();
        assert_eq!(loss, at(strength));
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
