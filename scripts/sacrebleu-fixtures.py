#!/usr/bin/env python3
"""Writes tests/fixtures/sacrebleu/*.json: texts, and what sacreBLEU 2.6.0 says about them.

    pip install sacrebleu==2.6.0
    python scripts/sacrebleu-fixtures.py            # rewrites every file; the same bytes each time

The texts are written here and perturbed by a generator of our own, so no corpus and no Python version matters.
Not needed to build, test or use nmt-train.
"""

import json
import pathlib
import re
import sys

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.bleu import _get_tokenizer

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "sacrebleu"
TOKENIZERS = ["13a", "zh", "intl", "char", "none"]
TER_OPTIONS = [
    {},
    {"case_sensitive": True},
    {"normalized": True},
    {"no_punct": True},
    {"normalized": True, "asian_support": True},
    {"no_punct": True, "asian_support": True},
    {"normalized": True, "no_punct": True, "asian_support": True, "case_sensitive": True},
]


class Random:
    """A linear congruential generator (Knuth's MMIX): the same numbers everywhere."""

    def __init__(self, seed):
        self.state = seed * 7919 + 12345
        for _ in range(5):
            self.below(2)

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n

    def chance(self, percent):
        return self.below(100) < percent


def perturb(sentence, random, percent, separator=" "):
    """Drops, doubles, replaces, swaps and moves words (or characters, with an empty separator)."""
    words = sentence.split(separator) if separator else list(sentence)
    pool = list(words)
    out = []
    for word in words:
        if not random.chance(percent):
            out.append(word)
            continue
        kind = random.below(6)
        if kind == 0:
            continue
        if kind == 1:
            out += [word, word]
        elif kind == 2:
            out.append(pool[random.below(len(pool))])
        elif kind == 3:
            out.append(word.swapcase())
        elif kind == 4:
            out.append(word.rstrip(".,!?;:。\uff0c\uff01\uff1f") or word)
        else:
            out.append(word[:-1] if len(word) > 1 else word)
    if len(out) > 5 and random.chance(2 * percent):
        start, length = random.below(len(out) - 3), 1 + random.below(3)
        block = out[start : start + length]
        del out[start : start + length]
        target = random.below(len(out) + 1)
        out[target:target] = block
    return separator.join(out)


EN = [
    "The harbour master waved at the last ferry before it left for the islands.",
    "Nobody knew why the old clock in the town hall had stopped at half past three.",
    "She bought 12 apples, 3 pears and a loaf of bread for $4.50.",
    "\"Are you coming with us?\" asked Tom's sister, but he didn't answer.",
    "The meeting on 14 March 2021 was moved to Tuesday, 9:30 a.m.",
    "A well-known engineer (born in 1899) designed the bridge over the river.",
    "If the rain stops, we will walk up to the castle; if not, we will stay at home.",
    "In the first quarter the company sold 1,234,567 units, i.e. 3.5% more than expected.",
    "Please send the form to office@example.org or visit https://example.org/form?id=7&x=2.",
    "My grandfather used to say that a good tool is half the work.",
    "The children ran across the field, shouting and laughing, until it got dark.",
    "There is no reason to be afraid of the dog that lives next door.",
    "He opened the window, looked down at the street and closed it again without a word.",
    "The results of the second experiment do not agree with those of the first one.",
]
DE = [
    "Der Hafenmeister winkte der letzten Fähre zu, bevor sie zu den Inseln ablegte.",
    "Niemand wusste, warum die alte Uhr im Rathaus um halb vier stehen geblieben war.",
    "Sie kaufte 12 Äpfel, 3 Birnen und ein Brot für 4,50 €.",
    "„Kommst du mit uns?“, fragte Toms Schwester, aber er antwortete nicht.",
    "Die Sitzung am 14. März 2021 wurde auf Dienstag, 9.30 Uhr, verlegt.",
    "Ein bekannter Ingenieur (geboren 1899) entwarf die Brücke über den Fluss.",
    "Wenn der Regen aufhört, gehen wir zur Burg hinauf; sonst bleiben wir zu Hause.",
    "Im ersten Quartal verkaufte die Firma 1.234.567 Stück, d. h. 3,5 % mehr als erwartet.",
    "Großvater sagte immer, gutes Werkzeug sei die halbe Arbeit – und er hatte recht.",
    "Die Kinder rannten über das Feld, schrien und lachten, bis es dunkel wurde.",
    "Er öffnete das Fenster, sah auf die Straße hinunter und schloss es wortlos wieder.",
    "ÜBER DEN WOLKEN IST ES IMMER SONNIG, sagte die Flugbegleiterin.",
]
ZH = [
    "港口的管理员在最后一班渡船离开之前向它挥手。",
    "没有人知道市政厅的旧钟为什么停在三点半。",
    "她花了4.50元买了12个苹果、3个梨和一个面包。",
    "“你和我们一起去吗?”汤姆的妹妹问,但是他没有回答。",
    "2021年3月14日的会议改到星期二上午9:30。",
    "如果雨停了,我们就走到城堡去;不然我们就待在家里。",
    "这家公司第一季度卖出了1,234,567件,比预计多3.5%。",
    "请把表格寄到office@example.org,或者访问我们的网站(example.org)。",
    "爷爷常说:好的工具是一半的工作……",
    "孩子们跑过田野,又喊又笑,直到天黑。",
]
JA = [
    "港の管理人は最後のフェリーに手を振った。",
    "市役所の古い時計がなぜ三時半に止まったのか、誰も知らなかった。",
    "「一緒に来ますか?」とトムの妹が聞いたが、彼は答えなかった。",
    "彼女はリンゴを12個とパンを買って、450円払いました。",
    "カタカナとひらがな、そして漢字・記号を混ぜた文です!",
]


def full_width(sentence):
    """Turns ASCII punctuation beside other characters into its full-width form."""
    beside = r"(?<=[^\x00-\x7f])[,;:?!()]|[,;:?!()](?=[^\x00-\x7f])"
    return re.sub(beside, lambda match: chr(ord(match[0]) + 0xFEE0), sentence)


ZH = [full_width(sentence) for sentence in ZH]
JA = [full_width(sentence) for sentence in JA]
RU = [
    "Смотритель порта помахал рукой последнему парому, прежде чем тот ушёл к островам.",
    "Никто не знал, почему старые часы на ратуше остановились в половине четвёртого.",
    "«Ты идёшь с нами?» — спросила сестра Тома, но он не ответил.",
    "В 2021 году цена выросла на 3,5 % — до 1 234 567 рублей.",
]
AR = ["لوّح مدير الميناء للعبّارة الأخيرة قبل أن تغادر إلى الجزر.", "هل ستأتي معنا؟ سألت أخت توم، لكنه لم يجب.", "اشترت ١٢ تفاحة و3 كمثرى."]
HI = ["बंदरगाह के प्रबंधक ने आखिरी नाव को हाथ हिलाया।", "क्या तुम हमारे साथ आ रहे हो? टॉम की बहन ने पूछा।", "उसने १२ सेब और ३ नाशपाती खरीदीं।"]
EL = ["Ο ΛΙΜΕΝΑΡΧΗΣ ΧΑΙΡΕΤΗΣΕ ΤΟ ΤΕΛΕΥΤΑΙΟ ΠΛΟΙΟ.", "Ο Οδυσσεύς γύρισε σπίτι του ΜΕΤΑ ΑΠΟ ΧΡΟΝΟΥΣ.", "Κανείς δεν ήξερε γιατί σταμάτησε το ρολόι."]
TR = ["İSTANBUL'DA HAVA ISINDI, diye yazdı gazete.", "Işık söndü ve İzmir uyudu.", "Kimse saatin neden durduğunu bilmiyordu."]


def cases():
    def noisy(name, sentences, seed, percent, separator=" ", streams=1):
        random = Random(seed)
        hyps = [perturb(s, random, percent, separator) for s in sentences]
        refs = [sentences] + [
            [perturb(s, random, 25, separator) for s in sentences] for _ in range(streams - 1)
        ]
        return name, hyps, refs

    yield noisy("en-light", EN, 1, 8)
    yield noisy("en-medium", EN, 2, 20)
    yield noisy("en-heavy", EN, 3, 45)
    yield noisy("en-wrecked", EN, 4, 80)
    yield noisy("de-light", DE, 5, 8)
    yield noisy("de-medium", DE, 6, 25)
    yield noisy("de-heavy", DE, 7, 60)
    yield noisy("zh-light", ZH, 8, 6, "")
    yield noisy("zh-medium", ZH, 9, 15, "")
    yield noisy("zh-heavy", ZH, 10, 40, "")
    yield noisy("ja-medium", JA, 11, 15, "")
    yield noisy("ru-medium", RU, 12, 20)
    yield noisy("ar-medium", AR, 13, 20)
    yield noisy("hi-medium", HI, 14, 20)
    yield noisy("greek-sigma", EL, 15, 25)
    yield noisy("turkish-i", TR, 16, 25)
    yield noisy("en-two-references", EN, 17, 25, streams=2)
    yield noisy("en-four-references", EN, 18, 35, streams=4)
    yield noisy("de-three-references", DE, 19, 30, streams=3)
    yield noisy("zh-two-references", ZH, 20, 20, "", streams=2)
    yield "en-identical", EN, [EN]
    yield "en-unrelated", EN, [list(reversed(EN))]
    yield "en-against-de", EN[:12], [DE]
    yield "upper-case", [s.upper() for s in EN + DE + RU], [EN + DE + RU]
    yield "title-case", [s.title() for s in EN], [EN]
    yield "one-sentence", ["The cat is on the mat."], [["There is a cat on the mat."]]
    yield "one-word", ["cat"], [["dog"]]
    yield "one-word-equal", ["cat"], [["cat"]]
    yield "short-segments", ["Yes.", "No!", "a b", "a b c", "a", "I", "ok ok", "x y z w v"], [
        ["Yes!", "No.", "a b", "a c b", "a", "you", "ok", "x y z w"]
    ]
    yield "empty-hypotheses", ["", "", "   "], [["something", "", "else here"]]
    yield "some-empty", ["", "The window is open.", "\t", "a b c d e"], [
        ["The door is closed.", "The window is open.", "A line.", ""]
    ]
    yield "empty-references", ["a b c", "", "d e"], [["", "", ""]]
    yield "some-empty-references", ["a b c", "the sun shines", "d e"], [["", "the sun", "d e f"], ["a b", "", ""]]
    yield "no-match", ["alpha beta gamma delta epsilon"], [["one two three four five six"]]
    yield "no-four-gram", ["the cat the dog the bird sat"], [["the cat and the dog and the bird sat down"]]
    yield "repeated-words", ["the the the the the the the", "a a b b a a", "no no no, no no!"], [
        ["the cat is on the mat", "a b a b a b", "no, no, no!"]
    ]
    yield "too-short", [s[: len(s) // 2] for s in EN], [EN]
    yield "too-long", [f"{s} {s}" for s in DE], [DE]
    yield "entities", [
        "&quot;Tom &amp; Ann&quot; &lt;3", "a &amp;quot; b &amp;lt; c", "AT&T and R&D; 5 & 6 &unknown; &gt", "&#39;x&#39; &nbsp;",
    ], [["\"Tom & Ann\" <3", "a \" b < c", "AT & T and R & D; 5 & 6", "'x'"]]
    yield "skipped-and-newlines", [
        "<skipped> The first <skipped>line", "a hyphen-\nated word", "two\nlines here", "end -\n", "x\n-y z", "<skip<skipped>ped> now"
    ], [["The first line", "a hyphenated word", "two lines here", "end", "xy z", "<skipped> now"]]
    yield "numbers", [
        "1,000.50 - 2.5e-3 ..5 .,1 5.. 1.,2", "pi=3.14159, e=2.71828.", "1-2-3 -4 5- 6--7 -", "10.000,00 €; £3.50/$4", "3.5% of 1/2 = 0.0175!",
        "١٢٣.٤٥ २.५ 1.², ½.3 Ⅷ.4", "In 1999. In 2001, too.", "192.168.0.1:8080",
    ], [[
        "1,000.5 - 2.5e-3 .5 ,1 5. 1,2", "pi = 3.14159; e = 2.71828", "1-2-3 - 4 5 - 6-7", "10,000.00 €; £3.5 / $4", "3.5 % of 1/2 = 0.0175",
        "١٢٣,٤٥ २,५ 1,², ½,3 Ⅷ,4", "In 1999 . In 2001 , too .", "192.168.0.1 : 8080",
    ]]
    yield "punctuation-mix", [
        "...,,,!!!???;;;:::---", "(a)[b]{c}<d>`e`'f'\"g\"", "don't—can't–won't… it's", "a.b,c-d_e/f\\g|h~i^j", "#tag @user $5 100% a*b+c=d",
        "\"(hi)\" '(hi)' (hi). hi!) ,hi,", "Tom's. Tom's, Tom's dogs' 's s's's ", "« Bonjour »; ¿Qué? ¡Sí! „Ja“ ‚so‘",
    ], [[
        "... ,,, !!! ??? ;;; ::: ---", "( a ) [ b ] { c } < d > ` e ` ' f ' \" g \"", "do n't — ca n't – wo n't … it 's", "a . b , c - d _ e / f \\ g | h ~ i ^ j",
        "# tag @ user $ 5 100 % a * b + c = d", "\"( hi )\" '( hi )' ( hi ) . hi !) , hi ,", "Tom 's. Tom 's, Tom 's dogs ' 's s's's", "«Bonjour» ; ¿ Qué ? ¡ Sí ! „ Ja “ ‚ so ‘",
    ]]
    yield "unicode-spaces", [
        "a\u00a0b\u2003c\u3000d", "x\u001cy\u001dz\u001ew\u001fv", "tab\tand\u000bvertical\u000cform\r", "\u2028line\u2029para\u0085next", "zero\u200bwidth \u2060joiner\ufeff",
        "  leading and trailing \u00a0\u001f", "mon\u180egol",
    ], [["a b c d", "x y z w v", "tab and vertical form", "line para next", "zerowidth joiner", "leading and trailing", "mon gol"]]
    yield "zh-ranges", [
        "“引号”—破折号…→∑≠", "\u2000\u2001\u2a6d\u2a6e\u2f80\u2f81\u2fa1\u2fa2 \U00020000\U0002a6d6字", "\u33ff\u3400\u4db5\u4db6\u4dff\u4e00\u9fa5\u9fbb\u9fbc\u9fff",
        "\uf8ff\uf900\ufa2d\ufa2e\ufa30\ufa6a\ufa6b\ufa70\ufad9\ufada", "\ufeff\uff00a\uffef\ufff0 \u2e7f\u2e80\u2eff\u2f00\u2fdf\u2fe0", "\u2fef\u2ff0\u2fff\u3000\u303f\u3040\u30ff\u3100\u312f\u3130\u319f\u31a0\u31bf\u31c0\u31ef\u31f0",
        "\ufe0f\ufe10\ufe1f\ufe20\ufe2f\ufe30\ufe4f\ufe50 \u25ff\u2600\u27bf\u27c0 \u31ff\u3200\u32ff\u3300", "CPU是Intel(R)i7-9700K,3.6GHz。",
    ], [[
        "“ 引 号 ” — 破 折 号 … → ∑ ≠", "\u2001 \u2a6d \u2a6e \u2f80 \u2f81 \u2fa1 字", "\u33ff \u3400 \u4db5 \u4db6 \u4dff \u4e00 \u9fa5 \u9fbb \u9fbc \u9fff",
        "\uf900 \ufa2d \ufa2e \ufa30 \ufa6a \ufa6b", "\uff00 a \uffef \u2e80 \u2eff \u2f00 \u2fdf", "\u2ff0 \u2fff \u303f \u3040 \u30ff \u3100 \u312f \u31a0 \u31bf \u31c0 \u31ef",
        "\ufe10 \ufe1f \ufe30 \ufe4f \u2600 \u27bf \u3200 \u32ff \u3300", "CPU 是 Intel (R) i7 - 9700K , 3.6 GHz 。",
    ]]
    yield "asian-ter", [
        "㈠号、、。〈〉【】〔〕〟・。「」 字", "全角\uff0e\uff0c\uff1f\uff1a\uff1b\uff01\uff02\uff08\uff09\uff61\uff65文字", "かな カナ ㇰㇱ 漢字kana", "㌀㍿㋿㊀ ㄅㄆ 豈", "한국어 문장입니다. 안녕하세요?",
    ], [["㈠ 号 、 。 〈 〉 【 】", "全角文字", "かなカナ漢字 kana", "㌀ ㍿ ㄅ 豈", "한국어 문장 입니다 . 안녕하세요 ?"]]
    yield "combining-and-emoji", [
        "cafe\u0301 nai\u0308ve Zu\u0308rich", "👩‍👩‍👧 family 👍🏽 ok 🇩🇪", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🂡 𐍈 ﬁn ﬀ", "ẞ ß SS ŉ ǰ ΐ İ ı", "a̐éö̲",
    ], [["café naïve Zürich", "👩‍👩‍👧 family 👍 ok 🇩🇪", "Unicode 🂡 𐍈 fin ff", "ß ss SS ʼn ǰ ΐ i̇ i", "a̐ éö̲"]]
    yield "symbols", [
        "a+b=c <x> ~y~ |z| ^w^ `v`", "© 2020 ® ™ § ¶ † ‡ • ‰", "€5 £6 ¥7 ₿8 ¢9 ₹10", "∀x∈ℝ: x²≥0 ⇒ √x²=|x|", "→←↑↓ ★☆ ♥ ✓✗ ░▒▓", "1°C ≈ 33.8°F ± 0.1",
    ], [[
        "a + b = c < x > ~ y ~ | z |", "© 2020 ® ™ § ¶ † ‡ • ‰", "€ 5 £ 6 ¥ 7 ₿ 8 ¢ 9 ₹ 10", "∀ x ∈ ℝ : x² ≥ 0 ⇒ √ x² = | x |", "→ ← ↑ ↓ ★ ☆ ♥ ✓ ✗", "1 ° C ≈ 33.8 ° F ± 0.1",
    ]]
    yield "shifts", [
        "d e f a b c", "the man quickly yesterday ran home", "5 6 7 8 1 2 3 4", "b a d c f e h g", "x a b c d e f g h i j k l", "a b a b a b c", "z y x w v u t s r q p",
    ], [[
        "a b c d e f", "yesterday the man ran home quickly", "1 2 3 4 5 6 7 8", "a b c d e f g h", "a b c d e f g h i j k l x", "c a b a b a b", "p q r s t u v w x y z",
    ]]
    random = Random(99)
    letters = "abcdefghij"
    long = [" ".join(letters[random.below(10)] for _ in range(50 + 20 * i)) for i in range(3)]
    other = [" ".join(letters[random.below(10)] for _ in range(70 + 10 * i)) for i in range(3)]
    yield "many-shift-candidates", long, [other]
    moved = []
    for line in [" ".join(f"w{i}" for i in range(n)) for n in (30, 70, 120)]:
        words = line.split()
        moved.append(" ".join(words[len(words) // 2 :] + words[: len(words) // 2]))
    yield "long-blocks-moved", moved, [[" ".join(f"w{i}" for i in range(n)) for n in (30, 70, 120)]]
    numbered = [f"n{i}" for i in range(150)]
    yield "length-beyond-the-beam", ["n7", "n140", " ".join(numbered), " ".join(numbered[:3]), " ".join(numbered[100:104])], [
        [" ".join(numbered), " ".join(numbered), "n7 n8", " ".join(numbered), " ".join(numbered)]
    ]
    yield "rounding", ["a b c d e f g h i j k l m n o p"] * 2, [["a x x x x x x x x x x x x x x x"] * 2]


def rounded(x):
    return round(float(x), 11)


def plain(options):
    return {key: value for key, value in options.items() if value}


def bleu(hyps, refs, **options):
    metric = BLEU(force=True, **options)
    s = metric.corpus_score(hyps, refs)
    return {
        **plain(options),
        "text": str(s),
        "signature": str(metric.get_signature()),
        "score": rounded(s.score),
        "precisions": [rounded(p) for p in s.precisions],
        "bp": rounded(s.bp),
        "counts": s.counts,
        "totals": s.totals,
    }


def other(metric_class, hyps, refs, **options):
    metric = metric_class(**options)
    s = metric.corpus_score(hyps, refs)
    out = {**plain(options), "text": str(s), "signature": str(metric.get_signature()), "score": rounded(s.score)}
    if metric_class is TER:
        out["num_edits"], out["ref_length"] = s.num_edits, rounded(s.ref_length)
    return out


def fixture(hyps, refs):
    def sentences(metric):
        return [str(metric.sentence_score(h, list(r))) for h, r in zip(hyps, zip(*refs))]

    names = ["zh", "char"] if any("\u3000" < c < "\ufb00" for c in hyps[0]) else ["13a", "intl"]
    return {
        "hypotheses": hyps,
        "references": refs,
        "tokenized": {name: [_get_tokenizer(name)()(h) for h in hyps] for name in TOKENIZERS[:3]},
        "bleu": [bleu(hyps, refs, tokenize=t) for t in TOKENIZERS]
        + [bleu(hyps, refs, tokenize=t, lowercase=True) for t in names]
        + [bleu(hyps, refs, tokenize=names[0], effective_order=True)],
        "chrf": [other(CHRF, hyps, refs, word_order=w, lowercase=l) for w in (0, 1, 2) for l in (False, True)],
        "ter": [other(TER, hyps, refs, **options) for options in TER_OPTIONS],
        "sentence_bleu": sentences(BLEU(effective_order=True)),
        "sentence_chrf": sentences(CHRF()),
        "sentence_ter": sentences(TER()),
    }


def main():
    if sacrebleu.__version__ != "2.6.0":
        sys.exit(f"sacreBLEU {sacrebleu.__version__} is installed; the fixtures are those of 2.6.0: pip install sacrebleu==2.6.0")
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.json"):
        old.unlink()
    count = 0
    for name, hyps, refs in cases():
        parts = []
        for key, value in fixture(hyps, refs).items():
            if isinstance(value, list):
                rows = [json.dumps(row, ensure_ascii=False) for row in value]
                parts.append(f'"{key}": [\n' + ",\n".join(rows) + "\n]")
            else:
                rows = [f'"{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in value.items()]
                parts.append(f'"{key}": {{\n' + ",\n".join(rows) + "\n}")
        (OUT / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        count += 1
    print(f"{count} fixtures in {OUT}", file=sys.stderr)


if __name__ == "__main__":
    main()
