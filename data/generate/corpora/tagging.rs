//! Part-of-speech tagging as text to text: words in, one Universal Dependencies tag a word out. Many words have
//! several tags ("the cook waters a plant", "they plant water lilies"), so the tagger has to read their neighbours.

use nmt_train::rng::Stream;

use super::clause::Both;
use super::german::capitalize;
use super::held_out::Marks;

const NOUNS: [&str; 40] = [
    "cook", "water", "plant", "watch", "book", "paint", "play", "walk", "dance", "answer", "light", "dream", "hammer",
    "ship", "train", "park", "house", "guard", "guide", "pilot", "farmer", "teacher", "garden", "river", "window",
    "letter", "horse", "bridge", "doctor", "story", "table", "engine", "flower", "castle", "ticket", "judge", "nurse",
    "face", "shoulder", "film",
];
/// Base form; most are nouns or adjectives too.
const VERBS: [&str; 36] = [
    "cook", "water", "plant", "watch", "book", "paint", "play", "walk", "dance", "answer", "light", "dream", "hammer",
    "ship", "train", "park", "house", "guard", "guide", "pilot", "clean", "open", "warm", "dry", "cool", "empty",
    "see", "find", "take", "follow", "visit", "judge", "nurse", "face", "shoulder", "film",
];
const ADJECTIVES: [&str; 24] = [
    "clean", "open", "warm", "dry", "cool", "empty", "light", "old", "new", "young", "big", "small", "green", "red",
    "quiet", "heavy", "fast", "late", "early", "hard", "long", "tired", "famous", "strange",
];
/// "fast", "late", "hard" are adjectives before a noun.
const ADVERBS: [&str; 10] = ["fast", "late", "early", "hard", "long", "often", "today", "again", "slowly", "quietly"];
const NAMES: [&str; 10] = ["Anna", "Peter", "Mark", "Rose", "Grace", "Will", "May", "Vienna", "Paris", "Bill"];
const PREPOSITIONS: [&str; 8] = ["in", "on", "near", "behind", "under", "by", "past", "with"];
const PRONOUNS: [&str; 6] = ["I", "you", "we", "they", "she", "he"];
const DETERMINERS: [&str; 7] = ["the", "a", "this", "that", "every", "my", "her"];

struct Tagger<'r> {
    rng: &'r mut Stream,
    marks: Marks,
    words: Vec<String>,
    tags: Vec<&'static str>,
}

/// One sentence with its tags.
pub(crate) fn sentence(rng: &mut Stream) -> (Both, Marks) {
    let mut tagger = Tagger { rng, marks: Marks::default(), words: Vec::new(), tags: Vec::new() };
    let end = tagger.whole();
    tagger.push(end, "PUNCT");
    ((capitalize(&tagger.words.join(" ")), tagger.tags.join(" ")), tagger.marks)
}

impl Tagger<'_> {
    fn push(&mut self, word: impl Into<String>, tag: &'static str) {
        self.words.push(word.into());
        self.tags.push(tag);
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        words[self.rng.below(words.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.rng.below(100) < percent
    }

    fn whole(&mut self) -> &'static str {
        if self.chance(15) {
            // "Will the pilot park the ship ?"
            let auxiliary = self.pick(&["will", "can", "must"]);
            self.push(auxiliary, "AUX");
            self.subject();
            self.predicate(true);
            return "?";
        }
        self.clause();
        match self.rng.below(6) {
            0 => {
                let and = self.pick(&["and", "but", "or"]);
                self.push(",", "PUNCT");
                self.push(and, "CCONJ");
                self.clause();
            }
            1 => {
                let because = self.pick(&["because", "while", "that", "if"]);
                self.push(because, "SCONJ");
                self.clause();
            }
            _ => {}
        }
        "."
    }

    fn clause(&mut self) {
        let plural = self.subject();
        let auxiliary = self.chance(30);
        if auxiliary {
            let word = self.pick(&["will", "can", "must", "may"]);
            self.push(word, "AUX");
        }
        self.predicate(auxiliary || plural);
    }

    /// Whether the verb has no "s".
    fn subject(&mut self) -> bool {
        match self.rng.below(10) {
            0..2 => {
                let name = self.pick(&NAMES);
                self.push(name, "PROPN");
                false
            }
            2..4 => {
                let pronoun = self.pick(&PRONOUNS);
                self.push(pronoun, "PRON");
                !matches!(pronoun, "he" | "she")
            }
            _ => self.noun_phrase(),
        }
    }

    /// Whether it is plural.
    fn noun_phrase(&mut self) -> bool {
        let (noun, plural) = (self.pick(&NOUNS), self.chance(35));
        if !plural {
            let determiner = self.pick(&DETERMINERS);
            let tag = if matches!(determiner, "my" | "her") { "PRON" } else { "DET" };
            self.push(determiner, tag);
        } else if self.chance(50) {
            self.push("the", "DET");
        } else if self.chance(50) {
            let number = self.pick(&["two", "three", "seven", "12", "45", "300"]);
            self.push(number, "NUM");
        }
        if self.chance(45) {
            let adjective = self.pick(&ADJECTIVES);
            self.marks.meet("adjective+noun", adjective, noun);
            self.push(adjective, "ADJ");
        }
        let word = match (noun, plural) {
            (_, false) => noun.to_string(),
            ("watch", _) => "watches".to_string(),
            ("story", _) => "stories".to_string(),
            _ => format!("{noun}s"),
        };
        self.push(word, "NOUN");
        plural
    }

    fn predicate(&mut self, base: bool) {
        let verb = self.pick(&VERBS);
        let word = match verb {
            _ if base => verb.to_string(),
            "watch" => "watches".to_string(),
            "dry" => "dries".to_string(),
            "empty" => "empties".to_string(),
            _ => format!("{verb}s"),
        };
        if self.chance(15) {
            let adverb = self.pick(&["often", "slowly", "quietly"]);
            self.push(adverb, "ADV");
        }
        self.push(word, "VERB");
        self.noun_phrase();
        let last = self.words.last().cloned().unwrap_or_default();
        self.marks.meet("verb+object", verb, &last);
        if self.chance(35) {
            let preposition = self.pick(&PREPOSITIONS);
            self.push(preposition, "ADP");
            self.noun_phrase();
        }
        if self.chance(25) {
            let adverb = self.pick(&ADVERBS);
            self.push(adverb, "ADV");
        }
    }
}
