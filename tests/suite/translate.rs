//! What `translate` writes, and where: JSON, files that an interrupted job goes on with, and what is wrong with either.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Stdio};

use flate2::write::GzEncoder;
use serde_json::Value;

use super::toy::{cut, done, Toy};

/// More than a block, most of it blank, so that it costs little.
fn long_text(toy: &Toy) -> String {
    let valid = toy.read("valid.en");
    let lines: Vec<&str> = valid.lines().collect();
    (0..4200).map(|i| format!("{}\n", if i % 97 == 3 { lines[i % lines.len()] } else { "" })).collect()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// A job that waits for more text of its pipe, having answered some lines.
fn waiting(toy: &Toy, args: &str, text: &str) -> Child {
    let mut command = toy.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = text.lines().count();
    child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    toy.wait_for("out.partial/record.json", &format!("\"lines\":{lines},"));
    child
}

/// By the option and by the run's config, and with either as in validations.
#[test]
fn nothing_is_said_twice_where_that_is_forbidden() {
    let toy = Toy::new();
    // hardly trained, so that it repeats itself
    toy.run("-q --config toy.toml --set train.max_updates=12").exits(0);
    let said = |args: &str| {
        let found = toy.pipe(&format!("translate run --format json {args}"), toy.read("valid.en")).exits(0).out;
        let pieces = objects(&found).into_iter().map(|object| object["translations"][0]["pieces"].clone());
        pieces.map(|pieces| strings(&pieces).into_iter().map(String::from).collect()).collect::<Vec<Vec<String>>>()
    };
    let repeats = |all: &[Vec<String>], n: usize| {
        let repeats = |pieces: &Vec<String>| {
            (n..pieces.len()).any(|i| pieces[..i].windows(n).any(|w| pieces[i + 1 - n..=i] == *w))
        };
        all.iter().filter(|pieces| repeats(pieces)).count()
    };
    assert!(repeats(&said(""), 2) > 0, "it repeats nothing");
    for n in [1, 2] {
        let found = said(&format!("--no-repeat-ngram-size {n}"));
        assert_eq!(repeats(&found, n), 0, "{found:?}");
    }
    toy.run("-q --config toy.toml --set train.max_updates=12 --set decode.no_repeat_ngram_size=2 --set run_dir=other")
        .exits(0);
    let validated = toy.read("other/translations/valid-00000012.txt");
    let translated = toy.pipe("translate other --beam 1", toy.read("valid.en")).exits(0).out;
    assert_eq!(validated, translated);
    let free = toy.pipe("translate other --beam 1 --no-repeat-ngram-size 0", toy.read("valid.en")).exits(0).out;
    assert_ne!(validated, free);
}

#[test]
fn json_has_the_texts_and_numbers_of_the_other_forms() {
    for kind in ["transformer", "rnn"] {
        let toy = Toy::new();
        toy.run(&format!("-q --config toy.toml --set model.kind={kind}")).exits(0);
        let input = format!("{}\n \u{200B}\nthe dog <pad> \"x\" \\ \u{2028} 🙂\n", toy.read("valid.en"));
        let n_best = toy.pipe("translate run --n-best 3", &input).exits(0).out;
        let found = objects(&toy.pipe("translate run --n-best 3 --format json --alignment", &input).exits(0).out);
        assert_eq!(found.len(), input.lines().count());
        let mut listed = String::new();
        let mut pairs = Vec::new();
        for ((object, line), number) in found.iter().zip(input.lines()).zip(0..) {
            assert_eq!(object["source"], line);
            let source = strings(&object["source_pieces"]);
            assert_eq!(source.last().copied(), if line.trim().len() > 3 { Some("</s>") } else { None });
            for translation in object["translations"].as_array().unwrap() {
                let (text, score) = (translation["text"].as_str().unwrap(), translation["score"].as_f64().unwrap());
                listed.push_str(&format!("{number} ||| {text} ||| {score:.6}\n"));
                let pieces = strings(&translation["pieces"]);
                let places: Vec<[usize; 2]> = serde_json::from_value(translation["alignment"].clone()).unwrap();
                assert_eq!(places.iter().map(|place| place[1]).collect::<Vec<_>>(), Vec::from_iter(0..pieces.len()));
                assert!(places.iter().all(|place| place[0] < source.len()), "{object}");
                if pieces.last() == Some(&"</s>") {
                    pairs.push((line, text, score, translation["log_probability"].as_f64().unwrap()));
                }
            }
        }
        assert_eq!(listed, n_best);
        assert_eq!(
            found[10]["translations"].to_string(),
            r#"[{"text":"","score":0.0,"log_probability":0.0,"pieces":[],"alignment":[]}]"#
        );
        assert!(pairs.len() > 12 && pairs.iter().any(|(.., score, sum)| score != sum), "{pairs:?}");

        let best = toy.pipe("translate run --format json", &input).exits(0).out;
        let scores = toy.pipe("translate run --scores", &input).exits(0).out;
        for ((best, scored), all) in objects(&best).iter().zip(scores.lines()).zip(&found) {
            let mut first = all["translations"][0].clone();
            first.as_object_mut().unwrap().remove("alignment");
            assert_eq!(best["translations"], Value::from(vec![first.clone()]), "n-best changes the best");
            let text = format!("{:.6}\t{}", first["score"].as_f64().unwrap(), first["text"].as_str().unwrap());
            assert_eq!(scored, text);
        }

        // what a tokenizer gives back differs from what it reads where the text holds unknown pieces
        let known: Vec<_> = pairs.iter().filter(|(line, ..)| toy.read("valid.en").contains(line)).collect();
        toy.write("s", known.iter().map(|pair| format!("{}\n", pair.0)).collect::<String>());
        toy.write("t", known.iter().map(|pair| format!("{}\n", pair.1)).collect::<String>());
        for (args, wanted) in [("--length-penalty 1", [1, 0]), ("", [0, 1]), ("--length-penalty 0", [0, 1])] {
            let again = toy.run(&format!("score run --source s --target t {args}")).exits(0).out;
            for (again, (.., score, sum)) in again.lines().zip(&known) {
                let expected = f64::from(wanted[0]) * score + f64::from(wanted[1]) * sum;
                assert!((again.parse::<f64>().unwrap() - expected).abs() < 1e-4, "{args}: {again} {expected}");
            }
        }
        toy.write("s", "\n\nthe dog\n");
        toy.write("t", "\nder hund\n\n");
        let blank = toy.run("score run --source s --target t --length-penalty 1").exits(0).out;
        assert!(blank.starts_with("0.000000\n-inf\n-"), "{blank}");
    }
}

#[test]
fn an_ensemble_is_aligned_by_its_first_model() {
    let toy = Toy::trained();
    toy.run("-q --config toy.toml --set seed=2 --set tokenizer.path=run/tokenizer.json --set run_dir=b").exits(0);
    let json = |runs: &str| {
        objects(&toy.pipe(&format!("translate {runs} --format json --alignment"), toy.read("valid.en")).exits(0).out)
    };
    let (alone, both) = (json("run"), json("run b"));
    assert_eq!(both.len(), alone.len());
    for (alone, both) in alone.iter().zip(&both) {
        let (alone, both) = (&alone["translations"][0], &both["translations"][0]);
        if alone["pieces"] == both["pieces"] {
            assert_eq!(alone["alignment"], both["alignment"]);
        }
    }
}

#[test]
fn a_file_holds_what_stdout_would_and_is_not_replaced_unasked() {
    let toy = Toy::trained();
    let input = format!("\u{FEFF}{}\n\n", toy.read("valid.en"));
    toy.write("in", &input);
    let mut zip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(input.as_bytes()).unwrap();
    toy.write("in.gz", zip.finish().unwrap());
    for form in ["", "--scores", "--n-best 2", "--format json"] {
        let expected = toy.pipe(&format!("translate run {form}"), &input).exits(0).out;
        for from in ["--input in", "--input in.gz", "--input -", ""] {
            let told = toy.pipe(&format!("translate run {form} {from} --output out --force"), &input).exits(0);
            assert_eq!((toy.read("out"), told.out.as_str(), told.err.as_str()), (expected.clone(), "", ""), "{from}");
            let printed = toy.pipe(&format!("translate run {form} {from} --output -"), &input).exits(0).out;
            assert_eq!(printed, expected);
        }
    }
    toy.write("out", "mine\n");
    toy.run("translate run --input in --output out").exits(3).tells(&["--output out: this file exists", "--force"]);
    assert_eq!(toy.read("out"), "mine\n");
    toy.write("none", "");
    toy.run("translate run --input none --output empty").exits(0);
    assert_eq!(toy.read("empty"), "");
    assert!(!toy.list("").iter().any(|name| name.contains("partial") || name.starts_with(".tmp")));
}

#[test]
fn arguments_that_do_not_fit_are_refused_before_anything_is_written() {
    let toy = Toy::trained();
    toy.write("in", "the dog\n");
    toy.write("stdin", "the cat\n");
    std::os::unix::fs::symlink(toy.path("in"), toy.path("link")).unwrap();
    let before = toy.list("");
    for (args, code, told) in [
        ("--input in --output missing/out", 3, "--output missing/out: there is no folder missing"),
        ("--input in --output run", 3, "--output run: this is a folder"),
        ("--input in --output new/", 3, "this names a folder"),
        ("--input in --output in --force", 3, "--output in: this is the input"),
        ("--input in --output link --force", 3, "--output link: this is the input"),
        ("--input in --output ./in --force", 3, "this is the input"),
        ("--output stdin --force", 3, "--output stdin: this is the input"),
        ("--input in --output /dev/null", 3, "not a regular file"),
        ("--input absent --output out", 3, "can not open absent"),
        ("--input run --output out", 3, "run is a folder"),
        ("--input in --format json --scores", 2, "--scores is of --format text"),
        ("--input in --alignment", 2, "--alignment needs --format json"),
        ("--input in --force", 2, "--output"),
        ("--input in --n-best 0", 3, "--n-best must be 1 or more"),
        ("--input in --max-batch-tokens 0", 3, "--max-batch-tokens must be 1 or more"),
    ] {
        let mut command = toy.command(&format!("translate run {args}"));
        command.stdin(File::open(toy.path("stdin")).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let done = done(command.spawn().unwrap()).exits(code).tells(&[told]);
        assert_eq!(done.out, "", "{args}");
        assert_eq!(toy.list(""), before, "{args}");
    }
    toy.run("score run --source in --target in --length-penalty -1").exits(3).tells(&["--length-penalty must be"]);
}

#[test]
fn a_job_that_ran_out_of_disk_goes_on_with_the_same_command() {
    let toy = Toy::trained();
    let input = long_text(&toy);
    toy.write("in", &input);
    for form in ["--n-best 2", "--format json"] {
        let args = format!("translate run {form} --beam 2 --input in --output out --force");
        let expected = toy.run(&format!("translate run {form} --beam 2 --input in")).exits(0).out;
        let first = expected.len() - expected.lines().rev().take(20).map(|line| line.len() + 1).sum::<usize>();
        let fault = [("NMT_TRAIN_FAULT", &*format!("append:bytes={first}"))];
        let full = toy.run_with(&args, b"", &fault).exits(1);
        full.tells(&[
            "no space left on the disk for out.partial/answers",
            "out.partial keeps the answers to the first 4096 lines",
        ]);
        assert!(expected.starts_with(&toy.read("out.partial/answers")));
        let again = toy.run(&format!("{args} --max-batch-tokens 64")).exits(0);
        again.tells(&["out.partial: going on behind line 4096"]);
        assert!(toy.read("out") == expected && !toy.exists("out.partial"), "{form}");
    }
}

#[test]
fn a_job_that_was_killed_goes_on_and_two_do_not_write_one_file() {
    let toy = Toy::trained();
    let input = toy.read("valid.en");
    let head: String = input.lines().take(4).map(|line| format!("{line}\n")).collect();
    let mut child = waiting(&toy, "translate run --output out", &head);
    let told = format!("out.partial is being written by process {}", child.id());
    toy.pipe("translate run --output out", &input).exits(3).tells(&[&told]);
    child.kill().unwrap();
    child.wait().unwrap();
    // as if it had been killed while it wrote
    let mut answers = std::fs::OpenOptions::new().append(true).open(toy.path("out.partial/answers")).unwrap();
    answers.write_all("half a l".as_bytes()).unwrap();
    toy.pipe("translate run --output out", &input).exits(0).tells(&["going on behind line 4"]);
    assert_eq!(toy.read("out"), toy.pipe("translate run", &input).exits(0).out);
    assert!(!toy.exists("out.partial"));
}

#[test]
fn what_belongs_to_another_job_is_told_and_kept() {
    let toy = Toy::trained();
    let input = toy.read("valid.en");
    let head: String = input.lines().take(4).map(|line| format!("{line}\n")).collect();
    let mut child = waiting(&toy, "translate run --output out", &head);
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = |args: &str, input: &str, told: &str| {
        let before = toy.read("out.partial/answers");
        let cure = "to begin anew delete it: rm -r out.partial";
        toy.pipe(&format!("translate {args} --output out"), input).exits(3).tells(&[
            "out.partial is of another job",
            told,
            cure,
        ]);
        assert_eq!(toy.read("out.partial/answers"), before);
        assert!(!toy.exists("out"));
    };
    refused("run --beam 2", &input, "it was made with --beam 3, not 2");
    refused("run --length-penalty 0.5", &input, "it was made with --length-penalty 1 (length), not 0.5 (length)");
    refused("run --scores", &input, "it was made with --scores false, not true");
    refused("run --n-best 3", &input, "it was made with --n-best no, not 3");
    refused("run --format json", &input, "it was made with --format text, not json");
    refused("run --checkpoint 20", &input, "it was made with other weights");
    refused("run run", &input, "it was made with other weights");
    refused("run", &input.replacen("the", "a", 1), "the 4 lines that it answers are not those of stdin");
    refused("run", "the dog\n", "it answers 4 lines, stdin has 1");
    toy.write("out.partial/mine", "");
    toy.pipe("translate run --output out", &input).exits(3).tells(&["there is mine in it; give --output another name"]);
    std::fs::remove_file(toy.path("out.partial/mine")).unwrap();

    // text that comes after what was answered may be another
    let record = toy.read("out.partial/record.json");
    let longer = format!("{head}a woman\n");
    toy.pipe("translate run --output out", &longer).exits(0);
    assert_eq!(toy.read("out"), toy.pipe("translate run", &longer).exits(0).out);

    let remake = |record: &str, answers: &str| {
        std::fs::create_dir_all(toy.path("out.partial")).unwrap();
        toy.write("out.partial/record.json", record);
        toy.write("out.partial/answers", answers);
    };
    std::fs::remove_file(toy.path("out")).unwrap();
    remake(&record, "");
    refused("run", &input, "its answers are cut off at 0 of");
    remake(&record[..record.len() / 2], "");
    refused("run", &input, "record.json can not be read");
    // a job that was ended between its last two steps
    std::fs::remove_file(toy.path("out.partial/answers")).unwrap();
    toy.pipe("translate run --output out", &input).exits(0);
    assert_eq!(toy.read("out").lines().count(), input.lines().count());
}

#[test]
fn lines_before_invalid_text_stay_and_the_repaired_file_goes_on() {
    let toy = Toy::trained();
    let good = toy.read("valid.en");
    toy.write("in", [good.as_bytes(), b"the \xFF dog\nthe cat\n"].concat());
    let told = "in:10: not valid UTF-8; the lines before it were translated, it and the rest not";
    let stdout = toy.run("translate run --input in").exits(3).tells(&[told]).out;
    let kept = "out.partial keeps the answers to the first 9 lines; the same command goes on behind them";
    toy.run("translate run --input in --output out").exits(3).tells(&[told, kept]);
    assert_eq!(toy.read("out.partial/answers"), stdout);
    assert!(!toy.exists("out"));
    toy.write("in", format!("{good}the  dog\nthe cat\n"));
    toy.run("translate run --input in --output out").exits(0);
    assert_eq!(toy.read("out"), toy.run("translate run --input in").exits(0).out);

    let mut zip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(long_text(&toy).as_bytes()).unwrap();
    toy.write("cut.gz", zip.finish().unwrap());
    cut(&toy.path("cut.gz"), toy.path("cut.gz").metadata().unwrap().len() - 9);
    toy.run("translate run --beam 1 --input cut.gz --output cut")
        .exits(3)
        .tells(&["not a whole gzip file", "cut.partial keeps"]);
    toy.write("bad", b"\xFF\n");
    toy.run("translate run --input bad --output new").exits(3).tells(&["bad:1: not valid UTF-8"]);
    assert!(!toy.exists("new.partial"), "nothing was done");
}

#[test]
fn a_reader_that_went_away_does_not_end_a_file() {
    let toy = Toy::trained();
    toy.write("in", toy.read("valid.en"));
    let mut command = toy.command("translate run --input in --output out");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    done(child).exits(0);
    assert_eq!(toy.read("out").lines().count(), 9);
}
