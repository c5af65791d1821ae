//! `nmt-train export`: what is in the folders, what formats can not hold, and that nothing is left half-written.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use nmt_train::checkpoint::{read_weights, save_weights};
use nmt_train::fsio;
use serde_json::Value;

use super::toy::Toy;

const HF_FILES: [&str; 6] = [
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

impl Toy {
    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    fn weights(&self, name: &str) -> BTreeMap<String, Tensor> {
        read_weights(&self.path(name), &Device::Cpu).unwrap().into_iter().collect()
    }

    /// Average.safetensors of the run with one value changed.
    fn change_average(&self, value: f32) {
        let mut weights = self.weights("run/checkpoints/step-00000060");
        let bias = weights.get_mut("model.encoder.layers.0.fc1.bias").unwrap();
        let mut values = bias.to_vec1::<f32>().unwrap();
        values[1] = value;
        *bias = Tensor::new(values, &Device::Cpu).unwrap();
        save_weights(&self.path("run/average.safetensors"), &weights.into_iter().collect::<Vec<_>>()).unwrap();
    }
}

/// A variable of `model.bin`: sizes, number of its type, bytes.
type Stored = (Vec<usize>, u8, Vec<u8>);

/// Reads `model.bin` as CTranslate2 does; the second map has the aliases.
fn variables(path: &Path) -> (BTreeMap<String, Stored>, BTreeMap<String, String>) {
    let bytes = fsio::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at(n);
        rest = left;
        taken.to_vec()
    };
    fn number(bytes: Vec<u8>) -> usize {
        bytes.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte))
    }
    fn text(take: &mut impl FnMut(usize) -> Vec<u8>) -> String {
        let length = number(take(2));
        let mut bytes = take(length);
        assert_eq!(bytes.pop(), Some(0));
        String::from_utf8(bytes).unwrap()
    }
    assert_eq!(number(take(4)), 6);
    assert_eq!(text(&mut take), "TransformerSpec");
    assert_eq!(number(take(4)), 7);
    let mut stored = BTreeMap::new();
    for _ in 0..number(take(4)) {
        let name = text(&mut take);
        assert!(stored.keys().next_back().is_none_or(|last| *last < name), "{name} is not in order");
        let rank = number(take(1));
        let sizes = (0..rank).map(|_| number(take(4))).collect();
        let kind = take(1)[0];
        let length = number(take(4));
        stored.insert(name, (sizes, kind, take(length)));
    }
    let aliases = (0..number(take(4))).map(|_| (text(&mut take), text(&mut take))).collect();
    assert!(rest.is_empty());
    (stored, aliases)
}

fn floats(stored: &Stored) -> Vec<f32> {
    assert_eq!(stored.1, 0, "not float32");
    stored.2.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_hugging_face_folder_has_the_run_in_it() {
    let toy = Toy::trained();
    let err = toy.run("export run --format huggingface --out hf --checkpoint 40").exits(0).err;
    assert!(err.contains("hf: the weights of update 40 of run") && err.contains("model.safetensors"), "{err}");
    assert_eq!(toy.list("hf"), HF_FILES);

    let (ours, theirs) = (toy.weights("run/checkpoints/step-00000040"), toy.weights("hf/model.safetensors"));
    let bias = flat(&theirs["final_logits_bias"]);
    let size = bias.len();
    assert_eq!(theirs["final_logits_bias"].dims(), [1, size]);
    assert!(bias[..size - 1].iter().all(|&value| value == 0.0) && bias[size - 1] == -1e4, "{bias:?}");
    assert_eq!(theirs.len(), ours.len() + 1);
    for (name, tensor) in &ours {
        assert_eq!((tensor.dims(), flat(tensor)), (theirs[name].dims(), flat(&theirs[name])), "{name}");
    }
    let header = fsio::read(&toy.path("hf/model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header[8..80]).contains(r#""__metadata__":{"format":"pt"}"#));

    let (config, generation) = (toy.json("hf/config.json"), toy.json("hf/generation_config.json"));
    for (key, value) in [("vocab_size", size), ("d_model", 16), ("encoder_layers", 1), ("pad_token_id", size - 1)] {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!((&config["model_type"], &config["torch_dtype"]), (&"marian".into(), &"float32".into()));
    assert_eq!((&generation["num_beams"], &generation["bad_words_ids"][0][0]), (&3.into(), &(size - 1).into()));
    assert_eq!(toy.read("hf/tokenizer.json"), toy.read("run/tokenizer.json"));
    let tokenizer = toy.json("hf/tokenizer_config.json");
    assert_eq!((&tokenizer["pad_token"], &tokenizer["split_special_tokens"]), (&"<pad>".into(), &true.into()));
    assert_eq!(tokenizer["model_input_names"], serde_json::json!(["input_ids", "attention_mask"]));
}

#[test]
fn the_card_tells_what_the_run_knows_of_these_weights() {
    let toy = Toy::trained();
    let rows = toy.rows("run");
    let bleu = |step: u64| {
        let row = rows.iter().find(|row| row["event"] == "valid" && row["step"] == step).unwrap();
        format!("{:.2}", row["bleu"].as_f64().unwrap())
    };
    let end = rows.last().unwrap();
    let best = end["best_step"].as_u64().unwrap();
    let other = if best == 20 { 40 } else { 20 };
    for (name, args) in [("best", ""), ("other", &format!("--checkpoint {other}") as &str)] {
        toy.run(&format!("export run --format huggingface --out {name} {args}")).exits(0);
        let card = toy.read(&format!("{name}/README.md"));
        let step = if name == "best" { best } else { other };
        assert!(card.starts_with("---\nlanguage:\n- \"en\"\n- \"de\"\nlicense: unknown # fill in"), "{card}");
        for part in ["pipeline_tag: translation", "80 pairs", "--config toy.toml", &format!("of update {step},")] {
            assert!(card.contains(part), "{part:?} is missing in\n{card}");
        }
        assert!(card.contains(&format!("| validation | BLEU | {} |", bleu(step))), "{card}");
        assert!(card.contains(&format!("      name: \"BLEU\"\n      value: {}\n", bleu(step))), "{card}");
        // the test set was translated with the best weights
        let test = format!("| test | BLEU | {:.2} | `nrefs:1\\|case:mixed", end["test_bleu"].as_f64().unwrap());
        assert_eq!(card.contains(&test), name == "best", "{card}");
    }
    toy.run("average run --last 2").exits(0);
    toy.write("run/metrics.jsonl", "{]\n{}\n");
    let told = toy.run("export run --format huggingface --out mean --checkpoint average").exits(0);
    told.tells(&["the averaged weights of run", "the model card has no scores: metrics.jsonl:1: "]);
    assert!(!toy.read("mean/README.md").contains("BLEU"));
}

#[test]
fn a_ctranslate2_folder_holds_the_same_numbers() {
    let toy = Toy::trained();
    toy.run("export run --format ctranslate2 --out ct2").exits(0);
    assert_eq!(toy.list("ct2"), ["README.md", "config.json", "model.bin", "shared_vocabulary.json", "tokenizer.json"]);
    let vocabulary: Vec<String> = serde_json::from_str(&toy.read("ct2/shared_vocabulary.json")).unwrap();
    assert_eq!(vocabulary[..3], ["<unk>", "<s>", "</s>"]);
    assert!(!vocabulary.contains(&"<pad>".to_string()));
    assert_eq!(toy.json("ct2/config.json")["eos_token"], "</s>");

    let weights = toy.weights("run/checkpoints/step-00000060");
    let (stored, aliases) = variables(&toy.path("ct2/model.bin"));
    let of = |name: &str| flat(&weights[name]);
    let table = of("model.shared.weight");
    assert_eq!(stored["decoder/embeddings/weight"].0, [vocabulary.len(), 16]);
    assert_eq!(floats(&stored["decoder/embeddings/weight"]), table[..table.len() - 16]);
    for alias in ["decoder/projection/weight", "encoder/embeddings_0/weight"] {
        assert_eq!(aliases[alias], "decoder/embeddings/weight");
    }
    let all = ["q", "k", "v"].map(|map| of(&format!("model.encoder.layers.0.self_attn.{map}_proj.weight"))).concat();
    assert_eq!(floats(&stored["encoder/layer_0/self_attention/linear_0/weight"]), all);
    let both = ["k", "v"].map(|map| of(&format!("model.decoder.layers.0.encoder_attn.{map}_proj.bias"))).concat();
    assert_eq!(floats(&stored["decoder/layer_0/attention/linear_1/bias"]), both);
    let gain = of("model.decoder.layers.0.final_layer_norm.weight");
    assert_eq!(floats(&stored["decoder/layer_0/ffn/layer_norm/gamma"]), gain);
    assert_eq!(stored["encoder/pre_norm"], (vec![], 1, vec![0]));
    assert_eq!(stored["encoder/num_heads"], (vec![], 2, vec![2, 0]));
    assert_eq!(floats(&stored["encoder/scale_embeddings"]), [4.0]);
    let positions = &stored["decoder/position_encodings/encodings"];
    assert_eq!(
        (positions.0.as_slice(), &floats(positions)[..9]),
        (&[1024, 16][..], &[0.0, 0., 0., 0., 0., 0., 0., 0., 1.][..])
    );

    toy.run("export run --format ctranslate2 --out ct2-int8 --dtype int8").exits(0);
    let (int8, _) = variables(&toy.path("ct2-int8/model.bin"));
    for (name, exact) in stored.iter().filter(|(name, _)| name.ends_with("/weight")) {
        let (sizes, kind, values) = &int8[name];
        assert_eq!((sizes, *kind), (&exact.0, 1), "{name}");
        let scales = floats(&int8[&format!("{name}_scale")]);
        assert_eq!(scales.len(), sizes[0]);
        for (i, (&value, exact)) in values.iter().zip(floats(exact)).enumerate() {
            let scale = scales[i / sizes[1]];
            assert!((f32::from(value as i8) / scale - exact).abs() <= 0.501 / scale, "{name}[{i}]");
        }
    }
    assert_eq!(int8["decoder/layer_0/ffn/linear_0/bias"], stored["decoder/layer_0/ffn/linear_0/bias"]);
}

#[test]
fn half_precision_is_half_the_size_and_named() {
    let toy = Toy::trained();
    let exact = toy.weights("run/checkpoints/step-00000060");
    for (dtype, kind, digits) in [("float16", DType::F16, 11), ("bfloat16", DType::BF16, 8)] {
        toy.run(&format!("export run --format huggingface --out hf-{dtype} --dtype {dtype}")).exits(0);
        assert_eq!(toy.json(&format!("hf-{dtype}/config.json"))["torch_dtype"], dtype);
        for (name, half) in toy.weights(&format!("hf-{dtype}/model.safetensors")) {
            assert_eq!(half.dtype(), kind, "{name}");
            let Some(exact) = exact.get(&name) else { continue };
            let pairs = flat(&half).into_iter().zip(flat(exact));
            let errors = pairs.map(|(a, b)| (a - b).abs() / (b.abs() + 1e-4));
            assert!(errors.fold(0.0, f32::max) <= 0.5f32.powi(digits), "{name}");
        }
        toy.run(&format!("export run --format ctranslate2 --out ct2-{dtype} --dtype {dtype}")).exits(0);
    }
    toy.change_average(1e5);
    let args = "export run --checkpoint average --out half --dtype float16 --format";
    for format in ["huggingface", "ctranslate2"] {
        toy.run(&format!("{args} {format}")).exits(3).tells(&["encoder.layers.0.fc1.bias", "100000", "bfloat16"]);
    }
    toy.change_average(f32::NAN);
    toy.run(&format!("{args} ctranslate2")).exits(3).tells(&["fc1.bias", "no finite numbers"]);
    assert!(!toy.exists("half"));
}

#[test]
fn what_a_format_can_not_hold_names_the_one_that_can() {
    let toy = Toy::new();
    let separate = "--set tokenizer.joint=false --set tokenizer.vocab_size=100 --set model.tied_embeddings=none";
    toy.run(&format!("-q --config toy.toml --set model.norm=pre {separate}")).exits(0);
    let hugging_face = "export run --format huggingface --out hf";
    toy.run(hugging_face).exits(3).tells(&["model.norm = \"pre\"", "--format ctranslate2"]);
    toy.run("export run --format ctranslate2 --out ct2 --dtype int16").exits(0);
    let names = ["README.md", "config.json", "model.bin", "source_vocabulary.json", "target_vocabulary.json"];
    assert_eq!(toy.list("ct2"), [&names[..], &["tokenizer.json", "tokenizer.target.json"]].concat());
    assert!(toy.read("ct2/README.md").contains("target.decode("));
    let (stored, aliases) = variables(&toy.path("ct2/model.bin"));
    assert_eq!(stored["decoder/pre_norm"].2, [1]);
    assert!(["gamma", "beta"].iter().all(|name| stored.contains_key(&format!("encoder/layer_norm/{name}"))));
    assert!(!aliases.keys().any(|name| name.ends_with("weight")), "{aliases:?}");
    for (vocabulary, table) in [("source", "encoder/embeddings_0/weight"), ("target", "decoder/projection/weight")] {
        let tokens = toy.json(&format!("ct2/{vocabulary}_vocabulary.json"));
        assert_eq!(tokens.as_array().map(Vec::len), Some(stored[table].0[0]));
        assert_eq!((stored[table].1, stored[&format!("{table}_scale")].0.len()), (2, 0));
    }

    toy.run(&format!("-q --force --config toy.toml {separate}")).exits(0);
    toy.run(hugging_face).exits(3).tells(&["--format ctranslate2"]);
    toy.run("-q --force --config toy.toml --set model.kind=rnn").exits(0);
    for format in ["huggingface", "ctranslate2"] {
        toy.run(&format!("export run --format {format} --out hf")).exits(3).tells(&["model.kind = \"rnn\"", "neither"]);
    }
    assert!(!toy.exists("hf"));
}

#[test]
fn folders_appear_whole_or_not_at_all() {
    let toy = Toy::trained();
    let export = "export run --format huggingface --out";
    toy.run(&format!("{export} a --dtype int8")).exits(3).tells(&["--dtype int8", "--format ctranslate2"]);
    toy.run(&format!("{export} a --checkpoint 7")).exits(1).tells(&["step 7"]);
    toy.run(&format!("{export} a --checkpoint worst")).exits(3).tells(&["worst"]);
    toy.run(&format!("{export} run")).exits(3).tells(&["run is not empty", "another --out"]);
    toy.run(&format!("{export} toy.toml")).exits(3).tells(&["toy.toml is a file"]);
    toy.run(&format!("{export} .")).exits(3).tells(&["not a name for a new folder"]);
    toy.run(&format!("{export} toy.toml/a")).exits(1).tells(&["toy.toml"]);
    toy.run("export runs --format huggingface --out a").exits(3).tells(&["runs"]);
    let before = toy.list(".");
    for format in ["huggingface", "ctranslate2"] {
        for bytes in [0, 2000, 40_000] {
            let fault = format!("save:bytes={bytes}");
            let args = format!("export run --format {format} --out deep/a");
            toy.run_with(&args, b"", &[("NMT_TRAIN_FAULT", &fault)]).exits(1).tells(&["no space left", "deep/a/"]);
            assert_eq!(toy.list("deep"), [""; 0]);
        }
    }
    std::fs::remove_dir(toy.path("deep")).unwrap();
    assert_eq!(toy.list("."), before);
    std::fs::create_dir(toy.path("empty")).unwrap();
    std::os::unix::fs::symlink("empty", toy.path("link")).unwrap();
    let quiet = toy.run(&format!("{export} link -q")).exits(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
    assert_eq!(toy.list("empty"), HF_FILES);
    // a run is exported wherever it was trained
    toy.run(&format!("{export} b --device cpu --threads 1")).exits(0);
    assert_eq!(
        fsio::read(&toy.path("b/model.safetensors")).unwrap(),
        fsio::read(&toy.path("empty/model.safetensors")).unwrap()
    );
}

#[test]
fn what_transformers_has_no_word_for_is_said() {
    let toy = Toy::new();
    let sets = "--set decode.length_penalty_type=gnmt --set model.embedding_dropout=0.5 --set train.max_updates=2";
    toy.run(&format!("-q --config toy.toml {sets}")).exits(0);
    let told = toy.run("export run --format huggingface --out hf --checkpoint latest").exits(0);
    told.tells(&["\"gnmt\" has no counterpart", "model.embedding_dropout has no counterpart"]);
}

#[test]
fn a_decoder_that_does_not_start_from_zero_is_not_given_to_one_that_does() {
    let toy = Toy::trained();
    let mut weights = toy.weights("run/checkpoints/step-00000060");
    let table = weights.get_mut("model.shared.weight").unwrap();
    let (rows, width) = table.dims2().unwrap();
    let mut values = table.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[rows * width - 1] = 0.25;
    *table = Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap();
    save_weights(&toy.path("run/average.safetensors"), &weights.into_iter().collect::<Vec<_>>()).unwrap();
    let told = toy.run("export run --format ctranslate2 --out ct2 --checkpoint average").exits(3);
    told.tells(&["the row of padding in model.shared.weight is not zero", "--format huggingface"]);
    assert!(!toy.exists("ct2"));
    toy.run("export run --format huggingface --out hf --checkpoint average").exits(0);
    toy.run("import hf --out in").exits(0);
    let translation = |args: &str| toy.pipe(args, "the dog sees a tree").exits(0).out;
    assert_eq!(translation("translate in"), translation("translate run --checkpoint average"));
}
