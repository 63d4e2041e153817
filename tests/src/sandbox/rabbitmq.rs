//! A private `RabbitMQ` node from the distribution's package, without systemd and without a service user.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

use super::{Child, free_port};

/// The package's scripts below `/usr/sbin` switch user; these do not.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
const START_LIMIT: Duration = Duration::from_secs(90);
/// What the nodes of a cluster have in common.
const SHARED: [&str; 2] = ["HOME", "ERL_EPMD_PORT"];

/// One node with its own Erlang port mapper, cookie, data and log folders.
#[derive(Debug)]
pub struct RabbitMqNode {
    environment: Vec<(String, String)>,
    amqp_port: u16,
    management_port: u16,
    log: PathBuf,
    server: Child,
}

impl RabbitMqNode {
    /// Starts a node with its data below `root` and waits until it accepts connections.
    ///
    /// # Errors
    /// When the package is missing, or the node does not come up.
    pub async fn start(root: &Path, name: &str) -> anyhow::Result<Self> {
        Self::start_with(root, name, "").await
    }

    /// The same with the management API.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_management(root: &Path, name: &str) -> anyhow::Result<Self> {
        let node = Self::start_with(root, name, "rabbitmq_management").await?;
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", node.management_port)).await.is_err() {
            let late = tokio::time::Instant::now() > deadline;
            anyhow::ensure!(!late, "the management API does not come up:\n{}", node.server.output());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(node)
    }

    async fn start_with(root: &Path, name: &str, plugins: &str) -> anyhow::Result<Self> {
        let script = Path::new(SCRIPTS).join("rabbitmq-server");
        anyhow::ensure!(
            script.exists(),
            "RabbitMQ is not installed ({} is missing): apt-get install rabbitmq-server",
            script.display()
        );
        std::fs::create_dir_all(root)?;
        let (amqp_port, management_port) = (free_port()?, free_port()?);
        let environment = environment(root, name, [amqp_port, management_port], plugins)?;
        let log = root.join("node.log");
        let server = spawn(&environment, &log)?;
        let mut node = Self { environment, amqp_port, management_port, log, server };
        node.wait_until_ready().await?;
        Ok(node)
    }

    /// Starts a node in the cluster of another one, with its data below `root`.
    ///
    /// # Errors
    /// When it does not come up or does not join.
    pub async fn start_beside(other: &Self, root: &Path, name: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)?;
        let (amqp_port, management_port) = (free_port()?, free_port()?);
        let mut environment = environment(root, name, [amqp_port, management_port], "")?;
        // One cookie and one port mapper for the cluster.
        for (key, value) in environment.iter_mut().filter(|(key, _)| SHARED.contains(&key.as_str())) {
            other.variable(key).clone_into(value);
        }
        let log = root.join("node.log");
        let server = spawn(&environment, &log)?;
        let mut node = Self { environment, amqp_port, management_port, log, server };
        node.wait_until_ready().await?;
        for command in [&["stop_app"][..], &["join_cluster", other.name()], &["start_app"]] {
            node.ctl(command).await?;
        }
        node.wait_until_ready().await?;
        Ok(node)
    }

    /// What the cluster calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.variable("RABBITMQ_NODENAME")
    }

    fn variable(&self, name: &str) -> &str {
        self.environment.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Where clients connect.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.amqp_port)
    }

    /// Where the management API is, of a node that was started with it.
    #[must_use]
    pub fn management(&self) -> String {
        format!("http://127.0.0.1:{}", self.management_port)
    }

    /// The port of [`Self::uri`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.amqp_port
    }

    /// What the node has said since it was started, warnings and worse.
    #[must_use]
    pub fn output(&self) -> String {
        self.server.output()
    }

    /// Runs `rabbitmqctl` against the node and returns what it printed.
    ///
    /// # Errors
    /// When the command fails; the message holds what it printed.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(Path::new(SCRIPTS).join("rabbitmqctl"))
            .args(["--silent"])
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .output()
            .await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(printed)
    }

    /// Stops the node in good order and starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.signal("TERM");
        self.server.wait(Duration::from_secs(60)).await?;
        self.start_again().await
    }

    /// Kills the node outright and starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn kill_and_start(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    /// Kills the node outright.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        // The start script is a parent of the Erlang machine, which must not outlive it.
        self.server.signal_group("KILL");
        self.server.wait(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// Starts a node that was killed on the same data and port.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.server = spawn(&self.environment, &self.log)?;
        self.wait_until_ready().await
    }

    /// Stops the node, then its port mapper.
    pub async fn stop(mut self) {
        self.server.signal("TERM");
        if self.server.wait(Duration::from_secs(30)).await.is_err() {
            tracing::warn!("the RabbitMQ node did not stop in time and is killed");
        }
        let mapper = Command::new("epmd").arg("-kill").envs(self.environment.iter().cloned()).output().await;
        if let Err(error) = mapper {
            tracing::warn!(%error, "the Erlang port mapper could not be stopped");
        }
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if !self.server.is_running() {
                anyhow::bail!("the RabbitMQ node ended at once:\n{}", self.server.output());
            }
            if self.server.output().contains("completed with")
                && tokio::net::TcpStream::connect(("127.0.0.1", self.amqp_port)).await.is_ok()
            {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                anyhow::bail!(
                    "the RabbitMQ node is not ready after {START_LIMIT:?}:\n{}",
                    self.server.output()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn spawn(environment: &[(String, String)], log: &Path) -> anyhow::Result<Child> {
    // A node that starts again must not be taken for ready by what an earlier life has printed.
    if log.exists() {
        std::fs::remove_file(log)?;
    }
    let mut command = Command::new(Path::new(SCRIPTS).join("rabbitmq-server"));
    command.envs(environment.iter().cloned());
    Child::spawn("rabbitmq-server", command, log).context("RabbitMQ")
}

/// The environment of a node with such ports for AMQP and management, and such plugins.
fn environment(
    root: &Path,
    name: &str,
    [amqp_port, management_port]: [u16; 2],
    enabled: &str,
) -> anyhow::Result<Vec<(String, String)>> {
    let config = root.join("rabbitmq.conf");
    std::fs::write(
        &config,
        format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp_port}\n\
             management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\n\
             prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {}\n\
             disk_free_limit.absolute = 200MB\nlog.console = true\nlog.console.level = warning\n",
            free_port()?,
        ),
    )?;
    let plugins = root.join("enabled_plugins");
    std::fs::write(&plugins, format!("[{enabled}].\n"))?;
    let advanced = root.join("advanced.config");
    std::fs::write(&advanced, "[].\n")?;
    let mapper_port = free_port()?;
    let path = |leaf: &str| root.join(leaf).display().to_string();
    let loopback_only = "-kernel inet_dist_use_interface {127,0,0,1}";
    Ok([
        ("HOME", root.display().to_string()),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("ERL_EPMD_PORT", mapper_port.to_string()),
        ("RABBITMQ_NODENAME", format!("{name}@localhost")),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_NODE_PORT", amqp_port.to_string()),
        ("RABBITMQ_DIST_PORT", free_port()?.to_string()),
        ("RABBITMQ_MNESIA_BASE", path("mnesia")),
        ("RABBITMQ_LOG_BASE", path("log")),
        ("RABBITMQ_CONFIG_FILE", config.display().to_string()),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", advanced.display().to_string()),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", plugins.display().to_string()),
        ("RABBITMQ_PID_FILE", path("node.pid")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", path("generated")),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", loopback_only.to_owned()),
        ("RABBITMQ_CTL_ERL_ARGS", loopback_only.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec())
}
