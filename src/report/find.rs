//! The run folders that the user means.

use std::path::{Path, PathBuf};

use crate::exit::InputError;
use crate::run::Paths;

/// Run folders among `paths`: a folder with a config.toml is a run; of any other folder, the runs in it, to the depth of
/// a sweep of sweeps. In the order given, those of one folder by name.
///
/// # Errors
/// A path that is no folder, or one that holds no run.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, InputError> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            return Err(InputError(format!("there is no run folder {}", path.display())));
        }
        let before = found.len();
        collect(path, 2, &mut found).map_err(|e| InputError(format!("{}: {e}", path.display())))?;
        if found.len() == before {
            let path = path.display();
            return Err(InputError(format!("{path} holds no run: neither it nor a folder in it has a config.toml")));
        }
    }
    // A run named twice counts once.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|run: &PathBuf| seen.insert(run.canonicalize().unwrap_or_else(|_| run.clone())));
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    // A line of a sweep that failed before it began has no config; it is told as left out.
    let paths = Paths::of(folder);
    if paths.config().exists() || paths.sweep_line().exists() {
        found.push(folder.to_path_buf());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let mut inside: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    inside.sort();
    for path in inside.iter().filter(|path| path.is_dir()) {
        collect(path, depth - 1, found)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_in_sweeps_and_counted_once() -> Result<(), Box<dyn std::error::Error>> {
        let root = tempfile::tempdir()?;
        for run in ["sweep/b", "sweep/a", "sweep/deep/c", "single"] {
            std::fs::create_dir_all(root.path().join(run))?;
            crate::fsio::write_atomic(&root.path().join(run).join("config.toml"), b"")?;
        }
        std::fs::create_dir_all(root.path().join("sweep/failed"))?;
        crate::fsio::write_atomic(&root.path().join("sweep/failed/sweep.line"), b"")?;
        std::fs::create_dir_all(root.path().join("sweep/cache"))?;
        let names = |paths: &[&str]| -> Result<Vec<String>, InputError> {
            let paths: Vec<PathBuf> = paths.iter().map(|path| root.path().join(path)).collect();
            let found = find(&paths)?;
            let short = found.iter().map(|run| run.strip_prefix(root.path()).unwrap_or(run).display().to_string());
            Ok(short.collect())
        };
        assert_eq!(
            names(&["sweep", "single", "sweep/a"])?,
            ["sweep/a", "sweep/b", "sweep/deep/c", "sweep/failed", "single"]
        );
        assert!(names(&["sweep/cache"]).is_err_and(|e| e.0.contains("holds no run")));
        assert!(names(&["nowhere"]).is_err_and(|e| e.0.contains("there is no run folder")));
        Ok(())
    }
}
