//! The API: one file a resource.

mod answers;
mod asking;
mod events;
mod failures;
mod items;
mod openapi;
mod overview;
mod pictures;
mod runs;
mod scale;
mod search;
mod session;
mod submissions;
mod uploads;
mod videos;

use super::Service;
use super::http::operation::{Operation, routes};
use super::http::problem::Problem;
use crate::output::plain;
use axum::Router;
use captionfleet_proto::job::RunId;
use captionfleet_proto::uri::{ItemUri, Location};
use std::sync::Arc;

/// All operations, in the order of the document.
fn operations() -> Vec<Operation> {
    let mut all = Vec::new();
    all.extend(search::operations());
    all.extend(uploads::operations());
    all.extend(items::operations());
    all.extend(pictures::operations());
    all.extend(videos::operations());
    all.extend(answers::operations());
    all.extend(submissions::operations());
    all.extend(runs::operations());
    all.extend(failures::operations());
    all.extend(events::operations());
    all.extend(overview::operations());
    all.extend(scale::operations());
    all.extend(session::operations());
    all.extend(openapi::operations());
    all
}

/// The routes of the API, its own document among them.
pub fn router() -> Router<Arc<Service>> {
    routes(operations())
}

/// An item as given in an address or a body. What cannot be the name of one names none of the archive's.
fn item(text: &str) -> Result<ItemUri, Problem> {
    ItemUri::parse(text).map_err(|error| Problem::missing(format!("item: {error}")))
}

/// A run as given in an address.
fn run_id(text: &str) -> Result<RunId, Problem> {
    RunId::new(text).map_err(|error| Problem::bad(format!("run: {error}")))
}

/// Checks what is to be left out and shown of a list.
fn page(offset: u32, limit: u32) -> Result<(), Problem> {
    if offset > 1_000_000 || !(1..=200).contains(&limit) {
        return Err(Problem::bad("offset must be at most 1000000 and limit 1 to 200"));
    }
    Ok(())
}

/// What people call an item: the end of its name, without what could steer a terminal or a page.
fn name(item: &str) -> String {
    let name = match ItemUri::parse(item).as_ref().map(ItemUri::location) {
        Ok(Location::File(path)) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        Ok(Location::S3 { key, .. }) => {
            key.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&key).to_owned()
        }
        Err(_) => item.to_owned(),
    };
    plain(&name)
}
