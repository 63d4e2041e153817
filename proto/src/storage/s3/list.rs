//! Listing many objects in parallel.
//!
//! A listing is a chain of pages of a thousand keys, each of which names the next. To follow several chains at once
//! the rest of the keys is cut into ranges: at folder boundaries, which one request with a delimiter shows. Ranges
//! are cut only while there are fewer of them than requests may run, so that small places cost one request, and a
//! place with many tiny folders costs no more pages than a plain listing. Because ranges are compared with every key
//! that comes, a server that ignores where to start costs time but never an object.

use std::collections::VecDeque;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};

use super::connect::Connection;
use super::page::{Ask, Page, fetch};
use crate::storage::{ObjectMeta, StorageError};

/// Requests at a time.
const PARALLEL: usize = 16;

/// All objects below `base` whose keys inside it begin with `prefix`; keys lose `base`.
pub(super) fn stream<'a>(
    connection: Connection,
    bucket: String,
    base: String,
    prefix: &str,
) -> BoxStream<'a, Result<ObjectMeta, StorageError>> {
    let prefix = format!("{base}{prefix}");
    let listing = Listing {
        waiting: VecDeque::from([Step::Read(Range::all(&prefix))]),
        running: FuturesUnordered::new(),
        found: VecDeque::new(),
        place: Place { connection, bucket, prefix },
        strip: base.len(),
    };
    stream::unfold(listing, |mut listing| async { Some((listing.next().await?, listing)) }).boxed()
}

/// What is listed.
#[derive(Clone)]
struct Place {
    connection: Connection,
    bucket: String,
    prefix: String,
}

/// The keys after `from`, up to and including `upto`.
#[derive(Clone, Debug)]
struct Range {
    from: Option<String>,
    upto: Option<String>,
    /// The last key read.
    reached: Option<String>,
    /// Continues the chain of pages that reached it.
    token: Option<String>,
    /// The prefix below which folders will be looked for; none when the range cannot be cut.
    folder: Option<String>,
    /// Whether a page was read since the range was last cut, or tried to be: short ranges are not cut.
    long: bool,
}

enum Step {
    /// Read the next page of a range.
    Read(Range),
    /// Look for folders to cut a range at.
    Cut(Range),
}

struct Done {
    objects: Vec<ObjectMeta>,
    next: Vec<Step>,
}

struct Listing {
    place: Place,
    strip: usize,
    waiting: VecDeque<Step>,
    running: FuturesUnordered<BoxFuture<'static, Result<Done, StorageError>>>,
    found: VecDeque<ObjectMeta>,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<ObjectMeta, StorageError>> {
        loop {
            if let Some(mut object) = self.found.pop_front() {
                object.key.drain(..self.strip);
                return Some(Ok(object));
            }
            self.start();
            match self.running.next().await? {
                Ok(done) => {
                    self.found.extend(done.objects);
                    self.waiting.extend(done.next);
                }
                Err(error) => {
                    self.waiting.clear();
                    self.running = FuturesUnordered::new();
                    return Some(Err(error));
                }
            }
        }
    }

    fn start(&mut self) {
        while self.running.len() < PARALLEL {
            let Some(step) = self.waiting.pop_front() else { break };
            let idle = self.running.len() + self.waiting.len() + 1 < PARALLEL;
            let place = self.place.clone();
            let step = match step {
                Step::Read(range) if idle && range.long && range.folder.is_some() => Step::Cut(range),
                step => step,
            };
            self.running.push(
                async move {
                    match step {
                        Step::Read(range) => place.read(range).await,
                        Step::Cut(range) => place.cut(range).await,
                    }
                }
                .boxed(),
            );
        }
    }
}

impl Place {
    async fn read(&self, range: Range) -> Result<Done, StorageError> {
        let page = self.page(&self.prefix, &range, false).await?;
        Ok(range.take(page))
    }

    async fn cut(&self, range: Range) -> Result<Done, StorageError> {
        let folder = range.folder.clone().unwrap_or_else(|| self.prefix.clone());
        let fresh = Range { token: None, ..range.clone() };
        let page = self.page(&folder, &fresh, true).await?;
        Ok(Done { objects: Vec::new(), next: range.cut_at(page.folders) })
    }

    async fn page(&self, prefix: &str, range: &Range, folders: bool) -> Result<Page, StorageError> {
        let after = range.reached.as_deref().or(range.from.as_deref());
        let ask = Ask { prefix, after, token: range.token.as_deref(), folders };
        fetch(&self.connection, &self.bucket, &ask).await
    }
}

impl Range {
    fn all(prefix: &str) -> Self {
        Self {
            from: None,
            upto: None,
            reached: None,
            token: None,
            folder: Some(prefix.to_owned()),
            long: false,
        }
    }

    fn contains(&self, key: &str) -> bool {
        self.from.as_deref().is_none_or(|from| key > from)
            && self.upto.as_deref().is_none_or(|upto| key <= upto)
    }

    /// Takes what a page has of the range; goes on if there may be more.
    fn take(mut self, page: Page) -> Done {
        let sorted = page.objects.is_sorted_by(|one, next| one.key < next.key);
        let last = page.objects.last().map(|object| object.key.clone());
        let objects = page.objects.into_iter().filter(|object| self.contains(&object.key)).collect();
        let beyond = self.upto.is_some() && sorted && last > self.upto;
        let advances = page.token.is_some() || last > self.reached;
        let mut next = Vec::new();
        if page.truncated && advances && !beyond {
            if !sorted {
                // Keys in no order cannot be cut into ranges.
                self.folder = None;
            }
            self.token = page.token;
            self.reached = self.reached.max(last);
            self.long = true;
            next.push(Step::Read(self));
        }
        Done { objects, next }
    }

    /// Cuts what is left of the range at these folders, or remembers to look one folder deeper.
    fn cut_at(self, mut folders: Vec<String>) -> Vec<Step> {
        folders.retain(|folder| self.contains(folder) && Some(folder) > self.reached.as_ref());
        folders.sort_unstable();
        if folders.is_empty() {
            let folder = self.folder.as_deref().and_then(|folder| deeper(folder, self.reached.as_deref()?));
            return vec![Step::Read(Self { folder, long: false, ..self })];
        }
        let size = folders.len().div_ceil(PARALLEL);
        let bounds: Vec<String> = folders.into_iter().step_by(size).collect();
        let mut ranges = vec![Self { upto: bounds.first().cloned(), long: false, ..self.clone() }];
        for (at, bound) in bounds.iter().enumerate() {
            let upto = bounds.get(at + 1).or(self.upto.as_ref()).cloned();
            let (from, folder) = (Some(bound.clone()), self.folder.clone());
            ranges.push(Self { from, upto, reached: None, token: None, folder, long: false });
        }
        ranges.into_iter().map(Step::Read).collect()
    }
}

/// `folder` and the next segment of `key`, if that is a folder.
fn deeper(folder: &str, key: &str) -> Option<String> {
    let rest = key.strip_prefix(folder)?;
    let slash = rest.find('/')?;
    Some(key[..=folder.len() + slash].to_owned())
}
