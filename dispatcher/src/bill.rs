//! What work took and what that costs. Pure.
//!
//! The device's time, and its energy where workers measure it, are summed from rows. A machine is paid for while it waits, too: what counts as its time is when it had at
//! least one job of the run in hand, from the delivery of a job to its last row. Two runs that a worker does at the
//! same time are both billed for it.

use captionfleet_proto::outcome::JobOutcome;
use captionfleet_proto::rows::{RowKey, Status};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// What work took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effort {
    device_seconds: f64,
    joules: f64,
    /// Captions whose energy was measured.
    measured: u64,
    workers: BTreeMap<String, Times>,
}

/// When a worker had work: spans in microseconds since 1970, by their beginnings, none touching another.
#[derive(Debug, Clone, Default, PartialEq)]
struct Times(BTreeMap<i64, i64>);

/// The energy of devices while they computed. Not in it: the rest of the machines, and devices that wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Energy {
    /// Captions whose workers measured it.
    pub captions: u64,
    /// What it was for these, in joules.
    pub joules: f64,
    /// The same of 1,000 captions.
    pub joules_per_1000_captions: f64,
}

/// What a run came to in time, money and energy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Bill {
    /// Rows with a caption or answer.
    pub captions: u64,
    /// Seconds that devices computed.
    pub device_seconds: f64,
    /// Workers that took part.
    pub workers: u64,
    /// Hours in which they had jobs of the run in hand, all workers together.
    pub worker_hours: f64,
    /// The price of these hours; absent if no price per hour is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The price of 1,000 captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_per_1000_captions: Option<f64>,
    /// What devices used; absent if no worker measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
}

impl Effort {
    /// What the rows of a part tell. Rows of earlier versions tell nothing.
    pub fn of(rows: &[RowKey]) -> Self {
        let mut effort = Self::default();
        for row in rows {
            effort.device_seconds += row.device_seconds.map_or(0.0, f64::from);
            if let Some(joules) = row.device_joules {
                effort.joules += f64::from(joules);
                effort.measured += u64::from(row.status == Status::Ok);
            }
            if let (Some(worker), Some(start)) = (&row.worker, row.started_at) {
                effort.at_work(worker, start, row.finished_at);
            }
        }
        effort
    }

    /// What an outcome tells that came at `now`. A part that was found had been paid for by whoever made it.
    pub fn told(outcome: &JobOutcome, now: Timestamp) -> Self {
        let mut effort = Self {
            device_seconds: outcome.device_seconds.unwrap_or(0.0),
            joules: outcome.device_joules.unwrap_or(0.0),
            measured: outcome.device_joules.map_or(0, |_| outcome.ok),
            ..Self::default()
        };
        if !outcome.already_done {
            let took = SignedDuration::try_from_secs_f64(outcome.seconds).unwrap_or_default();
            effort.at_work(&outcome.worker, now.checked_sub(took).unwrap_or(now), now);
        }
        effort
    }

    /// Counts `other` as well.
    pub fn add(&mut self, other: &Self) {
        self.device_seconds += other.device_seconds;
        self.joules += other.joules;
        self.measured += other.measured;
        for (worker, times) in &other.workers {
            let own = self.workers.entry(worker.clone()).or_default();
            times.0.iter().for_each(|(start, end)| own.add(*start, *end));
        }
    }

    /// Seconds that devices computed.
    pub fn device_seconds(&self) -> f64 {
        self.device_seconds
    }

    /// Seconds in which workers had work, all together.
    pub fn worker_seconds(&self) -> f64 {
        self.workers.values().map(Times::seconds).sum()
    }

    /// The bill for so many captions at a price per hour. `None` if nothing is known of the effort.
    pub fn bill(&self, captions: u64, price_per_hour: Option<f64>) -> Option<Bill> {
        let worker_hours = self.worker_seconds() / 3600.0;
        let cost = price_per_hour.map(|price| price * worker_hours);
        (!self.workers.is_empty()).then(|| Bill {
            captions,
            device_seconds: self.device_seconds,
            workers: self.workers.len() as u64,
            worker_hours,
            cost,
            cost_per_1000_captions: cost.filter(|_| captions > 0).map(|cost| cost * 1000.0 / captions as f64),
            energy: self.energy(),
        })
    }

    fn energy(&self) -> Option<Energy> {
        (self.measured > 0).then(|| Energy {
            captions: self.measured,
            joules: self.joules,
            joules_per_1000_captions: self.joules * 1000.0 / self.measured as f64,
        })
    }

    fn at_work(&mut self, worker: &str, start: Timestamp, end: Timestamp) {
        let times = match self.workers.get_mut(worker) {
            Some(times) => times,
            None => self.workers.entry(worker.to_owned()).or_default(),
        };
        times.add(start.as_microsecond(), end.as_microsecond());
    }
}

impl Times {
    fn add(&mut self, mut start: i64, mut end: i64) {
        end = end.max(start);
        // Spans do not touch: whatever touches the new one lies before its end, from the last that does backwards.
        while let Some((&earlier, &until)) =
            self.0.range(..=end).next_back().filter(|(_, until)| **until >= start)
        {
            self.0.remove(&earlier);
            (start, end) = (start.min(earlier), end.max(until));
        }
        self.0.insert(start, end);
    }

    fn seconds(&self) -> f64 {
        self.0.iter().map(|(start, end)| (end - start) as f64 / 1e6).sum()
    }
}

impl Bill {
    /// In one line.
    pub fn text(&self) -> String {
        let workers = crate::output::counted(self.workers, "worker");
        let time =
            format!("{:.1} device seconds, {:.4} hours of {workers}", self.device_seconds, self.worker_hours);
        let money = match (self.cost, self.cost_per_1000_captions) {
            (Some(cost), Some(each)) => format!(": {cost:.4}, or {each:.4} per 1,000 captions"),
            (Some(cost), None) => format!(": {cost:.4}"),
            _ => String::new(),
        };
        let energy = self.energy.map_or(String::new(), |energy| {
            let (all, each) = (hours(energy.joules), hours(energy.joules_per_1000_captions));
            let of = if energy.captions == self.captions {
                String::new()
            } else {
                format!(", measured for {} of {} captions", energy.captions, self.captions)
            };
            format!("; {all} of the devices' energy, or {each} per 1,000 captions{of}")
        });
        format!("{time}{money}{energy}")
    }
}

/// Joules for people.
fn hours(joules: f64) -> String {
    let watt_hours = joules / 3600.0;
    if watt_hours < 1000.0 {
        format!("{watt_hours:.3} Wh")
    } else {
        format!("{:.3} kWh", watt_hours / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn effort(spans: &[(&str, i64, i64)]) -> Effort {
        let mut effort = Effort { device_seconds: 1.5, ..Effort::default() };
        for (worker, start, end) in spans {
            effort.at_work(worker, at(*start), at(*end));
        }
        effort
    }

    #[test]
    fn jobs_side_by_side_are_paid_once() {
        let spans = [("a", 0, 60), ("a", 30, 90), ("a", 100, 120), ("b", 0, 60), ("a", 200, 190)];
        for turn in 0..spans.len() {
            let mut spans = spans;
            spans.rotate_left(turn);
            assert_eq!(effort(&spans).worker_seconds(), 170.0, "{spans:?}");
        }
        assert_eq!(
            effort(&[("a", 0, 10), ("a", 20, 30), ("a", 5, 25), ("a", 30, 31)]).worker_seconds(),
            31.0
        );
    }

    #[test]
    fn a_sum_is_the_same_in_any_order() {
        let (one, other) = (effort(&[("a", 0, 60)]), effort(&[("a", 50, 70), ("b", 0, 5)]));
        let (mut first, mut second) = (one.clone(), other.clone());
        first.add(&other);
        second.add(&one);
        assert_eq!((&first, first.worker_seconds(), first.device_seconds()), (&second, 75.0, 3.0));
    }

    #[test]
    fn time_costs_money_if_there_is_a_price() {
        let effort = effort(&[("a", 0, 1800), ("b", 0, 1800)]);
        let bill = effort.bill(500, Some(0.3)).unwrap();
        assert_eq!((bill.workers, bill.worker_hours, bill.cost), (2, 1.0, Some(0.3)));
        assert!((bill.cost_per_1000_captions.unwrap() - 0.6).abs() < 1e-12);
        assert_eq!(effort.bill(500, None).unwrap().cost, None);
        assert_eq!(effort.bill(0, Some(0.3)).unwrap().cost_per_1000_captions, None);
        assert_eq!(Effort::default().bill(500, Some(0.3)), None, "rows that tell nothing are no gift");
    }

    fn outcome(joules: Option<f64>) -> JobOutcome {
        let mut outcome = json!({"version": "1.0", "job": "j", "run": "r", "ok": 40, "attempts": 1, "worker": "a", "seconds": 2.0});
        if let Some(joules) = joules {
            outcome["device_joules"] = joules.into();
        }
        serde_json::from_value(outcome).unwrap()
    }

    #[test]
    fn energy_is_told_of_those_who_measured_it() {
        let mut effort = Effort::told(&outcome(None), at(2));
        let bill = effort.bill(40, None).unwrap();
        assert_eq!(bill.energy, None);
        assert!(!bill.text().contains("energy") && !serde_json::to_string(&bill).unwrap().contains("energy"));
        effort.add(&Effort::told(&outcome(Some(7200.0)), at(4)));
        effort.add(&Effort::told(&outcome(Some(3600.0)), at(6)));
        let bill = effort.bill(120, None).unwrap();
        let energy = Energy { captions: 80, joules: 10_800.0, joules_per_1000_captions: 135_000.0 };
        assert_eq!(bill.energy, Some(energy));
        let told = "3.000 Wh of the devices' energy, or 37.500 Wh per 1,000 captions, measured for 80 of 120 captions";
        assert!(bill.text().ends_with(told), "{}", bill.text());
        assert!(effort.bill(80, Some(1.0)).unwrap().text().ends_with("37.500 Wh per 1,000 captions"));
        assert_eq!(hours(7.2e6), "2.000 kWh");
    }
}
