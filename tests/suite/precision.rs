//! `train.precision` and `--precision` on the CPU: what bf16 promises of threads, resume and use, and what is said where it
//! is not to be had. By the arithmetic that every CPU has, and by the units of this one where it has some.

use crate::toy::{Done, Toy};

const BF16: &str = "-q --config toy.toml --set train.precision=bf16";

/// The program where bf16 products are done with these units.
#[track_caller]
fn run(toy: &Toy, args: &str, units: Option<&str>) -> Done {
    let env: Vec<(&str, &str)> = units.map(|units| ("NMT_TRAIN_UNITS", units)).into_iter().collect();
    toy.run_with(args, b"", &env)
}

/// The portable arithmetic, and what this CPU has (`None`).
#[expect(clippy::print_stdout, reason = "says what was skipped")]
fn units_here() -> Vec<Option<&'static str>> {
    let own = nmt_train::ops::bf16_units();
    if own.is_none() {
        println!("skipped: this CPU has no units for bf16; only the portable arithmetic is tested");
    }
    [Some("portable")].into_iter().chain(own.map(|_| None)).collect()
}

/// The last checkpoint's tensors.
fn trained(toy: &Toy, run: &str) -> Vec<Vec<u8>> {
    let file = |name: &str| std::fs::read(toy.path(&format!("{run}/checkpoints/step-00000060/{name}"))).unwrap();
    vec![file("model.safetensors"), file("optimizer.safetensors")]
}

#[test]
fn bf16_is_the_same_on_any_number_of_threads_and_after_a_resume_and_is_not_f32() {
    let kinds =
        ["", " --set model.kind=rnn", " --set model.kind=rnn --set model.rnn.cell=lstm --set model.dropout=0.1"];
    for kind in kinds {
        let toy = Toy::new();
        toy.run(&format!("-q --config toy.toml{kind} --set run_dir=f32")).exits(0);
        for units in units_here() {
            for (name, rest) in [("whole", ""), ("threads", " --threads 2"), ("part", " --set train.max_updates=20")] {
                run(&toy, &format!("{BF16}{kind}{rest} --set run_dir={name} --force"), units).exits(0);
            }
            let told = run(&toy, "--resume part --set train.max_updates=60", units).exits(0).err;
            assert!(!told.contains("not bit for bit"), "{told}");
            let whole = trained(&toy, "whole");
            assert!(whole == trained(&toy, "threads"), "threads change the result{kind} {units:?}");
            assert!(whole == trained(&toy, "part"), "a resume changes the result{kind} {units:?}");
            assert!(whole != trained(&toy, "f32"), "bf16 is f32{kind} {units:?}");
            let start = &toy.rows("whole")[0];
            assert_eq!((start["event"].as_str(), start["precision"].as_str()), (Some("start"), Some("bf16")));
        }
    }
}

#[test]
fn where_there_are_no_units_bf16_is_refused_or_replaced_with_a_word() {
    let toy = Toy::new();
    let needs = ["precision bf16 needs a GPU or a CPU with avx512_bf16 or amx_bf16", "use f32 here"];
    for command in [BF16, "check --config toy.toml --set train.precision=bf16"] {
        run(&toy, command, Some("none")).exits(3).tells(&needs);
    }
    assert!(!toy.exists("run"), "a refused run left a folder");
    toy.run("-q --config toy.toml --set train.precision=tf32").exits(3).tells(&["precision tf32 needs a GPU"]);

    let auto = "--config toy.toml --set train.precision=bf16 --device auto --set run_dir=auto";
    run(&toy, auto, Some("none")).exits(0).tells(&["computing in f32 instead"]);
    assert_eq!(toy.rows("auto")[0]["precision"], "f32");
    toy.run("-q --config toy.toml").exits(0);
    assert!(trained(&toy, "auto") == trained(&toy, "run"));

    for command in ["translate run --input valid.en", "score run --source valid.en --target valid.de"] {
        let bf16 = format!("{command} --precision bf16");
        run(&toy, &bf16, Some("none")).exits(3).tells(&needs);
        let replaced = run(&toy, &format!("{bf16} --device auto"), Some("none")).exits(0);
        assert_eq!(replaced.tells(&["computing in f32 instead"]).out, toy.run(command).exits(0).out);
    }
}

#[test]
fn a_model_of_bf16_is_used_in_f32_unless_bf16_is_asked_for() {
    let toy = Toy::new();
    run(&toy, BF16, Some("portable")).exits(0);
    for units in units_here() {
        for command in [
            "score run --source valid.en --target valid.de",
            "translate run --input valid.en --scores",
            "evaluate run --source valid.en --reference valid.de",
        ] {
            let [unsaid, f32, bf16] = ["", " --precision f32", " --precision bf16"]
                .map(|precision| run(&toy, &format!("{command}{precision}"), units).exits(0).out);
            assert_eq!(unsaid, f32);
            assert!(bf16 != f32 || command.starts_with("evaluate"), "{command}: {bf16}");
            let threads = run(&toy, &format!("{command} --precision bf16 --threads 2"), units).exits(0).out;
            assert_eq!(bf16, threads, "{command}");
        }
    }
}

/// The last bits depend on the units: who goes on with others is told.
#[test]
fn a_run_that_goes_on_by_other_instructions_says_so() {
    let toy = Toy::new();
    run(&toy, &format!("{BF16} --set train.max_updates=20"), Some("portable")).exits(0);
    let goes_on = ["up to update 20", "cpu, bf16, portable bf16; it goes on by: cpu, f32, ", "not bit for bit"];
    run(&toy, "--resume run --set train.max_updates=30", Some("none")).exits(3).tells(&["precision bf16 needs"]);
    let replaced = run(&toy, "--resume run --set train.max_updates=30 --device auto", Some("none"));
    replaced.exits(0).tells(&goes_on).tells(&["computing in f32 instead"]);
    run(&toy, &format!("{BF16} --set train.max_updates=20 --force"), Some("portable")).exits(0);
    toy.run("-q --resume run --set train.precision=f32 --set train.max_updates=40").exits(0).tells(&goes_on);
    let again = toy.run("-q --resume run --set train.max_updates=60").exits(0).err;
    assert!(!again.contains("not bit for bit"), "{again}");
}
