//! Search with a real model: cached steps against the decoder run over whole sequences.

use candle_core::{DType, Device, Tensor, D};
use nmt_train::batch::Sequences;
use nmt_train::config::{DecodeConfig, ModelConfig};
use nmt_train::decode::{alignments, log_likelihoods, translate, Hypothesis, Options};
use nmt_train::model::{build, Forward, Model, Vocabulary};
use nmt_train::rng::{stream, Purpose};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const SIZE: usize = 23;
const PAD: u32 = 22;
const EOS: u32 = 2;

/// Weights large enough that distributions are peaked and translations differ, those of `</s>` so that many end.
fn model(seed: u64) -> candle_core::Result<Box<dyn Model>> {
    scaled(seed, 3.0)
}

/// The larger `factor`, the more peaked are distributions.
fn scaled(seed: u64, factor: f64) -> candle_core::Result<Box<dyn Model>> {
    let config = ModelConfig { layers: 2, d_model: 16, d_ff: 24, heads: 2, ..ModelConfig::default() };
    let vocabulary = Vocabulary { source_size: SIZE, target_size: SIZE, source_pad: PAD, target_pad: PAD };
    let model = build(&config, vocabulary, seed, DType::F32, &Device::Cpu)?;
    for param in model.params() {
        if param.var.rank() == 2 {
            let rows = param.var.dim(0)? as u32;
            let scale = |row| if rows == SIZE as u32 && row == EOS { 5.0 * factor } else { factor };
            let scales = Tensor::from_iter((0..rows).map(scale), &Device::Cpu)?.to_dtype(DType::F32)?;
            param.var.set(&param.var.as_detached_tensor().broadcast_mul(&scales.unsqueeze(1)?)?)?;
        }
    }
    Ok(model)
}

fn sources() -> Vec<Vec<u32>> {
    let mut rng = stream(3, Purpose::Text, 0);
    (0..12)
        .map(|_| {
            let length = 1 + rng.below(9);
            (0..length).map(|_| 3 + rng.below(SIZE - 4) as u32).chain([EOS]).collect()
        })
        .collect()
}

fn options(beam_size: usize) -> Options {
    Options::new(&DecodeConfig { beam_size, batch_size: 40, ..DecodeConfig::default() }, EOS, PAD)
}

fn run(models: &[&dyn Model], options: &Options) -> Result<Vec<Vec<Hypothesis>>, nmt_train::decode::DecodeError> {
    translate(models, &sources(), options, &mut |_| (), &|| false)
}

#[test]
fn greedy_steps_choose_what_the_decoder_over_the_whole_sequence_finds_most_probable() -> Outcome {
    let model = model(1)?;
    let output = model.output();
    let mut distinct = std::collections::BTreeSet::new();
    for (source, found) in sources().iter().zip(run(&[&*model], &options(1))?) {
        let labels = found[0].labels(EOS);
        let input = Sequences::pack([labels.as_slice()]).shifted_right(PAD);
        let memory = model.encode(&Sequences::pack([source.as_slice()]), &Forward::eval())?;
        let states = model.decode(&memory, &input, &Forward::eval())?;
        let logits = states.matmul(&output.table.t()?)?.narrow(1, 0, PAD as usize)?;
        assert_eq!(logits.argmax(D::Minus1)?.to_vec1::<u32>()?, labels);
        distinct.insert(labels);
    }
    assert!(distinct.len() > 3, "all translations are alike: {distinct:?}");
    Ok(())
}

#[test]
fn the_scores_of_a_beam_are_those_of_forced_decoding_also_in_an_ensemble() -> Outcome {
    let (first, second) = (model(1)?, model(2)?);
    for models in [vec![&*first], vec![&*first, &*second]] {
        let found = run(&models, &Options { n_best: 3, ..options(3) })?;
        let pairs: Vec<_> = sources()
            .iter()
            .zip(&found)
            .flat_map(|(source, list)| list.iter().map(|hypothesis| (source.clone(), hypothesis.labels(EOS))))
            .collect();
        assert_eq!(pairs.len(), 36);
        let scores = log_likelihoods(&models, &pairs, PAD, 50, &mut |_| (), &|| false)?;
        for (hypothesis, score) in found.iter().flatten().zip(scores) {
            assert!((hypothesis.score - score).abs() < 1e-3, "{hypothesis:?} has {score}");
        }
    }
    Ok(())
}

#[test]
fn a_wider_beam_finds_better_translations_where_greedy_search_comes_to_an_end() -> Outcome {
    let mut gains = Vec::new();
    for seed in 1..=6 {
        let model = scaled(seed, 1.5)?;
        let (greedy, beam) = (run(&[&*model], &options(1))?, run(&[&*model], &options(6))?);
        let ended = greedy.iter().zip(&beam).filter(|(greedy, _)| greedy[0].length > greedy[0].ids.len());
        gains.extend(ended.map(|(greedy, beam)| beam[0].normalized - greedy[0].normalized));
    }
    assert!(gains.iter().sum::<f64>() > 0.1, "{gains:?}");
    Ok(())
}

/// With one source token there is one place to look; the place does not depend on the batch.
#[test]
fn a_prepacked_model_translates_as_before_with_the_same_bits_on_any_threads_in_any_batches() -> Outcome {
    let trained = [model(1)?, model(2)?];
    let used = trained.iter().map(|model| model.share().prepacked()).collect::<Result<Vec<_>, _>>()?;
    assert!(!trained[0].params().is_empty() && used[0].params().is_empty());
    for (count, beam_size) in [(1, 1), (1, 3), (2, 3)] {
        let of = |models: &[Box<dyn Model>], options: &Options| {
            run(&models.iter().take(count).map(|model| model.as_ref()).collect::<Vec<_>>(), options)
        };
        let options = options(beam_size);
        let (before, found) = (of(&trained, &options)?, of(&used, &options)?);
        for (before, found) in before.iter().flatten().zip(found.iter().flatten()) {
            assert_eq!(before.ids, found.ids);
            assert!((before.score - found.score).abs() < 1e-4);
        }
        for (threads, batch_size) in [(1, 0), (2, 40), (3, 7), (4, 10_000)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let again = pool.install(|| of(&used, &Options { batch_size, ..options }))?;
            assert_eq!(again, found, "{threads} threads, batches of {batch_size}");
        }
    }
    let found = run(&[&*used[0]], &options(1))?;
    let pairs: Vec<_> = sources().into_iter().zip(found.iter().map(|found| found[0].labels(EOS))).collect();
    let scores = |model: &dyn Model| log_likelihoods(&[model], &pairs, PAD, 40, &mut |_| (), &|| false);
    for ((a, b), found) in scores(&*trained[0])?.iter().zip(scores(&*used[0])?).zip(&found) {
        assert!((a - b).abs() < 1e-4 && (b - found[0].score).abs() < 1e-4);
    }
    assert_eq!(alignments(&*trained[0], &pairs, PAD, 40)?, alignments(&*used[0], &pairs, PAD, 40)?);
    Ok(())
}

#[test]
fn alignments_name_a_source_token_for_each_target_token() -> Outcome {
    let model = model(1)?;
    let mut pairs: Vec<_> =
        sources().into_iter().zip(run(&[&*model], &options(2))?).map(|(s, found)| (s, found[0].labels(EOS))).collect();
    pairs.push((vec![EOS], vec![5, 6, EOS]));
    pairs.push((vec![], vec![EOS]));
    let together = alignments(&*model, &pairs, PAD, 1000)?;
    for ((source, target), places) in pairs.iter().zip(&together).take(13) {
        assert!(places.len() == target.len() && places.iter().all(|&place| place < source.len()), "{places:?}");
    }
    assert_eq!((&together[12], &together[13]), (&vec![0, 0, 0], &vec![]));
    assert!(together.iter().flatten().any(|&place| place > 1), "{together:?}");
    assert_eq!(alignments(&*model, &pairs, PAD, 0)?, together);
    Ok(())
}
