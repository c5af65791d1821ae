//! The words of English→German, read from the tables beside this file.

/// A noun with its inflection in both languages.
#[derive(Clone)]
pub(crate) struct Noun {
    pub(crate) en: String,
    /// "-" for nouns that are not counted.
    pub(crate) en_plural: String,
    pub(crate) de: String,
    /// `m`, `f` or `n`.
    pub(crate) gender: char,
    pub(crate) de_plural: String,
    /// Genitive singular; "*" for weak nouns, whose other cases all equal the plural; empty for feminine ones.
    pub(crate) genitive: String,
    pub(crate) tags: String,
    /// English preposition, German one with dative, German one of direction.
    pub(crate) place: Option<[String; 3]>,
}

impl Noun {
    pub(crate) fn is_mass(&self) -> bool {
        self.en_plural == "-"
    }

    pub(crate) fn has(&self, tag: char) -> bool {
        self.tags.contains(tag)
    }
}

/// An adjective; two rows with one English word are told apart by the nouns they fit.
pub(crate) struct Adjective {
    pub(crate) en: String,
    pub(crate) de: String,
    pub(crate) stem: String,
    /// English, German.
    pub(crate) comparative: Option<[String; 2]>,
    pub(crate) tags: String,
}

/// A verb with its forms.
pub(crate) struct Verb {
    /// Base, third person, past.
    pub(crate) en: [String; 3],
    /// "up" of "pick up", "for" of "look for"; may be empty.
    pub(crate) particle: String,
    /// Whether the particle moves behind a pronoun ("picks him up").
    pub(crate) particle_moves: bool,
    /// Separable prefix, may be empty.
    pub(crate) prefix: String,
    /// Without the prefix.
    pub(crate) infinitive: String,
    pub(crate) du: String,
    pub(crate) er: String,
    /// Without the prefix.
    pub(crate) participle: String,
    /// Perfect tense with "sein".
    pub(crate) with_sein: bool,
    /// German preposition of the object, may be empty.
    pub(crate) preposition: String,
    pub(crate) dative: bool,
    /// Tags of the nouns that can be its object.
    pub(crate) objects: String,
    /// What sentences the verb serves; "object" if it takes one from `objects`.
    pub(crate) group: String,
}

/// All tables.
pub(crate) struct Lexicon {
    pub(crate) nouns: Vec<Noun>,
    pub(crate) modifiers: Vec<[String; 2]>,
    pub(crate) adjectives: Vec<Adjective>,
    pub(crate) verbs: Vec<Verb>,
}

/// The cells of each row that is no comment.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split('|').map(str::to_string).collect())
}

impl Lexicon {
    pub(crate) fn new() -> Self {
        Lexicon {
            nouns: rows(include_str!("nouns.txt")).map(noun).collect(),
            modifiers: rows(include_str!("modifiers.txt")).map(|row| [row[0].clone(), row[1].clone()]).collect(),
            adjectives: rows(include_str!("adjectives.txt")).map(adjective).collect(),
            verbs: rows(include_str!("verbs.txt")).map(verb).collect(),
        }
    }
}

fn noun(row: Vec<String>) -> Noun {
    Noun {
        place: row.get(7).map(|_| [row[7].clone(), row[8].clone(), row[9].clone()]),
        en: row[0].clone(),
        en_plural: row[1].clone(),
        de: row[2].clone(),
        gender: row[3].chars().next().unwrap_or('n'),
        de_plural: row[4].clone(),
        genitive: row[5].clone(),
        tags: row[6].clone(),
    }
}

fn adjective(row: Vec<String>) -> Adjective {
    Adjective {
        comparative: (!row[3].is_empty()).then(|| [row[3].clone(), row[4].clone()]),
        en: row[0].clone(),
        de: row[1].clone(),
        stem: row[2].clone(),
        tags: row[5].clone(),
    }
}

fn verb(row: Vec<String>) -> Verb {
    let (preposition, case) = row[10].rsplit_once(' ').unwrap_or(("", &row[10]));
    let takes_object = !case.is_empty();
    Verb {
        preposition: preposition.to_string(),
        dative: case == "d",
        objects: if takes_object { row[11].clone() } else { String::new() },
        group: if takes_object { "object".to_string() } else { row[11].clone() },
        particle: row[3].trim_start_matches('~').to_string(),
        particle_moves: row[3].starts_with('~'),
        en: [row[0].clone(), row[1].clone(), row[2].clone()],
        prefix: row[4].clone(),
        infinitive: row[5].clone(),
        du: row[6].clone(),
        er: row[7].clone(),
        participle: row[8].clone(),
        with_sein: row[9] == "s",
    }
}
