//! `nmt-train import` and `model.init_from`: a model comes back as it went, trains on to the same bits wherever it lay, and
//! folders that are not whole leave nothing behind.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use nmt_train::checkpoint::{read_weights, save_weights};
use nmt_train::fsio;
use nmt_train::tokenizer::Tokenizers;
use serde_json::Value;

use super::toy::Toy;

const IMPORTED: &str = "in/checkpoints/step-00000000/model.safetensors";

/// With a finished run in `run` and its export for Hugging Face in `hf`.
fn exported(sets: &str) -> Toy {
    let toy = Toy::new();
    toy.run(&format!("-q --config toy.toml {sets}")).exits(0);
    toy.run("export run --format huggingface --out hf --checkpoint latest").exits(0);
    toy
}

/// Trains one update more from `origin`; the weights then.
fn one_update(toy: &Toy, origin: &str, run: &str, sets: &str) -> Vec<u8> {
    let args = format!(
        "--config tune.toml --set model.init_from={origin} --set run_dir={run} --set train.max_updates=1 {sets}"
    );
    toy.run(&args).exits(0);
    fsio::read(&toy.path(&format!("{run}/checkpoints/step-00000001/model.safetensors"))).unwrap()
}

/// A config without sizes of the model.
fn write_tune(toy: &Toy) {
    let config = toy.read("toy.toml");
    let (before, rest) = config.split_once("[tokenizer]").unwrap();
    let (_, after) = rest.split_once("[train]").unwrap();
    toy.write("tune.toml", format!("{before}[train]{after}").replace("save_freq = 20", "save_freq = 1"));
}

fn change(toy: &Toy, file: &str, change: impl Fn(&mut Vec<(String, Tensor)>)) {
    let mut weights = read_weights(&toy.path(file), &Device::Cpu).unwrap();
    change(&mut weights);
    save_weights(&toy.path(file), &weights).unwrap();
}

#[test]
fn a_model_comes_back_and_serves_as_a_run() {
    for sets in ["", "--set model.tied_embeddings=none --set model.activation=swish --set model.output_bias=true"] {
        let toy = exported(sets);
        toy.run("import hf --out in").exits(0).tells(&["weights of hf, model.safetensors", "en", "translate in"]);
        let weights = fsio::read(&toy.path("run/checkpoints/step-00000060/model.safetensors")).unwrap();
        assert_eq!(fsio::read(&toy.path(IMPORTED)).unwrap(), weights);
        let input = toy.read("valid.en");
        let of = |args: &str| toy.pipe(args, &input).exits(0).out;
        assert_eq!(of("translate in"), of("translate run --checkpoint latest"));
        let score = |run: &str| of(&format!("score {run} --source valid.en --target valid.de --checkpoint latest"));
        assert_eq!(score("in"), score("run"));
        let evaluate = "--source valid.en --reference valid.de --checkpoint latest";
        assert_eq!(of(&format!("evaluate in {evaluate}")), of(&format!("evaluate run {evaluate}")));
        toy.run("average in --last 1").exits(0);
        assert_eq!(of("translate in --checkpoint average"), of("translate in"));
        toy.run("export in --format ctranslate2 --out ct2").exits(0);
        toy.run("--resume in").exits(3).tells(&["model that was imported", "model.init_from = \"in\""]);
        toy.run("report in").exits(3).tells(&["in: it holds a model that was imported"]);
        toy.run("import in --out again").exits(3).tells(&["folder of a run already"]);
    }
}

#[test]
fn one_more_update_has_the_same_bits_from_run_folder_and_import() {
    let toy = exported("");
    write_tune(&toy);
    toy.run("import hf --out in").exits(0);
    let direct = one_update(&toy, "run", "direct", "");
    assert_eq!(one_update(&toy, "hf", "folder", ""), direct);
    assert_eq!(one_update(&toy, "in", "imported", ""), direct);
    assert_eq!(toy.read("direct/tokenizer.json"), toy.read("run/tokenizer.json"));
    let told = toy.run("--config tune.toml --set model.init_from=run --set run_dir=told").exits(0);
    told.tells(&["begins with", "weights of run, update ", "fresh: optimizer"]);
    // the origin is not needed again
    std::fs::rename(toy.path("run"), toy.path("gone")).unwrap();
    toy.run("--resume direct --set train.max_updates=2").exits(0);
    let tune = "--config tune.toml --set model.init_from=run --set run_dir=direct --set train.max_updates=3";
    toy.run(&format!("--resume direct {tune}")).exits(0);
    toy.run(&format!("--resume direct {tune} --set model.d_model=32")).exits(3).tells(&["model.d_model: 16 -> 32"]);
    toy.run("export direct --format huggingface --out again").exits(0);
}

#[test]
fn what_is_not_trained_stays() {
    let toy = exported("");
    write_tune(&toy);
    let file = |run: &str, step: &str| toy.path(&format!("{run}/checkpoints/step-{step}/model.safetensors"));
    let before = read_weights(&file("run", "00000060"), &Device::Cpu).unwrap();
    for (trainable, moves) in [("layers", [false, true]), ("embeddings", [true, false]), ("all", [true, true])] {
        let sets = format!("--set train.trainable={trainable}");
        one_update(&toy, "hf", trainable, &sets);
        let after = read_weights(&file(trainable, "00000001"), &Device::Cpu).unwrap();
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let moved = flat(before) != flat(after);
            let wanted = if name == "model.shared.weight" { moves[0] } else { moves[1] };
            // biases of keys have no gradient
            assert!(moved == wanted || name.contains("k_proj.bias"), "{trainable}: {name}");
        }
    }
}

#[test]
fn a_new_vocabulary_takes_over_rows_by_piece() {
    let toy = exported("");
    write_tune(&toy);
    let sets = "--set model.init_tokenizer=false --set tokenizer.vocab_size=60 --set tokenizer.joint=false \
                --set model.tied_embeddings=none --set optimizer.lr=1e-9";
    one_update(&toy, "run", "new", sets);
    let [old, new] = ["run", "new"].map(|run| Tokenizers::load_saved(&toy.path(run)).unwrap());
    let rows = |file: &str, table: &str| {
        let found = read_weights(&toy.path(file), &Device::Cpu).unwrap().into_iter().find(|(name, _)| name == table);
        found.unwrap().1.to_vec2::<f32>().unwrap()
    };
    let before = rows("run/checkpoints/step-00000060/model.safetensors", "model.shared.weight");
    for (table, tokenizer) in [
        ("model.encoder.embed_tokens.weight", &new.source),
        ("model.decoder.embed_tokens.weight", &new.target),
        ("lm_head.weight", &new.target),
    ] {
        let after = rows("new/checkpoints/step-00000001/model.safetensors", table);
        let ids: Vec<String> = old.source.tokens();
        let mut found = 0;
        for (token, row) in tokenizer.tokens().iter().zip(&after) {
            let Some(id) = ids.iter().position(|old| old == token) else { continue };
            assert!(row.iter().zip(&before[id]).all(|(a, b)| (a - b).abs() < 1e-6), "{table} {token}");
            found += 1;
        }
        assert!(found > 20, "{found}");
    }
    let told = toy.run(&format!("check --config tune.toml --set model.init_from=run {sets}")).exits(0);
    told.tells(&["rows of the embedding tables by piece: source ", ", target "]);
}

#[test]
fn keys_that_the_model_decides_are_refused_and_the_rest_is_not() {
    let toy = exported("");
    write_tune(&toy);
    let tune = "--config tune.toml --set model.init_from=hf --set run_dir=x --set train.max_updates=1";
    toy.run(&format!("{tune} --set model.d_model=16 --set model.dropout=0.3")).exits(0);
    let told = toy.run(&format!("{tune} --set model.d_model=32 --set model.norm=pre --set run_dir=y")).exits(3);
    told.tells(&["model.d_model = 32, but that model has 16", "model.norm = \"pre\"", "leave these keys out"]);
    toy.run(&format!("{tune} --set tokenizer.path=hf/tokenizer.json")).exits(3).tells(&["tokenizer.path", "init_from"]);
    toy.run("tokenizer --config tune.toml --set model.init_from=hf --out t").exits(3).tells(&["nothing to train"]);
    for name in ["y", "t"] {
        assert!(!toy.exists(name));
    }
}

#[test]
fn a_folder_that_is_not_whole_is_refused_and_nothing_is_left() {
    let toy = exported("");
    let model = "hf/model.safetensors";
    let good = fsio::read(&toy.path(model)).unwrap();
    let bias = "model.decoder.layers.0.fc2.bias";
    let refused = |parts: &[&str]| {
        toy.run("import hf --out in").exits(3).tells(parts);
        assert_eq!(toy.list("."), before(&toy));
        toy.write(model, &good);
    };
    change(&toy, model, |weights| weights.retain(|(name, _)| name != bias));
    refused(&["hf/model.safetensors", "missing: model.decoder.layers.0.fc2.bias"]);
    change(&toy, model, |weights| weights.push(("model.decoder.prefix".into(), weights[0].1.clone())));
    refused(&["hf", "not expected: model.decoder.prefix"]);
    change(&toy, model, |weights| {
        let wrong = weights.iter_mut().find(|(name, _)| name == bias).unwrap();
        wrong.1 = Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap();
    });
    refused(&["hf", "model.decoder.layers.0.fc2.bias [7] against [16]"]);
    change(&toy, model, |weights| {
        let wrong = weights.iter_mut().find(|(name, _)| name == bias).unwrap();
        wrong.1 = Tensor::full(f32::NAN, 16, &Device::Cpu).unwrap();
    });
    refused(&["model.safetensors", bias, "not finite"]);
    change(&toy, model, |weights| weights.push(("lm_head.weight".into(), weights[1].1.ones_like().unwrap())));
    refused(&["lm_head.weight differs from model.shared.weight"]);
    for length in [0, 7, 100, good.len() - 1] {
        toy.write(model, &good[..length]);
        toy.run("import hf --out in").tells(&["model.safetensors"]);
        assert!(!toy.exists("in"));
    }
    toy.write(model, &good);
    std::fs::rename(toy.path(model), toy.path("hf/pytorch_model.bin")).unwrap();
    toy.run("import hf --out in").exits(3).tells(&["pytorch_model.bin", "not a file of torch.save"]);
    std::fs::remove_file(toy.path("hf/pytorch_model.bin")).unwrap();
    toy.run("import hf --out in").exits(3).tells(&["neither model.safetensors nor pytorch_model.bin"]);
    assert!(!toy.exists("in"));
}

/// Names that a toy with a run and an export has.
fn before(toy: &Toy) -> Vec<String> {
    toy.list(".").into_iter().filter(|name| name != "in" && !name.starts_with(".tmp")).collect()
}

#[test]
fn configs_and_vocabularies_that_do_not_belong_are_refused() {
    let toy = exported("");
    let (config, tokenizer) = (toy.read("hf/config.json"), toy.read("hf/tokenizer.json"));
    let with = |key: &str, value: Value| {
        let mut json: Value = serde_json::from_str(&config).unwrap();
        json[key] = value;
        toy.write("hf/config.json", json.to_string());
    };
    let refused = |parts: &[&str]| {
        toy.run("import hf --out in").exits(3).tells(parts);
        assert!(!toy.exists("in"));
        toy.write("hf/config.json", &config);
        toy.write("hf/tokenizer.json", &tokenizer);
    };
    with("model_type", "t5".into());
    refused(&["hf", "model_type = t5"]);
    // no memory holds what these say
    for (key, value, part) in [
        ("d_model", 1u64 << 40, "fc1.weight is [32, 16], by config.json it is [32, 1099511627776]"),
        ("encoder_ffn_dim", 1 << 50, "decoder_ffn_dim"),
        ("decoder_layers", 1 << 60, "layers of the decoder"),
    ] {
        with(key, value.into());
        refused(&["hf", part]);
    }
    with("eos_token_id", 1.into());
    refused(&["eos_token_id = 1", "do not belong together"]);
    with("normalize_before", true.into());
    refused(&["normalize_before = true"]);
    toy.write("hf/config.json", "{\"add_source_bos\": false, \"unk_token\": \"<unk>\"}");
    refused(&["config.json", "model_type"]);
    toy.write("hf/config.json", "{");
    refused(&["config.json"]);
    toy.write("hf/tokenizer.json", "[]");
    refused(&["tokenizer.json"]);
    let size = serde_json::from_str::<Value>(&config).unwrap()["vocab_size"].as_u64().unwrap();
    for key in ["vocab_size", "decoder_vocab_size"] {
        with(key, (size + 9).into());
        refused(&["hf", key]);
    }
    toy.run("import absent --out in").exits(3).tells(&["absent does not exist"]);
    toy.run("import toy.toml --out in").exits(3).tells(&["toy.toml is no folder"]);
    std::fs::create_dir(toy.path("empty")).unwrap();
    toy.run("import empty --out in").exits(3).tells(&["neither the folder of a run"]);
    toy.run("import hf --out run").exits(3).tells(&["run is not empty", "another --out"]);
    for name in ["hf://", "hf://a", "hf://a/b/c", "hf://a/b/", "hf:///b", "hf://@x"] {
        toy.run(&format!("import {name} --out in")).exits(3).tells(&[name, "hf://OWNER/NAME"]);
    }
    let fault = [("NMT_TRAIN_FAULT", "save:bytes=9000")];
    toy.run_with("import hf --out deep/in", b"", &fault).exits(1).tells(&["no space left"]);
    assert!(toy.list("deep").is_empty());
    toy.run_with("import hf://no-one/nothing --out in", b"", &[("HF_HUB_OFFLINE", "1"), ("HF_HOME", "cache")])
        .exits(3)
        .tells(&["hf://no-one/nothing/config.json", "HF_HUB_OFFLINE"]);
}

#[test]
fn sentencepiece_files_come_before_a_tokenizer_made_of_them() {
    let toy = Toy::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece/unigram.model");
    toy.write("own.model", fsio::read(&fixture).unwrap());
    toy.run("-q --config toy.toml --set tokenizer.path=own.model --set train.max_updates=3").exits(0);
    toy.run("export run --format huggingface --out hf --checkpoint latest").exits(0);
    for file in ["source.spm", "target.spm", "vocab.json", "tokenizer.json"] {
        assert!(toy.exists(&format!("hf/{file}")), "{file}");
    }
    assert!(!toy.read("hf/README.md").contains("and sentencepiece"));
    // whatever is in it
    toy.write("hf/tokenizer.json", "{}");
    toy.run("import hf --out in").exits(0);
    let input = "the dog  sees\tZürich ½ ▁ 日本語\n\n";
    let ids = |run: &str| {
        let tokenizers = Tokenizers::load_saved(&toy.path(run)).unwrap();
        tokenizers.source.encode_lines(&input.lines().collect::<Vec<_>>()).unwrap()
    };
    assert_eq!(ids("in"), ids("run"));
    let of = |run: &str| toy.pipe(&format!("translate {run} --checkpoint latest"), input).exits(0).out;
    assert_eq!(of("in"), of("run"));
    toy.run("export in --format ctranslate2 --out ct2").exits(0);
    let config: Value = serde_json::from_str(&toy.read("ct2/config.json")).unwrap();
    assert_eq!(config["add_source_eos"], true);
    assert!(toy.exists("ct2/tokenizer.spm") && !toy.exists("ct2/tokenizer.vocab.json"));
}
