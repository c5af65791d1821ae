//! Draws the parts of English→German sentences: subjects, objects, places, times, whole clauses.

use nmt_train::rng::Stream;

use super::clause::{Both, Clause, Tense};
use super::german::{join, phrase, prepositional, Determiner, Person, Phrase, ACC, DAT, POSSESSIVES};
use super::held_out::Marks;
use super::lexicon::{Adjective, Lexicon, Noun, Verb};
use super::numbers::{self, MONTHS};

pub(crate) const NAMES: [(&str, bool); 20] = [
    ("Anna", true),
    ("Peter", false),
    ("Maria", true),
    ("Thomas", false),
    ("Julia", true),
    ("Martin", false),
    ("Laura", true),
    ("Paul", false),
    ("Lena", true),
    ("Felix", false),
    ("Clara", true),
    ("Jonas", false),
    ("Emma", true),
    ("David", false),
    ("Sophie", true),
    ("Max", false),
    ("Lisa", true),
    ("Simon", false),
    ("Nina", true),
    ("Robert", false),
];
/// English, German after "in", German after "to".
pub(crate) const TOWNS: [[&str; 3]; 16] = [
    ["Berlin", "in Berlin", "nach Berlin"],
    ["Munich", "in München", "nach München"],
    ["Vienna", "in Wien", "nach Wien"],
    ["Cologne", "in Köln", "nach Köln"],
    ["Hamburg", "in Hamburg", "nach Hamburg"],
    ["Zurich", "in Zürich", "nach Zürich"],
    ["Paris", "in Paris", "nach Paris"],
    ["London", "in London", "nach London"],
    ["Rome", "in Rom", "nach Rom"],
    ["Prague", "in Prag", "nach Prag"],
    ["Germany", "in Deutschland", "nach Deutschland"],
    ["Austria", "in Österreich", "nach Österreich"],
    ["France", "in Frankreich", "nach Frankreich"],
    ["Italy", "in Italien", "nach Italien"],
    ["Switzerland", "in der Schweiz", "in die Schweiz"],
    ["Turkey", "in der Türkei", "in die Türkei"],
];
const WEEKDAYS: [[&str; 2]; 7] = [
    ["Monday", "Montag"],
    ["Tuesday", "Dienstag"],
    ["Wednesday", "Mittwoch"],
    ["Thursday", "Donnerstag"],
    ["Friday", "Freitag"],
    ["Saturday", "Samstag"],
    ["Sunday", "Sonntag"],
];
const DAYTIMES: [[&str; 2]; 3] = [["morning", "morgen"], ["afternoon", "nachmittag"], ["evening", "abend"]];
const PAST: [[&str; 2]; 7] = [
    ["yesterday", "gestern"],
    ["yesterday evening", "gestern Abend"],
    ["last week", "letzte Woche"],
    ["last month", "letzten Monat"],
    ["last year", "letztes Jahr"],
    ["a year ago", "vor einem Jahr"],
    ["a week ago", "vor einer Woche"],
];
const PRESENT: [[&str; 2]; 10] = [
    ["today", "heute"],
    ["now", "jetzt"],
    ["every day", "jeden Tag"],
    ["every week", "jede Woche"],
    ["every year", "jedes Jahr"],
    ["in summer", "im Sommer"],
    ["in winter", "im Winter"],
    ["in the morning", "am Morgen"],
    ["in the afternoon", "am Nachmittag"],
    ["in the evening", "am Abend"],
];
const FUTURE: [[&str; 2]; 7] = [
    ["tomorrow", "morgen"],
    ["tomorrow morning", "morgen früh"],
    ["tomorrow evening", "morgen Abend"],
    ["this evening", "heute Abend"],
    ["next week", "nächste Woche"],
    ["next month", "nächsten Monat"],
    ["next year", "nächstes Jahr"],
];
/// English one and many, German dative one and many.
const SPANS: [[&str; 2]; 4] = [["days", "Tagen"], ["weeks", "Wochen"], ["months", "Monaten"], ["years", "Jahren"]];
const ADVERBS: [[&str; 2]; 4] = [["often", "oft"], ["always", "immer"], ["never", "nie"], ["sometimes", "manchmal"]];
/// English subject and object; German nominative, accusative, dative.
const PRONOUNS: [([&str; 2], [&str; 3], Person); 6] = [
    (["I", "me"], ["ich", "mich", "mir"], Person::I),
    (["you", "you"], ["du", "dich", "dir"], Person::You),
    (["he", "him"], ["er", "ihn", "ihm"], Person::Third),
    (["she", "her"], ["sie", "sie", "ihr"], Person::Third),
    (["we", "us"], ["wir", "uns", "uns"], Person::We),
    (["they", "them"], ["sie", "sie", "ihnen"], Person::They),
];

/// See [`numbers::clock`].
pub(crate) struct TimeOfDay {
    pub(crate) form: usize,
    pub(crate) hour: usize,
    pub(crate) minute: usize,
    pub(crate) afternoon: bool,
}

impl TimeOfDay {
    /// In digits, hour and minute are a combination.
    pub(crate) fn draw(rng: &mut Stream, marks: &mut Marks) -> Self {
        let (form, hour, minute) = (rng.below(6), 1 + rng.below(12), 5 * rng.below(12));
        let afternoon = hour == 12 || rng.below(2) == 0;
        if form >= 4 {
            marks.meet("time", &hour.to_string(), &minute.to_string());
        }
        TimeOfDay { form, hour, minute, afternoon }
    }

    /// English, German.
    pub(crate) fn both(&self) -> Both {
        numbers::clock(self.form, self.hour, self.minute, self.afternoon)
    }
}

/// Draws and remembers which reserved combinations were met.
pub(crate) struct Maker<'r, 'a> {
    pub(crate) rng: &'r mut Stream,
    pub(crate) words: &'a Lexicon,
    pub(crate) marks: Marks,
}

impl<'a> Maker<'_, 'a> {
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.rng.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.rng.below(items.len())]
    }

    /// A noun with one of the tags.
    pub(crate) fn noun(&mut self, tags: &str) -> &'a Noun {
        loop {
            let noun = &self.words.nouns[self.rng.below(self.words.nouns.len())];
            if noun.tags.chars().any(|tag| tags.contains(tag)) {
                return noun;
            }
        }
    }

    pub(crate) fn verb(&mut self, group: &str) -> &'a Verb {
        loop {
            let verb = &self.words.verbs[self.rng.below(self.words.verbs.len())];
            if verb.group == group {
                return verb;
            }
        }
    }

    /// An adjective that fits, most of the time none.
    pub(crate) fn adjective(&mut self, noun: &Noun, percent: usize) -> Option<&'a Adjective> {
        if !self.chance(percent) {
            return None;
        }
        for _ in 0..40 {
            let adjective = &self.words.adjectives[self.rng.below(self.words.adjectives.len())];
            if noun.tags.chars().any(|tag| adjective.tags.contains(tag)) {
                self.marks.meet("adjective+noun", &adjective.en, &noun.en);
                return Some(adjective);
            }
        }
        None
    }

    /// In `percent` of cases a compound with this noun as its head, if it can be one.
    fn compound(&mut self, head: &'a Noun, percent: usize) -> Noun {
        if !head.has('x') || !self.chance(percent) {
            return head.clone();
        }
        let [en, de] = &self.words.modifiers[self.rng.below(self.words.modifiers.len())];
        self.marks.meet("compound", en, &head.en);
        let solid = |word: &str| format!("{de}{}", word.to_lowercase());
        Noun {
            en: format!("{en} {}", head.en),
            en_plural: format!("{en} {}", head.en_plural),
            de: solid(&head.de),
            de_plural: solid(&head.de_plural),
            genitive: solid(&head.genitive),
            ..head.clone()
        }
    }

    /// A noun phrase about `noun`. `negated`: an object under English "not" whose article may become "kein"; then the
    /// flag returned says that it did. `definite` excludes articles that change under negation.
    pub(crate) fn noun_phrase(&mut self, noun: &'a Noun, negated: bool, definite: bool) -> (Phrase, bool) {
        let adjective = self.adjective(noun, 40);
        let noun = self.compound(noun, 60);
        let plural = !noun.is_mass() && self.chance(35);
        let draw = self.rng.below(100);
        let mut owner = None;
        let determiner = match draw {
            0..30 => Determiner::The,
            30..38 if !noun.is_mass() => Determiner::This,
            38..54 => Determiner::Possessive(self.rng.below(POSSESSIVES.len())),
            54..59 => Determiner::Name(self.pick(&NAMES).0),
            59..63 if !noun.has('p') => Determiner::Of(owner.insert(self.owner())),
            _ if definite => Determiner::The,
            _ if negated => Determiner::No,
            63..84 if plural => self.number(),
            84..90 if plural => Determiner::Many,
            _ => Determiner::A,
        };
        let kein = matches!(determiner, Determiner::No);
        (phrase(&determiner, adjective, &noun, plural), kein)
    }

    fn owner(&mut self) -> Phrase {
        let noun = self.noun("p");
        phrase(&Determiner::The, None, noun, false)
    }

    fn number(&mut self) -> Determiner<'static> {
        match self.rng.below(10) {
            0..3 => Determiner::Number(2 + self.rng.below(11)),
            3..5 => Determiner::Number(13 + self.rng.below(7)),
            5..8 => Determiner::Number(self.counted(20, 100)),
            _ => Determiner::Digits(self.counted(2, 200)),
        }
    }

    /// A number that does not end in "one hundred and one"; units and tens of words are a combination.
    pub(crate) fn counted(&mut self, low: usize, high: usize) -> usize {
        let n = low + self.rng.below(high - low);
        let n = if n % 100 == 1 { n + 1 } else { n };
        if n > 20 && !n.is_multiple_of(10) {
            self.marks.meet("number", &(n / 10 % 10).to_string(), &(n % 10).to_string());
        }
        n
    }

    pub(crate) fn pronoun(&mut self, which: usize) -> Phrase {
        let (en, de, person) = PRONOUNS[which];
        Phrase {
            en: en[0].to_string(),
            en_object: en[1].to_string(),
            de: [de[0].to_string(), de[1].to_string(), de[2].to_string(), String::new()],
            person,
        }
    }

    fn name(&mut self) -> Phrase {
        let name = self.pick(&NAMES).0;
        let de = [name, name, name, ""].map(str::to_string);
        Phrase { en: name.to_string(), en_object: name.to_string(), de, person: Person::Third }
    }

    /// Who acts.
    pub(crate) fn subject(&mut self) -> Phrase {
        match self.rng.below(10) {
            0..3 => self.name(),
            3..6 => {
                let which = self.rng.below(PRONOUNS.len());
                self.pronoun(which)
            }
            _ => self.person_phrase(),
        }
    }

    fn person_phrase(&mut self) -> Phrase {
        let noun = self.noun("p");
        let plural = self.chance(25);
        let adjective = self.adjective(noun, 30);
        let determiner = match self.rng.below(20) {
            0..10 => Determiner::The,
            10..12 => Determiner::This,
            12..14 if plural => self.number(),
            12..14 => Determiner::A,
            14 if !plural => Determiner::Every,
            _ => Determiner::Possessive(self.rng.below(POSSESSIVES.len())),
        };
        phrase(&determiner, adjective, noun, plural)
    }

    /// A date with or without year, "on 3 May 2021"; day and month are a combination.
    pub(crate) fn date(&mut self, with_year: bool) -> Both {
        let (day, [en, de]) = (1 + self.rng.below(28), self.pick(&MONTHS));
        self.marks.meet("date", &day.to_string(), en);
        match with_year {
            true => {
                let year = 1950 + self.rng.below(80);
                (format!("on {day} {en} {year}"), format!("am {day}. {de} {year}"))
            }
            false => (format!("on {day} {en}"), format!("am {day}. {de}")),
        }
    }

    /// "at half past eight".
    pub(crate) fn clock(&mut self) -> Both {
        TimeOfDay::draw(self.rng, &mut self.marks).both()
    }

    /// An expression of time that agrees with the tense.
    pub(crate) fn time(&mut self, tense: Tense) -> Both {
        let both = |pair: [&str; 2]| (pair[0].to_string(), pair[1].to_string());
        let span = |maker: &mut Self| (maker.pick(&SPANS), 2 + maker.rng.below(11));
        match (tense, self.rng.below(10)) {
            (Tense::Past, 0..4) => both(self.pick(&PAST)),
            (Tense::Past, 4) => {
                let (s, n) = span(self);
                (format!("{} {} ago", numbers::english(n), s[0]), format!("vor {} {}", numbers::german(n), s[1]))
            }
            (Tense::Past, 5) => {
                let year = 1900 + self.rng.below(125);
                (format!("in {year}"), format!("im Jahr {year}"))
            }
            (Tense::Past, 6) => self.date(true),
            (Tense::Present | Tense::Like, 0..6) => both(self.pick(&PRESENT)),
            (Tense::Present | Tense::Like, 6) => {
                let [en, de] = self.pick(&WEEKDAYS);
                (format!("every {en}"), format!("jeden {de}"))
            }
            (_, 0..4) => both(self.pick(&FUTURE)),
            (_, 4) => {
                let (s, n) = span(self);
                (format!("in {} {}", numbers::english(n), s[0]), format!("in {} {}", numbers::german(n), s[1]))
            }
            (_, 5) => self.date(false),
            (_, 6) => {
                let [en, de] = self.pick(&MONTHS);
                (format!("in {en}"), format!("im {de}"))
            }
            (_, 7) => {
                let [en, de] = self.pick(&WEEKDAYS);
                (format!("on {en}"), format!("am {de}"))
            }
            (_, 8) => {
                let ([en, de], [en_part, de_part]) = (self.pick(&WEEKDAYS), self.pick(&DAYTIMES));
                (format!("on {en} {en_part}"), format!("am {de}{de_part}"))
            }
            _ => self.clock(),
        }
    }

    /// Where something happens: a town or a place with its preposition.
    pub(crate) fn location(&mut self) -> Both {
        if self.chance(25) {
            let [en, de, _] = self.pick(&TOWNS);
            return (format!("in {en}"), de.to_string());
        }
        let (phrase, [en, de, _]) = self.place_phrase();
        (format!("{en} {}", phrase.en), prepositional(&de, &phrase, DAT))
    }

    /// Where something moves to.
    pub(crate) fn direction(&mut self) -> Both {
        let (phrase, [_, _, de]) = self.place_phrase();
        let case = if de == "zu" { DAT } else { ACC };
        (format!("to {}", phrase.en), prepositional(&de, &phrase, case))
    }

    /// A place with its English, locative and directional preposition.
    fn place_phrase(&mut self) -> (Phrase, [String; 3]) {
        loop {
            let noun = &self.words.nouns[self.rng.below(self.words.nouns.len())];
            let Some(prepositions) = noun.place.clone() else { continue };
            let adjective = self.adjective(noun, 30);
            let determiner = match self.rng.below(10) {
                0..7 => Determiner::The,
                7 => Determiner::This,
                _ if noun.has('z') => Determiner::Possessive(self.rng.below(POSSESSIVES.len())),
                _ => Determiner::A,
            };
            return (phrase(&determiner, adjective, noun, false), prepositions);
        }
    }

    /// Tense and negation; verbs whose past equals their present ("read") avoid tenses that would look alike.
    pub(crate) fn tense(&mut self, verb: &Verb, subject: &Phrase) -> (Tense, bool) {
        let tense = match self.rng.below(20) {
            0..7 => Tense::Present,
            7..14 => Tense::Past,
            14..16 => Tense::Future,
            16..18 => Tense::Can,
            18 => Tense::Must,
            _ => Tense::Want,
        };
        let state = ["brauchen", "kennen", "lieben", "verlieren", "vergessen"].contains(&verb.infinitive.as_str());
        let tense =
            if state && matches!(tense, Tense::Can | Tense::Must | Tense::Want) { Tense::Present } else { tense };
        let alike = verb.en[0] == verb.en[2] && subject.person != Person::Third;
        let tense = if alike && matches!(tense, Tense::Present | Tense::Past) { Tense::Future } else { tense };
        (tense, tense != Tense::Must && self.chance(15))
    }

    /// A clause of a verb with or without object.
    pub(crate) fn clause(&mut self) -> Clause<'a> {
        let subject = self.subject();
        self.clause_of(subject)
    }

    /// The same for a given subject.
    pub(crate) fn clause_of(&mut self, subject: Phrase) -> Clause<'a> {
        let group = match self.rng.below(100) {
            0..64 => "object",
            64..71 => "stay",
            71..77 => "time",
            77..84 => "go",
            84..88 => "travel",
            88..91 => "live",
            _ => "give",
        };
        let verb = self.verb(group);
        let (tense, negated) = self.tense(verb, &subject);
        let mut clause = Clause::new(subject, verb, tense);
        clause.negated = negated;
        clause.nicht = negated;
        self.fill(&mut clause);
        if clause.time.is_none() && tense == Tense::Present && !negated && self.chance(12) {
            let [en, de] = self.pick(&ADVERBS);
            clause.adverb = Some((en.to_string(), de.to_string()));
        }
        clause
    }

    /// Objects, places and times that the verb of the clause asks for.
    pub(crate) fn fill(&mut self, clause: &mut Clause<'a>) {
        let wants_time = self.chance(45);
        match clause.verb.group.as_str() {
            "object" => {
                self.object(clause);
                if !wants_time && !clause.negated && clause.verb.preposition.is_empty() && self.chance(25) {
                    clause.place = self.location();
                }
            }
            "give" => self.two_objects(clause),
            "stay" if self.chance(70) => clause.place = self.location(),
            "live" => clause.place = self.location(),
            "go" => clause.place = self.direction(),
            "travel" => {
                let [en, _, de] = self.pick(&TOWNS);
                clause.place = (format!("to {en}"), de.to_string());
            }
            _ => {}
        }
        if wants_time || (clause.verb.group == "time" && self.chance(60)) {
            clause.time = Some(self.time(clause.tense));
        }
    }

    fn object(&mut self, clause: &mut Clause<'a>) {
        let verb = clause.verb;
        let case = if verb.dative { DAT } else { ACC };
        let with_preposition = !verb.preposition.is_empty();
        let phrase = if verb.objects.contains('p') && self.chance(30) {
            let phrase = self.other_pronoun_or_name(&clause.subject);
            if !with_preposition {
                clause.de_pronoun = phrase.de[case].clone();
            }
            phrase
        } else {
            let noun = self.noun(&verb.objects);
            self.marks.meet("verb+object", &format!("{} {}", verb.en[0], verb.particle), &noun.en);
            let (phrase, kein) = self.noun_phrase(noun, clause.negated, with_preposition && clause.negated);
            clause.nicht &= !kein;
            if !with_preposition {
                clause.de_objects = phrase.de[case].clone();
            }
            phrase
        };
        if with_preposition {
            // "ans" is for places: "denkt an das Kind"
            clause.place.1 = match verb.preposition.as_str() {
                "an" => format!("an {}", phrase.de[case]),
                other => prepositional(other, &phrase, case),
            };
        }
        clause.en_objects = match verb.particle_moves && !clause.de_pronoun.is_empty() {
            true => join(&[&phrase.en_object, &verb.particle]),
            false => join(&[&verb.particle, &phrase.en_object]),
        };
    }

    /// Receiver and thing: "gives him a book".
    fn two_objects(&mut self, clause: &mut Clause<'a>) {
        let receiver = if self.chance(50) {
            let phrase = self.other_pronoun_or_name(&clause.subject);
            clause.de_pronoun = phrase.de[DAT].clone();
            phrase
        } else {
            let phrase = self.person_phrase();
            clause.de_objects = phrase.de[DAT].clone();
            phrase
        };
        let noun = self.noun("ro");
        self.marks.meet("verb+object", &clause.verb.en[0], &noun.en);
        let (thing, kein) = self.noun_phrase(noun, clause.negated, false);
        clause.nicht &= !kein;
        clause.en_objects = join(&[&receiver.en_object, &thing.en_object]);
        clause.de_objects = join(&[&clause.de_objects, &thing.de[ACC]]);
    }

    /// "him", "us", "Anna"; never the same person as an acting I, you, we or name. German puts them before time.
    fn other_pronoun_or_name(&mut self, subject: &Phrase) -> Phrase {
        let acting = &subject.en;
        let subject = subject.person;
        loop {
            if self.chance(30) {
                let name = self.name();
                if name.en != *acting {
                    return name;
                }
            }
            let which = self.rng.below(PRONOUNS.len());
            let phrase = self.pronoun(which);
            let same = phrase.person == subject && !matches!(subject, Person::Third | Person::They);
            let includes = matches!((phrase.person, subject), (Person::I, Person::We) | (Person::We, Person::I));
            if !same && !includes {
                return phrase;
            }
        }
    }
}
