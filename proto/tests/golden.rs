//! The messages and tables of `proto/golden` are the contract by example: this version writes exactly these
//! messages, and reads these tables.
//!
//! `CAPTIONFLEET_BLESS=1 cargo test --release -p captionfleet-proto --test golden` writes them anew; do so only for
//! a new version of the contract.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use captionfleet_proto::codec;
use captionfleet_proto::job::{
    AnswerForm, CaptionJob, Job, JobAdapter, JobId, JobItem, JobKind, Match, Prompt, Query, Question,
    RerankJob, RerankReply, RerankResult, RunId, Sampling, SearchReply, SearchResult, VERSION,
};
use captionfleet_proto::manifest::{PlannedItem, RunManifest, read_items, write_items};
use captionfleet_proto::outcome::{FrameCounts, JobOutcome};
use captionfleet_proto::rows::{
    Answer, EmbeddingPlaces, EmbeddingShape, PartTail, Projection, Row, Status, read_embeddings, read_keys,
    read_part, write_part,
};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use half::f16;
use serde_json::{Map, Value};

const SHAPE: EmbeddingShape = EmbeddingShape { vectors: 2, dim: 4 };

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The golden bytes, or (blessing) the ones given, which become golden.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    if std::env::var_os("CAPTIONFLEET_BLESS").is_some() {
        std::fs::write(path(name), bytes).unwrap();
    }
    std::fs::read(path(name)).unwrap()
}

/// Compares as JSON, and shows the golden file's own layout to people.
fn pin(name: &str, encoded: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(encoded).unwrap();
    let mut pretty = serde_json::to_vec_pretty(&value).unwrap();
    pretty.push(b'\n');
    let golden = golden(name, &pretty);
    assert_eq!(
        String::from_utf8_lossy(&golden),
        String::from_utf8_lossy(&pretty),
        "{name} is written otherwise"
    );
    golden
}

fn pin_job(name: &str, job: &Job) {
    let golden = pin(name, &codec::encode_job(job).unwrap());
    assert_eq!(&codec::decode_job(&golden).unwrap(), job, "{name} is read otherwise");
}

fn id(id: &str) -> JobId {
    JobId::new(id).unwrap()
}

fn run() -> RunId {
    RunId::new("2026-01-31T12-00-00Z-7f3a").unwrap()
}

fn archive() -> ArchiveUri {
    ArchiveUri::parse("s3://photos-archive/holiday").unwrap()
}

fn items() -> Vec<JobItem> {
    let mut photo = JobItem::new(ItemUri::parse("s3://photos/2025/beach%20and%20sea.jpg").unwrap());
    photo.etag = Some("9b2cf535f27731c974343645a3985328".to_owned());
    photo.size = Some(48_213);
    let mut staged = JobItem::new(ItemUri::parse("file:///home/ana/Bilder/stra%C3%9Fe.png").unwrap());
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    staged.fetch = Some(ItemUri::s3("photos-archive", &format!("holiday/staged/2c/{sha256}")));
    staged.sha256 = Some(sha256.to_owned());
    staged.size = Some(5);
    let mut segment = JobItem::new(ItemUri::s3("videos", "walk.mp4"));
    segment.frame_ms = Some(120_000);
    segment.span_ms = Some(60_000);
    segment.sample = Some(Sampling::default());
    segment.film_ms = Some(7_200_040);
    vec![photo, staged, segment]
}

#[test]
fn caption_jobs() {
    let mut caption = CaptionJob::new(items());
    let hash = caption.prompt_hash();
    let job_id = Job::deterministic_id(&run(), 3, &caption.items, &hash);
    let mut job = Job::caption(job_id, run(), archive(), caption.clone());
    job.bundle = Some("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef".to_owned());
    pin_job("job-caption.json", &job);

    caption.items.truncate(1);
    caption.prompt = Prompt::Ask { question: "What colour is the boat?".to_owned() };
    caption.max_tokens = Some(24);
    caption.embed = false;
    let uri = ItemUri::parse("s3://models/boats").unwrap();
    let adapter = Some(JobAdapter::of(uri, [&b"settings"[..], &b"weights"[..]]));
    let adapted = CaptionJob { adapter, ..caption.clone() };
    let mut ask = Job::caption(id("boat-1"), run(), archive(), adapted);
    ask.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736".to_owned();
    pin_job("job-ask.json", &ask);

    let of = |question: &str, name: Option<&str>, answer: AnswerForm| Question {
        question: question.to_owned(),
        name: name.map(str::to_owned),
        answer,
    };
    let values = ["sunny", "rain", "unknown"].map(str::to_owned).to_vec();
    caption.prompt = Prompt::Questions {
        questions: vec![
            of("What is the boat's colour?", None, AnswerForm::Free),
            of("Is anyone aboard?", None, AnswerForm::yes_or_no()),
            of("What is the weather?", Some("weather"), AnswerForm::OneOf { values }),
            of("Is it day?", Some("day"), AnswerForm::Boolean),
            of("How many sails?", Some("sails"), AnswerForm::Integer { minimum: Some(0), maximum: Some(9) }),
            of(
                "How cloudy is it, 0 to 1?",
                Some("cloud"),
                AnswerForm::Number { minimum: None, maximum: Some(1.0) },
            ),
            of("What is its name?", Some("name"), AnswerForm::Text { max_length: 20 }),
        ],
        template: None,
    };
    let mut questions = Job::caption(id("boat-2"), run(), archive(), caption.clone());
    pin_job("job-questions.json", &questions);
    let hash = caption.prompt_hash();
    assert_eq!(caption.prompt_hash_of(&caption.items[0]), hash);
    caption.items[0].questions.push(of("Is it moored?", None, AnswerForm::Unended));
    assert_ne!(caption.prompt_hash_of(&caption.items[0]), hash);
    caption.prompt = Prompt::Questions {
        questions: Vec::new(),
        template: Some("###Human: <Img><ImageHere></Img> {question}###Assistant: ".to_owned()),
    };
    questions = Job::caption(id("boat-3"), run(), archive(), caption.clone());
    pin_job("job-own-questions.json", &questions);
    caption.items[0].questions.clear();

    caption.prompt = Prompt::Raw {
        template: "###Human: <Img><ImageHere></Img> Name the animal.###Assistant: ".to_owned(),
    };
    pin_job("job-raw.json", &Job::caption(id("raw-1"), run(), archive(), caption));
}

#[test]
fn search_jobs_and_replies() {
    let text = Query::Text { text: "a red boat on a calm sea".to_owned() };
    pin_job("job-search-text.json", &Job::search(id("search-1"), run(), archive(), text.clone()));
    let mut in_space = Job::search(id("search-3"), run(), archive(), text);
    let embedding_space = Some("blip2-itc/2x4/5f70bf18a086".to_owned());
    if let JobKind::Search(search) = &mut in_space.kind {
        search.embedding_space = embedding_space;
    }
    pin_job("job-search-in-space.json", &in_space);
    let image =
        Query::Image { item: JobItem::new(ItemUri::s3("photos-archive", "holiday/queries/2c/2cf24dba")) };
    pin_job("job-search-image.json", &Job::search(id("search-2"), run(), archive(), image));
    for (name, result) in [
        (
            "reply-ok.json",
            SearchResult::Ok {
                embedding: vec![vec![0.5, -0.5, 0.5, 0.5]],
                embedding_space: "blip2-itc/2x4/5f70bf18a086".to_owned(),
                bundle: "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef".to_owned(),
            },
        ),
        (
            "reply-failed.json",
            SearchResult::Err { code: "not_found".to_owned(), message: "no such object".to_owned() },
        ),
    ] {
        let reply = SearchReply { version: VERSION.to_owned(), job: id("search-1"), result };
        let golden = pin(name, &codec::encode_reply(&reply).unwrap());
        assert_eq!(codec::decode_reply(&golden).unwrap(), reply, "{name} is read otherwise");
    }
}

#[test]
fn rerank_jobs_and_replies() {
    let rerank = RerankJob { text: "a red boat on a calm sea".to_owned(), items: items()[..2].to_vec() };
    let mut job = Job::rerank(id("rerank-1"), run(), archive(), rerank);
    job.deadline = Some("2026-01-31T12:00:30Z".parse().unwrap());
    pin_job("job-rerank.json", &job);
    let lost = Match::Failed { code: "not_found".to_owned(), message: "no such object".to_owned() };
    let bundle = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef".to_owned();
    for (name, result) in [
        (
            "rerank-reply-ok.json",
            RerankResult::Ok { matches: vec![Match::Judged { log_odds: 3.25 }, lost], bundle },
        ),
        (
            "rerank-reply-failed.json",
            RerankResult::Err { code: "internal".to_owned(), message: "no retrieval heads".to_owned() },
        ),
    ] {
        let reply = RerankReply { version: VERSION.to_owned(), job: id("rerank-1"), result };
        let golden = pin(name, &codec::encode_rerank_reply(&reply).unwrap());
        assert_eq!(codec::decode_rerank_reply(&golden).unwrap(), reply, "{name} is read otherwise");
    }
}

#[test]
fn outcomes() {
    let done = JobOutcome {
        version: VERSION.to_owned(),
        job: id("00000003-8a1c"),
        run: run(),
        part: Some("parts/2026-01-31T12-00-00Z-7f3a/00000003-8a1c.parquet".to_owned()),
        ok: 61,
        failed: BTreeMap::from([("not_found".to_owned(), 1), ("truncated".to_owned(), 2)]),
        skipped: 0,
        frames: Some(FrameCounts { seen: 60, kept: 7 }),
        attempts: 1,
        worker: "gpu-7".to_owned(),
        seconds: 2.75,
        device_seconds: Some(2.5),
        device_joules: Some(187.5),
        already_done: false,
        error: None,
        extra: Map::new(),
    };
    let dead = JobOutcome {
        part: None,
        ok: 0,
        failed: BTreeMap::new(),
        device_seconds: None,
        device_joules: None,
        attempts: 5,
        error: Some(
            "writing s3://photos-archive/holiday/parts/x.parquet: access denied (AccessDenied)".to_owned(),
        ),
        ..done.clone()
    };
    for (name, outcome) in [("outcome.json", done), ("outcome-dead.json", dead)] {
        let golden = pin(name, &codec::encode_outcome(&outcome).unwrap());
        assert_eq!(codec::decode_outcome(&golden).unwrap(), outcome, "{name} is read otherwise");
    }
}

#[test]
fn manifests() {
    let manifest = RunManifest {
        version: VERSION.to_owned(),
        run: run(),
        created_at: "2026-01-31T12:00:00.5Z".parse().unwrap(),
        source: vec!["s3://photos/2025/".to_owned(), "/home/ana/Bilder".to_owned()],
        prompt: Prompt::Caption,
        prompt_hash: Prompt::Caption.prompt_hash(None),
        max_tokens: None,
        adapter: None,
        embed: true,
        bundle: None,
        sample: Some(Sampling::default()),
        thumbnails: Some(true),
        items: 1000,
        jobs: 16,
        job_size: 64,
        item_files: 1,
        already_done: 24,
        captionfleet: "0.1.0".to_owned(),
        extra: Map::new(),
    };
    let encoded = codec::encode_manifest(&manifest).unwrap();
    assert_eq!(golden("run.json", &encoded), encoded, "run.json is written otherwise");
    assert_eq!(codec::decode_manifest(&encoded).unwrap(), manifest);
}

fn rows() -> Vec<Row> {
    let ok = Row {
        item: ItemUri::parse("s3://photos/2025/beach%20and%20sea.jpg").unwrap(),
        frame_ms: None,
        span_ms: None,
        frames: None,
        sha256: Some("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned()),
        etag: Some("9b2cf535f27731c974343645a3985328".to_owned()),
        width: Some(640),
        height: Some(480),
        status: Status::Ok,
        error_code: None,
        error_message: None,
        attempts: 1,
        caption: Some("a red boat \"Möwe\", on a calm sea 🌊".to_owned()),
        answers: None,
        fields: None,
        tokens: Some(9),
        mean_logprob: Some(-0.25),
        stop_reason: Some("end_of_text".to_owned()),
        embedding: Some([0.5, -0.5, 0.5, 0.5, 1.0, 0.0, -0.0, 6.1e-5].map(f16::from_f32).to_vec()),
        embedding_space: Some("blip2-itc/2x4/5f70bf18a086".to_owned()),
        bundle: Some("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef".to_owned()),
        adapter: None,
        prompt_hash: Prompt::Caption.prompt_hash(None),
        duplicate_of: None,
        run: run(),
        job: id("00000003-8a1c"),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        worker: Some("gpu-7".to_owned()),
        device_seconds: Some(0.125),
        device_joules: Some(9.5),
        started_at: Some("2026-01-31T11:59:59.5Z".parse().unwrap()),
        finished_at: "2026-01-31T12:00:01.123456Z".parse().unwrap(),
    };
    let failed = Row {
        item: ItemUri::parse("file:///home/ana/%FF.png").unwrap(),
        width: None,
        height: None,
        status: Status::Failed,
        error_code: Some("truncated".to_owned()),
        error_message: Some("the picture ends after 1200 bytes".to_owned()),
        attempts: 2,
        caption: None,
        answers: None,
        fields: None,
        tokens: None,
        mean_logprob: None,
        stop_reason: None,
        embedding: None,
        embedding_space: None,
        sha256: None,
        etag: None,
        device_seconds: None,
        device_joules: None,
        ..ok.clone()
    };
    let frame = Row {
        item: ItemUri::s3("videos", "walk.mp4"),
        frame_ms: Some(12_000),
        span_ms: Some(9000),
        frames: Some(9),
        adapter: Some("0a".repeat(32)),
        embedding: Some([0.0, 1.0, 0.0, 0.0, 0.25, 0.25, 0.75, -0.75].map(f16::from_f32).to_vec()),
        ..ok.clone()
    };
    let skipped = Row {
        item: ItemUri::s3("videos", "walk.mp4"),
        frame_ms: Some(13_000),
        span_ms: Some(1000),
        status: Status::Skipped,
        error_code: Some("near_duplicate".to_owned()),
        error_message: None,
        duplicate_of: Some("s3://videos/walk.mp4#12000".to_owned()),
        attempts: 1,
        bundle: None,
        ..failed.clone()
    };
    let asked = Row {
        item: ItemUri::s3("photos", "boat.jpg"),
        caption: Some("Is it red? yes\nhow many? 2".to_owned()),
        answers: Some(vec![
            Answer {
                question: "Is it red?".to_owned(),
                name: None,
                answer: "yes".to_owned(),
                probability: Some(0.75),
            },
            Answer {
                question: "how many?".to_owned(),
                name: Some("count".to_owned()),
                answer: "2".to_owned(),
                probability: None,
            },
        ]),
        fields: Some("{\"count\":2}".to_owned()),
        embedding: None,
        embedding_space: None,
        ..ok.clone()
    };
    vec![ok, failed, frame, skipped, asked]
}

#[test]
fn parts() {
    let rows = rows();
    let written = write_part(&rows, SHAPE).unwrap();
    assert_eq!(written, write_part(&rows, SHAPE).unwrap(), "equal rows yield equal bytes");
    for bytes in [written.clone(), Bytes::from(golden("part.parquet", &written))] {
        assert_eq!(read_part(bytes.clone(), Projection::All).unwrap(), rows);
        let mut narrow = rows.clone();
        for row in &mut narrow {
            row.embedding = None;
        }
        assert_eq!(read_part(bytes.clone(), Projection::WithoutEmbedding).unwrap(), narrow);
        let keys = read_keys(bytes.clone()).unwrap();
        for (key, row) in keys.iter().zip(&rows) {
            assert_eq!((&key.item, key.frame_ms, key.status), (&row.item, row.frame_ms, row.status));
            assert_eq!((&key.sha256, &key.etag, &key.error_code), (&row.sha256, &row.etag, &row.error_code));
            assert_eq!((&key.bundle, &key.embedding_space), (&row.bundle, &row.embedding_space));
            assert_eq!((&key.prompt_hash, &key.run, &key.job), (&row.prompt_hash, &row.run, &row.job));
            assert_eq!((key.started_at, key.finished_at), (row.started_at, row.finished_at));
            assert_eq!((&key.worker, key.device_seconds), (&row.worker, row.device_seconds));
            assert_eq!(key.device_joules, row.device_joules);
        }
        assert_eq!(keys.len(), rows.len());
        let embeddings = read_embeddings(bytes).unwrap();
        assert_eq!(embeddings.shape, Some(SHAPE));
        assert_eq!(embeddings.items, [rows[0].item.clone(), rows[2].item.clone()]);
        assert_eq!(embeddings.captions, [rows[0].caption.clone(), rows[2].caption.clone()]);
        assert_eq!(embeddings.contents, [rows[0].sha256.clone(), rows[2].sha256.clone()]);
        assert_eq!(embeddings.answered, [rows[0].answers.is_some(), rows[2].answers.is_some()]);
        assert_eq!(embeddings.frame_ms, [None, Some(12_000)]);
        let expected = [rows[0].embedding.clone().unwrap(), rows[2].embedding.clone().unwrap()].concat();
        assert_eq!(embeddings.values, expected);
    }
}

/// One page with and without gaps, and several pages.
#[test]
fn single_embeddings_are_read_where_they_lie() {
    let large = EmbeddingShape { vectors: 32, dim: 256 };
    let row = |number: usize, shape: EmbeddingShape| {
        let value = |at: usize| f16::from_f32(((number * 31 + at) % 97) as f32 / 97.0);
        let item = ItemUri::s3("photos", &format!("{number}.jpg"));
        Row { item, embedding: Some((0..shape.len()).map(value).collect()), ..rows()[0].clone() }
    };
    let all = |count, shape| (0..count).map(|number| row(number, shape)).collect::<Vec<Row>>();
    for (rows, shape) in
        [(rows(), SHAPE), (all(3, SHAPE), SHAPE), (all(1000, SHAPE), SHAPE), (all(200, large), large)]
    {
        let part = write_part(&rows, shape).unwrap();
        let size = part.len() as u64;
        let tail = part.slice(part.len().saturating_sub(32 << 10)..);
        let PartTail::Places(places) = EmbeddingPlaces::read(&tail, size).unwrap() else {
            panic!("otherwise")
        };
        let expected: Vec<&Vec<f16>> = rows.iter().filter_map(|row| row.embedding.as_ref()).collect();
        assert_eq!((places.len(), places.values()), (expected.len() as u64, shape.len()));
        for (number, expected) in expected.iter().enumerate() {
            let range = places.range(number as u64).unwrap();
            let bytes = &part[range.start as usize..range.end as usize];
            assert_eq!(&EmbeddingPlaces::decode(bytes), *expected, "{number}");
        }
        assert_eq!(places.range(places.len()), None);
        let short = part.slice(part.len() - 100..);
        assert!(
            matches!(EmbeddingPlaces::read(&short, size).unwrap(), PartTail::Short(needed) if needed > 100)
        );
        EmbeddingPlaces::read(&part.slice(..part.len() - 1), size).unwrap_err();
    }
    // Which rows of which page have none cannot be told.
    let mut gaps = all(200, large);
    (gaps[7].embedding, gaps[7].embedding_space) = (None, None);
    let part = write_part(&gaps, large).unwrap();
    assert_eq!(EmbeddingPlaces::read(&part, part.len() as u64).unwrap(), PartTail::Otherwise);
}

fn unmeasured(row: Row) -> Row {
    Row { device_joules: None, ..row }
}

/// A part from before rows told their energy.
#[test]
fn parts_without_energy_are_read() {
    let early = Bytes::from_static(include_bytes!("../golden/part-without-energy.parquet"));
    let rows: Vec<Row> = rows().into_iter().map(unmeasured).collect();
    assert_eq!(read_part(early.clone(), Projection::All).unwrap(), rows);
    assert!(read_keys(early).unwrap().iter().all(|key| key.device_joules.is_none()));
}

/// A part from before rows told what they cost.
#[test]
fn parts_without_a_bill_are_read() {
    let early = include_bytes!("../golden/part-without-bill.parquet").as_slice();
    let unknown = |row: Row| Row { worker: None, device_seconds: None, started_at: None, ..unmeasured(row) };
    let rows: Vec<Row> = rows().into_iter().map(unknown).collect();
    assert_eq!(read_part(Bytes::from_static(early), Projection::All).unwrap(), rows);
    let keys = read_keys(Bytes::from_static(early)).unwrap();
    assert!(keys.iter().all(|key| (&key.worker, key.started_at) == (&None, None)));
}

#[test]
fn items_tables() {
    let planned: Vec<PlannedItem> = items()
        .into_iter()
        .enumerate()
        .map(|(at, item)| PlannedItem { item, job: id("00000000-8a1c"), ordinal: at as u64 })
        .collect();
    let written = write_items(&planned).unwrap();
    for bytes in [written.clone(), Bytes::from(golden("items.parquet", &written))] {
        assert_eq!(read_items(bytes).unwrap(), planned);
    }
}
