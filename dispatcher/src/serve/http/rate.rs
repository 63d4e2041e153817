//! How often one address may ask: a bucket of tokens each, filled at a steady rate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seconds of the rate that a bucket holds.
const BURST: f64 = 10.0;
/// Addresses that are remembered; those with full buckets are forgotten beyond it, then all.
const ADDRESSES: usize = 20_000;

/// The buckets.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Rate {
    /// Lets `per_second` requests of cost 1 through for each address.
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), buckets: Mutex::default() }
    }

    /// Takes `cost` tokens; otherwise after how many seconds to ask again.
    pub fn take(&self, address: IpAddr, cost: f64, now: Instant) -> Result<(), u64> {
        let full = self.per_second * BURST;
        let cost = cost.min(full);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES {
            buckets.retain(|_, bucket| self.filled(bucket, now) < full);
            if buckets.len() >= ADDRESSES {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(network(address)).or_insert(Bucket { tokens: full, filled: now });
        bucket.tokens = self.filled(bucket, now);
        bucket.filled = now;
        if bucket.tokens < cost {
            return Err(((cost - bucket.tokens) / self.per_second).ceil().max(1.0) as u64);
        }
        bucket.tokens -= cost;
        Ok(())
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.filled).as_secs_f64();
        (bucket.tokens + since * self.per_second).min(self.per_second * BURST)
    }
}

/// One customer of an IPv6 provider has a whole network of addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    #[test]
    fn a_burst_is_let_through_then_the_rate() {
        let (rate, now) = (Rate::new(1), Instant::now());
        let [one, other] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        assert_eq!(
            (0..10).map(|_| rate.take(one, 1.0, now)).collect::<Result<Vec<_>, _>>().map(drop),
            Ok(())
        );
        assert_eq!(rate.take(one, 1.0, now), Err(1));
        assert_eq!(rate.take(other, 10.0, now), Ok(()));
        assert_eq!(rate.take(other, 5.0, now), Err(5));
        assert_eq!(rate.take(one, 1.0, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn neighbours_in_an_ipv6_network_share_a_bucket() {
        let (rate, now) = (Rate::new(1), Instant::now());
        let address = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        assert_eq!(rate.take(address(1), 10.0, now), Ok(()));
        assert_eq!(rate.take(address(2), 1.0, now), Err(1));
    }
}
