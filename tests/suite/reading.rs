//! What the program says of the text it reads, and that a run goes on wherever its text has moved to.

use std::io::Write;

use super::toy::{done, Toy};

const LONGER: &str = "--resume run --set train.max_updates=80 --set checkpoint.save_freq=40";

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Training text of the toy as one file: `line` writes a pair.
fn one_file(toy: &Toy, line: impl Fn(usize, &str, &str) -> String) -> String {
    let (en, de) = (toy.read("train.en"), toy.read("train.de"));
    en.lines().zip(de.lines()).enumerate().map(|(i, (en, de))| line(i, en, de)).collect()
}

#[test]
fn line_breaks_inside_fields_are_told_and_make_no_lines() {
    let toy = Toy::new();
    let broken = |text: &str| text.replacen(' ', "\\n", 1);
    toy.write(
        "t.jsonl",
        one_file(&toy, |_, en, de| format!("{{\"en\":\"{}\",\"de\":\"{}\"}}\n", broken(en), broken(de))),
    );
    toy.write("v.jsonl", "{\"en\":\"the dog\",\"de\":\"der\\r\\nhund\"}\n{\"en\":\"a man\",\"de\":\"ein\\nmann\"}\n");
    let args = "--config toy.toml --set data.train=t.jsonl --set data.valid=v.jsonl --set data.test=[]";
    let told = [
        "160 fields had line breaks inside, now spaces, the first at t.jsonl:1",
        "2 fields had line breaks inside, now spaces, the first at v.jsonl:1",
    ];
    toy.run(&format!("check {args}")).exits(0).tells(&told);
    toy.run(args).exits(0).tells(&told);
    assert_eq!(toy.read("run/translations/valid-00000060.txt").lines().count(), 2);
    let plain = toy.pipe("translate run", "the dog sees the house\n").exits(0).out;
    assert_eq!(plain.lines().count(), 1, "{plain}");
}

/// The same bits as without the move, whatever the files are called and however they are packed.
#[test]
fn a_run_goes_on_where_its_text_has_moved_to() {
    let toy = Toy::trained();
    let stay = Toy::trained();
    stay.run(&format!("-q {LONGER}")).exits(0);
    std::fs::create_dir(toy.path("new")).unwrap();
    for name in ["train.en", "train.de", "valid.en", "valid.de"] {
        toy.write(&format!("new/{name}.gz"), gz(&toy.read(name)));
        std::fs::rename(toy.path(name), toy.path(&format!("new/{name}"))).unwrap();
    }
    toy.run(LONGER).exits(3).tells(&[
        "the text of this run is not where it was: train.en, train.de, valid.en, valid.de (looked for in",
        r#"name it anew: --set 'data.train=["FOLDER/train.en", "FOLDER/train.de"]' --set 'data.valid=["#,
    ]);
    let held_out =
        r#"--set data.valid=["new/valid.en","new/valid.de"] --set data.test=["new/valid.en","new/valid.de"]"#;
    let with = |train: &str| format!("{LONGER} {held_out} --set data.train={train}");
    let changed = "the training text has changed since this run was started";
    toy.run(&with(r#"["new/train.de","new/train.en"]"#)).exits(3).tells(&[changed]);
    toy.write("new/more.en", toy.read("new/train.en").replacen("dog", "hen", 1));
    toy.run(&with(r#"["new/more.en","new/train.de"]"#)).exits(3).tells(&[changed]);
    let weighted = r#"[{files=["new/train.en","new/train.de"],weight=2.0}]"#;
    toy.run(&with(weighted)).exits(3).tells(&["can not be continued with these changes", "data.train"]);
    toy.run(&with(r#"["new/train.en.gz","new/train.de"]"#)).exits(0).tells(&["changed: data.train"]);
    let weights = |toy: &Toy| std::fs::read(toy.path("run/checkpoints/step-00000080/model.safetensors")).unwrap();
    assert!(weights(&toy) == weights(&stay), "the text is the same, the weights are not");
    toy.run("--resume run --set train.max_updates=90").exits(0);
}

#[test]
fn columns_of_tsv_are_chosen_and_doubtful_ones_are_told() {
    let toy = Toy::new();
    toy.write("t.tsv", one_file(&toy, |i, en, de| format!("{}\t{en}\t{}\t{de}\n", 1276 + i, 77 + i)));
    let check = |args: &str| toy.run(&format!("check --config toy.toml --set data.train=t.tsv {args}")).exits(0);
    check("").tells(&[
        "t.tsv has 4 columns; 1 and 2 are used, as \"1276\" -> \"the dog sees the house\"",
        "warning:",
        "t.tsv: column 1, used as the source, holds numbers",
        "set data.columns = [2, 4]",
    ]);
    let right = check("--set data.columns=[2,4]");
    assert!(!right.err.contains("columns = ["), "{}", right.err);
    toy.write("h.tsv", format!("id\ten\tde\n{}", one_file(&toy, |i, en, de| format!("{i}\t{en}\t{de}\n"))));
    let named = toy.run("check --config toy.toml --set data.train=h.tsv --set data.columns=['en','de']").exits(0);
    assert!(named.err.contains("80 of 80") && !named.err.contains("looks like a header"), "{}", named.err);
    let own = r#"check --config toy.toml --set data.train=[{files=["t.tsv"],columns=[2,4]},{files=["h.tsv"],columns=["en","de"]}]"#;
    assert!(toy.run(own).exits(0).err.contains("160 of 160"));
    toy.run("-q --config toy.toml --set data.train=t.tsv --set data.columns=[2,4]").exits(0);
    let numbers = "--resume run --set train.max_updates=61 --set data.columns=[4,2]";
    toy.run(numbers).exits(3).tells(&["the training text has changed"]);
    toy.run("-q --resume run --set train.max_updates=61").exits(0);
}

#[test]
fn the_home_folder_is_meant_by_a_tilde() {
    let toy = Toy::new();
    std::fs::create_dir(toy.path("data")).unwrap();
    toy.write("data/train.en", toy.read("train.en"));
    let home = toy.path("").to_str().unwrap().to_string();
    let args = "-q --config toy.toml --set train.max_updates=2 --set data.train=[\"~/data/train.en\",\"~/train.de\"] \
                --set run_dir=~/runs/a --set data.cache_dir=~/encoded";
    toy.run_with(args, b"", &[("HOME", &home)]).exits(0);
    assert!(toy.exists("runs/a/checkpoints") && toy.exists("encoded") && !toy.exists("~"));
    let other = toy.run_with("check --config toy.toml --set run_dir=~you/a", b"", &[("HOME", &home)]);
    other.exits(3).tells(&["--set run_dir=~you/a: `~you/a`: only `~/` stands for a home folder"]);
}

#[test]
fn four_files_in_one_list_are_sorted_into_tables() {
    let toy = Toy::new();
    let files = r#"["a.en","a.de","b.en","b.de"]"#;
    let told = r#"perhaps [{ files = ["a.en", "a.de"] }, { files = ["b.en", "b.de"] }]"#;
    toy.run(&format!("check --config toy.toml --set data.train={files}")).exits(3).tells(&[told]);
    let text = toy.read("toy.toml").replace(r#"train = ["train.en", "train.de"]"#, &format!("train = {files}"));
    toy.write("four.toml", text);
    toy.run("check --config four.toml").exits(3).tells(&["four.toml:6: data.train", told]);
    let table = toy.run(r#"check --config toy.toml --set data.train={files=["train.en","train.de"]}"#);
    table.exits(0);
}

/// Training text is read twice, held-out text again on resume.
#[test]
fn text_that_is_read_twice_lies_in_files() {
    let toy = Toy::new();
    let args = [
        "-c",
        r#"exec "$0" check --config toy.toml --set "data.valid=[\"/dev/fd/3\",\"valid.de\"]" 3< <(cat valid.en)"#,
    ];
    let mut command = std::process::Command::new("bash");
    command.args(args).arg(env!("CARGO_BIN_EXE_nmt-train")).current_dir(toy.path(""));
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    done(child).exits(3).tells(&["/dev/fd/3 is not a regular file; text is read twice"]);
}
