//! What is answered between the layers of a long step, so that nobody who searches waits for its end.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use captionfleet_model::preprocess::PreparedPicture;

use super::EngineError;
use super::contained::contained;
use super::network::Network;
use super::observer::{EngineObserver, Stage};
use super::request::{Reply, Work};
use super::step::{Wanted, vectors};

/// Texts of one pause: the step must go on, too.
const TEXTS: usize = 8;
/// Pictures of one step: they take as long as its own.
const PICTURES: usize = 1;

/// A picture to embed, and who waits for it.
type Look = (Box<PreparedPicture>, Reply<Vec<Vec<f32>>>);

/// One long step's pauses.
pub(super) struct Interlude<'a> {
    network: &'a dyn Network,
    inbox: &'a Receiver<Work>,
    observer: &'a dyn EngineObserver,
    /// Values of an embedding's vector.
    dimension: usize,
    texts: VecDeque<(String, Reply<Vec<f32>>)>,
    pictures: VecDeque<Look>,
    /// What has to wait.
    later: Vec<Work>,
    /// Pictures that may still be looked at during this step.
    pictures_left: usize,
    seconds: f64,
}

impl<'a> Interlude<'a> {
    /// `waiting` is what came before the step and need not wait for its end either.
    pub(super) fn new(
        network: &'a dyn Network,
        inbox: &'a Receiver<Work>,
        observer: &'a dyn EngineObserver,
        dimension: usize,
        waiting: Vec<Work>,
    ) -> Self {
        let mut interlude = Self {
            network,
            inbox,
            observer,
            dimension,
            texts: VecDeque::new(),
            pictures: VecDeque::new(),
            later: Vec::new(),
            pictures_left: PICTURES,
            seconds: 0.0,
        };
        for work in waiting {
            interlude.take_in(work);
        }
        interlude
    }

    /// Answers queries that wait.
    pub(super) fn pause(&mut self) {
        while let Ok(work) = self.inbox.try_recv() {
            self.take_in(work);
        }
        let since = Instant::now();
        let texts = self.texts.len().min(TEXTS);
        for (text, reply) in self.texts.drain(..texts) {
            if reply.is_closed() {
                continue;
            }
            let waited = reply.waited();
            match contained(Stage::Text, || self.network.text(&text)) {
                // Beside a whole batch there may be no room for it.
                Err(EngineError::OutOfMemory(_)) => self.later.push(Work::Text { text, reply }),
                embedded => {
                    self.observer.queued(waited);
                    // Nobody listening is fine: the request was cancelled.
                    let _ = reply.send(embedded);
                }
            }
        }
        if texts > 0 {
            self.took(Stage::Text, since, texts);
        }
        if self.pictures_left > 0
            && let Some(look) = self.pictures.pop_front()
        {
            self.pictures_left -= 1;
            self.look(look);
        }
    }

    fn look(&mut self, (picture, reply): Look) {
        if reply.is_closed() {
            return;
        }
        let (since, waited) = (Instant::now(), reply.waited());
        let seen =
            contained(Stage::Vision, || self.network.vision(&[Wanted::embedding(&picture)], &mut || {}));
        self.took(Stage::Vision, since, 1);
        if !matches!(seen, Err(EngineError::OutOfMemory(_))) {
            self.observer.queued(waited);
        }
        match seen {
            // Beside a whole batch there may be no room for it.
            Err(EngineError::OutOfMemory(_)) => self.later.push(Work::Picture { picture, reply }),
            Err(error) => drop(reply.send(Err(error))),
            Ok(sights) => {
                let embedding = sights.into_iter().next().and_then(|sight| sight.embedding);
                let vectors = embedding.map(|flat| vectors(&flat, self.dimension));
                // Nobody listening is fine: the request was cancelled.
                let _ = reply.send(vectors.ok_or(EngineError::NoRetrievalHead));
            }
        }
    }

    fn took(&mut self, stage: Stage, since: Instant, rows: usize) {
        let seconds = since.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.observer.stage(stage, seconds, rows, rows);
    }

    /// What has to wait for the step's end, and the seconds that answers have taken of its time.
    pub(super) fn end(self) -> (Vec<Work>, f64) {
        let texts = self.texts.into_iter().map(|(text, reply)| Work::Text { text, reply });
        let pictures = self.pictures.into_iter().map(|(picture, reply)| Work::Picture { picture, reply });
        (self.later.into_iter().chain(texts).chain(pictures).collect(), self.seconds)
    }

    fn take_in(&mut self, work: Work) {
        match work {
            Work::Text { text, reply } => self.texts.push_back((text, reply)),
            Work::Picture { picture, reply } => self.pictures.push_back((picture, reply)),
            other => self.later.push(other),
        }
    }
}
