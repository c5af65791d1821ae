//! Noun phrases in English and in the four cases of German.

use super::lexicon::{Adjective, Noun};
use super::numbers;

pub(crate) const NOM: usize = 0;
pub(crate) const ACC: usize = 1;
pub(crate) const DAT: usize = 2;
pub(crate) const GEN: usize = 3;

/// Grammatical person and number; the index of verb forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Person {
    I,
    You,
    Third,
    We,
    They,
}

/// A noun phrase or pronoun.
#[derive(Clone, Debug)]
pub(crate) struct Phrase {
    pub(crate) en: String,
    /// Differs from `en` for pronouns.
    pub(crate) en_object: String,
    /// Nominative, accusative, dative, genitive.
    pub(crate) de: [String; 4],
    pub(crate) person: Person,
}

/// What stands before the adjective.
pub(crate) enum Determiner<'a> {
    The,
    A,
    This,
    Every,
    /// Index into [`POSSESSIVES`].
    Possessive(usize),
    /// "does not see a dog": "sieht keinen Hund".
    No,
    Number(usize),
    Digits(usize),
    Many,
    Bare,
    Name(&'a str),
    /// "the teacher's".
    Of(&'a Phrase),
}

pub(crate) const POSSESSIVES: [[&str; 2]; 6] =
    [["my", "mein"], ["your", "dein"], ["his", "sein"], ["her", "ihr"], ["our", "unser"], ["their", "ihr"]];

/// Column of a paradigm: masculine, feminine, neuter, plural.
fn column(noun: &Noun, plural: bool) -> usize {
    match noun.gender {
        _ if plural => 3,
        'm' => 0,
        'f' => 1,
        _ => 2,
    }
}

/// Rows: nominative, accusative, dative, genitive.
const ARTICLE: [[&str; 4]; 4] = [
    ["der", "die", "das", "die"],
    ["den", "die", "das", "die"],
    ["dem", "der", "dem", "den"],
    ["des", "der", "des", "der"],
];
const DIESER: [[&str; 4]; 4] =
    [["er", "e", "es", "e"], ["en", "e", "es", "e"], ["em", "er", "em", "en"], ["es", "er", "es", "er"]];
const EIN: [[&str; 4]; 4] =
    [["", "e", "", "e"], ["en", "e", "", "e"], ["em", "er", "em", "en"], ["es", "er", "es", "er"]];
/// Adjective endings after the definite article.
const WEAK: [[&str; 4]; 4] =
    [["e", "e", "e", "en"], ["en", "e", "e", "en"], ["en", "en", "en", "en"], ["en", "en", "en", "en"]];
/// After "ein", "kein", "mein".
const MIXED: [[&str; 4]; 4] =
    [["er", "e", "es", "en"], ["en", "e", "es", "en"], ["en", "en", "en", "en"], ["en", "en", "en", "en"]];
/// Without an article.
const STRONG: [[&str; 4]; 4] =
    [["er", "e", "es", "e"], ["en", "e", "es", "e"], ["em", "er", "em", "en"], ["en", "er", "en", "er"]];

fn noun_form(noun: &Noun, case: usize, plural: bool) -> String {
    let weak = noun.genitive == "*";
    match (plural, case) {
        (true, DAT) if !noun.de_plural.ends_with(['n', 's']) => format!("{}n", noun.de_plural),
        (true, _) => noun.de_plural.clone(),
        (false, ACC | DAT) if weak => noun.de_plural.clone(),
        (false, GEN) if weak => noun.de_plural.clone(),
        (false, GEN) if noun.gender != 'f' => noun.genitive.clone(),
        (false, _) => noun.de.clone(),
    }
}

/// "Annas", "Thomas'".
pub(crate) fn genitive_of_name(name: &str) -> String {
    if name.ends_with(['s', 'x', 'z']) {
        format!("{name}'")
    } else {
        format!("{name}s")
    }
}

/// Builds determiner + adjective + noun.
pub(crate) fn phrase(determiner: &Determiner, adjective: Option<&Adjective>, noun: &Noun, plural: bool) -> Phrase {
    let col = column(noun, plural);
    let en_noun = if plural { &noun.en_plural } else { &noun.en };
    let en_rest = adjective.map_or(en_noun.clone(), |a| format!("{} {en_noun}", a.en));
    let en_determiner = match determiner {
        Determiner::The => "the".to_string(),
        Determiner::A | Determiner::No if !plural && !noun.is_mass() => {
            if en_rest.starts_with(['a', 'e', 'i', 'o', 'u']) {
                "an".to_string()
            } else {
                "a".to_string()
            }
        }
        Determiner::No => "any".to_string(),
        Determiner::A | Determiner::Bare => String::new(),
        Determiner::This => if plural { "these" } else { "this" }.to_string(),
        Determiner::Every => "every".to_string(),
        Determiner::Possessive(which) => POSSESSIVES[*which][0].to_string(),
        Determiner::Number(n) => numbers::english(*n),
        Determiner::Digits(n) => numbers::grouped(*n, ','),
        Determiner::Many => "many".to_string(),
        Determiner::Name(name) => format!("{name}'s"),
        Determiner::Of(owner) => format!("{}'s", owner.en),
    };
    let en = join(&[&en_determiner, &en_rest]);
    let de = [NOM, ACC, DAT, GEN].map(|case| {
        let ein = |stem: &str| (format!("{stem}{}", EIN[case][col]), MIXED);
        let (word, endings) = match determiner {
            Determiner::The | Determiner::Of(_) => (ARTICLE[case][col].to_string(), WEAK),
            Determiner::This => (format!("dies{}", DIESER[case][col]), WEAK),
            Determiner::Every => (format!("jed{}", DIESER[case][col]), WEAK),
            Determiner::A if !plural && !noun.is_mass() => ein("ein"),
            Determiner::Possessive(which) => ein(POSSESSIVES[*which][1]),
            Determiner::No => ein("kein"),
            Determiner::Number(n) => (numbers::german(*n), STRONG),
            Determiner::Digits(n) => (numbers::grouped(*n, '.'), STRONG),
            Determiner::Many => (if case == DAT { "vielen" } else { "viele" }.to_string(), STRONG),
            Determiner::Name(name) => (genitive_of_name(name), STRONG),
            Determiner::A | Determiner::Bare => (String::new(), STRONG),
        };
        let adjective = adjective.map_or(String::new(), |a| format!("{}{}", a.stem, endings[case][col]));
        let owner = if let Determiner::Of(owner) = determiner { owner.de[GEN].as_str() } else { "" };
        join(&[&word, &adjective, &noun_form(noun, case, plural), owner])
    });
    Phrase { en_object: en.clone(), en, de, person: if plural { Person::They } else { Person::Third } }
}

/// Preposition + noun phrase with the contractions "im", "am", "zum", "zur", "vom", "ins", "ans".
pub(crate) fn prepositional(preposition: &str, phrase: &Phrase, case: usize) -> String {
    let noun = &phrase.de[case];
    let contract = |article: &str, contracted: &str| {
        noun.strip_prefix(article).and_then(|rest| rest.strip_prefix(' ')).map(|rest| format!("{contracted} {rest}"))
    };
    let contracted = match (preposition, case) {
        ("in", DAT) => contract("dem", "im"),
        ("an", DAT) => contract("dem", "am"),
        ("von", DAT) => contract("dem", "vom"),
        ("zu", DAT) => contract("dem", "zum").or_else(|| contract("der", "zur")),
        ("in", ACC) => contract("das", "ins"),
        ("an", ACC) => contract("das", "ans"),
        _ => None,
    };
    contracted.unwrap_or_else(|| format!("{preposition} {noun}"))
}

/// The parts that are not empty, with spaces between.
pub(crate) fn join(parts: &[&str]) -> String {
    let mut text = String::with_capacity(parts.iter().map(|p| p.len() + 1).sum());
    for part in parts.iter().filter(|p| !p.is_empty()) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(part);
    }
    text
}

/// First letter upper-case.
pub(crate) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
