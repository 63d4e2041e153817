//! Plays the scaling rule against arrivals, cold starts and a spot market, second by second.
//!
//! A job is worked on by one worker from its first picture to its part, as in the fleet; a worker that goes before that has
//! worked in vain, and the job begins again elsewhere. Interruptions come to each machine at random with a constant rate.

pub mod arrivals;
mod worker;

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use self::arrivals::{Arrival, LONGEST};
use self::worker::{Job, State, Worker};
use super::autoscaler::Autoscaler;
use super::rule::{Rule, Signal};

/// The world around the rule.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Device seconds of one item, as measured.
    pub seconds_per_item: f64,
    /// Items of a job.
    pub job_size: u64,
    /// Seconds from the order of a machine until it is there.
    pub provision: u64,
    /// Seconds from then until the worker is ready.
    pub load: u64,
    /// Interruptions per machine and hour.
    pub interruptions_per_hour: f64,
    /// Seconds at which a machine is taken away besides, without a notice.
    pub interrupt_at: Vec<u64>,
    /// Seconds between the notice of an interruption and the end; none is `kill -9`.
    pub notice: u64,
    /// Seconds that a worker may go on when it is sent away.
    pub grace: u64,
    /// Price of a machine's hour.
    pub price_per_hour: f64,
}

/// Who decides how many workers there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fleet {
    /// The rule.
    Scaled(Rule),
    /// Always so many: another is ordered for whichever is taken away.
    Fixed {
        /// How many.
        workers: u32,
        /// Ordered at the start, instead of being ready then.
        cold: bool,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// Seconds from the first arrival to the last row.
    pub seconds: u64,
    /// Seconds from a job's arrival to its rows: the median.
    pub wait_p50: u64,
    /// The same, for the 95th of a hundred.
    pub wait_p95: u64,
    /// Hours of machines paid for.
    pub gpu_hours: f64,
    /// Their price.
    pub cost: f64,
    /// Share of the paid time that made rows.
    pub useful: f64,
    /// Device seconds spent on jobs that had to begin again.
    pub wasted_seconds: f64,
    /// Machines that were taken away.
    pub interruptions: u64,
    /// The most workers at a time, those on their way included.
    pub most_workers: u32,
}

/// The fleet cannot do the work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the work is not done after {} days: more workers are needed, or fewer interruptions", LONGEST / 86_400)]
pub struct Hopeless;

/// Plays until all of `arrivals` are done and, under a rule, the last worker has gone.
///
/// # Errors
/// If the work is not done after three months.
pub fn play(world: &World, fleet: Fleet, arrivals: &[Arrival], seed: u64) -> Result<Outcome, Hopeless> {
    Play::new(world, fleet, arrivals, seed).run()
}

/// Who decides, with what it remembers.
enum Scaling {
    Rule(Autoscaler),
    Fixed(u32),
}

struct Play<'a> {
    world: &'a World,
    scaling: Scaling,
    arrivals: &'a [Arrival],
    dice: StdRng,
    queue: VecDeque<Job>,
    /// Device seconds of the jobs in the queue.
    queued: f64,
    workers: Vec<Worker>,
    /// Seconds that each finished job took since its items arrived.
    waits: Vec<u64>,
    paid: u64,
    useful: f64,
    wasted: f64,
    interruptions: u64,
    most: u32,
}

impl<'a> Play<'a> {
    fn new(world: &'a World, fleet: Fleet, arrivals: &'a [Arrival], seed: u64) -> Self {
        let (scaling, workers) = match fleet {
            Fleet::Scaled(rule) => (Scaling::Rule(Autoscaler::new(rule)), Vec::new()),
            Fleet::Fixed { workers, cold } => {
                let first = if cold { Worker::ordered(world.provision) } else { Worker::ready() };
                (Scaling::Fixed(workers), vec![first; workers as usize])
            }
        };
        Self {
            world,
            scaling,
            arrivals,
            dice: StdRng::seed_from_u64(seed),
            queue: VecDeque::new(),
            queued: 0.0,
            workers,
            waits: Vec::new(),
            paid: 0,
            useful: 0.0,
            wasted: 0.0,
            interruptions: 0,
            most: 0,
        }
    }

    fn run(mut self) -> Result<Outcome, Hopeless> {
        let mut done_at = 0;
        for now in 0..LONGEST {
            self.arrive(now);
            self.scale(now);
            self.most = self.most.max(self.workers.len() as u32);
            self.interrupt(now);
            self.work(now);
            if self.is_done() {
                // Under a rule the machines are paid for until they have gone.
                done_at = if done_at == 0 { now + 1 } else { done_at };
                if matches!(self.scaling, Scaling::Fixed(_)) || self.workers.is_empty() {
                    return Ok(self.outcome(done_at));
                }
            }
        }
        Err(Hopeless)
    }

    fn is_done(&self) -> bool {
        self.arrivals.is_empty()
            && self.queue.is_empty()
            && self.workers.iter().all(|worker| worker.job.is_none())
    }

    fn arrive(&mut self, now: u64) {
        while let Some((first, rest)) = self.arrivals.split_first()
            && first.at <= now
        {
            let mut left = first.items;
            while left > 0 {
                let items = left.min(self.world.job_size);
                let seconds = items as f64 * self.world.seconds_per_item;
                self.queue.push_back(Job { arrived: now, seconds });
                self.queued += seconds;
                left -= items;
            }
            self.arrivals = rest;
        }
    }

    fn signal(&self) -> Signal {
        // Sums of floats drift; an empty queue is empty.
        let waiting = if self.queue.is_empty() { 0.0 } else { self.queued.max(0.0) };
        let in_hand: f64 =
            self.workers.iter().filter_map(|worker| worker.job).map(|(job, _)| job.seconds).sum();
        Signal { backlog_gpu_seconds: waiting + in_hand, interactive_waiting: 0 }
    }

    fn scale(&mut self, now: u64) {
        let signal = self.signal();
        let members = self.workers.iter().filter(|worker| worker.is_member()).count() as u32;
        let wanted = match &mut self.scaling {
            Scaling::Rule(autoscaler) => autoscaler.look(now, signal, members),
            Scaling::Fixed(workers) => *workers,
        };
        for _ in members..wanted {
            self.workers.push(Worker::ordered(now + self.world.provision));
        }
        for _ in wanted..members {
            self.send_away(now);
        }
    }

    /// Sends one worker away: one that is not ready, else one without a job, else any.
    fn send_away(&mut self, now: u64) {
        let reluctance = |worker: &Worker| (worker.state == State::Ready, worker.job.is_some());
        let members = (0..self.workers.len()).filter(|at| self.workers[*at].is_member());
        let Some(at) = members.min_by_key(|at| reluctance(&self.workers[*at])) else { return };
        if self.workers[at].job.is_some() {
            self.workers[at].state = State::Draining { until: now + self.world.grace };
        } else {
            self.workers.remove(at);
        }
    }

    fn interrupt(&mut self, now: u64) {
        let chance = self.world.interruptions_per_hour / 3600.0;
        for at in (0..self.workers.len()).rev() {
            let worker = self.workers[at];
            if !worker.is_paid() || !worker.is_member() || !self.dice.random_bool(chance.min(1.0)) {
                continue;
            }
            self.interruptions += 1;
            if worker.job.is_some() && self.world.notice > 0 {
                let until = now + self.world.notice.min(self.world.grace);
                self.workers[at].state = State::Draining { until };
            } else {
                self.lose(at);
            }
        }
        for _ in self.world.interrupt_at.iter().filter(|at| **at == now) {
            // Idle ones last: what is lost with a busy one is what the question is about.
            let busy = |at: &usize| self.workers[*at].job.is_some();
            let paid = (0..self.workers.len()).filter(|at| self.workers[*at].is_paid());
            if let Some(at) = paid.max_by_key(busy) {
                self.interruptions += 1;
                self.lose(at);
            }
        }
        for at in (0..self.workers.len()).rev() {
            if matches!(self.workers[at].state, State::Draining { until } if until <= now) {
                self.lose(at);
            }
        }
    }

    /// The worker is gone; its job goes back to the head of the queue.
    fn lose(&mut self, at: usize) {
        if let Some((job, spent)) = self.workers.remove(at).job {
            self.wasted += spent;
            self.queued += job.seconds;
            self.queue.push_front(job);
        }
    }

    fn work(&mut self, now: u64) {
        for at in (0..self.workers.len()).rev() {
            let worker = &mut self.workers[at];
            self.paid += u64::from(worker.is_paid());
            worker.advance(now, self.world.load);
            self.work_a_second(at, now);
            if self.workers[at].job.is_none() && !self.workers[at].is_member() {
                self.workers.remove(at);
            }
        }
    }

    /// A second of one worker: the rest of its job, and as many more as fit.
    fn work_a_second(&mut self, at: usize, now: u64) {
        let worker = &mut self.workers[at];
        let mut left = 1.0;
        loop {
            if worker.job.is_none() && worker.state == State::Ready {
                worker.job = self.queue.pop_front().map(|job| (job, 0.0));
                self.queued -= worker.job.map_or(0.0, |(job, _)| job.seconds);
            }
            let Some((job, spent)) = &mut worker.job else { return };
            let needed = job.seconds - *spent;
            if needed > left {
                *spent += left;
                return;
            }
            left -= needed;
            self.useful += job.seconds;
            self.waits.push(now + 1 - job.arrived);
            worker.job = None;
        }
    }

    fn outcome(mut self, seconds: u64) -> Outcome {
        self.waits.sort_unstable();
        let quantile = |share: f64| {
            let at = ((self.waits.len() as f64 * share).ceil() as usize).saturating_sub(1);
            self.waits.get(at).copied().unwrap_or(0)
        };
        let gpu_hours = self.paid as f64 / 3600.0;
        Outcome {
            seconds,
            wait_p50: quantile(0.5),
            wait_p95: quantile(0.95),
            gpu_hours,
            cost: gpu_hours * self.world.price_per_hour,
            useful: if self.paid == 0 { 0.0 } else { (self.useful / self.paid as f64).min(1.0) },
            wasted_seconds: self.wasted,
            interruptions: self.interruptions,
            most_workers: self.most,
        }
    }
}

#[cfg(test)]
mod tests;
