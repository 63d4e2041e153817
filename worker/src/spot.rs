//! Spot notices: a cloud tells its machines, over their metadata service, that they are about to be taken away.
//!
//! Amazon gives two minutes, Google and Azure thirty seconds; the worker drains as after SIGTERM. A service that is
//! absent, slow or failing does no harm: it is asked again, and nothing depends on the answer.

mod asker;

use std::str::FromStr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::asker::Asker;

/// Where every cloud keeps it.
pub const METADATA_URL: &str = "http://169.254.169.254";

const ASK_EVERY: Duration = Duration::from_secs(2);
/// A machine that has just come may have its network, and its cloud's service, a little later than its programs.
const FIND_WITHIN: Duration = Duration::from_mins(5);
const FIND_EVERY: Duration = Duration::from_secs(5);

/// Whose notices are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SpotNotice {
    /// Nobody's.
    Off,
    /// Those of whichever cloud answers within some minutes from the start; nobody's if none does.
    #[default]
    Auto,
    /// This cloud's.
    Of(Cloud),
}

/// A cloud with preemptible machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon EC2, with session tokens (IMDSv2).
    Aws,
    /// Google Compute Engine.
    Gcp,
    /// Azure Virtual Machines.
    Azure,
}

impl FromStr for SpotNotice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "aws" => Ok(Self::Of(Cloud::Aws)),
            "gcp" => Ok(Self::Of(Cloud::Gcp)),
            "azure" => Ok(Self::Of(Cloud::Azure)),
            _ => Err(format!("`{text}` is no cloud: use auto, aws, gcp, azure or off")),
        }
    }
}

/// What to look for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotSettings {
    /// Whose notices.
    pub notice: SpotNotice,
    /// The metadata service.
    pub url: Url,
}

/// Looks for a notice until there is one, or until `shutdown`; a notice cancels `shutdown`.
pub async fn watch(settings: SpotSettings, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        cloud = noticed(settings) => {
            if let Some(cloud) = cloud {
                tracing::warn!(?cloud, "spot notice: this machine is about to be taken away, draining");
                shutdown.cancel();
            }
        }
    }
}

/// Ends when there is a notice, with whose it is, or when there is nobody to ask.
async fn noticed(SpotSettings { notice, url }: SpotSettings) -> Option<Cloud> {
    let mut asker = match notice {
        SpotNotice::Off => return None,
        SpotNotice::Of(cloud) => Asker::new(cloud, url),
        SpotNotice::Auto => find(url, FIND_WITHIN, FIND_EVERY).await?,
    };
    let mut failing = false;
    loop {
        sleep(ASK_EVERY).await;
        let (answer, same) = aside(move || (asker.ask(), asker)).await?;
        asker = same;
        match answer {
            Ok(true) => return Some(asker.cloud),
            Ok(false) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(error = format!("{error:#}"), "the metadata service fails, asking again");
                }
                failing = true;
            }
        }
    }
}

async fn find(url: Url, within: Duration, every: Duration) -> Option<Asker> {
    let deadline = Instant::now() + within;
    loop {
        let place = url.clone();
        if let Some(asker) = aside(move || Asker::find(&place)).await.flatten() {
            tracing::info!(cloud = ?asker.cloud, "watching for spot notices");
            return Some(asker);
        }
        if Instant::now() >= deadline {
            tracing::info!(%url, "no cloud's metadata service answers: nobody will give notice of this machine's end");
            return None;
        }
        sleep(every).await;
    }
}

/// Asks on a thread of its own: a runtime that ends would wait for one of its own threads until the answer has come. `None` if there
/// is no thread to be had.
async fn aside<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (told, answer) = oneshot::channel();
    let asking = move || {
        // Nobody may be left who wants to know.
        let _ = told.send(ask());
    };
    let started = std::thread::Builder::new().name("metadata".to_owned()).spawn(asking);
    if let Err(error) = started {
        tracing::warn!(%error, "no thread can be started: spot notices are not looked for");
        return None;
    }
    answer.await.ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn clouds_have_names() {
        assert_eq!("aws".parse(), Ok(SpotNotice::Of(Cloud::Aws)));
        assert_eq!("auto".parse(), Ok(SpotNotice::Auto));
        assert!("ibm".parse::<SpotNotice>().is_err());
    }

    #[tokio::test]
    async fn a_service_that_comes_late_is_found_and_one_that_never_comes_is_given_up() {
        const UNANSWERED: usize = 4;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        // Whoever is asked for the first rounds knows nothing; then it is Azure's service. It ends with the test.
        std::thread::spawn(move || {
            for (number, connection) in listener.incoming().flatten().enumerate() {
                let mut lines = BufReader::new(&connection).lines().map_while(Result::ok);
                let asked = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let knows = number > UNANSWERED && asked.starts_with("GET /metadata/instance?");
                let status = if knows { "200 OK" } else { "404 Not Found" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                // Whoever does not wait for the answer does not miss it.
                let _ = (&connection).write_all(answer.as_bytes());
            }
        });
        let url = Url::parse(&format!("http://{address}")).expect("a URL");
        let at_once = Duration::ZERO;
        let found = find(url, Duration::from_mins(1), at_once).await;
        assert_eq!(found.map(|asker| asker.cloud), Some(Cloud::Azure));
        let nowhere = Url::parse("http://127.0.0.1:1").expect("a URL");
        assert!(find(nowhere, at_once, at_once).await.is_none());
    }
}
