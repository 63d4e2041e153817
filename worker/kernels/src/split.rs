//! How a product is cut into panels of rows and shared among threads.
use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::cells::TILE;

/// Multiplications that pay for waking another thread.
const WORTH_A_THREAD: usize = 64 * 1024;

/// Bytes of activations that stay in the second-level cache beside a tile.
const CACHED: usize = 256 * 1024;

/// Rows in panels of nearly equal size: the first few have one row more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    count: usize,
    rows: usize,
    longer: usize,
}

impl Panels {
    /// As few panels as possible of at most `most` rows.
    pub(crate) fn new(rows: usize, most: usize) -> Self {
        let count = rows.div_ceil(most).max(1);
        Self { count, rows: rows / count, longer: rows % count }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Rows of a panel.
    pub(crate) fn rows(&self, panel: usize) -> Range<usize> {
        let start = |panel: usize| panel * self.rows + panel.min(self.longer);
        start(panel)..start(panel + 1)
    }

    /// Rows that the longer panels hold together, and how many each of them holds; the same of the
    /// others.
    pub(crate) fn parts(&self) -> [(usize, usize); 2] {
        let longer = self.rows + 1;
        [(self.longer * longer, longer), ((self.count - self.longer) * self.rows, self.rows)]
    }
}

/// The tasks of a product: some panels times some tiles each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tasks {
    panels: usize,
    tiles: usize,
    panels_each: usize,
    tiles_each: usize,
}

impl Tasks {
    /// Tasks for `threads` threads. Panels of one task stay in the cache while its tiles pass.
    pub(crate) fn new(panels: usize, panel_bytes: usize, tiles: usize, threads: usize) -> Self {
        let panels_each = (CACHED / panel_bytes.max(1)).clamp(1, panels);
        // Even groups rather than full ones and a rest.
        let panels_each = panels.div_ceil(panels.div_ceil(panels_each));
        let groups = panels.div_ceil(panels_each);
        // Several tasks a thread, so that one that was held up leaves its share to the others.
        let shares = if threads == 1 { 1 } else { (8 * threads).div_ceil(groups) };
        Self { panels, tiles, panels_each, tiles_each: tiles.div_ceil(shares).max(1) }
    }

    fn count(&self) -> usize {
        self.panels.div_ceil(self.panels_each) * self.tiles.div_ceil(self.tiles_each)
    }

    /// Panels and tiles of a task. Neighbours share their panels.
    fn task(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let across = self.tiles.div_ceil(self.tiles_each);
        let (panels, tiles) = (index / across * self.panels_each, index % across * self.tiles_each);
        (
            panels..(panels + self.panels_each).min(self.panels),
            tiles..(tiles + self.tiles_each).min(self.tiles),
        )
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
    fn panels_cover_the_rows_evenly() {
        for rows in 1..100 {
            for most in 1..13 {
                let panels = Panels::new(rows, most);
                let mut next = 0;
                for panel in 0..panels.count() {
                    let range = panels.rows(panel);
                    assert_eq!(range.start, next);
                    assert!(!range.is_empty() && range.len() <= most, "{rows} {most}");
                    next = range.end;
                }
                assert_eq!(next, rows);
                let [longer, shorter] = panels.parts();
                assert_eq!(longer.0 + shorter.0, rows);
            }
        }
    }

    #[test]
    fn tasks_cover_the_product_once() {
        for (panels, bytes, tiles, threads) in
            [(1, 100, 1, 1), (1, 100, 100, 3), (43, 50_000, 44, 2), (7, 1 << 20, 3, 64), (40, 10_000, 80, 2)]
        {
            let seen = Mutex::new(vec![0; panels * tiles]);
            Tasks::new(panels, bytes, tiles, threads).run(threads, |some, others| {
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
