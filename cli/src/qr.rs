//! A QR code for a terminal: two modules a character. Pure.

use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around the code (ISO/IEC 18004 asks for four).
const QUIET: i32 = 4;

/// The code of a text, drawn for a dark terminal: light modules are drawn, dark ones are left out.
pub fn code(text: &str) -> Result<String, String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).map_err(|e| e.to_string())?;
    let light = |x, y| !code.get_module(x, y);
    let (first, last) = (-QUIET, code.size() + QUIET);
    let mut drawn = String::new();
    for y in (first..last).step_by(2) {
        for x in first..last {
            // Below the last row of an odd number of rows there is nothing.
            drawn.push(match (light(x, y), y + 1 < last && light(x, y + 1)) {
                (true, true) => '\u{2588}',
                (true, false) => '\u{2580}',
                (false, true) => '\u{2584}',
                (false, false) => ' ',
            });
        }
        drawn.push('\n');
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is drawn is read back by a decoder that knows nothing of how it was made.
    #[test]
    fn a_decoder_reads_the_drawing() {
        let text = format!("fabric1-{}", "aB3_-xYz".repeat(36));
        let drawn = code(&text).unwrap();
        let rows: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
        const SCALE: usize = 4;
        let (wide, high) = (rows[0].len() * SCALE, rows.len() * 2 * SCALE);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(wide, high, |x, y| {
            let (column, row) = (x / SCALE, y / SCALE);
            let upper = row % 2 == 0;
            match rows[row / 2][column] {
                '\u{2588}' => 255,
                '\u{2580}' if upper => 255,
                '\u{2584}' if !upper => 255,
                _ => 0,
            }
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1);
        assert_eq!(grids[0].decode().unwrap().1, text);
        assert!(code(&"x".repeat(4000)).is_err());
    }
}
