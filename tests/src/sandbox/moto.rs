//! moto's S3: the server of the sandbox that honours conditional writes exactly.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Child, free_port};

const START_LIMIT: Duration = Duration::from_secs(60);
/// moto behind a lock: its own program lets several of racing writes win.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/exact_s3.py");

/// A running server.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    server: Child,
}

impl Moto {
    /// Starts it with the `python3` found on `PATH`, with its log below `root`.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)?;
        let port = free_port()?;
        let mut command = Command::new("python3");
        command.args([PROGRAM, &port.to_string()]);
        let mut server = Child::spawn("moto", command, &root.join("moto.log"))?;
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            anyhow::ensure!(
                server.is_running() && tokio::time::Instant::now() < deadline,
                "moto did not start; run the tests through tests/run, or pip install 'moto[server]':\n{}",
                server.output()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { port, server })
    }

    /// The URL to give as `--s3-endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes a bucket; moto checks no signature, so one plain request does.
    ///
    /// # Errors
    /// When the server does not answer with success.
    pub async fn create_bucket(&self, bucket: &str) -> anyhow::Result<()> {
        let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "moto did not make bucket {bucket}: {answer}");
        Ok(())
    }

    /// Stops the server.
    pub async fn stop(mut self) {
        self.server.signal("TERM");
        if self.server.wait(Duration::from_secs(10)).await.is_err() {
            tracing::warn!("moto did not stop in time and is killed");
        }
    }
}
