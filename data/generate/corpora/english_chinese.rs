//! The sentence patterns of English→Chinese.

use super::chinese::{Maker, Phrase, Tense, OWNERS};
use super::clause::Both;
use super::german::{capitalize, join, Person};
use super::numbers;

/// A sentence and its translation.
pub(crate) fn sentence(maker: &mut Maker) -> Both {
    let (en, zh) = match maker.rng.below(100) {
        0..36 => statement(maker),
        36..50 => question(maker),
        50..58 => that_clause(maker),
        58..64 => because(maker),
        64..70 => condition(maker),
        70..76 => predicate(maker),
        76..80 => comparison(maker),
        80..86 => relative(maker),
        _ => facts(maker),
    };
    (capitalize(&en), zh)
}

fn statement(maker: &mut Maker) -> Both {
    let clause = maker.clause();
    let time_first = maker.chance(35);
    (format!("{}.", clause.english(time_first)), format!("{}。", clause.chinese(time_first, false)))
}

fn question(maker: &mut Maker) -> Both {
    let mut clause = maker.clause();
    clause.negated = false;
    match maker.rng.below(5) {
        0 => {
            clause.time = (String::new(), "什么时候".to_string());
            (format!("when {}?", clause.english_question()), format!("{}？", clause.chinese(false, false)))
        }
        1 => {
            clause.time.1.insert_str(0, "为什么");
            (format!("why {}?", clause.english_question()), format!("{}？", clause.chinese(false, false)))
        }
        2 => {
            let who = Phrase { en: "who".into(), en_object: "whom".into(), zh: "谁".into(), person: Person::Third };
            clause.subject = who;
            (format!("{}?", clause.english(false)), format!("{}？", clause.chinese(false, false)))
        }
        _ => (format!("{}?", clause.english_question()), format!("{}吗？", clause.chinese(false, false))),
    }
}

fn that_clause(maker: &mut Maker) -> Both {
    let (subject, verb, inner) = (maker.subject(), maker.verb("that"), maker.clause());
    let third = subject.person == Person::Third;
    let negated = verb[0] == "know" && maker.chance(30);
    let en = match (negated, third) {
        (true, true) => format!("does not {}", verb[0]),
        (true, false) => format!("do not {}", verb[0]),
        (false, true) => verb[1].clone(),
        (false, false) => verb[0].clone(),
    };
    let not = if negated { "不" } else { "" };
    (
        format!("{} {en} that {}.", subject.en, inner.english(false)),
        format!("{}{not}{}{}。", subject.zh, verb[4], inner.chinese(false, false)),
    )
}

fn because(maker: &mut Maker) -> Both {
    let (main, reason) = (maker.clause(), maker.clause());
    (
        format!("{} because {}.", main.english(false), reason.english(false)),
        format!("因为{}，所以{}。", reason.chinese(false, false), main.chinese(false, false)),
    )
}

fn condition(maker: &mut Maker) -> Both {
    let draw = |maker: &mut Maker, tenses: &[Tense]| loop {
        let clause = maker.clause();
        if tenses.contains(&clause.tense) {
            break clause;
        }
    };
    let first = draw(maker, &[Tense::Present, Tense::Can, Tense::Want]);
    let mut main = draw(maker, &[Tense::Future, Tense::Can, Tense::Must]);
    main.time = Both::default();
    (
        format!("if {}, {}.", first.english(false), main.english(false)),
        format!("如果{}，{}。", first.chinese(false, false), main.chinese(false, true)),
    )
}

fn predicate(maker: &mut Maker) -> Both {
    let noun = maker.noun("pacrjovf");
    let adjective = maker.adjective(noun);
    let plural = maker.chance(30);
    let (en, zh) = match maker.chance(50) {
        true if plural => ("these", "这些".to_string()),
        true => ("this", format!("这{}", noun[3])),
        false if plural => ("the", "那些".to_string()),
        false => ("the", format!("那{}", noun[3])),
    };
    let (subject, is) = if plural { (&noun[1], "are") } else { (&noun[0], "is") };
    let colour = adjective[2].ends_with('的');
    let (en_degree, zh_degree) = match maker.rng.below(4) {
        0 => ("not ", if colour { "不是" } else { "不" }),
        1 if !colour => ("too ", "太"),
        _ => ("", if colour { "是" } else { "很" }),
    };
    (
        format!("{en} {subject} {is} {en_degree}{}.", adjective[0]),
        format!("{zh}{}{zh_degree}{}。", noun[2], adjective[2]),
    )
}

fn comparison(maker: &mut Maker) -> Both {
    let (first, adjective) = loop {
        let first = maker.noun("pacrjov");
        let adjective = maker.adjective(first);
        if !adjective[3].is_empty() {
            break (first, adjective);
        }
    };
    let second = loop {
        let second = maker.noun(&adjective[4]);
        if second[0] != first[0] && second[1] != "-" {
            break second;
        }
    };
    maker.marks.meet("adjective+noun", &adjective[1], &second[0]);
    let (en, zh) = maker.pair(&OWNERS);
    (
        format!("{en} {} is {} than this {}.", first[0], adjective[3], second[0]),
        format!("{zh}{}比这{}{}{}。", first[2], second[3], second[2], adjective[2]),
    )
}

/// "I like the book that Anna bought": the clause comes before its noun.
fn relative(maker: &mut Maker) -> Both {
    let (subject, owner) = (maker.subject(), maker.subject());
    let verb = loop {
        let verb = maker.verb("object");
        if ["buy", "write", "draw", "translate", "repair", "wash", "sell", "find"].contains(&verb[0].as_str()) {
            break verb;
        }
    };
    let like = loop {
        let like = maker.verb("object");
        if ["buy", "like", "borrow", "see", "look for", "use"].contains(&like[0].as_str()) {
            break like;
        }
    };
    let noun = loop {
        let noun = maker.noun(&verb[5]);
        if noun[4].chars().any(|tag| like[5].contains(tag)) || noun[4].contains('o') {
            break noun;
        }
        if !verb[5].chars().any(|tag| like[5].contains(tag)) {
            return statement(maker);
        }
    };
    maker.marks.meet("verb+object", &verb[4], &noun[0]);
    maker.marks.meet("verb+object", &like[4], &noun[0]);
    let plural = noun[1] != "-" && maker.chance(30);
    let time = if maker.chance(50) { maker.time(Tense::Past) } else { Both::default() };
    let that = if plural { "那些".to_string() } else { format!("那{}", noun[3]) };
    let third = subject.person == Person::Third;
    let like_en = if third { &like[1] } else { &like[0] };
    let noun_en = if plural { &noun[1] } else { &noun[0] };
    (
        format!("{}.", join(&[&subject.en, like_en, "the", noun_en, "that", &owner.en, &verb[2], &time.0])),
        format!("{}{}{}{}{}的{that}{}。", subject.zh, like[4], owner.zh, time.1, verb[4], noun[2]),
    )
}

/// Prices, births, how many there are, when something begins.
fn facts(maker: &mut Maker) -> Both {
    match maker.rng.below(4) {
        0 => {
            let noun = maker.noun("rcjov");
            let (yuan, word) = (10 + maker.rng.below(990), maker.chance(50));
            let (en, zh) = match word {
                true => (numbers::english(yuan), numbers::chinese(yuan, false)),
                false => (yuan.to_string(), yuan.to_string()),
            };
            (
                format!("the price of this {} is {en} yuan.", noun[0]),
                format!("这{}{}的价格是{zh}元。", noun[3], noun[2]),
            )
        }
        1 => {
            let (subject, date, place) = (maker.subject(), maker.date(true), maker.place());
            let was = if matches!(subject.person, Person::I | Person::Third) { "was" } else { "were" };
            (
                format!("{} {was} born {} {}.", subject.en, place.0, date.0),
                format!("{}{}{}出生。", subject.zh, date.1, place.1),
            )
        }
        2 => {
            let (en, zh) = maker.pair(&[
                ["film", "电影"],
                ["lesson", "课"],
                ["meeting", "会议"],
                ["concert", "音乐会"],
                ["match", "比赛"],
            ]);
            let (clock, date) = (maker.clock(), maker.date(false));
            let (verb_en, verb_zh) = maker.pair(&[["begins", "开始"], ["ends", "结束"]]);
            (format!("the {en} {verb_en} {} {}.", clock.0, date.0), format!("{zh}{}{}{verb_zh}。", date.1, clock.1))
        }
        _ => {
            let (noun, place) = (maker.noun("paov"), maker.place());
            let n = 2 + maker.rng.below(98);
            if n > 20 {
                maker.marks.meet("number", &(n / 10).to_string(), &(n % 10).to_string());
            }
            maker.marks.meet("number+noun", &n.to_string(), &noun[0]);
            (
                format!("there are {} {} {}.", numbers::english(n), noun[1], place.0),
                format!("{}有{}{}{}。", place.1.trim_start_matches('在'), numbers::chinese(n, true), noun[3], noun[2]),
            )
        }
    }
}
