//! Columns of TSV: which are chosen, and what is said where they are most likely not meant.

use nmt_train::config::{Column, DataConfig};
use nmt_train::data::{held_out, look};

use super::data::{config, corpus, pair, Folder};

/// A TSV corpus with the columns that are given, and without any.
fn tsv(f: &Folder, text: &str, columns: &[Column]) -> DataConfig {
    DataConfig { columns: columns.to_vec(), ..config(vec![corpus(&[&f.file("t.tsv", text)])]) }
}

#[test]
fn columns_of_tsv_are_chosen_by_number_or_name() {
    let f = Folder::new();
    let tatoeba = "1276\tHello\t77\tHallo\n\n1277\tGo\t78\tGeh\n";
    let numbers = [Column::Number(2), Column::Number(4)];
    let wanted = vec![pair("Hello", "Hallo"), pair("", ""), pair("Go", "Geh")];
    let pairs = |data: &DataConfig| held_out(&data.train, data).map(|held| held.pairs);
    assert_eq!(pairs(&tsv(&f, tatoeba, &numbers)).unwrap(), wanted);
    let names = [Column::Name("de".to_string()), Column::Name("en".to_string())];
    let ted = "talk\ten\tde\nx\tHello\tHallo\nx\tGo\tGeh\n";
    assert_eq!(pairs(&tsv(&f, ted, &names)).unwrap(), [pair("Hallo", "Hello"), pair("Geh", "Go")]);
    let mut own = tsv(&f, tatoeba, &names);
    own.train.0[0].columns = numbers.to_vec();
    assert_eq!(pairs(&own).unwrap(), wanted, "a corpus has its own");
    let say = |data: &DataConfig| f.message(&pairs(data).unwrap_err());
    assert_eq!(say(&tsv(&f, "1\ta\t2\tb\n1\ta\n", &numbers)), "t.tsv:2: 2 columns, column 4 is needed");
    assert!(say(&tsv(&f, "en\tfr\na\tb\n", &names)).starts_with("t.tsv:1: no column \"de\" (there: en, fr)"));
    assert_eq!(say(&tsv(&f, "en\tde\n", &names)), "t.tsv is empty: no line of text in it");
}

/// Remarks on a text with the columns that are given; warnings begin with "!".
fn remarks(f: &Folder, text: &str, columns: &[Column]) -> Vec<String> {
    let told = look(&tsv(f, text, columns)).unwrap();
    let line = |text: &str| text.replace(&format!("{}/", f.path().display()), "");
    told.iter().map(|r| format!("{}{}", if r.warning { "!" } else { "" }, line(&r.text))).collect()
}

#[test]
fn columns_that_are_most_likely_not_meant_are_told() {
    let f = Folder::new();
    let numbers = |a, b| [Column::Number(a), Column::Number(b)];
    let tatoeba: String = (0..30).map(|i| format!("{}\tHello {i}\t{}\tHallo {i}\n", 1276 + i, 77 + i)).collect();
    assert_eq!(
        remarks(&f, &tatoeba, &[]),
        [
            "t.tsv has 4 columns; 1 and 2 are used, as \"1276\" -> \"Hello 0\"; data.columns names others",
            "!t.tsv: column 1, used as the source, holds numbers, as \"1276\", not text; set data.columns = [2, 4]",
        ]
    );
    let chosen = ["t.tsv has 4 columns; 2 and 4 are used, as \"Hello 0\" -> \"Hallo 0\""];
    assert_eq!(remarks(&f, &tatoeba, &numbers(2, 4)), chosen);
    let ted = "talk_name\ten\tde\nx\tHello there\tHallo\nx\tGo\tGeh\n";
    assert_eq!(
        remarks(&f, ted, &[]),
        [
            "t.tsv has 3 columns; 1 and 2 are used, as \"talk_name\" -> \"en\"; data.columns names others",
            "!t.tsv:1 looks like a header and is taken for text: \"talk_name\" -> \"en\"; \
             set data.columns = [\"en\", \"de\"]",
        ]
    );
    let names = [Column::Name("en".to_string()), Column::Name("de".to_string())];
    let named = ["t.tsv has 3 columns; \"en\" and \"de\" are used, as \"Hello there\" -> \"Hallo\""];
    assert_eq!(remarks(&f, ted, &names), named);
    let plain_header = remarks(&f, "Source\tTarget\na\tb\n", &[]);
    assert_eq!(plain_header.len(), 1);
    assert!(plain_header[0].ends_with("set data.columns = [\"Source\", \"Target\"]"), "{plain_header:?}");
    let languages: String = (0..30).map(|i| format!("{i}\teng\tText {i}\n")).collect();
    let told = remarks(&f, &languages, &numbers(2, 3));
    assert!(told[1].starts_with("!t.tsv: column 2, used as the source, holds \"eng\" in every line"), "{told:?}");
    for right in ["a dog\tein Hund\nin 1990\t1990\nyes\tja\n", "", "\n\n", "one\n"] {
        assert_eq!(remarks(&f, right, &[]), Vec::<String>::new());
    }
}
