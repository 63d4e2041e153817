//! The engine as the rest of the worker sees it.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use candle_core::Device;
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::constraint::{Constraint, ValueForm, Vocabulary};
use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_model::{Adapter, AdapterError, KvCache, ModelConfig, PromptTemplates, PromptTokens};
use futures::future::try_join_all;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::device::DeviceThread;
use super::memory::MemoryBudget;
use super::network::{Network, network};
use super::observer::EngineObserver;
use super::pulse::Pulse;
use super::request::{Ask, CaptionRequest, CaptionResult, Manner, MatchText, Reply, Work};
use super::sequence::answer_tokens;
use super::{EngineError, EngineOptions};

/// What the engine serves.
#[derive(Debug)]
pub struct EngineInfo {
    /// Dimensions of the network.
    pub config: ModelConfig,
    /// Id of the bundle.
    pub bundle: String,
    /// The name of the space its embeddings lie in; `None` without retrieval heads.
    pub embedding_space: Option<String>,
    /// Vectors of a picture's embedding, and their dimension.
    pub embedding_shape: Option<(usize, usize)>,
    /// The bundle's prompts.
    pub prompts: PromptTemplates,
    /// Tokens of one slot.
    pub max_len: usize,
    /// Sequences that decode together.
    pub slots: usize,
    /// Where it runs.
    pub device: &'static str,
    /// How its memory is shared out.
    pub memory: MemoryBudget,
}

/// The running engine. Dropping it, and every [`EngineHandle`], ends the device thread.
#[derive(Debug)]
pub struct Engine {
    handle: EngineHandle,
    thread: JoinHandle<Result<(), EngineError>>,
    gone: CancellationToken,
}

/// Asks the engine; cheap to clone. Dropping a pending call cancels its request.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    inbox: Sender<Work>,
    info: Arc<EngineInfo>,
    /// The network, for what must fit it. The null engine has none.
    loaded: Option<Arc<LoadedModel>>,
    /// Of the first constraint that was asked for.
    vocabulary: Arc<OnceLock<Arc<Vocabulary>>>,
    pulse: Arc<Pulse>,
    gone: CancellationToken,
    /// Set when the device was given up.
    hung: Arc<OnceLock<EngineError>>,
}

impl Engine {
    /// Allocates the slots and starts the device thread.
    ///
    /// # Errors
    /// When the cache cannot be allocated or the thread cannot be started.
    pub fn start(
        loaded: Arc<LoadedModel>,
        options: EngineOptions,
        memory: MemoryBudget,
        observer: Arc<dyn EngineObserver>,
    ) -> Result<Self, EngineError> {
        let network = network(&loaded, &options);
        Self::start_on(network, loaded, options, memory, observer)
    }

    fn start_on(
        network: Box<dyn Network>,
        loaded: Arc<LoadedModel>,
        options: EngineOptions,
        memory: MemoryBudget,
        observer: Arc<dyn EngineObserver>,
    ) -> Result<Self, EngineError> {
        let model = &loaded.model;
        let config = model.config().clone();
        let limits = options.limits();
        let dtype = EngineOptions::cache_dtype(model.device());
        let mut cache = KvCache::new(&config.lm, limits.all_slots(), options.max_len, dtype, model.device())?;
        if let Some(rows) = options.fixed_rows() {
            cache.fix_rows(rows);
        }
        let info = EngineInfo {
            bundle: loaded.manifest.digest.clone(),
            embedding_space: loaded.manifest.embedding_space.clone(),
            embedding_shape: config
                .retrieval
                .as_ref()
                .map(|retrieval| (retrieval.qformer.num_query_tokens, retrieval.embed_dim)),
            prompts: loaded.prompts.clone(),
            max_len: options.max_len,
            slots: options.slots,
            device: match model.device() {
                Device::Cpu => "cpu",
                Device::Cuda(_) => "cuda",
                Device::Metal(_) => "metal",
            },
            memory,
            config,
        };
        let (inbox, received) = channel();
        let pulse = Arc::new(Pulse::default());
        let device = DeviceThread::new(
            Arc::clone(&loaded),
            network,
            cache,
            options,
            observer,
            received,
            Arc::clone(&pulse),
        );
        Self::spawn(inbox, pulse, info, Some(loaded), move || {
            // The device thread is one of its own pool's threads: from outside of a pool every product would wait for
            // one to wake, and in the process-wide pool it would keep a seat while it waits for work.
            let threads = rayon::current_num_threads();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
            let _pool = pool.map_err(|error| {
                EngineError::Model(format!("the arithmetic threads could not be started: {error}"))
            })?;
            device.run()
        })
    }

    /// Starts `run` as the device thread, which answers what comes into `inbox`'s other end.
    pub(super) fn spawn(
        inbox: Sender<Work>,
        pulse: Arc<Pulse>,
        info: EngineInfo,
        loaded: Option<Arc<LoadedModel>>,
        run: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
    ) -> Result<Self, EngineError> {
        let gone = CancellationToken::new();
        let says_gone = gone.clone().drop_guard();
        let run = move || {
            let _says_gone = says_gone;
            run()
        };
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(run).map_err(|error| {
            EngineError::Model(format!("the device thread could not be started: {error}"))
        })?;
        let handle = EngineHandle {
            inbox,
            info: Arc::new(info),
            loaded,
            vocabulary: Arc::default(),
            pulse,
            gone: gone.clone(),
            hung: Arc::default(),
        };
        Ok(Self { handle, thread, gone })
    }

    /// A handle to ask it.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Cancelled when the device thread has ended, for whatever reason, or hangs.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Waits until the device thread has ended; every other handle must be gone. A device that hangs is not waited for.
    ///
    /// # Errors
    /// Why it ended, if not because nobody can ask any more.
    pub fn join(self) -> Result<(), EngineError> {
        if let Some(hung) = self.handle.hung.get() {
            return Err(hung.clone());
        }
        drop(self.handle);
        last_words(self.thread)
    }

    /// As [`Self::join`], but no longer than `patience`: the device may hang, and nobody waits for its step any more. False if the
    /// thread has not ended by then.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn join_within(self, patience: Duration) -> Result<bool, EngineError> {
        if let Some(hung) = self.handle.hung.get() {
            return Err(hung.clone());
        }
        drop(self.handle);
        // The last thing that the thread does.
        if timeout(patience, self.gone.cancelled()).await.is_err() {
            return Ok(false);
        }
        last_words(self.thread).map(|()| true)
    }
}

/// What a retrieval head says can be neither stored nor compared where it is not made of numbers.
fn numbers(are_numbers: bool) -> Result<(), EngineError> {
    are_numbers.then_some(()).ok_or(EngineError::Degenerate("the output of a retrieval head is not a number"))
}

/// Why a device thread has ended, once it has.
fn last_words(thread: JoinHandle<Result<(), EngineError>>) -> Result<(), EngineError> {
    thread.join().unwrap_or_else(|_| {
        Err(EngineError::Panicked { step: "device", message: "the device thread ended".to_owned() })
    })
}

impl EngineHandle {
    /// What the engine serves.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Whether it is the null engine, which looks at nothing.
    pub fn is_null(&self) -> bool {
        self.loaded.is_none()
    }

    /// Says whether a prompt fits a slot together with its picture and the longest answer.
    ///
    /// # Errors
    /// [`EngineError::Prompt`] and [`EngineError::PromptTooLong`].
    pub fn check_prompt(&self, prompt: &str, max_new_tokens: usize) -> Result<(), EngineError> {
        // The null engine has no slot that could be too small.
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let prompt = PromptTokens::new(&loaded.tokenizer, prompt)?;
        let tokens = prompt.len_with(self.info.config.qformer.num_query_tokens) + max_new_tokens;
        if tokens > self.info.max_len {
            return Err(EngineError::PromptTooLong { tokens, limit: self.info.max_len });
        }
        Ok(())
    }

    /// Opens an adapter for the network that serves; reads a file of megabytes.
    ///
    /// # Errors
    /// As [`Adapter::open`]; always for the null engine.
    pub fn open_adapter(&self, path: &Path) -> Result<Adapter, AdapterError> {
        let network = self.network().map_err(|error| AdapterError::Config {
            file: path.display().to_string(),
            reason: error.to_string(),
        })?;
        network.adapter(path)
    }

    fn network(&self) -> Result<&Arc<LoadedModel>, EngineError> {
        self.loaded.as_ref().ok_or(EngineError::NullEngine)
    }

    /// Says whether what is asked fits a slot together with its picture.
    ///
    /// # Errors
    /// [`EngineError::Prompt`], [`EngineError::PromptTooLong`] and [`EngineError::NullEngine`].
    pub fn check_ask(&self, ask: &Ask) -> Result<(), EngineError> {
        match &ask.manner {
            // The begin-of-text token stands in front.
            Manner::Exactly(text) => {
                let tokens = answer_tokens(&self.network()?.tokenizer, text)?;
                self.check_prompt(&ask.prompt, tokens.len() + 1)
            }
            _ => self.check_prompt(&ask.prompt, ask.sampling.max_new_tokens),
        }
    }

    /// Allows answers of this form alone, for [`Manner::Within`].
    ///
    /// # Errors
    /// [`EngineError::NullEngine`].
    pub fn constraint(&self, form: ValueForm) -> Result<Arc<Constraint>, EngineError> {
        let network = self.network()?;
        let vocabulary = self.vocabulary.get_or_init(|| Arc::new(Vocabulary::new(&network.tokenizer)));
        Ok(Arc::new(Constraint::new(form, Arc::clone(vocabulary))))
    }

    /// Says what is asked about a picture, and embeds it if asked.
    ///
    /// # Errors
    /// Any [`EngineError`]; `Degenerate` when an answer or the embedding is noise, `Unmet` when one does not get its form.
    pub async fn caption(&self, request: CaptionRequest) -> Result<CaptionResult, EngineError> {
        for ask in request.asks.iter() {
            self.check_ask(ask)?;
        }
        if request.embed && self.info.embedding_space.is_none() {
            return Err(EngineError::NoRetrievalHead);
        }
        let nothing = || EngineError::Prompt("nothing is asked about the picture".to_owned());
        let (replies, answers): (Vec<_>, Vec<_>) = request.asks.iter().map(|_| Reply::channel()).unzip();
        let mut replies = replies.into_iter();
        let reply = replies.next().ok_or_else(nothing)?;
        let work = Work::Caption { request: Arc::new(request), at: 0, reply, others: replies.collect() };
        self.inbox.send(work).map_err(|_| EngineError::Stopped)?;
        let answers = try_join_all(
            answers
                .into_iter()
                .map(async |answer: oneshot::Receiver<_>| answer.await.map_err(|_| EngineError::Stopped)?),
        );
        let answered = CaptionResult::of(answers.await?).ok_or_else(nothing)?;
        numbers(answered.embedding.iter().flatten().all(|value| value.is_finite()))?;
        Ok(answered)
    }

    /// Embeds a text query: one vector.
    ///
    /// # Errors
    /// Any [`EngineError`]; `Degenerate` when the vector is not made of numbers.
    pub async fn embed_text(&self, text: String) -> Result<Vec<f32>, EngineError> {
        let vector = self.ask(|reply| Work::Text { text, reply }).await?;
        numbers(vector.iter().all(|value| value.is_finite()))?;
        Ok(vector)
    }

    /// Embeds a picture: one vector per query token.
    ///
    /// # Errors
    /// Any [`EngineError`]; `Degenerate` when the vectors are not made of numbers.
    pub async fn embed_picture(&self, picture: PreparedPicture) -> Result<Vec<Vec<f32>>, EngineError> {
        let vectors = self.ask(|reply| Work::Picture { picture: Box::new(picture), reply }).await?;
        numbers(vectors.iter().flatten().all(|value| value.is_finite()))?;
        Ok(vectors)
    }

    /// A text to compare pictures with.
    ///
    /// # Errors
    /// [`EngineError::NoRetrievalHead`], or what the tokenizer says.
    pub fn match_text(&self, text: &str) -> Result<MatchText, EngineError> {
        let tokenizer = self.network()?.text_tokenizer.as_ref().ok_or(EngineError::NoRetrievalHead)?;
        Ok(MatchText(tokenizer.encode(text)?.into()))
    }

    /// Natural logarithm of the odds that the text describes the picture, as the matching head sees them together. Costs
    /// a vision pass.
    ///
    /// # Errors
    /// Any [`EngineError`]; `Degenerate` when the odds are not a number.
    pub async fn match_picture(
        &self,
        picture: PreparedPicture,
        text: &MatchText,
    ) -> Result<f32, EngineError> {
        let (picture, text) = (Box::new(picture), text.clone());
        let log_odds = self.ask(|reply| Work::Match { picture, text, reply }).await?;
        numbers(log_odds.is_finite())?;
        Ok(log_odds)
    }

    /// Watches the device until it stays in one step for `limit`. Then it is given up for good: [`Engine::gone`] is cancelled.
    pub async fn watch_pulse(&self, limit: Duration) {
        loop {
            let at_it = self.pulse.running().map_or(Duration::ZERO, |step| step.elapsed());
            // Until then no step takes too long.
            let left = limit.saturating_sub(at_it);
            if left.is_zero() {
                self.hung.get_or_init(|| EngineError::Hung { seconds: limit.as_secs() });
                self.gone.cancel();
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Resolves when the device is given up because it does not come back, with [`EngineError::Hung`].
    pub async fn hung(&self) -> EngineError {
        self.gone.cancelled().await;
        match self.hung.get() {
            Some(hung) => hung.clone(),
            // The thread has ended, which those who wait for an answer are told.
            None => std::future::pending().await,
        }
    }

    /// Whether the device was given up because it does not come back.
    pub fn is_hung(&self) -> bool {
        self.hung.get().is_some()
    }

    /// Whether the device was given up because nothing can be computed there any more.
    pub fn is_broken(&self) -> bool {
        self.pulse.is_broken()
    }

    async fn ask<T>(&self, work: impl FnOnce(Reply<T>) -> Work) -> Result<T, EngineError> {
        let (reply, answer) = Reply::channel();
        self.inbox.send(work(reply)).map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "question_tests.rs"]
mod question_tests;

#[cfg(test)]
#[path = "time_tests.rs"]
mod time_tests;

#[cfg(test)]
#[path = "fault_tests.rs"]
pub(crate) mod fault_tests;
