//! A folder of pictures, an archive, and the program.

use captionfleet_world::export::ExportedScene;
use captionfleet_world::{ExportOptions, FileFormat, Split, export};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One test's place.
pub(crate) struct Desk {
    folder: tempfile::TempDir,
}

/// What a command printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The one JSON document of a command that ended with 0.
    pub(crate) fn json(self) -> Value {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self.any_json()
    }

    /// The one JSON document, however the command ended.
    pub(crate) fn any_json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(desk.pictures()).unwrap();
        desk
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pictures(&self) -> PathBuf {
        self.root().join("pictures")
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.root().join("archive")
    }

    /// Draws pictures into `folder`; different seeds draw different pictures with the same names.
    pub(crate) fn draw(folder: &Path, count: usize, seed: u64) -> Vec<ExportedScene> {
        let options = ExportOptions {
            count,
            seed,
            split: Split::Train,
            format: FileFormat::Png,
            distinct: true,
            new_share: 0.0,
        };
        std::fs::create_dir_all(folder).unwrap();
        let scenes = export(&options, folder).unwrap();
        // The list of what is in them would be an item, too.
        std::fs::remove_file(folder.with_extension("jsonl")).unwrap();
        scenes
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAPTIONFLEET_")) {
            command.env_remove(name);
        }
        let output = command.args(arguments).current_dir(self.root()).output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `caption pictures --archive archive --json` with more arguments.
    pub(crate) fn caption(&self, more: &[&str]) -> Ran {
        let fixed = ["caption", "pictures", "--archive", "archive", "--json", "--admin-addr", "off"];
        self.run(fixed.iter().chain(more))
    }

    pub(crate) fn verify(&self) -> Ran {
        self.run(["verify", "--archive", "archive", "--json"])
    }

    /// The parts of the archive.
    pub(crate) fn parts(&self) -> Vec<PathBuf> {
        below(&self.archive().join("parts"))
    }

    /// All rows of the archive.
    pub(crate) fn rows(&self) -> Vec<captionfleet_proto::rows::Row> {
        Self::rows_of(&self.archive())
    }

    /// All rows of an archive.
    pub(crate) fn rows_of(archive: &Path) -> Vec<captionfleet_proto::rows::Row> {
        below(&archive.join("parts")).iter().flat_map(|part| Self::rows_in(part)).collect()
    }

    /// The rows of a part.
    pub(crate) fn rows_in(part: &Path) -> Vec<captionfleet_proto::rows::Row> {
        let bytes = std::fs::read(part).unwrap();
        captionfleet_proto::rows::read_part(bytes.into(), captionfleet_proto::rows::Projection::All).unwrap()
    }
}

/// All files below a folder, in order; none where there is no such folder.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}
