//! The files of a model: a folder, or a repository of the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::data::{self, HubError};
use crate::exit::InputError;

const HUB: &str = "hf://";

/// A folder whose files have fixed names, so that nothing in one of them can lead out of it.
pub(super) enum Folder {
    Local(PathBuf),
    /// `hf://OWNER/NAME`, perhaps with `@REVISION`.
    Hub(String),
}

impl Folder {
    /// Of a path or an `hf://` name.
    ///
    /// # Errors
    /// An `hf://` name that is not that of a repository of models.
    pub(super) fn named(name: &str) -> Result<Self, InputError> {
        let Some(repository) = name.strip_prefix(HUB) else { return Ok(Folder::Local(PathBuf::from(name))) };
        // a revision may have slashes of its own
        let (id, _) = repository.split_once('@').unwrap_or((repository, ""));
        let is_id =
            matches!(id.split('/').collect::<Vec<_>>()[..], [owner, name] if !owner.is_empty() && !name.is_empty());
        match is_id {
            true => Ok(Folder::Hub(name.to_string())),
            false => Err(InputError(format!(
                "{name}: not the name of a model on the Hub; write {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION"
            ))),
        }
    }

    /// One of its files, downloaded if need be; `None` where it has none of that name.
    ///
    /// # Errors
    /// A repository that can not be reached or does not exist.
    pub(super) fn file(&self, name: &str) -> Result<Option<PathBuf>> {
        match self {
            Folder::Local(path) => Ok(Some(path.join(name)).filter(|file| file.is_file())),
            Folder::Hub(repository) => match data::resolve(&format!("{repository}/{name}")) {
                Ok(path) => Ok(Some(path)),
                // offline, what is not in the cache may still be on the Hub; the files that a model needs are asked for again
                Err(HubError::NoFile { .. } | HubError::Offline { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// As [`Folder::file`], of a file that must be there.
    ///
    /// # Errors
    /// Also when it is not there.
    pub(super) fn needed(&self, name: &str) -> Result<PathBuf> {
        match self {
            Folder::Local(path) => Ok(path.join(name)),
            Folder::Hub(repository) => Ok(data::resolve(&format!("{repository}/{name}"))?),
        }
    }

    /// The folder itself, where it is one.
    pub(super) fn local(&self) -> Option<&Path> {
        match self {
            Folder::Local(path) => Some(path),
            Folder::Hub(_) => None,
        }
    }
}
