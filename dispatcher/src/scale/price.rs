//! What work costs a device, as measured, by kind of work.
//!
//! An average moves with every job that settles and with nothing else: a fleet that has nothing to do for a day still knows what
//! its work costs, and an answer about one picture says nothing about films.

/// How much the jobs before count beside one that settles: half of them is forgotten after some thirty.
const KEPT: f64 = 0.98;
/// Seconds of a picture until something was measured, on a small GPU.
const ASSUMED_SECONDS: f64 = 0.25;
/// Pictures of a job until something was measured: those of `--job-size` where nobody said otherwise.
const ASSUMED_LOOKS: f64 = 64.0;

/// Kinds of work that cost differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Jobs of a run over pictures.
    Pictures,
    /// Jobs of a run with segments of films.
    Films,
    /// What somebody waits for, one picture at a time.
    Requests,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pictures, Self::Films, Self::Requests];

    /// The name, as in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pictures => "pictures",
            Self::Films => "films",
            Self::Requests => "requests",
        }
    }
}

/// Jobs of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// How many.
    pub jobs: u64,
    /// About how many pictures and frames they look at.
    pub looks: u64,
}

/// Jobs of runs that are not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenWork {
    /// Those over pictures.
    pub pictures: Work,
    /// Those with films.
    pub films: Work,
}

impl OpenWork {
    /// One more job.
    pub fn add(&mut self, kind: Kind, looks: u64) {
        let work = self.of(kind);
        *work = Work { jobs: work.jobs + 1, looks: work.looks + looks };
    }

    /// One job less.
    pub fn take(&mut self, kind: Kind, looks: u64) {
        let work = self.of(kind);
        *work = Work { jobs: work.jobs.saturating_sub(1), looks: work.looks.saturating_sub(looks) };
    }

    /// The work of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let sum =
            |one: Work, other: Work| Work { jobs: one.jobs + other.jobs, looks: one.looks + other.looks };
        Self { pictures: sum(self.pictures, other.pictures), films: sum(self.films, other.films) }
    }

    /// All jobs.
    pub fn jobs(self) -> u64 {
        self.pictures.jobs + self.films.jobs
    }

    /// Requests are in no run.
    fn of(&mut self, kind: Kind) -> &mut Work {
        if kind == Kind::Films { &mut self.films } else { &mut self.pictures }
    }
}

/// Sums over jobs, of which the later count more.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Average {
    seconds: f64,
    looks: f64,
    jobs: f64,
}

impl Average {
    fn note(&mut self, looks: f64, seconds: f64) {
        self.seconds = self.seconds * KEPT + seconds;
        self.looks = self.looks * KEPT + looks;
        self.jobs = self.jobs * KEPT + 1.0;
    }

    fn per_look(&self) -> Option<f64> {
        (self.looks > 0.0).then(|| self.seconds / self.looks)
    }

    fn per_job(&self) -> Option<f64> {
        (self.jobs > 0.0).then(|| self.seconds / self.jobs)
    }
}

/// What work costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    pictures: Average,
    films: Average,
    requests: Average,
    /// Jobs of runs, whatever kind: what a job costs of which nothing is known.
    any: Average,
}

impl Prices {
    /// A job of so many pictures and frames took so many seconds of its device. One for which nothing was computed says nothing
    /// about what computing costs.
    pub fn note(&mut self, kind: Kind, looks: u64, seconds: f64) {
        if looks == 0 || !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let looks = looks as f64;
        match kind {
            Kind::Pictures => self.pictures.note(looks, seconds),
            Kind::Films => self.films.note(looks, seconds),
            Kind::Requests => return self.requests.note(looks, seconds),
        }
        self.any.note(looks, seconds);
    }

    /// Seconds of a picture or frame of this kind: as measured, or else as the other kinds were, or else assumed. Never nothing.
    pub fn per_look(&self, kind: Kind) -> f64 {
        let own = match kind {
            Kind::Pictures => self.pictures,
            Kind::Films => self.films,
            Kind::Requests => self.requests,
        };
        let known = [own, self.pictures, self.any, self.requests];
        known.iter().find_map(Average::per_look).unwrap_or(ASSUMED_SECONDS)
    }

    /// Seconds of a job of a run of which nothing is known.
    pub fn per_job(&self) -> f64 {
        self.any.per_job().unwrap_or_else(|| self.per_look(Kind::Pictures) * ASSUMED_LOOKS)
    }

    /// Seconds of all this work.
    pub fn of(&self, work: OpenWork) -> f64 {
        let of = |kind, work: Work| work.looks as f64 * self.per_look(kind);
        of(Kind::Pictures, work.pictures) + of(Kind::Films, work.films)
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, OpenWork, Prices, Work};

    fn near(one: f64, other: f64) {
        assert!((one - other).abs() < 1e-9 * other.abs(), "{one} is not {other}");
    }

    #[test]
    fn until_something_was_measured_it_is_assumed() {
        let mut prices = Prices::default();
        assert_eq!((prices.per_look(Kind::Pictures), prices.per_job()), (0.25, 16.0));
        prices.note(Kind::Pictures, 10, 5.0);
        assert_eq!((prices.per_look(Kind::Pictures), prices.per_job()), (0.5, 5.0));
        assert_eq!((prices.per_look(Kind::Films), prices.per_look(Kind::Requests)), (0.5, 0.5));
    }

    #[test]
    fn a_cheap_answer_does_not_price_runs() {
        let mut prices = Prices::default();
        for _ in 0..50 {
            prices.note(Kind::Pictures, 64, 16.0);
            prices.note(Kind::Films, 100, 300.0);
        }
        let before = (prices.per_look(Kind::Pictures), prices.per_look(Kind::Films), prices.per_job());
        for _ in 0..1000 {
            prices.note(Kind::Requests, 1, 0.001);
        }
        near(before.0, 0.25);
        near(before.1, 3.0);
        let after = (prices.per_look(Kind::Pictures), prices.per_look(Kind::Films), prices.per_job());
        assert_eq!(after, before);
        near(prices.per_look(Kind::Requests), 0.001);
        assert!((16.0..300.0).contains(&prices.per_job()), "{}", prices.per_job());
    }

    #[test]
    fn a_job_counts_whole_however_long_it_took() {
        let mut prices = Prices::default();
        for _ in 0..100 {
            prices.note(Kind::Films, 600, 1200.0);
        }
        near(prices.per_job(), 1200.0);
        near(prices.of(OpenWork { films: Work { jobs: 3, looks: 1800 }, ..OpenWork::default() }), 3600.0);
    }

    #[test]
    fn later_jobs_count_more() {
        let mut prices = Prices::default();
        (0..200).for_each(|_| prices.note(Kind::Pictures, 64, 64.0));
        (0..35).for_each(|_| prices.note(Kind::Pictures, 64, 6.4));
        let half = prices.per_look(Kind::Pictures);
        assert!((0.5..0.6).contains(&half), "{half}");
        (0..300).for_each(|_| prices.note(Kind::Pictures, 64, 6.4));
        assert!(prices.per_look(Kind::Pictures) < 0.102);
    }

    #[test]
    fn what_was_not_computed_costs_what_is_computed() {
        let mut prices = Prices::default();
        prices.note(Kind::Pictures, 64, 32.0);
        let before = prices;
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            prices.note(Kind::Pictures, 64, seconds);
        }
        prices.note(Kind::Pictures, 0, 1.0);
        assert_eq!(prices, before);
    }

    #[test]
    fn work_is_added_and_taken_by_kind() {
        let mut open = OpenWork::default();
        open.add(Kind::Pictures, 64);
        open.add(Kind::Films, 300);
        open.add(Kind::Pictures, 10);
        assert_eq!((open.jobs(), open.pictures.looks, open.films.looks), (3, 74, 300));
        open.take(Kind::Pictures, 64);
        let both = open.and(open);
        assert_eq!((both.pictures, both.films), (Work { jobs: 2, looks: 20 }, Work { jobs: 2, looks: 600 }));
        open.take(Kind::Films, 300);
        open.take(Kind::Films, 300);
        assert_eq!(open.films, Work::default());
    }
}
