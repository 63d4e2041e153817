//! Jobs of kind `rerank`: how well a text describes each of some pictures. Like searches they are never retried: the asker
//! waits, and asks again.

use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobItem, Lane, Match, RerankJob, RerankReply, RerankResult, VERSION};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::budget::permit;
use super::fetch::Facts;
use super::search::{Told, engine_told, picture_told, told};
use super::task::{HandOver, Verdict};
use super::{Pipeline, Tally};
use crate::engine::MatchText;
use crate::telemetry::events;

impl Pipeline {
    /// Judges all pictures and replies, with the judgements or with the reason why there are none.
    pub(super) async fn rerank(&self, job: &Job, rerank: &RerankJob, hand_over: &HandOver) -> Verdict {
        let limit = self.options.hold_limit;
        let work = async {
            let late =
                |_| Err(("deadline", format!("not all was looked at within {} s", limit.as_secs_f64())));
            timeout(limit, self.matches(job, rerank, hand_over.lane)).await.unwrap_or_else(late)
        };
        let Some(judged) = self.while_awaited(job, &hand_over.message, work).await else {
            events::question_dropped(&self.metrics, "rerank", &job.id);
            return Verdict::Done;
        };
        let failure = judged.as_ref().err().map(|(code, message)| (*code, message.as_str()));
        events::question_answered(&self.metrics, "rerank", &job.id, hand_over.started.elapsed(), failure);
        Tally::add(&self.tally.jobs, 1);
        let result = match judged {
            Ok(matches) => RerankResult::Ok { matches, bundle: self.engine.info().bundle.clone() },
            Err((code, message)) => RerankResult::Err { code: code.to_owned(), message },
        };
        let reply = RerankReply { version: VERSION.to_owned(), job: job.id.clone(), result };
        self.reply(&hand_over.message, &job.id, codec::encode_rerank_reply(&reply)).await;
        Verdict::Done
    }

    async fn matches(&self, job: &Job, rerank: &RerankJob, lane: Lane) -> Result<Vec<Match>, Told> {
        self.check_bundle(job).map_err(|failure| told(&failure))?;
        let text = self.engine.match_text(&rerank.text).map_err(|error| engine_told(&error))?;
        let judge = |item| self.judge(item, &text, lane).boxed();
        let judging: Vec<_> = rerank.items.iter().map(judge).collect();
        Ok(futures::stream::iter(judging).buffered(self.budgets.of(lane).width).collect().await)
    }

    async fn judge(&self, item: &JobItem, text: &MatchText, lane: Lane) -> Match {
        let _place = permit(&self.budgets.of(lane).pictures).await;
        let _company = self.isolation.read().await;
        let limit = self.options.item_deadline;
        let looked = async {
            let picture = self.fetch(item, lane, true, &mut Facts::planned(item)).await;
            let picture = picture.map_err(picture_told)?;
            self.engine.match_picture(picture, text).await.map_err(|error| engine_told(&error))
        };
        let late = |_| Err(("deadline", format!("not looked at within {} s", limit.as_secs_f64())));
        match timeout(limit, looked).await.unwrap_or_else(late) {
            Ok(log_odds) => Match::Judged { log_odds },
            Err((code, message)) => Match::Failed { code: code.to_owned(), message },
        }
    }
}
