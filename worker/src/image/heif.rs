//! Decodes HEIC and AVIF with libheif, a C library that is opened at run time if present: HEVC is
//! patented, so no decoder can be built in. libheif applies the rotations and mirrorings in the
//! file. Then the EXIF orientation is ignored, and that in XMP only counts in an AVIF file without
//! another one, as in Pillow.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr::null,
    sync::OnceLock,
};

use eirs_platform::formats::heif;
use libloading::Library;

use super::{Format, Limits, Orientation, Pixels, Unreadable, check_size, turned};

/// Constants of `heif.h`.
const RGB: c_int = 1;
const INTERLEAVED_RGB: c_int = 10;
const INTERLEAVED_RGBA: c_int = 11;
const INTERLEAVED: c_int = 10;
/// The planes as they are stored.
const AS_STORED: c_int = 99;
const LUMA: c_int = 0;
const MONOCHROME: c_int = 0;

/// The result of every call. The text belongs to the library, and is valid as long as the library
/// or the context.
#[repr(C)]
struct Error {
    code: c_int,
    _detail: c_int,
    text: *const c_char,
}

/// Defines the functions to look up in the library.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[expect(non_snake_case, reason = "the names are those of the library")]
        struct Api {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Since version 1.12.
            is_premultiplied: Option<unsafe extern "C" fn(*const c_void) -> c_int>,
            _library: Library,
        }

        impl Api {
            #[expect(unsafe_code, reason = "libheif is a library of C")]
            fn open() -> Result<Self, libloading::Error> {
                // SAFETY: the library is the system's one with this name, and the functions have
                // these signatures in all versions 1.x.
                unsafe {
                    let library = Library::new(heif::library().as_os_str())?;
                    Ok(Self {
                        $($name: *library.get(concat!("heif_", stringify!($name), "\0").as_bytes())?,)*
                        is_premultiplied: library
                            .get(b"heif_image_handle_is_premultiplied_alpha\0")
                            .ok()
                            .map(|function| *function),
                        _library: library,
                    })
                }
            }
        }
    };
}

functions! {
    context_alloc: fn() -> *mut c_void;
    context_free: fn(*mut c_void);
    context_read_from_memory_without_copy: fn(*mut c_void, *const c_void, usize, *const c_void) -> Error;
    context_get_primary_image_handle: fn(*mut c_void, *mut *mut c_void) -> Error;
    image_handle_get_width: fn(*const c_void) -> c_int;
    image_handle_get_height: fn(*const c_void) -> c_int;
    image_handle_has_alpha_channel: fn(*const c_void) -> c_int;
    image_handle_get_raw_color_profile_size: fn(*const c_void) -> usize;
    image_handle_get_raw_color_profile: fn(*const c_void, *mut c_void) -> Error;
    image_handle_get_number_of_metadata_blocks: fn(*const c_void, *const c_char) -> c_int;
    image_handle_get_list_of_metadata_block_IDs: fn(*const c_void, *const c_char, *mut u32, c_int) -> c_int;
    image_handle_get_metadata_type: fn(*const c_void, u32) -> *const c_char;
    image_handle_get_metadata_content_type: fn(*const c_void, u32) -> *const c_char;
    image_handle_get_metadata_size: fn(*const c_void, u32) -> usize;
    image_handle_get_metadata: fn(*const c_void, u32, *mut c_void) -> Error;
    image_handle_release: fn(*const c_void);
    decode_image: fn(*const c_void, *mut *mut c_void, c_int, c_int, *const c_void) -> Error;
    image_get_chroma_format: fn(*const c_void) -> c_int;
    image_get_bits_per_pixel_range: fn(*const c_void, c_int) -> c_int;
    image_get_width: fn(*const c_void, c_int) -> c_int;
    image_get_height: fn(*const c_void, c_int) -> c_int;
    image_get_plane_readonly: fn(*const c_void, c_int, *mut c_int) -> *const u8;
    image_release: fn(*const c_void);
}

/// Returns the library, which is opened once per process.
fn api(format: Format) -> Result<&'static Api, Unreadable> {
    static API: OnceLock<Option<Api>> = OnceLock::new();
    let api = API.get_or_init(|| Api::open().map_err(|why| tracing::debug!("libheif: {why}")).ok());
    api.as_ref().ok_or_else(|| Unreadable::Never(heif::missing(format)))
}

/// The primary image of a file.
struct Picture<'f> {
    api: &'static Api,
    format: Format,
    context: *mut c_void,
    handle: *mut c_void,
    file: &'f [u8],
}

#[expect(unsafe_code, reason = "libheif is a library of C")]
impl<'f> Picture<'f> {
    fn open(format: Format, file: &'f [u8]) -> Result<Self, Unreadable> {
        let api = api(format)?;
        // SAFETY: the context is created here; the file outlives it, because the picture holds
        // both. Handles that were not created stay null, which may be released.
        unsafe {
            let context = (api.context_alloc)();
            let mut picture = Self { api, format, context, handle: std::ptr::null_mut(), file };
            let read = (api.context_read_from_memory_without_copy)(
                context,
                file.as_ptr().cast(),
                file.len(),
                null(),
            );
            picture.check(&read)?;
            let found = (api.context_get_primary_image_handle)(context, &raw mut picture.handle);
            picture.check(&found)?;
            Ok(picture)
        }
    }

    /// Returns the width and height of the upright image.
    fn size(&self) -> (u32, u32) {
        // SAFETY: the handle is valid as long as the picture.
        let sides = unsafe {
            [(self.api.image_handle_get_width)(self.handle), (self.api.image_handle_get_height)(self.handle)]
        };
        let [width, height] = sides.map(|side| u32::try_from(side).unwrap_or(0));
        (width, height)
    }

    /// Returns the colour profile; `None` if the colour space is described by a few numbers.
    fn profile(&self) -> Option<Vec<u8>> {
        // SAFETY: the handle is valid as long as the picture, and the library writes as many bytes
        // as it announced.
        unsafe {
            let size = (self.api.image_handle_get_raw_color_profile_size)(self.handle);
            let mut profile = vec![0; Some(size).filter(|size| *size <= self.file.len())?];
            let error =
                (self.api.image_handle_get_raw_color_profile)(self.handle, profile.as_mut_ptr().cast());
            (error.code == 0 && size > 0).then_some(profile)
        }
    }

    /// Returns the EXIF and XMP data of the image.
    fn metadata(&self) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        const MOST_BLOCKS: c_int = 100;
        let (mut exif, mut xmp) = (None, None);
        // SAFETY: the handle is valid as long as the picture; the library writes at most as many
        // ids as fit, and as many bytes as it announced. Its strings are zero-terminated.
        unsafe {
            let count = (self.api.image_handle_get_number_of_metadata_blocks)(self.handle, null());
            let mut ids = vec![0; count.clamp(0, MOST_BLOCKS) as usize];
            let most = ids.len() as c_int;
            let list = self.api.image_handle_get_list_of_metadata_block_IDs;
            let count = list(self.handle, null(), ids.as_mut_ptr(), most);
            for id in ids.into_iter().take(count.max(0) as usize) {
                let is =
                    |text: *const c_char, wanted: &CStr| !text.is_null() && CStr::from_ptr(text) == wanted;
                let kind = (self.api.image_handle_get_metadata_type)(self.handle, id);
                let content = (self.api.image_handle_get_metadata_content_type)(self.handle, id);
                let place = match () {
                    () if is(kind, c"Exif") => &mut exif,
                    () if is(content, c"application/rdf+xml") => &mut xmp,
                    () => continue,
                };
                let size = (self.api.image_handle_get_metadata_size)(self.handle, id);
                let mut bytes = vec![0; size.min(self.file.len())];
                if size == bytes.len()
                    && (self.api.image_handle_get_metadata)(self.handle, id, bytes.as_mut_ptr().cast()).code
                        == 0
                {
                    *place = Some(bytes);
                }
            }
        }
        (exif, xmp)
    }

    fn check(&self, error: &Error) -> Result<(), Unreadable> {
        if error.code == 0 {
            return Ok(());
        }
        let text = if error.text.is_null() {
            "no reason given".into()
        } else {
            // SAFETY: the library returns a zero-terminated string, whose owner still exists.
            unsafe { CStr::from_ptr(error.text) }.to_string_lossy()
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(Unreadable::Never(format!("the {} image cannot be decoded by libheif: {text}", self.format)))
    }

    /// Expands grey levels from 16 to 235. libheif (up to 1.23 at least) does so for colours only,
    /// and returns grey as it is stored.
    fn expand(&self, samples: &mut [u8], channels: usize) {
        if !samples.chunks_exact(channels).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]) {
            return;
        }
        let (api, mut image) = (self.api, std::ptr::null_mut());
        // SAFETY: handle and image are valid until they are released, the latter below; the plane
        // has as many rows of `stride` bytes as it is high.
        let is_as_stored = unsafe {
            let decoded = (api.decode_image)(self.handle, &raw mut image, AS_STORED, AS_STORED, null());
            if decoded.code != 0 {
                return;
            }
            let mut stride = 0;
            let plane = (api.image_get_plane_readonly)(image, LUMA, &raw mut stride);
            let bits = (api.image_get_bits_per_pixel_range)(image, LUMA);
            let (width, height) = ((api.image_get_width)(image, LUMA), (api.image_get_height)(image, LUMA));
            let count = usize::try_from(i64::from(width) * i64::from(height)).unwrap_or(0);
            let is_grey = (api.image_get_chroma_format)(image) == MONOCHROME
                && !plane.is_null()
                && count * channels == samples.len()
                && (8..=16).contains(&bits);
            let level = |index: usize| {
                let (x, y) = (index % width as usize, index / width as usize);
                let row = plane.add(y * stride as usize);
                if bits == 8 {
                    return *row.add(x);
                }
                (u16::from_ne_bytes([*row.add(2 * x), *row.add(2 * x + 1)]) >> (bits - 8)) as u8
            };
            let is_as_stored =
                is_grey && (0..count).all(|index| level(index).abs_diff(samples[index * channels]) <= 1);
            (api.image_release)(image);
            is_as_stored
        };
        if !is_as_stored {
            return;
        }
        for pixel in samples.chunks_exact_mut(channels) {
            let level = (u32::from(pixel[0].saturating_sub(16)) * 255 + 109) / 219;
            pixel[..3].fill(level.min(255) as u8);
        }
    }

    fn decode(&self, pixels: &mut Pixels) -> Result<(), Unreadable> {
        let (width, height) = self.size();
        let api = self.api;
        // SAFETY: handle and image are valid until they are released, the latter below; a plane has
        // as many rows of `stride` bytes as the image is high, each with at least as many pixels as
        // the image is wide.
        unsafe {
            let has_alpha = (api.image_handle_has_alpha_channel)(self.handle) != 0;
            let (channels, kind) = if has_alpha { (4, INTERLEAVED_RGBA) } else { (3, INTERLEAVED_RGB) };
            // The library holds the compressed planes and the planes of colours.
            let beside = u64::from(width) * u64::from(height) * (4 + channels as u64);
            let samples = pixels.start(width, height, channels, Orientation::NoTransforms, 1, beside)?;
            let mut image = std::ptr::null_mut();
            let decoded = (api.decode_image)(self.handle, &raw mut image, RGB, kind, null());
            self.check(&decoded)?;
            let mut stride = 0;
            let plane = (api.image_get_plane_readonly)(image, INTERLEAVED, &raw mut stride);
            let size =
                [(api.image_get_width)(image, INTERLEAVED), (api.image_get_height)(image, INTERLEAVED)];
            let row_bytes = width as usize * channels;
            let stride = usize::try_from(stride).unwrap_or(0);
            let is_right = !plane.is_null()
                && size.map(|side| u32::try_from(side).unwrap_or(0)) == [width, height]
                && stride >= row_bytes;
            if is_right {
                for (y, row) in samples.chunks_exact_mut(row_bytes).enumerate() {
                    row.copy_from_slice(std::slice::from_raw_parts(plane.add(y * stride), row_bytes));
                }
            }
            (api.image_release)(image);
            if is_right {
                if is_limited(self.file) {
                    self.expand(samples, channels);
                }
                if has_alpha && api.is_premultiplied.is_some_and(|is| is(self.handle) != 0) {
                    samples.chunks_exact_mut(4).for_each(undo_alpha);
                }
                return Ok(());
            }
            Err(Unreadable::Never(format!("the {} image has another size than it says", self.format)))
        }
    }
}

/// Returns whether a colour space in the file uses only the levels of television, from 16 to 235.
fn is_limited(file: &[u8]) -> bool {
    const NUMBERS: usize = 6;
    let box_name = b"colrnclx";
    let spaces = file.windows(box_name.len() + NUMBERS + 1).filter(|space| space.starts_with(box_name));
    spaces.into_iter().any(|space| space.last().is_some_and(|flags| flags & 0x80 == 0))
}

/// Reverses the multiplication of colours by alpha.
fn undo_alpha(pixel: &mut [u8]) {
    if let [colour @ .., alpha] = pixel {
        let alpha = u32::from(*alpha);
        for level in colour {
            let before = (u32::from(*level) * 255 + alpha / 2).checked_div(alpha).unwrap_or(0);
            *level = before.min(255) as u8;
        }
    }
}

#[expect(unsafe_code, reason = "libheif is a library of C")]
impl Drop for Picture<'_> {
    fn drop(&mut self) {
        // SAFETY: the library created both, each is released once, and both may be null.
        unsafe {
            if !self.handle.is_null() {
                (self.api.image_handle_release)(self.handle);
            }
            (self.api.context_free)(self.context);
        }
    }
}

/// Returns the colour profile of a file.
pub(super) fn profile(format: Format, file: &[u8]) -> Option<Vec<u8>> {
    Picture::open(format, file).ok()?.profile()
}

/// Returns the width and height of the upright image.
pub(super) fn dimensions(format: Format, file: &[u8]) -> Option<(u32, u32)> {
    Some(Picture::open(format, file).ok()?.size())
}

pub(super) fn decode(
    format: Format,
    file: &[u8],
    limits: Limits,
    pixels: &mut Pixels,
) -> Result<(), Unreadable> {
    let picture = Picture::open(format, file)?;
    let (width, height) = picture.size();
    check_size(width, height, limits.max_pixels)?;
    picture.decode(pixels)?;
    // A HEIC file has its own property for the orientation, and most AVIF files do, too.
    if format == Format::Avif && !is_turned_by_itself(file) {
        let (exif, xmp) = picture.metadata();
        // After a number with the offset of the data.
        let exif = exif.as_deref().and_then(|exif| exif.get(4..));
        pixels.orientation = turned::by_xmp_alone(exif, xmp.as_deref());
    }
    Ok(())
}

/// Returns whether the image properties contain a rotation or a mirroring.
fn is_turned_by_itself(mut file: &[u8]) -> bool {
    while let Some((header, _)) = file.split_at_checked(8) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let (whole, rest) = file.split_at(if length < 8 { file.len() } else { length.min(file.len()) });
        if header.ends_with(b"meta") {
            return whole.windows(4).any(|name| matches!(name, b"irot" | b"imir"));
        }
        file = rest;
    }
    false
}
