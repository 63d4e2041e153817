//! A folder with everything below it.
//!
//! Every file that is not hidden counts, whatever its name: a text file among the pictures ends as a failed row rather
//! than unnoticed. Symbolic links are followed: a link to a file is an item of its own name; a folder is listed once,
//! under its real name where that lies in the tree, so that loops end.

use super::{LocalRules, has_picture_extension};
use captionfleet_proto::layout;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

/// What was found under a name.
#[derive(Debug)]
pub(super) enum Entry {
    /// A file.
    File(PathBuf),
    /// Something that cannot even be looked at.
    Unreadable(PathBuf, io::Error),
}

impl Entry {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Unreadable(path, _) => path,
        }
    }
}

impl LocalRules {
    /// Whether a file found below a folder or by a pattern counts.
    pub(super) fn takes(&self, path: &Path) -> bool {
        !self.pictures_only || has_picture_extension(&path.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Whether `folder` (resolved) belongs to the archive.
    fn is_own(&self, folder: &Path, root: &Path) -> bool {
        let Some(archive) = &self.archive else {
            return false;
        };
        if root.starts_with(archive) {
            // The source is the archive's own folder: its objects stay out, the pictures beside them count.
            return layout::TOP_FOLDERS.iter().any(|name| folder == archive.join(name));
        }
        folder == archive
    }
}

/// Adds every file below `root`, ordered by name. Fails only when `root` itself cannot be read.
pub(super) fn walk(root: &Path, rules: &LocalRules, entries: &mut Vec<Entry>) -> io::Result<()> {
    let real_root = root.canonicalize()?;
    let rules = LocalRules {
        archive: rules
            .archive
            .as_ref()
            .map(|archive| archive.canonicalize().unwrap_or_else(|_| archive.clone())),
        ..rules.clone()
    };
    let mut walk = Walk { rules, real_root, ..Walk::default() };
    walk.list(root)?;
    while let Some(folder) = walk.next_folder() {
        match walk.list(&folder) {
            Ok(()) => {}
            Err(error) => walk.found.push(Entry::Unreadable(folder, error)),
        }
    }
    walk.found.sort_by(|one, other| one.path().cmp(other.path()));
    entries.append(&mut walk.found);
    Ok(())
}

#[derive(Default)]
struct Walk {
    rules: LocalRules,
    real_root: PathBuf,
    /// Folders to be listed, by their real names.
    folders: Vec<PathBuf>,
    /// Links to folders: they wait until every real folder is listed.
    links: VecDeque<PathBuf>,
    listed: HashSet<PathBuf>,
    found: Vec<Entry>,
}

impl Walk {
    fn next_folder(&mut self) -> Option<PathBuf> {
        self.folders.pop().or_else(|| self.links.pop_front())
    }

    /// Lists one folder; nothing happens when it was listed before or belongs to the archive.
    fn list(&mut self, folder: &Path) -> io::Result<()> {
        let real = folder.canonicalize()?;
        if self.rules.is_own(&real, &self.real_root) || !self.listed.insert(real) {
            return Ok(());
        }
        let mut names = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| (entry.file_name(), entry.file_type())))
            .collect::<io::Result<Vec<_>>>()?;
        // The order decides which of two links to the same folder gives the name.
        names.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, kind) in names {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = folder.join(&name);
            match kind {
                Ok(kind) if kind.is_symlink() => self.add_link(path),
                Ok(kind) if kind.is_dir() => self.folders.push(path),
                Ok(kind) if kind.is_file() => self.add_file(path),
                Ok(_) => {}
                Err(error) => self.found.push(Entry::Unreadable(path, error)),
            }
        }
        Ok(())
    }

    fn add_link(&mut self, path: PathBuf) {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => self.links.push_back(path),
            Ok(metadata) if metadata.is_file() => self.add_file(path),
            Err(error) if self.rules.takes(&path) => self.found.push(Entry::Unreadable(path, error)),
            Ok(_) | Err(_) => {}
        }
    }

    fn add_file(&mut self, path: PathBuf) {
        if self.rules.takes(&path) {
            self.found.push(Entry::File(path));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Entry, walk};
    use crate::catalog::LocalRules;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn names(root: &Path, rules: &LocalRules) -> Vec<String> {
        let mut entries = Vec::new();
        walk(root, rules, &mut entries).unwrap();
        entries
            .iter()
            .map(|entry| {
                let mark = if matches!(entry, Entry::Unreadable(..)) { "!" } else { "" };
                format!("{mark}{}", entry.path().strip_prefix(root).unwrap().display())
            })
            .collect()
    }

    fn write(root: &Path, name: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }

    #[test]
    fn every_visible_file_counts_once() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b.png", "a/x y.jpg", "a/notes.txt", ".hidden.png", ".git/c.png", "ü/z"] {
            write(root.path(), name);
        }
        assert_eq!(names(root.path(), &LocalRules::default()), ["a/notes.txt", "a/x y.jpg", "b.png", "ü/z"]);
        let pictures = LocalRules { pictures_only: true, ..LocalRules::default() };
        assert_eq!(names(root.path(), &pictures), ["a/x y.jpg", "b.png"]);
    }

    #[test]
    fn links_are_followed_and_loops_end() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(root.path(), "deep/a.png");
        write(outside.path(), "o.png");
        symlink("deep/a.png", root.path().join("alias.png")).unwrap();
        symlink("nowhere", root.path().join("broken.png")).unwrap();
        symlink("self", root.path().join("self")).unwrap();
        symlink("..", root.path().join("deep/up")).unwrap();
        symlink("deep", root.path().join("again")).unwrap();
        symlink(outside.path(), root.path().join("out1")).unwrap();
        symlink(outside.path(), root.path().join("out2")).unwrap();
        assert_eq!(
            names(root.path(), &LocalRules::default()),
            ["alias.png", "!broken.png", "deep/a.png", "out1/o.png", "!self"]
        );
    }

    #[test]
    fn the_archive_is_no_source() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.png", "archive/parts/r/j.parquet", "archive/b.png"] {
            write(root.path(), name);
        }
        let inside = LocalRules { archive: Some(root.path().join("archive")), ..LocalRules::default() };
        assert_eq!(names(root.path(), &inside), ["a.png"]);
        let same = LocalRules { archive: Some(root.path().join("archive")), ..LocalRules::default() };
        assert_eq!(names(&root.path().join("archive"), &same), ["b.png"]);
    }

    #[test]
    fn a_closed_folder_is_an_item_that_fails() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "closed/a.png");
        write(root.path(), "b.png");
        let closed = root.path().join("closed");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let readable_anyway = fs::read_dir(&closed).is_ok();
        let names = names(root.path(), &LocalRules::default());
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
        // The superuser may read everything.
        if readable_anyway {
            assert_eq!(names, ["b.png", "closed/a.png"]);
        } else {
            assert_eq!(names, ["b.png", "!closed"]);
        }
    }
}
