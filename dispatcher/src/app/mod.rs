//! One file per command.

pub mod caption;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod forget;
pub mod index;
mod indexing;
pub mod plan;
pub mod retry;
pub mod search;
pub mod serve;
pub mod simulate;
pub mod status;
pub mod stopping;
pub mod tracks;
pub mod verify;

use crate::archive;
use crate::config::settings;
use crate::config::{Cli, Command};
use crate::exit::Ended;
use captionfleet_proto::storage::{Storage, Stores};
use captionfleet_proto::uri::ArchiveUri;
use std::sync::Arc;

/// Runs the command.
pub async fn run(cli: Cli) -> anyhow::Result<Ended> {
    match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::Caption(args) => caption::run(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Search(args) => search::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Index(args) => index::run(args).await,
        Command::Forget(args) => forget::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Verify(args) => verify::run(args.archive).await,
        Command::Tracks(args) => tracks::run(args).await,
        Command::Retry(args) => retry::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Simulate(args) => simulate::run(&args),
    }
}

/// The archive that a command names and needs no broker for, ready to be used.
async fn opened(
    archive: &str,
    s3_endpoint: Option<String>,
) -> anyhow::Result<(ArchiveUri, Arc<dyn Storage>)> {
    let uri = settings::archive(archive)?;
    let stores = Stores::new(settings::storage(s3_endpoint));
    let archive = archive::open(&stores, &uri).await?;
    Ok((uri, archive))
}
