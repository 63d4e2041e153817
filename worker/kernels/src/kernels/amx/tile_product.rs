//! A panel of rows times a chunk of a tile of the matrix.
use std::{arch::asm, marker::PhantomData};

use super::Amx;
use crate::{
    cells::{Bf16Cell, Sums, TILE},
    inputs::{BLOCK, Bf16Input},
};

/// Rows of a tile register.
const REGISTER_ROWS: usize = 16;
/// Rows of a panel: two registers.
pub(crate) const PANEL_ROWS: usize = 2 * REGISTER_ROWS;
/// Cells of a block.
const CELLS: usize = BLOCK / 2;

/// Sums of a panel's rows for the outputs of a tile.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Accumulators(pub(crate) [Sums; PANEL_ROWS]);

impl Accumulators {
    pub(crate) const ZERO: Self = Self([[0.0; TILE]; PANEL_ROWS]);
}

static NOTHING: Accumulators = Accumulators::ZERO;

/// What LDTILECFG reads: palette 1, and for every register its rows and the bytes of a row; all zeros while nobody uses any.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    const UNUSED: Self =
        Self { palette: 0, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };

    /// Registers 0 to 3 are sums: rows of the panel's first and second half by outputs of the tile's first and second.
    /// Registers 4 and 5 are the panel's halves, 6 and 7 the tile's. Inputs come in pairs.
    fn new(rows: usize, pairs: usize) -> Self {
        let upper = rows.min(REGISTER_ROWS) as u8;
        // A register without rows is an error, even where nothing uses it.
        let lower = (rows.saturating_sub(REGISTER_ROWS) as u8).max(1);
        let (line, row, pairs) = (64, 4 * pairs as u16, pairs as u8);
        Self {
            palette: 1,
            row_bytes: [line, line, line, line, row, row, line, line, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [upper, upper, lower, lower, upper, lower, pairs, pairs, 0, 0, 0, 0, 0, 0, 0, 0],
            ..Self::UNUSED
        }
    }
}

/// The tile registers of this thread. Others in the process use them too (candle's products of some formats), and count on finding
/// them in the shapes that they gave them.
pub(crate) struct Tiles {
    found: Shapes,
    _of_this_thread: PhantomData<*const ()>,
}

impl Amx {
    /// Takes the tile registers until the value is dropped.
    #[expect(clippy::unused_self, reason = "the value is proof that the instructions exist")]
    pub(crate) fn tiles(self) -> Tiles {
        let mut found = Shapes::UNUSED;
        // SAFETY: `self` is proof of the instruction, which writes the 64 bytes of `found`.
        unsafe {
            asm!("sttilecfg [{found}]", found = in(reg) &raw mut found, options(nostack, preserves_flags))
        };
        Tiles { found, _of_this_thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction exists, or there would be no such value; it reads the 64 bytes that it wrote before. What registers
        // hold is lost, which no caller in this thread has a use for: it waits for this one.
        unsafe {
            asm!(
                "ldtilecfg [{found}]",
                found = in(reg) &raw const self.found,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl Tiles {
    /// Adds to `sums`, or to nothing if these are the first, the products of some cells of a tile with the same inputs of a panel: block
    /// by block, its `rows` side by side. The last block may be short.
    #[expect(clippy::unused_self, reason = "the value is proof that the registers are this product's")]
    pub(crate) fn add_products(
        &mut self,
        chunk: &[Bf16Cell],
        panel: &[Bf16Input],
        rows: usize,
        are_first: bool,
        sums: &mut Accumulators,
    ) {
        let whole = chunk.len() / CELLS;
        assert!((1..=PANEL_ROWS).contains(&rows), "a panel of {rows} rows");
        assert!(panel.len() >= chunk.len().div_ceil(CELLS) * rows, "a panel as long as the chunk");
        let (blocks, rest) = chunk.split_at(whole * CELLS);
        let to = sums.0.as_mut_ptr();
        let mut from = if are_first { NOTHING.0.as_ptr() } else { to.cast_const() };
        if !blocks.is_empty() {
            // SAFETY: the instructions exist, or there would be no `self`; `blocks` and the panel hold `whole` blocks.
            unsafe { multiply(&Shapes::new(rows, CELLS), blocks, panel, rows, (from, to)) };
            from = to;
        }
        if !rest.is_empty() {
            // SAFETY: as above; the shapes have as many pairs as there are cells.
            unsafe {
                multiply(&Shapes::new(rows, rest.len()), rest, &panel[whole * rows..], rows, (from, to))
            };
        }
    }
}

/// # Safety
/// The processor has the instructions, the process may use them, and a [`Tiles`] of this thread is in use. `cells` are a whole number
/// of blocks, or one short block of as many cells as `shapes` has pairs, and `panel` holds as many blocks of `rows` rows, which are
/// those of `shapes`. Sums are read from and written to the rows of [`Accumulators`].
unsafe fn multiply(
    shapes: &Shapes,
    cells: &[Bf16Cell],
    panel: &[Bf16Input],
    rows: usize,
    (from, to): (*const Sums, *mut Sums),
) {
    let blocks = cells.len().div_ceil(CELLS);
    /// The instructions of a panel of one register or two; their operands are the same.
    macro_rules! instructions {
        ($($line:literal)*) => {
            asm!(
                $($line,)*
                shapes = in(reg) shapes,
                from = in(reg) from,
                to = in(reg) to,
                cells = inout(reg) cells.as_ptr() => _,
                panel = inout(reg) panel.as_ptr() => _,
                blocks = inout(reg) blocks => _,
                step = in(reg) rows * size_of::<Bf16Input>(),
                line = in(reg) size_of::<Sums>(),
                row = in(reg) size_of::<Bf16Input>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: loads read `rows` rows of 64 bytes at most a block from the panel, and its cells; stores write rows of the sums, which
    // `shapes` keeps below their number.
    unsafe {
        if rows > REGISTER_ROWS {
            instructions!(
                "ldtilecfg [{shapes}]"
                "tileloadd tmm0, [{from} + {line}]"
                "tileloadd tmm1, [{from} + {line} + 64]"
                "tileloadd tmm2, [{from} + {line} + 2048]"
                "tileloadd tmm3, [{from} + {line} + 2112]"
                "2:"
                "tileloadd tmm6, [{cells} + {line}]"
                "tileloadd tmm4, [{panel} + {row}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm7, [{cells} + {line} + 64]"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm5, [{panel} + {row} + 1024]"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "add {cells}, 2048"
                "add {panel}, {step}"
                "dec {blocks}"
                "jnz 2b"
                "tilestored [{to} + {line}], tmm0"
                "tilestored [{to} + {line} + 64], tmm1"
                "tilestored [{to} + {line} + 2048], tmm2"
                "tilestored [{to} + {line} + 2112], tmm3"
            );
        } else {
            instructions!(
                "ldtilecfg [{shapes}]"
                "tileloadd tmm0, [{from} + {line}]"
                "tileloadd tmm1, [{from} + {line} + 64]"
                "2:"
                "tileloadd tmm6, [{cells} + {line}]"
                "tileloadd tmm4, [{panel} + {row}]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm7, [{cells} + {line} + 64]"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "add {cells}, 2048"
                "add {panel}, {step}"
                "dec {blocks}"
                "jnz 2b"
                "tilestored [{to} + {line}], tmm0"
                "tilestored [{to} + {line} + 64], tmm1"
            );
        }
    }
}
