//! Gradients in closed form against candle's autograd in f64.

use candle_core::{DType, Device, Result, Tensor, Var, D};

use super::*;
use crate::batch::Sequences;
use crate::config::{AttentionKind, DistanceGuard, DistanceMetric, ModelConfig, ModelKind, RnnConfig};
use crate::kinds::Cell;
use crate::model::{self, Forward, Vocabulary};
use crate::params::{Init, Param, ParamKind};

const ROWS: usize = 13;
const WIDTH: usize = 5;

/// Tables with `<pad>` last; a matrix beside them must not matter.
fn params(joint: bool, dtype: DType) -> Result<ParamSet> {
    let mut params = ParamSet::new(3, dtype, &Device::Cpu);
    let kind = ParamKind::Table { tied: joint };
    params.add("w", ParamKind::Matrix, &[4, 4], Init::Normal(1.0))?;
    params.add_with_frozen_row("source", kind, &[ROWS, WIDTH], Init::Normal(1.0), Some(ROWS - 1))?;
    if !joint {
        params.add_with_frozen_row("target", kind, &[ROWS, WIDTH], Init::Normal(0.7), Some(ROWS - 1))?;
    }
    Ok(params)
}

fn zeros(params: &ParamSet) -> Result<Gradients> {
    Ok(Gradients { tensors: params.iter().map(|param| param.var.zeros_like()).collect::<Result<_>>()? })
}

fn batch(source: &[u32], target: &[u32]) -> Batch {
    Batch { source: Sequences::pack([source]), target: Sequences::pack([target]), pairs: vec![0] }
}

/// In a joint table 4 is a source of one pair and a target of another, 5 pairs with itself, the last is not in the batch.
fn pairs() -> Vec<WordPair> {
    let pair = |source, target, weight| WordPair { source, target, weight };
    vec![pair(4, 9, 0.5), pair(1, 2, 1.0), pair(3, 4, 0.8), pair(5, 5, 0.9), pair(6, 11, 0.7)]
}

fn context() -> DistanceContext {
    DistanceContext { weight: 0.3, step: 5, seed: 1, floors: [1.1, 0.4], attends: true }
}

fn config(metric: DistanceMetric, guard: DistanceGuard) -> EmbeddingDistanceConfig {
    let (form, guard_weight) = (DistanceForm::Bridge, 0.6);
    EmbeddingDistanceConfig { form, metric, guard, guard_weight, temperature: 0.3, ..Default::default() }
}

fn table(params: &ParamSet, i: usize) -> &Var {
    let tables: Vec<&Param> = params.iter().filter(|param| param.name != "w").collect();
    &tables[i.min(tables.len() - 1)].var
}

fn units(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
}

fn floor(x: &Tensor, floor: f64) -> Result<Tensor> {
    let std = x.broadcast_sub(&x.mean_keepdim(0)?)?.sqr()?.mean(0)?.sqrt()?;
    std.affine(-1.0, floor)?.relu()?.sum_all()
}

/// The formulas in plain candle operations: distance and guard.
fn plain(params: &ParamSet, pairs: &[WordPair], config: &EmbeddingDistanceConfig) -> Result<[Tensor; 2]> {
    let device = &Device::Cpu;
    let ids = |of: &dyn Fn(&WordPair) -> u32| Tensor::new(pairs.iter().map(of).collect::<Vec<u32>>(), device);
    let u = table(params, 0).index_select(&ids(&|pair| pair.source)?, 0)?;
    let v = table(params, 1).index_select(&ids(&|pair| pair.target)?, 0)?;
    let weights = Tensor::new(pairs.iter().map(|pair| pair.weight).collect::<Vec<f64>>(), device)?;
    let (n, cosines) = (pairs.len(), (units(&u)? * units(&v)?)?.sum(1)?);
    let distances = match config.metric {
        DistanceMetric::Euclidean => {
            let scale = (u.detach().sqr()?.sum(1)? + v.detach().sqr()?.sum(1)?)?;
            ((&u - &v)?.sqr()?.sum(1)? / scale)?
        }
        DistanceMetric::Cosine => cosines.affine(-1.0, 1.0)?,
    };
    let distance = ((&weights * distances)?.sum_all()? / n as f64)?;
    let guard = match config.guard {
        DistanceGuard::None => Tensor::new(0f64, device)?,
        DistanceGuard::VarianceFloor => (floor(&u, context().floors[0])? + floor(&v, context().floors[1])?)?,
        DistanceGuard::Contrastive => {
            let joint = params.len() == 2;
            let mask = pairs.iter().flat_map(|p| {
                pairs.iter().map(move |q| if joint && p.source == q.target { f64::NEG_INFINITY } else { 0.0 })
            });
            let mask = Tensor::from_vec(mask.collect::<Vec<f64>>(), (n, n), device)?;
            let scores = ((units(&u)?.matmul(&units(&v)?.t()?)? / config.temperature)? + mask)?;
            let total = scores.exp()?.sum(D::Minus1)?.log()?;
            ((weights * (total - (cosines / config.temperature)?)?)?.sum_all()? / n as f64)?
        }
    };
    Ok([distance, guard])
}

fn assert_close(found: &Tensor, wanted: &Tensor, what: &str) -> Result<()> {
    let worst = (found - wanted)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(worst < 1e-12, "{what}: {worst}");
    Ok(())
}

#[test]
fn bridge_gradients_are_those_of_autograd() -> Result<()> {
    for joint in [false, true] {
        for metric in [DistanceMetric::Euclidean, DistanceMetric::Cosine] {
            for guard in [DistanceGuard::None, DistanceGuard::Contrastive, DistanceGuard::VarianceFloor] {
                let what = format!("joint {joint}, {metric:?}, {guard:?}");
                let (params, config) = (params(joint, DType::F64)?, config(metric, guard));
                let objective = EmbeddingDistance::new(&config, &params, pairs())?;
                let gradients = zeros(&params)?;
                let batches = [batch(&[1, 3, 4, 1], &[2, 11, 4]), batch(&[5, 5], &[9, 5])];
                let stats = objective.add_gradients(
                    &params,
                    &gradients,
                    &objective.lexical(&batches.each_ref()),
                    &context(),
                )?;
                let active: Vec<WordPair> =
                    pairs().into_iter().filter(|p| p.source != 6 && !(joint && p.source == 5)).collect();
                assert_eq!(stats.pairs, active.len(), "{what}");
                let [distance, guard] = plain(&params, &active, &config)?;
                assert!((stats.distance - distance.to_scalar::<f64>()?).abs() < 1e-12, "{what}");
                assert!((stats.guard - guard.to_scalar::<f64>()?).abs() < 1e-12, "{what}");
                let loss = ((distance + (guard * config.guard_weight)?)? * context().weight)?;
                let store = loss.backward()?;
                for i in 0..params.len() - 1 {
                    let wanted = store.get(table(&params, i)).unwrap();
                    assert_close(&gradients.tensors[i + 1], wanted, &what)?;
                }
                assert_eq!(gradients.tensors[0].sqr()?.sum_all()?.to_scalar::<f64>()?, 0.0);
            }
        }
    }
    Ok(())
}

#[test]
fn literal_math_is_the_mean_over_all_pairs_inside_each_table() -> Result<()> {
    for metric in [DistanceMetric::Euclidean, DistanceMetric::Cosine] {
        let params = params(false, DType::F64)?;
        let form = DistanceForm::LiteralMath;
        let config = EmbeddingDistanceConfig { form, metric, ..Default::default() };
        let gradients = zeros(&params)?;
        let objective = EmbeddingDistance::new(&config, &params, Vec::new())?;
        let stats = objective.add_gradients(&params, &gradients, &[], &context())?;
        let mut total = Tensor::new(0f64, &Device::Cpu)?;
        for i in 0..2 {
            let rows = table(&params, i).narrow(0, 0, ROWS - 1)?;
            let mut pairs = 0.0;
            let mut sum = Tensor::new(0f64, &Device::Cpu)?;
            for a in 0..ROWS - 1 {
                for b in 0..a {
                    let (x, y) = (rows.narrow(0, a, 1)?, rows.narrow(0, b, 1)?);
                    let distance = match metric {
                        DistanceMetric::Euclidean => (x - y)?.sqr()?.sum_all()?.sqrt()?,
                        DistanceMetric::Cosine => (units(&x)? * units(&y)?)?.sum_all()?.affine(-1.0, 1.0)?,
                    };
                    sum = (sum + distance)?;
                    pairs += 1.0;
                }
            }
            total = (total + (sum / pairs)?)?;
        }
        assert!((stats.distance - total.to_scalar::<f64>()?).abs() < 1e-12);
        assert_eq!(stats.pairs, 2 * (ROWS - 1));
        let store = (total * context().weight)?.backward()?;
        for i in 0..2 {
            let wanted = store.get(table(&params, i)).unwrap();
            assert_close(&gradients.tensors[i + 1], wanted, &format!("{metric:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn code_is_a_no_op_that_reports_a_millionth_of_the_root_of_the_width() -> Result<()> {
    let params = params(true, DType::F32)?;
    let config = EmbeddingDistanceConfig { form: DistanceForm::Code, ..Default::default() };
    let objective = EmbeddingDistance::new(&config, &params, pairs())?;
    let gradients = zeros(&params)?;
    let stats = objective.add_gradients(&params, &gradients, &[], &context())?;
    assert_eq!(stats.distance, 1e-6 * (WIDTH as f64).sqrt());
    for gradient in &gradients.tensors {
        assert_eq!(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?, 0.0);
    }
    Ok(())
}

#[test]
fn the_padding_row_never_moves_and_gradients_are_added() -> Result<()> {
    let params = params(true, DType::F32)?;
    let config = config(DistanceMetric::Euclidean, DistanceGuard::None);
    let pad = ROWS as u32 - 1;
    let with_pad = vec![WordPair { source: 1, target: pad, weight: 1.0 }];
    let objective = EmbeddingDistance::new(&config, &params, with_pad)?;
    let gradients = Gradients { tensors: params.iter().map(|p| p.var.ones_like()).collect::<Result<_>>()? };
    objective.add_gradients(&params, &gradients, &objective.lexical(&[&batch(&[1], &[pad])]), &context())?;
    let rows = gradients.tensors[1].to_vec2::<f32>()?;
    assert_eq!(rows[ROWS - 1], vec![1.0; WIDTH]);
    assert_eq!(rows[2], vec![1.0; WIDTH]);
    assert!(rows[1].iter().all(|&x| x != 1.0));
    Ok(())
}

#[test]
fn more_pairs_than_the_sample_are_a_choice_that_changes_with_the_update_only() -> Result<()> {
    let params = params(false, DType::F32)?;
    let config = EmbeddingDistanceConfig { sample_size: 3, ..config(DistanceMetric::Cosine, DistanceGuard::None) };
    let all: Vec<WordPair> = (0..12).map(|i| WordPair { source: i, target: 11 - i, weight: 1.0 }).collect();
    let objective = EmbeddingDistance::new(&config, &params, all)?;
    let ids: Vec<u32> = (0..12).collect();
    let batches = [batch(&ids, &ids)];
    let model = model(&|_| ())?;
    let chosen = |step| objective.pairs_in(model.as_ref(), &batches.each_ref(), &DistanceContext { step, ..context() });
    assert_eq!(chosen(1)?.len(), 3);
    assert_eq!(chosen(1)?, chosen(1)?);
    let others = (2..20).map(chosen).collect::<Result<Vec<_>>>()?;
    assert!(others.into_iter().any(|other| other != chosen(1).unwrap()));
    Ok(())
}

/// A model over the vocabularies of [`params`].
fn model(change: &dyn Fn(&mut ModelConfig)) -> Result<Box<dyn Model>> {
    let mut config = ModelConfig { layers: 2, d_model: 8, d_ff: 8, heads: 2, ..Default::default() };
    config.rnn = RnnConfig { hidden_size: 8, embedding_size: 8, ..Default::default() };
    change(&mut config);
    let pad = ROWS as u32 - 1;
    let vocabulary = Vocabulary { source_size: ROWS, target_size: ROWS, source_pad: pad, target_pad: pad };
    model::build(&config, vocabulary, 1, DType::F64, &Device::Cpu)
}

#[test]
fn results_do_not_depend_on_threads() -> Result<()> {
    let mut params = ParamSet::new(3, DType::F32, &Device::Cpu);
    params.add("e", ParamKind::Table { tied: true }, &[700, 48], Init::Normal(1.0))?;
    let pairs = (0..300).map(|i| WordPair { source: i, target: 699 - i, weight: 0.5 }).collect();
    let config = config(DistanceMetric::Cosine, DistanceGuard::Contrastive);
    let objective = EmbeddingDistance::new(&config, &params, pairs)?;
    let ids: Vec<u32> = (0..700).collect();
    let run = |threads| -> Result<_> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let gradients = zeros(&params)?;
        let work =
            || objective.add_gradients(&params, &gradients, &objective.lexical(&[&batch(&ids, &ids)]), &context());
        let stats = pool.install(work)?;
        Ok((stats, gradients.tensors[0].to_vec2::<f32>()?, pool.install(|| table_health(params.get("e").unwrap()))?))
    };
    assert_eq!(run(1)?, run(3)?);
    Ok(())
}

#[test]
fn health_of_known_tables() -> Result<()> {
    let measure = |rows: Vec<f64>, width: usize| -> Result<TableHealth> {
        let mut params = ParamSet::new(3, DType::F64, &Device::Cpu);
        let (n, kind) = (rows.len() / width, ParamKind::Table { tied: true });
        params.add_with_frozen_row("e", kind, &[n + 1, width], Init::Zeros, Some(n))?;
        let mut rows = rows;
        rows.extend(vec![0.0; width]);
        let param = params.get("e").unwrap();
        param.var.set(&Tensor::from_vec(rows, (n + 1, width), &Device::Cpu)?)?;
        table_health(param)
    };
    // two directions of equal strength
    let cross = measure(vec![1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, -1.0, 0.0], 3)?;
    assert!((cross.effective_rank - 2.0).abs() < 1e-12, "{cross:?}");
    assert!((cross.mean_cosine + 1.0 / 3.0).abs() < 1e-12, "{cross:?}");
    assert!((cross.deviation - (1.0f64 / 3.0).sqrt()).abs() < 1e-12, "{cross:?}");
    // σ² of 8 and 2: (8 + 2)² / (8² + 2²)
    let ellipse = measure(vec![2.0, 0.0, -2.0, 0.0, 0.0, 1.0, 0.0, -1.0], 2)?;
    assert!((ellipse.effective_rank - 100.0 / 68.0).abs() < 1e-12, "{ellipse:?}");
    // collapsed: no spread at all
    let point = measure([1.0, 2.0].repeat(4), 2)?;
    assert!(point.effective_rank == 0.0 && (point.mean_cosine - 1.0).abs() < 1e-12, "{point:?}");
    Ok(())
}

#[test]
fn attention_pairs_are_decided_words_of_the_same_sentence() -> Result<()> {
    let rnn = |attention: AttentionKind, cell: Cell| {
        move |config: &mut ModelConfig| {
            config.kind = ModelKind::Rnn;
            (config.rnn.attention, config.rnn.cell) = (attention, cell);
        }
    };
    let kinds: [&dyn Fn(&mut ModelConfig); 3] =
        [&|_| (), &rnn(AttentionKind::Bahdanau, Cell::Lstm), &rnn(AttentionKind::Luong, Cell::Gru)];
    let (params, form, pairs) = (params(false, DType::F64)?, DistanceForm::Bridge, PairSource::Attention);
    let config = EmbeddingDistanceConfig { form, pairs, min_attention: 0.2, ..Default::default() };
    let objective = EmbeddingDistance::new(&config, &params, Vec::new())?;
    // two sentences without a word in common; 0 ends each
    let sides = [[&[1, 2, 3, 0][..], &[6, 7, 0]], [&[1, 2, 0][..], &[8, 9, 10, 11, 0]]];
    let [source, target] = sides.map(Sequences::pack);
    let both = Batch { source, target, pairs: vec![0, 1] };
    for kind in kinds {
        let model = model(kind)?;
        let found = objective.pairs_in(model.as_ref(), &[&both], &context())?;
        assert!(!found.is_empty());
        for pair in &found {
            assert!(pair.source != 0 && pair.target != 0 && (0.2..=1.0).contains(&pair.weight), "{pair:?}");
            assert_eq!(pair.source < 4, pair.target < 3, "of different sentences: {pair:?}");
        }
        assert!(found.is_sorted_by_key(|pair| (pair.source, pair.target)));
        let not_yet = DistanceContext { attends: false, ..context() };
        assert_eq!(objective.pairs_in(model.as_ref(), &[&both], &not_yet)?, []);
        // a source of one word and its end: one of the two has half of the attention or more
        let short = Sequences::pack([&[4, 0][..]]);
        let memory = model.encode(&short, &Forward::eval())?;
        let strongest = model.alignment(&memory, &Sequences::pack([&[12, 5][..]]))?;
        assert_eq!(strongest.len(), 2);
        assert!(strongest.iter().all(|s| s.row < 2 && (0.5..=1.0).contains(&s.weight)), "{strongest:?}");
    }
    Ok(())
}
