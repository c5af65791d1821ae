//! Short reports with a headline made by a rule: what, where, and the worst of what is known. The facts stand in any
//! order among sentences that do not matter.

use nmt_train::rng::Stream;

use super::clause::Both;
use super::german::capitalize;
use super::held_out::Marks;
use super::numbers;

/// In a headline, in a sentence.
const EVENTS: [[&str; 2]; 10] = [
    ["fire", "a fire broke out"],
    ["flood", "there was a flood"],
    ["storm", "a storm raged"],
    ["explosion", "there was an explosion"],
    ["robbery", "there was a robbery"],
    ["power cut", "the lights went out"],
    ["strike", "the workers stopped working"],
    ["gas leak", "gas escaped from a pipe"],
    ["car crash", "two cars collided"],
    ["burglary", "thieves broke a window and came in"],
];
const TOWNS: [&str; 16] = [
    "Vienna", "Berlin", "Paris", "London", "Rome", "Prague", "Hamburg", "Madrid", "Lisbon", "Oslo", "Athens", "Zurich",
    "Warsaw", "Dublin", "Budapest", "Cologne",
];
const PLACES: [&str; 16] = [
    "station", "airport", "hospital", "school", "museum", "theatre", "factory", "harbour", "hotel", "library",
    "market", "stadium", "castle", "church", "zoo", "bank",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const FILLERS: [&str; 14] = [
    "The mayor thanked the helpers.",
    "The weather was bad.",
    "Many people watched from the street.",
    "The police are looking for witnesses.",
    "Nobody knows the reason yet.",
    "The firemen arrived after ten minutes.",
    "The road was closed for three hours.",
    "It was already dark.",
    "A neighbour called the police.",
    "The minister wants to visit the town.",
    "The newspapers wrote about it.",
    "The work will take two weeks.",
    "It was the second time this year.",
    "Children will get a free day.",
];

/// A report and its headline.
pub(crate) fn report(rng: &mut Stream) -> (Both, Marks) {
    let mut marks = Marks::default();
    let [event, happened] = EVENTS[rng.below(EVENTS.len())];
    let (town, place) = (TOWNS[rng.below(TOWNS.len())], PLACES[rng.below(PLACES.len())]);
    marks.meet("event+place", event, place);
    marks.meet("town+place", town, place);
    let day = DAYS[rng.below(DAYS.len())];
    let mut sentences = Vec::new();
    let first = match rng.below(2) {
        0 => format!("On {day}, {happened} at the {place} of {town}."),
        _ => format!("{happened} at the {place} of {town} on {day}."),
    };
    let mut worst = "nobody hurt".to_string();
    if rng.below(2) == 0 {
        let damage = format!("{} million euros", 2 + rng.below(60));
        sentences.push(format!("The damage is about {damage}."));
        worst = format!("damage of {damage}");
    }
    if rng.below(2) == 0 {
        let n = 2 + rng.below(28);
        sentences.push(match rng.below(2) {
            0 => capitalize(&format!("{} people were hurt.", numbers::english(n))),
            _ => format!("Doctors had to treat {} people.", numbers::english(n)),
        });
        worst = format!("{n} hurt");
    } else if rng.below(2) == 0 {
        sentences.push("Nobody was hurt.".to_string());
    }
    let wanted = 1 + rng.below(3);
    let mut fillers = FILLERS.to_vec();
    rng.shuffle(&mut fillers);
    sentences.extend(fillers[..wanted].iter().map(|s| s.to_string()));
    rng.shuffle(&mut sentences);
    sentences.insert(0, first);
    let text: Vec<String> = sentences.iter().map(|s| capitalize(s)).collect();
    ((text.join(" "), capitalize(&format!("{event} at {town} {place}: {worst}"))), marks)
}
