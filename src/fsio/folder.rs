//! Folders that appear whole: built beside, synced, renamed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{fault, sync_parent, temp_sibling, write_synced, Error, Result};

/// A folder under construction; dropped without [`NewFolder::commit`], it disappears.
#[derive(Debug)]
pub struct NewFolder {
    temp: PathBuf,
    target: PathBuf,
}

impl NewFolder {
    /// Begins `target`, beside it; folders above are made as needed.
    ///
    /// # Errors
    /// When the folder can not be made.
    pub fn begin(target: &Path) -> Result<Self> {
        let temp = temp_sibling(target);
        fs::create_dir_all(&temp).map_err(|e| Error::io("create the folder", &temp, e))?;
        fault::folder_begins();
        Ok(NewFolder { temp, target: target.to_path_buf() })
    }

    /// Where its files are until it is committed.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Writes one file of it and waits for the disk.
    ///
    /// # Errors
    /// When it can not be written; names the file by its final path.
    pub fn file(&self, name: &str, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        write_synced(&self.temp.join(name), content).map_err(|e| Error::io("write", &self.target.join(name), e))
    }

    /// Gives the folder its name, in place of one that may be there, and waits for the disk.
    ///
    /// # Errors
    /// When syncing or renaming fails; a folder that was there before is then still there.
    pub fn commit(self) -> Result<()> {
        fs::File::open(&self.temp)
            .and_then(|dir| dir.sync_all())
            .and_then(|()| if self.target.exists() { self.replace() } else { fs::rename(&self.temp, &self.target) })
            .map_err(|e| Error::io("create", &self.target, e))?;
        sync_parent(&self.target)
    }

    /// Swaps in one step where the system can, so that no moment is without a folder; drop deletes the old one.
    fn replace(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{renameat_with, RenameFlags, CWD};
            if renameat_with(CWD, &self.temp, CWD, &self.target, RenameFlags::EXCHANGE).is_ok() {
                return Ok(());
            }
        }
        let old = temp_sibling(&self.target);
        fs::rename(&self.target, &old)?;
        fs::rename(&self.temp, &self.target)?;
        fs::remove_dir_all(&old)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temp);
    }
}

/// Deletes a folder so that a crash never leaves half of it under its name.
///
/// # Errors
/// When it can not be renamed or deleted.
pub fn remove_folder(path: &Path) -> Result<()> {
    let temp = temp_sibling(path);
    fs::rename(path, &temp).and_then(|()| fs::remove_dir_all(&temp)).map_err(|e| Error::io("delete", path, e))
}

#[cfg(test)]
mod tests {
    use super::super::{list, read};
    use super::*;

    #[test]
    fn a_folder_appears_only_when_committed_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/step-1");
        for content in [b"one", b"two"] {
            let folder = NewFolder::begin(&target).unwrap();
            folder.file("x", |out| out.write_all(content)).unwrap();
            folder.commit().unwrap();
            assert_eq!(read(&target.join("x")).unwrap(), content);
            assert_eq!(list(&dir.path().join("a")).unwrap(), std::slice::from_ref(&target));
        }
        let abandoned = NewFolder::begin(&target).unwrap();
        abandoned.file("x", |out| out.write_all(b"three")).unwrap();
        drop(abandoned);
        assert_eq!(read(&target.join("x")).unwrap(), b"two");
        remove_folder(&target).unwrap();
        assert!(list(&dir.path().join("a")).unwrap().is_empty());
    }
}
