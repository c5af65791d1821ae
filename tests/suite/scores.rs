//! The same text gives the same numbers in training, `evaluate`, `score` and `translate`, whatever blank lines, byte order
//! marks and spaces it holds, and however it comes.

use std::io::Write;
use std::process::Stdio;

use nmt_train::tokenizer::Tokenizers;

use super::toy::{done, Toy};

/// A held-out text with all that goes wrong: a mark, blank lines of many kinds on either side or both, odd spaces.
fn hostile(toy: &Toy) {
    let sides = [("valid.en", "held.en"), ("valid.de", "held.de")];
    let blank = ["", "", " ", "\t", "\u{3000}", "\u{200B}", "   "];
    for ((from, to), skew) in sides.into_iter().zip([0, 2]) {
        let mut text = String::from("\u{FEFF}");
        for (i, line) in toy.read(from).lines().enumerate() {
            text.push_str(&format!("{}{line} \r\n", if i % 2 == 0 { " " } else { "" }));
            text.push_str(&format!("{}\n", blank[(i + skew) % blank.len()]));
        }
        toy.write(to, text);
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn test_scores_of_training_are_those_of_evaluate_and_of_its_translations() {
    let toy = Toy::new();
    hostile(&toy);
    let set = "--set data.test=[\"held.en\",\"held.de\"] --set data.valid=[\"held.en\",\"held.de\"]";
    for beam in [1, 3] {
        toy.run(&format!("-q --config toy.toml {set} --set decode.beam_size={beam} --force")).exits(0);
        let end = toy.rows("run").pop().unwrap();
        let numbers: Vec<String> =
            ["test_bleu", "test_chrf"].map(|score| format!(" = {:.2} ", end[score].as_f64().unwrap())).to_vec();
        let run = toy.run("evaluate run --source held.en --reference held.de").exits(0).out;
        assert!(lines(&run).iter().zip(&numbers).all(|(line, number)| format!("{line} ").contains(number)), "{run}");

        let translated = toy.pipe("translate run", toy.read("held.en")).exits(0).out;
        assert_eq!(translated, toy.read("run/translations/test.txt"));
        let blank = lines(&translated).iter().skip(1).step_by(2).all(|line| line.is_empty());
        assert!(blank, "a blank line gives a blank one: {translated}");
        let piped = toy.pipe("evaluate --hypothesis - --reference held.de", &translated).exits(0).out;
        assert_eq!(piped, run);
    }
}

#[test]
fn nll_of_training_is_the_mean_of_score() {
    let toy = Toy::new();
    hostile(&toy);
    // targets of blank sources are another matter: -inf
    let sources = toy.read("held.en");
    let targets = toy.read("held.de");
    let plain = |text: &str| text.trim_start_matches('\u{FEFF}').to_string();
    let (sources, targets) = (plain(&sources), plain(&targets));
    let both: Vec<(&str, &str)> = lines(&sources).into_iter().zip(lines(&targets)).collect();
    let text = |side: fn(&(&str, &str)) -> String| both.iter().map(side).collect::<String>();
    toy.write("s", text(|(source, _)| format!("{source}\n")));
    toy.write("t", text(|(source, target)| format!("{}\n", if source.trim().len() > 3 { target } else { "" })));
    toy.write("t", format!("{}\n\n", toy.read("t").trim_end_matches('\n')));
    toy.write("s", format!("{}\nthe dog sees a tree\n", toy.read("s").trim_end_matches('\n')));
    toy.run("-q --config toy.toml --set data.valid=[\"s\",\"t\"] --set data.test=[]").exits(0);
    let nll = toy.rows("run").iter().rev().find(|row| row["event"] == "valid").unwrap()["nll"].as_f64().unwrap();

    let scores = toy.run("score run --source s --target t --checkpoint latest").exits(0).out;
    let scores: Vec<f64> = scores.lines().map(|score| score.parse().unwrap()).collect();
    let tokenizers = Tokenizers::load_saved(&toy.path("run")).unwrap();
    let (s, t) = (toy.read("s"), toy.read("t"));
    let asked = tokenizers.source.encode_lines(&lines(&s)).unwrap();
    let labels = tokenizers.target.encode_labels(&lines(&t)).unwrap();
    let tokens: usize = asked.iter().zip(&labels).filter(|(ids, _)| !ids.is_empty()).map(|(_, ids)| ids.len()).sum();
    let mean = -scores.iter().sum::<f64>() / tokens as f64;
    assert!((mean - nll).abs() < 1e-4, "{mean} {nll}");
    assert!(scores.last().is_some_and(|score| *score < -0.1), "a blank target of a sentence is `</s>` alone");
}

#[test]
fn an_empty_pair_scores_the_same_everywhere() {
    let toy = Toy::trained();
    toy.write("s", "\u{FEFF}\n  \n\t\u{200B}\nthe dog sees a tree\n");
    toy.write("t", "\n \n\u{3000}\n");
    toy.run("score run --source s --target t").exits(3).tells(&["s has 4 lines, t has 3"]);
    toy.write("t", "\n \n\u{3000}\nder hund sieht einen baum\n");
    let scored = toy.run("score run --source s --target t").exits(0).out;
    let translated = toy.pipe("translate run --scores --length-penalty 0", toy.read("s")).exits(0).out;
    for i in 0..3 {
        assert_eq!(lines(&scored)[i], "0.000000");
        assert_eq!(lines(&translated)[i], "0.000000\t");
    }
    toy.write("s", "\n");
    toy.write("t", "etwas\n");
    assert_eq!(toy.run("score run --source s --target t").exits(0).out, "-inf\n", "never translated so");
}

#[test]
fn pipes_and_stdin_are_read_like_files() {
    let toy = Toy::trained();
    let run = toy.run("evaluate run --source valid.en --reference valid.de").exits(0).out;
    assert_eq!(toy.pipe("evaluate run --source - --reference valid.de", toy.read("valid.en")).exits(0).out, run);
    assert_eq!(toy.pipe("evaluate run --source valid.en --reference /dev/stdin", toy.read("valid.de")).out, run);
    let scores = toy.run("score run --source valid.en --target valid.de").exits(0).out;
    assert_eq!(toy.pipe("score run --source valid.en --target -", toy.read("valid.de")).exits(0).out, scores);
    let program = env!("CARGO_BIN_EXE_nmt-train");
    let mut shell = std::process::Command::new("bash");
    let script = format!(
        "'{program}' evaluate run --source <(cat valid.en) --reference <(gzip -c valid.de) && \
         '{program}' score run --source <(cat valid.en) --target <(cat valid.de)"
    );
    let output = shell.args(["-c", &script]).current_dir(toy.path("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{run}{scores}"));
    for twice in [
        "evaluate --hypothesis - --reference -",
        "evaluate run --source - --reference /dev/stdin",
        "evaluate --hypothesis valid.de --reference - --reference -",
        "score run --source - --target -",
    ] {
        toy.pipe(twice, "a\n").exits(3).tells(&["only one file can be read from stdin"]);
    }
}

/// The numbers are sacreBLEU's: `sacrebleu r1 r2 -i h -m bleu chrf ter -w 2` (2.6.0).
#[test]
fn several_references_count_as_in_sacrebleu() {
    let toy = Toy::new();
    toy.write("h", "\u{FEFF}the dog sees a tree\r\n\r\nthe cat likes the old river\r\na man\r\n");
    toy.write("r1", "the dog sees one tree\n\nthe cat likes this river\na woman hears\n");
    toy.write("r2", "a dog sees a tree today\nnothing\n\na man\n");
    let told = toy.run("evaluate --hypothesis h --reference r1 --reference r2 -m bleu,chrf,ter").exits(0).out;
    let expected = [
        "BLEU = 51.01 84.6/70.0/57.1/20.0 (BP = 1.000 ratio = 1.083 hyp_len = 13 ref_len = 12)  nrefs:2|",
        "chrF2 = 69.19  nrefs:2|",
        "TER = 27.27  nrefs:2|",
    ];
    for (line, expected) in told.lines().zip(expected) {
        assert!(line.starts_with(expected), "{told}");
    }
    // of two references that are as good, chrF takes the first
    let swapped = toy.run("evaluate --hypothesis h --reference r2 --reference r1 -m chrf").exits(0).out;
    assert!(swapped.starts_with("chrF2 = 62.67  nrefs:2|"), "{swapped}");
    toy.write("r2", "one\ntwo\n");
    toy.run("evaluate --hypothesis h --reference r1 --reference r2").exits(3).tells(&["h has 4 lines, r2 has 2"]);
}

#[test]
fn further_references_count_in_training_as_in_evaluate() {
    let toy = Toy::new();
    let second = toy.read("valid.de").replace("hund", "köter").replacen("die katze", "", 1);
    toy.write("r2.de", second.replace('\n', "\r\n"));
    toy.write("r3.de", "\n".repeat(8) + "der hund");
    let metrics = "--set validation.metrics=[\"nll\",\"bleu\",\"chrf\",\"ter\"]";
    // the toy model says what valid.de says
    let set = "--set data.valid=[\"valid.en\",\"r2.de\"] --set data.test=[\"valid.en\",\"r2.de\"]";
    let further =
        "--set validation.references=[\"valid.de\"] --set validation.test_references=[\"valid.de\",\"r3.de\"]";
    let told = toy.run(&format!("--config toy.toml {metrics} {set} {further}")).exits(0);
    told.tells(&["nrefs:3|"]);
    let row = |kind: &str| toy.rows("run").into_iter().rev().find(|row| row["event"] == kind).unwrap();
    let (valid, end) = (row("valid"), row("end"));
    let valid = ["bleu", "chrf", "ter"].map(|name| valid[name].as_f64().unwrap());
    let test = ["test_bleu", "test_chrf", "test_ter"].map(|name| end[name].as_f64().unwrap());
    for (file, scores, more, count) in
        [("valid-00000060", valid, "", "nrefs:2|"), ("test", test, "--reference r3.de", "nrefs:3|")]
    {
        let args = format!("evaluate --hypothesis run/translations/{file}.txt -m bleu,chrf,ter");
        let found = toy.run(&format!("{args} --reference r2.de --reference valid.de {more}")).exits(0).out;
        let one = toy.run(&format!("{args} --reference r2.de")).exits(0).out;
        for ((line, one), score) in found.lines().zip(one.lines()).zip(scores) {
            assert!(line.contains(&format!(" = {score:.2} ")) && line.contains(count), "{line}: {score}");
            assert!(!one.contains(&format!(" = {score:.2} ")), "{one}: a second reference changes nothing");
        }
    }
    let nll = row("valid")["nll"].clone();
    toy.run(&format!("-q --config toy.toml {metrics} {set} --set run_dir=plain")).exits(0);
    assert_eq!(toy.rows("plain").into_iter().rev().find(|row| row["event"] == "valid").unwrap()["nll"], nll);
}

#[test]
fn other_references_are_another_unit_for_scores_of_text_alone() {
    let toy = Toy::new();
    toy.write("r2.de", toy.read("valid.de").replace("hund", "köter"));
    toy.write("r3.de", toy.read("valid.de").replace("katze", "mieze"));
    let by = "--set validation.early_stopping_metric=bleu";
    toy.run(&format!("-q --config toy.toml --set validation.references=[\"r2.de\"] {by}")).exits(0);
    let same = toy.run("--resume run --set train.max_updates=80").exits(0);
    assert!(!same.err.contains("judged another way"), "{}", same.err);
    let other = toy.run("--resume run --set train.max_updates=100 --set validation.references=[\"r3.de\"]").exits(0);
    other.tells(&["are not of the same references", "judged another way: 0 of the 4 validations so far"]);
    let by_nll = "--set train.max_updates=120 --set validation.early_stopping_metric=nll";
    toy.run(&format!("--resume run {by_nll}")).exits(0).tells(&["by nll now, not by bleu: 5 of the 5"]);

    std::fs::rename(toy.path("r3.de"), toy.path("moved.de")).unwrap();
    toy.run("--resume run --set train.max_updates=140").exits(3).tells(&[
        "the text of this run is not where it was: r3.de",
        "--set 'validation.references=[\"FOLDER/r3.de\"]'",
    ]);
    toy.run("-q --resume run --set train.max_updates=140 --set validation.references=[\"moved.de\"]").exits(0);
}

#[test]
fn references_that_do_not_fit_are_refused_with_both_names() {
    let toy = Toy::new();
    toy.write("short.de", "eins\nzwei\n");
    for (args, told) in [
        ("--set validation.references=[\"short.de\"]", "valid.de has 9 lines, short.de has 2"),
        ("--set validation.test_references=[\"short.de\"]", "valid.de has 9 lines, short.de has 2"),
        ("--set validation.references=[\"train.de\"]", "the first line without a partner is train.de:10"),
        ("--set validation.references=[\"absent.de\"]", "can not open absent.de"),
        ("--set validation.references=[\"/dev/null\"]", "/dev/null is not a regular file"),
        ("--set validation.references=short.de", "validation.references"),
        ("--set data.test=[] --set validation.test_references=[\"short.de\"]", "must be [] without data.test"),
    ] {
        toy.run(&format!("--config toy.toml {args}")).exits(3).tells(&[told]);
        assert!(!toy.exists("run/config.toml"));
    }
}

#[test]
fn a_marked_file_with_dos_ends_is_the_same_hypothesis() {
    let toy = Toy::new();
    let dos = format!("\u{FEFF}{}", toy.read("valid.de").replace('\n', "\r\n"));
    toy.write("dos", dos);
    let told = toy.run("evaluate --hypothesis dos --reference valid.de -m bleu,chrf,chrf++,ter").exits(0).out;
    for (line, best) in told.lines().zip(["BLEU = 100.00 ", "chrF2 = 100.00 ", "chrF2++ = 100.00 ", "TER = 0.00 "]) {
        assert!(line.starts_with(best), "{told}");
    }
}

#[test]
fn lines_longer_than_training_saw_are_told_once_with_the_first() {
    let toy = Toy::new();
    toy.run("-q --config toy.toml --set data.max_length=12 --set data.test=[]").exits(0);
    let long = "the dog sees a tree and ".repeat(8);
    let input = format!("the cat\n{long}\nthe dog\n{long}\n");
    for args in ["translate run", "translate run --n-best 2"] {
        let told = toy.pipe(args, &input).exits(0).err;
        assert!(told.starts_with("2 lines have more tokens (line 2, the first of them, has "), "{told}");
        assert!(told.contains("than the 12 of the longest that training could see (data.max_length)"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert_eq!(toy.pipe("translate run -q", &input).exits(0).err, "");
    assert_eq!(toy.pipe("translate run", "the cat\n").exits(0).err, "");
    toy.write("s", format!("the cat\n{long}\n"));
    toy.write("t", "die katze\nder hund\n");
    let told = ["line 2 has ", " tokens, more than the 12 of the longest"];
    toy.run("evaluate run --source s --reference t").exits(0).tells(&told);
    toy.run("score run --source s --target t").exits(0).tells(&told);
}

#[test]
fn scripts_without_spaces_are_told_of_in_training_and_by_evaluate_and_the_config_names_the_words() {
    let toy = Toy::new();
    let thai = "ฉันกินข้าว\nเขาไปโรงเรียน\n".repeat(5);
    toy.write("s", "the dog sees a tree\nthe cat\n".repeat(5));
    toy.write("t", &thai);
    let told = ["written in Thai, without spaces between words", "validation.tokenize = \"char\""];
    toy.run("evaluate --hypothesis t --reference t").exits(0).tells(&told);
    let quiet = toy.run("evaluate --hypothesis t --reference t --tokenize 13a").exits(0);
    assert_eq!(quiet.err, "");
    let set = "--set data.valid=[\"s\",\"t\"] --set data.test=[\"s\",\"t\"]";
    toy.run(&format!("check --config toy.toml {set}")).exits(0).tells(&told);
    let char = format!("--config toy.toml {set} --set validation.tokenize=char --set train.max_updates=20");
    let trained = toy.run(&char).exits(0).tells(&["|tok:char|"]);
    assert!(!trained.err.contains("written in Thai"), "{}", trained.err);
    let evaluated = toy.run("evaluate run --source s --reference t").exits(0);
    assert!(evaluated.out.contains("|tok:char|"), "{}", evaluated.out);
    let other = toy.run("evaluate run --source s --reference t --tokenize intl").exits(0);
    assert!(other.out.contains("|tok:intl|"), "{}", other.out);
    let wrong = toy.run("--config toy.toml --set validation.tokenize=mecab").exits(3);
    wrong.tells(&["validation.tokenize=mecab: must be one of 13a, zh, intl, char, none, flores200[:FILE], flores101[:FILE], spm[:FILE], or empty"]);
}

#[test]
fn a_pipe_is_answered_when_its_writer_waits() {
    use std::io::{BufRead, BufReader};
    let toy = Toy::trained();
    let all = toy.pipe("translate run", toy.read("valid.en")).exits(0).out;
    let mut command = toy.command("translate run");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut answers = String::new();
    for line in toy.read("valid.en").lines() {
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
        // hangs for ever where the answer waits for more input
        output.read_line(&mut answers).unwrap();
    }
    assert_eq!(answers, all);
    drop(input);
    assert_eq!(output.read_line(&mut answers).unwrap(), 0);
    done(child).exits(0);
}
