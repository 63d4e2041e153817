//! Whatever bytes come from outside, the answer is a value or an error: no panic, no flood, no surprise.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use bytes::Bytes;
use captionfleet_proto::codec::{self, DecodeError, Limits, MAX_MESSAGE_BYTES};
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, JobKind, RunId};
use captionfleet_proto::manifest::read_items;
use captionfleet_proto::rows::{Projection, TableError, read_embeddings, read_keys, read_part};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use proptest::prelude::*;
use serde_json::{Value, json};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap()
}

/// The smallest job that another program may publish.
fn minimal() -> Value {
    json!({
        "version": "1.0", "id": "j", "run": "r", "archive": "s3://bucket/archive", "kind": "caption",
        "items": [{"uri": "s3://bucket/a.jpg"}],
    })
}

fn decode(value: &Value) -> Result<Job, DecodeError> {
    codec::decode_job(value.to_string().as_bytes())
}

/// The minimal job with one field set, or removed if null.
fn with(pointer: &str, value: Value) -> Value {
    let mut job = minimal();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = job.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(name)
    } else {
        parent.insert(name.to_owned(), value)
    };
    job
}

#[test]
fn the_smallest_job_is_enough() {
    let job = decode(&minimal()).unwrap();
    assert_eq!(job.trace_id, "j", "traced by its own id");
    let JobKind::Caption(caption) = &job.kind else { panic!("a caption job") };
    assert_eq!(caption, &CaptionJob::new(vec![JobItem::new(ItemUri::s3("bucket", "a.jpg"))]));
    assert!(job.extra.is_empty(), "known fields are no extra fields");
}

#[test]
fn fields_of_later_minor_versions_are_kept() {
    let mut later = with("/version", json!("1.7"));
    later["priority"] = json!({"deep": [1, {"er": null}]});
    later["items"][0]["licence"] = json!("CC-BY");
    let job = decode(&later).unwrap();
    let again: Value = serde_json::from_slice(&codec::encode_job(&job).unwrap()).unwrap();
    assert_eq!(again["priority"], later["priority"]);
    assert_eq!(again["items"][0]["licence"], "CC-BY");
    assert_eq!(again["version"], "1.7");
    assert_eq!(decode(&again).unwrap(), job);
    let mut outcome: Value = serde_json::from_slice(&golden("outcome.json")).unwrap();
    outcome["humour"] = json!(12.5);
    let decoded = codec::decode_outcome(outcome.to_string().as_bytes()).unwrap();
    let again: Value = serde_json::from_slice(&codec::encode_outcome(&decoded).unwrap()).unwrap();
    assert_eq!(again["humour"], 12.5);
}

#[test]
fn other_major_versions_are_told_before_anything_else() {
    for version in [
        json!("2.0"),
        json!("0.9"),
        json!("10.0"),
        json!("v1"),
        json!("1.x"),
        json!(1),
        json!(""),
        json!("1.0.0"),
    ] {
        let foreign = json!({"version": version, "items": "nothing like ours"});
        let error = decode(&foreign).unwrap_err();
        assert!(matches!(error, DecodeError::UnknownVersion { .. }), "{version}: {error:?}");
        assert_eq!(error.code(), "message_unknown_version");
    }
    assert!(decode(&with("/version", json!("1"))).is_ok());
    let error = decode(&with("/version", Value::Null)).unwrap_err();
    assert!(matches!(error, DecodeError::Invalid { ref field, .. } if field == "version"), "{error:?}");
}

#[test]
fn what_a_later_minor_version_says_is_left_to_whoever_knows_it() {
    let later = |pointer: &str, value: Value| {
        let mut job = with(pointer, value);
        job["version"] = json!("1.7");
        decode(&job).unwrap_err()
    };
    let unread = [
        later("/kind", json!("train")),
        later("/prompt", json!({"task": "haiku"})),
        later("/items/0/etag", json!("e".repeat(2000))),
    ];
    for error in unread {
        assert!(
            matches!(error, DecodeError::LaterVersion { ref version, .. } if version == "1.7"),
            "{error:?}"
        );
        assert_eq!(error.code(), "message_unknown_version");
    }
    // Of this version it is simply wrong, and what no version could mean is malformed in any.
    assert_eq!(decode(&with("/kind", json!("train"))).unwrap_err().code(), "message_malformed");
    let error = codec::decode_job(b"{\"version\": \"1.7\", ").unwrap_err();
    assert_eq!(error.code(), "message_malformed");
}

#[test]
fn every_rule_has_its_code() {
    let sample = json!({"by": "interval", "every_us": 1_000_000, "min_change": 0.04});
    let sha256 = "ab".repeat(32);
    for (pointer, value, code) in [
        ("/id", Value::Null, "message_malformed"),
        ("/id", json!("a/b"), "message_malformed"),
        ("/id", json!(".."), "message_malformed"),
        ("/id", json!(""), "message_malformed"),
        ("/id", json!("x".repeat(81)), "message_malformed"),
        ("/run", json!(".hidden"), "message_malformed"),
        ("/archive", json!("relative/folder"), "message_malformed"),
        ("/archive", json!("https://host/x"), "message_malformed"),
        ("/kind", json!("train"), "message_malformed"),
        ("/kind", json!("search"), "message_malformed"),
        ("/kind", Value::Null, "message_malformed"),
        ("/query", json!({"type": "text", "text": "x"}), "message_malformed"),
        ("/items", Value::Null, "message_malformed"),
        ("/items", json!([]), "message_invalid"),
        ("/items", json!({"uri": "s3://b/a"}), "message_malformed"),
        ("/items", json!([{"uri": "s3://b/a"}, {"uri": "s3://b/%61"}]), "message_invalid"),
        ("/items", json!([{"uri": "http://host/a.jpg"}]), "message_malformed"),
        ("/items", json!([{"uri": "file:///a/../../etc/shadow"}]), "message_malformed"),
        ("/items", json!([{"uri": "s3://b/a", "sha256": "zz"}]), "message_invalid"),
        ("/items", json!([{"uri": "s3://b/a", "sha256": sha256.to_uppercase()}]), "message_invalid"),
        ("/items", json!([{"uri": "s3://b/a", "size": -1}]), "message_malformed"),
        ("/items", json!([{"uri": "s3://b/a", "size": u64::MAX}]), "message_invalid"),
        ("/items", json!([{"uri": "s3://b/a", "span_ms": 5}]), "message_invalid"),
        ("/items", json!([{"uri": "s3://b/a", "frame_ms": 1}]), "message_invalid"),
        ("/items", json!([{"uri": "s3://b/a", "frame_ms": 1, "sample": sample}]), "message_invalid"),
        (
            "/items",
            json!([
                {"uri": "s3://b/a", "frame_ms": 60_000, "sample": sample},
                {"uri": "s3://b/a", "frame_ms": 0, "span_ms": 60_001, "sample": sample},
            ]),
            "message_invalid",
        ),
        ("/items", json!([{"uri": "s3://b/a", "etag": "x".repeat(1025)}]), "message_invalid"),
        ("/prompt", json!("caption"), "message_malformed"),
        ("/prompt", json!({"task": "sing"}), "message_malformed"),
        ("/prompt", json!({"task": "ask"}), "message_malformed"),
        ("/prompt", json!({"task": "ask", "question": " \n"}), "message_invalid"),
        ("/prompt", json!({"task": "ask", "question": "x".repeat(4097)}), "message_invalid"),
        ("/prompt", json!({"task": "raw", "template": "no picture"}), "message_invalid"),
        ("/prompt", json!({"task": "raw", "template": "<ImageHere><ImageHere>"}), "message_invalid"),
        (
            "/prompt",
            json!({"task": "raw", "template": "<ImageHere>".to_owned() + &"x".repeat(16_384)}),
            "message_invalid",
        ),
        ("/max_tokens", json!(0), "message_invalid"),
        ("/max_tokens", json!(4097), "message_invalid"),
        ("/max_tokens", json!("many"), "message_malformed"),
        ("/embed", json!("yes"), "message_malformed"),
        ("/bundle", json!(""), "message_invalid"),
        ("/bundle", json!("a\nb"), "message_invalid"),
        ("/trace_id", json!("x".repeat(129)), "message_invalid"),
        ("/deadline", json!("soon"), "message_malformed"),
        ("/text", json!("a boat"), "message_malformed"),
    ] {
        let error = decode(&with(pointer, value.clone())).expect_err(&format!("{pointer} = {value}"));
        assert_eq!(error.code(), code, "{pointer} = {value}: {error}");
        let text = error.to_string();
        assert!(text.len() < 700 && !text.chars().any(char::is_control), "one short line: {text}");
    }
    for (pointer, value) in [
        (
            "/items",
            json!([
                {"uri": "s3://b/a", "frame_ms": 0, "span_ms": 60_000, "sample": sample},
                {"uri": "s3://b/a", "frame_ms": 60_000, "sample": sample},
            ]),
        ),
        ("/prompt", json!({"task": "ask", "question": "Was ist das? 日本"})),
        ("/bundle", Value::Null),
        ("/max_tokens", json!(4096)),
        ("/deadline", json!("2026-01-31T12:00:30Z")),
    ] {
        decode(&with(pointer, value)).unwrap();
    }
}

#[test]
fn candidates_are_few_pictures_and_a_text() {
    let picture = json!({"uri": "s3://b/a.jpg"});
    let sample = json!({"by": "interval", "every_us": 1_000_000, "min_change": 0.04});
    let segment = json!({"uri": "s3://b/a.mp4", "frame_ms": 0, "sample": sample});
    let rerank = |text: Value, items: Value| {
        json!({
            "version": "1.0", "id": "j", "run": "r", "archive": "s3://b", "kind": "rerank",
            "text": text, "items": items,
        })
    };
    assert!(decode(&rerank(json!("a boat"), json!([picture]))).is_ok());
    for (text, items, code) in [
        (Value::Null, json!([picture]), "message_malformed"),
        (json!(" "), json!([picture]), "message_invalid"),
        (json!("x".repeat(4097)), json!([picture]), "message_invalid"),
        (json!("a boat"), Value::Null, "message_malformed"),
        (json!("a boat"), json!([]), "message_invalid"),
        (json!("a boat"), json!([segment]), "message_invalid"),
        (json!("a boat"), json!(vec![picture; 257]), "message_too_many_items"),
    ] {
        let error = decode(&rerank(text, items)).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let odds = json!({"version": "1.0", "job": "j", "status": "ok", "bundle": "b", "matches": [
        {"status": "ok", "log_odds": 1e39},
    ]});
    assert!(codec::decode_rerank_reply(odds.to_string().as_bytes()).is_err(), "no number is infinite");
}

#[test]
fn a_job_that_others_would_refuse_is_not_written() {
    let ids = || (JobId::new("j").unwrap(), RunId::new("r").unwrap(), ArchiveUri::parse("s3://b").unwrap());
    let (id, run, archive) = ids();
    let empty = Job::caption(id, run, archive, CaptionJob::new(Vec::new()));
    assert_eq!(codec::encode_job(&empty).unwrap_err().code(), "message_invalid");
    let many = (0..10_001).map(|at| JobItem::new(ItemUri::s3("b", &at.to_string()))).collect();
    let (id, run, archive) = ids();
    let error = codec::encode_job(&Job::caption(id, run, archive, CaptionJob::new(many))).unwrap_err();
    assert_eq!(error, DecodeError::TooManyItems { items: 10_001, limit: 10_000 });
    let long =
        (0..2000).map(|at| JobItem::new(ItemUri::s3("b", &format!("{}{at}", "x".repeat(900))))).collect();
    let (id, run, archive) = ids();
    let error = codec::encode_job(&Job::caption(id, run, archive, CaptionJob::new(long))).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { .. }), "{error:?}");
}

#[test]
fn size_and_depth_are_bounded() {
    let flood = vec![b' '; MAX_MESSAGE_BYTES + 1];
    assert_eq!(codec::decode_job(&flood).unwrap_err().code(), "message_too_large");
    let many = json!({"version": "1.0", "items": vec![0; 300_000]});
    assert_eq!(decode(&many).unwrap_err().code(), "message_malformed");
    let items: Vec<Value> = (0..12_000).map(|at| json!({"uri": format!("s3://b/{at}")})).collect();
    assert_eq!(decode(&with("/items", json!(items))).unwrap_err().code(), "message_too_many_items");
    let body = with("/items", json!(items[..3])).to_string();
    let limits = Limits { max_items: 2, ..Limits::default() };
    assert_eq!(
        codec::decode_job_within(body.as_bytes(), limits).unwrap_err().code(),
        "message_too_many_items"
    );
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"version\":\"1.0\",\"x\":{}{}}}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(codec::decode_job(deep.as_bytes()).unwrap_err().code(), "message_malformed");
    }
    for garbage in [
        &b""[..],
        b"null",
        b"[]",
        b"\xff\xfe",
        b"{",
        b"{\"version\":\"1.0\"} trailing",
        b"{\"version\":\"1.0\",\"id\":\"\xff\"}",
    ] {
        assert!(codec::decode_job(garbage).is_err());
    }
}

/// All readers of tables, on the same bytes. The parquet crate's own panics are caught, but would be shown.
fn read_all(bytes: &Bytes) -> [Result<usize, TableError>; 4] {
    [
        read_part(bytes.clone(), Projection::All).map(|rows| rows.len()),
        read_keys(bytes.clone()).map(|keys| keys.len()),
        read_embeddings(bytes.clone()).map(|found| found.items.len()),
        read_items(bytes.clone()).map(|items| items.len()),
    ]
}

#[test]
fn what_is_no_table_is_an_error() {
    let part = golden("part.parquet");
    for bytes in [&b""[..], b"PAR1", b"PAR1PAR1", b"not a table at all", &part[..part.len() - 1], &part[1..]]
    {
        for result in read_all(&Bytes::copy_from_slice(bytes)) {
            assert!(matches!(result, Err(TableError::Parquet(_))), "{result:?}");
        }
    }
    // A table of another kind lacks the columns.
    assert!(matches!(
        read_part(golden("items.parquet").into(), Projection::All),
        Err(TableError::Value { .. })
    ));
    assert!(matches!(read_items(part.into()), Err(TableError::Value { .. })));
}

#[test]
fn every_truncated_table_is_an_error() {
    let part = Bytes::from(golden("part.parquet"));
    std::panic::set_hook(Box::new(|_| {}));
    for end in (0..part.len()).step_by(7) {
        assert!(read_part(part.slice(..end), Projection::All).is_err(), "cut at {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_tables_never_panic(
        which in 0..2_usize,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        std::panic::set_hook(Box::new(|_| {}));
        let mut bytes = golden(["part.parquet", "items.parquet"][which]);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read_all(&bytes.into());
    }

    #[test]
    fn damaged_messages_never_panic(
        which in 0..4_usize,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = golden(["job-caption.json", "job-search-image.json", "outcome.json", "reply-ok.json"][which]);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(job) = codec::decode_job(&bytes) {
            let again = codec::encode_job(&job).unwrap();
            prop_assert_eq!(codec::decode_job(&again).unwrap(), job);
        }
        let _ = codec::decode_outcome(&bytes);
        let _ = codec::decode_reply(&bytes);
        let _ = codec::decode_manifest(&bytes);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = codec::decode_job(&bytes);
        let framed = [b"PAR1", &bytes[..], &(bytes.len() as u32).to_le_bytes(), b"PAR1"].concat();
        std::panic::set_hook(Box::new(|_| {}));
        for result in read_all(&framed.into()) {
            prop_assert!(result.is_err());
        }
    }
}
