//! `[[phase]]` and the embedding distance in real runs of the toy.

use candle_core::Device;
use nmt_train::checkpoint;
use serde_json::Value;

use super::toy::Toy;

/// "First the optimizer, then embedding optimisation", to the letter.
const LITERAL: &str = "-q --config toy.toml --set train.log_freq=5 --set embedding_distance.form=literal-math \
    --set embedding_distance.acknowledge_collapse=true --set embedding_distance.measure_freq=5 \
    --set phase=[{from_update=40,optimizer='adam',lr=1e-2,objective='distance',trainable='embeddings'}]";

fn train_rows(toy: &Toy) -> Vec<Value> {
    toy.rows("run").into_iter().filter(|row| row["event"] == "train").collect()
}

/// Names of the parameters that differ between two checkpoints.
fn changed(toy: &Toy, steps: [u64; 2]) -> Vec<String> {
    let [before, after] = steps.map(|step| {
        let path = toy.path(&format!("run/checkpoints/step-{step:08}"));
        checkpoint::read_weights(&path, &Device::Cpu).unwrap()
    });
    let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let differs = |((name, a), (other, b)): (&(String, _), &(String, _))| {
        assert_eq!(name, other);
        (values(a) != values(b)).then(|| name.clone())
    };
    before.iter().zip(&after).filter_map(differs).collect()
}

#[test]
fn the_literal_second_phase_trains_the_table_alone_and_collapses_it() {
    let toy = Toy::new();
    toy.run(LITERAL).exits(0);
    let rows = train_rows(&toy);
    let column = |name: &str| rows.iter().filter_map(|row| row.get(name)?.as_f64()).collect::<Vec<f64>>();
    let with: Vec<u64> =
        rows.iter().filter(|r| r.get("embedding.distance").is_some()).filter_map(|r| r["step"].as_u64()).collect();
    assert_eq!(with, [45, 50, 55, 60]);
    let distance = column("embedding.distance");
    assert!(distance[3] < 0.8 * distance[0], "{distance:?}");
    assert!((column("loss")[11] - distance[3]).abs() < 1e-12);
    let nll = column("nll");
    assert!(nll[11] > nll[7], "the likelihood is measured and gets worse: {nll:?}");
    let cosine = column("embedding.mean_cosine");
    assert!(cosine.windows(2).all(|two| two[1] >= two[0]) && cosine[3] > cosine[0] + 0.1, "{cosine:?}");
    assert!(column("embedding.weight")[3] < 1.0, "the brake did not notice");
    assert_eq!(changed(&toy, [40, 60]), ["model.shared.weight"]);
    assert!(changed(&toy, [20, 40]).len() > 10);
}

#[test]
fn a_joint_phase_is_announced_and_logged_and_the_code_form_changes_nothing() {
    let toy = Toy::new();
    let joint = "--config toy.toml --set embedding_distance.min_count=2 --set embedding_distance.warmup_updates=0 \
                 --set phase=[{from_update=20,objective='joint'},{from_update=40,optimizer='sgd'}] \
                 --set embedding_distance.form=";
    toy.run(&format!("{joint}bridge")).exits(0).tells(&[
        "pairs of words that translate each other",
        "bridge, lexical pairs, euclidean, guard contrastive, weight 0.05",
        "phase 1 begins: from update 20: adam, lr 0.02, likelihood and embedding distance, all parameters",
        "phase 2 begins: from update 40: sgd (fresh state), lr 0.02",
    ]);
    let rows = train_rows(&toy);
    assert_eq!(rows.iter().map(|row| row.get("embedding.pairs").is_some()).collect::<Vec<_>>(), [false, true, true]);
    assert!(rows[1]["embedding.pairs"].as_f64().unwrap() > 3.0 && rows[1]["embedding.guard"].as_f64().unwrap() > 0.0);
    let losses = |toy: &Toy| train_rows(toy).iter().map(|row| row["loss"].as_f64()).collect::<Vec<_>>();
    let with = losses(&toy);
    toy.run(&format!("-q --force {joint}code")).exits(0);
    let (code, rows) = (losses(&toy), train_rows(&toy));
    assert!(rows[1]["embedding.distance"].as_f64().is_some_and(|d| (d - 1e-6 * 16f64.sqrt()).abs() < 1e-18));
    let plain = "-q --force --config toy.toml --set phase=[{from_update=40,optimizer='sgd'}]";
    toy.run(plain).exits(0);
    assert_eq!(code, losses(&toy));
    assert_ne!(with, code);
}

#[test]
fn phases_that_were_may_not_change_and_phases_to_come_may() {
    let toy = Toy::new();
    toy.run(LITERAL).exits(0);
    toy.run("-q --resume run --set train.max_updates=80 --set phase=[]").exits(3).tells(&[
        "the checkpoint of update 60 was made by adam training embeddings, the phases now say adam training all",
    ]);
    let first = "{from_update=40,optimizer='adam',lr=1e-2,objective='distance',trainable='embeddings'}";
    let args = format!(
        "-q --resume run --set train.max_updates=80 \
         --set phase=[{first},{{from_update=60,objective='nll',trainable='all'}}]"
    );
    toy.run(&args).exits(0);
    assert!(changed(&toy, [60, 80]).len() > 10);
}

#[test]
fn pairs_from_attention_begin_when_it_is_trusted() {
    let toy = Toy::new();
    let args = "-q --config toy.toml --set embedding_distance.form=bridge --set embedding_distance.pairs=attention \
                --set embedding_distance.attention_from=0.5 --set embedding_distance.min_attention=0.2 \
                --set train.log_freq=10";
    toy.run(args).exits(0);
    let pairs: Vec<f64> = train_rows(&toy).iter().filter_map(|row| row["embedding.pairs"].as_f64()).collect();
    assert_eq!(pairs.len(), 6);
    assert!(pairs[..3].iter().all(|&n| n == 0.0) && pairs[3..].iter().all(|&n| n > 0.0), "{pairs:?}");
}
