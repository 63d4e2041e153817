//! The two tokenizers: byte-level BPE of the language model, WordPiece of the retrieval heads.
use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::Tokenizer;

/// Name of the token that ends a text and stands where nothing was said.
const END_OF_TEXT: &str = "<|endoftext|>";

/// Name of the token that stands behind a text which is shorter than its neighbours.
const PADDING: &str = "[PAD]";

/// What the trained model writes where its answer ends.
pub const STOP_TEXT: &str = "###";

/// A tokenizer file that cannot be used, or a text it cannot split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is not a tokenizer of the `tokenizers` library.
    #[error("the tokenizer definition cannot be read")]
    Definition(#[source] tokenizers::Error),
    /// A token that must exist does not.
    #[error("the tokenizer has no token {0:?}")]
    MissingToken(&'static str),
    /// Splitting a text failed.
    #[error("the text cannot be split into tokens")]
    Encode(#[source] tokenizers::Error),
    /// Joining tokens failed.
    #[error("the tokens cannot be joined to a text")]
    Decode(#[source] tokenizers::Error),
}

/// The language model's tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct CaptionTokenizer {
    inner: Arc<Tokenizer>,
    end_of_text: u32,
    stop: Option<u32>,
    vocab_len: usize,
}

impl CaptionTokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        let inner = Tokenizer::from_bytes(json).map_err(TokenizerError::Definition)?;
        let end_of_text = inner.token_to_id(END_OF_TEXT).ok_or(TokenizerError::MissingToken(END_OF_TEXT))?;
        let stop = inner.token_to_id(STOP_TEXT);
        let vocab_len = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Self { inner: Arc::new(inner), end_of_text, stop, vocab_len })
    }

    /// Ids of a text, without any token in front or behind.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(TokenizerError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of an answer with its end mark, as the model was trained to say them.
    pub fn encode_answer(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&format!("{text}{STOP_TEXT}"))
    }

    /// The text of some ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(TokenizerError::Decode)
    }

    /// The bytes that each ordinary token stands for. Special tokens are left out, and what is not spelled in the
    /// alphabet of byte-level tokenizers.
    pub fn token_bytes(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        let alphabet = byte_alphabet();
        let added = self.inner.get_added_tokens_decoder();
        self.inner.get_vocab(true).into_iter().filter_map(move |(text, id)| {
            if let Some(token) = added.get(&id) {
                return (!token.special).then(|| (id, token.content.clone().into_bytes()));
            }
            let bytes = text.chars().map(|letter| alphabet.get(&letter).copied());
            Some((id, bytes.collect::<Option<_>>()?))
        })
    }

    /// Ids there are, the largest plus one; the model's table may have more rows, which mean nothing.
    pub fn vocab_len(&self) -> usize {
        self.vocab_len
    }

    /// The id of `<|endoftext|>`, which is also what the reference calls bos and pad.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The id of `###`, if that is one token.
    pub fn stop_sequence(&self) -> Option<u32> {
        self.stop
    }
}

/// How byte-level tokenizers spell bytes: printable ones as themselves, the others as the letters from U+0100 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut unprintable = 0x100..;
    let spell = |byte: u8| {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let letter = if printable { u32::from(byte) } else { unprintable.next().unwrap_or_default() };
        (char::from_u32(letter).unwrap_or_default(), byte)
    };
    (0..=u8::MAX).map(spell).collect()
}

/// The retrieval heads' tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Arc<Tokenizer>,
    pad: u32,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`; texts are cut to `max_tokens`, `[CLS]` and `[SEP]` included.
    pub fn from_bytes(json: &[u8], max_tokens: usize) -> Result<Self, TokenizerError> {
        let mut inner = Tokenizer::from_bytes(json).map_err(TokenizerError::Definition)?;
        for token in ["[CLS]", "[SEP]"] {
            inner.token_to_id(token).ok_or(TokenizerError::MissingToken(token))?;
        }
        let truncation = tokenizers::TruncationParams { max_length: max_tokens, ..Default::default() };
        inner.with_truncation(Some(truncation)).map_err(TokenizerError::Definition)?;
        inner.with_padding(None);
        let pad = inner.token_to_id(PADDING).unwrap_or(0);
        Ok(Self { inner: Arc::new(inner), pad })
    }

    /// The id that fills texts up to equal length, where that is wanted.
    pub(crate) fn pad(&self) -> u32 {
        self.pad
    }

    /// Ids of a text: `[CLS]`, its pieces, `[SEP]`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, true).map_err(TokenizerError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_bytes_of_all_tokens_are_the_bytes_of_a_text() {
        let json =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model/tokenizer.json")).unwrap();
        let tokenizer = CaptionTokenizer::from_bytes(&json).unwrap();
        let bytes: HashMap<u32, Vec<u8>> = tokenizer.token_bytes().collect();
        assert!(!bytes.contains_key(&tokenizer.end_of_text()));
        let text = "a red star,\t\u{7f}\u{a0}\u{ad} straße 🌊 ###";
        let joined: Vec<u8> =
            tokenizer.encode(text).unwrap().iter().flat_map(|id| bytes[id].clone()).collect();
        assert_eq!(String::from_utf8(joined).unwrap(), text);
    }

    #[test]
    fn padding_has_the_id_that_the_vocabulary_gives_it() {
        let words = r#"{ "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3 }"#;
        let json = format!(
            r###"{{ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {{ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {words} }} }}"###
        );
        assert_eq!(TextTokenizer::from_bytes(json.as_bytes(), 8).unwrap().pad(), 3);
    }
}
