//! When work arrives.

use std::f64::consts::TAU;
use std::str::FromStr;

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Seconds after which a fleet is called too small for what has come: no simulation goes further.
pub(super) const LONGEST: u64 = 90 * DAY;
/// Bursts of [`Shape::Bursts`], and the seconds between them.
const BURSTS: u64 = 6;
const BETWEEN_BURSTS: u64 = 7200;
/// How fine [`Shape::Daily`] and [`Shape::Steady`] are, in seconds.
const GRAIN: u64 = 60;

/// So many items at a time, given in seconds from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Seconds from the start.
    pub at: u64,
    /// Items.
    pub items: u64,
}

/// How the items are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// All of them at once.
    Burst,
    /// In six parts, two hours apart.
    Bursts,
    /// Over two days, most at noon and none at midnight.
    Daily,
    /// Evenly over a day.
    Steady,
}

impl Shape {
    /// `items` in this shape, in order of time.
    pub fn arrivals(self, items: u64) -> Vec<Arrival> {
        match self {
            Self::Burst => vec![Arrival { at: 0, items }],
            Self::Bursts => spread(items, BURSTS, BETWEEN_BURSTS, |_| 1.0),
            Self::Daily => {
                spread(items, 2 * DAY / GRAIN, GRAIN, |at| 1.0 - (TAU * at as f64 / DAY as f64).cos())
            }
            Self::Steady => spread(items, DAY / GRAIN, GRAIN, |_| 1.0),
        }
    }
}

/// `items` over `parts`, `between` seconds apart, each with a share that goes with `weight`; their sum is exact.
fn spread(items: u64, parts: u64, between: u64, weight: impl Fn(u64) -> f64) -> Vec<Arrival> {
    let total: f64 = (0..parts).map(|part| weight(part * between)).sum();
    let (mut arrivals, mut weighed, mut given) = (Vec::new(), 0.0, 0);
    for part in 0..parts {
        let at = part * between;
        weighed += weight(at);
        let until = if part + 1 == parts { items } else { (items as f64 * weighed / total).round() as u64 };
        if until > given {
            arrivals.push(Arrival { at, items: until - given });
            given = until;
        }
    }
    arrivals
}

/// Why a file tells no arrivals.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoArrivals {
    /// A line that is none.
    #[error("line {line}: `{text}` is not `SECONDS,ITEMS` with whole numbers, later than the line before")]
    Malformed {
        /// Its number, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// An arrival that no simulation comes to.
    #[error("line {line}: more than {} days after the first arrival; leave it and those behind it out", LONGEST / DAY)]
    TooLate {
        /// Its number, from 1.
        line: usize,
    },
}

/// Reads lines of `seconds,items`; empty lines and those that begin with `#` say nothing. Time begins with the first arrival: a trace may
/// have been cut out of a longer one.
///
/// # Errors
/// Names the first line that is neither, that goes back in time, or that is beyond three months.
pub fn parse(text: &str) -> Result<Vec<Arrival>, NoArrivals> {
    let (mut arrivals, mut first): (Vec<Arrival>, Option<u64>) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || NoArrivals::Malformed { line: number + 1, text: line.chars().take(60).collect() };
        let (at, items) = line.split_once(',').ok_or_else(wrong)?;
        let whole = |text: &str| u64::from_str(text.trim()).map_err(|_| wrong());
        let (at, items) = (whole(at)?, whole(items)?);
        let at = at.checked_sub(*first.get_or_insert(at)).ok_or_else(wrong)?;
        let arrival = Arrival { at, items };
        if arrivals.last().is_some_and(|last| last.at > arrival.at) {
            return Err(wrong());
        }
        if arrival.at >= LONGEST {
            return Err(NoArrivals::TooLate { line: number + 1 });
        }
        arrivals.push(arrival);
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Arrival, NoArrivals, Shape, parse};

    #[test]
    fn every_shape_brings_every_item_in_order() {
        for shape in [Shape::Burst, Shape::Bursts, Shape::Daily, Shape::Steady] {
            for items in [1, 7, 100_003] {
                let arrivals = shape.arrivals(items);
                assert_eq!(arrivals.iter().map(|arrival| arrival.items).sum::<u64>(), items, "{shape:?}");
                assert!(arrivals.is_sorted_by_key(|arrival| arrival.at), "{shape:?}");
            }
        }
        let daily = Shape::Daily.arrivals(1_000_000);
        let around = |hour: u64| {
            daily.iter().filter(|arrival| arrival.at / 3600 == hour).map(|a| a.items).sum::<u64>()
        };
        assert!(around(12) > 20 * around(0), "noon {} midnight {}", around(12), around(0));
    }

    #[test]
    fn a_file_is_read_or_refused_by_line() {
        let read = parse("# a comment\n\n0,100\n 60 , 5\n").unwrap();
        assert_eq!(read, [Arrival { at: 0, items: 100 }, Arrival { at: 60, items: 5 }]);
        for (text, line) in [("0,1\nx", 2), ("5,1\n4,1", 2), ("-1,2", 1), ("1,2,3", 1), ("1;2", 1)] {
            let refused = parse(text).unwrap_err();
            assert!(
                matches!(refused, NoArrivals::Malformed { line: at, .. } if at == line),
                "{text}: {refused}"
            );
        }
        assert_eq!(
            parse("3600,100\n3660,5").unwrap(),
            [Arrival { at: 0, items: 100 }, Arrival { at: 60, items: 5 }]
        );
        assert_eq!(parse("7,1\n7776007,1"), Err(NoArrivals::TooLate { line: 2 }));
        assert!(parse("7,1\n7776006,1").is_ok());
    }
}
