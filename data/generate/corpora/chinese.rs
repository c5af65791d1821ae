//! The parts of English→Chinese sentences: phrases with measure words; clauses with aspect, and time and place before
//! the verb.

use nmt_train::rng::Stream;

use super::clause::Both;
use super::german::{join, Person};
use super::held_out::Marks;
use super::lexicon::rows;
use super::maker::TimeOfDay;
use super::numbers::{self, MONTHS};

/// Rows of `chinese_words.txt` by their first column.
pub(crate) struct Words {
    nouns: Vec<Vec<String>>,
    adjectives: Vec<Vec<String>>,
    verbs: Vec<Vec<String>>,
    places: Vec<Vec<String>>,
}

impl Words {
    pub(crate) fn new() -> Self {
        let kind = |letter: &str| {
            rows(include_str!("chinese_words.txt"))
                .filter(|row| row[0] == letter)
                .map(|row| row[1..].to_vec())
                .collect()
        };
        Words { nouns: kind("N"), adjectives: kind("A"), verbs: kind("V"), places: kind("P") }
    }
}

const NAMES: [[&str; 2]; 12] = [
    ["Anna", "安娜"],
    ["Peter", "彼得"],
    ["Maria", "玛丽亚"],
    ["Tom", "汤姆"],
    ["Lisa", "丽莎"],
    ["Paul", "保罗"],
    ["David", "大卫"],
    ["Emma", "艾玛"],
    ["Martin", "马丁"],
    ["Li Ming", "李明"],
    ["Wang Fang", "王芳"],
    ["Zhang Wei", "张伟"],
];
/// Subject, object, Chinese.
const PRONOUNS: [([&str; 3], Person); 6] = [
    (["I", "me", "我"], Person::I),
    (["you", "you", "你"], Person::You),
    (["he", "him", "他"], Person::Third),
    (["she", "her", "她"], Person::Third),
    (["we", "us", "我们"], Person::We),
    (["they", "them", "他们"], Person::They),
];
pub(super) const OWNERS: [[&str; 2]; 6] =
    [["my", "我的"], ["your", "你的"], ["his", "他的"], ["her", "她的"], ["our", "我们的"], ["their", "他们的"]];
const PAST: [[&str; 2]; 6] = [
    ["yesterday", "昨天"],
    ["yesterday evening", "昨天晚上"],
    ["the day before yesterday", "前天"],
    ["last week", "上个星期"],
    ["last month", "上个月"],
    ["last year", "去年"],
];
const PRESENT: [[&str; 2]; 6] = [
    ["every day", "每天"],
    ["every week", "每个星期"],
    ["every month", "每个月"],
    ["every year", "每年"],
    ["every evening", "每天晚上"],
    ["every morning", "每天早上"],
];
const NOW: [[&str; 2]; 2] = [["now", "现在"], ["today", "今天"]];
const FUTURE: [[&str; 2]; 7] = [
    ["tomorrow", "明天"],
    ["tomorrow morning", "明天早上"],
    ["tomorrow evening", "明天晚上"],
    ["the day after tomorrow", "后天"],
    ["next week", "下个星期"],
    ["next month", "下个月"],
    ["next year", "明年"],
];
const WEEKDAYS: [[&str; 2]; 7] = [
    ["Monday", "星期一"],
    ["Tuesday", "星期二"],
    ["Wednesday", "星期三"],
    ["Thursday", "星期四"],
    ["Friday", "星期五"],
    ["Saturday", "星期六"],
    ["Sunday", "星期天"],
];
const SPANS: [[&str; 2]; 4] = [["days", "天"], ["weeks", "个星期"], ["months", "个月"], ["years", "年"]];
/// English, Chinese before the verb of going.
const RIDES: [[&str; 2]; 5] = [
    ["by train", "坐火车"],
    ["by bus", "坐公共汽车"],
    ["by plane", "坐飞机"],
    ["by bicycle", "骑自行车"],
    ["by taxi", "坐出租车"],
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tense {
    Present,
    Now,
    Past,
    Future,
    Can,
    Must,
    Want,
}

pub(super) struct Phrase {
    pub(super) en: String,
    pub(super) en_object: String,
    pub(super) zh: String,
    pub(super) person: Person,
}

pub(super) struct Clause {
    pub(super) subject: Phrase,
    pub(super) verb: Vec<String>,
    pub(super) tense: Tense,
    pub(super) negated: bool,
    pub(super) time: Both,
    /// English object or direction; Chinese after the verb.
    pub(super) object: Both,
    /// "in the park", "在公园里".
    pub(super) place: Both,
    /// "by train", "坐火车".
    pub(super) ride: Both,
}

impl Clause {
    pub(super) fn english_verb(&self) -> String {
        let third = self.subject.person == Person::Third;
        let (base, not) = (&self.verb[0], if self.negated { " not" } else { "" });
        let be = match self.subject.person {
            Person::I => "am",
            Person::Third => "is",
            _ => "are",
        };
        let does = if third { "does" } else { "do" };
        match self.tense {
            Tense::Present if self.negated => format!("{does} not {base}"),
            Tense::Present => if third { &self.verb[1] } else { base }.clone(),
            Tense::Now => format!("{be}{not} {}", self.verb[3]),
            Tense::Past if self.negated => format!("did not {base}"),
            Tense::Past => self.verb[2].clone(),
            Tense::Future => format!("will{not} {base}"),
            Tense::Can => format!("can{} {base}", not.trim_start()),
            Tense::Must => format!("must {base}"),
            Tense::Want if self.negated => format!("{does} not want to {base}"),
            Tense::Want => format!("want{} to {base}", if third { "s" } else { "" }),
        }
    }

    pub(super) fn english(&self, time_first: bool) -> String {
        let (front, back) = match time_first && !self.time.0.is_empty() {
            true => (format!("{},", self.time.0), ""),
            false => (String::new(), self.time.0.as_str()),
        };
        join(&[&front, &self.subject.en, &self.english_verb(), &self.object.0, &self.place.0, &self.ride.0, back])
    }

    pub(super) fn english_question(&self) -> String {
        let third = self.subject.person == Person::Third;
        let (base, does) = (self.verb[0].clone(), if third { "does" } else { "do" });
        let (auxiliary, rest) = match self.tense {
            Tense::Present => (does, base),
            Tense::Now => {
                let be = match self.subject.person {
                    Person::I => "am",
                    Person::Third => "is",
                    _ => "are",
                };
                (be, self.verb[3].clone())
            }
            Tense::Past => ("did", base),
            Tense::Future => ("will", base),
            Tense::Can => ("can", base),
            Tense::Must => ("must", base),
            Tense::Want => (does, format!("want to {base}")),
        };
        join(&[auxiliary, &self.subject.en, &rest, &self.object.0, &self.place.0, &self.ride.0, &self.time.0])
    }

    /// `then`: "就" after "如果"; `first`: time before the subject.
    pub(super) fn chinese(&self, time_first: bool, then: bool) -> String {
        let (front, back) = if time_first { (self.time.1.as_str(), "") } else { ("", self.time.1.as_str()) };
        let then = if then { "就" } else { "" };
        format!("{front}{}{back}{then}{}", self.subject.zh, self.chinese_predicate())
    }

    /// Without subject and time.
    pub(super) fn chinese_predicate(&self) -> String {
        let not = match (self.negated, self.tense) {
            (false, _) => "",
            (true, Tense::Past | Tense::Now) => "没",
            (true, _) => "不",
        };
        let modal = match self.tense {
            Tense::Now if self.negated => "在",
            Tense::Now => "正在",
            Tense::Future => "会",
            Tense::Can => "能",
            Tense::Must => "必须",
            Tense::Want => "想",
            Tense::Present | Tense::Past => "",
        };
        // "正在" takes the place of the "在" of a place
        let place = if self.tense == Tense::Now { self.place.1.trim_start_matches('在') } else { &self.place.1 };
        let verb = &self.verb[4];
        let done = if self.tense == Tense::Past && !self.negated { "了" } else { "" };
        format!("{not}{modal}{place}{}{verb}{done}{}", self.ride.1, self.object.1)
    }
}

/// Draws the parts of a sentence.
pub(crate) struct Maker<'r, 'a> {
    pub(crate) rng: &'r mut Stream,
    pub(crate) words: &'a Words,
    pub(crate) marks: Marks,
}

impl<'a> Maker<'_, 'a> {
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.rng.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.rng.below(items.len())]
    }

    pub(super) fn pair(&mut self, items: &[[&str; 2]]) -> Both {
        let [en, zh] = self.pick(items);
        (en.to_string(), zh.to_string())
    }

    pub(super) fn row(&mut self, rows: &'a [Vec<String>], fits: impl Fn(&[String]) -> bool) -> &'a [String] {
        loop {
            let row = &rows[self.rng.below(rows.len())];
            if fits(row) {
                return row;
            }
        }
    }

    pub(super) fn noun(&mut self, tags: &str) -> &'a [String] {
        self.row(&self.words.nouns, |row| row[4].chars().any(|tag| tags.contains(tag)))
    }

    pub(super) fn verb(&mut self, group: &str) -> &'a [String] {
        const GROUPS: [&str; 3] = ["stay", "go", "that"];
        self.row(&self.words.verbs, |row| row[5] == group || (group == "object" && !GROUPS.contains(&row[5].as_str())))
    }

    pub(super) fn adjective(&mut self, noun: &[String]) -> &'a [String] {
        let adjective = self.row(&self.words.adjectives, |row| noun[4].chars().any(|tag| row[4].contains(tag)));
        self.marks.meet("adjective+noun", &adjective[1], &noun[0]);
        adjective
    }

    pub(super) fn has_adjective(&self, noun: &[String]) -> bool {
        self.words.adjectives.iter().any(|row| noun[4].chars().any(|tag| row[4].contains(tag)))
    }

    pub(super) fn phrase(&mut self, noun: &'a [String], negated: bool) -> Phrase {
        let counted = noun[1] != "-";
        let plural = counted && self.chance(40);
        let (mut en_adjective, mut zh_adjective) = ("", "");
        if self.has_adjective(noun) && self.chance(40) {
            let adjective = self.adjective(noun);
            (en_adjective, zh_adjective) = (&adjective[0], &adjective[1]);
        }
        let measure = &noun[3];
        let mut person = if plural { Person::They } else { Person::Third };
        let draw = self.rng.below(20);
        let (en, zh) = match draw {
            0..3 if counted => (
                if plural { "these" } else { "this" }.to_string(),
                if plural { "这些".into() } else { format!("这{measure}") },
            ),
            3..6 => self.pair(&OWNERS),
            6 => {
                let [en, zh] = self.pick(&NAMES);
                (format!("{en}'s"), format!("{zh}的"))
            }
            7..10 if counted => ("the".to_string(), if plural { "那些".into() } else { format!("那{measure}") }),
            _ if !counted => (String::new(), String::new()),
            10..12 if !plural => ("the".to_string(), format!("那{measure}")),
            10..12 if !negated => ("many".to_string(), "很多".to_string()),
            _ if negated => ("the".to_string(), if plural { "那些".into() } else { format!("那{measure}") }),
            _ if plural => {
                let n = match self.rng.below(3) {
                    0 => 2 + self.rng.below(9),
                    1 => 11 + self.rng.below(9),
                    _ => 20 + self.rng.below(80),
                };
                if n > 20 {
                    self.marks.meet("number", &(n / 10).to_string(), &(n % 10).to_string());
                }
                self.marks.meet("number+noun", &n.to_string(), &noun[0]);
                (numbers::english(n), format!("{}{measure}", numbers::chinese(n, true)))
            }
            _ => {
                let first = if en_adjective.is_empty() { &noun[0] } else { en_adjective };
                let article = if first.starts_with(['a', 'e', 'i', 'o']) || first == "umbrella" { "an" } else { "a" };
                (article.to_string(), format!("一{measure}"))
            }
        };
        if !counted {
            person = Person::Third;
        }
        // one 的 is enough: 我新鲜的鱼
        let zh = if zh_adjective.ends_with('的') { zh.trim_end_matches('的') } else { &zh };
        let en = join(&[&en, en_adjective, if plural { &noun[1] } else { &noun[0] }]);
        Phrase { en_object: en.clone(), en, zh: format!("{zh}{zh_adjective}{}", noun[2]), person }
    }

    pub(super) fn subject(&mut self) -> Phrase {
        match self.rng.below(10) {
            0..3 => {
                let (en, zh) = self.pair(&NAMES);
                Phrase { en_object: en.clone(), en, zh, person: Person::Third }
            }
            3..6 => self.pronoun(),
            _ => {
                let noun = self.noun("p");
                self.phrase(noun, true)
            }
        }
    }

    pub(super) fn pronoun(&mut self) -> Phrase {
        let ([en, en_object, zh], person) = self.pick(&PRONOUNS);
        Phrase { en: en.to_string(), en_object: en_object.to_string(), zh: zh.to_string(), person }
    }

    pub(super) fn place(&mut self) -> Both {
        let place = self.row(&self.words.places, |_| true);
        (format!("{} {}", place[0], place[1]), format!("在{}", place[3]))
    }

    pub(super) fn date(&mut self, with_year: bool) -> Both {
        let (day, month) = (1 + self.rng.below(28), 1 + self.rng.below(12));
        let name = MONTHS[month - 1][0];
        self.marks.meet("date", &day.to_string(), name);
        match with_year {
            true => {
                let year = 1950 + self.rng.below(80);
                (format!("on {day} {name} {year}"), format!("{year}年{month}月{day}日"))
            }
            false => (format!("on {day} {name}"), format!("{month}月{day}日")),
        }
    }

    pub(super) fn clock(&mut self) -> Both {
        let time = TimeOfDay::draw(self.rng, &mut self.marks);
        let hour = numbers::chinese(time.hour, true);
        let zh = match time.form {
            0 => format!("{hour}点"),
            1 => format!("{hour}点半"),
            2 => format!("{hour}点一刻"),
            3 => format!("差一刻{hour}点"),
            _ => {
                let half = if time.afternoon { "下午" } else { "上午" };
                format!("{half}{}点{:02}分", time.hour, time.minute)
            }
        };
        (time.both().0, zh)
    }

    pub(super) fn time(&mut self, tense: Tense) -> Both {
        if tense == Tense::Now {
            return self.pair(&NOW);
        }
        match (tense, self.rng.below(9)) {
            (Tense::Past, 0..5) => self.pair(&PAST),
            (Tense::Past, 5) => self.span("", " ago", "前"),
            (Tense::Past, 6) => {
                let year = 1950 + self.rng.below(80);
                (format!("in {year}"), format!("{year}年"))
            }
            (Tense::Past, _) => self.date(true),
            (Tense::Present, 0..6) => self.pair(&PRESENT),
            (Tense::Present, 6) => {
                let (en, zh) = self.pair(&WEEKDAYS);
                (format!("every {en}"), format!("每个{zh}"))
            }
            (Tense::Present, _) => self.clock(),
            (_, 0..4) => self.pair(&FUTURE),
            (_, 4) => self.span("in ", "", "后"),
            (_, 5) => self.date(false),
            (_, 6) => {
                let (en, zh) = self.pair(&WEEKDAYS);
                (format!("on {en}"), zh)
            }
            _ => self.clock(),
        }
    }

    pub(super) fn span(&mut self, before: &str, after: &str, zh_after: &str) -> Both {
        let ([en, zh], n) = (self.pick(&SPANS), 2 + self.rng.below(9));
        (format!("{before}{} {en}{after}", numbers::english(n)), format!("{}{zh}{zh_after}", numbers::chinese(n, true)))
    }

    pub(super) fn tense(&mut self, verb: &[String]) -> (Tense, bool) {
        let tense = match self.rng.below(20) {
            0..4 => Tense::Present,
            4..7 if verb[3] != "-" => Tense::Now,
            4..13 => Tense::Past,
            13..16 => Tense::Future,
            16..18 => Tense::Can,
            18 => Tense::Must,
            _ => Tense::Want,
        };
        // what one likes and knows needs no aspect
        let tense = if verb[0] == "like" || verb[0] == "know" { Tense::Present } else { tense };
        (tense, tense != Tense::Must && self.chance(18))
    }

    pub(super) fn clause(&mut self) -> Clause {
        let subject = self.subject();
        self.clause_of(subject)
    }

    pub(super) fn clause_of(&mut self, subject: Phrase) -> Clause {
        let group = match self.rng.below(10) {
            0..6 => "object",
            6..8 => "stay",
            _ => "go",
        };
        let verb = self.verb(group);
        let (tense, negated) = self.tense(verb);
        let none = Both::default;
        let (mut object, mut place, mut ride, mut time) = (none(), none(), none(), none());
        match group {
            "object" if verb[5].contains('p') && self.chance(20) => {
                let pronoun = loop {
                    let pronoun = self.pronoun();
                    if pronoun.person != subject.person || pronoun.person == Person::Third {
                        break pronoun;
                    }
                };
                object = (pronoun.en_object, pronoun.zh);
            }
            "object" => {
                let noun = self.noun(&verb[5]);
                self.marks.meet("verb+object", &verb[4], &noun[0]);
                let phrase = self.phrase(noun, negated);
                object = (phrase.en_object, phrase.zh);
            }
            "go" => {
                let row = self.row(&self.words.places, |row| !row[2].ends_with(['上', '岸']));
                let to = if row[1] == "home" { "home".to_string() } else { format!("to {}", row[1]) };
                object = if row[1] == "home" { (to, "家".to_string()) } else { (to, row[2].clone()) };
                if self.chance(40) {
                    ride = self.pair(&RIDES);
                }
            }
            _ => {}
        }
        let timeless = verb[0] == "like" || verb[0] == "know";
        if !timeless && (tense == Tense::Past || self.chance(45)) {
            time = self.time(tense);
        }
        if !timeless && group != "go" && self.chance(if group == "stay" { 70 } else { 25 }) {
            place = self.place();
        }
        let mut verb = verb.to_vec();
        if object.1 == "家" {
            // "goes home" is 回家
            verb[4] = "回".to_string();
        }
        Clause { subject, verb, tense, negated, time, object, place, ride }
    }
}
