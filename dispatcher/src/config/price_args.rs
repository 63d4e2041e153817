//! What a machine costs: the same setting for whoever reckons with it.

use clap::Args;

/// The price of a worker's machine.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct PriceArgs {
    /// What an hour of a worker's machine costs, in any currency: then money is told, too
    #[arg(long, value_name = "PRICE", env = "CAPTIONFLEET_PRICE_PER_HOUR", value_parser = price)]
    pub price_per_hour: Option<f64>,
}

/// A price from 0 to a million.
pub(super) fn price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1e6).contains(&price).then_some(price).ok_or_else(|| "must be 0 to 1000000".to_owned())
}
