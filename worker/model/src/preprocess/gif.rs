//! GIF: the first frame, by palette index, because Pillow ignores which index is transparent.

use std::io::Cursor;

use super::{DecodeError, DecodeLimits, Picture, raster};

const FORMAT: &str = "GIF";

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    raster::guarded(FORMAT, || decode_first_frame(bytes, limits))
}

fn decode_first_frame(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    // checked below against the screen's size, which bounds every frame that is accepted
    options.set_memory_limit(gif::MemoryLimit::Unlimited);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(|error| decode_error(&error))?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    limits.check(width, height)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let background = decoder.bg_color().unwrap_or(0);
    let missing = || DecodeError::Corrupt { format: FORMAT, reason: "it has no frame".into() };
    let frame = decoder.next_frame_info().map_err(|error| decode_error(&error))?.ok_or_else(missing)?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    let local = frame.palette.clone();
    limits.check(frame_width as u32, frame_height as u32)?;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(|error| decode_error(&error))?;

    // a frame that sticks out makes Pillow's canvas grow
    let width = (width as usize).max(left + frame_width);
    let height = (height as usize).max(top + frame_height);
    limits.check(width as u32, height as u32)?;
    let uncovered = transparent.map_or(background, usize::from) as u8;
    let mut canvas = vec![uncovered; width * height];
    for (row, from) in indices.chunks_exact(frame_width.max(1)).enumerate() {
        canvas[(top + row) * width + left..][..frame_width].copy_from_slice(from);
    }
    let palette = local.or(global);
    let colour = |index: u8| match &palette {
        Some(palette) => {
            let at = usize::from(index) * 3;
            palette.get(at..at + 3).map_or([0; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
        }
        None => [index; 3],
    };
    let rgb = canvas.into_iter().flat_map(colour).collect();
    Ok(Picture { width: width as u32, height: height as u32, rgb })
}

fn decode_error(error: &gif::DecodingError) -> DecodeError {
    match error {
        gif::DecodingError::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: FORMAT }
        }
        // the decoder's own words for an end in the middle of a block
        other if other.to_string().contains("nexpected End of File") => {
            DecodeError::Truncated { format: FORMAT }
        }
        other => DecodeError::Corrupt { format: FORMAT, reason: other.to_string() },
    }
}
