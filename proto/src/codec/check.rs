//! The rules that types alone do not hold.

use std::collections::HashSet;

use serde_json::Value;

use super::version::Version;
use super::{DecodeError, Limits};
use crate::job::{
    CaptionJob, IMAGE_PLACEHOLDER, Job, JobItem, JobKind, MAX_CANDIDATES, Match, Prompt,
    QUESTION_PLACEHOLDER, Query, Question, RerankJob, RerankReply, RerankResult, SearchReply, SearchResult,
    problem_of,
};

const MAX_ETAG_BYTES: usize = 1024;
const MAX_QUESTION_BYTES: usize = 4096;
const MAX_TEMPLATE_BYTES: usize = 16 * 1024;
const MAX_TOKENS: u32 = 4096;
const MAX_NAME_BYTES: usize = 128;

pub(super) fn version(version: Option<&Value>) -> Result<Version, DecodeError> {
    let Some(version) = version else {
        return Err(invalid("version", "is missing: write \"1.0\""));
    };
    let Value::String(text) = version else {
        return Err(DecodeError::UnknownVersion { version: shorten(&version.to_string()) });
    };
    Version::read(text).ok_or_else(|| DecodeError::UnknownVersion { version: shorten(text) })
}

pub(super) fn job(job: &Job, limits: Limits) -> Result<(), DecodeError> {
    if let Some(bundle) = &job.bundle {
        name("bundle", bundle)?;
    }
    name("trace_id", &job.trace_id)?;
    match &job.kind {
        JobKind::Caption(caption) => caption_job(caption, limits),
        JobKind::Search(search) => {
            if let Some(space) = &search.embedding_space {
                name("embedding_space", space)?;
            }
            match &search.query {
                Query::Text { text } => question("query.text", text),
                Query::Image { item } => job_item("query.item", item),
            }
        }
        JobKind::Rerank(rerank) => rerank_job(rerank),
    }
}

fn rerank_job(job: &RerankJob) -> Result<(), DecodeError> {
    question("text", &job.text)?;
    if job.items.is_empty() {
        return Err(invalid("items", "is empty"));
    }
    if job.items.len() > MAX_CANDIDATES {
        return Err(DecodeError::TooManyItems { items: job.items.len(), limit: MAX_CANDIDATES });
    }
    for (at, item) in job.items.iter().enumerate() {
        job_item(&format!("items[{at}]"), item)?;
        if item.sample.is_some() {
            let problem = "is a segment of a video: name a kept frame of it instead";
            return Err(invalid(&format!("items[{at}]"), problem));
        }
    }
    Ok(())
}

pub(super) fn reply(reply: &SearchReply) -> Result<(), DecodeError> {
    if let SearchResult::Ok { embedding, .. } = &reply.result {
        let dim = embedding.first().map_or(0, Vec::len);
        if dim == 0 || embedding.iter().any(|vector| vector.len() != dim) {
            return Err(invalid("embedding", "must be one or more vectors of one length"));
        }
        if embedding.iter().flatten().any(|value| !value.is_finite()) {
            return Err(invalid("embedding", "has a value that is not finite"));
        }
    }
    Ok(())
}

pub(super) fn rerank_reply(reply: &RerankReply) -> Result<(), DecodeError> {
    let RerankResult::Ok { matches, .. } = &reply.result else { return Ok(()) };
    let broken = |one: &Match| matches!(one, Match::Judged { log_odds } if !log_odds.is_finite());
    match matches.iter().position(broken) {
        Some(at) => Err(invalid(&format!("matches[{at}].log_odds"), "is not finite")),
        None => Ok(()),
    }
}

fn caption_job(job: &CaptionJob, limits: Limits) -> Result<(), DecodeError> {
    if job.items.is_empty() {
        return Err(invalid("items", "is empty"));
    }
    if job.items.len() > limits.max_items {
        return Err(DecodeError::TooManyItems { items: job.items.len(), limit: limits.max_items });
    }
    let mut seen = HashSet::with_capacity(job.items.len());
    for (at, item) in job.items.iter().enumerate() {
        job_item(&format!("items[{at}]"), item)?;
        let takes_questions = matches!(job.prompt, Prompt::Questions { .. });
        if !item.questions.is_empty() && !takes_questions {
            return Err(invalid(
                &format!("items[{at}].questions"),
                "need a prompt whose task is \"questions\"",
            ));
        }
        if !seen.insert((&item.uri, item.frame_ms)) {
            return Err(invalid(&format!("items[{at}]"), "is listed twice"));
        }
    }
    segments(&job.items)?;
    if job.max_tokens.is_some_and(|tokens| !(1..=MAX_TOKENS).contains(&tokens)) {
        return Err(invalid("max_tokens", &format!("must be 1 to {MAX_TOKENS}")));
    }
    if job.adapter.as_ref().is_some_and(|adapter| !is_digest(&adapter.sha256)) {
        return Err(invalid("adapter.sha256", "must be 64 lowercase hexadecimal digits"));
    }
    match &job.prompt {
        Prompt::Caption => Ok(()),
        Prompt::Ask { question: text } => question("prompt.question", text),
        Prompt::Questions { questions: asked, template } => {
            questions("prompt.questions", asked)?;
            if asked.is_empty() && job.items.iter().any(|item| item.questions.is_empty()) {
                return Err(invalid("prompt.questions", "is empty, and so are those of an item"));
            }
            template.as_deref().map_or(Ok(()), question_template)
        }
        Prompt::Raw { template } => {
            if template.len() > MAX_TEMPLATE_BYTES {
                return Err(invalid("prompt.template", &format!("has more than {MAX_TEMPLATE_BYTES} bytes")));
            }
            if template.matches(IMAGE_PLACEHOLDER).count() != 1 {
                return Err(invalid(
                    "prompt.template",
                    &format!("must contain {IMAGE_PLACEHOLDER} exactly once"),
                ));
            }
            Ok(())
        }
    }
}

/// Segments of one film share no frame: it would have two rows.
fn segments(items: &[JobItem]) -> Result<(), DecodeError> {
    let mut segments: Vec<_> = items
        .iter()
        .enumerate()
        .filter(|(_, item)| item.sample.is_some())
        .map(|(at, item)| {
            let start = item.frame_ms.unwrap_or_default();
            let end = item.span_ms.map_or(u64::MAX, |span| start.saturating_add(span));
            (item.uri.as_str(), start, end, at)
        })
        .collect();
    segments.sort_unstable();
    for pair in segments.windows(2) {
        let [(film, _, end, _), (other, start, _, at)] = pair else { continue };
        if film == other && start < end {
            return Err(invalid(&format!("items[{at}]"), "overlaps another segment of the same video"));
        }
    }
    Ok(())
}

fn is_digest(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn questions(field: &str, questions: &[Question]) -> Result<(), DecodeError> {
    match problem_of(questions) {
        Some((at, problem)) => Err(invalid(&format!("{field}[{at}]"), problem)),
        None => Ok(()),
    }
}

fn question_template(template: &str) -> Result<(), DecodeError> {
    if template.len() > MAX_TEMPLATE_BYTES {
        return Err(invalid("prompt.template", &format!("has more than {MAX_TEMPLATE_BYTES} bytes")));
    }
    let once = |text: &str| template.matches(text).count() == 1;
    if !once(IMAGE_PLACEHOLDER) || !once(QUESTION_PLACEHOLDER) {
        let both = format!("must contain {IMAGE_PLACEHOLDER} and {QUESTION_PLACEHOLDER} exactly once");
        return Err(invalid("prompt.template", &both));
    }
    Ok(())
}

fn job_item(field: &str, item: &JobItem) -> Result<(), DecodeError> {
    let fail = |name: &str, problem: &str| Err(invalid(&format!("{field}.{name}"), problem));
    if item.etag.as_ref().is_some_and(|etag| etag.len() > MAX_ETAG_BYTES) {
        return fail("etag", &format!("has more than {MAX_ETAG_BYTES} bytes"));
    }
    if item.sha256.as_ref().is_some_and(|digest| !is_digest(digest)) {
        return fail("sha256", "must be 64 lowercase hexadecimal digits");
    }
    // Parquet's integers are signed, so that Spark and others read them.
    for (name, value) in [
        ("size", item.size),
        ("frame_ms", item.frame_ms),
        ("span_ms", item.span_ms),
        ("film_ms", item.film_ms),
    ] {
        if value.is_some_and(|value| i64::try_from(value).is_err()) {
            return fail(name, "is above 2^63 - 1");
        }
    }
    if item.sample.is_none() && (item.frame_ms.is_some() || item.span_ms.is_some()) {
        return fail("frame_ms", "and span_ms belong to segments of videos, which have a `sample`");
    }
    questions(&format!("{field}.questions"), &item.questions)?;
    if let Some(sample) = &item.sample {
        if let Some(problem) = sample.problem() {
            return fail("sample", problem);
        }
        let anchor = sample.anchor_ms();
        let on_anchor = |ms: Option<u64>| ms.is_none_or(|ms| ms.is_multiple_of(anchor));
        if item.frame_ms.is_none() || !on_anchor(item.frame_ms) || !on_anchor(item.span_ms) {
            return fail("frame_ms", &format!("and span_ms of a segment must be multiples of {anchor} ms"));
        }
        if item.span_ms == Some(0) {
            return fail("span_ms", "is 0");
        }
    }
    Ok(())
}

fn question(field: &str, text: &str) -> Result<(), DecodeError> {
    if text.trim().is_empty() {
        return Err(invalid(field, "is empty"));
    }
    if text.len() > MAX_QUESTION_BYTES {
        return Err(invalid(field, &format!("has more than {MAX_QUESTION_BYTES} bytes")));
    }
    Ok(())
}

/// Names end up in log lines, file names and column values.
fn name(field: &str, value: &str) -> Result<(), DecodeError> {
    if value.is_empty() || value.len() > MAX_NAME_BYTES || value.chars().any(char::is_control) {
        return Err(invalid(
            field,
            &format!("must be 1 to {MAX_NAME_BYTES} bytes without control characters"),
        ));
    }
    Ok(())
}

fn invalid(field: &str, problem: &str) -> DecodeError {
    DecodeError::Invalid { field: field.to_owned(), problem: problem.to_owned() }
}

fn shorten(text: &str) -> String {
    text.escape_debug().take(40).collect()
}
