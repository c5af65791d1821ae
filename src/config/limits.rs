//! How large numbers from the user may be where the machine could not bear more, and the names that stand for code of
//! higher layers.

/// Most hypotheses of a beam: beyond it only memory grows.
pub const LARGEST_BEAM: usize = 1000;

/// Threads a core may have at most.
const THREADS_A_CORE: usize = 4;

/// BLEU's own tokenizers, by the names of sacreBLEU.
pub const BLEU_TOKENIZERS: [&str; 5] = ["13a", "zh", "intl", "char", "none"];

/// What stands before the path of a SentencePiece model where a tokenizer of BLEU is named.
pub const SPM_PREFIX: &str = "spm:";

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

/// Whether `name` stands for a tokenizer of BLEU: one of [`BLEU_TOKENIZERS`], or `spm:` and a file.
pub fn is_bleu_tokenizer(name: &str) -> bool {
    BLEU_TOKENIZERS.contains(&name) || name.strip_prefix(SPM_PREFIX).is_some_and(|path| !path.is_empty())
}

/// Logical cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_threads_a_core_are_allowed_and_no_more() {
        let most = most_threads();
        assert!(most >= 4 && most.is_multiple_of(4));
        assert_eq!((too_many_threads(0), too_many_threads(most)), (None, None));
        let told = too_many_threads(most + 1).unwrap_or_default();
        assert!(told.starts_with(&format!("must be {most} at most, 4 for ")), "{told}");
    }
}
