//! How a product is cut into panels of rows and shared among threads.
use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::cells::TILE;

/// Multiplications that pay for waking another thread.
const WORTH_A_THREAD: usize = 64 * 1024;

/// Bytes of activations that stay in any processor's second-level cache beside a tile.
pub(crate) const CACHED: usize = 256 * 1024;

/// Rows in panels: the first few of one size, the others of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    first: Part,
    others: Part,
}

/// Panels of one size.
#[derive(Clone, Copy, Debug)]
struct Part {
    panels: usize,
    rows: usize,
}

impl Panels {
    /// As few panels as possible of at most `most` rows, of nearly equal size.
    pub(crate) fn even(rows: usize, most: usize) -> Self {
        let count = rows.div_ceil(most).max(1);
        let (rows, longer) = (rows / count, rows % count);
        let first = Part { panels: longer, rows: rows + 1 };
        Self { first, others: Part { panels: count - longer, rows } }
    }

    /// Panels of `most` rows, and one of what is left.
    #[cfg(any(test, target_arch = "x86_64"))]
    pub(crate) fn full(rows: usize, most: usize) -> Self {
        let rest = rows % most;
        let first = Part { panels: rows / most, rows: most };
        Self { first, others: Part { panels: usize::from(rest > 0), rows: rest.max(1) } }
    }

    pub(crate) fn count(&self) -> usize {
        self.first.panels + self.others.panels
    }

    /// Rows of a panel.
    pub(crate) fn rows(&self, panel: usize) -> Range<usize> {
        let start = |panel: usize| {
            let first = panel.min(self.first.panels);
            first * self.first.rows + (panel - first) * self.others.rows
        };
        start(panel)..start(panel + 1)
    }

    /// Rows that the first panels hold together, and how many each of them holds; the same of the others.
    pub(crate) fn parts(&self) -> [(usize, usize); 2] {
        [self.first, self.others].map(|part| (part.panels * part.rows, part.rows))
    }
}

/// The tasks of a product: some panels times some tiles each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tasks {
    panels: usize,
    tiles: usize,
    panels_each: usize,
    /// Tasks that share some panels and divide the tiles.
    shares: usize,
}

impl Tasks {
    /// Tasks for `threads` threads of at most `most_panels`, at least one: as many as stay in the cache while tiles pass. None has
    /// fewer than `few` tiles, as long as there are enough for all threads.
    pub(crate) fn new(panels: usize, most_panels: usize, tiles: usize, few: usize, threads: usize) -> Self {
        let panels_each = most_panels.clamp(1, panels);
        // Even groups rather than full ones and a rest.
        let panels_each = panels.div_ceil(panels.div_ceil(panels_each));
        let groups = panels.div_ceil(panels_each);
        // Several tasks a thread, so that one that was held up leaves its share to the others.
        let shares = if threads == 1 { 1 } else { (8 * threads).div_ceil(groups) };
        let shares = shares.min((tiles / few).max(threads.div_ceil(groups)));
        // As many for each thread.
        let shares = if shares > threads { shares / threads * threads } else { shares };
        Self { panels, tiles, panels_each, shares: shares.clamp(1, tiles) }
    }

    fn count(&self) -> usize {
        self.panels.div_ceil(self.panels_each) * self.shares
    }

    /// Panels and tiles of a task. Neighbours share their panels.
    fn task(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let (panels, share) = (index / self.shares * self.panels_each, index % self.shares);
        let start = |share| share * self.tiles / self.shares;
        (panels..(panels + self.panels_each).min(self.panels), start(share)..start(share + 1))
    }

    /// Does every task once, on the threads of the current pool.
    pub(crate) fn run(&self, threads: usize, work: impl Fn(Range<usize>, Range<usize>) + Sync) {
        let count = self.count();
        let next = AtomicUsize::new(0);
        let take = || loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let (panels, tiles) = self.task(index);
            work(panels, tiles);
        };
        let threads = threads.min(count);
        if threads <= 1 {
            return take();
        }
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| take());
            }
            take();
        });
    }
}

/// Threads of the current pool that a product of this size pays for.
pub(crate) fn threads(rows: usize, inputs: usize, tiles: usize) -> usize {
    let work = rows.saturating_mul(inputs).saturating_mul(tiles * TILE);
    if work < 2 * WORTH_A_THREAD { 1 } else { rayon::current_num_threads().min(work / WORTH_A_THREAD) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn panels_cover_the_rows() {
        for rows in 1..100 {
            for most in 1..13 {
                for panels in [Panels::even(rows, most), Panels::full(rows, most)] {
                    let mut next = 0;
                    for panel in 0..panels.count() {
                        let range = panels.rows(panel);
                        assert_eq!(range.start, next);
                        assert!(!range.is_empty() && range.len() <= most, "{rows} {most}");
                        next = range.end;
                    }
                    assert_eq!(next, rows);
                    let [first, others] = panels.parts();
                    assert_eq!(first.0 + others.0, rows);
                }
            }
        }
    }

    #[test]
    fn tasks_cover_the_product_once() {
        for (panels, most, tiles, group, threads) in
            [(1, 9, 1, 1, 1), (1, 9, 100, 4, 3), (43, 5, 44, 1, 2), (7, 0, 3, 4, 64), (40, 26, 81, 2, 2)]
        {
            let seen = Mutex::new(vec![0; panels * tiles]);
            Tasks::new(panels, most, tiles, group, threads).run(threads, |some, others| {
                let mut seen = seen.lock().expect("no panic above");
                for panel in some {
                    for tile in others.clone() {
                        seen[panel * tiles + tile] += 1;
                    }
                }
            });
            assert!(seen.into_inner().expect("no panic above").iter().all(|&times| times == 1));
        }
    }
}
