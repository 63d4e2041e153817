//! What is forgotten while its job waits for a worker.

use captionfleet_proto::layout;
use captionfleet_proto::storage::PutMode;
use captionfleet_proto::uri::ItemUri;
use captionfleet_tests::fleet::{Fleet, dispatcher, http};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::pictures;
use crate::service::{port, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_gets_an_older_message_captions_nothing_that_is_forgotten() {
    let fleet = Fleet::new("forgotten").unwrap();
    let source = fleet.folder().join("in");
    let gone = source.join(&pictures::scenes(&source, 4, 48)[1].file).display().to_string();
    let archive = fleet.s3_uri("archive");
    let caption = |more: &[&str]| {
        let mut arguments = vec!["caption".to_owned(), source.display().to_string()];
        arguments.extend(["--archive", &archive, "--job-size", "4", "--json"].map(str::to_owned));
        arguments.extend(more.iter().map(|&more| more.to_owned()).chain(fleet.service_options()));
        dispatcher(arguments)
    };
    let on = |command: &[&str]| {
        let fixed = ["--archive", &archive, "--s3-endpoint", fleet.s3_endpoint(), "--json"];
        dispatcher(command.iter().chain(&fixed).map(|&word| word.to_owned()).collect::<Vec<_>>())
    };
    caption(&["--detach"]).await.unwrap().success().unwrap();
    on(&["forget", &gone]).await.unwrap().success().unwrap();
    let worker = fleet.start_worker("worker", &[]).unwrap();
    let report = caption(&[]).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!(
        (&report["ok"], &report["complete"]),
        (&3.into(), &true.into()),
        "{report}\n{}",
        worker.output()
    );
    on(&["verify"]).await.unwrap().success().unwrap();
    let status = on(&["status"]).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!((&status[0]["jobs"], &status[0]["finished"]), (&2.into(), &true.into()), "{status}");
    let again = on(&["forget", &gone]).await.unwrap();
    assert!(again.code == 1 && again.stderr.contains("there is no row"), "{}{}", again.stdout, again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_that_is_resumed_leaves_out_what_was_forgotten_meanwhile() {
    let fleet = Fleet::new("forgotten-resumed").unwrap();
    let source = fleet.folder().join("in");
    let gone = source.join(&pictures::scenes(&source, 4, 49)[1].file);
    let archive = fleet.s3_uri("archive");
    let fixed = ["--listen", "127.0.0.1:0", "--archive", &archive].map(str::to_owned);
    let service = fleet.start_service("service", fixed.into_iter().chain(fleet.service_options())).unwrap();
    let at = port(&service).await;
    let order = json!({ "sources": [source], "job_size": 4 }).to_string();
    let (status, submitted) = http(at, "POST", "/api/v1/submissions", &order).await.unwrap();
    assert!(status.contains(" 202 "), "{status} {submitted}");
    let submitted: Value = serde_json::from_str(&submitted).unwrap();
    let run = submitted["runs"][0].as_str().unwrap();
    let [cancel, resume] = ["cancel", "resume"].map(|act| format!("/api/v1/runs/{run}/{act}"));
    let request = async |method: &str, address: &str| {
        let (status, told) = http(at, method, address, "").await.unwrap();
        format!("{status} {told}")
    };
    let told = request("POST", &cancel).await;
    assert!(told.contains(" 204 "), "{told}");
    // Forgetting that was interrupted once it had marked what is to go.
    let item = ItemUri::from_path(&gone).unwrap();
    let sha256 = hex::encode(Sha256::digest(std::fs::read(&gone).unwrap()));
    let mark = layout::forgotten(&item, layout::content_key(Some(&sha256), None));
    let objects = fleet.objects("archive").await.unwrap();
    objects.put(&mark, "".into(), PutMode::Overwrite).await.unwrap();
    let told = request("POST", &resume).await;
    assert!(told.contains(" 422 ") && told.contains("call it again"), "{told}");
    let told = request("DELETE", &format!("/api/v1/items?item={item}")).await;
    assert!(told.contains(" 200 "), "{told}");
    let told = request("POST", &resume).await;
    assert!(told.contains(" 204 "), "{told}");
    let _worker = fleet.start_worker("worker", &[]).unwrap();
    let done = until(at, run, |run| run["state"] == "finished").await;
    assert_eq!((&done["ok"], &done["skipped"], &done["jobs"]), (&3.into(), &1.into(), &2.into()), "{done}");
    let verify = ["verify", "--archive", &archive, "--s3-endpoint", fleet.s3_endpoint()];
    dispatcher(verify).await.unwrap().success().unwrap();
}
