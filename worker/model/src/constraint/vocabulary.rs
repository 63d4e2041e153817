//! The bytes of all tokens, as a tree.

use std::collections::BTreeMap;

use super::state::State;
use crate::CaptionTokenizer;

/// The bytes that every token stands for.
#[derive(Debug)]
pub struct Vocabulary {
    bytes: Vec<Option<Box<[u8]>>>,
    /// Depth first; a node's first child follows it.
    nodes: Vec<Node>,
    ends: Vec<u32>,
    longest: usize,
}

#[derive(Debug)]
struct Node {
    byte: u8,
    /// The token that ends here.
    token: Option<u32>,
    /// The first node behind this one's subtree.
    next: usize,
}

impl Vocabulary {
    /// The tokens of a byte-level tokenizer. Special tokens, and those of another make, say nothing.
    pub fn new(tokenizer: &CaptionTokenizer) -> Self {
        let mut bytes: Vec<Option<Box<[u8]>>> = vec![None; tokenizer.vocab_len()];
        let mut ends = vec![tokenizer.end_of_text()];
        let mut sorted = BTreeMap::new();
        for (id, text) in tokenizer.token_bytes() {
            // An answer ends at `###`, with a blank in front or without, and at the end of its line.
            let blankless = text.strip_prefix(b" ").unwrap_or(&text);
            if blankless.starts_with(b"###") || text.starts_with(b"\n") {
                ends.push(id);
            }
            if text.is_empty() {
                continue;
            }
            // Of two tokens of the same bytes the smaller id says them.
            let known = sorted.entry(text.clone()).or_insert(id);
            *known = id.min(*known);
            bytes[id as usize] = Some(text.into());
        }
        ends.sort_unstable();
        ends.dedup();
        let longest = sorted.keys().map(Vec::len).max().unwrap_or(0);
        let mut nodes = Vec::new();
        let sorted: Vec<(Vec<u8>, u32)> = sorted.into_iter().collect();
        grow(&sorted, 0, &mut nodes);
        Self { bytes, nodes, ends, longest }
    }

    /// Tokens that end an answer, ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The bytes of a token.
    pub fn bytes(&self, token: u32) -> Option<&[u8]> {
        self.bytes.get(token as usize)?.as_deref()
    }

    /// The tokens all of whose bytes `step` takes, one after the other, from `state` on.
    pub fn leading_on(&self, state: &State, step: impl Fn(&State, u8) -> Option<State>) -> Vec<u32> {
        let mut tokens = Vec::new();
        // States of the nodes above, each with the end of its subtree.
        let mut above: Vec<(usize, State)> = Vec::new();
        let mut at = 0;
        while let Some(node) = self.nodes.get(at) {
            while above.last().is_some_and(|(end, _)| *end <= at) {
                above.pop();
            }
            let before = above.last().map_or(state, |(_, state)| state);
            let Some(after) = step(before, node.byte) else {
                at = node.next;
                continue;
            };
            tokens.extend(node.token);
            above.push((node.next, after));
            at += 1;
        }
        tokens
    }
}

/// Adds the subtree of `sorted`, whose texts agree in their first `depth` bytes.
fn grow(sorted: &[(Vec<u8>, u32)], depth: usize, nodes: &mut Vec<Node>) {
    let mut rest = sorted;
    while let Some((first, _)) = rest.first() {
        let byte = first[depth];
        let count = rest.partition_point(|(text, _)| text[depth] <= byte);
        let (mut group, others) = rest.split_at(count);
        let token = (group[0].0.len() == depth + 1).then(|| group[0].1);
        if token.is_some() {
            group = &group[1..];
        }
        let at = nodes.len();
        nodes.push(Node { byte, token, next: 0 });
        grow(group, depth + 1, nodes);
        nodes[at].next = nodes.len();
        rest = others;
    }
}
