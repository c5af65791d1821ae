//! `checkpoint.average_last`: the mean of the last validations' weights is made, validated and used where it is the best.

use serde_json::Value;

use nmt_train::checkpoint::{average, read_weights};

use super::toy::Toy;

/// So high a rate that the weights jump about: their mean is better than each of them.
const JUMPS: &str = "-q --config toy.toml --set optimizer.lr=0.1 --set train.max_updates=100 \
                     --set validation.valid_freq=5 --set checkpoint.average_last=5";
/// Weights that still get better quickly: the last ones are the best.
const LEARNS: &str = "-q --config toy.toml --set checkpoint.average_last=3";

fn row(toy: &Toy, event: &str) -> Value {
    toy.rows("run").into_iter().rfind(|row| row["event"] == event).unwrap_or_default()
}

fn best(toy: &Toy) -> String {
    toy.read("run/checkpoints/best").trim().to_string()
}

fn bleu(toy: &Toy, more: &str) -> String {
    toy.run(&format!("evaluate run --source valid.en --reference valid.de --metrics bleu {more}")).exits(0).out
}

#[test]
fn a_mean_that_is_the_best_is_what_every_command_uses() {
    let toy = Toy::new();
    toy.run(JUMPS).exits(0);
    let (told, end) = (row(&toy, "average"), row(&toy, "end"));
    assert_eq!((&told["is_best"], &told["steps"]), (&true.into(), &vec![80, 85, 90, 95, 100].into()), "{told}");
    assert!(told["nll"].as_f64() < end["best_nll"].as_f64() && told["nll"] == end["average_nll"], "{told} {end}");
    assert_eq!((best(&toy), &end["average_is_best"]), ("average".to_string(), &true.into()));

    let files: Vec<_> = [80, 85, 90, 95, 100]
        .map(|step| toy.path(&format!("run/checkpoints/validated/step-{step:08}.safetensors")))
        .to_vec();
    let cpu = candle_core::Device::Cpu;
    let bits = |weights: &[(String, candle_core::Tensor)]| -> Vec<Vec<f32>> {
        weights.iter().map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let mean = read_weights(&toy.path("run/average.safetensors"), &cpu).unwrap();
    assert_eq!(bits(&mean), bits(&average(&files).unwrap()));

    assert_eq!(bleu(&toy, ""), bleu(&toy, "--checkpoint average"));
    assert_ne!(bleu(&toy, ""), bleu(&toy, "--checkpoint latest"));
    assert!(bleu(&toy, "").contains(&format!("{:.2}", end["test_bleu"].as_f64().unwrap())), "{end}");
    let lines = |more| toy.pipe(&format!("translate run {more}"), toy.read("valid.en")).exits(0).out;
    assert_eq!(lines(""), toy.read("run/translations/test.txt"));
    assert_eq!(lines("--beam 1"), toy.read("run/translations/average.txt"));
    let card = toy.run("export run --format huggingface --out hf").exits(0);
    card.tells(&["the averaged weights of run"]);
    assert!(toy.read("hf/README.md").contains(&format!("{:.2}", end["test_bleu"].as_f64().unwrap())));
    toy.run("export run --format huggingface --out hf100 --checkpoint 100").exits(0);
    assert!(!toy.read("hf100/README.md").contains("test: "), "the test was of other weights");
    toy.run("average run --last 2").exits(3).tells(&["checkpoint.average_last", "--out FILE"]);
    toy.run("average run --last 2 --out mean.safetensors").exits(0);

    // nothing is left to do, whether the weights of the mean are still there or not
    let rows = toy.read("run/metrics.jsonl");
    toy.run("--resume run").exits(0).tells(&["already finished"]);
    std::fs::remove_dir_all(toy.path("run/checkpoints/validated")).unwrap();
    toy.run("--resume run").exits(0).tells(&["already finished"]);
    assert_eq!((toy.read("run/metrics.jsonl"), best(&toy)), (rows, "average".to_string()));
    // and a mean that is gone is missed
    std::fs::remove_file(toy.path("run/average.safetensors")).unwrap();
    toy.pipe("translate run", "the dog\n").exits(0).tells(&["the best weights, an average, are gone; the latest"]);
}

#[test]
fn a_mean_that_is_worse_is_told_and_left() {
    let toy = Toy::new();
    toy.run(LEARNS).exits(0);
    let (told, end) = (row(&toy, "average"), row(&toy, "end"));
    assert_eq!((&told["is_best"], &told["steps"]), (&false.into(), &vec![20, 40, 60].into()), "{told}");
    assert_eq!(best(&toy), format!("step-{:08}", end["best_step"].as_u64().unwrap()));
    assert!(bleu(&toy, "").contains(&format!("{:.2}", end["test_bleu"].as_f64().unwrap())), "{end}");
    assert_ne!(bleu(&toy, "--checkpoint average"), bleu(&toy, ""));

    // fewer of them are another mean; a longer run is averaged at its own end
    toy.run("-q --resume run --set checkpoint.average_last=2").exits(0);
    assert_eq!(row(&toy, "end")["average_steps"], serde_json::json!([40, 60]));
    toy.run("--resume run").exits(0).tells(&["already finished"]);
    toy.run("-q --resume run --set train.max_updates=80").exits(0);
    assert_eq!(row(&toy, "end")["average_steps"], serde_json::json!([60, 80]));
    let averages = toy.rows("run").into_iter().filter(|row| row["event"] == "average").count();
    assert_eq!(averages, 1, "what came after the checkpoint is told anew");
    // more of them than were kept: those that there are
    let done = toy.run("--resume run --set train.max_updates=100 --set checkpoint.average_last=9").exits(0);
    done.tells(&["checkpoint.average_last = 9: the weights of 3 validations are there"]);
    assert_eq!(row(&toy, "end")["average_steps"], serde_json::json!([60, 80, 100]));
    // off again, the weights go with the next validation
    toy.run("-q --resume run --set train.max_updates=120 --set checkpoint.average_last=0").exits(0);
    assert_eq!(row(&toy, "end").get("average_steps"), None);
}

#[test]
fn without_validations_there_is_nothing_to_average() {
    let toy = Toy::new();
    for without in ["validation.valid_freq=0", "validation.metrics=[]"] {
        let told = toy.run(&format!("{LEARNS} --set {without}")).exits(3);
        told.tells(&[
            "checkpoint.average_last=3",
            "without validations while training",
            "validation.metrics and valid_freq",
        ]);
    }
}
