//! Dropping small parts of A (the document on Hessian-2, its §3.1). What is dropped gets the damping's eigenvalue λ, the
//! gain 1 of the complement; never 0, which would stop or blow up those directions.

use super::super::decompose::eigh;

/// Number of leading eigenvalues (descending) to keep: the fewest that hold `share` of their sum, without those that are
/// noise beside the first. `b`: gradients in the window.
pub(super) fn kept(eigenvalues: &[f64], share: f64, b: usize) -> usize {
    let total: f64 = eigenvalues.iter().map(|s| s.max(0.0)).sum();
    let first = eigenvalues.first().copied().unwrap_or(0.0);
    let mut sum = 0.0;
    let mut kept = 0;
    for &s in eigenvalues {
        if sum >= share * total || s <= b as f64 * 1e-6 * first {
            break;
        }
        sum += s;
        kept += 1;
    }
    kept
}

/// The Gram matrix `[b, b]` without elements below `share` of the largest, in place. That may cost it its positive
/// semi-definiteness: then −λmin is added to the diagonal, and the answer is `true`. `None` when eigenvalues fail.
pub(super) fn elementwise(gram: &mut [f64], share: f64, b: usize) -> Option<bool> {
    let largest = gram.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    for x in gram.iter_mut().filter(|x| x.abs() < share * largest) {
        *x = 0.0;
    }
    for i in 0..b {
        for j in 0..i {
            let mean = 0.5 * (gram[i * b + j] + gram[j * b + i]);
            (gram[i * b + j], gram[j * b + i]) = (mean, mean);
        }
    }
    let (eigenvalues, _) = eigh(b, gram)?;
    let least = eigenvalues.last().copied().unwrap_or(0.0);
    // below the rounding of the eigenvalues nothing was lost
    let shift = least < -1e-12 * largest;
    if shift {
        (0..b).for_each(|i| gram[i * b + i] -= least);
    }
    Some(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_eigenvalues_are_kept_as_hold_the_share() {
        assert_eq!(kept(&[8.0, 1.0, 1.0], 0.8, 3), 1);
        assert_eq!(kept(&[8.0, 1.0, 1.0], 0.85, 3), 2);
        assert_eq!(kept(&[8.0, 1.0, 1.0], 1.0, 3), 3);
        assert_eq!(kept(&[1.0, 2e-6, 1e-9], 1.0, 3), 1, "noise beside the first");
        assert_eq!(kept(&[0.0, 0.0], 0.9, 2), 0);
    }

    #[test]
    fn an_indefinite_matrix_is_shifted_and_told() {
        // without the corners, 1 − √2·0.8 < 0 is an eigenvalue
        let mut gram = vec![1.0, 0.8, 0.3, 0.8, 1.0, 0.8, 0.3, 0.8, 1.0];
        assert_eq!(elementwise(&mut gram, 0.5, 3), Some(true));
        let shift = 0.8 * 2f64.sqrt() - 1.0;
        let expected = [1.0 + shift, 0.8, 0.0, 0.8, 1.0 + shift, 0.8, 0.0, 0.8, 1.0 + shift];
        assert!(gram.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12), "{gram:?}");
        let mut gram = vec![2.0, 0.5, 0.5, 1.0];
        assert_eq!(elementwise(&mut gram, 0.5, 2), Some(false));
        assert_eq!(gram, [2.0, 0.0, 0.0, 1.0]);
    }
}
