//! What the files below `deploy/` name exists in the programs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use captionfleet_tests::fleet::{dispatcher, worker};

/// Settings that are read from the environment alone, and so stand in no `--help`.
const WITHOUT_FLAG: [&str; 3] = ["CAPTIONFLEET_CACHE", "CAPTIONFLEET_LOG", "CAPTIONFLEET_TOKEN"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Words of `text` that begin with `start` and go on in letters that `belongs` accepts.
fn words(text: &str, start: &str, belongs: fn(char) -> bool) -> BTreeSet<String> {
    let found = text.match_indices(start).map(|(at, _)| {
        let word: String = text[at..].chars().take_while(|&letter| belongs(letter)).collect();
        word.trim_end_matches(['_', '-']).to_owned()
    });
    found.collect()
}

fn deployed() -> String {
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy"), &mut paths);
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variable_is_read_by_a_program() {
    let mut help = String::new();
    for command in ["run", "bench", "doctor", "pack", "evaluate"] {
        help += &worker([command, "--help"]).await.unwrap().success().unwrap().stdout;
    }
    for command in ["caption", "search", "serve", "verify", "status", "plan", "retry"] {
        help += &dispatcher([command, "--help"]).await.unwrap().success().unwrap().stdout;
    }
    let is_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let named = words(&deployed(), "CAPTIONFLEET_", is_name);
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        // Secrets are shown without `=`, and the text is wrapped anywhere before the name.
        let shown = ["=", "]"].iter().any(|end| help.contains(&format!("{name}{end}")));
        let known = shown || WITHOUT_FLAG.contains(&name.as_str());
        assert!(known, "deploy/ names {name}, which no program reads");
    }
}

/// Containers of Kubernetes and of the compose file name their command as a list on one line.
#[tokio::test(flavor = "multi_thread")]
async fn every_flag_is_known_to_its_command() {
    let serve = dispatcher(["serve", "--help"]).await.unwrap().success().unwrap().stdout;
    let run = worker(["run", "--help"]).await.unwrap().success().unwrap().stdout;
    let mut commands = 0;
    for line in deployed().lines().map(str::trim) {
        let Some((_, list)) = line.split_once("args: [").or_else(|| line.split_once("command: [")) else {
            continue;
        };
        let help = match list.split([',', ']']).next() {
            Some("serve") => &serve,
            Some("run") => &run,
            // Somebody else's program.
            _ => continue,
        };
        commands += 1;
        for flag in words(list, "--", |letter| letter.is_ascii_lowercase() || letter == '-') {
            assert!(help.contains(&format!("{flag} ")), "deploy/ names {flag} in `{line}`");
        }
    }
    assert!(commands >= 3, "{commands}");
}

/// Metrics that dashboards and alerts rely on.
pub(crate) fn metrics() -> BTreeSet<String> {
    words(&deployed(), "captionfleet_worker_", |letter| letter.is_ascii_lowercase() || letter == '_')
}
