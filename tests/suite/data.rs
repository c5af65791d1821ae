//! Text files → pairs → cache → batches, and the message of everything that can be wrong with them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nmt_train::config::{BatchType, Column, Corpora, Corpus, DataConfig};
use nmt_train::data::{
    held_out, prepare, read_lines, text_lines, Batching, Contents, Dataset, Epoch, Error, Joined, Lengths, Pairs,
    Prepare, Reason, Side,
};

pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its name.
    pub(super) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(content.as_ref()).unwrap();
        path.to_str().unwrap().to_string()
    }

    /// An error's message with this folder's name cut out.
    pub(super) fn message(&self, error: &Error) -> String {
        error.to_string().replace(&format!("{}/", self.path().display()), "")
    }
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn corpus(files: &[&String]) -> Corpus {
    Corpus::of(files.iter().map(|f| f.to_string()).collect())
}

pub(super) fn config(corpora: Vec<Corpus>) -> DataConfig {
    DataConfig { train: Corpora(corpora), ..DataConfig::default() }
}

fn read(files: &[&String]) -> Result<Vec<(String, String)>, Error> {
    let data = config(vec![corpus(files)]);
    Ok(held_out(&data.train, &data)?.pairs)
}

pub(super) fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_string(), b.to_string())
}

/// One token a word (its length in bytes), then `</s>` = 0.
fn encode(_: Side, lines: &[&str]) -> Result<Vec<Vec<u32>>, String> {
    let words = |line: &&str| line.split_whitespace().map(|w| w.len() as u32).chain([0]).collect();
    Ok(lines.iter().map(words).collect())
}

/// The line, behind its side.
fn spell(side: Side, lines: &[&str]) -> Result<Vec<Vec<u8>>, String> {
    Ok(lines.iter().map(|line| format!("{side:?} {line}").into_bytes()).collect())
}

fn run(data: &DataConfig, cache: &Path) -> Result<Dataset, Error> {
    let job = Prepare {
        data,
        contents: &Contents::read(data)?,
        fingerprint: "words",
        vocab_size: 1000,
        spelled: [false; 2],
        tags: &[],
        cache_dir: cache,
        whole_blocks: false,
    };
    prepare(&job, &encode, &spell, &mut |_| {})
}

fn the_cache_file(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn all_formats_give_the_same_pairs() {
    let f = Folder::new();
    let (en, de, tsv) = ("a b\nc\n\n", "ä b\nc\n\n", "a b\tä b\nc\tc\tmore\n\n");
    let flat =
        "{\"en\": \"a b\", \"de\": \"ä b\"}\n{\"de\": \"c\", \"en\": \"c\", \"id\": 7}\n\n{\"en\":\"\",\"de\":\"\"}\n";
    let nested = "{\"translation\": {\"en\": \"a b\", \"de\": \"\\u00e4 b\"}}\n\
                  {\"translation\": {\"en\": \"c\", \"de\": \"c\"}}\n{\"translation\": {\"en\": \"\", \"de\": \"\"}}";
    let wanted = vec![pair("a b", "ä b"), pair("c", "c"), pair("", "")];
    let all: Vec<Vec<String>> = vec![
        vec![f.file("t.en", en), f.file("t.de", de)],
        vec![f.file("t.en.gz", gz(en)), f.file("u.de", de)],
        vec![f.file("t.tsv", tsv)],
        vec![f.file("t.tsv.gz", gz(tsv))],
        vec![f.file("zipped.TSV", gz(tsv))],
        vec![f.file("plain.tsv.gz", tsv)],
        vec![f.file("t2.en", gz(en)), f.file("u.de.gz", de)],
        vec![f.file("flat.jsonl", flat)],
        vec![f.file("nested.json", nested)],
        vec![f.file("nested.jsonl.gz", gz(nested))],
    ];
    for files in all {
        let files: Vec<&String> = files.iter().collect();
        assert_eq!(read(&files).unwrap(), wanted, "{files:?}");
    }
}

#[test]
fn a_tag_stands_before_the_sources_of_its_corpus_and_is_part_of_what_the_text_is() {
    let f = Folder::new();
    let files = [&f.file("t.en", "a bb\n \nccc ccc ccc\n"), &f.file("t.de", "a\nb\nccc\n")];
    let tagged = |tag: &str| Corpus { tag: tag.to_string(), ..corpus(&files) };
    let prepared = |tags: [Option<u32>; 2], data: &DataConfig| {
        let cache_dir = &f.path().join("cache");
        let job = Prepare {
            data,
            contents: &Contents::read(data).unwrap(),
            fingerprint: "words",
            vocab_size: 1000,
            spelled: [false; 2],
            tags: &tags,
            cache_dir,
            whole_blocks: false,
        };
        prepare(&job, &encode, &spell, &mut |_| {}).unwrap()
    };
    let sources = |found: &Dataset| (0..found.len()).map(|i| found.source(i).to_vec()).collect::<Vec<_>>();
    let plain = prepared([None; 2], &config(vec![corpus(&files), corpus(&files)]));
    let data = config(vec![corpus(&files), tagged("<BT>")]);
    for _ in 0..2 {
        let found = prepared([None, Some(9)], &data);
        assert_eq!(sources(&found), [vec![1, 2, 0], vec![3, 3, 3, 0], vec![9, 1, 2, 0], vec![9, 3, 3, 3, 0]]);
        assert_eq!((0..4).map(|i| found.tag(i)).collect::<Vec<_>>(), [None, None, Some(9), Some(9)]);
        assert_eq!((found.target(2).to_vec(), found.tokens().0), (vec![1, 0], 16));
        assert_ne!(found.fingerprint, plain.fingerprint);
    }
    let other = prepared([None, Some(8)], &config(vec![corpus(&files), tagged("<X>")]));
    assert_eq!(sources(&other)[2], [8, 1, 2, 0]);
    let short = DataConfig { max_length: 4, ..data };
    assert_eq!(prepared([None, Some(9)], &short).len(), 3, "a tag counts as a token");
}

#[test]
fn gzip_files_of_several_members_are_read_to_the_end() {
    let f = Folder::new();
    let two = [gz("a\nb\n"), gz("c\n")].concat();
    let de = f.file("t.de", "1\n2\n3\n");
    assert_eq!(read(&[&f.file("t.en.gz", &two), &de]).unwrap().len(), 3);
    let padded = f.file("t.en", [two, vec![0; 512]].concat());
    assert_eq!(read(&[&padded, &de]).unwrap().len(), 3);
    let garbage = f.file("t.en", [gz("a\nb\nc\n"), b"d\n".to_vec()].concat());
    let wanted = "t.en:4: can not read: not a whole gzip file (something else follows its end)";
    assert_eq!(f.message(&read(&[&garbage, &de]).unwrap_err()), wanted);
}

#[test]
fn only_newlines_end_lines() {
    let f = Folder::new();
    let source = f.file("t.en", "\u{FEFF}one\u{2028}two\u{85}\x0B\x0C\0three\r\nfour\rfive\r\nlast");
    let target = f.file("t.de", "a\nb\nc\n");
    let wanted = [pair("one\u{2028}two\u{85}\x0B\x0C\0three", "a"), pair("four\rfive", "b"), pair("last", "c")];
    assert_eq!(read(&[&source, &target]).unwrap(), wanted);
}

#[test]
fn errors_of_text_name_file_line_and_cure() {
    let f = Folder::new();
    let plain = f.file("two.de", "a\nb\n");
    let say = |files: &[&String]| f.message(&read(files).unwrap_err());

    let four = f.file("four.en", "a\nb\nc\nd");
    let unequal = "four.en has 4 lines, two.de has 2: the files must be line-aligned; \
                   the first line without a partner is four.en:3";
    assert_eq!(say(&[&four, &plain]), unequal);
    assert!(say(&[&plain, &four]).starts_with("two.de has 2 lines, four.en has 4: "));

    let utf8 = "bad.en:2: invalid UTF-8 at byte 3 of the line; convert the file, for example with iconv -t UTF-8";
    assert_eq!(say(&[&f.file("bad.en", b"ok\nxy\xFFz\n"), &plain]), utf8);

    let none = f.path().join("none.en").to_str().unwrap().to_string();
    assert_eq!(say(&[&none, &plain]), "can not open none.en: No such file or directory (os error 2)");
    let relative = read(&[&"no/such.en".to_string(), &plain]).unwrap_err().to_string();
    assert!(relative.contains("no/such.en") && relative.contains("(looked for in "), "{relative}");
    let folder = f.path().to_str().unwrap().to_string();
    assert!(read(&[&folder, &plain]).unwrap_err().to_string().contains("is a folder"));

    let (empty, blank) = (f.file("empty.en", ""), f.file("empty.de", ""));
    assert_eq!(say(&[&empty, &blank]), "empty.en is empty: no line of text in it");
    assert!(say(&[&empty, &plain]).starts_with("empty.en has 0 lines, two.de has 2: "));
    assert!(say(&[&f.file("empty.tsv", "")]).contains("empty.tsv is empty"));
    assert!(say(&[&f.file("empty.jsonl", "")]).contains("empty.jsonl is empty"));
    assert!(say(&[&f.file("blank.jsonl", "\n\n")]).contains("blank.jsonl is empty"));

    assert_eq!(say(&[&f.file("t.tsv", "a\tb\nab\n")]), "t.tsv:2: no tab; a line is source<TAB>target");

    let json = |line: &str| say(&[&f.file("t.jsonl", format!("{{\"en\":\"a\",\"de\":\"b\"}}\n{line}\n"))]);
    let names = "; the fields are named by data.source_language and data.target_language";
    assert_eq!(json("{\"en\":\"a\",\"fr\":\"b\"}"), format!("t.jsonl:2: no field \"de\" (there: en, fr){names}"));
    assert_eq!(json("{\"en\":3,\"de\":\"b\"}"), format!("t.jsonl:2: the field \"en\" is not a string{names}"));
    assert!(json("{\"en\":").starts_with("t.jsonl:2:6: not a JSON object: EOF"));
    let surrogate = json("{\"en\":\"ä\",\"de\":\"b\\ud800\"}");
    assert!(surrogate.starts_with("t.jsonl:2:") && !surrogate.contains("line 1"), "{surrogate}");
    assert_eq!(json("7"), "t.jsonl:2: not a JSON object: one object a line is needed");
    let array = say(&[&f.file("a.json", "[\n{\"en\":\"a\",\"de\":\"b\"}\n]")]);
    assert_eq!(
        array,
        "a.json:1: not a JSON object: it begins an array; one object a line is needed, as `jq -c .[]` writes them"
    );

    let fake = read(&[&f.file("fake.en.gz", "a\nb\n"), &plain]).unwrap();
    assert_eq!(fake, [pair("a", "a"), pair("b", "b")], "the name does not decide");
    let whole = gz(&"some words of text\n".repeat(50_000));
    let cut = say(&[&f.file("cut.en.gz", &whole[..whole.len() / 2]), &f.file("many.de", "x\n".repeat(50_000))]);
    assert!(cut.starts_with("cut.en.gz:") && cut.contains(" can not read: not a whole gzip file"), "{cut}");

    let utf16: Vec<u8> = "\u{FEFF}ein\nzwei\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = say(&[&f.file("utf16.en", utf16), &plain]);
    assert_eq!(utf16, "utf16.en: not UTF-8 text but UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8");
    for name in ["a.xml", "a.sgm", "a.tmx.gz"] {
        assert!(say(&[&f.file(name, "a\nb\n"), &plain]).starts_with(&format!("{name}: markup is not read; extract")));
    }
    let mac = say(&[&f.file("mac.en", "a\rb\rc\r"), &f.file("mac.de", "a\rb\rc\r")]);
    assert_eq!(
        mac,
        "mac.en: one line with 2 carriage returns in it, the line ends of old Macs; convert it with tr '\\r' '\\n'"
    );
    let sniffed = say(&[&f.file("dev.en", "\u{FEFF}<?xml version=\"1.0\"?>\n<seg>a</seg>\n"), &plain]);
    assert!(sniffed.starts_with("dev.en: markup is not read"), "{sniffed}");
    assert!(say(&[&f.file("tags.en", "<url>http://a.b</url>\na\n"), &plain]).contains("grep -v"));
    assert!(say(&[&f.file("t.tar.gz", ""), &plain]).starts_with("t.tar.gz: unsupported ending"));

    assert!(say(&[&plain]).starts_with("two.de: unsupported ending; a single file must be .tsv or .jsonl"));
    assert!(say(&[&plain, &f.file("t.parquet", "")]).starts_with("t.parquet: unsupported ending; "));
    assert!(say(&[&f.file("b.tsv", ""), &plain]).starts_with("b.tsv: unsupported ending; two files are plain text"));
    assert!(say(&[&plain, &plain, &plain]).contains("not 3 files"));
}

#[test]
fn the_first_error_ends_the_stream() {
    let f = Folder::new();
    let data = config(vec![corpus(&[&f.file("t.tsv", "a\tb\nc\nd\te\n")])]);
    let found: Vec<bool> = Pairs::open(&data.train.0[0], &data).unwrap().map(|pair| pair.is_ok()).collect();
    assert_eq!(found, [true, false]);
    assert_eq!(text_lines(&data.train, &data, None).filter(Result::is_err).count(), 1);
}

#[test]
fn lines_for_the_tokenizer_are_of_the_side_asked_for() {
    let f = Folder::new();
    let data = config(vec![corpus(&[&f.file("t.tsv", "a\t1\nb\t2\n")]), corpus(&[&f.file("u.tsv", "c\t3\n")])]);
    let lines = |side| text_lines(&data.train, &data, side).collect::<Result<Vec<_>, _>>().unwrap().concat();
    assert_eq!(lines(None), "a1b2c3");
    assert_eq!(lines(Some(Side::Source)), "abc");
    assert_eq!(lines(Some(Side::Target)), "123");
}

#[test]
fn prepared_pairs_come_back_as_encoded_with_what_was_dropped() {
    let f = Folder::new();
    let first = f.file("a.tsv", "aa b\tccc\n \tx\nx\t\n1 2 3 4 5 6\tx\nlast pair\tx y z\n");
    let second = f.file("b.tsv", "x\t1 2 3 4 5 6\ndddd\te\n");
    let data = DataConfig { max_length: 6, ..config(vec![corpus(&[&first]), corpus(&[&second])]) };
    let set = run(&data, &f.path().join("cache")).unwrap();
    let ids = |i: usize| (set.source(i).to_vec(), set.target(i).to_vec());
    assert_eq!(set.len(), 3);
    assert_eq!(ids(0), (vec![2, 1, 0], vec![3, 0]));
    assert_eq!(ids(1), (vec![4, 4, 0], vec![1, 1, 1, 0]));
    assert_eq!(ids(2), (vec![4, 0], vec![1, 0]));
    assert_eq!(set.lengths(1), (3, 4));
    assert_eq!((set.read, set.kept, set.tokens()), (7, 3, (8, 8)));
    assert_eq!((&set.counts[1][..5], set.counts[1].len()), (&[3, 4, 0, 1, 0][..], 1000));
    assert_eq!((set.origin(1), set.origin(2)), ((0, 5), (1, 2)));
    let dropped: Vec<_> = set.dropped.iter().map(|d| (d.reason, d.count, d.first_corpus, d.first_line)).collect();
    let wanted = [(Reason::EmptySource, 1, 0, 2), (Reason::EmptyTarget, 1, 0, 3), (Reason::TooLong, 2, 0, 4)];
    assert_eq!(dropped, wanted);
}

#[test]
fn a_corpus_that_is_filtered_away_is_an_error_with_the_counts() {
    let f = Folder::new();
    let data = DataConfig { max_length: 2, ..config(vec![corpus(&[&f.file("t.tsv", "\tx\na b\tx\na b c\tx\n")])]) };
    let error = run(&data, f.path()).unwrap_err();
    let wanted = "all 3 pairs were dropped: 1 with an empty source (first: t.tsv:1), \
                  2 longer than data.max_length = 2 tokens (first: t.tsv:2)";
    assert_eq!(f.message(&error), wanted);
    assert_eq!(std::fs::read_dir(f.path()).unwrap().count(), 1, "a half-written cache is left");
    let nothing = run(&config(vec![]), f.path()).unwrap_err();
    assert_eq!(nothing.to_string(), "no training text: data.train is empty");
}

#[test]
fn text_is_encoded_again_only_if_its_content_or_the_settings_change() {
    let f = Folder::new();
    let cache = f.path().join("cache");
    let calls = AtomicUsize::new(0);
    let go = |data: &DataConfig, fingerprint: &str| {
        let counting = |side, lines: &[&str]| {
            calls.fetch_add(1, Ordering::Relaxed);
            encode(side, lines)
        };
        let job = Prepare {
            data,
            contents: &Contents::read(data).unwrap(),
            fingerprint,
            vocab_size: 1000,
            spelled: [false; 2],
            tags: &[],
            cache_dir: &cache,
            whole_blocks: false,
        };
        let set = prepare(&job, &counting, &spell, &mut |_| {}).unwrap();
        assert_eq!(set.reused, calls.swap(0, Ordering::Relaxed) == 0);
        set.reused
    };
    let data = config(vec![corpus(&[&f.file("a.tsv", "a\tb\n")])]);
    assert!(!go(&data, "one"));
    assert!(go(&data, "one"));
    assert!(!go(&data, "two"), "another tokenizer");
    assert!(!go(&DataConfig { max_length: 50, ..data.clone() }, "one"), "another filter");
    let moved = config(vec![Corpus { weight: 2.0, ..corpus(&[&f.file("moved.tsv", "a\tb\n")]) }]);
    assert!(go(&moved, "one"), "the same text elsewhere, with another weight");
    let columns = DataConfig { columns: vec![Column::Number(2), Column::Number(1)], ..data.clone() };
    assert!(!go(&columns, "one"), "other columns");
    let time = std::fs::metadata(f.path().join("a.tsv")).unwrap().modified().unwrap();
    f.file("a.tsv", "a\tc\n");
    std::fs::OpenOptions::new().append(true).open(f.path().join("a.tsv")).unwrap().set_modified(time).unwrap();
    assert!(!go(&data, "one"), "another text of the same size and time");
}

#[test]
fn damaged_cache_files_are_found_out_and_made_again() {
    let f = Folder::new();
    let cache = f.path().join("cache");
    let text: String = (0..300).map(|i| format!("a b {i}\tc {i}\n")).collect();
    let data = config(vec![corpus(&[&f.file("a.tsv", text)])]);
    run(&data, &cache).unwrap();
    let path = the_cache_file(&cache);
    let good = std::fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        bytes
    };
    let cases = [
        (good[..good.len() - 1].to_vec(), "it is truncated"),
        (good[..20].to_vec(), "it is shorter than its header"),
        (flipped(17), "its header is damaged"),
        (flipped(100), "its checksum is wrong"),
        (flipped(good.len() - 1), "its checksum is wrong"),
    ];
    for (bytes, what) in cases {
        let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        file.write_all(&bytes).unwrap();
        let set = run(&data, &cache).unwrap();
        assert_eq!((set.damaged, set.reused, set.len()), (Some(what), false, 300));
        assert_eq!(std::fs::read(the_cache_file(&cache)).unwrap(), good);
    }
}

#[cfg(unix)]
#[test]
fn cache_files_are_as_readable_as_other_files() {
    use std::os::unix::fs::PermissionsExt;
    let f = Folder::new();
    let text = f.file("a.tsv", "a\tb\n");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    run(&config(vec![corpus(&[&text])]), &f.path().join("cache")).unwrap();
    assert_eq!(mode(&the_cache_file(&f.path().join("cache"))), mode(Path::new(&text)));
}

#[test]
fn text_that_is_cut_anew_lies_beside_its_ids() {
    let f = Folder::new();
    let data = config(vec![corpus(&[&f.file("a.tsv", "a b\tc\n\tx\nd\te f\n")])]);
    let go = |spelled| {
        let job = Prepare {
            data: &data,
            contents: &Contents::read(&data).unwrap(),
            fingerprint: "words",
            vocab_size: 1000,
            spelled,
            tags: &[],
            cache_dir: f.path(),
            whole_blocks: false,
        };
        prepare(&job, &encode, &spell, &mut |_| {}).unwrap()
    };
    let plain = go([false; 2]);
    for spelled in [[true, false], [false, true], [true, true], [false, false]] {
        for reused in [spelled == [false; 2], true] {
            let set = go(spelled);
            assert_eq!((set.reused, set.len()), (reused, 2));
            assert_eq!(set.fingerprint, plain.fingerprint, "checkpoints know the text, not how it is kept");
            for pair in 0..2 {
                assert_eq!(set.source(pair).to_vec(), plain.source(pair).to_vec());
                assert_eq!(set.target(pair).to_vec(), plain.target(pair).to_vec());
                assert_eq!(set.origin(pair), plain.origin(pair));
                let texts = [(Side::Source, ["a b", "d"]), (Side::Target, ["c", "e f"])];
                for ((side, lines), spelled) in texts.into_iter().zip(spelled) {
                    let wanted = if spelled { format!("{side:?} {}", lines[pair]) } else { String::new() };
                    assert_eq!(set.spelling(side, pair), wanted.as_bytes());
                }
            }
        }
    }
}

#[test]
fn large_vocabularies_take_four_bytes_and_wrong_ids_are_refused() {
    let f = Folder::new();
    let data = config(vec![corpus(&[&f.file("a.tsv", "a\tb\n")])]);
    let ids = |_: Side, lines: &[&str]| Ok(vec![vec![70_000, 65_536, 0]; lines.len()]);
    let go = |vocab_size| {
        let job = Prepare {
            data: &data,
            contents: &Contents::read(&data).unwrap(),
            fingerprint: "",
            vocab_size,
            spelled: [false; 2],
            tags: &[],
            cache_dir: f.path(),
            whole_blocks: false,
        };
        prepare(&job, &ids, &spell, &mut |_| {})
    };
    let set = go(70_001).unwrap();
    assert_eq!(set.source(0).to_vec(), [70_000, 65_536, 0]);
    let wanted =
        "can not encode a.tsv from line 1 on: the tokenizer returned id 70000, outside its vocabulary of 70000";
    assert_eq!(f.message(&go(70_000).unwrap_err()), wanted);
}

#[test]
fn many_blocks_keep_their_order_and_report_progress() {
    let f = Folder::new();
    let n = 40_000;
    let text: String = (0..n).map(|i| format!("{}\tx\n", "a ".repeat(i % 7 + 1))).collect();
    let data = config(vec![corpus(&[&f.file("a.tsv", text)])]);
    let mut seen = Vec::new();
    let job = Prepare {
        data: &data,
        contents: &Contents::read(&data).unwrap(),
        fingerprint: "",
        vocab_size: 10,
        spelled: [false; 2],
        tags: &[],
        cache_dir: f.path(),
        whole_blocks: false,
    };
    let set = prepare(&job, &encode, &spell, &mut |done| seen.push(done)).unwrap();
    assert!(seen.len() > 1 && seen.is_sorted() && seen.last() == Some(&(n as u64)), "{seen:?}");
    assert!((0..n).all(|i| set.lengths(i) == (i % 7 + 2, 2) && set.origin(i) == (0, i as u64 + 1)));
}

#[test]
fn an_epoch_of_a_prepared_corpus_packs_its_pairs() {
    let f = Folder::new();
    let text: String = (0..500).map(|i| format!("{}\t{}\n", "aa ".repeat(i % 9 + 1), "b ".repeat(i % 5 + 1))).collect();
    let data = config(vec![corpus(&[&f.file("a.tsv", text)])]);
    let set = run(&data, f.path()).unwrap();
    let batching = Batching { size: 64, kind: BatchType::Tokens };
    let epoch = Epoch::new(&set, 1, 0, batching);
    let mut seen = vec![0; set.len()];
    for i in 0..epoch.len() {
        let batch = epoch.batch(&set, i);
        assert!(batch.target.tokens() <= 64 && batch.source.tokens() <= 128);
        assert_eq!((batch.source.len(), batch.target.len()), (batch.pairs.len(), batch.pairs.len()));
        for (at, &pair) in batch.pairs.iter().enumerate() {
            assert_eq!(batch.source.get(at), set.source(pair as usize).to_vec());
            assert_eq!(batch.target.get(at), set.target(pair as usize).to_vec());
            seen[pair as usize] += 1;
        }
    }
    assert_eq!(seen, vec![1; set.len()]);
}

#[test]
fn an_unwritable_cache_folder_is_named() {
    let f = Folder::new();
    let data = config(vec![corpus(&[&f.file("a.tsv", "a\tb\n")])]);
    f.file("file", "");
    let error = f.message(&run(&data, &f.path().join("file/cache")).unwrap_err());
    assert!(error.starts_with("can not write the encoded text to file/cache/pairs-"), "{error}");
    assert!(error.ends_with("; data.cache_dir chooses another folder"), "{error}");
}

/// The fingerprint in checkpoints is of the text: it does not change when the files move or are zipped, and is what the
/// first version wrote for plain files (computed by formula with Python's xxhash).
#[test]
fn the_fingerprint_is_of_the_text() {
    let f = Folder::new();
    let (en, de) = ("a b\nc\n", "ä b\nc d\n");
    let go = |files: &[&String]| run(&config(vec![corpus(files)]), &f.path().join("cache")).unwrap();
    let plain = go(&[&f.file("t.en", en), &f.file("t.de", de)]);
    assert_eq!(plain.fingerprint, "pairs-b41b785edec0f0f3edef2ca46bbd160e");
    let zipped = go(&[&f.file("u.en.gz", gz(en)), &f.file("u", gz(de))]);
    assert_eq!(zipped.fingerprint, plain.fingerprint);
    assert!(zipped.is_of(&plain.fingerprint) && plain.is_of(&zipped.fingerprint));
    let again = go(&[&f.file("u.en.gz", gz(en)), &f.file("u", gz(de))]);
    assert!(again.reused && again.fingerprint == plain.fingerprint);
    let other = go(&[&f.file("t.en", "a b\nd\n"), &f.file("t.de", de)]);
    assert!(!other.is_of(&plain.fingerprint));
    let json = go(&[&f.file("t.jsonl", "{\"en\":\"a\",\"de\":\"b\"}\n")]);
    assert_eq!(json.fingerprint, "pairs-1036dee2aef5dd26b95e4875ab8337c2");
}

/// The first version hashed zipped files as they lie; its checkpoints go on with the same files.
#[test]
fn zipped_text_of_the_first_version_is_known_again() {
    let f = Folder::new();
    let zipped = b"\x1F\x8B\x08\x00\x00\x00\x00\x00\x02\x03\x4B\xE4\x4C\xE2\x02\x00\xCE\x94\x11\x1A\x04\x00\x00\x00";
    let set = run(&config(vec![corpus(&[&f.file("t.tsv.gz", zipped)])]), f.path()).unwrap();
    assert!(set.is_of("pairs-6e62a0f731846d0f6a922d900817121d"), "{}", set.fingerprint);
    assert!(!set.is_of("pairs-0"));
}

#[test]
fn line_breaks_inside_fields_become_spaces_and_are_counted() {
    let f = Folder::new();
    let json = f.file(
        "t.jsonl",
        "{\"en\":\"a\",\"de\":\"b\"}\n{\"en\":\"a\\nb\",\"de\":\"c\\r\\nd\\n\"}\n{\"en\":\"e\\u2028f\",\"de\":\"g\\rh\"}\n",
    );
    let tsv = f.file("t.tsv", "a\rb\tc\r\r\n");
    let corpora = config(vec![corpus(&[&tsv]), corpus(&[&json])]);
    let wanted = Joined { count: 5, first_corpus: 0, first_line: 1 };
    let held = held_out(&corpora.train, &corpora).unwrap();
    let pairs = [pair("a b", "c"), pair("a", "b"), pair("a b", "c d"), pair("e\u{2028}f", "g h")];
    assert_eq!((held.pairs, held.joined), (pairs.to_vec(), Some(wanted.clone())));
    for reused in [false, true] {
        let set = run(&corpora, &f.path().join("cache")).unwrap();
        assert_eq!((set.reused, set.joined.as_ref()), (reused, Some(&wanted)));
        assert!(set.fingerprint.ends_with("-2"), "the first version encoded these fields otherwise");
    }
    assert_eq!(
        wanted.describe(&Corpora(vec![corpus(&[&"t.tsv".to_string()])])),
        "5 fields had line breaks inside, now spaces, the first at t.tsv:1"
    );
}

#[cfg(unix)]
#[test]
fn pipes_are_read_where_text_is_read_once() {
    let f = Folder::new();
    let name = f.path().join("pipe").to_str().unwrap().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&name).status().unwrap().success());
    let target = f.file("t.de", "x\n");
    for error in
        [read(&[&name, &target]).unwrap_err(), run(&config(vec![corpus(&[&name, &target])]), f.path()).unwrap_err()]
    {
        assert!(f.message(&error).starts_with("pipe is not a regular file; text is read twice"), "{error}");
    }
    let writer = std::thread::spawn({
        let name = name.clone();
        move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(name).unwrap();
            pipe.write_all(&gz("\u{FEFF}one\ntwo")).unwrap();
        }
    });
    assert_eq!(read_lines(&name).unwrap(), ["one", "two"]);
    writer.join().unwrap();
    assert!(read_lines("-/").is_err());
}
