//! R-Drop and word dropout in real runs of the toy: what is told of them, and what they are refused with.

use serde_json::Value;

use super::toy::Toy;

const ALL: &str = "--config toy.toml --set model.dropout=0.2 --set train.r_drop_alpha=5 \
                   --set model.source_word_dropout=0.1 --set model.target_word_dropout=0.05";

fn train_rows(toy: &Toy) -> Vec<Value> {
    toy.rows("run").into_iter().filter(|row| row["event"] == "train").collect()
}

#[test]
fn the_divergence_is_logged_and_tokens_are_counted_once() {
    let toy = Toy::new();
    toy.run("-q --config toy.toml --set model.dropout=0.2").exits(0);
    let plain = train_rows(&toy);
    toy.run(&format!("{ALL} --force"))
        .exits(0)
        .tells(&["dropout 0.2, label smoothing 0, word dropout 0.1 source, 0.05 target, R-Drop 5 (two passes)"]);
    let rows = train_rows(&toy);
    assert_eq!((plain.len(), rows.len()), (3, 3));
    for (plain, row) in plain.iter().zip(&rows) {
        assert_eq!(plain["tokens"], row["tokens"]);
        assert!(plain.get("r_drop_kl").is_none());
        let [kl, loss, nll] = ["r_drop_kl", "loss", "nll"].map(|column| row[column].as_f64().unwrap());
        // the loss is that of plain runs: the divergence has its own column
        assert!(kl > 0.0 && loss == nll, "{row}");
    }
}

#[test]
fn runs_have_the_same_bits_with_any_number_of_threads() {
    let toy = Toy::new();
    let bits = |threads: usize| {
        toy.run(&format!("-q {ALL} --force --threads {threads}")).exits(0);
        let of = |row: &Value| {
            ["loss", "nll", "r_drop_kl", "grad_norm"].map(|column| row[column].as_f64().map(f64::to_bits))
        };
        train_rows(&toy).iter().map(of).collect::<Vec<_>>()
    };
    let one = bits(1);
    assert!(one == bits(2) && one == bits(5));
}

#[test]
fn two_passes_without_dropout_are_refused_and_word_dropout_is_enough() {
    let toy = Toy::new();
    toy.run("-q --config toy.toml --set train.r_drop_alpha=5")
        .exits(3)
        .tells(&["train.r_drop_alpha=5: compares two passes with different dropout: set model.dropout above 0"]);
    toy.run("-q --config toy.toml --set train.r_drop_alpha=5 --set model.target_word_dropout=0.1").exits(0);
    assert!(train_rows(&toy).iter().all(|row| row["r_drop_kl"].as_f64().is_some_and(|kl| kl > 0.0)));
    toy.run("-q --config toy.toml --set train.r_drop_alpha=-1 --set model.source_word_dropout=1")
        .exits(3)
        .tells(&["train.r_drop_alpha=-1: must be 0 or more", "model.source_word_dropout=1: must be in [0, 1)"]);
}
