//! Rank-two corrections of an inverse: BFGS in blocks of directions.
//!
//! Block BFGS (Goldfarb, Hennig; as a randomized matrix inverter: Gower & Richtárik 2017): with directions S (n × k) and
//! Y = A·S, P = (SᵀY)⁻¹,
//!
//! ```text
//! H⁺ = H + SPSᵀ + SP(YᵀHY)PSᵀ − (HY)PSᵀ − SP(HY)ᵀ      H⁺·Y = S, and positive definite if A is
//!    = H + V·Xᵀ + X·Vᵀ      V = SP, X = ½·(S + V·(YᵀHY)) − HY
//! ```

use candle_core::Result;

use crate::optim::algebra::{Mats, Number, Start};

/// Corrects H with the directions `s` = Sᵀ and `y` = Yᵀ (k × n each). Returns 1 where it could; where SᵀY is not positive
/// definite, H stays as it was.
pub(super) fn block_bfgs<M: Mats>(h: &mut M, s: &M, y: &M, one: &M::Number) -> Result<M::Number> {
    let mut inverse = M::product(s.view(), y.t())?.inverse(one, &(one.clone() * 0.0))?;
    let good = inverse.is_finite()?;
    inverse.restart(&good.clone().rest(), Start::Zeros)?;
    let hy = M::product(y.view(), h.view())?;
    let v = M::product(inverse.view(), s.view())?;
    let mut x = s.copy()?;
    x.add_product(1.0, M::product(y.view(), hy.t())?.t(), v.view())?;
    let mut x = x.times(0.5)?;
    x.add(&(one.clone() * -1.0), hy.view())?;
    let (vx, xv) = (v.copy()?.above(&x)?, x.above(&v)?);
    // symmetric to the bit: without it f32 is destroyed after about 40 corrections
    h.add_symmetric(1.0, vx.t(), xv.view())?;
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::algebra::{Batch, Matrix, Place};
    use crate::rng::{stream, Purpose, Stream};
    use candle_core::{DType, Device};

    fn draw<M: Mats>(rng: &mut Stream, shape: [usize; 2], place: &Place) -> Result<M> {
        M::from_values((0..shape[0] * shape[1]).map(|_| rng.normal()).collect(), shape, place)
    }

    fn list<M: Mats>(m: &M) -> Result<Vec<f64>> {
        m.to_tensor(0)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
    }

    /// H·A after many corrections is I, and H·Y = S after each.
    fn inverts<M: Mats>([n, k]: [usize; 2], rounds: usize, place: &Place, tolerance: f64) -> Result<()> {
        let mut rng = stream(4, Purpose::Probe, 0);
        let root: M = draw(&mut rng, [n, n], place)?;
        let mut a = M::product(root.view(), root.t())?;
        let eye = || M::start(Start::Identity, 1, [n, n], place);
        let one: M::Number = Number::from_values(&[1.0], &place.device)?;
        a.add(&(one.clone() * 2.0), eye()?.view())?;
        let mut h = eye()?.times(0.05)?;
        for round in 0..rounds {
            let s: M = draw(&mut rng, [k, n], place)?;
            let y = M::product(s.view(), a.view())?;
            assert_eq!(block_bfgs(&mut h, &s, &y, &one)?.values()?, [1.0]);
            if round < 3 && place.dtype == DType::F64 {
                let back = list(&M::product(y.view(), h.view())?)?;
                back.iter().zip(list(&s)?).for_each(|(b, s)| assert!((b - s).abs() < 1e-8 * (1.0 + s.abs())));
            }
        }
        for (at, x) in list(&M::product(h.view(), a.view())?)?.into_iter().enumerate() {
            assert!((x - f64::from(u8::from(at / n == at % n))).abs() < tolerance, "{at}: {x}");
        }
        Ok(())
    }

    #[test]
    fn it_satisfies_the_secant_equation_and_inverts() -> Result<()> {
        inverts::<Matrix<f64>>([12, 3], 300, &Place::cpu(), 1e-6)?;
        inverts::<Batch>([12, 3], 300, &Place::cpu(), 1e-6)
    }

    #[test]
    fn f32_survives_1500_corrections() -> Result<()> {
        let place = Place { dtype: DType::F32, device: Device::Cpu };
        inverts::<Matrix<f32>>([24, 8], 1500, &place, 2e-3)?;
        inverts::<Batch>([24, 8], 1500, &place, 2e-3)
    }

    #[test]
    fn directions_of_no_use_leave_it_as_it_was() -> Result<()> {
        let mut h: Matrix<f64> = Matrix::start(Start::Identity, 1, [3, 3], &Place::cpu())?;
        let s: Matrix<f64> = Matrix::from_values(vec![1.0, 0.0, 2.0], [1, 3], &Place::cpu())?;
        let before = list(&h)?;
        assert_eq!(block_bfgs(&mut h, &s, &s.times(-1.0)?, &1.0)?, 0.0);
        assert_eq!(list(&h)?, before);
        Ok(())
    }
}
