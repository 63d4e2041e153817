//! The rows of a step, from the requests that it is for.

use std::borrow::Cow;

use captionfleet_model::{DecodeRow, PrefillRow};

use super::DeviceThread;
use crate::engine::EngineError;
use crate::engine::request::Work;
use crate::engine::scheduler::Seat;
use crate::engine::sequence::Sequence;
use crate::engine::step::Wanted;

impl DeviceThread {
    /// Seats of the same adapter side by side: each adapter's products run once a step. No row's numbers depend on it.
    pub(super) fn by_adapter<'a>(&self, seats: &'a [Seat]) -> Cow<'a, [Seat]> {
        let digest =
            |seat: &Seat| self.live.get(&seat.request)?.work.adapter().map(|adapter| adapter.digest());
        if seats.iter().all(|seat| digest(seat).is_none()) {
            return Cow::Borrowed(seats);
        }
        let mut sorted = seats.to_vec();
        sorted.sort_by_key(digest);
        Cow::Owned(sorted)
    }

    pub(super) fn prefill_rows(&self, seats: &[Seat]) -> Result<Vec<PrefillRow>, EngineError> {
        seats
            .iter()
            .map(|seat| {
                let (sequence, seen) = self
                    .live
                    .get(&seat.request)
                    .and_then(|live| live.sequence.as_ref().zip(live.seen.as_ref()))
                    .ok_or_else(|| EngineError::Model("a prompt came before its picture".to_owned()))?;
                let embeds = self.loaded.model.embed_prompt(sequence.prompt(), &seen.image_tokens)?;
                let adapter = self.live.get(&seat.request).and_then(|live| live.work.adapter().cloned());
                Ok(PrefillRow { slot: seat.slot, embeds, adapter })
            })
            .collect()
    }

    /// Of each seat whether its sequence takes the likeliest token, whatever it is.
    pub(super) fn likeliest_is_enough(&self, seats: &[Seat]) -> Vec<bool> {
        let sequence = |seat: &Seat| self.live.get(&seat.request)?.sequence.as_ref();
        seats.iter().map(|seat| sequence(seat).is_some_and(Sequence::takes_the_likeliest)).collect()
    }

    pub(super) fn decode_rows(&self, seats: &[Seat]) -> Result<Vec<DecodeRow>, EngineError> {
        seats
            .iter()
            .map(|seat| {
                let token = self
                    .live
                    .get(&seat.request)
                    .and_then(|live| live.sequence.as_ref()?.last_token())
                    .ok_or_else(|| EngineError::Model("a sequence went on before its prompt".to_owned()))?;
                Ok(DecodeRow { slot: seat.slot, token })
            })
            .collect()
    }
}

pub(super) fn wanted(work: &Work) -> Option<Wanted<'_>> {
    match work {
        Work::Caption { request, .. } => Some(Wanted {
            picture: &request.picture,
            caption: true,
            embed: request.embed,
            adapter: request.adapter.as_ref(),
            text: None,
        }),
        Work::Picture { picture, .. } => Some(Wanted::embedding(picture)),
        Work::Match { picture, text, .. } => {
            Some(Wanted { embed: false, text: Some(&text.0), ..Wanted::embedding(picture) })
        }
        Work::Text { .. } => None,
    }
}
