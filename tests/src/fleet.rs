//! The two programs as a user runs them: child processes with arguments and environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::storage::{Storage, StorageOptions, Stores};
use captionfleet_proto::uri::ArchiveUri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::sandbox::{BUCKET, Child, Services};

/// How long any one command of a test may take.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(240);
/// How long a whole suite in Python may take: a browser on a slow machine has hundreds of things to wait for.
const SUITE_LIMIT: Duration = Duration::from_secs(1800);

/// Where the tests find the services; the test command (`tests/run`) sets it.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// AMQP URI of the broker.
    pub broker: String,
    /// The S3 server that checks signatures.
    pub s3: String,
}

impl Endpoints {
    /// Reads the environment that the test command sets.
    ///
    /// # Errors
    /// When the tests were started without it.
    pub fn from_environment() -> anyhow::Result<Self> {
        let read = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set: run the tests through tests/run"))
        };
        Ok(Self { broker: read("CAPTIONFLEET_TEST_AMQP")?, s3: read("CAPTIONFLEET_TEST_S3")? })
    }

    /// `HOST:PORT` of the broker.
    ///
    /// # Errors
    /// When its URI has none.
    pub fn broker_address(&self) -> anyhow::Result<&str> {
        let address = self.broker.rsplit('@').next().and_then(|rest| rest.split('/').next());
        address.context("the broker's URI has an address")
    }
}

/// One test's share of the services: its own queues, its own prefix in the bucket, its own folder.
#[derive(Debug)]
pub struct Fleet {
    endpoints: Endpoints,
    /// Given to the programs beside what this process has.
    environment: BTreeMap<&'static str, String>,
    name: String,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// Takes a share named after the test.
    ///
    /// # Errors
    /// When the services are not there or no folder can be made.
    pub fn new(test: &str) -> anyhow::Result<Self> {
        Self::at(Endpoints::from_environment()?, BTreeMap::new(), test)
    }

    /// The fleet's broker and the names of its queues there, as another program sees them.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn connect(&self) -> anyhow::Result<(RabbitMq, Topology)> {
        let topology = Topology::with_prefix(self.queue_prefix())?;
        let broker = RabbitMq::connect(RabbitMqOptions::new([self.broker()], topology.clone())).await?;
        Ok((broker, topology))
    }

    /// A fleet on services that this process has started.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub fn over(services: &Services, name: &str) -> anyhow::Result<Self> {
        let environment = services.environment();
        let endpoint = |name| environment.get(name).cloned().context("the services are up");
        let endpoints =
            Endpoints { broker: endpoint("CAPTIONFLEET_TEST_AMQP")?, s3: endpoint("CAPTIONFLEET_TEST_S3")? };
        Self::at(endpoints, environment, name)
    }

    /// Takes a share of services that this process has started itself; `environment` is given to the programs.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn at(
        endpoints: Endpoints,
        environment: BTreeMap<&'static str, String>,
        name: &str,
    ) -> anyhow::Result<Self> {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new().prefix(&format!("captionfleet-{name}-")).tempdir()?;
        std::fs::create_dir(folder.path().join("tmp"))?;
        let name = format!("{name}-{}-{}", std::process::id(), TAKEN.fetch_add(1, Ordering::Relaxed));
        Ok(Self { endpoints, environment, name, folder })
    }

    /// A folder of this test alone.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// AMQP URI of the broker.
    #[must_use]
    pub fn broker(&self) -> &str {
        &self.endpoints.broker
    }

    /// Endpoint of the S3 server.
    #[must_use]
    pub fn s3_endpoint(&self) -> &str {
        &self.endpoints.s3
    }

    /// Prefix of this test's queues.
    #[must_use]
    pub fn queue_prefix(&self) -> &str {
        &self.name
    }

    /// `s3://bucket/prefix` of this test's objects below `leaf`.
    #[must_use]
    pub fn s3_uri(&self, leaf: &str) -> String {
        format!("s3://{BUCKET}/{}/{leaf}", self.name)
    }

    /// This test's objects below `leaf`.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub async fn objects(&self, leaf: &str) -> anyhow::Result<Arc<dyn Storage>> {
        let s3_endpoint = Some(self.s3_endpoint().to_owned());
        let stores = Stores::new(StorageOptions { s3_endpoint, ..StorageOptions::default() });
        Ok(stores.archive(&ArchiveUri::parse(&self.s3_uri(leaf))?).await?)
    }

    /// The options that point either program at this test's services.
    #[must_use]
    pub fn service_options(&self) -> Vec<String> {
        self.options_at(&self.endpoints)
    }

    /// The options that point either program at these services.
    #[must_use]
    pub fn options_at(&self, Endpoints { broker, s3 }: &Endpoints) -> Vec<String> {
        ["--broker", broker, "--queue-prefix", self.queue_prefix(), "--s3-endpoint", s3]
            .map(str::to_owned)
            .to_vec()
    }

    /// The services of this test.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Where the workers of this test put temporary files.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.folder().join("tmp")
    }

    /// Starts a worker; its log is `WORKER.log` in the test's folder.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_worker(&self, worker: &str, options: &[&str]) -> anyhow::Result<Child> {
        self.start_worker_through(&self.endpoints, worker, "off", options)
    }

    /// Starts a worker whose admin port listens at `address`.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_worker_at(&self, address: &str, options: &[&str]) -> anyhow::Result<Child> {
        self.start_worker_through(&self.endpoints, "watched", address, options)
    }

    /// Runs `worker ARGUMENTS` to its end, however long it takes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn worker<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Ran> {
        run(self.program("worker")?, arguments, Duration::MAX).await
    }

    /// Runs `dispatcher ARGUMENTS` to its end, however long it takes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn dispatcher<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Ran> {
        run(self.program("dispatcher")?, arguments, Duration::MAX).await
    }

    fn program(&self, name: &str) -> anyhow::Result<Command> {
        let mut command = program(name)?;
        command.envs(&self.environment);
        Ok(command)
    }

    /// Starts a dispatcher's command beside the test; its log is `NAME.log` in the test's folder.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_dispatcher<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Child> {
        self.start_dispatcher_at(name, "off", arguments)
    }

    /// Starts a dispatcher's command whose admin port listens at `address`.
    ///
    /// # Errors
    /// As [`Self::start_dispatcher`].
    pub fn start_dispatcher_at<S: AsRef<OsStr>>(
        &self,
        name: &str,
        address: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Child> {
        let mut command = self.program("dispatcher")?;
        command.args(arguments).args(["--admin-addr", address]);
        Child::spawn(name, command, &self.folder().join(format!("{name}.log")))
    }

    /// Starts `dispatcher serve ARGUMENTS` beside the test; its log is `NAME.log` in the test's folder.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_service<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Child> {
        let serve = std::iter::once(OsString::from("serve"));
        self.start_command(
            name,
            serve.chain(arguments.into_iter().map(|argument| argument.as_ref().to_owned())),
        )
    }

    /// Starts a dispatcher's command that has no admin port beside the test; its log is `NAME.log` in the test's folder.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_command<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Child> {
        let mut command = self.program("dispatcher")?;
        command.args(arguments);
        Child::spawn(name, command, &self.folder().join(format!("{name}.log")))
    }

    /// Starts a worker that reaches the services by other ways, and whose admin port listens at `admin`.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_worker_through(
        &self,
        services: &Endpoints,
        name: &str,
        admin: &str,
        options: &[&str],
    ) -> anyhow::Result<Child> {
        let mut command = self.program("worker")?;
        command.arg("run").args(self.options_at(services)).args(["--admin-addr", admin]).args(options);
        command.env("TMPDIR", self.temporary());
        Child::spawn(name, command, &self.folder().join(format!("{name}.log")))
    }

    /// Starts a worker that is process 1, as in a container of its own, whose admin port listens at `admin`; an ordinary one where this
    /// user may make no namespaces.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub async fn start_contained_worker(&self, name: &str, admin: &str) -> anyhow::Result<Child> {
        const CONTAINED: [&str; 5] = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];
        let probe = Command::new("unshare").args(CONTAINED).arg("true").output().await;
        let mut command = self.program("worker")?;
        if probe.is_ok_and(|probe| probe.status.success()) {
            let worker = command.as_std();
            let mut contained = Command::new("unshare");
            contained.args(CONTAINED).arg(worker.get_program());
            for (variable, value) in worker.get_envs() {
                match value {
                    Some(value) => contained.env(variable, value),
                    None => contained.env_remove(variable),
                };
            }
            command = contained;
        }
        command.arg("run").args(self.service_options()).args(["--admin-addr", admin]);
        Child::spawn(name, command, &self.folder().join(format!("{name}.log")))
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
}

impl Ran {
    /// Passes the value on if the command exited with 0.
    ///
    /// # Errors
    /// Holds both outputs otherwise.
    pub fn success(self) -> anyhow::Result<Self> {
        anyhow::ensure!(self.code == 0, "exit code {}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("not JSON: {}\n{}", self.stdout, self.stderr))
    }
}

/// Runs `dispatcher ARGUMENTS` to its end.
///
/// # Errors
/// When it cannot be started or takes longer than [`COMMAND_LIMIT`].
pub async fn dispatcher<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Ran> {
    run(program("dispatcher")?, arguments, COMMAND_LIMIT).await
}

/// Runs `worker ARGUMENTS` to its end.
///
/// # Errors
/// As [`dispatcher`].
pub async fn worker<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Ran> {
    run(program("worker")?, arguments, COMMAND_LIMIT).await
}

/// Runs a Python program of `tests/python` in the test command's private environment.
///
/// # Errors
/// As [`dispatcher`].
pub async fn python<S: AsRef<OsStr>>(
    script: &str,
    arguments: impl IntoIterator<Item = S>,
) -> anyhow::Result<Ran> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script).into_os_string();
    let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
    python_with(std::iter::once(script).chain(arguments), BTreeMap::new()).await
}

/// Runs `python3 ARGUMENTS` in the test command's private environment, with more variables in it.
///
/// # Errors
/// As [`dispatcher`].
pub async fn python_with<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    environment: BTreeMap<&'static str, OsString>,
) -> anyhow::Result<Ran> {
    let mut command = Command::new("python3");
    command.envs(environment);
    run(command, arguments, SUITE_LIMIT).await
}

/// Status line and body of a plain GET on this machine; `None` if nobody answers.
pub async fn http_get(port: u16, path: &str) -> Option<(String, String)> {
    http(port, "GET", path, "").await
}

/// Status line and body of a request with a JSON body, if it is not empty; `None` if nobody answers.
pub async fn http(port: u16, method: &str, path: &str, json: &str) -> Option<(String, String)> {
    http_with(port, method, path, "", json).await
}

/// As [`http`], with more header lines, each with its line end.
pub async fn http_with(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    json: &str,
) -> Option<(String, String)> {
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let body = match json.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{body}Connection: close\r\n\r\n{json}"
    );
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

async fn run<S: AsRef<OsStr>>(
    mut command: Command,
    arguments: impl IntoIterator<Item = S>,
    limit: Duration,
) -> anyhow::Result<Ran> {
    command.args(arguments).kill_on_drop(true).stdin(std::process::Stdio::null());
    let Output { status, stdout, stderr } = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{command:?} still ran after {limit:?}"))?
        .with_context(|| format!("start {command:?}"))?;
    Ok(Ran {
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        code: status.code().unwrap_or(-1),
    })
}

/// The named program, from the folder in which this test's own executable was built.
fn program(name: &str) -> anyhow::Result<Command> {
    let here = std::env::current_exe()?;
    let path: PathBuf = here
        .ancestors()
        .skip(1)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not built: run the tests through tests/run"))?;
    let mut command = Command::new(path);
    // What a developer has set must not reach the programs under test.
    let is_setting = |variable: &str| variable.starts_with("CAPTIONFLEET_") || variable.starts_with("OTEL_");
    for (variable, _) in std::env::vars().filter(|(variable, _)| is_setting(variable)) {
        command.env_remove(variable);
    }
    Ok(command)
}

/// The port that a service says it listens at.
///
/// # Errors
/// When it has not said so within a minute; the message holds its log.
pub async fn service_port(service: &Child) -> anyhow::Result<u16> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let output = service.output();
        let port =
            output.split("http://127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        if let Some(port) = port {
            return Ok(port);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "never served:\n{output}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
