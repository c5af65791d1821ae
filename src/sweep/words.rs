//! A line of a sweep file as words. Of a shell's ways only these hold: quotes, `\`, comments, braces.

/// Most runs of a line, and of a file: a range with a zero too many should not fill the memory.
pub(super) const MOST: usize = 10_000;

/// More are no list that somebody wrote.
const MOST_BRACES: usize = 100;

/// A character of a word. A quoted one stands for itself.
#[derive(Clone, Copy)]
struct Letter {
    c: char,
    quoted: bool,
}

impl Letter {
    fn is(self, c: char) -> bool {
        !self.quoted && self.c == c
    }
}

/// All that a line stands for, each a list of words, in the order in which a shell expands braces.
///
/// # Errors
/// Control characters, quotes that are not closed, braces that do not expand; more than [`MOST`].
pub(super) fn expand(line: &str) -> Result<Vec<Vec<String>>, String> {
    let mut lines = vec![Vec::new()];
    for word in split(line)? {
        let words = &alternatives(&word).ok_or_else(|| {
            let word = text(&word);
            format!(
                "`{word}` does not expand: lists are {{a,b}}, ranges {{1..3}}, without spaces, of {MOST} in all at most; \
                 a brace that is meant is quoted"
            )
        })?;
        if lines.len() * words.len() > MOST {
            return Err(format!("stands for {} runs, {MOST} are the most", lines.len() * words.len()));
        }
        let longer = |line: &Vec<String>, word: &String| [&line[..], std::slice::from_ref(word)].concat();
        lines = lines.iter().flat_map(|line| words.iter().map(move |word| longer(line, word))).collect();
    }
    Ok(lines)
}

fn split(line: &str) -> Result<Vec<Vec<Letter>>, String> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("has control characters".to_string());
    }
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Vec<Letter>>, None);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let escapes = match quote {
            None => true,
            Some('"') => chars.peek().is_some_and(|next| "\"\\$`".contains(*next)),
            Some(_) => false,
        };
        match c {
            _ if quote == Some(c) => quote = None,
            '\\' if escapes => {
                let c = chars.next().ok_or("ends with a backslash")?;
                word.get_or_insert_default().push(Letter { c, quoted: true });
            }
            '\'' | '"' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ' ' | '\t' if quote.is_none() => words.extend(word.take()),
            '#' if quote.is_none() && word.is_none() => break,
            _ => word.get_or_insert_default().push(Letter { c, quoted: quote.is_some() }),
        }
    }
    words.extend(word);
    quote.map_or(Ok(words), |quote| Err(format!("has a {quote} without its second")))
}

/// All that a word stands for; `None` where a brace means nothing, or too much.
fn alternatives(word: &[Letter]) -> Option<Vec<String>> {
    let mut braces = word.iter().enumerate().filter(|(_, letter)| letter.is('{') || letter.is('}'));
    let Some((open, _)) = braces.next() else { return Some(vec![text(word)]) };
    if braces.count() > 2 * MOST_BRACES {
        return None;
    }
    let marks = group(word, open)?;
    let parts: Vec<&[Letter]> = marks.windows(2).map(|ends| &word[ends[0] + 1..ends[1]]).collect();
    let inner = match parts[..] {
        [part] => range(part)?,
        _ => parts.into_iter().map(alternatives).collect::<Option<Vec<_>>>()?.concat(),
    };
    let rests = alternatives(&word[marks.last()? + 1..])?;
    let before = &*text(&word[..open]);
    let all = inner.iter().flat_map(|item| rests.iter().map(move |rest| format!("{before}{item}{rest}")));
    (inner.len() * rests.len() <= MOST).then(|| all.collect())
}

/// Places of the brace at `open`, of the commas that belong to it, and of its second.
fn group(word: &[Letter], open: usize) -> Option<Vec<usize>> {
    let (mut depth, mut marks) = (0, Vec::new());
    for (place, letter) in word.iter().enumerate().skip(open).filter(|(_, letter)| !letter.quoted) {
        depth += usize::from(letter.c == '{');
        if depth == 1 && "{,}".contains(letter.c) {
            marks.push(place);
        }
        match letter.c {
            '}' if depth <= 1 => return (depth == 1).then_some(marks),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What stands for `1..3`, `01..10..3`, `a..e`.
fn range(part: &[Letter]) -> Option<Vec<String>> {
    let written = text(part);
    let ends: Vec<&str> = written.split("..").collect();
    let (first, last, step) = match ends[..] {
        _ if part.iter().any(|letter| letter.quoted) => return None,
        [first, last] => (first, last, 1),
        [first, last, step] => (first, last, step.parse::<i64>().ok()?.unsigned_abs().max(1)),
        _ => return None,
    };
    if let (Ok(from), Ok(to)) = (first.parse(), last.parse()) {
        let padded = |number: &str| matches!(number.trim_start_matches('-').as_bytes(), [b'0', _, ..]);
        let width = if padded(first) || padded(last) { first.len().max(last.len()) } else { 0 };
        return Some(steps(from, to, step)?.map(|number| format!("{number:0width$}")).collect());
    }
    let (&[from], &[to]) = (first.as_bytes(), last.as_bytes()) else { return None };
    let both = |is: fn(&u8) -> bool| is(&from) && is(&to);
    if !both(u8::is_ascii_lowercase) && !both(u8::is_ascii_uppercase) {
        return None;
    }
    Some(steps(from.into(), to.into(), step)?.map(|code| char::from(code as u8).to_string()).collect())
}

/// From one number towards the other.
fn steps(from: i64, to: i64, step: u64) -> Option<impl Iterator<Item = i64>> {
    let more = from.abs_diff(to) / step;
    let at =
        move |n| if from <= to { from.wrapping_add_unsigned(n * step) } else { from.wrapping_sub_unsigned(n * step) };
    (more < MOST as u64).then(|| (0..=more).map(at))
}

fn text(word: &[Letter]) -> String {
    word.iter().map(|letter| letter.c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(line: &str) -> Result<Vec<String>, String> {
        Ok(expand(line)?.into_iter().map(|words| words.join("|")).collect())
    }

    #[test]
    fn of_a_shells_ways_quotes_backslashes_comments_and_braces_hold() {
        for (line, expected) in [
            ("", vec![""]),
            ("  a\tb  # c", vec!["a|b"]),
            ("a#b '#'", vec!["a#b|#"]),
            (r#"'a b'c"d e" '' "\"\\\$\`\a" '\' \ \{a,b\}"#, vec![r#"a bcd e||"\$`\a|\| {a,b}"#]),
            ("$HOME ~ * `id` $(id) ;&|<>!", vec!["$HOME|~|*|`id`|$(id)|;&|<>!"]),
            ("x={1..3} {a,b}", vec!["x=1|a", "x=1|b", "x=2|a", "x=2|b", "x=3|a", "x=3|b"]),
            ("{,-{p,q}}r{3..1..2}", vec!["r3", "r1", "-pr3", "-pr1", "-qr3", "-qr1"]),
            (
                "{08..10} {-01..1}",
                vec!["08|-01", "08|000", "08|001", "09|-01", "09|000", "09|001", "10|-01", "10|000", "10|001"],
            ),
            ("{c..a}{A..E..3}", vec!["cA", "cD", "bA", "bD", "aA", "aD"]),
            ("{a','b,\"{c}\"}", vec!["a,b", "{c}"]),
            ("{1..2,3}", vec!["1..2", "3"]),
        ] {
            assert_eq!(all(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_can_not_be_meant_is_a_fault() {
        for word in [
            "{a}",
            "{}",
            "a}",
            "{a",
            "{a,b}}",
            "{a,{b}",
            "{a,{b}}",
            "{1..a}",
            "{a..Z}",
            "{1..2..x}",
            "{0.1..0.3}",
            "{'1'..3}",
        ] {
            let written = format!("`{}` does not expand: ", word.replace('\'', ""));
            assert!(all(word).is_err_and(|text| text.starts_with(&written)), "{word}");
        }
        assert_eq!(all("a\\").unwrap_err(), "ends with a backslash");
        assert_eq!(all("a 'b \"").unwrap_err(), "has a ' without its second");
        assert_eq!(all("a\u{1}").unwrap_err(), "has control characters");
        for many in
            ["{1..10001}", "{-9223372036854775808..9223372036854775807}", "{1..200}{1..200}", "{1..200} {1..200}"]
        {
            assert!(all(many).is_err_and(|text| text.contains("10000")), "{many}");
        }
        for deep in ["{".repeat(100_000), "{a,".repeat(100_000) + &"}".repeat(100_000)] {
            assert!(all(&deep).is_err());
        }
        assert_eq!(all("{9223372036854775806..9223372036854775807}").unwrap().len(), 2);
    }

    /// A word as written, and all that it stands for.
    fn word() -> impl Strategy<Value = (String, Vec<String>)> {
        let plain = "[a-z0-9._=/-]{0,3}".prop_map(|text| (text.clone(), vec![text]));
        let quoted = "[a-z{},. '#$-]{1,3}"
            .prop_map(|text: String| (crate::shell::quoted(&format!("{text} ")), vec![text + " "]));
        let range = (-20i64..20, -20i64..20, 1i64..5).prop_map(|(from, to, step)| {
            let numbers = (0..).map(|n| if from < to { from + n * step } else { from - n * step });
            let inside = numbers.take_while(|n| (from.min(to)..=from.max(to)).contains(n));
            (format!("{{{from}..{to}..{step}}}"), inside.map(|n| n.to_string()).collect())
        });
        let leaf = prop_oneof![3 => plain, 1 => quoted, 1 => range];
        leaf.prop_recursive(3, 12, 3, |inner| {
            let list = prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| {
                let (written, meant): (Vec<String>, Vec<Vec<String>>) = parts.into_iter().unzip();
                (format!("{{{}}}", written.join(",")), meant.concat())
            });
            let row = (inner.clone(), inner).prop_map(|((a, first), (b, second))| {
                let both = first.iter().flat_map(|x| second.iter().map(move |y| format!("{x}{y}")));
                (a + &b, both.collect())
            });
            prop_oneof![list, row]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn words_expand_to_what_they_were_made_of((written, meant) in word(), (other, second) in word()) {
            prop_assume!(meant.len() * second.len() <= 2000);
            let expected: Vec<Vec<String>> = meant.iter().flat_map(|a| second.iter().map(move |b| vec![format!("x{a}"), format!("y{b}")])).collect();
            prop_assert_eq!(expand(&format!("x{written} y{other} # {{")), Ok(expected));
        }

        #[test]
        fn what_is_quoted_for_a_shell_is_read_back(words in prop::collection::vec("\\PC{0,8}|[a-c'\"{},#\\\\ ]{0,8}", 1..5)) {
            prop_assert_eq!(expand(&crate::shell::command(&words)), Ok(vec![words]));
        }

        #[test]
        fn no_text_is_more_than_a_fault(line in "[a-c1-3{},.'\"# \\\\-]{0,24}|.{0,12}") {
            let _ = expand(&line);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]
        /// The shell is the judge of whatever expands here.
        #[test]
        fn a_shell_expands_the_same(words in prop::collection::vec(r"x(a?\{-?[ab0-2]{1,2}(,|\.\.)[ab012-]{0,2}((,|\.\.)[ab12{},]{0,3})?\}){1,2}", 300)) {
            let good = words.iter().filter(|word| word.contains('{') && all(word).is_ok_and(|list| list.len() < 2000));
            let good: Vec<&String> = good.collect();
            prop_assert!(good.len() > 30);
            let script: String = good.iter().map(|word| format!("echo {word}\n")).collect();
            let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            for (line, word) in String::from_utf8_lossy(&output.stdout).lines().zip(good) {
                let ours = all(word).unwrap().join(" ");
                prop_assert_eq!(line, ours, "{}", word);
            }
        }
    }
}
