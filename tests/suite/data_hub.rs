//! `hf://` files against a local server that answers as the Hub does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use nmt_train::data::{resolve, Hub};

use super::toy::Toy;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Git's hash of "good\n", and SHA-256 of "large\n".
const GOOD: &str = "12799ccbe7ce445b11b7bd4833bcc2c2ce1b48b7";
const LARGE: &str = "9bfce334a37bd1bc1d36b0370195b31fe9a9389dd43d0873891a3544ef1140a1";

struct Server {
    endpoint: String,
    /// Paths asked for.
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves until the process ends.
    fn start() -> Self {
        Self::with_model(None)
    }

    /// Also has the files of this folder as the model me/mt.
    fn with_model(folder: Option<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (requests, address) = (Arc::clone(&log), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &requests, &address, folder.as_deref());
            }
        });
        Server { endpoint, log }
    }

    fn hub(&self, cache: &tempfile::TempDir) -> Hub {
        Hub { endpoint: self.endpoint.clone(), cache: cache.path().join("hub"), token: None, offline: false }
    }
}

/// One request a connection. There are the dataset me/news with a branch `dev` and a large file that lives elsewhere, and
/// the private model me/secret.
fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>, endpoint: &str, model: Option<&Path>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let path = request.split(' ').nth(1).unwrap_or("/").to_string();
    log.lock().unwrap().push(path.clone());
    let content = match path.as_str() {
        "/datasets/me/news/resolve/main/data/a.en" => "one\ntwo\n",
        "/datasets/me/news/resolve/dev/data/a.en" => "dev\n",
        "/datasets/me/news/resolve/main/good" => "good\n",
        "/datasets/me/news/resolve/main/bad" => "goof\n",
        "/cdn/large.gz" => "large\n",
        "/cdn/bad.gz" => "larger\n",
        "/me/secret/resolve/main/tokenizer.json" if header("authorization:") == Some("bearer right") => "{}",
        "/api/datasets/me/news/revision/main" => {
            "{\"siblings\": [{\"rfilename\": \"data/a.en\"}, {\"rfilename\": \"large.gz\"}], \"sha\": \"0\"}"
        }
        "/api/models/me/mt/revision/main" => "{\"siblings\": [], \"sha\": \"0\"}",
        _ => "",
    };
    let of_model = path.strip_prefix("/me/mt/resolve/main/").zip(model).map(|(file, model)| model.join(file));
    let content = of_model.and_then(|file| std::fs::read(file).ok()).unwrap_or(content.into());
    let size = content.len();
    let start: usize = header("range: bytes=").and_then(|r| r.split('-').next()?.parse().ok()).unwrap_or(0);
    let end = if header("range:") == Some("bytes=0-0") { 1 } else { size };
    let commit = if path.contains("/dev/") { COMMIT.replace('0', "f") } else { COMMIT.to_string() };
    let tag = match path.rsplit('/').next() {
        Some("good" | "bad") => GOOD.to_string(),
        _ => format!("e{size}"),
    };
    let repo = format!("x-repo-commit: {commit}\r\n");
    let (status, extra, body) = match path.as_str() {
        "/datasets/me/news/resolve/main/large.gz" | "/datasets/me/news/resolve/main/bad.gz" => {
            let file = path.rsplit('/').next().unwrap();
            let to = format!("x-linked-etag: \"{LARGE}\"\r\nlocation: {endpoint}/cdn/{file}\r\n");
            ("302 Found", repo + &to, &[][..])
        }
        "/me/secret/resolve/main/tokenizer.json" if size == 0 => match header("authorization:") {
            None => ("401 Unauthorized", "x-error-code: GatedRepo\r\n".to_string(), &[][..]),
            Some(_) => ("403 Forbidden", String::new(), &[][..]),
        },
        _ if size == 0 => ("404 Not Found", "x-error-code: EntryNotFound\r\n".to_string(), &[][..]),
        api if api.starts_with("/api/") => ("200 OK", String::new(), &content[..]),
        _ => (
            "206 Partial Content",
            format!("{repo}etag: \"{tag}\"\r\ncontent-range: bytes {start}-{}/{size}\r\n", end - 1),
            &content[start..end],
        ),
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{extra}content-length: {length}\r\n\r\n");
    // At once: the client follows a redirect, and closes, as soon as it has read the location.
    stream.write_all(&[answer.as_bytes(), body].concat()).unwrap();
}

const NEWS: &str = "hf://datasets/me/news/data/a.en";

#[test]
fn files_are_downloaded_once_and_then_found_without_a_network() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let hub = server.hub(&cache);
    let text = |hub: &Hub, name: &str| std::fs::read_to_string(hub.resolve(name).unwrap()).unwrap();
    assert_eq!(text(&hub, NEWS), "one\ntwo\n");
    assert_eq!(text(&hub, "hf://datasets/me/news@dev/data/a.en"), "dev\n");
    assert_eq!(text(&hub, "hf://datasets/me/news/large.gz"), "large\n");
    let requests = server.log.lock().unwrap().len();
    assert_eq!(text(&hub, NEWS), "one\ntwo\n");
    assert_eq!(server.log.lock().unwrap().len(), requests, "the cached file was asked for");

    let gone = Hub { endpoint: "http://127.0.0.1:1".to_string(), ..hub.clone() };
    assert_eq!(text(&gone, NEWS), "one\ntwo\n");
    assert_eq!(text(&gone, &format!("hf://datasets/me/news@{COMMIT}/data/a.en")), "one\ntwo\n");
    let error = gone.resolve("hf://datasets/me/news/b.en").unwrap_err().to_string();
    let wanted = format!("hf://datasets/me/news/b.en is not in the local cache {}", hub.cache.display());
    assert!(error.starts_with(&wanted) && error.contains("http://127.0.0.1:1"), "{error}");
    let offline = Hub { offline: true, ..hub };
    assert_eq!(text(&offline, NEWS), "one\ntwo\n");
    let error = offline.resolve("hf://datasets/me/news/b.en").unwrap_err().to_string();
    assert!(error.ends_with("and HF_HUB_OFFLINE is set"), "{error}");
}

#[test]
fn what_comes_is_what_was_announced() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let hub = server.hub(&cache);
    assert!(hub.resolve("hf://datasets/me/news/good").is_ok());
    for file in ["bad", "bad.gz"] {
        let name = format!("hf://datasets/me/news/{file}");
        // what was refused is not found in the cache at the next try
        for _ in 0..2 {
            let error = hub.resolve(&name).unwrap_err().to_string();
            assert!(error.starts_with(&name) && error.contains("is not the file that it announced"), "{error}");
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let hub = server.hub(&cache);
    let say = |name: &str| hub.resolve(name).unwrap_err().to_string().replace(&hub.endpoint, "ENDPOINT");
    let file = "hf://datasets/me/news/b.en: no file b.en in me/news at revision main; there are data/a.en, large.gz";
    assert_eq!(say("hf://datasets/me/news/b.en"), file);
    let revision = "hf://datasets/me/news@v9/data/a.en: me/news has no revision v9";
    assert_eq!(say("hf://datasets/me/news@v9/data/a.en"), revision);
    let repository = "hf://datasets/me/nothing/a.en: ENDPOINT has no repository me/nothing";
    assert_eq!(say("hf://datasets/me/nothing/a.en"), repository);
    assert!(say("hf://datasets/me/news").contains("write hf://datasets/OWNER/NAME[@REVISION]/FILE"));
}

#[test]
fn private_files_need_the_right_token() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let name = "hf://me/secret/tokenizer.json";
    let with = |token: Option<&str>| Hub { token: token.map(str::to_string), ..server.hub(&cache) };
    let none = with(None).resolve(name).unwrap_err().to_string();
    assert!(none.contains("(status 401)") && none.contains("set HF_TOKEN"), "{none}");
    let wrong = with(Some("wrong")).resolve(name).unwrap_err().to_string();
    assert!(wrong.contains("(status 403)") && wrong.contains("the token in use (HF_TOKEN) may not read it"), "{wrong}");
    assert_eq!(std::fs::read_to_string(with(Some("right")).resolve(name).unwrap()).unwrap(), "{}");
}

#[test]
fn the_environment_names_endpoint_cache_and_token() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let child = |token: Option<&str>, offline: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "data_hub::child_reads_a_private_file_as_its_environment_says"]);
        command.env("HF_HOME", cache.path()).env("HF_ENDPOINT", &server.endpoint).env("HF_HUB_OFFLINE", offline);
        match token {
            Some(token) => command.env("HF_TOKEN", token),
            None => command.env_remove("HF_TOKEN"),
        };
        command.output().unwrap().status.success()
    };
    assert!(!child(None, "0"));
    assert!(!child(Some("right"), "1"));
    assert!(child(Some("right"), "0"));
    assert!(child(None, "1"), "the cached copy is not found");
    assert!(cache.path().join("hub/models--me--secret").is_dir());
}

#[test]
#[ignore = "run by the test above in a process of its own"]
fn child_reads_a_private_file_as_its_environment_says() {
    assert_eq!(std::fs::read_to_string(resolve("hf://me/secret/tokenizer.json").unwrap()).unwrap(), "{}");
}

#[test]
fn a_model_is_imported_and_trained_on_from_the_hub() {
    let toy = Toy::trained();
    toy.run("export run --format huggingface --out hf").exits(0);
    let (server, cache) = (Server::with_model(Some(toy.path("hf"))), tempfile::tempdir().unwrap());
    let home = cache.path().to_str().unwrap().to_string();
    let online = [("HF_ENDPOINT", server.endpoint.as_str()), ("HF_HOME", &home)];
    let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", home.as_str())];
    toy.run_with("import hf://me/mt --out in", b"", &online)
        .exits(0)
        .tells(&["weights of hf://me/mt, model.safetensors"]);
    assert_eq!(
        toy.pipe("translate in", "the dog sees a tree").exits(0).out,
        toy.pipe("translate run", "the dog sees a tree").out
    );
    let config = toy.read("toy.toml");
    let (before, rest) = config.split_once("[tokenizer]").unwrap();
    toy.write("tune.toml", format!("{before}[train]{}", rest.split_once("[train]").unwrap().1));
    let tune = "--config tune.toml --set model.init_from=hf://me/mt --set run_dir=on --set train.max_updates=1";
    toy.run_with(tune, b"", &offline).exits(0).tells(&["begins with", "weights of hf://me/mt"]);
    toy.run_with("import hf://me/mt --out off", b"", &offline).exits(0);
    let told = toy.run_with("import hf://me/none --out none", b"", &online).exits(3);
    told.tells(&["hf://me/none/config.json", "has no repository me/none"]);
    assert!(!toy.exists("none"));
}
