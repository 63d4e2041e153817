//! What a plan will take of fleets of given sizes, at rates that were measured.

use serde::Serialize;

/// What one picture or captioned frame takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Seconds that the device computes; unknown where only the whole was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_seconds: Option<f64>,
    /// Seconds of a worker with enough to do, its waits for storage included.
    pub worker_seconds: f64,
}

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount {
    /// Pictures, and frames that are captioned.
    pub looks: u64,
    /// Seconds that decoding films takes a worker, however many of their frames are captioned.
    pub film_seconds: f64,
    /// Jobs that they are shared out in.
    pub jobs: u64,
}

/// What one fleet needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Needs {
    /// Workers.
    pub workers: u32,
    /// Wall time in seconds, from when they are ready.
    pub seconds: f64,
    /// Hours of all workers together.
    pub worker_hours: f64,
    /// The price of these hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

/// What `workers` alike need for `amount`. The last jobs leave some of them without work; that time is not billed, because
/// whoever has none is sent away.
pub fn needs(amount: Amount, rate: Rate, workers: u32, price_per_hour: Option<f64>) -> Needs {
    let work = amount.looks as f64 * rate.worker_seconds + amount.film_seconds;
    let most = amount.jobs.div_ceil(u64::from(workers.max(1)));
    let worker_hours = work / 3600.0;
    Needs {
        workers,
        seconds: work * most as f64 / amount.jobs.max(1) as f64,
        worker_hours,
        cost: price_per_hour.map(|price| price * worker_hours),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { device_seconds: Some(0.2), worker_seconds: 0.25 };

    #[test]
    fn work_is_shared_out_by_jobs() {
        let amount = Amount { looks: 6400, film_seconds: 0.0, jobs: 100 };
        let seconds = |workers| needs(amount, RATE, workers, None).seconds;
        assert_eq!((seconds(1), seconds(4), seconds(16)), (1600.0, 400.0, 112.0));
        assert_eq!(seconds(1000), 16.0, "no job is shared");
    }

    #[test]
    fn the_price_is_that_of_the_work() {
        let amount = Amount { looks: 14_400, film_seconds: 0.0, jobs: 225 };
        for workers in [1, 16] {
            let needs = needs(amount, RATE, workers, Some(0.5));
            assert_eq!((needs.worker_hours, needs.cost), (1.0, Some(0.5)));
        }
        let nothing = Amount { looks: 0, film_seconds: 0.0, jobs: 0 };
        assert_eq!(needs(nothing, RATE, 4, Some(0.5)).seconds, 0.0);
    }

    #[test]
    fn a_still_film_takes_the_time_of_looking_at_it() {
        let amount = Amount { looks: 40, film_seconds: 90.0, jobs: 10 };
        assert_eq!(needs(amount, RATE, 1, None).seconds, 100.0);
        assert_eq!(needs(amount, RATE, 5, None).seconds, 20.0);
    }
}
