//! The tile registers of a thread.
use std::{arch::asm, marker::PhantomData};

/// What LDTILECFG reads: palette 1, and for every register its rows and the bytes of a row; all zeros while nobody uses any.
#[repr(C, align(64))]
pub(super) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    const UNUSED: Self =
        Self { palette: 0, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };

    /// Rows (1 to 16) and bytes of a row (4 to 64) of each register.
    pub(super) fn new(registers: [(usize, usize); 8]) -> Self {
        let mut shapes = Self { palette: 1, ..Self::UNUSED };
        for (at, (rows, bytes)) in registers.into_iter().enumerate() {
            shapes.rows[at] = rows as u8;
            shapes.row_bytes[at] = bytes as u16;
        }
        shapes
    }
}

/// The tile registers, taken until the value is dropped. Others in the process use them too (candle's products of some formats), and
/// count on finding them in the shapes that they gave them.
pub(super) struct Registers {
    found: Shapes,
    _of_this_thread: PhantomData<*const ()>,
}

impl Registers {
    /// # Safety
    /// The processor has tiles, and the process may use them.
    pub(super) unsafe fn take() -> Self {
        let mut found = Shapes::UNUSED;
        // SAFETY: by the caller's promise the instruction exists; it writes the 64 bytes of `found`.
        unsafe {
            asm!("sttilecfg [{found}]", found = in(reg) &raw mut found, options(nostack, preserves_flags));
        }
        Self { found, _of_this_thread: PhantomData }
    }

    /// Gives the registers these shapes; what they hold is lost.
    #[expect(clippy::unused_self, reason = "the value is proof that the registers are the caller's")]
    pub(super) fn shape(&mut self, shapes: &Shapes) {
        load(shapes);
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // What registers hold is lost, which no caller in this thread has a use for: it waits for this one.
        load(&self.found);
    }
}

fn load(shapes: &Shapes) {
    // SAFETY: the instruction exists, or there would be no `Registers`; it reads the 64 bytes of `shapes`, which are those of a state
    // that was found or of one that `Shapes::new` describes.
    unsafe {
        asm!(
            "ldtilecfg [{shapes}]",
            shapes = in(reg) std::ptr::from_ref(shapes),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}
