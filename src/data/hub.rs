//! Files named `hf://…`: from the local cache of the Hugging Face Hub, else downloaded into it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha1::{Digest, Sha1};
use sha2::Sha256;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Why an `hf://` name did not become a file.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("{name}: not a name of a file on the Hub ({what}); write hf://datasets/OWNER/NAME[@REVISION]/FILE for data, hf://OWNER/NAME[@REVISION]/FILE for models")]
    Name { name: String, what: &'static str },
    #[error("{name}: no file {file} in {repo} at revision {revision}{there}")]
    NoFile { name: String, file: String, repo: String, revision: String, there: String },
    #[error("{name}: {repo} has no revision {revision}")]
    NoRevision { name: String, repo: String, revision: String },
    #[error("{name}: {endpoint} has no repository {repo}")]
    NoRepository { name: String, endpoint: String, repo: String },
    #[error("{name}: {endpoint} denies access to {repo} (status {status}): {cure}")]
    Denied { name: String, endpoint: String, repo: String, status: u16, cure: &'static str },
    #[error("{name} is not in the local cache {cache} and HF_HUB_OFFLINE is set", cache = cache.display())]
    Offline { name: String, cache: PathBuf },
    #[error("{name} is not in the local cache {cache} and can not be fetched from {endpoint}: {what}", cache = cache.display())]
    Unreachable { name: String, cache: PathBuf, endpoint: String, what: String },
    #[error("{name}: what {endpoint} sent is not the file that it announced (its hash is not {announced}), and was deleted here; try again")]
    Damaged { name: String, endpoint: String, announced: String },
    #[error("{name}: neither HF_HOME nor a home folder is set; HF_HOME chooses where downloads are kept")]
    NoHome { name: String },
}

/// A local path for `name`: itself, or if it begins with `hf://` the cached or downloaded file. A cached copy is used
/// without asking the network, so `main` stays what it was at the first download.
pub fn resolve(name: &str) -> Result<PathBuf, HubError> {
    if !name.starts_with("hf://") {
        return Ok(PathBuf::from(name));
    }
    Hub::from_env(name)?.resolve(name)
}

/// Where to fetch from and where to keep what was fetched.
#[derive(Clone, Debug)]
pub struct Hub {
    pub endpoint: String,
    /// The folder `hub` in HF_HOME.
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
}

impl Hub {
    /// HF_ENDPOINT, HF_HOME, HF_TOKEN (else the token that `hf auth login` stored) and HF_HUB_OFFLINE.
    fn from_env(name: &str) -> Result<Self, HubError> {
        let set = |key| std::env::var(key).ok().filter(|value| !value.is_empty());
        if std::env::var_os("HF_HOME").is_none() && std::env::home_dir().is_none() {
            return Err(HubError::NoHome { name: name.to_string() });
        }
        let cache = Cache::from_env();
        Ok(Hub {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_string()),
            token: set("HF_TOKEN").or_else(|| cache.token()),
            cache: cache.path().clone(),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str())),
        })
    }

    /// The cached or downloaded file of an `hf://` name.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, HubError> {
        let wanted = Wanted::parse(name).map_err(|what| HubError::Name { name: name.to_string(), what })?;
        let repo = wanted.repo(wanted.revision);
        let cached = Cache::new(self.cache.clone()).repo(repo.clone());
        let by_commit = cached.pointer_path(wanted.revision).join(wanted.file);
        if let Some(path) = cached.get(wanted.file).or_else(|| by_commit.exists().then_some(by_commit)) {
            return Ok(path);
        }
        if self.offline {
            return Err(HubError::Offline { name: name.to_string(), cache: self.cache.clone() });
        }
        let api = self.api(repo).map_err(|e| self.unreachable(name, &e))?;
        let path = api.download(wanted.file).map_err(|e| self.explain(name, &wanted, &api, &e))?;
        self.check(name, &path)?;
        Ok(path)
    }

    /// Whether a file that was just downloaded is what the Hub announced. The library does not look, and it goes on with what
    /// an earlier try left behind.
    fn check(&self, name: &str, path: &Path) -> Result<(), HubError> {
        // the library keeps the content under its tag, to which the file's name is a link
        let Ok(content) = path.canonicalize() else { return Ok(()) };
        let announced = content.file_name().unwrap_or_default().to_string_lossy().to_string();
        if is_announced(&content, &announced).unwrap_or(false) {
            return Ok(());
        }
        for file in [path, &content] {
            let _ = fs::remove_file(file);
        }
        Err(HubError::Damaged { name: name.to_string(), endpoint: self.endpoint.clone(), announced })
    }

    fn api(&self, repo: Repo) -> Result<ApiRepo, ApiError> {
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.trim_end_matches('/').to_string())
            .with_token(self.token.clone())
            .with_progress(false)
            .build()?;
        Ok(api.repo(repo))
    }

    /// The Hub answers 404 for a missing file, revision and repository alike; further questions tell them apart.
    fn explain(&self, name: &str, wanted: &Wanted, api: &ApiRepo, error: &ApiError) -> HubError {
        if status(error) != Some(404) {
            return self.refused(name, wanted, error);
        }
        let (name, repo) = (name.to_string(), wanted.id.to_string());
        match api.info() {
            Ok(info) => {
                let files: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
                let (file, revision) = (wanted.file.to_string(), wanted.revision.to_string());
                HubError::NoFile { name, file, repo, revision, there: listing(&files) }
            }
            Err(e) if status(&e) != Some(404) => self.refused(&name, wanted, &e),
            Err(_) => match self.api(wanted.repo(MAIN)).and_then(|api| api.info()) {
                Ok(_) => HubError::NoRevision { name, repo, revision: wanted.revision.to_string() },
                Err(_) => HubError::NoRepository { name, endpoint: self.endpoint.clone(), repo },
            },
        }
    }

    fn refused(&self, name: &str, wanted: &Wanted, error: &ApiError) -> HubError {
        let Some(status @ (401 | 403)) = status(error) else { return self.unreachable(name, error) };
        let cure = match self.token {
            None => {
                "it is private, needs its terms accepted, or does not exist; set HF_TOKEN to a token that may read it"
            }
            Some(_) => "the token in use (HF_TOKEN) may not read it, or it does not exist",
        };
        let (name, repo) = (name.to_string(), wanted.id.to_string());
        HubError::Denied { name, endpoint: self.endpoint.clone(), repo, status, cure }
    }

    fn unreachable(&self, name: &str, error: &ApiError) -> HubError {
        let what = match error {
            ApiError::MissingHeader(header) => format!("the answer lacks the header {header}; is it a Hub?"),
            other => other.to_string(),
        };
        HubError::Unreachable {
            name: name.to_string(),
            cache: self.cache.clone(),
            endpoint: self.endpoint.clone(),
            what,
        }
    }
}

/// Whether a file has the hash that is its tag: SHA-256 of large files, git's SHA-1 of small ones. Other servers have other
/// tags, which say nothing.
fn is_announced(file: &Path, tag: &str) -> io::Result<bool> {
    let hexadecimal = tag.chars().all(|c| c.is_ascii_hexdigit());
    let hash = match tag.len() {
        64 if hexadecimal => hash::<Sha256>(file, Sha256::new())?,
        40 if hexadecimal => {
            let size = file.metadata()?.len();
            hash(file, Sha1::new_with_prefix(format!("blob {size}\0")))?
        }
        _ => return Ok(true),
    };
    Ok(hash == tag.to_lowercase())
}

fn hash<D: Digest + io::Write>(file: &Path, mut hasher: D) -> io::Result<String> {
    io::copy(&mut File::open(file)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The status in an error of the client library, which shows it only in its text.
fn status(error: &ApiError) -> Option<u16> {
    let ApiError::RequestError(inner) = error else { return None };
    inner.to_string().strip_prefix("http status: ")?.parse().ok()
}

fn listing(files: &[&str]) -> String {
    const SHOWN: usize = 8;
    if files.is_empty() {
        return String::new();
    }
    let more = if files.len() > SHOWN { ", …" } else { "" };
    format!("; there are {}{more}", files[..files.len().min(SHOWN)].join(", "))
}

/// The parts of an `hf://` name.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    dataset: bool,
    /// OWNER/NAME.
    id: &'a str,
    revision: &'a str,
    file: &'a str,
}

const MAIN: &str = "main";

impl<'a> Wanted<'a> {
    fn parse(name: &'a str) -> Result<Self, &'static str> {
        let rest = name.strip_prefix("hf://").ok_or("it does not begin with hf://")?;
        let (dataset, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (owner, after) = rest.split_once('/').ok_or("it has no OWNER/NAME")?;
        let end = after.find(['/', '@']).ok_or("it names no file")?;
        let id = &rest[..owner.len() + 1 + end];
        let (revision, file) = match after[end..].strip_prefix('@') {
            None => (MAIN, &after[end + 1..]),
            // refs/pr/N and refs/convert/NAME are single revisions.
            Some(tail) => {
                let slashes = if tail.starts_with("refs/") { 3 } else { 1 };
                let (at, _) = tail.match_indices('/').nth(slashes - 1).ok_or("it names no file")?;
                (&tail[..at], &tail[at + 1..])
            }
        };
        let plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let proper = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !id.split('/').chain(revision.split('/')).all(|part| plain(part) && proper(part)) {
            return Err("owner, name and revision are letters, digits and . _ -");
        }
        if !file.split('/').all(proper) || file.contains(|c: char| c.is_whitespace() || "?#%\\".contains(c)) {
            return Err("the file's path is empty or has parts that can not be fetched");
        }
        Ok(Wanted { dataset, id, revision, file })
    }

    fn repo(&self, revision: &str) -> Repo {
        let kind = if self.dataset { RepoType::Dataset } else { RepoType::Model };
        Repo::with_revision(self.id.to_string(), kind, revision.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_kind_a_repository_a_revision_and_a_file() {
        let data = Wanted::parse("hf://datasets/me/news/data/a.en.gz").unwrap();
        assert_eq!(data, Wanted { dataset: true, id: "me/news", revision: "main", file: "data/a.en.gz" });
        let model = Wanted::parse("hf://me/mt@v1.0/tokenizer.json").unwrap();
        assert_eq!(model, Wanted { dataset: false, id: "me/mt", revision: "v1.0", file: "tokenizer.json" });
        let request = Wanted::parse("hf://me/mt@refs/pr/3/tokenizer.json").unwrap();
        assert_eq!((request.revision, request.file), ("refs/pr/3", "tokenizer.json"));
        for wrong in [
            "hf://me",
            "hf://me/mt",
            "hf://me/mt/",
            "hf://me/mt@v1",
            "hf://me/../x",
            "hf://me/mt/a/../b",
            "hf://me/mt/a?b",
        ] {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_names_are_paths() {
        assert_eq!(resolve("data/a.en").unwrap(), PathBuf::from("data/a.en"));
    }
}
