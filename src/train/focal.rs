//! What the focal loss that old columns were trained with does to the scale of their logits.

/// The slope of the best logits under the focal loss with this γ (arXiv 1708.02002) over those of the true probabilities.
///
/// A class whose true probability is q has the least focal loss at the p where
/// q·(1−p)^γ·((1−p) − γ·p·log p) = (1−q)·p^γ·(p − γ·(1−p)·log(1−p)), so that the true logit is known for each best one; the
/// slope is that of the line through the origin, by least squares over true probabilities of 0.002 to 0.998. For γ = 2 it is
/// 0.371 and the line is within 0.003 in probability; for γ = 0, the cross entropy, it is 1.
pub fn slope(gamma: f64) -> f64 {
    const MOST: f64 = 6.2;
    let (mut products, mut squares) = (0.0, 0.0);
    for step in 1.. {
        let best = 0.01 * f64::from(step);
        let truth = true_logit(best, gamma);
        // The true logit is at least the best one, which ends this.
        if truth > MOST {
            break;
        }
        products += best * truth;
        squares += truth * truth;
    }
    if squares > 0.0 { products / squares } else { 1.0 }
}

/// The logit of the true probability for which this logit has the least focal loss.
fn true_logit(best: f64, gamma: f64) -> f64 {
    let side = |z: f64| {
        let p = 1.0 / (1.0 + (-z).exp());
        (p - gamma * (1.0 - p) * (-z.exp().ln_1p())).ln()
    };
    gamma * best + side(best) - side(-best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The focal loss of a logit where the class is there with probability q.
    fn loss(z: f64, q: f64, gamma: f64) -> f64 {
        let p = 1.0 / (1.0 + (-z).exp());
        -q * (1.0 - p).powf(gamma) * p.ln() - (1.0 - q) * p.powf(gamma) * (1.0 - p).ln()
    }

    #[test]
    fn slopes_are_those_of_the_least_losses() {
        for (gamma, expected) in [(0.0, 1.0), (1.5, 0.444), (2.0, 0.371)] {
            assert!((slope(gamma) - expected).abs() < 0.003, "{gamma}: {}", slope(gamma));
            for q in [0.01, 0.2, 0.5, 0.9f64] {
                // By hand: the best of many logits.
                let best = (-4000..4000).map(|i| f64::from(i) / 500.0);
                let best = best.min_by(|a, b| loss(*a, q, gamma).total_cmp(&loss(*b, q, gamma))).unwrap();
                let truth = (q / (1.0 - q)).ln();
                assert!((true_logit(best, gamma) - truth).abs() < 0.02, "{gamma} {q}: {best}");
                assert!((slope(gamma) * truth - best).abs() < 0.05, "{gamma} {q}: {best}");
            }
        }
        assert!(slope(5.0) < slope(2.0) && slope(5.0) > 0.0);
    }
}
