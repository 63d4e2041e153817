//! The only place that talks to libjpeg (MozJPEG's decoder, which is libjpeg-turbo's).
//!
//! Invariants that make the `unsafe` below sound:
//! 1. `Session` is boxed before libjpeg sees a pointer to any of its parts and is never moved out of its
//!    box, so the error, source and progress managers outlive and never move under `info`.
//! 2. `info.src` points into `bytes`, which is borrowed for as long as the session lives; its manager never
//!    moves past the end, and asks libjpeg to suspend when the bytes run out.
//! 3. libjpeg reports errors by unwinding out of `error_exit` (the C code is built with unwind tables).
//!    Every call happens inside `catch_unwind`; after an error the session is only destroyed.
//! 4. Row pointers given to `jpeg_read_scanlines` point to distinct rows of `output_width ×
//!    output_components` bytes in a buffer that is not touched meanwhile.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::raw::{c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    J_COLOR_SPACE, JPEG_LIB_VERSION, boolean, jpeg_CreateDecompress, jpeg_common_struct,
    jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress,
    jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines, jpeg_resync_to_restart, jpeg_source_mgr,
    jpeg_start_decompress, jpeg_std_error,
};

/// Scans after which a progressive file is refused: photographs have about ten, and each costs a pass.
const MAX_SCANS: c_int = 500;
/// Pixels that all scans of a file may pass over: 50 scans of the largest picture.
const MAX_PASSED: u64 = 5_000_000_000;
/// Longest message of libjpeg (`JMSG_LENGTH_MAX` in `jpeglib.h`).
const MESSAGE: usize = 200;
/// Rows per call.
const ROWS: usize = 8;

/// Decoded samples as libjpeg gives them.
pub(super) struct Decoded {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) samples: Samples,
    pub(super) bytes: Vec<u8>,
}

/// What a pixel consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Samples {
    Grey,
    Rgb,
    Cmyk,
}

#[derive(Debug)]
pub(super) enum Failure {
    /// the caller did not accept the size
    Refused,
    Truncated,
    Unsupported(String),
    Corrupt(String),
}

/// Decode; `accepts` is asked with width and height before anything of that size is allocated.
pub(super) fn decode(bytes: &[u8], accepts: impl FnMut(u32, u32) -> bool) -> Result<Decoded, Failure> {
    let mut session = Session::new(bytes);
    // Invariant 3: after a caught error the session is only dropped.
    catch_unwind(AssertUnwindSafe(|| session.run(accepts))).unwrap_or_else(|payload| {
        match payload.downcast::<Failure>() {
            Ok(failure) => Err(*failure),
            Err(other) => resume_unwind(other),
        }
    })
}

/// Whether libjpeg was built with the processor's vector instructions, and this processor has them.
pub fn is_accelerated() -> bool {
    unsafe extern "C" {
        fn jsimd_can_idct_islow() -> c_int;
    }
    // SAFETY: the function takes nothing and looks at the processor only; both builds of libjpeg have it.
    unsafe { jsimd_can_idct_islow() != 0 }
}

struct Session<'a> {
    info: jpeg_decompress_struct,
    errors: jpeg_error_mgr,
    source: jpeg_source_mgr,
    progress: jpeg_progress_mgr,
    /// keeps invariant 2
    _bytes: &'a [u8],
}

impl<'a> Session<'a> {
    fn new(bytes: &'a [u8]) -> Box<Self> {
        // SAFETY: all four are C structs for which zero is a valid value; libjpeg fills in the rest.
        let (info, errors, progress) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        let source = jpeg_source_mgr {
            next_input_byte: bytes.as_ptr(),
            bytes_in_buffer: bytes.len(),
            init_source: Some(nothing),
            fill_input_buffer: Some(suspend),
            skip_input_data: Some(skip),
            resync_to_restart: Some(jpeg_resync_to_restart),
            term_source: Some(nothing),
        };
        let mut session = Box::new(Self { info, errors, source, progress, _bytes: bytes });
        let this = &mut *session;
        // SAFETY: invariant 1; creating a decompressor fails only if memory for its fixed tables is out,
        // which aborts the process anyway.
        unsafe {
            jpeg_std_error(&mut this.errors);
            this.errors.error_exit = Some(error_exit);
            this.errors.emit_message = Some(silent);
            this.info.common.err = &raw mut this.errors;
            jpeg_CreateDecompress(
                &raw mut this.info,
                JPEG_LIB_VERSION as c_int,
                size_of::<jpeg_decompress_struct>(),
            );
        }
        this.progress.progress_monitor = Some(limit_scans);
        this.info.common.progress = &raw mut this.progress;
        this.info.src = &raw mut this.source;
        session
    }

    fn run(&mut self, mut accepts: impl FnMut(u32, u32) -> bool) -> Result<Decoded, Failure> {
        // SAFETY: invariants 1 to 3.
        if unsafe { jpeg_read_header(&mut self.info, 1) } == 0 {
            return Err(Failure::Truncated);
        }
        let (samples, space) = match self.info.num_components {
            1 => (Samples::Grey, J_COLOR_SPACE::JCS_GRAYSCALE),
            3 => (Samples::Rgb, J_COLOR_SPACE::JCS_RGB),
            4 => (Samples::Cmyk, J_COLOR_SPACE::JCS_CMYK),
            other => return Err(Failure::Unsupported(format!("{other} components"))),
        };
        if !accepts(self.info.image_width, self.info.image_height) {
            return Err(Failure::Refused);
        }
        self.info.out_color_space = space;
        // SAFETY: invariants 1 to 3.
        if unsafe { jpeg_start_decompress(&mut self.info) } == 0 {
            return Err(Failure::Truncated);
        }
        let row_bytes = self.info.output_width as usize * self.info.output_components as usize;
        let mut bytes = vec![0; row_bytes * self.info.output_height as usize];
        while self.info.output_scanline < self.info.output_height {
            let done = self.info.output_scanline as usize;
            let mut rows = [std::ptr::null_mut(); ROWS];
            let mut count = 0;
            for (row, pointer) in bytes[done * row_bytes..].chunks_exact_mut(row_bytes).zip(&mut rows) {
                *pointer = row.as_mut_ptr();
                count += 1;
            }
            // SAFETY: invariant 4; `count` of the pointers are rows.
            if unsafe { jpeg_read_scanlines(&mut self.info, rows.as_mut_ptr(), count) } == 0 {
                return Err(Failure::Truncated);
            }
        }
        // As strict as Pillow: a file without its end marker is truncated.
        // SAFETY: invariants 1 to 3.
        if unsafe { jpeg_finish_decompress(&mut self.info) } == 0 {
            return Err(Failure::Truncated);
        }
        let (width, height) = (self.info.output_width, self.info.output_height);
        Ok(Decoded { width, height, samples, bytes })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once; destroying frees memory only and raises no error.
        unsafe { jpeg_destroy_decompress(&mut self.info) };
    }
}

extern "C-unwind" fn nothing(_: &mut jpeg_decompress_struct) {}

extern "C-unwind" fn suspend(_: &mut jpeg_decompress_struct) -> boolean {
    0
}

extern "C-unwind" fn skip(info: &mut jpeg_decompress_struct, count: c_long) {
    // SAFETY: invariant 2: `src` is the session's manager, whose pointer and length describe what is left
    // of the borrowed bytes; both move by the same amount, at most to the end.
    unsafe {
        let source = &mut *info.src;
        let count = usize::try_from(count).unwrap_or(0).min(source.bytes_in_buffer);
        source.next_input_byte = source.next_input_byte.add(count);
        source.bytes_in_buffer -= count;
    }
}

extern "C-unwind" fn limit_scans(info: &mut jpeg_common_struct) {
    // SAFETY: only decompressors get this callback, and the common struct is their first field.
    let info = unsafe { &*(&raw const *info).cast::<jpeg_decompress_struct>() };
    let scans = info.input_scan_number;
    let pixels = u64::from(info.image_width) * u64::from(info.image_height);
    let passed = pixels.saturating_mul(u64::try_from(scans).unwrap_or(0));
    if scans > MAX_SCANS || passed > MAX_PASSED {
        let reason = format!("{scans} scans and more are too many for its size, as only made-up files have");
        resume_unwind(Box::new(Failure::Corrupt(reason)));
    }
}

extern "C-unwind" fn silent(_: &mut jpeg_common_struct, _: c_int) {}

extern "C-unwind" fn error_exit(info: &mut jpeg_common_struct) {
    // SAFETY: invariant 1: `err` is the session's manager.
    let code = unsafe { (*info.err).msg_code };
    let failure = match code {
        code if code == mozjpeg_sys::JERR_BAD_PRECISION as c_int => {
            Failure::Unsupported("12-bit samples".into())
        }
        code if code == mozjpeg_sys::JERR_SOF_UNSUPPORTED as c_int => {
            Failure::Unsupported("an unusual coding process".into())
        }
        code => Failure::Corrupt(message(info).unwrap_or_else(|| format!("libjpeg error {code}"))),
    };
    // not a panic: nothing is printed, the stack unwinds to `decode`
    resume_unwind(Box::new(failure));
}

/// libjpeg's words for the error that it has just noted.
fn message(info: &mut jpeg_common_struct) -> Option<String> {
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
    let mut text = [0; MESSAGE + 1];
    // SAFETY: invariant 1: `err` is the session's manager.
    let format = unsafe { (*info.err).format_message }?;
    // SAFETY: in C it takes `char *`, to at least `JMSG_LENGTH_MAX` bytes; the declaration in Rust has another, shorter array.
    // It reads the code and parameters in the manager, and writes a string with its end.
    unsafe { std::mem::transmute::<*const (), Format>(format as *const ())(info, text.as_mut_ptr()) };
    let words = CStr::from_bytes_until_nul(&text).ok()?.to_string_lossy();
    (!words.is_empty()).then(|| words.into_owned())
}
