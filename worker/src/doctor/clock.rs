//! The clock: whether this machine and the store agree about the time.
//!
//! Deadlines of questions, times in rows and the bill compare the clocks of several machines; S3 refuses requests whose time is a
//! quarter of an hour off. A broker tells nobody its time, a store tells when an object was written.

use std::time::Duration;

use jiff::Timestamp;

use super::Finding;

const WHAT: &str = "clock";
/// Nobody notices so much.
const FINE: Duration = Duration::from_secs(5);
/// So much later than they say do deadlines of questions end, because clocks differ.
const MARGIN: Duration = Duration::from_secs(60);
/// Stores tell times without fractions.
const GRAIN: Duration = Duration::from_secs(1);

/// Compares the time at which `place` says that it wrote an object with the time here, before and after.
pub(super) fn clock(
    place: &str,
    (before, after): (Timestamp, Timestamp),
    written: Option<Timestamp>,
) -> Finding {
    let Some(written) = written else {
        return Finding::warn(
            WHAT,
            format!("not compared: {place} does not tell when an object was written"),
        );
    };
    let beyond =
        |later: Timestamp, earlier: Timestamp| Duration::try_from(later.duration_since(earlier)).ok();
    let (ahead, behind) = (beyond(before, written), beyond(written, after));
    let (skew, direction) = match (ahead.map(|ahead| ahead.saturating_sub(GRAIN)), behind) {
        (_, Some(behind)) => (behind, "behind"),
        (Some(ahead), None) => (ahead, "ahead of"),
        (None, None) => (Duration::ZERO, "ahead of"),
    };
    let seconds = skew.as_secs();
    if skew <= FINE {
        return Finding::ok(WHAT, format!("within {} s of that of {place}", FINE.as_secs()));
    }
    let text = format!("{seconds} s {direction} that of {place}");
    let remedy = "set it by NTP (chrony, systemd-timesyncd)";
    if skew <= MARGIN {
        return Finding::warn(WHAT, format!("{text}: times in rows and bills are off by that; {remedy}"));
    }
    Finding::fail(
        WHAT,
        format!("{text}: questions are dropped unanswered, and S3 refuses requests; {remedy}"),
    )
}

/// There was nothing to compare it with.
pub fn no_clock() -> Finding {
    Finding::warn(WHAT, "not compared with any other: name a bucket with --archive s3://…")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn told(before: i64, after: i64, written: i64) -> String {
        let at = |second| Timestamp::from_second(1_800_000_000 + second).unwrap();
        clock("s3://b", (at(before), at(after)), Some(at(written))).to_string()
    }

    #[test]
    fn clocks_that_differ_are_told_with_the_direction() {
        for (before, after, written) in [(10, 12, 11), (10, 10, 9), (10, 10, 15), (10, 40, 25), (10, 10, 4)] {
            assert_eq!(told(before, after, written), "ok    clock: within 5 s of that of s3://b");
        }
        assert!(told(100, 101, 121).starts_with("warn  clock: 20 s behind that of s3://b: "));
        assert!(told(100, 101, 79).starts_with("warn  clock: 20 s ahead of that of s3://b: "));
        assert!(told(1000, 1001, 1).starts_with("fail  clock: 998 s ahead of that of s3://b: "));
        let silent = clock("s3://b", (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH), None).to_string();
        assert!(silent.starts_with("warn  clock: not compared"), "{silent}");
    }
}
