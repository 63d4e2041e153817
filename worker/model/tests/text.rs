//! Tokens, prompts and stops on the goldens' tokenizers.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use captionfleet_model::{
    CaptionTokenizer, PromptTokens, StopCondition, StopReason, TextTokenizer, clean_caption,
};
use serde_json::Value;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn tokenizer() -> CaptionTokenizer {
    CaptionTokenizer::from_bytes(&std::fs::read(golden("tokenizer/tokenizer.json")).unwrap()).unwrap()
}

fn meta() -> Value {
    serde_json::from_slice(&std::fs::read(golden("golden_meta.json")).unwrap()).unwrap()
}

#[test]
fn every_tokenizer_case_of_the_goldens() {
    let tokenizer = tokenizer();
    let meta = meta();
    let cases = meta["tokenizer_cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        // Special tokens are left out of decoded text; all else comes back as it was.
        assert_eq!(tokenizer.decode(&ids).unwrap(), text.replace("<|endoftext|>", ""));
    }
    assert_eq!(Some(u64::from(tokenizer.end_of_text())), meta["special"]["eos"].as_u64());
    assert_eq!(tokenizer.stop_sequence().map(u64::from), meta["special"]["###"].as_u64());
    assert_eq!(tokenizer.vocab_len(), 480);
}

#[test]
fn no_merge_crosses_the_picture() {
    let tokenizer = tokenizer();
    let prompt = PromptTokens::new(&tokenizer, "###Human: <Img><ImageHere></Img> describe").unwrap();
    assert_eq!(prompt.before, tokenizer.encode("###Human: <Img>").unwrap());
    assert_eq!(prompt.after, tokenizer.encode("</Img> describe").unwrap());
    assert_eq!(prompt.len_with(8), prompt.before.len() + 8 + prompt.after.len());
}

#[test]
fn a_text_is_cut_to_its_limit_with_both_ends() {
    let json = std::fs::read(golden("checkpoint/blip2-itm-vit-g/tokenizer.json")).unwrap();
    let whole = TextTokenizer::from_bytes(&json, 64).unwrap().encode("Two people near the water").unwrap();
    let cut = TextTokenizer::from_bytes(&json, 4).unwrap().encode("Two people near the water").unwrap();
    assert_eq!((whole[0], *whole.last().unwrap()), (2, 3));
    assert_eq!(cut, [2, whole[1], whole[2], 3]);
}

fn run(text: &str, limit: usize) -> (Option<StopReason>, usize) {
    let tokenizer = tokenizer();
    let mut condition = StopCondition::new(&tokenizer, limit);
    for token in tokenizer.encode(text).unwrap() {
        if let Some(reason) = condition.push(token).unwrap() {
            return (Some(reason), condition.tokens().len());
        }
    }
    (None, condition.tokens().len())
}

#[test]
fn a_sequence_stops_at_its_mark_however_it_is_said() {
    // "###" alone is one token, "?###" another, "# # #" none of it.
    assert_eq!(run("###", 50), (Some(StopReason::StopSequence), 1));
    assert_eq!(run("?###", 50), (Some(StopReason::StopSequence), 1));
    assert_eq!(run("a dog# # #", 50).0, None);
    assert_eq!(run("a dog<|endoftext|>", 50).0, Some(StopReason::EndOfText));
    assert_eq!(run("the red dog is near a blue tree", 4), (Some(StopReason::MaxTokens), 4));
    let tokenizer = tokenizer();
    let mut pieces = StopCondition::new(&tokenizer, 50);
    let hash = tokenizer.encode("#").unwrap();
    assert_eq!(hash.len(), 1);
    assert_eq!(pieces.push(hash[0]).unwrap(), None);
    assert_eq!(pieces.push(hash[0]).unwrap(), None);
    assert_eq!(pieces.push(hash[0]).unwrap(), Some(StopReason::StopSequence));
}

#[test]
fn the_answer_is_what_stands_between_the_marks() {
    assert_eq!(clean_caption(" a red dog ###Human: and?"), "a red dog");
    assert_eq!(clean_caption("Human: hi ###Assistant: no"), "Human: hi");
    assert_eq!(clean_caption("x Assistant: a dog"), "a dog");
    assert_eq!(clean_caption("x [/INST] a dog "), "a dog");
    assert_eq!(clean_caption(""), "");
}
