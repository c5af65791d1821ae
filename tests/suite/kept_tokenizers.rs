//! A tokenizer is trained once for a text: the cache keeps it.

use std::path::PathBuf;

use super::toy::Toy;

const TRAINING: &str = "training the tokenizer on the training text";

/// Folders of tokenizers in the cache.
fn kept(toy: &Toy) -> Vec<PathBuf> {
    let all = std::fs::read_dir(toy.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let mut kept: Vec<PathBuf> = all.filter(|path| path.is_dir()).collect();
    kept.sort();
    kept
}

#[test]
fn the_next_run_on_a_text_takes_the_tokenizer_of_the_first() {
    let toy = Toy::new();
    let run = |name: &str, more: &str| {
        let words = format!("--config toy.toml --set run_dir={name} --set train.max_updates=2 {more}");
        toy.run(&words).exits(0).err
    };
    let files = ["tokenizer.json", "checkpoints/step-00000002/model.safetensors"];
    let bits = |name: &str| files.map(|file| std::fs::read(toy.path(name).join(file)).unwrap());
    assert!(run("first", "").contains(TRAINING));
    assert!(!run("second", "").contains(TRAINING));
    assert_eq!(bits("first"), bits("second"));

    // another text, another setting; what does not decide about pieces changes nothing
    assert!(run("other", "--set tokenizer.vocab_size=150").contains(TRAINING));
    assert!(run("other", "--force --set tokenizer.joint=false --set model.tied_embeddings=decoder").contains(TRAINING));
    assert!(!run("other", "--force --set tokenizer.bpe_dropout=0.1 --set data.max_length=50").contains(TRAINING));
    toy.write("train.en", toy.read("train.en").replacen("dog", "cow", 1));
    assert!(run("other", "--force").contains(TRAINING));
    assert_eq!(kept(&toy).len(), 4);
}

#[test]
fn a_damaged_one_is_trained_again() {
    let toy = Toy::new();
    let run =
        |name: &str| toy.run(&format!("--config toy.toml --set run_dir={name} --set train.max_updates=1")).exits(0).err;
    run("first");
    let file = kept(&toy).remove(0).join("tokenizer.json");
    let name = file.strip_prefix(toy.path("")).unwrap().display().to_string();
    for damage in [toy.read(&name).replacen("the", "thx", 1), "{".to_string()] {
        assert_ne!(damage, toy.read(&name));
        toy.write(&name, damage);
        let told = run("second");
        assert!(told.contains("is damaged") && told.contains(TRAINING), "{told}");
        assert_eq!(toy.read("first/tokenizer.json"), toy.read("second/tokenizer.json"));
        assert!(!toy
            .run("--config toy.toml --force --set run_dir=second --set train.max_updates=1")
            .err
            .contains(TRAINING));
        std::fs::remove_dir_all(toy.path("second")).unwrap();
    }
}
