//! A panel of rows times a chunk of a tile of the matrix.
use std::arch::asm;

use super::{
    Amx, CELLS,
    registers::{Registers, Shapes},
};
use crate::{
    cells::{Bf16Cell, Sums, TILE},
    inputs::Bf16Input,
};

/// Rows of a tile register.
const REGISTER_ROWS: usize = 16;
/// Rows of a panel: two registers.
pub(crate) const PANEL_ROWS: usize = 2 * REGISTER_ROWS;

/// Sums of a panel's rows for the outputs of a tile.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Accumulators(pub(crate) [Sums; PANEL_ROWS]);

impl Accumulators {
    pub(crate) const ZERO: Self = Self([[0.0; TILE]; PANEL_ROWS]);
}

static NOTHING: Accumulators = Accumulators::ZERO;

/// Registers 0 to 3 are sums: rows of the panel's first and second half by outputs of the tile's first and second. Registers 4 and 5
/// are the panel's halves, 6 and 7 the tile's. Inputs come in pairs.
fn shapes(rows: usize, pairs: usize) -> Shapes {
    let upper = rows.min(REGISTER_ROWS);
    // A register without rows is an error, even where nothing uses it.
    let lower = rows.saturating_sub(REGISTER_ROWS).max(1);
    let (line, row) = (64, 4 * pairs);
    Shapes::new([
        (upper, line),
        (upper, line),
        (lower, line),
        (lower, line),
        (upper, row),
        (lower, row),
        (pairs, line),
        (pairs, line),
    ])
}

/// The tile registers of this thread, for products of bf16.
pub(crate) struct Tiles {
    registers: Registers,
    /// Rows and pairs of inputs that the registers are shaped for.
    shaped: (usize, usize),
}

impl Amx {
    /// Takes the tile registers until the value is dropped.
    #[expect(clippy::unused_self, reason = "the value is proof that the instructions exist")]
    pub(crate) fn tiles(self) -> Tiles {
        // SAFETY: `self` is proof of the instructions.
        Tiles { registers: unsafe { Registers::take() }, shaped: (0, 0) }
    }
}

impl Tiles {
    /// Adds to `sums`, or to nothing if these are the first, the products of some cells of a tile with the same inputs of a panel: block
    /// by block, its `rows` side by side. The last block may be short.
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
            self.shape(rows, CELLS);
            // SAFETY: the instructions exist, or there would be no `self`; `blocks` and the panel hold `whole` blocks.
            unsafe { multiply(blocks, panel, rows, (from, to)) };
            from = to;
        }
        if !rest.is_empty() {
            self.shape(rows, rest.len());
            // SAFETY: as above; the shapes have as many pairs as there are cells.
            unsafe { multiply(rest, &panel[whole * rows..], rows, (from, to)) };
        }
    }

    /// Shapes the registers; that takes as long as a block or two, so it is left out where they have the shape.
    fn shape(&mut self, rows: usize, pairs: usize) {
        if self.shaped != (rows, pairs) {
            self.registers.shape(&shapes(rows, pairs));
            self.shaped = (rows, pairs);
        }
    }
}

/// # Safety
/// The processor has the instructions, the process may use them, and a [`Tiles`] of this thread is in use. `cells` are a whole number
/// of blocks, or one short block of as many cells as the registers' shapes have pairs, and `panel` holds as many blocks of `rows` rows,
/// which are those of the shapes. Sums are read from and written to the rows of [`Accumulators`].
unsafe fn multiply(
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
    // the shapes keep below their number.
    unsafe {
        if rows > REGISTER_ROWS {
            instructions!(
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
