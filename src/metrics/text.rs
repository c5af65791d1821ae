//! Python's notions of text, where they differ from Rust's: whitespace, splitting, one-pass replacements.

/// Whether Python's `str.split()` and `str.strip()` take this for whitespace: Unicode White_Space and the four
/// information separators U+001C–U+001F, which Rust leaves out.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.split()`.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Python's `str.lower()` if `lowercase`, then `str.rstrip()`.
pub(super) fn prepare(text: &str, lowercase: bool) -> String {
    if lowercase {
        text.to_lowercase().trim_end_matches(is_space).to_owned()
    } else {
        text.trim_end_matches(is_space).to_owned()
    }
}

/// Puts a space on both sides of every character that `is_match` accepts.
pub(super) fn isolate(text: &str, is_match: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if is_match(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// Which character of a matching pair gets the spaces.
#[derive(Clone, Copy)]
pub(super) enum Isolated {
    First,
    Second,
}

/// Spaces out one character of every pair of neighbours that `is_match` accepts: `re.sub(r"(A)(B)", …)`.
///
/// As there, a match consumes both characters, so the second one can not begin another match: ` ..5 ` becomes ` . .5 `
/// when a point is to be split from what stands before it.
pub(super) fn isolate_in_pairs(text: &str, which: Isolated, is_match: impl Fn(char, char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        match chars.next_if(|&second| is_match(first, second)) {
            Some(second) => match which {
                Isolated::First => out.extend([' ', first, ' ', second]),
                Isolated::Second => out.extend([first, ' ', second, ' ']),
            },
            None => out.push(first),
        }
    }
    out
}

/// The four replacements that mteval's 13a, `zh` and tercom share; the spaces are not yet collapsed.
pub(super) fn split_western(text: &str) -> String {
    split_points(&split_punctuation(text))
}

/// The first of the four: isolates ASCII punctuation except `' , - .`, and the space itself.
pub(super) fn split_punctuation(text: &str) -> String {
    isolate(text, |c| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/'))
}

/// The other three: `.` and `,` after a non-digit, then before a non-digit; then `-` after a digit.
pub(super) fn split_points(text: &str) -> String {
    let point = |c| c == '.' || c == ',';
    let text = isolate_in_pairs(text, Isolated::Second, |a, b| !a.is_ascii_digit() && point(b));
    let text = isolate_in_pairs(&text, Isolated::First, |a, b| point(a) && !b.is_ascii_digit());
    isolate_in_pairs(&text, Isolated::Second, |a, b| a.is_ascii_digit() && b == '-')
}

/// Unescapes the four entities that the western tokenizers know, in their order.
pub(super) fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_consumes_its_context() {
        let split = |text: &str| words(&split_western(&format!(" {text} "))).collect::<Vec<_>>().join(" ");
        assert_eq!(split("..5"), ". .5");
        assert_eq!(split(".,1"), ". ,1");
        assert_eq!(split("1.5-2,000 e.g. it's-(so)"), "1.5 - 2,000 e . g . it's- ( so )");
    }

    #[test]
    fn information_separators_are_whitespace_as_in_python() {
        assert_eq!(words("a\u{1c}b\u{1f} c\u{3000}d").collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(prepare("A \u{1e}\n", true), "a");
    }
}
