//! The published files of TinyGPT-V: where they come from, and where to put them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// A file that someone else publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedFile {
    /// where it goes below the checkpoint folder
    pub local: &'static str,
    /// where it comes from
    pub location: PublishedLocation,
    /// size in bytes, where it is known beforehand; sums are not published and are recorded on arrival
    pub bytes: Option<u64>,
}

/// Where a published file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedLocation {
    /// A repository on the Hugging Face hub.
    Hub {
        /// `owner/name`
        repository: &'static str,
        /// The commit, or `main` where the publisher has only ever had one version; whoever fetches
        /// records the commit that `main` stood for.
        revision: &'static str,
        /// path inside the repository
        file: &'static str,
    },
    /// A plain download.
    Url(&'static str),
}

const fn hub(
    local: &'static str,
    (repository, revision): (&'static str, &'static str),
    file: &'static str,
    bytes: Option<u64>,
) -> PublishedFile {
    PublishedFile { local, location: PublishedLocation::Hub { repository, revision, file }, bytes }
}

/// The overlays of all four stages.
const TINYGPT_V: (&str, &str) = ("Tyrannosaurus/TinyGPT-V", "main");
/// Phi-2 in the split layout; pinned, because earlier commits have other layouts.
const PHI_2: (&str, &str) = ("microsoft/phi-2", "ef382358ec9e382308935a992d908de099b64c23");
/// The contrastive and matching heads.
const RETRIEVAL: (&str, &str) = ("Salesforce/blip2-itm-vit-g", "main");

/// Files that every stage needs.
const SHARED: [PublishedFile; 10] = [
    PublishedFile {
        local: "eva_vit_g.pth",
        location: PublishedLocation::Url(
            "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
        ),
        bytes: None,
    },
    PublishedFile {
        local: "blip2_pretrained_flant5xxl.pth",
        location: PublishedLocation::Url(
            "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/blip2_pretrained_flant5xxl.pth",
        ),
        bytes: None,
    },
    hub("phi-2/config.json", PHI_2, "config.json", None),
    hub("phi-2/tokenizer.json", PHI_2, "tokenizer.json", None),
    hub("phi-2/model.safetensors.index.json", PHI_2, "model.safetensors.index.json", None),
    hub("phi-2/model-00001-of-00002.safetensors", PHI_2, "model-00001-of-00002.safetensors", None),
    hub("phi-2/model-00002-of-00002.safetensors", PHI_2, "model-00002-of-00002.safetensors", None),
    hub("blip2-itm-vit-g/config.json", RETRIEVAL, "config.json", None),
    hub("blip2-itm-vit-g/tokenizer.json", RETRIEVAL, "tokenizer.json", None),
    hub("blip2-itm-vit-g/model.safetensors", RETRIEVAL, "model.safetensors", None),
];

/// The overlay of one stage (1 to 4). Stage 4 was uploaded twice, with and without a trained Q-Former;
/// both are read, so its size is not fixed here.
fn stage_file(stage: u8) -> PublishedFile {
    match stage {
        1 => hub("TinyGPT-V_for_Stage1.pth", TINYGPT_V, "TinyGPT-V_for_Stage1.pth", Some(165_963_356)),
        2 => hub("TinyGPT-V_for_Stage2.pth", TINYGPT_V, "TinyGPT-V_for_Stage2.pth", None),
        3 => hub("TinyGPT-V_for_Stage3.pth", TINYGPT_V, "TinyGPT-V_for_Stage3.pth", None),
        _ => hub("TinyGPT-V_for_Stage4.pth", TINYGPT_V, "TinyGPT-V_for_Stage4.pth", None),
    }
}

/// All files for one stage (1 to 4), retrieval heads included.
pub fn published_files(stage: u8) -> Vec<PublishedFile> {
    let mut files = SHARED.to_vec();
    files.insert(2, stage_file(stage));
    files
}

/// Which of the published files `folder` lacks. The weights of Phi-2 may be there in any layout.
pub fn missing_files(folder: &Path, stage: u8) -> Vec<PublishedFile> {
    let phi = folder.join("phi-2");
    let has_phi_weights = ["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"]
        .iter()
        .any(|name| phi.join(name).is_file());
    let is_missing = |file: &PublishedFile| {
        let replaceable = file.local.starts_with("phi-2/model");
        !(folder.join(file.local).is_file() || replaceable && has_phi_weights)
    };
    published_files(stage).into_iter().filter(is_missing).collect()
}

/// The files lie in `folder`, or an error that says which to put where.
pub fn require_files(folder: &Path, stage: u8) -> Result<(), CheckpointError> {
    let missing = missing_files(folder, stage);
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} published files are missing; put", missing.len());
    for file in missing {
        let place: PathBuf = folder.join(file.local);
        let _ = match file.location {
            PublishedLocation::Hub { repository, revision, file } => {
                write!(text, "\n  {file} of huggingface.co/{repository} ({revision}) to {}", place.display())
            }
            PublishedLocation::Url(url) => write!(text, "\n  {url} to {}", place.display()),
        };
    }
    Err(CheckpointError::MissingFiles(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_its_origin_and_its_place() {
        let folder = tempfile::tempdir().unwrap();
        for file in published_files(3).iter().filter(|file| file.local != "eva_vit_g.pth") {
            let path = folder.path().join(file.local);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let error = require_files(folder.path(), 3).unwrap_err().to_string();
        assert!(error.starts_with("1 published files are missing"), "{error}");
        assert!(error.contains("LAVIS/models/BLIP2/eva_vit_g.pth to "), "{error}");
        let error = require_files(folder.path(), 2).unwrap_err().to_string();
        assert!(
            error.contains("TinyGPT-V_for_Stage2.pth of huggingface.co/Tyrannosaurus/TinyGPT-V"),
            "{error}"
        );
    }

    #[test]
    fn another_layout_of_phi_2_will_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("phi-2")).unwrap();
        std::fs::write(folder.path().join("phi-2/pytorch_model.bin"), b"x").unwrap();
        let missing = missing_files(folder.path(), 1);
        assert!(missing.iter().all(|file| !file.local.starts_with("phi-2/model")));
        assert!(missing.iter().any(|file| file.local == "phi-2/config.json"));
    }
}
