//! The sentence patterns of English→German.

use super::clause::{Both, Clause, Order, Tense};
use super::german::{capitalize, join, phrase, prepositional, Determiner, Person, Phrase, ACC, DAT};
use super::maker::Maker;
use super::numbers;

/// A sentence and its translation, before the first capital.
pub(crate) fn sentence(maker: &mut Maker) -> Both {
    let (en, de) = match maker.rng.below(100) {
        0..22 => statement(maker),
        22..29 => yes_no_question(maker),
        29..34 => wh_question(maker),
        34..43 => that_clause(maker),
        43..49 => because(maker),
        49..55 => although(maker),
        55..59 => infinitive(maker),
        59..63 => like_to(maker),
        63..67 => relative(maker),
        67..70 => passive(maker),
        70..74 => but_it(maker),
        74..79 => predicate(maker),
        79..81 => comparison(maker),
        81..84 => put(maker),
        84..88 => bank_spend_leave(maker),
        88..91 => bank_of_whom(maker),
        _ => facts(maker),
    };
    (capitalize(&en), capitalize(&de))
}

fn order(clause: &Clause, time_first: bool) -> Order {
    if time_first && clause.time.is_some() {
        Order::TimeFirst
    } else {
        Order::SubjectFirst
    }
}

fn stated(maker: &mut Maker, clause: &Clause) -> Both {
    let time_first = maker.chance(40);
    (format!("{}.", clause.english(time_first)), format!("{}.", clause.german(order(clause, time_first))))
}

fn statement(maker: &mut Maker) -> Both {
    let clause = maker.clause();
    stated(maker, &clause)
}

fn affirmed<'a>(maker: &mut Maker<'_, 'a>) -> Clause<'a> {
    loop {
        let clause = maker.clause();
        if !clause.negated && clause.tense != Tense::Must {
            return clause;
        }
    }
}

fn yes_no_question(maker: &mut Maker) -> Both {
    let clause = affirmed(maker);
    (format!("{}?", clause.english_question()), format!("{}?", clause.german(Order::VerbFirst)))
}

fn wh_question(maker: &mut Maker) -> Both {
    if maker.chance(30) {
        let who = pronoun_like("who", "wer");
        let mut clause = maker.clause_of(who);
        while clause.negated {
            clause = maker.clause_of(pronoun_like("who", "wer"));
        }
        return (format!("{}?", clause.english(false)), format!("{}?", clause.german(Order::SubjectFirst)));
    }
    let mut clause = affirmed(maker);
    let (en, de) = maker.pick(&[("when", "wann"), ("why", "warum")]);
    if en == "when" {
        clause.time = None;
        clause.adverb = None;
    }
    (format!("{en} {}?", clause.english_question()), format!("{de} {}?", clause.german(Order::VerbFirst)))
}

fn pronoun_like(en: &str, de: &str) -> Phrase {
    let de = [de, "", "", ""].map(str::to_string);
    Phrase { en: en.to_string(), en_object: en.to_string(), de, person: Person::Third }
}

fn that_clause(maker: &mut Maker) -> Both {
    let group = if maker.chance(70) { "that" } else { "whether" };
    let verb = maker.verb(group);
    let subject = maker.subject();
    let tense = maker.pick(&[Tense::Present, Tense::Present, Tense::Past]);
    let mut main = Clause::new(subject, verb, tense);
    main.negated = verb.en[0] == "know" && (group == "whether" || maker.chance(30));
    main.nicht = main.negated;
    let inner = maker.clause();
    let (en, de) = if group == "that" { ("that", "dass") } else { ("whether", "ob") };
    (
        format!("{} {en} {}.", main.english(false), inner.english(false)),
        format!("{}, {de} {}.", main.german(Order::SubjectFirst), inner.german(Order::VerbLast)),
    )
}

fn because(maker: &mut Maker) -> Both {
    let (main, reason) = (maker.clause(), maker.clause());
    (
        format!("{} because {}.", main.english(false), reason.english(false)),
        format!("{}, weil {}.", main.german(Order::SubjectFirst), reason.german(Order::VerbLast)),
    )
}

fn although(maker: &mut Maker) -> Both {
    let (main, first) = (maker.clause(), maker.clause());
    let (en, de) = maker.pick(&[("although", "obwohl"), ("if", "wenn")]);
    (
        format!("{en} {}, {}.", first.english(false), main.english(false)),
        format!("{de} {}, {}.", first.german(Order::VerbLast), main.german(Order::VerbFirst)),
    )
}

fn infinitive(maker: &mut Maker) -> Both {
    let (verb, subject) = (maker.verb("to"), maker.subject());
    let tense = maker.pick(&[Tense::Present, Tense::Past]);
    let main = Clause::new(subject.clone(), verb, tense);
    let object_verb = maker.verb("object");
    let mut inner = Clause::new(subject, object_verb, Tense::Present);
    maker.fill(&mut inner);
    inner.time = None;
    (
        format!("{} to {}.", main.english(false), inner.english_infinitive()),
        format!("{}, {}.", main.german(Order::SubjectFirst), inner.german_infinitive()),
    )
}

fn like_to(maker: &mut Maker) -> Both {
    let subject = maker.subject();
    let group = maker.pick(&["object", "object", "stay"]);
    let mut verb = maker.verb(group);
    let unliked = ["need", "know", "love", "lose", "forget", "find", "see", "steal", "hide"];
    while verb.dative || !verb.preposition.is_empty() || unliked.contains(&verb.en[0].as_str()) {
        verb = maker.verb(group);
    }
    let mut clause = Clause::new(subject, verb, Tense::Like);
    if group == "object" {
        let noun = maker.noun(&verb.objects);
        maker.marks.meet("verb+object", &format!("{} {}", verb.en[0], verb.particle), &noun.en);
        let adjective = maker.adjective(noun, 50);
        let things = phrase(&Determiner::Bare, adjective, noun, !noun.is_mass());
        clause.en_objects = join(&[&verb.particle, &things.en]);
        clause.de_objects = things.de[ACC].clone();
    }
    if maker.chance(50) {
        clause.place = maker.location();
    }
    if maker.chance(30) {
        return (format!("{}?", clause.english_question()), format!("{}?", clause.german(Order::VerbFirst)));
    }
    (format!("{}.", clause.english(false)), format!("{}.", clause.german(Order::SubjectFirst)))
}

/// "The woman who sold the house lives in Vienna."
fn relative(maker: &mut Maker) -> Both {
    let noun = maker.noun("p");
    let plural = maker.chance(30);
    let adjective = maker.adjective(noun, 25);
    let mut head = phrase(&Determiner::The, adjective, noun, plural);
    let who = match noun.gender {
        _ if plural => "die",
        'm' => "der",
        'f' => "die",
        _ => "das",
    };
    let mut who = pronoun_like("who", who);
    who.person = head.person;
    let inner = maker.clause_of(who);
    let (en, de) = (inner.english(false), inner.german(Order::VerbLast));
    if maker.chance(40) {
        let subject = maker.subject();
        let know = maker.words.verbs.iter().find(|v| v.infinitive == "kennen").expect("in the table");
        let main = Clause::new(subject, know, Tense::Present);
        return (
            format!("{} {} {en}.", main.english(false), head.en),
            format!("{} {}, {de}.", main.german(Order::SubjectFirst), head.de[ACC]),
        );
    }
    head.en = format!("{} {en}", head.en);
    head.de[0] = format!("{}, {de},", head.de[0]);
    let group = maker.pick(&["stay", "live", "go"]);
    let verb = maker.verb(group);
    let mut main = Clause::new(head, verb, Tense::Present);
    maker.fill(&mut main);
    main.time = None;
    (format!("{}.", main.english(false)), format!("{}.", main.german(Order::SubjectFirst)))
}

/// English participle, German participle, tags.
const PASSIVE: [[&str; 3]; 8] = [
    ["built", "gebaut", "b"],
    ["sold", "verkauft", "hvotec"],
    ["found", "gefunden", "orac"],
    ["repaired", "repariert", "evtu"],
    ["cleaned", "geputzt", "zt"],
    ["stolen", "gestohlen", "ov"],
    ["written", "geschrieben", "w"],
    ["photographed", "fotografiert", "hma"],
];

fn passive(maker: &mut Maker) -> Both {
    let [en, de, tags] = maker.pick(&PASSIVE);
    let noun = maker.noun(tags);
    maker.marks.meet("verb+object", en, &noun.en);
    let (thing, _) = maker.noun_phrase(noun, false, true);
    let (was, wurde) = if thing.person == Person::They { ("were", "wurden") } else { ("was", "wurde") };
    let (by, von) = if maker.chance(40) {
        let noun = maker.noun("p");
        let determiner = maker.pick(&[0, 1]);
        let determiner = if determiner == 0 { Determiner::The } else { Determiner::A };
        let agent = phrase(&determiner, None, noun, false);
        (format!("by {}", agent.en), prepositional("von", &agent, DAT))
    } else {
        (String::new(), String::new())
    };
    let time = maker.time(Tense::Past);
    if maker.chance(40) {
        return (
            format!("{}, {}.", time.0, join(&[&thing.en, was, en, &by])),
            format!("{}.", join(&[&time.1, wurde, &thing.de[0], &von, de])),
        );
    }
    (
        format!("{}.", join(&[&thing.en, was, en, &by, &time.0])),
        format!("{}.", join(&[&thing.de[0], wurde, &time.1, &von, de])),
    )
}

/// "I bought a lamp, but it is broken.": the gender of "it".
fn but_it(maker: &mut Maker) -> Both {
    let subject = maker.subject();
    let infinitive = maker.pick(&["kaufen", "verkaufen", "finden", "brauchen", "suchen"]);
    let verb = maker.words.verbs.iter().find(|v| v.infinitive == infinitive).expect("in the table");
    let tense = maker.pick(&[Tense::Past, Tense::Future]);
    let mut clause = Clause::new(subject, verb, tense);
    let noun = maker.noun(if infinitive == "brauchen" || infinitive == "suchen" { "ce" } else { "roce" });
    maker.marks.meet("verb+object", &format!("{} {}", verb.en[0], verb.particle), &noun.en);
    let plural = maker.chance(30);
    let determiner = maker.rng.below(2);
    let determiner = if determiner == 0 { Determiner::The } else { Determiner::A };
    let thing = phrase(&determiner, None, noun, plural);
    clause.en_objects = join(&[&verb.particle, &thing.en]);
    clause.de_objects = thing.de[ACC].clone();
    let (it, er) = match noun.gender {
        _ if plural => ("they are", "sie sind"),
        'm' => ("it is", "er ist"),
        'f' => ("it is", "sie ist"),
        _ => ("it is", "es ist"),
    };
    let Some(adjective) = maker.adjective(noun, 100) else { return statement(maker) };
    (
        format!("{}, but {it} {}.", clause.english(false), adjective.en),
        format!("{}, aber {er} {}.", clause.german(Order::SubjectFirst), adjective.de),
    )
}

/// "The soup was not hot."
fn predicate(maker: &mut Maker) -> Both {
    let noun = maker.noun("pafdrcothveu");
    let Some(adjective) = maker.adjective(noun, 100) else { return statement(maker) };
    let determiner = match maker.rng.below(4) {
        0 | 1 => Determiner::The,
        2 => Determiner::This,
        _ => Determiner::Possessive(maker.rng.below(6)),
    };
    let plural = !noun.is_mass() && maker.chance(30);
    let subject = phrase(&determiner, None, noun, plural);
    let tense = maker.pick(&[Tense::Present, Tense::Past]);
    let mut clause = Clause::new(subject, maker.verb("be"), tense);
    let very = maker.chance(25);
    clause.place = match very {
        true => (format!("very {}", adjective.en), format!("sehr {}", adjective.de)),
        false => (adjective.en.clone(), adjective.de.clone()),
    };
    if maker.chance(25) {
        return (format!("{}?", clause.english_question()), format!("{}?", clause.german(Order::VerbFirst)));
    }
    clause.negated = maker.chance(25);
    clause.nicht = clause.negated;
    (format!("{}.", clause.english(false)), format!("{}.", clause.german(Order::SubjectFirst)))
}

/// "The horse is bigger than my dog."
fn comparison(maker: &mut Maker) -> Both {
    let (first, second) = loop {
        let first = maker.noun("paovhrt");
        let second = maker.noun(&first.tags);
        if first.en != second.en {
            break (first, second);
        }
    };
    let (comparative, adjective) = loop {
        let Some(adjective) = maker.adjective(first, 100) else { continue };
        if let Some(comparative) = &adjective.comparative {
            break (comparative, adjective);
        }
    };
    maker.marks.meet("adjective+noun", &adjective.en, &second.en);
    let whose = maker.rng.below(6);
    let (a, b) =
        (phrase(&Determiner::The, None, first, false), phrase(&Determiner::Possessive(whose), None, second, false));
    (
        format!("{} is {} than {}.", a.en, comparative[0], b.en),
        format!("{} ist {} als {}.", a.de[0], comparative[1], b.de[0]),
    )
}

/// English, German.
const SPOTS: [[&str; 2]; 4] = [["on", "auf"], ["under", "unter"], ["next to", "neben"], ["behind", "hinter"]];

/// "put" is "legen" or "stellen", "is lying" and "is standing" take the dative where "put" takes the accusative.
fn put(maker: &mut Maker) -> Both {
    let flat = maker.chance(50);
    let thing = maker.noun(if flat { "l" } else { "s" });
    let [en, de] = maker.pick(&SPOTS);
    let spot = loop {
        let spot = maker.noun(if en == "on" { "n" } else { "t" });
        if spot.en != thing.en {
            break spot;
        }
    };
    maker.marks.meet("verb+object", en, &spot.en);
    let spot = phrase(&Determiner::The, None, spot, false);
    if maker.chance(50) {
        let plural = maker.chance(30);
        let thing = phrase(&Determiner::The, maker.adjective(thing, 40), thing, plural);
        let mut clause = Clause::new(thing, maker.verb(if flat { "lie" } else { "stand" }), Tense::Present);
        clause.place = (format!("{en} {}", spot.en), prepositional(de, &spot, DAT));
        return (format!("{}.", clause.english(false)), format!("{}.", clause.german(Order::SubjectFirst)));
    }
    let (subject, verb) = (maker.subject(), maker.verb(if flat { "lay" } else { "set" }));
    let (tense, negated) = maker.tense(verb, &subject);
    let mut clause = Clause::new(subject, verb, tense);
    maker.marks.meet("verb+object", "put", &thing.en);
    let (thing, kein) = maker.noun_phrase(thing, negated, false);
    clause.negated = negated;
    clause.nicht = negated && !kein;
    clause.en_objects = thing.en;
    clause.de_objects = thing.de[ACC].clone();
    clause.place = (format!("{en} {}", spot.en), prepositional(de, &spot, ACC));
    stated(maker, &clause)
}

/// Words whose translation depends on what they stand with: spend, leave, the bank of a river or with money.
fn bank_spend_leave(maker: &mut Maker) -> Both {
    let group = maker.pick(&["spend-time", "spend-money", "leave-place", "leave-time", "bank-money", "sit", "swim"]);
    let verb = maker.verb(group);
    let subject = match group {
        "leave-time" => {
            let [en, de] = maker.pick(&[["train", "Zug"], ["bus", "Bus"], ["ship", "Schiff"]]);
            let article = if en == "ship" { "das" } else { "der" };
            let mut subject = pronoun_like(&format!("the {en}"), &format!("{article} {de}"));
            if maker.chance(40) {
                let [town, _, nach] = maker.pick(&super::maker::TOWNS);
                subject.en = format!("{} to {town}", subject.en);
                subject.de[0] = format!("{} {nach}", subject.de[0]);
            }
            subject
        }
        _ => maker.subject(),
    };
    let (tense, _) = maker.tense(verb, &subject);
    let mut clause = Clause::new(subject, verb, tense);
    let text = |pair: [&str; 2]| (pair[0].to_string(), pair[1].to_string());
    match group {
        "spend-time" => {
            let (en, de) = text(maker.pick(&[
                ["the evening", "den Abend"],
                ["the weekend", "das Wochenende"],
                ["the summer", "den Sommer"],
                ["the holidays", "die Ferien"],
                ["the day", "den Tag"],
                ["many hours", "viele Stunden"],
            ]));
            (clause.en_objects, clause.de_objects) = (en, de);
            clause.place = maker.location();
        }
        "spend-money" => {
            let n = maker.counted(10, 1000);
            let noun = maker.noun("cotev");
            let (thing, _) = maker.noun_phrase(noun, false, false);
            let euros = match maker.chance(50) {
                true => (numbers::english(n), numbers::german(n)),
                false => (n.to_string(), n.to_string()),
            };
            clause.en_objects = format!("{} euros", euros.0);
            clause.de_objects = format!("{} Euro", euros.1);
            clause.place = (format!("on {}", thing.en), format!("für {}", thing.de[ACC]));
        }
        "leave-place" => {
            let noun = maker.noun("hzb");
            let (place, _) = maker.noun_phrase(noun, false, true);
            (clause.en_objects, clause.de_objects) = (place.en, place.de[ACC].clone());
            clause.time = Some(maker.clock());
        }
        "leave-time" => clause.time = Some(maker.clock()),
        "bank-money" => {
            clause.en_objects = "the money".to_string();
            clause.de_objects = "das Geld".to_string();
            clause.place = text(["to the bank", "zur Bank"]);
        }
        "sit" => {
            clause.place = text(maker.pick(&[
                ["on the bank of the river", "am Ufer des Flusses"],
                ["on the bank of the lake", "am Ufer des Sees"],
            ]))
        }
        _ => clause.place = text(["to the bank", "ans Ufer"]),
    }
    if clause.time.is_none() && maker.chance(35) {
        clause.time = Some(maker.time(tense));
    }
    stated(maker, &clause)
}

/// Who waits decides which bank it is.
fn bank_of_whom(maker: &mut Maker) -> Both {
    let money = maker.chance(50);
    let noun = maker.noun(if money { "g" } else { "i" });
    let plural = maker.chance(30);
    let adjective = maker.adjective(noun, 35);
    let determiner = match maker.rng.below(4) {
        0 if plural => Determiner::Number(2 + maker.rng.below(5)),
        0 => Determiner::A,
        1 => Determiner::This,
        _ => Determiner::The,
    };
    let subject = phrase(&determiner, adjective, noun, plural);
    let verb = loop {
        let verb = maker.verb("stay");
        if ["wait", "stay", "sleep", "sing", "dance"].contains(&verb.en[0].as_str()) {
            break verb;
        }
    };
    let (tense, negated) = maker.tense(verb, &subject);
    let mut clause = Clause::new(subject, verb, tense);
    (clause.negated, clause.nicht) = (negated, negated);
    clause.place = ("at the bank".to_string(), if money { "in der Bank" } else { "am Ufer" }.to_string());
    if maker.chance(40) {
        clause.time = Some(maker.time(tense));
    }
    stated(maker, &clause)
}

/// Prices, births, opening hours, how many there are.
fn facts(maker: &mut Maker) -> Both {
    match maker.rng.below(4) {
        0 => {
            let noun = maker.noun("cotevr");
            let (thing, _) = maker.noun_phrase(noun, false, true);
            let plural = thing.person == Person::They;
            let (cost, kosten) = if plural { ("cost", "kosten") } else { ("costs", "kostet") };
            let (en, de) = match maker.rng.below(4) {
                0 => {
                    let (whole, cents) = (2 + maker.rng.below(98), 5 * (1 + maker.rng.below(19)));
                    (format!("{whole}.{cents:02}"), format!("{whole},{cents:02}"))
                }
                1 => {
                    let n = 50 * (21 + maker.rng.below(400));
                    (numbers::grouped(n, ','), numbers::grouped(n, '.'))
                }
                2 => {
                    let n = maker.counted(2, 1000);
                    (numbers::english(n), numbers::german(n))
                }
                _ => {
                    let n = maker.counted(2, 1000).to_string();
                    (n.clone(), n)
                }
            };
            (format!("{} {cost} {en} euros.", thing.en), format!("{} {kosten} {de} Euro.", thing.de[0]))
        }
        1 => {
            let subject = maker.subject();
            let (was, wurde) = match subject.person {
                Person::I => ("was", "wurde"),
                Person::You => ("were", "wurdest"),
                Person::Third => ("was", "wurde"),
                _ => ("were", "wurden"),
            };
            let (date, [town, in_town, _]) = (maker.date(true), maker.pick(&super::maker::TOWNS));
            (
                format!("{} {was} born {} in {town}.", subject.en, date.0),
                format!("{} {wurde} {} {in_town} geboren.", subject.de[0], date.1),
            )
        }
        2 => {
            let [en, de] = maker.pick(&[
                ["concert", "das Konzert"],
                ["film", "der Film"],
                ["party", "die Feier"],
                ["lesson", "der Unterricht"],
                ["meeting", "die Sitzung"],
                ["journey", "die Reise"],
            ]);
            let (verb, date, clock) = (maker.verb("event"), maker.date(false), maker.clock());
            let tense = maker.pick(&[Tense::Present, Tense::Past, Tense::Future]);
            let mut clause = Clause::new(pronoun_like(&format!("the {en}"), de), verb, tense);
            clause.time = Some((format!("{} {}", date.0, clock.0), format!("{} {}", date.1, clock.1)));
            stated(maker, &clause)
        }
        _ => {
            let noun = maker.noun("patov");
            let adjective = maker.adjective(noun, 40);
            let n = maker.counted(2, 1000);
            let determiner = if maker.chance(60) { Determiner::Number(n) } else { Determiner::Digits(n) };
            let (things, place) = (phrase(&determiner, adjective, noun, true), maker.location());
            (format!("there are {} {}.", things.en, place.0), format!("es gibt {} {}.", things.de[ACC], place.1))
        }
    }
}
