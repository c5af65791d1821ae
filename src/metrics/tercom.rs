//! The normalization of tercom, the original TER program.

use super::text::{isolate, split_points, split_punctuation, unescape, words};
use super::TerOptions;

/// The line as TER compares it: words with single spaces.
pub(super) fn normalize(line: &str, options: &TerOptions) -> String {
    let mut line = if options.case_sensitive { line.to_owned() } else { line.to_lowercase() };
    if options.normalized {
        line = western(&line);
        if options.asian_support {
            line = asian(&line);
        }
    }
    if options.no_punct {
        line.retain(|c| !matches!(c, '.' | ',' | '?' | ':' | ';' | '!' | '"' | '(' | ')'));
        if options.asian_support {
            line.retain(|c| !is_asian_punctuation(c) && !is_full_width_punctuation(c));
        }
    }
    words(&line).collect::<Vec<_>>().join(" ")
}

fn western(line: &str) -> String {
    let line = unescape(&line.replace("\n-", "").replace('\n', " "));
    let line = split_punctuation(&format!(" {line} "));
    // before points are split: the possessive of `Tom's.` stays, as in the original
    split_points(&line.replace("'s ", " 's "))
}

/// One word an ideograph. (sacreBLEU also has patterns for runs of kana, anchored so that they never match after the
/// western part; left out.)
fn asian(line: &str) -> String {
    isolate(line, |c| {
        let ideograph = matches!(c,
            '\u{4e00}'..='\u{9fff}' | '\u{31c0}'..='\u{31ef}' | '\u{2e80}'..='\u{2eff}' | '\u{f900}'..='\u{faff}'
            | '\u{fe30}'..='\u{fe4f}' | '\u{3200}'..='\u{4dbf}');
        ideograph || is_asian_punctuation(c) || is_full_width_punctuation(c)
    })
}

fn is_asian_punctuation(c: char) -> bool {
    matches!(c, '\u{3001}' | '\u{3002}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{ff61}'..='\u{ff65}' | '\u{30fb}')
}

fn is_full_width_punctuation(c: char) -> bool {
    matches!(
        c,
        '\u{ff0e}'
            | '\u{ff0c}'
            | '\u{ff1f}'
            | '\u{ff1a}'
            | '\u{ff1b}'
            | '\u{ff01}'
            | '\u{ff02}'
            | '\u{ff08}'
            | '\u{ff09}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possessives_split_before_a_space_only() {
        let options = TerOptions { normalized: true, ..TerOptions::default() };
        assert_eq!(normalize("Tom's cat is Tom's.", &options), "tom 's cat is tom's .");
    }

    #[test]
    fn punctuation_goes_only_when_asked() {
        let options = TerOptions { no_punct: true, case_sensitive: true, ..TerOptions::default() };
        assert_eq!(normalize("Ja, „(so)“ 。", &options), "Ja „so“ 。");
        let options = TerOptions { asian_support: true, ..options };
        assert_eq!(normalize("Ja, „(so)“ 。", &options), "Ja „so“");
    }
}
