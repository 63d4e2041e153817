//! Search jobs are answered, whatever happens.

use captionfleet_proto::broker::Broker as _;
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobId, JobKind, Lane, Query, SPACE_MISMATCH, SearchReply, SearchResult};

use crate::bench::{Bench, engine};

async fn ask(bench: &Bench, query: Query, bundle: Option<String>) -> SearchReply {
    ask_in(bench, query, bundle, None).await
}

async fn ask_in(bench: &Bench, query: Query, bundle: Option<String>, space: Option<&str>) -> SearchReply {
    let mut job = Job::search(JobId::new("search-1").unwrap(), bench.run.clone(), bench.archive_uri(), query);
    job.bundle = bundle;
    let JobKind::Search(search) = &mut job.kind else { panic!("a search") };
    search.embedding_space = space.map(str::to_owned);
    bench.publish(Lane::Interactive, &job).await;
    let message = bench.take(&bench.mailbox).await;
    assert_eq!(message.correlation_id.as_deref(), Some("about-search-1"));
    codec::decode_reply(&message.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn words_and_pictures_become_unit_vectors() {
    let bench = Bench::new().await;
    let worker = bench.start();
    let (vectors, dim) = engine().info().embedding_shape.unwrap();
    let picture = bench.scenes(1).remove(0);
    let text = Query::Text { text: "a red circle".to_owned() };
    for (query, expected) in [(text, 1), (Query::Image { item: picture }, vectors)] {
        let SearchResult::Ok { embedding, embedding_space, bundle } = ask(&bench, query, None).await.result
        else {
            panic!("no vectors");
        };
        assert_eq!(embedding.len(), expected);
        for vector in embedding {
            assert_eq!(vector.len(), dim);
            let norm: f32 = vector.iter().map(|value| value * value).sum();
            assert!((norm - 1.0).abs() < 1e-3, "{norm}");
        }
        assert_eq!(Some(embedding_space), engine().info().embedding_space);
        assert_eq!(bundle, engine().info().bundle);
    }
    assert_eq!(worker.stop().await.jobs, 2);
    assert_eq!(bench.waiting(Lane::Interactive).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_embedded_is_answered_too() {
    let bench = Bench::new().await;
    let worker = bench.start();
    let missing = crate::bench::item(&bench.folder.path().join("nowhere.png"));
    let text = Query::Text { text: "anything".to_owned() };
    let other = Some("0".repeat(64));
    for (query, bundle, expected) in
        [(Query::Image { item: missing }, None, "not_found"), (text, other, "bundle_mismatch")]
    {
        let SearchResult::Err { code, message } = ask(&bench, query, bundle).await.result else {
            panic!("vectors of nothing");
        };
        assert_eq!(code, expected);
        assert!(!message.is_empty());
    }
    assert_eq!(worker.stop().await.dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_for_another_space_costs_the_device_nothing() {
    let bench = Bench::new().await;
    let worker = bench.start();
    let own = engine().info().embedding_space.clone().unwrap();
    let picture = || Query::Image { item: bench.scenes(1).remove(0) };
    let SearchResult::Err { code, message } =
        ask_in(&bench, picture(), None, Some("other/1x8/0")).await.result
    else {
        panic!("vectors of another space");
    };
    assert_eq!(code, SPACE_MISMATCH);
    assert!(message.contains("other/1x8/0") && message.contains(&own), "{message}");
    assert_eq!(worker.metric("captionfleet_worker_stage_seconds_count{stage=\"fetch\"}"), 0.0);
    let SearchResult::Ok { embedding_space, .. } = ask_in(&bench, picture(), None, Some(&own)).await.result
    else {
        panic!("no vectors");
    };
    assert_eq!(embedding_space, own);
    assert_eq!(worker.metric("captionfleet_worker_job_seconds_count{kind=\"search\"}"), 2.0);
    assert_eq!(worker.stop().await.dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_asker_has_left_is_dropped() {
    let bench = Bench::new().await;
    let query = Query::Text { text: "a red circle".to_owned() };
    let job = Job::search(JobId::new("search-1").unwrap(), bench.run.clone(), bench.archive_uri(), query);
    bench.publish(Lane::Interactive, &job).await;
    bench.broker.close_mailbox(&bench.mailbox).await.unwrap();
    let worker = bench.start();
    let dropped = "captionfleet_worker_jobs_total{kind=\"search\",outcome=\"cancelled\"}";
    crate::bench::eventually("the job is dropped", async || (worker.metric(dropped) > 0.0).then_some(()))
        .await;
    assert_eq!(bench.waiting(Lane::Interactive).await, 0);
    let report = worker.stop().await;
    assert_eq!((report.jobs, report.dead), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_which_workers_end_does_not_go_on_from_worker_to_worker() {
    let bench = Bench::new().await;
    let picture = bench.scenes(1).remove(0);
    let query = Query::Image { item: picture };
    let job = Job::search(JobId::new("search-1").unwrap(), bench.run.clone(), bench.archive_uri(), query);
    for (deaths, is_answered) in [(1, true), (2, false)] {
        bench.publish(Lane::Interactive, &job).await;
        for _ in 0..deaths {
            bench.hand_out_once(Lane::Interactive).await;
        }
        let worker = bench.start();
        let reply = codec::decode_reply(&bench.take(&bench.mailbox).await.body).unwrap();
        let crash = |code: &str| code == "worker_crash";
        match reply.result {
            SearchResult::Ok { .. } => assert!(is_answered, "a worker may have been ended from outside"),
            SearchResult::Err { code, message } => assert!(!is_answered && crash(&code), "{code}: {message}"),
        }
        assert_eq!(worker.fetched() > 0.0, is_answered);
        worker.stop().await;
        assert_eq!(bench.waiting(Lane::Interactive).await, 0);
    }
}
