//! The tokenizers of BLEU: 13a, zh, intl, char, none, and those of SentencePiece models.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::spm::{self, SpmTokenizer};
use super::text::{is_space, isolate, split_western, unescape, words};
use super::MetricsError;
use crate::config;

/// How BLEU cuts lines into words; part of its signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BleuTokenizer {
    /// mteval-v13a: ASCII punctuation apart; the standard.
    #[default]
    V13a,
    /// Chinese: one token an ideograph, the rest as 13a.
    Zh,
    /// mteval-v14 international: Unicode punctuation and symbols apart.
    Intl,
    /// One token a character.
    Char,
    /// Only at whitespace.
    None,
    /// The pieces of a SentencePiece model.
    Spm(Arc<SpmTokenizer>),
}

impl BleuTokenizer {
    /// Its name in signatures and on the command line.
    pub fn name(&self) -> &str {
        match self {
            BleuTokenizer::V13a => "13a",
            BleuTokenizer::Zh => "zh",
            BleuTokenizer::Intl => "intl",
            BleuTokenizer::Char => "char",
            BleuTokenizer::None => "none",
            BleuTokenizer::Spm(model) => model.name(),
        }
    }

    /// The tokenizer of that name; a model is not known by name, see [`BleuTokenizer::wanted`].
    pub fn from_name(name: &str) -> Option<Self> {
        use BleuTokenizer::*;
        [V13a, Zh, Intl, Char, None].into_iter().find(|tokenizer| tokenizer.name() == name)
    }

    /// The tokenizer that a name in a config or on the command line stands for; that of the language for an empty name.
    /// `resolve` gives the path of a model's file, which may lie on the Hub.
    ///
    /// # Errors
    /// An unknown name; a SentencePiece model that is not there or can not be read; those of `resolve`.
    pub fn wanted<E: From<MetricsError>>(
        name: &str,
        language: &str,
        resolve: impl FnOnce(&str) -> Result<PathBuf, E>,
    ) -> Result<Self, E> {
        if name.is_empty() {
            return Ok(default_tokenizer(language).0);
        }
        let Some((model, file)) = config::spm_tokenizer(name) else {
            let unknown = || MetricsError::Tokenizer { name: name.to_string() };
            return Self::from_name(name).ok_or_else(unknown).map_err(E::from);
        };
        let path = file.map(resolve).transpose()?;
        let found = spm::named(model, path.as_deref()).map_err(MetricsError::from)?;
        Ok(BleuTokenizer::Spm(Arc::new(found)))
    }

    /// The line with whitespace between tokens; how much of it carries no meaning.
    pub(super) fn tokenize(&self, line: &str) -> String {
        match self {
            BleuTokenizer::V13a => v13a(line),
            BleuTokenizer::Zh => split_western(&isolate(line.trim_matches(is_space), is_chinese)),
            BleuTokenizer::Intl => intl(line),
            BleuTokenizer::Char => isolate(line, |_| true),
            BleuTokenizer::None => line.to_owned(),
            BleuTokenizer::Spm(model) => model.tokens(line),
        }
    }

    /// The line as sacreBLEU's tokenizer returns it: single spaces, none at the ends (`none` leaves the line alone).
    pub fn tokens(&self, line: &str) -> String {
        match self {
            BleuTokenizer::None | BleuTokenizer::Spm(_) => self.tokenize(line),
            _ => words(&self.tokenize(line)).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The tokenizer that sacreBLEU would choose for a target language (`de`, `zh`, `zh-CN`, `ja_JP`), and a note where
/// its choice does not exist here.
pub fn default_tokenizer(language: &str) -> (BleuTokenizer, Option<&'static str>) {
    let primary = language.split(['-', '_']).next().unwrap_or(language).to_ascii_lowercase();
    match primary.as_str() {
        "zh" | "zho" | "cmn" => (BleuTokenizer::Zh, None),
        "ja" | "jpn" => (
            BleuTokenizer::Char,
            Some("sacreBLEU uses ja-mecab for Japanese; this is BLEU over characters, compare by chrF"),
        ),
        "ko" | "kor" => (
            BleuTokenizer::Char,
            Some("sacreBLEU uses ko-mecab for Korean; this is BLEU over characters, compare by chrF"),
        ),
        _ => (BleuTokenizer::V13a, None),
    }
}

fn v13a(line: &str) -> String {
    let line = line.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let line = if line.contains('&') { unescape(&line) } else { line };
    split_western(&format!(" {line} "))
}

/// What sacreBLEU takes for a Chinese character. Two of its ranges were meant as CJK Extension B but are written with
/// four-digit escapes and compared as strings, so they act as U+2001–U+2A6D and U+2F81–U+2FA1; kept, to be equal.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fbb}'
        | '\u{f900}'..='\u{fa2d}' | '\u{fa30}'..='\u{fa6a}' | '\u{fa70}'..='\u{fad9}'
        | '\u{2001}'..='\u{2a6d}' | '\u{2f81}'..='\u{2fa1}'
        | '\u{ff00}'..='\u{ffef}' | '\u{2e80}'..='\u{2eff}' | '\u{3000}'..='\u{303f}' | '\u{31c0}'..='\u{31ef}'
        | '\u{2f00}'..='\u{2fdf}' | '\u{2ff0}'..='\u{2fff}' | '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}'
        | '\u{fe10}'..='\u{fe1f}' | '\u{fe30}'..='\u{fe4f}' | '\u{3200}'..='\u{33ff}')
}

/// mteval-v14: punctuation after and before a non-number, then symbols. No surrounding spaces are added and nothing is
/// unescaped, so a point after a number at the end of a line stays with it, as in the original.
fn intl(line: &str) -> String {
    static PASSES: LazyLock<Option<[(Regex, &str); 3]>> = LazyLock::new(|| {
        Some([
            (Regex::new(r"(\P{N})(\p{P})").ok()?, "$1 $2 "),
            (Regex::new(r"(\p{P})(\P{N})").ok()?, " $1 $2"),
            (Regex::new(r"(\p{S})").ok()?, " $1 "),
        ])
    });
    let mut line = line.to_owned();
    for (pattern, replacement) in PASSES.iter().flatten() {
        line = pattern.replace_all(&line, *replacement).into_owned();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn v13a_unescapes_and_drops_skipped() {
        assert_eq!(
            BleuTokenizer::V13a.tokens("<skipped>&quot;Tom &amp; Ann&quot; pay 1,000.5-2."),
            "\" Tom & Ann \" pay 1,000.5 - 2 ."
        );
        assert_eq!(BleuTokenizer::V13a.tokens("..5 .,1"), ". .5 . ,1");
    }

    #[test]
    fn zh_isolates_typographic_quotes_but_not_extension_b() {
        assert_eq!(BleuTokenizer::Zh.tokens("我“你”a1"), "我 “ 你 ” a1");
        assert_eq!(BleuTokenizer::Zh.tokens("\u{20000}\u{20001}x\u{2a6e}"), "\u{20000}\u{20001}x\u{2a6e}");
    }

    #[test]
    fn intl_keeps_a_point_after_a_final_number() {
        assert_eq!(BleuTokenizer::Intl.tokens("Im Jahr 1999."), "Im Jahr 1999.");
        assert_eq!(BleuTokenizer::Intl.tokens("«Ja», 5€."), "« Ja » , 5 € .");
    }

    #[test]
    fn char_and_none_are_what_they_say() {
        assert_eq!(BleuTokenizer::Char.tokens("a b\tç"), "a b ç");
        assert_eq!(BleuTokenizer::None.tokens("a, b."), "a, b.");
    }

    #[test]
    fn the_language_chooses_the_tokenizer() {
        assert_eq!(default_tokenizer("zh-CN"), (BleuTokenizer::Zh, None));
        assert_eq!(default_tokenizer("de"), (BleuTokenizer::V13a, None));
        let (tokenizer, note) = default_tokenizer("ja");
        assert_eq!(tokenizer, BleuTokenizer::Char);
        assert!(note.is_some_and(|note| note.contains("ja-mecab")));
    }

    #[test]
    fn names_round_trip() {
        for name in config::BLEU_TOKENIZERS {
            assert_eq!(BleuTokenizer::from_name(name).as_ref().map(BleuTokenizer::name), Some(name));
            assert!(config::is_bleu_tokenizer(name));
        }
        assert_eq!(BleuTokenizer::from_name("ja-mecab"), None);
    }
}
