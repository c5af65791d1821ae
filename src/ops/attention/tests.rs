//! Checks of both attentions against plain candle operations, whole and in blocks.

use super::*;
use crate::ops::check::{
    agree, agree_with_differences, constant, dropout_of, random, random_offsets, same_for_any_threads,
};
use crate::ops::dropout::reference::mask_tensor;
use candle_core::{Device, Var, D};
use proptest::prelude::*;

fn plain(
    v: &[Tensor],
    [q_offsets, k_offsets]: [&[usize]; 2],
    heads: usize,
    causal: bool,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let (_, width) = v[0].dims2()?;
    let columns = width / heads;
    let pairs: Vec<(usize, usize)> =
        q_offsets.windows(2).zip(k_offsets.windows(2)).map(|(q, k)| (q[1] - q[0], k[1] - k[0])).collect();
    let total: usize = pairs.iter().map(|(tq, tk)| heads * tq * tk).sum();
    let masks = mask_tensor(dropout, &[total], v[0].dtype())?;
    let (mut first, mut sentences) = (0, Vec::new());
    for (s, &(tq, tk)) in pairs.iter().enumerate() {
        let mut outputs = Vec::new();
        for h in 0..heads {
            let part = |x: &Tensor, start, len| x.narrow(0, start, len)?.narrow(1, h * columns, columns);
            let (q, k, v) =
                (part(&v[0], q_offsets[s], tq)?, part(&v[1], k_offsets[s], tk)?, part(&v[2], k_offsets[s], tk)?);
            let mut scores = (q.matmul(&k.t()?)? / (columns as f64).sqrt())?;
            if causal {
                let hidden: Vec<f64> =
                    (0..tq * tk).map(|i| if i % tk > i / tk { f64::NEG_INFINITY } else { 0.0 }).collect();
                scores = (scores + Tensor::from_vec(hidden, (tq, tk), &Device::Cpu)?)?;
            }
            let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
            let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
            let mask = masks.narrow(0, first, tq * tk)?.reshape((tq, tk))?;
            outputs.push((p * mask)?.matmul(&v)?);
            first += tq * tk;
        }
        sentences.push(Tensor::cat(&outputs, 1)?);
    }
    Tensor::cat(&sentences, 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_plain_operations(
        sentences in 1usize..6, longest in 1usize..40, heads in 1usize..4, columns in 1usize..20, causal: bool,
        drop: bool, seed in 0u64..1000,
    ) {
        let q_offsets = Arc::new(random_offsets(sentences, longest, seed));
        let k_offsets = Arc::new(random_offsets(sentences, longest, seed + 1));
        let (nq, nk, d) = (q_offsets[sentences], k_offsets[sentences], heads * columns);
        let dropout = dropout_of(drop, seed);
        let parts = |x: &Tensor, count| (0..count).map(|i| x.narrow(1, i * d, d)).collect::<Result<Vec<_>>>();
        agree(
            &[random(&[nq, 3 * d], seed)],
            0..0,
            |v| self_attention(&v[0], &q_offsets, heads, causal, dropout),
            |v| plain(&parts(&v[0], 3)?, [&q_offsets, &q_offsets], heads, causal, dropout),
        );
        agree(
            &[random(&[nq, d], seed), random(&[nk, 2 * d], seed + 1)],
            0..0,
            |v| cross_attention(&v[0], &v[1], [&q_offsets, &k_offsets], heads, default_scale(d, heads), dropout),
            |v| {
                let kv = parts(&v[1], 2)?;
                plain(&[v[0].clone(), kv[0].clone(), kv[1].clone()], [&q_offsets, &k_offsets], heads, false, dropout)
            },
        );
    }
}

#[test]
fn agrees_with_differences() {
    let offsets = Arc::new(vec![0, 1, 4]);
    agree_with_differences(&[random(&[4, 12], 1)], |v| self_attention(&v[0], &offsets, 2, true, dropout_of(true, 9)));
    let k_offsets = Arc::new(vec![0, 2, 5]);
    agree_with_differences(&[random(&[4, 4], 1), random(&[5, 8], 2)], |v| {
        cross_attention(&v[0], &v[1], [&offsets, &k_offsets], 2, 1.0, dropout_of(true, 9))
    });
}

#[test]
fn an_empty_source_gives_zeros_and_no_gradient() -> Result<()> {
    let (q_offsets, k_offsets) = (Arc::new(vec![0, 2, 3, 3]), Arc::new(vec![0, 0, 2, 4]));
    let variable = |shape: &[usize], seed| Var::from_tensor(&constant(&random(shape, seed)));
    let (q, kv) = (variable(&[3, 4], 1)?, variable(&[4, 8], 2)?);
    let o = cross_attention(&q, &kv, [&q_offsets, &k_offsets], 2, 1.0, None)?;
    assert_eq!(o.narrow(0, 0, 2)?.flatten_all()?.to_vec1::<f64>()?, [0.0; 8]);
    let gradients = o.sqr()?.sum_all()?.backward()?;
    let of = |x: &Var, row, rows| -> Result<Vec<f64>> {
        let gradient = gradients.get(x).cloned().map_or_else(|| x.zeros_like(), Ok)?;
        gradient.narrow(0, row, rows)?.flatten_all()?.to_vec1()
    };
    assert_eq!(of(&q, 0, 2)?, [0.0; 8]);
    assert!(of(&kv, 0, 2)?.iter().any(|&g| g != 0.0));
    assert_eq!(of(&kv, 2, 2)?, [0.0; 16]);
    Ok(())
}

#[test]
fn large_scores_stay_finite() -> Result<()> {
    let offsets = Arc::new(vec![0, 3]);
    let x = (constant(&random(&[3, 12], 1)) * 1e4)?.to_dtype(candle_core::DType::F32)?;
    let y = self_attention(&x, &offsets, 1, false, None)?;
    assert!(y.flatten_all()?.to_vec1::<f32>()?.iter().all(|y| y.is_finite()));
    Ok(())
}

fn offsets(lengths: &[usize]) -> Arc<Vec<usize>> {
    let ends = lengths.iter().scan(0, |end, &n| {
        *end += n;
        Some(*end)
    });
    Arc::new(std::iter::once(0).chain(ends).collect())
}

fn parts(x: &Tensor, count: usize) -> Result<Vec<Tensor>> {
    let d = x.dim(1)? / count;
    (0..count).map(|i| x.narrow(1, i * d, d)).collect()
}

#[test]
fn more_keys_than_a_block_agree_with_plain_operations() {
    for (lengths, heads, causal, drop) in [
        (&[KEYS - 1][..], 2, true, false),
        (&[KEYS], 1, false, true),
        (&[KEYS + 1], 2, true, true),
        (&[3, KEYS + 1, 1, 2 * KEYS + 2], 1, true, false),
        (&[2 * KEYS + 3, 7], 2, false, true),
    ] {
        let offsets = offsets(lengths);
        let (n, d) = (offsets[lengths.len()], heads * 3);
        let dropout = dropout_of(drop, 4);
        agree(
            &[random(&[n, 3 * d], 1)],
            0..0,
            |v| self_attention(&v[0], &offsets, heads, causal, dropout),
            |v| plain(&parts(&v[0], 3)?, [&offsets, &offsets], heads, causal, dropout),
        );
    }
    for (q_lengths, k_lengths, drop) in [
        ([5, 2], [2 * KEYS + 1, 3], true),
        ([QUERIES + 9, 1], [4, KEYS + 1], false),
        ([1, 300], [KEYS + 1, KEYS], true),
    ] {
        let (q_offsets, k_offsets, dropout) = (offsets(&q_lengths), offsets(&k_lengths), dropout_of(drop, 5));
        agree(
            &[random(&[q_offsets[2], 6], 2), random(&[k_offsets[2], 12], 3)],
            0..0,
            |v| cross_attention(&v[0], &v[1], [&q_offsets, &k_offsets], 2, default_scale(6, 2), dropout),
            |v| {
                let kv = parts(&v[1], 2)?;
                plain(&[v[0].clone(), kv[0].clone(), kv[1].clone()], [&q_offsets, &k_offsets], 2, false, dropout)
            },
        );
    }
}

#[test]
fn long_sentences_beside_empty_ones_give_zeros_to_these() -> Result<()> {
    let (q_offsets, k_offsets) = (offsets(&[0, 3, 2]), offsets(&[KEYS + 1, 0, 2 * KEYS]));
    let (q, kv) = (constant(&random(&[5, 4], 1)), constant(&random(&[k_offsets[3], 8], 2)));
    let o = cross_attention(&q, &kv, [&q_offsets, &k_offsets], 2, 1.0, None)?.flatten_all()?.to_vec1::<f64>()?;
    assert_eq!(o[..12], [0.0; 12]);
    assert!(o[12..].iter().all(|&o| o != 0.0));
    Ok(())
}

#[test]
fn bits_depend_neither_on_threads_nor_on_what_else_is_computed() -> Result<()> {
    for lengths in [&[3 * QUERIES + 1][..], &[40, 1, KEYS, 900, 30], &[20, 2 * KEYS + 5, 30]] {
        let offsets = offsets(lengths);
        let n = offsets[lengths.len()];
        same_for_any_threads(&[random(&[n, 12], 1)], |x| self_attention(&x[0], &offsets, 2, true, None));
        for causal in [false, true] {
            let qkv = constant(&random(&[n, 12], 2)).to_dtype(candle_core::DType::F32)?;
            let whole = self_attention(&qkv, &offsets, 2, causal, None)?;
            let (q, kv) = (qkv.narrow(1, 0, 4)?, qkv.narrow(1, 4, 8)?.contiguous()?);
            for rows in [0..n, n / 3..n / 2 + 40, n - 17..n] {
                let q = q.narrow(0, rows.start, rows.len())?;
                let borders = [&offsets, &offsets];
                let some = attention_of_rows(&q, &kv, rows.clone(), borders, 2, default_scale(4, 2), causal)?;
                let right = whole.narrow(0, rows.start, rows.len())?;
                let difference = (some - right)?.abs()?.max_all()?.to_scalar::<f32>()?;
                // blocks of keys may be cut elsewhere
                assert!(difference < if lengths.iter().all(|&n| n <= KEYS) { 1e-37 } else { 1e-6 }, "{difference}");
            }
        }
    }
    Ok(())
}

/// Softmax(scores) · values of one query, with one column.
fn of_scores(scores: &[f32], values: &[f32]) -> Result<f32> {
    let n = scores.len();
    let (q_offsets, k_offsets) = (offsets(&[1]), offsets(&[n]));
    let kv = Tensor::stack(&[&Tensor::new(scores, &Device::Cpu)?, &Tensor::new(values, &Device::Cpu)?], 1)?;
    let q = Tensor::ones((1, 1), candle_core::DType::F32, &Device::Cpu)?;
    cross_attention(&q, &kv.contiguous()?, [&q_offsets, &k_offsets], 1, 1.0, None)?.flatten_all()?.get(0)?.to_scalar()
}

#[test]
fn extreme_scores_in_blocks_are_those_of_one_softmax() -> Result<()> {
    let n = 3 * KEYS;
    let values: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
    // nothing but −∞ in the first block, and between finite scores
    let hidden: Vec<f32> = (0..n).map(|i| if i < KEYS + 50 || i % 2 == 0 { f32::NEG_INFINITY } else { 0.5 }).collect();
    let seen: Vec<f32> = (KEYS + 50..n).filter(|i| i % 2 == 1).map(|i| values[i]).collect();
    let mean = seen.iter().sum::<f32>() / seen.len() as f32;
    assert!((of_scores(&hidden, &values)? - mean).abs() < 1e-4);
    // the largest comes last, first, far above the others
    for place in [0, KEYS, n - 1] {
        let mut scores = vec![-3e4f32; n];
        scores[place] = 3e4;
        assert_eq!(of_scores(&scores, &values)?, values[place]);
    }
    for bad in [f32::NAN, f32::INFINITY] {
        for place in [0, n - 1] {
            let mut scores = vec![1.0; n];
            scores[place] = bad;
            assert!(of_scores(&scores, &values)?.is_nan());
            assert!(of_scores(&scores[..KEYS.min(place + 1)], &values[..KEYS.min(place + 1)])?.is_nan() || place > 0);
        }
    }
    assert!(of_scores(&vec![f32::NEG_INFINITY; n], &values)?.is_nan());
    Ok(())
}
