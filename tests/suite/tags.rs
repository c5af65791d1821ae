//! `tag` of a corpus: a token before each of its source lines, in training alone.

use super::toy::Toy;

const TRAIN: &str = r#"data.train=[{files=["train.en","train.de"]},{files=["back.en","train.de"],tag="<BT>"}]"#;

/// With the reversed source lines as synthetic text.
fn toy() -> Toy {
    let toy = Toy::new();
    let back: String = toy.read("train.en").lines().map(|line| format!("{line} <BT>\n")).collect();
    toy.write("back.en", back);
    toy
}

fn train(toy: &Toy, args: &[&str]) -> super::toy::Done {
    let words: Vec<&str> =
        ["-q", "--config", "toy.toml", "--set", TRAIN].into_iter().chain(args.iter().copied()).collect();
    toy.run_words(&words)
}

#[test]
fn a_tokenizer_that_is_trained_with_the_corpus_has_the_tag_and_no_text_has_it() {
    let toy = toy();
    train(&toy, &[]).exits(0);
    let tokenizer: serde_json::Value = serde_json::from_str(&toy.read("run/tokenizer.json")).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let names: Vec<&str> = added.iter().map(|token| token["content"].as_str().unwrap()).collect();
    assert_eq!(names, ["<unk>", "<s>", "</s>", "<BT>", "<pad>"]);
    let pieces = toy.pipe("translate run --format json", "the dog <BT>\n").exits(0).out;
    assert!(!pieces.contains("\"<BT>\""), "{pieces}");
    toy.run("export run --format huggingface --out h").exits(0);
    toy.run("import h --out i").exits(0);
    let valid = toy.read("valid.en");
    assert_eq!(toy.pipe("translate i", &valid).exits(0).out, toy.pipe("translate run", &valid).exits(0).out);
}

#[test]
fn the_tag_teaches_what_it_stands_before() {
    let toy = toy();
    // the same source has two targets, which nothing but the tag tells apart
    let shout: String = toy.read("train.de").lines().map(|_| "der fluss\n").collect();
    toy.write("shout.de", shout);
    let told = r#"data.train=[{files=["train.en","train.de"]},{files=["train.en","shout.de"],tag="<BT>"}]"#;
    let words = ["-q", "--config", "toy.toml", "--set", told, "--set", "train.max_updates=150"];
    toy.run_words(&words).exits(0);
    let valid = toy.read("valid.en");
    let found = toy.pipe("translate run", &valid).exits(0).out;
    let shouted = found.lines().filter(|line| *line == "der fluss").count();
    assert_eq!(shouted, 0, "{found}");
}

#[test]
fn a_run_goes_on_exactly_also_where_text_is_cut_anew() {
    let toy = toy();
    let weights =
        |run: &str| std::fs::read(toy.path(&format!("{run}/checkpoints/step-00000040/model.safetensors"))).unwrap();
    let with = ["--set", "tokenizer.bpe_dropout=0.3", "--set", "train.max_updates=40"];
    train(&toy, &with).exits(0);
    train(&toy, &["--set", "tokenizer.bpe_dropout=0.3", "--set", "train.max_updates=20", "--set", "run_dir=b"])
        .exits(0);
    toy.run("-q --resume b --set train.max_updates=40").exits(0);
    assert_eq!(weights("run"), weights("b"));
    let other = TRAIN.replace("<BT>", "<s>");
    toy.run_words(&["-q", "--resume", "b", "--set", &other])
        .exits(3)
        .tells(&["data.train", "would change the training data"]);
    let told = toy.run_words(&["check", "--config", "toy.toml", "--set", TRAIN]).exits(0);
    told.tells(&["80, by <BT> before the source"]);
}

#[test]
fn a_tag_that_can_not_be_is_told_with_its_cure() {
    let toy = toy();
    toy.run("-q --config toy.toml").exits(0);
    let given = ["--set", "tokenizer.path=run/tokenizer.json", "--set", "run_dir=b"];
    train(&toy, &given).exits(3).tells(&["tag = \"<BT>\" is no token of the source's vocabulary", "as <s>"]);
    let with = |tag: &str| TRAIN.replace("<BT>", tag);
    let tried = |tag: &str| {
        let train = with(tag);
        let words: Vec<&str> =
            ["-q", "--force", "--config", "toy.toml", "--set", &train].into_iter().chain(given).collect();
        toy.run_words(&words)
    };
    tried("<s>").exits(0);
    tried("</s>").exits(3).tells(&["has a meaning of its own"]);
    for tag in ["BT", "<B T>", "<>", "dog"] {
        tried(tag).exits(3).tells(&["must have tags in marks and without spaces, as <BT>"]);
    }
    let valid = r#"data.valid=[{files=["valid.en","valid.de"],tag="<BT>"}]"#;
    toy.run_words(&["check", "--config", "toy.toml", "--set", valid]).exits(3).tells(&["must have no tags"]);
}
