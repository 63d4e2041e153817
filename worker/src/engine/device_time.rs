//! What one request took of the device: when each kind of step began and ended for it, and its share of their time.

use std::time::Instant;

use super::Stage;

/// The steps of one kind that a request was part of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leg {
    /// When the first of them began.
    pub began: Instant,
    /// When the last of them ended. Others ran on the device in between.
    pub ended: Instant,
    /// How many there were.
    pub steps: u32,
    /// This request's share of their time in seconds: a step's time is shared out evenly among its rows.
    pub seconds: f64,
}

/// What a request took of the device. All shares together are the time that the device computed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DeviceTime {
    vision: Option<Leg>,
    prefill: Option<Leg>,
    decode: Option<Leg>,
}

impl DeviceTime {
    /// Counts a step of `rows` rows, of which the request was one. `elsewhere` are the seconds between its beginning and its
    /// end in which the device answered others.
    pub(super) fn add_step(
        &mut self,
        stage: Stage,
        (began, ended): (Instant, Instant),
        elsewhere: f64,
        rows: usize,
    ) {
        let seconds = ((ended - began).as_secs_f64() - elsewhere).max(0.0) / rows.max(1) as f64;
        self.add(stage, Leg { began, ended, steps: 1, seconds });
    }

    /// The same request's other answers.
    pub(super) fn and(mut self, other: &Self) -> Self {
        for (stage, leg) in other.legs() {
            self.add(stage, leg);
        }
        self
    }

    fn add(&mut self, stage: Stage, leg: Leg) {
        let place = match stage {
            Stage::Vision => &mut self.vision,
            Stage::Prefill => &mut self.prefill,
            Stage::Decode => &mut self.decode,
            // Queries are not captions, and the null engine has no device.
            Stage::Text | Stage::Null => return,
        };
        *place = Some(place.map_or(leg, |before| Leg {
            began: before.began.min(leg.began),
            ended: before.ended.max(leg.ended),
            steps: before.steps + leg.steps,
            seconds: before.seconds + leg.seconds,
        }));
    }

    /// The legs that there were, in their order. A picture that was seen a moment ago needs no vision step.
    pub fn legs(&self) -> impl Iterator<Item = (Stage, Leg)> + use<> {
        let legs =
            [(Stage::Vision, self.vision), (Stage::Prefill, self.prefill), (Stage::Decode, self.decode)];
        legs.into_iter().filter_map(|(stage, leg)| Some((stage, leg?)))
    }

    /// The request's share of the device's time in seconds.
    pub fn seconds(&self) -> f64 {
        self.legs().map(|(_, leg)| leg.seconds).sum()
    }
}
