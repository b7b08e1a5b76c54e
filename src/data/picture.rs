//! Pictures as the OD API's inputs see them: 8-bit RGB, stored pixel order.
//!
//! **Orientation.** The EXIF orientation is *not* applied: `tf.io.decode_jpeg` ignores it, and boxes are coordinates
//! of stored pixels. [`probe`] reports it, so that labels drawn on a turned picture can be noticed.
//!
//! **Closeness to TensorFlow.** On 304 photographs the decoder used here (`zune-jpeg`, through `image`) differs from
//! `tf.io.decode_jpeg` by 1.02 grey levels in the mean with TensorFlow's default `JDCT_IFAST` (a coarse approximation
//! that no decoder outside libjpeg shares) and by 0.06 with `INTEGER_ACCURATE`; `jpeg-decoder` has 1.00 and 0.055, but
//! takes 1.8 times as long.
//!
//! **Truncated files** are refused, as TensorFlow refuses them: of JPEG it wants the end-of-image marker
//! (`try_recover_truncated` is off in `decode_jpeg` and `decode_image`). What comes before it may be damaged.
//!
//! **Transparency** is dropped, not blended, and CMYK is converted, as `tf.io.decode_image(channels=3)` does.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::rle::Rle;
use crate::error::{Error, Result};
use crate::input;

/// Longest side accepted, pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Most pixels accepted.
pub const MAX_PIXELS: u64 = 100_000_000;

/// Most runs of pixels that a mask may have.
const MAX_RUNS: usize = 1 << 20;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes, row by row, red first.
    pub rgb: Vec<u8>,
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureInfo {
    /// Stored pixels per row.
    pub width: u32,
    /// Stored rows.
    pub height: u32,
    /// How a viewer that follows EXIF turns the picture before it shows it.
    pub orientation: Orientation,
}

impl Picture {
    /// Reads and decodes a file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = input::read_file(path, input::PICTURE)?;
        Self::decode(&bytes, &path.display().to_string())
    }

    /// Decodes JPEG, PNG, BMP or WebP bytes; `name` is the picture's name in errors.
    ///
    /// Errors: [`Error::Data`] for other formats, pictures that are too large, and those that are cut off or damaged.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self> {
        let decoder = open_decoder(bytes, name)?;
        if bytes.starts_with(&[0xff, 0xd8]) && !jpeg_ends(bytes) {
            return Err(Error::Data(format!(
                "{name}: the picture is cut off, it has no end-of-image marker; copy the file again"
            )));
        }
        let decoded = eight_bits(DynamicImage::from_decoder(decoder).map_err(|e| unreadable(name, &e))?);
        let (width, height) = decoded.dimensions();
        Ok(Self { width, height, rgb: decoded.into_raw() })
    }

    /// Appends the bytes of a PNG file.
    pub fn png(&self, out: &mut Vec<u8>) -> image::ImageResult<()> {
        write_png(&self.rgb, self.width, self.height, out)
    }

    /// Writes the picture; the ending (`.png`, `.jpg`, `.jpeg`) chooses the format. JPEG quality is 92.
    pub fn save(&self, path: &Path) -> Result<()> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let mut out = Vec::new();
        let written = match ending.as_str() {
            "png" => self.png(&mut out),
            "jpg" | "jpeg" => image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 92).encode(
                &self.rgb,
                self.width,
                self.height,
                image::ExtendedColorType::Rgb8,
            ),
            _ => {
                return Err(Error::Usage(format!(
                    "{}: pictures are written as .png or .jpg, not as .{ending}",
                    path.display()
                )));
            }
        };
        written.map_err(|e| Error::Data(format!("{}: cannot encode the picture: {e}", path.display())))?;
        std::fs::write(path, out).map_err(|e| Error::io(path, e))
    }
}

/// The pixels of a picture of this size that are not black.
///
/// A few bytes can hold a pattern of very many runs, of which no outline of an object is made: those are refused.
pub(super) fn mask(bytes: &[u8], name: &str, (width, height): (u32, u32)) -> Result<Rle> {
    let decoder = open_decoder(bytes, name)?;
    if decoder.dimensions() != (width, height) {
        let (w, h) = decoder.dimensions();
        return Err(Error::Data(format!("{name}: {w} x {h} pixels, its picture has {width} x {height}")));
    }
    let grey = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(name, &e))?.into_luma8();
    let mask = Rle::from_pixels(height, width, |row, column| grey.get_pixel(column, row).0[0] > 0);
    if mask.counts().len() > MAX_RUNS {
        return Err(Error::Data(format!(
            "{name}: {} runs of pixels, expected an outline",
            mask.counts().len()
        )));
    }
    Ok(mask)
}

/// Appends the bytes of a PNG file of these pixels, `height * width * 3` bytes.
pub(crate) fn write_png(rgb: &[u8], width: u32, height: u32, out: &mut Vec<u8>) -> image::ImageResult<()> {
    let colours = image::ExtendedColorType::Rgb8;
    image::write_buffer_with_format(&mut Cursor::new(out), rgb, width, height, colours, ImageFormat::Png)
}

/// Of 16 bits the upper eight, as `tf.io.decode_png` keeps them (libpng's `png_set_strip_16`); `image` would round.
fn eight_bits(image: DynamicImage) -> RgbImage {
    use DynamicImage::{ImageLuma16, ImageLumaA16, ImageRgb16, ImageRgba16};
    if !matches!(image, ImageLuma16(_) | ImageLumaA16(_) | ImageRgb16(_) | ImageRgba16(_)) {
        return image.into_rgb8();
    }
    let wide = image.into_rgb16();
    RgbImage::from_fn(wide.width(), wide.height(), |x, y| {
        image::Rgb(wide.get_pixel(x, y).0.map(|v| (v >> 8) as u8))
    })
}

/// Reads size and orientation from the header; `name` is the picture's name in errors.
pub fn probe(bytes: &[u8], name: &str) -> Result<PictureInfo> {
    let mut decoder = open_decoder(bytes, name)?;
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok(PictureInfo { width, height, orientation })
}

fn open_decoder<'a>(bytes: &'a [u8], name: &str) -> Result<impl ImageDecoder + 'a> {
    let reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| Error::io(name, e))?;
    if !matches!(
        reader.format(),
        Some(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Bmp | ImageFormat::WebP)
    ) {
        let got = match reader.format() {
            Some(format) => format!("{format:?}").to_uppercase(),
            None if bytes.is_empty() => "an empty file".to_owned(),
            None => "bytes of no known picture format".to_owned(),
        };
        return Err(Error::Data(format!(
            "{name}: got {got}, expected a JPEG, PNG, BMP or WebP picture; convert it first"
        )));
    }
    let decoder = reader.into_decoder().map_err(|e| unreadable(name, &e))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::Data(format!("{name}: the picture is {width} x {height} pixels, that is, empty")));
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::Data(format!(
            "{name}: the picture is {width} x {height} pixels; at most {MAX_SIDE} a side and {} million in all are \
             accepted, scale it down first",
            MAX_PIXELS / 1_000_000
        )));
    }
    Ok(decoder)
}

/// Whether the segments and scans of a JPEG lead to an end-of-image marker (ITU-T T.81, B.1): a thumbnail inside a segment
/// has one of its own.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let Some(at) = rest.iter().position(|byte| *byte == 0xff) {
        rest = &rest[at + 1..];
        match rest {
            [0xd9, ..] => return true,
            // A stuffed byte of a scan, or a marker that stands alone.
            [0x00 | 0x01 | 0xd0..=0xd8, behind @ ..] => rest = behind,
            // Fill bytes may stand before any marker.
            [0xff, ..] | [] => {}
            [_, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(1 + length..).unwrap_or_default();
            }
            [_, ..] => return false,
        }
    }
    false
}

fn unreadable(name: &str, error: &image::ImageError) -> Error {
    Error::Data(format!("{name}: the picture cannot be decoded: {error}; save it again with an image editor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let rgb: Vec<u8> = (0..width * height * 3).map(|v| (v % 251) as u8).collect();
        image::write_buffer_with_format(
            &mut Cursor::new(&mut out),
            &rgb,
            width,
            height,
            image::ExtendedColorType::Rgb8,
            ImageFormat::Png,
        )
        .unwrap();
        out
    }

    #[test]
    fn reads_png_and_says_what_is_wrong() {
        let bytes = png(5, 3);
        let picture = Picture::decode(&bytes, "a.png").unwrap();
        assert_eq!((picture.width, picture.height, picture.rgb.len()), (5, 3, 45));
        assert_eq!(probe(&bytes, "a.png").unwrap().width, 5);
        let err = Picture::decode(&bytes[..40], "cut.png").unwrap_err().to_string();
        assert!(err.starts_with("cut.png: "), "{err}");
        for bad in [&b""[..], b"GIF89a\0\0\0\0\0\0", b"hello world, not a picture", &[0xff, 0xd8, 0xff]] {
            let err = Picture::decode(bad, "bad").unwrap_err().to_string();
            assert!(err.contains("bad: "), "{err}");
        }
    }

    #[test]
    fn refuses_huge_pictures_by_their_header() {
        let mut bytes = png(1, 1);
        bytes[16..20].copy_from_slice(&40_000u32.to_be_bytes());
        let mut crc = 0xffff_ffffu32;
        for b in &bytes[12..29] {
            crc ^= u32::from(*b);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
        let err = Picture::decode(&bytes, "huge.png").unwrap_err().to_string();
        assert!(err.contains("40000 x 1"), "{err}");
    }

    #[test]
    fn a_jpeg_is_read_up_to_its_end_marker_and_not_without() {
        let rgb: Vec<u8> = (0..200 * 100 * 3u32).map(|v| (v * 7 % 251) as u8).collect();
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new(&mut bytes)
            .encode(&rgb, 200, 100, image::ExtendedColorType::Rgb8)
            .unwrap();
        let whole = Picture::decode(&bytes, "whole").unwrap();
        for cut in [1, 2, 3, 100, bytes.len() / 2] {
            let error = Picture::decode(&bytes[..bytes.len() - cut], "cut.jpg").unwrap_err().to_string();
            assert!(error.starts_with("cut.jpg: the picture is cut off"), "{error}");
        }
        // A thumbnail's end is not the picture's, and what follows the end is not the picture.
        let thumbnail = [&[0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9], &bytes[2..]].concat();
        assert_eq!(Picture::decode(&thumbnail, "x").unwrap(), whole);
        assert!(Picture::decode(&thumbnail[..bytes.len() / 2], "x").is_err());
        assert_eq!(Picture::decode(&[&bytes[..], b"more"].concat(), "x").unwrap(), whole);
        let filled = [&bytes[..bytes.len() - 2], &[0xff, 0xff, 0xff, 0xd9]].concat();
        assert_eq!(Picture::decode(&filled, "x").unwrap(), whole);
        assert!((0..bytes.len()).all(|length| !jpeg_ends(&bytes[..length])));
    }
}
