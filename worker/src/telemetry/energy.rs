//! How much energy the device uses, and what of it went into an answer.
//!
//! Devices count the energy of all that they do. An answer's part is its share of the device's time by the device's power
//! while its steps ran: whoever waits for the device or is answered in between pays for nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Registry};

use crate::engine::{DeviceTime, Leg};

/// How often the counter is read. GPUs update theirs about as often.
const READ_EVERY: Duration = Duration::from_millis(100);
/// How many readings are kept: those of some minutes, longer than a picture is on the device.
const KEPT: usize = 4096;
/// A counter that was read so long ago says nothing of now.
const STALE: Duration = Duration::from_secs(10);

/// What has been used up to a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The moment.
    pub at: Instant,
    /// Joules since another moment, which is the same for all readings.
    pub joules: f64,
}

/// Counts a device's energy.
pub trait EnergyCounter: Send + Sync {
    /// What it says now; `None` if it cannot be read at the moment.
    fn read(&self) -> Option<Reading>;
}

/// The counter of the GPU `index`, as the driver numbers them. `None` without one that counts: a program without NVIDIA's
/// library, a machine without a driver, a GPU before Volta.
#[cfg(feature = "nvml")]
pub fn gpu(index: usize) -> Option<Arc<dyn EnergyCounter>> {
    let index = u32::try_from(index).ok()?;
    let counter = Gpu { nvml: nvml_wrapper::Nvml::init().ok()?, index };
    counter.read()?;
    Some(Arc::new(counter))
}

/// This program was built without NVIDIA's library: it knows of no GPU.
#[cfg(not(feature = "nvml"))]
pub fn gpu(_: usize) -> Option<Arc<dyn EnergyCounter>> {
    None
}

#[cfg(feature = "nvml")]
struct Gpu {
    nvml: nvml_wrapper::Nvml,
    index: u32,
}

#[cfg(feature = "nvml")]
impl EnergyCounter for Gpu {
    fn read(&self) -> Option<Reading> {
        let millijoules = self.nvml.device_by_index(self.index).ok()?.total_energy_consumption().ok()?;
        Some(Reading { at: Instant::now(), joules: millijoules as f64 / 1000.0 })
    }
}

/// Reads a counter again and again for as long as somebody holds it.
#[derive(Debug)]
pub struct EnergyMeter {
    readings: Mutex<Readings>,
}

impl EnergyMeter {
    /// Begins to read `counter`, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(counter: Arc<dyn EnergyCounter>) -> std::io::Result<Arc<Self>> {
        let meter = Arc::new(Self { readings: Mutex::default() });
        let held = Arc::downgrade(&meter);
        std::thread::Builder::new().name("energy".to_owned()).spawn(move || read_on(&*counter, &held))?;
        Ok(meter)
    }

    /// Joules of an answer that took `device` of the device's time; `None` if they were not measured.
    pub fn joules_of(&self, device: &DeviceTime) -> Option<f64> {
        let readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        device
            .legs()
            .map(|(_, leg)| readings.joules_of(leg))
            .sum::<Option<f64>>()
            .filter(|_| readings.are_some())
    }
}

fn read_on(counter: &dyn EnergyCounter, held: &Weak<EnergyMeter>) {
    while let Some(meter) = held.upgrade() {
        if let Some(reading) = counter.read() {
            meter.readings.lock().unwrap_or_else(PoisonError::into_inner).add(reading);
        }
        drop(meter);
        std::thread::sleep(READ_EVERY);
    }
}

/// Readings in order of time, the latest ones.
#[derive(Debug, Default)]
struct Readings(VecDeque<Reading>);

impl Readings {
    fn add(&mut self, reading: Reading) {
        // A driver that was loaded anew counts from the beginning.
        if self.0.back().is_some_and(|last| reading.joules < last.joules) {
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(reading);
    }

    /// Whether they tell a power.
    fn are_some(&self) -> bool {
        self.0.len() > 1
    }

    fn joules_of(&self, leg: Leg) -> Option<f64> {
        Some(leg.seconds * self.watts(leg.began, leg.ended)?)
    }

    /// The mean power from the last reading before `began` to the first one after `ended`, or the nearest there are.
    fn watts(&self, began: Instant, ended: Instant) -> Option<f64> {
        let last = self.0.len().checked_sub(1).filter(|last| *last > 0)?;
        if began > self.0[last].at + STALE {
            return None;
        }
        let until = self.0.partition_point(|reading| reading.at < ended).clamp(1, last);
        let from = self.0.partition_point(|reading| reading.at <= began).saturating_sub(1).min(until - 1);
        let (from, until) = (self.0[from], self.0[until]);
        let seconds = (until.at - from.at).as_secs_f64();
        (seconds > 0.0).then(|| (until.joules - from.joules) / seconds)
    }
}

/// Declares `captionfleet_energy_joules_total`: what the device has used since it was declared.
pub fn tell_energy(registry: &Registry, energy: Arc<dyn EnergyCounter>) {
    let Some(Reading { joules: before, .. }) = energy.read() else { return };
    let help = "Energy that the GPU has used since this worker's model was ready.";
    let counter = Counter::new("captionfleet_energy_joules_total", help).expect("the name is a literal");
    // It is told once, when the model is ready.
    let _ = registry.register(Box::new(Used { energy, before, counter }));
}

struct Used {
    energy: Arc<dyn EnergyCounter>,
    before: f64,
    counter: Counter,
}

impl Collector for Used {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A device that does not answer now is asked again at the next scrape.
        if let Some(reading) = self.energy.read() {
            self.counter.inc_by((reading.joules - self.before - self.counter.get()).max(0.0));
        }
        self.counter.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::telemetry::metrics::text_of;

    /// Readings after so many milliseconds.
    fn readings(start: Instant, read: &[(u64, f64)]) -> Readings {
        let mut readings = Readings::default();
        for (ms, joules) in read {
            readings.add(Reading { at: start + Duration::from_millis(*ms), joules: *joules });
        }
        readings
    }

    #[test]
    fn power_is_that_of_the_readings_around() {
        let earlier = Instant::now();
        let start = earlier + STALE;
        let after = |ms| start + Duration::from_millis(ms);
        // 50 W, 200 W, 100 W.
        let readings = readings(start, &[(0, 7.0), (100, 12.0), (200, 32.0), (300, 42.0)]);
        let watts = |began, ended| readings.watts(began, ended).unwrap().round();
        assert_eq!(watts(after(10), after(90)), 50.0);
        assert_eq!(watts(after(100), after(200)), 200.0);
        assert_eq!(watts(after(150), after(160)), 200.0);
        assert_eq!(watts(after(150), after(250)), 150.0);
        assert_eq!(watts(after(0), after(300)), 117.0);
        // Before the first one and behind the last one the nearest power counts.
        assert_eq!(watts(earlier, earlier + STALE / 2), 50.0);
        assert_eq!(watts(after(310), after(350)), 100.0);
        assert_eq!(watts(after(250), after(400)), 100.0);
        let late = after(301) + STALE;
        assert_eq!(readings.watts(late, late), None);
    }

    #[test]
    fn one_reading_tells_no_power() {
        let start = Instant::now();
        for few in [&[][..], &[(0, 1.0)], &[(0, 9.0), (100, 10.0), (200, 1.0)]] {
            assert_eq!(readings(start, few).watts(start, start), None, "{few:?}");
        }
        let again = readings(start, &[(0, 9.0), (100, 10.0), (200, 1.0), (300, 2.0)]);
        assert_eq!(again.watts(start, start).unwrap().round(), 10.0, "a driver that was loaded anew");
    }

    #[test]
    fn only_the_latest_are_kept() {
        let start = Instant::now();
        let read: Vec<(u64, f64)> = (0..2 * KEPT as u64).map(|at| (at, at as f64)).collect();
        assert_eq!(readings(start, &read).0.len(), KEPT);
    }

    /// A counter that only says what it is told.
    struct Told(AtomicU64);

    impl EnergyCounter for Told {
        fn read(&self) -> Option<Reading> {
            let joules = self.0.load(Ordering::Relaxed);
            (joules < 100).then(|| Reading { at: Instant::now(), joules: joules as f64 })
        }
    }

    #[test]
    fn the_metric_is_what_was_used_since() {
        let (registry, told) = (Registry::new(), Arc::new(Told(AtomicU64::new(40))));
        tell_energy(&registry, told.clone());
        for (now, wanted) in [(40, 0), (55, 15), (200, 15), (57, 17), (41, 17)] {
            told.0.store(now, Ordering::Relaxed);
            let text = text_of(&registry);
            assert!(
                text.contains(&format!("\ncaptionfleet_energy_joules_total {wanted}\n")),
                "{now}: {text}"
            );
        }
    }

    #[test]
    fn a_meter_that_nobody_holds_reads_no_more() {
        let told = Arc::new(Told(AtomicU64::new(1)));
        let meter = EnergyMeter::start(told.clone()).unwrap();
        while meter.joules_of(&DeviceTime::default()).is_none() {
            std::thread::yield_now();
        }
        drop(meter);
        while Arc::strong_count(&told) > 1 {
            std::thread::yield_now();
        }
    }
}
