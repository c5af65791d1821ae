//! "did you mean": the nearest key for one that does not exist.

use super::keys::{self, Section};

/// Names used by other trainers, and ours.
const ALIASES: &[(&str, &str)] = &[
    ("accumulate_grad", "train.gradient_accumulation_steps"),
    ("accum_count", "train.gradient_accumulation_steps"),
    ("adam_beta1", "optimizer.adam.beta1"),
    ("adam_beta2", "optimizer.adam.beta2"),
    ("after_batches", "train.max_updates"),
    ("after_epochs", "train.max_epochs"),
    ("alpha", "decode.length_penalty"),
    ("batch_multiplier", "train.gradient_accumulation_steps"),
    ("beam", "decode.beam_size"),
    ("clip_norm", "train.clip_grad_norm"),
    ("clip_threshold", "train.clip_grad_norm"),
    ("decoder_ffn_embed_dim", "model.d_ff"),
    ("dev", "data.valid"),
    ("dim_emb", "model.d_model"),
    ("dim_feedforward", "model.d_ff"),
    ("dim_vocabs", "tokenizer.vocab_size"),
    ("disp_freq", "train.log_freq"),
    ("dtype", "train.precision"),
    ("early_stopping_patience", "validation.early_stopping"),
    ("ema", "train.ema_decay"),
    ("dropout_src", "model.source_word_dropout"),
    ("dropout_trg", "model.target_word_dropout"),
    ("embed_dim", "model.d_model"),
    ("enc_depth", "model.encoder_layers"),
    ("dec_depth", "model.decoder_layers"),
    ("epochs", "train.max_epochs"),
    ("eval_steps", "validation.valid_freq"),
    ("exponential_smoothing", "train.ema_decay"),
    ("ff_size", "model.d_ff"),
    ("ffn_dim", "model.d_ff"),
    ("fp16", "train.precision"),
    ("grad_clip", "train.clip_grad_norm"),
    ("gradient_clipping", "train.clip_grad_norm"),
    ("gradient_accumulation", "train.gradient_accumulation_steps"),
    ("keep_best_ckpts", "checkpoint.keep_best"),
    ("keep_last_ckpts", "checkpoint.keep_last"),
    ("learn_rate", "optimizer.lr"),
    ("learning_rate", "optimizer.lr"),
    ("lenpen", "decode.length_penalty"),
    ("logging_freq", "train.log_freq"),
    ("logging_steps", "train.log_freq"),
    ("lr_scheduler", "schedule.kind"),
    ("lr_scheduler_type", "schedule.kind"),
    ("lr_warmup", "schedule.warmup_updates"),
    ("max_epoch", "train.max_epochs"),
    ("max_sentence_length", "data.max_length"),
    ("max_steps", "train.max_updates"),
    ("max_tokens", "train.batch_size"),
    ("max_update", "train.max_updates"),
    ("mini_batch", "train.batch_size"),
    ("model_dir", "run_dir"),
    ("n_heads", "model.heads"),
    ("n_layers", "model.layers"),
    ("normalize", "decode.length_penalty"),
    ("reg_alpha", "train.r_drop_alpha"),
    ("num_beams", "decode.beam_size"),
    ("num_epochs", "train.max_epochs"),
    ("num_heads", "model.heads"),
    ("num_layers", "model.layers"),
    ("num_train_epochs", "train.max_epochs"),
    ("output_dir", "run_dir"),
    ("patience", "validation.early_stopping"),
    ("random_seed", "seed"),
    ("save_dir", "run_dir"),
    ("save_interval", "checkpoint.save_freq"),
    ("save_steps", "checkpoint.save_freq"),
    ("save_total_limit", "checkpoint.keep_last"),
    ("scheduler", "schedule.kind"),
    ("scheduling", "schedule.kind"),
    ("share_all_embeddings", "model.tied_embeddings"),
    ("sizes", "train.batch_size"),
    ("src_lang", "data.source_language"),
    ("steps", "train.max_updates"),
    ("tgt_lang", "data.target_language"),
    ("tied_embeddings_all", "model.tied_embeddings"),
    ("total_steps", "train.max_updates"),
    ("train_steps", "train.max_updates"),
    ("train_sets", "data.train"),
    ("trg_lang", "data.target_language"),
    ("update_freq", "train.gradient_accumulation_steps"),
    ("updates", "train.max_updates"),
    ("valid_metrics", "validation.metrics"),
    ("valid_sets", "data.valid"),
    ("validation_freq", "validation.valid_freq"),
    ("warmup", "schedule.warmup_updates"),
    ("warmup_steps", "schedule.warmup_updates"),
    ("weight_tying", "model.tied_embeddings"),
];

/// Table names used by other trainers, and ours.
const SECTION_ALIASES: &[(&str, &str)] = &[
    ("beam_search", "decode"),
    ("dataset", "data"),
    ("eval", "validation"),
    ("generation", "decode"),
    ("lr_scheduler", "schedule"),
    ("optim", "optimizer"),
    ("rnn", "model.rnn"),
    ("testing", "decode"),
    ("trainer", "train"),
    ("training", "train"),
    ("valid", "validation"),
    ("vocab", "tokenizer"),
];

/// Up to three keys that `path` may have meant, best first.
pub(super) fn keys_like(path: &str) -> Vec<&'static str> {
    let path = path.to_lowercase().replace('-', "_");
    let name = keys::last(&path);
    let keys: Vec<&'static str> = keys::root().all_keys().into_iter().map(|k| k.path.as_str()).collect();
    let moved: Vec<&'static str> = keys.iter().copied().filter(|key| keys::last(key) == name).take(3).collect();
    if !moved.is_empty() {
        return moved;
    }
    if let Some((_, key)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return vec![key];
    }
    let section = path.strip_suffix(name).unwrap_or_default();
    let siblings: Vec<&'static str> = keys.iter().copied().filter(|key| parent(key) == section).collect();
    nearest(name, &siblings).or_else(|| nearest(name, &keys)).into_iter().collect()
}

/// The section that `path` may have meant.
pub(super) fn section_like(path: &str) -> Option<&'static Section> {
    let path = path.to_lowercase().replace('-', "_");
    let sections = keys::root().all_sections();
    let alias = SECTION_ALIASES.iter().find(|(alias, _)| *alias == path).map(|(_, section)| *section);
    let paths: Vec<&'static str> = sections.iter().map(|s| s.path.as_str()).collect();
    let moved = || paths.iter().copied().find(|p| keys::last(p) == keys::last(&path));
    let meant = alias.or_else(|| nearest_by(&path, &paths, |p| p)).or_else(moved)?;
    sections.into_iter().find(|s| s.path == meant)
}

/// The nearest of some names, if any is near enough to be a slip.
pub(super) fn nearest<'a>(name: &str, among: &[&'a str]) -> Option<&'a str> {
    nearest_by(name, among, keys::last)
}

fn nearest_by<'a>(name: &str, among: &[&'a str], key: impl Fn(&str) -> &str) -> Option<&'a str> {
    let distance = |other: &&str| strsim::damerau_levenshtein(name, key(other));
    among.iter().copied().min_by_key(distance).filter(|best| distance(best) <= (name.len() / 3).max(1))
}

/// "`a`, `b` or `c`"
pub(super) fn any_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, front)) if !front.is_empty() => format!("{} or {last}", front.join(", ")),
        _ => quoted.concat(),
    }
}

fn parent(path: &str) -> &str {
    path.strip_suffix(keys::last(path)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_lead_to_keys_and_are_none_themselves() {
        let keys: Vec<&str> = keys::root().all_keys().into_iter().map(|k| k.path.as_str()).collect();
        for (alias, key) in ALIASES {
            assert!(keys.contains(key), "{alias} leads to {key}, which is no key");
            assert!(!keys.iter().any(|k| keys::last(k) == *alias), "{alias} is a key");
        }
        for (alias, section) in SECTION_ALIASES {
            assert!(section_like(alias).is_some_and(|s| s.path == *section), "{alias} leads to {section}");
        }
    }

    #[test]
    fn a_slip_is_looked_for_nearby_and_a_known_name_everywhere() {
        assert_eq!(keys_like("model.head"), ["model.heads"]);
        assert_eq!(keys_like("optimizer.adam.bata1"), ["optimizer.adam.beta1"]);
        assert_eq!(keys_like("optimizer.adamw.bata1"), ["optimizer.adamw.beta1"]);
        assert_eq!(keys_like("model.label_smoothing"), ["train.label_smoothing"]);
        assert_eq!(keys_like("model.batch_size"), ["train.batch_size", "decode.batch_size"]);
        assert_eq!(keys_like("learning-rate"), ["optimizer.lr"]);
        assert_eq!(keys_like("train.learnig_rate"), Vec::<&str>::new());
        assert_eq!(keys_like("valid_frq"), ["validation.valid_freq"]);
    }

    #[test]
    fn choices_read_as_a_sentence() {
        assert_eq!(any_of(&["a"]), "`a`");
        assert_eq!(any_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
