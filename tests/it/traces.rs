//! One trace goes from a submission to its rows, through the broker, retries and HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, Message, Topology};
use captionfleet_proto::codec;
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, Lane, RunId};
use captionfleet_proto::rows::{Projection, Row, read_part};
use captionfleet_proto::trace_context::TraceContext;
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_tests::fleet::{Endpoints, Fleet, http_get, http_with};
use captionfleet_tests::sandbox::{Collector, SentSpan, free_port};

use crate::{films, pictures, service};

const LIMIT: Duration = Duration::from_secs(120);
/// A client's trace, and its span in it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// What the programs find in their environment: spans are sent soon.
fn environment(endpoint: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ])
}

fn traced(collector: &Collector, name: &str) -> Fleet {
    Fleet::at(Endpoints::from_environment().unwrap(), environment(&collector.endpoint()), name).unwrap()
}

/// The rows below a folder of parts.
fn rows(parts: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for run in parts.read_dir().unwrap() {
        for part in run.unwrap().path().read_dir().unwrap() {
            let bytes = std::fs::read(part.unwrap().path()).unwrap();
            rows.extend(read_part(bytes.into(), Projection::WithoutEmbedding).unwrap());
        }
    }
    rows
}

fn bucket(fleet: &Fleet) -> PathBuf {
    PathBuf::from(std::env::var("CAPTIONFLEET_TEST_BUCKET").unwrap()).join(fleet.queue_prefix())
}

/// Spans of one trace, by their ids.
struct Tree(HashMap<String, SentSpan>);

impl Tree {
    fn new(spans: &[SentSpan], trace: &str) -> Self {
        let of_trace = spans.iter().filter(|span| span.trace == trace);
        Self(of_trace.map(|span| (span.id.clone(), span.clone())).collect())
    }

    fn named(&self, name: &str) -> Vec<&SentSpan> {
        self.0.values().filter(|span| span.name == name).collect()
    }

    fn parent(&self, span: &SentSpan) -> &SentSpan {
        span.parent
            .as_ref()
            .and_then(|id| self.0.get(id))
            .unwrap_or_else(|| panic!("{span:?} hangs in the air"))
    }

    /// Checks that all spans of that name were made by `service` and hang below one of another name, which they do not
    /// outlast unless a queue lies between the two.
    fn check(&self, name: &str, above: &str, service: &str) {
        let spans = self.named(name);
        assert!(!spans.is_empty(), "no {name} in {:?}", self.names());
        for span in spans {
            let parent = self.parent(span);
            assert_eq!((parent.name.as_str(), span.service.as_str()), (above, service), "{span:?}");
            // Clocks are read one after the other, a microsecond apart.
            assert!(span.start + 1_000_000 >= parent.start && span.start <= span.end, "{span:?} {parent:?}");
            if name != "process" {
                assert!(span.end <= parent.end + 1_000_000, "{span:?} {parent:?}");
            }
        }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.values().map(|span| span.name.as_str()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_submission_to_the_rows() {
    let collector = Collector::start().await.unwrap();
    let fleet = traced(&collector, "traced");
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 10, 51);
    let first = source.read_dir().unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&first).unwrap();
    std::fs::write(&first, &whole[..whole.len() / 2]).unwrap();

    let mut worker = fleet.start_worker("worker", &["--log-format", "json"]).unwrap();
    let archive = fleet.s3_uri("archive");
    let mut arguments = vec!["caption".to_owned(), source.display().to_string()];
    arguments.extend(["--archive", &archive, "--job-size", "4", "--json"].map(str::to_owned));
    arguments.extend(fleet.service_options());
    let report = fleet.dispatcher(arguments).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!((&report["ok"], &report["failed"]["truncated"]), (&9.into(), &1.into()), "{report}");
    worker.signal("TERM");
    assert!(worker.wait(Duration::from_secs(30)).await.unwrap().success(), "{}", worker.output());

    let spans = collector.spans();
    let roots: Vec<_> = spans.iter().filter(|span| span.parent.is_none()).collect();
    assert_eq!(roots.len(), 1, "{roots:#?}");
    assert_eq!(
        (roots[0].name.as_str(), roots[0].service.as_str()),
        ("submission", "captionfleet-dispatcher")
    );
    let trace = roots[0].trace.as_str();
    assert!(spans.iter().all(|span| span.trace == trace), "{spans:#?}");
    let tree = Tree::new(&spans, trace);
    for (name, above) in
        [("plan", "submission"), ("list", "plan"), ("begin", "submission"), ("publish", "submission")]
    {
        tree.check(name, above, "captionfleet-dispatcher");
    }
    for (name, above) in [
        ("process", "publish"),
        ("intake", "process"),
        ("item", "process"),
        ("fetch", "item"),
        ("image_decode", "item"),
        ("infer", "item"),
        ("vision", "infer"),
        ("prefill", "infer"),
        ("decode", "infer"),
        ("write", "process"),
        ("settle", "process"),
    ] {
        tree.check(name, above, "captionfleet-worker");
    }
    for process in tree.named("process") {
        assert_eq!(process.value("messaging.message.id"), tree.parent(process).value("messaging.message.id"));
        assert_eq!((process.value("job.attempts"), &process.error), ("1", &None), "{process:?}");
        assert!(process.events.contains(&"job settled".to_owned()), "{process:?}");
    }
    let count = |name: &str| tree.named(name).len();
    assert_eq!((count("publish"), count("process"), count("item"), count("infer")), (3, 3, 10, 9));

    let rows = rows(&bucket(&fleet).join("archive/parts"));
    assert_eq!(rows.len(), 10);
    for row in &rows {
        assert_eq!(row.trace_id, trace, "{}", row.item);
        let items = tree.named("item");
        let item = items.iter().find(|item| item.value("item.uri") == row.item.as_str());
        let item = item.unwrap_or_else(|| panic!("{} has no span", row.item));
        assert_eq!(item.error, row.error_code, "{}", row.item);
    }
    let line = worker.output();
    let line = line.lines().find(|line| line.contains("job settled")).unwrap();
    assert!(line.contains(trace), "{line}");
}

/// A job of a program that knows nothing of us but the contract.
async fn publish(fleet: &Fleet, id: &str, bundle: Option<&str>) -> RabbitMq {
    let topology = Topology::with_prefix(fleet.queue_prefix()).unwrap();
    let options = RabbitMqOptions::new(vec![fleet.broker().to_owned()], topology.clone());
    let broker = RabbitMq::connect(options).await.unwrap();
    broker.declare().await.unwrap();
    let item = JobItem::new(ItemUri::parse(&fleet.s3_uri("pictures/one.png")).unwrap());
    let archive = ArchiveUri::parse(&fleet.s3_uri("archive")).unwrap();
    let run = RunId::new("foreign").unwrap();
    let mut job = Job::caption(JobId::new(id).unwrap(), run, archive, CaptionJob::new(vec![item]));
    job.bundle = bundle.map(str::to_owned);
    let mut message = Message::new(id, codec::encode_job(&job).unwrap());
    message.trace = TraceContext::parse(&format!("00-{TRACE}-{SPAN}-01"), Some("client=1"));
    broker.publish(&topology.lane_queue(Lane::Bulk), message).await.unwrap();
    broker
}

fn one_picture(fleet: &Fleet) {
    let pictures = bucket(fleet).join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    image::RgbImage::new(64, 64).save(pictures.join("one.png")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_redeliveries_stay_in_their_trace() {
    let collector = Collector::start().await.unwrap();
    let fleet = traced(&collector, "retraced");
    one_picture(&fleet);
    let broker = publish(&fleet, "handed-out-twice", None).await;
    let lane = Topology::with_prefix(fleet.queue_prefix()).unwrap().lane_queue(Lane::Bulk);
    let mut consumer = broker.consume(&lane, 1).await.unwrap();
    let taken = consumer.next().await.unwrap().unwrap();
    assert_eq!(taken.message.trace.as_ref().unwrap().tracestate(), Some("client=1"));
    // Whoever held it is gone.
    drop((taken, consumer));
    broker.close().await;
    let _worker = fleet.start_worker("worker", &[]).unwrap();
    let process = |spans: &[SentSpan], id: &str| -> Vec<SentSpan> {
        let is_it = |span: &&SentSpan| span.name == "process" && span.value("messaging.message.id") == id;
        spans.iter().filter(is_it).cloned().collect()
    };
    let spans = collector.until(LIMIT, |spans| !process(spans, "handed-out-twice").is_empty()).await.unwrap();
    let again = &process(&spans, "handed-out-twice")[0];
    assert_eq!((again.trace.as_str(), again.parent.as_deref()), (TRACE, Some(SPAN)), "{again:?}");
    assert_eq!(again.value("job.redelivered"), "true", "{again:?}");
    let rows = rows(&bucket(&fleet).join("archive/parts"));
    assert_eq!((rows.len(), rows[0].trace_id.as_str()), (1, TRACE));

    publish(&fleet, "passed-on", Some("nobody-has-this")).await.close().await;
    let spans = collector.until(LIMIT, |spans| process(spans, "passed-on").len() > 1).await.unwrap();
    for span in process(&spans, "passed-on") {
        assert_eq!((span.trace.as_str(), span.parent.as_deref()), (TRACE, Some(SPAN)), "{span:?}");
        assert_eq!(span.value("job.attempts"), "1", "{span:?}");
        assert_eq!(span.error.as_deref(), Some("bundle_mismatch"), "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_with_its_clients_trace() {
    let collector = Collector::start().await.unwrap();
    let fleet = traced(&collector, "requested");
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 3, 52);
    let archive = fleet.folder().join("archive").display().to_string();
    let serving = fleet.start_service("service", ["--listen", "127.0.0.1:0", "--archive", &archive]).unwrap();
    let port = service::port(&serving).await;
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let order = serde_json::json!({"sources": [source]}).to_string();
    let (status, submitted) = http_with(port, "POST", "/api/v1/submissions", &parent, &order).await.unwrap();
    assert!(status.contains(" 202 "), "{status} {submitted}");
    let settled = |spans: &[SentSpan]| spans.iter().any(|span| span.name == "submission");
    let spans = collector.until(LIMIT, settled).await.unwrap();
    let ours = "captionfleet-dispatcher";
    let tree = Tree::new(&spans, TRACE);
    let request = tree.named("POST /api/v1/submissions")[0];
    assert_eq!((request.parent.as_deref(), request.value("http.response.status_code")), (Some(SPAN), "202"));
    for submission in tree.named("submission") {
        assert_eq!(tree.parent(submission).id, request.id, "{submission:?}");
    }
    for (name, above) in [("publish", "submission"), ("process", "publish"), ("infer", "item")] {
        tree.check(name, above, ours);
    }
    let rows = rows(&Path::new(&archive).join("parts"));
    assert!(rows.len() == 3 && rows.iter().all(|row| row.trace_id == TRACE), "{rows:?}");

    let (status, _) = http_with(port, "GET", "/api/v1/search?text=a+red+star", &parent, "").await.unwrap();
    assert!(status.contains(" 200 "), "{status}");
    // The worker tells of its part when it has settled, which may be after the answer.
    let named = |spans: &[SentSpan], name: &str| spans.iter().find(|span| span.name == name).cloned();
    let found = |spans: &[SentSpan]| {
        let ask = named(spans, "ask").map(|ask| ask.id);
        named(spans, "GET /api/v1/search").is_some()
            && ask.is_some()
            && spans.iter().any(|span| span.name == "process" && span.parent == ask)
    };
    let spans = collector.until(LIMIT, found).await.unwrap();
    let tree = Tree::new(&spans, TRACE);
    let search = tree.named("GET /api/v1/search")[0];
    let (ask, lookup) = (tree.named("ask")[0], tree.named("lookup")[0]);
    assert_eq!((&tree.parent(ask).id, &tree.parent(lookup).id), (&search.id, &search.id));
    let answered = tree.named("process").into_iter().find(|process| process.parent.as_ref() == Some(&ask.id));
    let answered = answered.unwrap_or_else(|| panic!("nobody answered {ask:?}"));
    assert!(
        tree.named("infer").iter().any(|infer| infer.parent.as_ref() == Some(&answered.id)),
        "{answered:?}"
    );

    // Scrapes and probes are no requests that anyone follows.
    http_get(port, "/metrics").await.unwrap();
    assert!(!collector.spans().iter().any(|span| span.name.contains("/metrics")));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_searches_have_their_spans() {
    let collector = Collector::start().await.unwrap();
    let fleet = traced(&collector, "filmed");
    films::film(fleet.folder(), "film.mp4", 3);
    let source = fleet.folder().join("in").display().to_string();
    let archive = fleet.folder().join("out").display().to_string();
    let caption = ["caption", &source, "--archive", &archive, "--json"];
    let report = fleet.dispatcher(caption).await.unwrap().success().unwrap().json().unwrap();
    let search = ["search", "a circle", "--archive", &archive];
    fleet.dispatcher(search).await.unwrap().success().unwrap();
    let spans = collector.spans();
    let root = |name: &str| spans.iter().find(|span| span.name == name && span.parent.is_none()).unwrap();
    let ours = "captionfleet-dispatcher";
    let filmed = Tree::new(&spans, &root("submission").trace);
    for (name, above) in
        [("item", "process"), ("video_decode", "item"), ("frame", "item"), ("infer", "frame")]
    {
        filmed.check(name, above, ours);
    }
    assert_eq!(filmed.named("frame").len() as u64, report["ok"].as_u64().unwrap(), "{report}");
    let searched = Tree::new(&spans, &root("search").trace);
    for (name, above) in [("ask", "search"), ("lookup", "search"), ("process", "ask"), ("infer", "process")] {
        searched.check(name, above, ours);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_one_line() {
    // One refuses connections, the other takes them and never answers.
    let deaf = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    for port in [free_port().unwrap(), deaf.local_addr().unwrap().port()] {
        let folder = tempfile::tempdir().unwrap();
        let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
        pictures::scenes(&source, 6, 53);
        let mut environment = environment(&format!("http://user:secret@127.0.0.1:{port}"));
        environment.insert("OTEL_EXPORTER_OTLP_TIMEOUT", "500".to_owned());
        let fleet =
            Fleet::at(Endpoints { broker: String::new(), s3: String::new() }, environment, "away").unwrap();
        let arguments =
            ["caption", source.to_str().unwrap(), "--archive", archive.to_str().unwrap(), "--json"];
        let ran = fleet.dispatcher(arguments).await.unwrap().success().unwrap();
        assert_eq!(ran.json().unwrap()["ok"], 6);
        let told = ran.stderr.lines().filter(|line| line.contains("spans cannot be sent")).count();
        assert_eq!(told, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("127.0.0.1:{port}/v1/traces")), "{}", ran.stderr);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
        assert!(rows(&archive.join("parts")).iter().all(|row| row.trace_id.len() == 32));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_rows_name_their_run() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
    pictures::scenes(&source, 2, 54);
    let environment = BTreeMap::from([("OTEL_SERVICE_NAME", "unheard".to_owned())]);
    let fleet =
        Fleet::at(Endpoints { broker: String::new(), s3: String::new() }, environment, "untraced").unwrap();
    let arguments = ["caption", source.to_str().unwrap(), "--archive", archive.to_str().unwrap(), "--json"];
    fleet.dispatcher(arguments).await.unwrap().success().unwrap();
    let rows = rows(&archive.join("parts"));
    assert!(rows.len() == 2 && rows.iter().all(|row| row.trace_id == row.run.as_str()), "{rows:?}");
}
