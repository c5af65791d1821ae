//! SentencePiece models: pieces, ids and text against the library's own (`scripts/sentencepiece-fixtures.py` made them),
//! tokenizers and runs with them, those of opus-mt, what leaves for Hugging Face, and BLEU over pieces.

use std::io::Write;
use std::path::{Path, PathBuf};

use nmt_train::config::TokenizerConfig;
use nmt_train::fsio;
use nmt_train::metrics::{bleu, BleuOptions, BleuTokenizer, MetricsError, SpmTokenizer};
use nmt_train::tokenizer::{HuggingFace, MarianFiles, RoundTrip, Tokenizer, Tokenizers};
use serde_json::{json, Value};

use super::toy::Toy;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece")
}

/// A model of the project, or of a corpus folder beside it that may be absent.
fn find(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("NMT_SHARED").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    [fixtures().join(name), shared.join("artefacts").join(name)].into_iter().find(|path| path.exists())
}

#[test]
#[expect(clippy::print_stdout, reason = "says that it was skipped")]
fn pieces_are_those_of_the_library() {
    let json: Value = serde_json::from_str(&fsio::read_to_string(&fixtures().join("pieces.json")).unwrap()).unwrap();
    let lines: Vec<&str> = json["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(lines.len() > 80);
    let mut compared = 0;
    for (name, pieces) in json["pieces"].as_object().unwrap() {
        let Some(path) = find(name) else {
            println!("skipped: {name} is not there");
            continue;
        };
        let model = SpmTokenizer::load(&path, None).unwrap();
        for (line, expected) in lines.iter().zip(pieces.as_array().unwrap()) {
            assert_eq!(model.tokens(line), expected.as_str().unwrap(), "{name}: {line:?}");
        }
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}

#[test]
fn spbleu_is_that_of_sacrebleu() {
    let json: Value = serde_json::from_str(&fsio::read_to_string(&fixtures().join("pieces.json")).unwrap()).unwrap();
    let lines: Vec<&str> = json["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let (references, hypotheses) = (vec![lines[1..].to_vec()], &lines[..lines.len() - 1]);
    for (name, wanted) in json["spbleu"].as_object().unwrap() {
        let path = fixtures().join(name);
        let named = format!("flores200:{}", path.display());
        let tokenizer = BleuTokenizer::wanted(&named, "en", |file| Ok::<_, MetricsError>(PathBuf::from(file))).unwrap();
        let found = bleu(hypotheses, &references, &BleuOptions { tokenizer, ..Default::default() }).unwrap();
        let score = wanted[0].as_f64().unwrap();
        assert!((found.score - score).abs() <= 1e-12 * score, "{name}: {} {score}", found.score);
        assert_eq!(found.to_string(), wanted[1].as_str().unwrap(), "{name}");
        let theirs = wanted[2].as_str().unwrap();
        let fields = |signature: &str| signature.rsplit_once("|version:").unwrap().0.to_string();
        assert_eq!(fields(&found.signature()), fields(theirs), "{name}");
    }
}

#[test]
fn names_of_sacrebleu_take_the_model_that_it_fetched() {
    let toy = Toy::new();
    let model = fsio::read(&fixtures().join("unigram.model")).unwrap();
    fsio::create_dir_all(&toy.path("models")).unwrap();
    for file in ["flores200sacrebleuspm", "sacrebleu_tokenizer_spm.model"] {
        toy.write(&format!("models/{file}"), &model);
    }
    toy.write("h", "The old clock had stopped.\n");
    toy.write("r", "The old clock in the hall had stopped.\n");
    let command = "evaluate --hypothesis h --reference r -m bleu --tokenize";
    let here = toy.path("").display().to_string();
    for (name, signature) in [("flores200", "flores200"), ("flores101", "flores101"), ("spm", "flores101")] {
        let told = toy.run_with(&format!("{command} {name}"), b"", &[("SACREBLEU", &here)]).exits(0).out;
        assert!(told.contains(&format!("|tok:{signature}|")), "{told}");
        let nowhere = toy.run_with(&format!("{command} {name}"), b"", &[("SACREBLEU", "absent")]).exits(3);
        nowhere.tells(&["absent/models/", "where sacreBLEU keeps it; fetch https://", &format!("{name}:FILE")]);
    }
    let told = toy.run(&format!("{command} flores101:models/flores200sacrebleuspm")).exits(0).out;
    assert!(told.contains("|tok:flores101|"), "{told}");
    toy.run(&format!("{command} flores200:")).exits(2).tells(&["known are 13a, ", "flores200[:FILE]"]);
}

#[test]
fn evaluate_counts_pieces_and_names_the_model() {
    let toy = Toy::new();
    let model = fixtures().join("unigram.model");
    toy.write("own.model", fsio::read(&model).unwrap());
    toy.write("h", "The old clock had stopped.\n");
    toy.write("r", "The old clock in the hall had stopped.\n");
    let told = toy.run("evaluate --hypothesis h --reference r -m bleu --tokenize spm:own.model").exits(0).out;
    let pieces = SpmTokenizer::load(&model, None).unwrap().tokens("The old clock had stopped.");
    let count = pieces.split(' ').count();
    assert!(told.contains(&format!("hyp_len = {count} ")) && told.contains("|tok:spm-own|"), "{told}");
    toy.write("broken.model", "{ \"model\": 1 }");
    toy.run("evaluate --hypothesis h --reference r --tokenize spm:broken.model")
        .exits(3)
        .tells(&["broken.model: not a SentencePiece model"]);
    toy.run("evaluate --hypothesis h --reference r --tokenize spm:absent.model").exits(3).tells(&["absent.model"]);
}

#[test]
fn tokenizers_of_models_give_the_librarys_ids_and_text() {
    let json: Value = serde_json::from_str(&fsio::read_to_string(&fixtures().join("pieces.json")).unwrap()).unwrap();
    let lines: Vec<&str> = json["more"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    for (name, wanted) in json["ids"].as_object().unwrap() {
        let Some(path) = find(name) else { continue };
        let tokenizer = Tokenizer::load(&path).unwrap();
        let batch = tokenizer.encode_batch(&lines).unwrap();
        for (i, (line, ids)) in lines.iter().zip(&batch).enumerate() {
            let (last, text) = ids.split_last().unwrap();
            assert_eq!((*last, &json!(text)), (tokenizer.eos_id(), &wanted[i]), "{name}: {line:?}");
            assert_eq!(tokenizer.decode(ids).unwrap(), json["text"][name][i], "{name}: {line:?}");
            assert_eq!(ids, &tokenizer.encode(line).unwrap());
        }
        let mut tokens = tokenizer.tokens();
        assert_eq!(tokens.len(), tokenizer.vocab_size());
        tokens.sort();
        tokens.dedup();
        assert!(tokens.len() == tokenizer.vocab_size() && !tokens.contains(&String::new()), "{name}");
    }
}

#[test]
fn special_tokens_of_a_model_are_read_and_not_assumed() {
    let of = |name: &str| Tokenizer::load(&fixtures().join(name)).unwrap();
    let usual = of("unigram.model");
    assert_eq!((usual.unk_id(), usual.eos_id(), usual.pad_id()), (0, 2, 300));
    assert_eq!(usual.added(), ["no padding token as the last id; added <pad> as id 300"]);
    let own = of("ids.model");
    assert_eq!((own.unk_id(), own.eos_id(), own.token(1).as_deref()), (2, 1, Some("[END]")));
    let last = own.pad_id();
    assert_eq!(own.added(), [format!("no padding token as the last id; added <nmt_pad> as id {last}")]);
    assert_eq!(usual.word(usual.encode("The").unwrap()[0]).as_deref(), Some("The"));
    let (line, back) = ("a\u{3000}\u{3000}b", "a b");
    let ids = usual.encode(line).unwrap();
    assert_eq!(usual.round_trip(line, &ids).unwrap(), RoundTrip::Same, "{back}");
    let ids = usual.encode("a ... b").unwrap();
    assert!(matches!(usual.round_trip("a ... b", &ids).unwrap(), RoundTrip::Unknown | RoundTrip::Normalized(_)));
}

#[test]
fn a_run_with_a_model_keeps_it_as_it_is() {
    let toy = Toy::new();
    let model = fsio::read(&fixtures().join("bytes.model")).unwrap();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    zipped.write_all(&model).unwrap();
    toy.write("own.model.gz", zipped.finish().unwrap());
    let told = toy.run("--config toy.toml --set tokenizer.path=own.model.gz").exits(0).err;
    assert!(told.contains("added <pad> as id 700"), "{told}");
    assert_eq!(fsio::read(&toy.path("run/tokenizer.spm")).unwrap(), model);
    assert!(!toy.exists("run/tokenizer.json"));
    let valid = toy.read("valid.en");
    let lines = toy.pipe("translate run", &valid).exits(0).out;
    assert_eq!(lines.lines().count(), valid.lines().count());
    // its file is a tokenizer of other runs, with the same ids
    toy.run("-q --config toy.toml --set tokenizer.path=run/tokenizer.spm --set run_dir=second --set seed=2").exits(0);
    assert_eq!(toy.read("second/tokenizer.vocab.json"), toy.read("run/tokenizer.vocab.json"));
    assert_eq!(toy.pipe("translate run second", &valid).exits(0).out.lines().count(), valid.lines().count());
    toy.run("-q --config toy.toml --set run_dir=other").exits(0);
    toy.pipe("translate run other", &valid).exits(3).tells(&["tokenizer.path = \"run/tokenizer.spm\""]);
    toy.run("tokenizer --config toy.toml --out second").exits(3).tells(&["second/tokenizer.spm exists"]);
    // forced, the run of another tokenizer leaves nothing of it behind
    toy.run("-q --config toy.toml --set run_dir=second --force").exits(0);
    assert!(toy.exists("second/tokenizer.json") && !toy.exists("second/tokenizer.spm"));
    std::fs::remove_file(toy.path("run/tokenizer.vocab.json")).unwrap();
    toy.pipe("translate run", &valid).exits(3).tells(&["run/tokenizer.vocab.json"]);
    toy.write("broken.model", &model[..model.len() / 2]);
    let told = toy.run("-q --config toy.toml --set tokenizer.path=broken.model --set run_dir=x").exits(3);
    told.tells(&["broken.model: not a SentencePiece model: it is cut, damaged or something else"]);
}

/// A folder of MarianTokenizer: two models, one `vocab.json` in another order than theirs, with a hole, a language code and
/// pieces of one side missing.
fn marian(folder: &Path, tokens: impl IntoIterator<Item = (String, u32)>) -> nmt_train::tokenizer::Result<Tokenizers> {
    let ids: serde_json::Map<String, Value> = tokens.into_iter().map(|(token, id)| (token, id.into())).collect();
    let vocab = folder.join("vocab.json");
    fsio::write_atomic(&vocab, Value::Object(ids).to_string().as_bytes()).unwrap();
    let (source_spm, target_spm) = (&fixtures().join("unigram.model"), &fixtures().join("bpe.model"));
    Tokenizers::marian(&MarianFiles {
        source_spm,
        target_spm,
        vocab: &vocab,
        target_vocab: None,
        special: MarianFiles::usual(),
        marian: true,
    })
}

fn marian_tokens() -> Vec<(String, u32)> {
    let pieces = |name: &str| Tokenizer::load(&fixtures().join(name)).unwrap().tokens();
    let mut own: Vec<String> = [pieces("unigram.model"), pieces("bpe.model")].concat();
    own.sort();
    own.dedup();
    let special = ["<unk>", "<s>", "</s>", "<pad>", "<user>"];
    own.retain(|token| !special.contains(&token.as_str()) && token != "▁The");
    let tokens = ["</s>", "<unk>", ">>de<<", "✓"].map(str::to_string).into_iter().chain(own);
    // id 4 has no token
    let mut ids: Vec<(String, u32)> = tokens.zip((0..).filter(|id| *id != 4)).collect();
    let last = ids.last().unwrap().1 + 1;
    ids.push(("<pad>".to_string(), last));
    ids
}

#[test]
fn two_models_with_one_vocabulary_are_cut_apart_and_mean_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let both = marian(folder.path(), marian_tokens()).unwrap();
    assert!(!both.is_joint() && both.share_vocabulary());
    let source = &both.source;
    assert_eq!((source.unk_id(), source.eos_id(), source.pad_id() as usize), (1, 0, source.vocab_size() - 1));
    let names = |side: &Tokenizer, line: &str| {
        let ids = side.encode(line).unwrap();
        ids.iter().map(|id| side.token(*id).unwrap()).collect::<Vec<_>>()
    };
    // a code at the start is one token, anywhere else it is text; an unknown one is unknown
    assert_eq!(names(source, ">>de<< a"), [">>de<<", "▁a", "</s>"]);
    assert_eq!(names(source, ">>de<<a"), [">>de<<", "▁a", "</s>"]);
    assert_eq!(names(source, ">>zz<< a"), ["<unk>", "▁a", "</s>"]);
    assert!(!names(source, "a >>de<<").contains(&">>de<<".to_string()));
    // a character that the model does not know but the vocabulary does; special tokens in text are text
    assert_eq!(names(source, "✓ ✗"), ["▁", "✓", "▁", "<unk>", "</s>"]);
    assert!(!source.encode("a </s> <pad> >>").unwrap()[1..4].contains(&source.eos_id()));
    // a piece that the vocabulary lacks
    assert_eq!(names(source, "The"), ["<unk>", "</s>"]);
    let (line, ids) = ("Der Hafen", both.target.encode("Der Hafen").unwrap());
    assert_eq!(both.target.decode(&ids).unwrap(), line);
    assert_ne!(source.encode(line).unwrap(), ids);
    assert_eq!(source.decode(&[4, 2, source.eos_id()]).unwrap(), ">>de<<");
    assert_eq!(source.token(4).as_deref(), Some("<no_token_4>"));

    both.save(folder.path()).unwrap();
    assert!(!folder.path().join("tokenizer.target.vocab.json").exists());
    let again = Tokenizers::load_saved(folder.path()).unwrap();
    assert_eq!(again.fingerprint(), both.fingerprint());
    assert_eq!(again.paths(), ("tokenizer.spm", Some("tokenizer.target.spm")));
    assert_eq!(again.target.encode(line).unwrap(), ids);
    let elsewhere = [again.paths().0, again.paths().1.unwrap()].map(|name| folder.path().join(name));
    let elsewhere = Tokenizers::load(&elsewhere[0], Some(&elsewhere[1])).unwrap();
    assert_eq!(elsewhere.fingerprint(), both.fingerprint());
}

#[test]
fn a_vocabulary_that_can_not_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let told = |tokens: &[(&str, Value)]| {
        let ids: serde_json::Map<String, Value> = tokens.iter().map(|(t, id)| (t.to_string(), id.clone())).collect();
        let vocab = folder.path().join("vocab.json");
        fsio::write_atomic(&vocab, Value::Object(ids).to_string().as_bytes()).unwrap();
        let model = fixtures().join("unigram.model");
        let files = MarianFiles {
            source_spm: &model,
            target_spm: &model,
            vocab: &vocab,
            target_vocab: None,
            special: MarianFiles::usual(),
            marian: true,
        };
        Tokenizers::marian(&files).err().unwrap().to_string()
    };
    let first = told(&[("<pad>", json!(0)), ("<unk>", json!(1)), ("</s>", json!(2))]);
    assert!(first.contains("vocab.json: ") && first.contains("<pad> has the id 0, but </s> the id 2"), "{first}");
    assert!(told(&[("</s>", json!(0)), ("<pad>", json!(1))]).ends_with("it has no token <unk>"));
    assert!(told(&[("a", json!(-1))]).ends_with("the token a has -1 for an id"));
    assert!(told(&[("a", json!(4_000_000_000u32))]).contains("too large"));
    let mut absent = marian_tokens();
    absent.retain(|(token, _)| token != "<pad>");
    assert!(marian(folder.path(), absent).err().unwrap().to_string().ends_with("it has no token <pad>"));
    let other = fixtures().join("pieces.json");
    let files = MarianFiles {
        source_spm: &other,
        target_spm: &other,
        vocab: &folder.path().join("vocab.json"),
        target_vocab: None,
        special: MarianFiles::usual(),
        marian: true,
    };
    let told = Tokenizers::marian(&files).err().unwrap().to_string();
    assert!(told.contains("pieces.json: not a SentencePiece model"), "{told}");
}

const HUGGING_FACE: HuggingFace = HuggingFace { source_language: "en", target_language: "de", model_max_length: 128 };

fn hugging_face(tokenizers: &Tokenizers) -> (Vec<String>, Value) {
    let files = tokenizers.huggingface_files(&HUGGING_FACE).unwrap();
    let config = files.iter().find(|(name, _)| name == "tokenizer_config.json").unwrap();
    let mut names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    (names, serde_json::from_slice(&config.1).unwrap())
}

#[test]
fn hugging_face_gets_the_files_that_it_can_read() {
    let spm = |name: &str| Tokenizer::load(&fixtures().join(name)).unwrap();
    let (names, config) = hugging_face(&Tokenizers::joint(spm("unigram.model")));
    assert_eq!(names, ["source.spm", "target.spm", "tokenizer.json", "tokenizer_config.json", "vocab.json"]);
    assert_eq!(
        (&config["tokenizer_class"], &config["pad_token"]),
        (&json!("PreTrainedTokenizerFast"), &json!("<pad>"))
    );
    assert_eq!((&config["model_max_length"], &config["target_lang"]), (&json!(128), &json!("de")));
    // what tokenizer.json can not hold is left to the class that needs sentencepiece
    let (names, config) = hugging_face(&Tokenizers::joint(spm("word.model")));
    assert_eq!(names, ["source.spm", "target.spm", "tokenizer_config.json", "vocab.json"]);
    assert_eq!(config["tokenizer_class"], "MarianTokenizer");
    let folder = tempfile::tempdir().unwrap();
    let (names, config) = hugging_face(&marian(folder.path(), marian_tokens()).unwrap());
    assert_eq!(names, ["source.spm", "target.spm", "tokenizer_config.json", "vocab.json"]);
    assert_eq!((&config["separate_vocabs"], &config["tokenizer_class"]), (&json!(false), &json!("MarianTokenizer")));
    // two vocabularies: their special tokens must be the same
    let twins = Tokenizers::separate(spm("unigram.model"), spm("suffix.model"));
    let (names, config) = hugging_face(&twins);
    assert!(names.contains(&"target_vocab.json".to_string()) && config["separate_vocabs"] == true, "{names:?}");
    for other in
        [spm("bpe.model"), Tokenizer::train(&TokenizerConfig::default(), &[], std::iter::once("a b".into())).unwrap()]
    {
        let told = Tokenizers::separate(spm("unigram.model"), other).huggingface_files(&HUGGING_FACE).unwrap_err();
        assert!(told.to_string().contains("--format ctranslate2"), "{told}");
    }
}

/// Where it can be expressed, the tokenizers library reads the same ids off the converted file.
#[test]
fn the_converted_file_gives_nearly_the_same_ids() {
    let json: Value = serde_json::from_str(&fsio::read_to_string(&fixtures().join("pieces.json")).unwrap()).unwrap();
    let lines: Vec<&str> = json["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    for (name, least) in [("unigram.model", 0.97), ("bpe.model", 0.9), ("bytes.model", 0.97)] {
        let tokenizer = Tokenizer::load(&fixtures().join(name)).unwrap();
        let mut library = tokenizers::Tokenizer::from_bytes(tokenizer.to_json().unwrap()).unwrap();
        library.set_encode_special_tokens(true);
        let same =
            |line: &&&str| library.encode_fast(**line, true).unwrap().get_ids() == tokenizer.encode(line).unwrap();
        let equal = lines.iter().filter(same).count() as f64 / lines.len() as f64;
        assert!(equal >= least, "{name}: {equal}");
        let ids = tokenizer.encode(lines[0]).unwrap();
        assert_eq!(library.decode(&ids, true).unwrap(), tokenizer.decode(&ids).unwrap(), "{name}");
    }
}

/// Writes into the folder `out` the ids of lines (JSON strings, one a line) on both sides and what they are decoded to, as
/// `ids.json`, and the files that Hugging Face gets. `tokenizer` is a file, or a folder of MarianTokenizer.
fn ids_for_checks(tokenizer: &Path, lines: &Path, out: &Path) {
    let tokenizers = match tokenizer.is_dir() {
        true => {
            let [source_spm, target_spm, vocab, target_vocab] =
                ["source.spm", "target.spm", "vocab.json", "target_vocab.json"].map(|name| tokenizer.join(name));
            let target_vocab = target_vocab.exists().then_some(target_vocab.as_path());
            Tokenizers::marian(&MarianFiles {
                source_spm: &source_spm,
                target_spm: &target_spm,
                vocab: &vocab,
                target_vocab,
                special: MarianFiles::usual(),
                marian: true,
            })
        }
        false => Tokenizers::load(tokenizer, None),
    };
    let tokenizers = tokenizers.unwrap();
    let text = fsio::read_to_string(lines).unwrap();
    let lines: Vec<String> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sides = [&tokenizers.source, &tokenizers.target].map(|side| {
        let ids = side.encode_batch(&lines).unwrap();
        let text: Vec<String> = ids.iter().map(|ids| side.decode(ids).unwrap()).collect();
        serde_json::json!({"ids": ids, "text": text, "special": [side.unk_id(), side.eos_id(), side.pad_id()]})
    });
    fsio::write_atomic(&out.join("ids.json"), serde_json::to_string(&sides).unwrap().as_bytes()).unwrap();
    for (name, bytes) in tokenizers.huggingface_files(&HUGGING_FACE).unwrap() {
        fsio::write_atomic(&out.join(name), &bytes).unwrap();
    }
}

#[test]
#[ignore = "gives ids to tests/interop/check_sentencepiece.py"]
fn writes_ids_for_checks() {
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
    ids_for_checks(&path("NMT_CHECK_TOKENIZER"), &path("NMT_CHECK_LINES"), &path("NMT_CHECK_OUT"));
}
