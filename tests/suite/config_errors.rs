//! What a person reads who made a mistake in a config or on the command line.

use nmt_train::config::{self, Config, Corpora, Source};

/// A file without problems; tests put their own lines around it.
const GOOD: &str = r#"
[data]
train = ["a.en", "a.de"]
valid = ["b.en", "b.de"]
[train]
max_updates = 10
"#;

fn load(text: &str, sets: &[&str]) -> Result<Config, String> {
    let source = Source::Text { name: "toy.toml".to_string(), text: text.to_string() };
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_string()).collect();
    config::load(&source, &sets).map(|loaded| loaded.config).map_err(|problems| problems.to_string())
}

/// The message for GOOD, these lines after it and these --set.
#[track_caller]
fn problems(more: &str, sets: &[&str]) -> String {
    load(&format!("{}{more}", GOOD.trim_start()), sets).expect_err("a configuration with problems")
}

#[test]
fn several_problems_are_reported_at_once_with_their_lines() {
    let found = problems(
        r#"log_frq = 5
label_smoothing = "a lot"
[optimizer]
name = "adm"
lr = -1
[optimizer.sgd]
momentum = 1.5
[model]
head = 4
kind = "rnn"
[model.rnn]
hidden_size = 511
cell = 3
"#,
        &["train.max_updates=ten", "optimiser.name=adam", "decode.beam_size=0"],
    );
    assert_eq!(
        found,
        r#"toy.toml:6: unknown key `train.log_frq`; did you mean `train.log_freq`?
toy.toml:7: train.label_smoothing = "a lot": expected a number
toy.toml:9: optimizer.name = "adm": expected "adam", "adamw", "clipped-adam", "hessian2", "hvr", "muon", "schedule-free", "sgd" or "soap"; did you mean "adam"?
toy.toml:10: optimizer.lr = -1.0 must be above 0
toy.toml:12: optimizer.sgd.momentum = 1.5 must be in [0, 1)
toy.toml:14: unknown key `model.head`; did you mean `model.heads`?
toy.toml:17: model.rnn.hidden_size = 511 must be even, 2 or more
toy.toml:18: model.rnn.cell = 3: expected "gru" or "lstm"
--set train.max_updates=ten: expected a whole number
--set optimiser.name=adam: unknown key `optimiser.name`; did you mean `optimizer.name`?
--set decode.beam_size=0: must be 1 or more
11 problems in the configuration; nothing was started."#
    );
}

#[test]
fn a_syntax_error_shows_the_line_and_a_caret() {
    let found = load("[data]\ntrain = [\"a.en\", \"a.de\"\nvalid = []\n", &[]).expect_err("a missing bracket");
    assert!(found.starts_with("toy.toml:"), "{found}");
    let found = load("seed = 1\nlr 1\n", &[]).expect_err("a missing equals sign");
    assert_eq!(
        found,
        "toy.toml:2: key with no value, expected `=`\n2 | lr 1\n  |    ^\n1 problem in the configuration; nothing was started."
    );
    let found = load("seed = 1\nseed = 2\n", &[]).expect_err("a key given twice");
    assert!(found.starts_with("toy.toml:2: duplicate key"), "{found}");
}

#[test]
fn names_of_other_trainers_lead_to_ours() {
    let found = problems(
        "patience = 3\nmax_steps = 100\nlearning_rate = 0.1\nwarmup_steps = 4\n[model]\nlabel_smoothing = 0.1\nbatch_size = 3\n",
        &[],
    );
    assert_eq!(
        found,
        "toy.toml:6: unknown key `train.patience`; did you mean `validation.early_stopping`?
toy.toml:7: unknown key `train.max_steps`; did you mean `train.max_updates`?
toy.toml:8: unknown key `train.learning_rate`; did you mean `optimizer.lr`?
toy.toml:9: unknown key `train.warmup_steps`; did you mean `schedule.warmup_updates`?
toy.toml:11: unknown key `model.label_smoothing`; did you mean `train.label_smoothing`?
toy.toml:12: unknown key `model.batch_size`; did you mean `train.batch_size` or `decode.batch_size`?
6 problems in the configuration; nothing was started."
    );
}

#[test]
fn a_mistake_does_not_cause_reports_about_rules_it_breaks() {
    // without these reports the run would have no limit and no training text
    let found =
        load("[dta]\ntrain = [\"a.en\", \"a.de\"]\nvalid = []\n[train]\nmax_steps = 5\n", &[]).expect_err("two");
    assert_eq!(
        found,
        "toy.toml:1: unknown section `[dta]`; did you mean `[data]`?
toy.toml:5: unknown key `train.max_steps`; did you mean `train.max_updates`?
2 problems in the configuration; nothing was started."
    );
}

#[test]
fn keys_inside_lists_of_tables_are_checked_too() {
    let text =
        "[train]\nmax_updates = 1\n[validation]\nmetrics = []\n[data]\ntrain = [\n  { files = [\"a\", \"b\"] },\n  \
                { files = [\"c\", \"d\"], wieght = 2 },\n]\n";
    assert_eq!(
        load(text, &[]).expect_err("an unknown key"),
        "toy.toml:8: unknown key `data.train.1.wieght`; did you mean `weight`?
1 problem in the configuration; nothing was started."
    );
    let found = load(&text.replace("wieght", "weight").replace("\"d\"", "4"), &[]).expect_err("a number as a file");
    assert_eq!(
        found,
        "toy.toml:8: data.train: expected text in quotes
1 problem in the configuration; nothing was started."
    );
}

#[test]
fn phases_are_named_by_their_number() {
    let found = problems(
        "[[phase]]\nfrom_update = 100\n[[phase]]\nfrom_update = 50\nobjective = \"joint\"\nlr = 0\n\
         [embedding_distance]\nform = \"literal-math\"\n",
        &[],
    );
    assert_eq!(
        found,
        "toy.toml:6: phase 2 must begin after phase 1: from_update = 50 is not above 100
toy.toml:6: phase 2 must have lr above 0, not 0.0
toy.toml:13: embedding_distance.form = \"literal-math\" must come with embedding_distance.acknowledge_collapse = true: \
its optimum is a table of equal vectors
3 problems in the configuration; nothing was started."
    );
    let found = problems("[[phase]]\nfrom_update = 3\nobjective = \"joint\"\n", &[]);
    assert!(found.contains("toy.toml:6: phase 1 must come with embedding_distance.form"), "{found}");
    let found = problems("[[phase]]\nfrom_update = 3\nobjective = \"distance\"\n", &[]);
    assert!(found.contains("toy.toml:6: phase 1 must have trainable = \"embeddings\""), "{found}");
    let found = problems("[[phase]]\noptimizer = \"adm\"\nfrom_update = 3\n", &[]);
    assert!(found.contains("phase: expected \"adam\"") && found.contains("did you mean \"adam\"?"), "{found}");
    let found = problems("[[phase]]\noptimizer = \"adam\"\n", &[]);
    assert!(found.contains("toy.toml:6: phase: missing field `from_update`"), "{found}");
}

#[test]
fn rules_between_keys_are_reported_where_a_key_was_written() {
    let found = problems(
        r#"[model]
heads = 3
[tokenizer]
joint = false
[schedule]
kind = "linear"
warmup_updates = 50
[validation]
metrics = ["bleu"]
valid_freq = 0
early_stopping = 2
"#,
        &["optimizer.sgd.nesterov=true"],
    );
    assert_eq!(
        found,
        r#"toy.toml:7: model.d_model = 512 must be a multiple of 2 × heads = 6
toy.toml:9: model.tied_embeddings = "all" must be "decoder" or "none" when tokenizer.joint = false: two vocabularies can not share one table
toy.toml:12: schedule.warmup_updates = 50 must be below the 10 updates of the schedule
toy.toml:14: validation.early_stopping_metric = "nll" must be one of validation.metrics: bleu
toy.toml:16: validation.early_stopping = 2 must be 0 without validations while training: set data.valid, validation.metrics and valid_freq
--set optimizer.sgd.nesterov=true: must be false without momentum above 0 and dampening 0
6 problems in the configuration; nothing was started."#
    );
}

#[test]
fn an_empty_file_says_what_is_needed() {
    assert_eq!(
        load("", &[]).expect_err("nothing to train on"),
        "toy.toml: data.train = [] must name the training text: two line-aligned files, or one .tsv or .jsonl file
toy.toml: train.max_updates = 0 must be above 0, or max_epochs, max_hours or validation.early_stopping: training would never end
toy.toml: data.valid = [] must name a corpus for the metrics nll, bleu, chrf; without one set validation.metrics = []
3 problems in the configuration; nothing was started."
    );
}

#[test]
fn a_section_is_no_value_and_a_value_no_section() {
    let found = problems("[optimizer]\nadam = 3\n[decode.beam_size]\nn = 3\n", &["optimizer=adam", "seed", "seed=[1"]);
    assert_eq!(
        found,
        "toy.toml:7: `optimizer.adam` is a section; give one of its keys, as `optimizer.adam.beta1`
toy.toml:8: decode.beam_size: expected a whole number
--set optimizer=adam: `optimizer` is a section; give one of its keys, as `optimizer.name`
--set seed: expected PATH=VALUE, as train.max_updates=1000
--set seed=[1: not a TOML value: unclosed array, expected `]`
5 problems in the configuration; nothing was started."
    );
}

#[test]
fn numbers_must_have_the_right_form() {
    let found = problems("batch_size = -1\nmax_epochs = 1e3\n[validation]\nvalid_freq = \"2x\"\nmetrics = [\n  \"nll\",\n  \"blue\",\n]\n", &[]);
    assert_eq!(
        found,
        r#"toy.toml:6: train.batch_size = -1: expected a whole number of 1 or more, or "auto"
toy.toml:7: train.max_epochs = 1e3: expected a whole number
toy.toml:9: validation.valid_freq = "2x": expected a number of updates, "500u", "1e" (every epoch) or 0 (only at the end)
toy.toml:12: validation.metrics: expected "nll", "bleu", "chrf", "chrf++" or "ter"; did you mean "bleu"?
4 problems in the configuration; nothing was started."#
    );
    let found = problems("[optimizer]\nlr = nan\nweight_decay = inf\n", &[]);
    assert!(found.contains("toy.toml:7: optimizer.lr must be above 0\n"), "{found}");
    assert!(found.contains("toy.toml:8: optimizer.weight_decay must be 0 or more\n"), "{found}");
}

#[test]
fn set_wins_over_the_file_and_the_last_set_wins() {
    let text = format!("{GOOD}log_freq = \"wrong\"\n");
    let sets = [
        "train.log_freq=7",
        "optimizer.name=sgd",
        "optimizer.name=clipped-adam",
        "optimizer.clipped-adam.max-norm=2",
        "optimizer.lr=1e-4",
        "validation.valid_freq=1e",
        "data.train=[\"x.en\", \"x.de\"]",
        "data.source_language=1984-01-01",
        "run_dir = runs/a b",
        "model.pretrained_embeddings=",
    ];
    let config = load(&text, &sets).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.train.log_freq, 7);
    assert_eq!(config.optimizer.name, config::OptimizerName::ClippedAdam);
    assert_eq!(config.optimizer.clipped_adam.max_norm, 2.0);
    assert_eq!(config.optimizer.lr, 1e-4);
    assert_eq!(config.validation.valid_freq, config::Every::Epochs(1));
    assert_eq!(config.data.train.0[0].files, ["x.en", "x.de"]);
    assert_eq!(config.data.source_language, "1984-01-01");
    assert_eq!(config.run_dir, "runs/a b");
    assert_eq!(config.model.pretrained_embeddings, "");
}

#[test]
fn a_key_in_both_spellings_is_given_twice() {
    let found = problems("log_freq = 1\nlog-freq = 2\n", &[]);
    assert!(found.contains("`train.log_freq` is given twice"), "{found}");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let source = Source::Path("configs/none-such.toml".into());
    let found = config::load(&source, &[]).expect_err("no such file").to_string();
    assert!(found.starts_with("configs/none-such.toml: can not read the configuration: No such file"), "{found}");
}

#[test]
fn what_nobody_wrote_is_told_in_a_few_lines() {
    // a width of a format is at most 65535
    let long = format!("a = \"{}\" b\n", "ü".repeat(100_000));
    let found = problems(&long, &[]);
    let [_, line, caret, _] = found.lines().collect::<Vec<_>>()[..] else { panic!("{} lines", found.lines().count()) };
    assert!(line.contains("| … üüü") && line.ends_with("ü\" b") && line.chars().count() < 300, "{line}");
    let at = caret.find('^').and_then(|at| line.chars().nth(at));
    assert_eq!(at, Some('b'), "{line}\n{caret}");

    for line in ["]\n".to_string(), "x\n".to_string(), "[a]\n".to_string()] {
        let found = problems(&line.repeat(100_000), &[]);
        assert!(found.ends_with("at least 100 problems in the configuration; nothing was started."), "{line}");
        assert!(found.lines().count() < 400, "{line}");
    }
    let keys: String = (0..80_000).map(|key| format!("k{key} = 1\n")).collect();
    assert_eq!(problems(&keys, &[]).lines().count(), 101);

    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 30).unwrap();
    let found = config::load(&Source::Path(file.path().into()), &[]).expect_err("zeros").to_string();
    assert!(found.contains("can not read the configuration: it has more than 1 MiB, or no end"), "{found}");
}

#[test]
fn the_run_folder_is_named_after_the_config_unless_it_is_set() {
    let source = Source::Text { name: "configs/toy.v2.toml".to_string(), text: GOOD.to_string() };
    let loaded = config::load(&source, &[]).expect("no problems");
    assert_eq!(loaded.run_dir(), std::path::Path::new("runs/toy.v2"));
    let loaded = config::load(&source, &["run_dir=elsewhere".to_string()]).expect("no problems");
    assert_eq!(loaded.run_dir(), std::path::Path::new("elsewhere"));
}

#[test]
fn corpora_with_weights_survive_a_round_trip() {
    let text = GOOD.replace(
        r#"train = ["a.en", "a.de"]"#,
        r#"train = [{ files = ["a.en", "a.de"], weight = 2.0 }, { files = ["c.jsonl.gz"] }]"#,
    );
    let config = load(&text, &[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(load(&config.to_toml().expect("TOML"), &[]), Ok(config.clone()));
    assert_ne!(config.data.train, Corpora::default());
}

#[test]
fn a_set_that_breaks_a_rule_of_the_file_is_the_one_named() {
    let found = problems("[model]\nd_model = 256\n", &["model.heads=3"]);
    assert_eq!(
        found,
        "--set model.heads=3: model.d_model = 256 must be a multiple of 2 × heads = 6
1 problem in the configuration; nothing was started."
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_loading_panic(at in 0usize..4000, cut in 0usize..40, put in "[\\[\\]{}=.\"'#\na1é\t-]{0,6}") {
        let good = include_str!("../../configs/multi30k-en-de.toml");
        let chars: Vec<char> = good.chars().collect();
        let at = at % chars.len();
        let text: String = chars[..at].iter().copied().chain(put.chars()).chain(chars.iter().skip(at + cut).copied()).collect();
        if let Err(problems) = load(&text, &[&put, &format!("data.train={put}"), &format!("{put}=1")]) {
            proptest::prop_assert!(problems.lines().count() > 1, "{}", problems);
        }
    }
}
