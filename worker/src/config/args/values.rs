//! Values with a form of their own.

use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::TypedValueParser;
use jiff::SignedDuration;

/// A number that cannot be zero.
pub(super) fn at_least_one() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|number| number as usize)
}

/// A time such as 90s or 1h30m.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| duration.try_into().ok());
    parsed
        .filter(|duration: &Duration| !duration.is_zero())
        .ok_or_else(|| "not a time; write 90s, 30m or 1h30m, for example".to_owned())
}

/// A number from 0 to 1.
pub(super) fn share(text: &str) -> Result<f32, String> {
    let share: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(|| "must be 0 to 1".to_owned())
}

/// A number from 0 to less than 1: something must be left.
pub(super) fn part(text: &str) -> Result<f32, String> {
    let part: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..1.0).contains(&part).then_some(part).ok_or_else(|| "must be 0 or more, and less than 1".to_owned())
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (number > 0.0 && number <= 1e6)
        .then_some(number)
        .ok_or_else(|| "must be above 0, up to 1000000".to_owned())
}

/// Seconds, none or a fraction included.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1000.0).contains(&seconds).then_some(seconds).ok_or_else(|| "must be 0 to 1000".to_owned())
}

/// A sum of money.
pub(super) fn price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1e6).contains(&price).then_some(price).ok_or_else(|| "must be 0 to 1000000".to_owned())
}

/// A number of bytes.
pub(super) fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "not a size; write 8GiB, 6.5GiB or 900MiB, for example".to_owned())
}

/// A worker's name: it stands in every row, in log lines and on pages.
pub(super) fn worker_name(text: &str) -> Result<String, String> {
    const MOST: usize = 128;
    let fits = !text.is_empty() && text.len() <= MOST && text.chars().all(|c| c.is_ascii_graphic());
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("must be 1 to {MOST} printable ASCII characters without spaces"))
}

#[cfg(test)]
mod tests {
    use super::worker_name;

    #[test]
    fn a_workers_name_is_one_short_word() {
        assert_eq!(worker_name("gpu-7/b"), Ok("gpu-7/b".to_owned()));
        for wrong in ["", "gpu 7", "gpu\n7", "größe", &"x".repeat(129)] {
            assert!(worker_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
