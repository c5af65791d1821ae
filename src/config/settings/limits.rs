//! How large numbers from the user may be where the machine could not bear more, and the names that stand for code of
//! higher layers.

use super::{ModelConfig, ModelKind};

/// Most hypotheses of a beam: beyond it only memory grows.
pub const LARGEST_BEAM: usize = 1000;

/// Most pieces of a trained vocabulary.
pub(super) const LARGEST_VOCABULARY: usize = 1 << 24;

/// Threads a core may have at most.
const THREADS_A_CORE: usize = 4;

/// BLEU's own tokenizers, by the names of sacreBLEU.
pub const BLEU_TOKENIZERS: [&str; 5] = ["13a", "zh", "intl", "char", "none"];

/// Tokenizers of BLEU that need a SentencePiece model, by the names of sacreBLEU: that which sacreBLEU fetched, or behind a
/// colon a file.
const SPM_TOKENIZERS: [&str; 3] = ["flores200", "flores101", "spm"];

/// All names of tokenizers of BLEU, for messages.
pub fn bleu_tokenizers() -> String {
    let with_file = SPM_TOKENIZERS.map(|name| format!("{name}[:FILE]"));
    [BLEU_TOKENIZERS.join(", "), with_file.join(", ")].join(", ")
}

/// Name and file of a tokenizer of BLEU that needs a SentencePiece model.
pub fn spm_tokenizer(name: &str) -> Option<(&str, Option<&str>)> {
    let (model, file) = name.split_once(':').map_or((name, None), |(model, file)| (model, Some(file)));
    (SPM_TOKENIZERS.contains(&model) && file != Some("")).then_some((model, file))
}

/// Most threads that this machine is asked for.
pub fn most_threads() -> usize {
    THREADS_A_CORE * cores()
}

/// Why so many threads are refused; `None` if they are not. 0 stands for the physical cores.
pub fn too_many_threads(threads: usize) -> Option<String> {
    let (most, cores) = (most_threads(), cores());
    let of = if cores == 1 { "the one core".to_string() } else { format!("each of the {cores} cores") };
    (threads > most).then(|| {
        format!("must be {most} at most, {THREADS_A_CORE} for {of} that this process may use; 0 = physical cores")
    })
}

/// Whether `name` stands for a tokenizer of BLEU.
pub fn is_bleu_tokenizer(name: &str) -> bool {
    BLEU_TOKENIZERS.contains(&name) || spm_tokenizer(name).is_some()
}

/// Memory of the machine in bytes, if the system tells.
pub fn total_memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Keys and a reason where the weights of a model, embedding tables aside, are more than the machine could hold.
pub(super) fn beyond_memory(model: &ModelConfig) -> Option<(&'static [&'static str], String)> {
    let (encoder, decoder) = (model.encoder_layers() as f64, model.decoder_layers() as f64);
    let (keys, weights): (&[&str], f64) = match model.kind {
        ModelKind::Transformer => {
            let (width, inner) = (model.d_model as f64, model.d_ff as f64);
            let attention = (4.0 * encoder + 8.0 * decoder) * width * width;
            let keys = &["model.d_model", "model.d_ff", "model.layers", "model.encoder_layers", "model.decoder_layers"];
            (keys, attention + 2.0 * (encoder + decoder) * width * inner)
        }
        ModelKind::Rnn => {
            let (hidden, embedding) = (model.rnn.hidden_size as f64, model.rnn.embedding_size as f64);
            let keys = &["model.rnn.hidden_size", "model.rnn.embedding_size", "model.layers"];
            (keys, (encoder + decoder) * hidden * hidden + hidden * embedding)
        }
    };
    let (need, have) = (4.0 * weights, total_memory_bytes()? as f64);
    let text = format!("must be smaller: with its other sizes the model's weights alone need {need:.0e} bytes, the machine has {have:.0e}");
    (need > have).then_some((keys, text))
}

/// Logical cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, Problems, Source};

    const GOOD: &str = "data.train = ['a.tsv']\ndata.valid = ['b.tsv']\ntrain.max_updates = 10000\n";

    #[test]
    fn four_threads_a_core_are_allowed_and_no_more() {
        let most = most_threads();
        assert!(most >= 4 && most.is_multiple_of(4));
        assert_eq!((too_many_threads(0), too_many_threads(most)), (None, None));
        let told = too_many_threads(most + 1).unwrap_or_default();
        assert!(told.starts_with(&format!("must be {most} at most, 4 for ")), "{told}");
    }

    #[test]
    fn what_the_machine_could_not_bear_is_a_problem_of_the_config() {
        for (set, text) in [
            ("threads=1000000", "must be"),
            ("decode.beam_size=1001", "must be 1000 at most"),
            ("validation.beam_size=9223372036854775807", "must be 1000 at most"),
            (
                "validation.tokenize=mecab",
                "must be one of 13a, zh, intl, char, none, flores200[:FILE], flores101[:FILE], spm[:FILE], or empty",
            ),
            ("tokenizer.vocab_size=9223372036854775807", "must be 16777216 at most"),
            (
                "model.d_model=9223372036854775792",
                "must be smaller: with its other sizes the model's weights alone need",
            ),
            ("model.d_ff=4611686018427387904", "must be smaller"),
            ("model.layers=4294967296", "must be smaller"),
            ("model.decoder_layers=4294967296", "must be smaller"),
        ] {
            let text_of = |problems: Problems| problems.to_string();
            let source = Source::Text { name: "toy.toml".to_string(), text: GOOD.to_string() };
            let found = load(&source, &[set.to_string()]).map_or_else(text_of, |_| String::new());
            assert!(found.contains(text), "{set}: {found}");
        }
    }
}
