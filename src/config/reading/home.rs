//! `~/` at the start of a value: the home folder, as the shell would have put it had it seen the word.

use std::path::Path;

use toml::de::DeValue;

/// Replaces a leading `~/` in every text of a value.
///
/// # Errors
/// What is wrong with a leading `~` that can not be replaced.
pub(super) fn expand(value: &mut DeValue, home: Option<&Path>) -> Result<(), String> {
    match value {
        DeValue::String(text) => {
            if let Some(expanded) = expanded(text, home)? {
                *value = DeValue::String(expanded.into());
            }
            Ok(())
        }
        DeValue::Array(items) => items.iter_mut().try_for_each(|item| expand(item.get_mut(), home)),
        DeValue::Table(table) => table.iter_mut().try_for_each(|(_, item)| expand(item.get_mut(), home)),
        _ => Ok(()),
    }
}

fn expanded(text: &str, home: Option<&Path>) -> Result<Option<String>, String> {
    let Some(rest) = text.strip_prefix('~') else { return Ok(None) };
    let Some(rest) = rest.strip_prefix('/').or(rest.is_empty().then_some("")) else {
        return Err(format!(
            "`{text}`: only `~/` stands for a home folder; write the whole path, or ./{text} for that name"
        ));
    };
    match home {
        Some(home) => Ok(Some(home.join(rest).display().to_string())),
        None => Err(format!("`{text}`: no home folder is known (HOME is not set); write the whole path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_tilde_is_the_home_folder() {
        let home = Some(Path::new("/home/me"));
        assert_eq!(expanded("~/a b/c", home), Ok(Some("/home/me/a b/c".to_string())));
        assert_eq!(expanded("~", home), Ok(Some("/home/me/".to_string())));
        for plain in ["a/~/b", "a~", "./~/b", "", "hf://me/x"] {
            assert_eq!(expanded(plain, home), Ok(None));
        }
        assert!(expanded("~you/a", home).unwrap_err().contains("./~you/a"));
        assert!(expanded("~/a", None).unwrap_err().contains("HOME is not set"));
    }
}
