//! Numbers, dates and times of day in words and digits: English, German, Chinese.

const EN: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const EN_TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const DE: [&str; 20] = [
    "null",
    "ein",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
];
const DE_TENS: [&str; 10] =
    ["", "", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"];
const ZH: [&str; 10] = ["零", "一", "二", "三", "四", "五", "六", "七", "八", "九"];

/// Months, English and German.
pub(crate) const MONTHS: [[&str; 2]; 12] = [
    ["January", "Januar"],
    ["February", "Februar"],
    ["March", "März"],
    ["April", "April"],
    ["May", "Mai"],
    ["June", "Juni"],
    ["July", "Juli"],
    ["August", "August"],
    ["September", "September"],
    ["October", "Oktober"],
    ["November", "November"],
    ["December", "Dezember"],
];

/// 1 ≤ n < 1000: "three hundred and twenty-one".
pub(crate) fn english(n: usize) -> String {
    match n {
        0..20 => EN[n].to_string(),
        20..100 if n.is_multiple_of(10) => EN_TENS[n / 10].to_string(),
        20..100 => format!("{}-{}", EN_TENS[n / 10], EN[n % 10]),
        _ if n.is_multiple_of(100) => format!("{} hundred", EN[n / 100]),
        _ => format!("{} hundred and {}", EN[n / 100], english(n % 100)),
    }
}

/// 2 ≤ n < 1000 before a noun, n % 100 ≠ 1: "dreihunderteinundzwanzig".
pub(crate) fn german(n: usize) -> String {
    match n {
        0..20 => DE[n].to_string(),
        20..100 if n.is_multiple_of(10) => DE_TENS[n / 10].to_string(),
        20..100 => format!("{}und{}", DE[n % 10], DE_TENS[n / 10]),
        _ if n.is_multiple_of(100) => format!("{}hundert", DE[n / 100]),
        _ => format!("{}hundert{}", DE[n / 100], german(n % 100)),
    }
}

/// 1 ≤ n < 1000, counting with a measure word when `measured`: "三百二十一", "两".
pub(crate) fn chinese(n: usize, measured: bool) -> String {
    match n {
        2 if measured => "两".to_string(),
        0..10 => ZH[n].to_string(),
        10 => "十".to_string(),
        11..20 => format!("十{}", ZH[n % 10]),
        20..100 if n.is_multiple_of(10) => format!("{}十", ZH[n / 10]),
        20..100 => format!("{}十{}", ZH[n / 10], ZH[n % 10]),
        _ => {
            let hundreds = ZH[n / 100];
            match n % 100 {
                0 => format!("{hundreds}百"),
                rest @ 1..10 => format!("{hundreds}百零{}", ZH[rest]),
                rest @ 10..20 => format!("{hundreds}百一{}", chinese(rest, false)),
                rest => format!("{hundreds}百{}", chinese(rest, false)),
            }
        }
    }
}

/// Digits with a separator of thousands.
pub(crate) fn grouped(n: usize, separator: char) -> String {
    if n < 1000 {
        n.to_string()
    } else {
        format!("{}{separator}{:03}", grouped(n / 1000, separator), n % 1000)
    }
}

/// A time of day: what an English speaker says and the German for it. `form`: 0 full, 1 half past, 2 quarter past,
/// 3 quarter to, 4 digits; 1 ≤ hour ≤ 12; `minute` and `afternoon` only for digits.
pub(crate) fn clock(form: usize, hour: usize, minute: usize, afternoon: bool) -> (String, String) {
    let name = |h: usize| if h == 1 { "eins" } else { DE[h] };
    match form {
        0 => (format!("at {} o'clock", EN[hour]), format!("um {} Uhr", DE[hour])),
        1 => (format!("at half past {}", EN[hour]), format!("um halb {}", name(hour % 12 + 1))),
        2 => (format!("at quarter past {}", EN[hour]), format!("um Viertel nach {}", name(hour))),
        3 => (format!("at quarter to {}", EN[hour]), format!("um Viertel vor {}", name(hour))),
        _ => {
            let half = if afternoon { "pm" } else { "am" };
            let hour_24 = hour % 12 + if afternoon { 12 } else { 0 };
            (format!("at {hour}:{minute:02} {half}"), format!("um {hour_24}:{minute:02} Uhr"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!((english(21), german(21)), ("twenty-one".into(), "einundzwanzig".into()));
        assert_eq!((english(316), german(316)), ("three hundred and sixteen".into(), "dreihundertsechzehn".into()));
        assert_eq!(chinese(305, true), "三百零五");
        assert_eq!(chinese(2, true), "两");
        assert_eq!(chinese(212, true), "二百一十二");
        assert_eq!(grouped(12_500, '.'), "12.500");
        assert_eq!(clock(1, 12, 0, false).1, "um halb eins");
        assert_eq!(clock(4, 3, 45, true), ("at 3:45 pm".into(), "um 15:45 Uhr".into()));
    }
}
