//! Commands as text that a shell takes: what the program prints can be pasted.

use std::path::Path;

/// One word of a command, quoted where a shell would read it as something else.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
    // zsh expands a leading "=", as every shell does "~", which is not plain anyway
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('=') {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A file as one word of a command; one whose name begins with "-" is not taken for an option.
pub fn path(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.starts_with('-') {
        true => quoted(&format!("./{text}")),
        false => quoted(&text),
    }
}

/// A whole command.
pub fn command<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    words.into_iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_expand_is_quoted() {
        assert_eq!(quoted("train.max_updates=5"), "train.max_updates=5");
        assert_eq!(quoted("it's [a]"), "'it'\\''s [a]'");
        assert_eq!(quoted(""), "''");
        for word in ["runs/my conf", "a$b", "~/x", "a;b", "a&b", "a*", "a|b", "a\nb", "a\\b", "größe", "=ls", "{a,b}"]
        {
            assert_eq!(quoted(word), format!("'{word}'"));
        }
        assert_eq!(command(["nmt-train", "--resume", "my runs/a"]), "nmt-train --resume 'my runs/a'");
    }

    #[test]
    fn a_file_is_never_an_option() {
        assert_eq!(path(Path::new("-x/y z")), "'./-x/y z'");
        assert_eq!(path(Path::new("runs/a-b")), "runs/a-b");
    }

    /// The shell is the judge.
    #[test]
    fn a_shell_reads_back_every_word() -> std::io::Result<()> {
        let words = ["a b", "it's", "$HOME", "`id`", "\"q\"", "~", "*", "\\n", "a\tb", "-", "ü", "!x", "#c", "a=b c"];
        let script = format!("printf '%s\\037' {}", command(words));
        let output = std::process::Command::new("sh").args(["-c", &script]).output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end_matches('\u{1f}'), words.join("\u{1f}"));
        Ok(())
    }
}
