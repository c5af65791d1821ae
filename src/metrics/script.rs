//! Scripts that are written without spaces between words, in which a tokenizer of BLEU finds no words.

use super::{default_tokenizer, BleuTokenizer};

/// A script, as a person calls it, its code points, and the tokenizer that finds something in it.
struct Script {
    name: &'static str,
    ranges: &'static [(u32, u32)],
    tokenizer: &'static str,
}

/// Each with the blocks of its letters and marks.
const SCRIPTS: [Script; 14] = [
    Script {
        name: "Chinese characters",
        ranges: &[(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x2_0000, 0x3_FFFF)],
        tokenizer: "zh",
    },
    Script {
        name: "Japanese kana",
        ranges: &[(0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1_B000, 0x1_B16F)],
        tokenizer: "char",
    },
    Script { name: "Bopomofo", ranges: &[(0x3100, 0x312F), (0x31A0, 0x31BF)], tokenizer: "char" },
    Script { name: "Thai", ranges: &[(0x0E00, 0x0E7F)], tokenizer: "char" },
    Script { name: "Lao", ranges: &[(0x0E80, 0x0EFF)], tokenizer: "char" },
    Script { name: "Tibetan", ranges: &[(0x0F00, 0x0FFF)], tokenizer: "char" },
    Script { name: "Burmese", ranges: &[(0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)], tokenizer: "char" },
    Script { name: "Khmer", ranges: &[(0x1780, 0x17FF), (0x19E0, 0x19FF)], tokenizer: "char" },
    Script { name: "Tai Le", ranges: &[(0x1950, 0x197F)], tokenizer: "char" },
    Script { name: "New Tai Lue", ranges: &[(0x1980, 0x19DF)], tokenizer: "char" },
    Script { name: "Tai Tham", ranges: &[(0x1A20, 0x1AAF)], tokenizer: "char" },
    Script { name: "Tai Viet", ranges: &[(0xAA80, 0xAADF)], tokenizer: "char" },
    Script { name: "Javanese", ranges: &[(0xA980, 0xA9DF)], tokenizer: "char" },
    Script { name: "Yi", ranges: &[(0xA000, 0xA4CF)], tokenizer: "char" },
];

/// Share of the letters from which on a text is written in a script.
const SHARE: f64 = 0.2;

/// What to say about BLEU of these references in this language, where `wanted` (as for [`BleuTokenizer::wanted`]) leaves
/// the choice of its words to the program: that the tokenizer finds no words in them, or is not sacreBLEU's.
pub fn advice(wanted: &str, language: &str, references: &[&str]) -> Option<String> {
    if !wanted.is_empty() {
        return None;
    }
    let (tokenizer, about_language) = default_tokenizer(language);
    if let Some(script) = unsplit(&tokenizer, references) {
        let (name, cure, now) = (script.name, script.tokenizer, tokenizer.name());
        return Some(format!(
            "the references are written in {name}, without spaces between words, where BLEU's tokenizer {now} takes whole \
             lines for words: set validation.tokenize = \"{cure}\" (--tokenize {cure}) or \"spm:FILE\", or compare by chrF"
        ));
    }
    about_language.map(str::to_string)
}

/// The script without spaces in which most of the text is written, if there is much of it and `tokenizer` does not split
/// it.
fn unsplit(tokenizer: &BleuTokenizer, lines: &[&str]) -> Option<&'static Script> {
    let (mut counts, mut letters) = ([0_usize; SCRIPTS.len()], 0_usize);
    for c in lines.iter().flat_map(|line| line.chars()).filter(|c| !c.is_ascii() || c.is_ascii_alphabetic()) {
        let found = SCRIPTS.iter().position(|script| script.has(c));
        letters += usize::from(found.is_some() || c.is_alphabetic());
        if let Some(i) = found.filter(|&i| !splits(tokenizer, &SCRIPTS[i])) {
            counts[i] += 1;
        }
    }
    let all: usize = counts.iter().sum();
    let most = (0..SCRIPTS.len()).max_by_key(|&i| counts[i])?;
    (all as f64 > SHARE * letters as f64).then_some(&SCRIPTS[most])
}

fn splits(tokenizer: &BleuTokenizer, script: &Script) -> bool {
    match tokenizer {
        BleuTokenizer::V13a | BleuTokenizer::Intl | BleuTokenizer::None => false,
        BleuTokenizer::Zh => script.tokenizer == "zh",
        BleuTokenizer::Char | BleuTokenizer::Spm(_) => true,
    }
}

impl Script {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&u32::from(c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_without_spaces_is_found_by_its_text_whatever_the_language_is_called() {
        for (text, name, cure) in [
            ("ฉันกินข้าว", "Thai", "char"),
            ("ຂ້ອຍກິນເຂົ້າ", "Lao", "char"),
            ("ខ្ញុំញ៉ាំបាយ", "Khmer", "char"),
            ("ကျွန်တော်ထမင်းစားတယ်", "Burmese", "char"),
            ("ང་ཁ་ལག་ཟ་བ", "Tibetan", "char"),
            ("我吃米饭。", "Chinese characters", "zh"),
            ("わたしはごはんをたべる", "Japanese kana", "char"),
        ] {
            for language in ["", "xx", "English"] {
                let told = advice("", language, &["A.", text, "OK"]).unwrap_or_default();
                assert!(told.contains(&format!("written in {name}, ")), "{told}");
                assert!(told.contains(&format!("\"{cure}\"")), "{told}");
            }
            assert_eq!(advice("13a", "th", &[text]), None, "who chose needs no advice");
        }
    }

    #[test]
    fn what_is_split_needs_no_advice() {
        assert_eq!(
            advice("", "de", &["Ein Satz über 東京.", "größer", "", "שלום עולם", "मैं खाता हूँ", "나는 밥을 먹는다"]),
            None
        );
        assert_eq!(advice("", "zh", &["我吃米饭。"]), None);
        assert!(advice("", "ja", &["わたしは"]).is_some_and(|told| told.contains("ja-mecab")));
        assert!(advice("", "zh", &["わたしはごはん"]).is_some_and(|told| told.contains("kana")));
        assert_eq!(advice("", "de", &[]), None);
    }
}
