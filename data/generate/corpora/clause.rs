//! A clause as parts, put in order for English and for each German word order.

use super::german::{join, Person, Phrase};
use super::lexicon::Verb;

/// Tense, modal or "like to".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tense {
    Present,
    /// English simple past, German perfect ("war" for "sein").
    Past,
    Future,
    Can,
    Must,
    Want,
    /// "likes to read": "liest gern".
    Like,
}

/// Where the German finite verb stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    SubjectFirst,
    /// Verb second after the fronted time.
    TimeFirst,
    /// Questions, and the main clause after a subordinate one.
    VerbFirst,
    /// After "dass", "weil", …
    VerbLast,
}

/// An expression in both languages.
pub(crate) type Both = (String, String);

/// See the module.
#[derive(Clone)]
pub(crate) struct Clause<'a> {
    pub(crate) subject: Phrase,
    pub(crate) verb: &'a Verb,
    pub(crate) tense: Tense,
    /// English "not".
    pub(crate) negated: bool,
    /// German "nicht" ("kein" sits in the object).
    pub(crate) nicht: bool,
    /// "often", before the English verb; in German where time stands.
    pub(crate) adverb: Option<Both>,
    pub(crate) time: Option<Both>,
    /// All objects with the particle of the verb.
    pub(crate) en_objects: String,
    /// Comes before time.
    pub(crate) de_pronoun: String,
    pub(crate) de_objects: String,
    /// After "nicht": places, directions, prepositional objects, predicates.
    pub(crate) place: Both,
}

/// Forms for I, you, third, we, they.
fn forms(person: Person, table: [&'static str; 5]) -> String {
    table[person as usize].to_string()
}

impl<'a> Clause<'a> {
    /// Only subject and verb.
    pub(crate) fn new(subject: Phrase, verb: &'a Verb, tense: Tense) -> Self {
        Clause {
            subject,
            tense,
            negated: false,
            nicht: false,
            adverb: None,
            time: None,
            en_objects: verb.particle.clone(),
            de_pronoun: String::new(),
            de_objects: String::new(),
            place: Both::default(),
            verb,
        }
    }

    fn third(&self) -> bool {
        self.subject.person == Person::Third
    }

    fn is_be(&self) -> bool {
        self.verb.group == "be"
    }

    /// "do", "does", "will"…; and what follows the subject or "not".
    fn auxiliary(&self) -> (&'static str, String) {
        let third = self.third();
        let base = self.verb.en[0].clone();
        let does = if third { "does" } else { "do" };
        match self.tense {
            Tense::Present => (does, base),
            Tense::Past => ("did", base),
            Tense::Future => ("will", base),
            Tense::Can => ("can", base),
            Tense::Must => ("must", base),
            Tense::Want => (does, format!("want to {base}")),
            Tense::Like => (does, format!("like to {base}")),
        }
    }

    fn english_be(&self) -> &'static str {
        match (self.tense, self.subject.person) {
            (Tense::Past, Person::I | Person::Third) => "was",
            (Tense::Past, _) => "were",
            (_, Person::I) => "am",
            (_, Person::Third) => "is",
            _ => "are",
        }
    }

    fn english_verb(&self) -> String {
        let not = if self.negated { "not" } else { "" };
        let adverb = self.adverb.as_ref().map_or("", |a| &a.0);
        if self.is_be() && matches!(self.tense, Tense::Present | Tense::Past) {
            return join(&[self.english_be(), not, adverb]);
        }
        let (auxiliary, rest) = self.auxiliary();
        if self.negated {
            let auxiliary = if auxiliary == "can" { "cannot".to_string() } else { format!("{auxiliary} not") };
            return join(&[&auxiliary, adverb, &rest]);
        }
        let s = |word: &str| if self.third() { format!("{word}s") } else { word.to_string() };
        let base = &self.verb.en[0];
        let verb = match self.tense {
            Tense::Present if self.third() => self.verb.en[1].clone(),
            Tense::Present => base.clone(),
            Tense::Past => self.verb.en[2].clone(),
            Tense::Want => format!("{} to {base}", s("want")),
            Tense::Like => format!("{} to {base}", s("like")),
            _ => return join(&[auxiliary, adverb, &rest]),
        };
        join(&[adverb, &verb])
    }

    /// Without capital and full stop; a fronted time takes a comma.
    pub(crate) fn english(&self, time_first: bool) -> String {
        let time = self.time.as_ref().map_or("", |t| &t.0);
        let (front, back) =
            if time_first && !time.is_empty() { (format!("{time},"), "") } else { (String::new(), time) };
        join(&[&front, &self.subject.en, &self.english_verb(), &self.en_objects, &self.place.0, back])
    }

    /// "does she buy …", without the question mark.
    pub(crate) fn english_question(&self) -> String {
        let time = self.time.as_ref().map_or("", |t| &t.0);
        let adverb = self.adverb.as_ref().map_or("", |a| &a.0);
        let (auxiliary, rest) = match self.is_be() {
            true => (self.english_be(), String::new()),
            false => self.auxiliary(),
        };
        join(&[auxiliary, &self.subject.en, adverb, &rest, &self.en_objects, &self.place.0, time])
    }

    /// "to call the teacher" without the "to".
    pub(crate) fn english_infinitive(&self) -> String {
        let time = self.time.as_ref().map_or("", |t| &t.0);
        join(&[&self.verb.en[0], &self.en_objects, &self.place.0, time])
    }

    /// The finite German verb (without prefix) and what closes the clause; `joined`: how both stand at the end.
    fn german_verb(&self) -> (String, String, String) {
        let person = self.subject.person;
        let verb = self.verb;
        let with_auxiliary = |auxiliary: String, rest: String| {
            let joined = format!("{rest} {auxiliary}");
            (auxiliary, rest, joined)
        };
        let infinitive = || format!("{}{}", verb.prefix, verb.infinitive);
        match self.tense {
            Tense::Past if self.is_be() => {
                let finite = forms(person, ["war", "warst", "war", "waren", "waren"]);
                (finite.clone(), String::new(), finite)
            }
            Tense::Past => {
                let auxiliary = match verb.with_sein {
                    true => forms(person, ["bin", "bist", "ist", "sind", "sind"]),
                    false => forms(person, ["habe", "hast", "hat", "haben", "haben"]),
                };
                with_auxiliary(auxiliary, format!("{}{}", verb.prefix, verb.participle))
            }
            Tense::Future => {
                with_auxiliary(forms(person, ["werde", "wirst", "wird", "werden", "werden"]), infinitive())
            }
            Tense::Can => with_auxiliary(forms(person, ["kann", "kannst", "kann", "können", "können"]), infinitive()),
            Tense::Must => with_auxiliary(forms(person, ["muss", "musst", "muss", "müssen", "müssen"]), infinitive()),
            Tense::Want => with_auxiliary(forms(person, ["will", "willst", "will", "wollen", "wollen"]), infinitive()),
            Tense::Present | Tense::Like => {
                let finite = self.german_present();
                let joined = format!("{}{finite}", verb.prefix);
                (finite, verb.prefix.clone(), joined)
            }
        }
    }

    fn german_present(&self) -> String {
        let person = self.subject.person;
        if self.is_be() {
            return forms(person, ["bin", "bist", "ist", "sind", "sind"]);
        }
        match person {
            Person::I if self.verb.infinitive == "wissen" => "weiß".to_string(),
            Person::I => self.verb.infinitive.trim_end_matches('n').to_string(),
            Person::You => self.verb.du.clone(),
            Person::Third => self.verb.er.clone(),
            Person::We | Person::They => self.verb.infinitive.clone(),
        }
    }

    /// Everything between the subject and the end of the clause except verbs.
    fn german_middle(&self, with_time: bool) -> String {
        let time = self.time.as_ref().filter(|_| with_time).map_or("", |t| &t.1);
        let adverb = self.adverb.as_ref().map_or("", |a| &a.1);
        let gern = if self.tense == Tense::Like { "gern" } else { "" };
        let nicht = if self.nicht { "nicht" } else { "" };
        join(&[&self.de_pronoun, time, adverb, gern, &self.de_objects, nicht, &self.place.1])
    }

    /// Without capital and full stop.
    pub(crate) fn german(&self, order: Order) -> String {
        let (finite, end, joined) = self.german_verb();
        let subject = &self.subject.de[0];
        match order {
            Order::SubjectFirst => join(&[subject, &finite, &self.german_middle(true), &end]),
            Order::TimeFirst => {
                let time = self.time.as_ref().map_or("", |t| &t.1);
                join(&[time, &finite, subject, &self.german_middle(false), &end])
            }
            Order::VerbFirst => join(&[&finite, subject, &self.german_middle(true), &end]),
            Order::VerbLast => join(&[subject, &self.german_middle(true), &joined]),
        }
    }

    /// "die Lehrerin anzurufen".
    pub(crate) fn german_infinitive(&self) -> String {
        let verb = self.verb;
        let zu = match verb.prefix.is_empty() {
            true => format!("zu {}", verb.infinitive),
            false => format!("{}zu{}", verb.prefix, verb.infinitive),
        };
        join(&[&self.german_middle(true), &zu])
    }
}
