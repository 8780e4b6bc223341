//! Computes the sizes, cuts and borders with which an image becomes the input of a model, without
//! any pixels. It works on the upright image; `resize.rs` maps that to the stored orientation.

use eirs_platform::settings::{Filter, PadPlace};

use super::View;

/// The way in which an image of any size becomes `size` pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Width and height of the result, in pixels.
    pub size: (u32, u32),
    /// The handling of another aspect ratio.
    pub fit: Fit,
    /// The filter for scaling.
    pub filter: Filter,
    /// Whether all covered pixels count, as in Pillow, or only the nearest ones, as in OpenCV.
    pub antialias: bool,
    /// The rounding of half the surplus, if that is not an integer: down, as in transformers, or to
    /// even, as in torchvision.
    pub cuts_less_in_front: bool,
}

/// The handling of an image with another aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Scales until the image covers these sides, and crops the centre.
    Crop {
        /// Width and height to cover, neither less than the size.
        cover: (u32, u32),
    },
    /// Scales both sides to these, ignoring the aspect ratio, and crops the centre.
    Squash {
        /// Width and height, neither less than the size.
        to: (u32, u32),
    },
    /// Scales until the image fits, and fills the rest.
    Letterbox {
        /// The fill colour as RGB.
        colour: [u8; 3],
        /// The position of the image.
        place: PadPlace,
    },
}

/// The scaled size of an image, and its position in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Width and height of the scaled image.
    pub scaled: (u64, u64),
    /// Column and row of its first pixel in the result; negative if the start is cut off.
    pub at: (i64, i64),
}

impl Geometry {
    /// Scales the short side to `resize` pixels, bilinear and antialiased, and crops the centre of
    /// `side` x `side`.
    pub fn crop(side: u32, resize: u32) -> Self {
        let fit = Fit::Crop { cover: (resize.max(side), resize.max(side)) };
        Self { size: (side, side), fit, filter: Filter::Bilinear, antialias: true, cuts_less_in_front: false }
    }

    /// Scales both sides to `side` pixels, bilinear and antialiased.
    pub fn squash(side: u32) -> Self {
        Self { fit: Fit::Squash { to: (side, side) }, ..Self::crop(side, side) }
    }

    /// Returns the plan for an upright image of this width and height.
    pub fn plan(&self, (width, height): (f64, f64)) -> Plan {
        let (across, down) = (f64::from(self.size.0), f64::from(self.size.1));
        match self.fit {
            Fit::Crop { cover: (side, other) } if side == other => {
                // Like torchvision's `Resize` and timm's for squares: the long side is rounded
                // down.
                let short = width.min(height);
                let long = |length: f64| {
                    if length <= short {
                        side.into()
                    } else {
                        (f64::from(side) * length / short).floor() as u64
                    }
                };
                self.centred((long(width), long(height)))
            }
            Fit::Crop { cover } => {
                // Like timm's `ResizeKeepRatio`: both sides are rounded.
                let ratio = (width / f64::from(cover.0)).min(height / f64::from(cover.1));
                let scaled =
                    |length: f64, least: u32| ((length / ratio).round_ties_even() as u64).max(least.into());
                self.centred((scaled(width, self.size.0), scaled(height, self.size.1)))
            }
            Fit::Squash { to } => self.centred((to.0.into(), to.1.into())),
            Fit::Letterbox { place, .. } => {
                let ratio = (across / width).min(down / height);
                let scaled = |length: f64, most: u32| {
                    ((length * ratio).round_ties_even() as u64).clamp(1, most.into())
                };
                let scaled = (scaled(width, self.size.0), scaled(height, self.size.1));
                let half = |whole: u32, part: u64| ((u64::from(whole) - part) / 2) as i64;
                let at = match place {
                    PadPlace::Centre => (half(self.size.0, scaled.0), half(self.size.1, scaled.1)),
                    PadPlace::End => (0, 0),
                };
                Plan { scaled, at }
            }
        }
    }

    /// Centres the result, so that half of the surplus is cut off at the start.
    fn centred(&self, scaled: (u64, u64)) -> Plan {
        let off = |scaled: u64, size: u32| {
            let half = (scaled as f64 - f64::from(size)) / 2.0;
            (if self.cuts_less_in_front { half.floor() } else { half.round_ties_even() }) as i64
        };
        Plan { scaled, at: (-off(scaled.0, self.size.0), -off(scaled.1, self.size.1)) }
    }

    /// Returns the part of an image that must be decoded. `None` if reduced decoding would change
    /// the result.
    pub fn view(&self) -> Option<View> {
        let smooth = self.antialias && self.filter != Filter::Nearest;
        let whole =
            |(width, height): (u32, u32)| View { short: width.max(height), cut: None, fractions: true };
        smooth.then(|| match self.fit {
            Fit::Crop { cover } if cover.0 == cover.1 => {
                View { short: cover.0, cut: Some(self.size), fractions: true }
            }
            Fit::Crop { cover: sides } | Fit::Squash { to: sides } => whole(sides),
            Fit::Letterbox { .. } => whole(self.size),
        })
    }

    /// Returns the colour outside the image.
    pub fn colour(&self) -> [u8; 3] {
        match self.fit {
            Fit::Letterbox { colour, .. } => colour,
            Fit::Crop { .. } | Fit::Squash { .. } => [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry(size: (u32, u32), fit: Fit) -> Geometry {
        Geometry { size, fit, ..Geometry::crop(1, 1) }
    }

    #[test]
    fn lengths_and_offsets_match_the_libraries() {
        let square = geometry((224, 224), Fit::Crop { cover: (256, 256) });
        // torchvision: int(256 * 500 / 375) = 341; round((341 - 224) / 2) = 58 (58.5, rounded to
        // even).
        assert_eq!(square.plan((500.0, 375.0)), Plan { scaled: (341, 256), at: (-58, -16) });
        // Half of 343 - 224 is 59.5: rounded to even it is 60, and transformers takes int(59.5).
        let less = Geometry { cuts_less_in_front: true, ..square.clone() };
        assert_eq!(square.plan((503.0, 375.0)), Plan { scaled: (343, 256), at: (-60, -16) });
        assert_eq!(less.plan((503.0, 375.0)), Plan { scaled: (343, 256), at: (-59, -16) });
        let boxed = |place| geometry((640, 640), Fit::Letterbox { colour: [114; 3], place });
        // Ultralytics: round(375 * 1.28) = 480, (640 - 480) / 2 = 80.
        assert_eq!(boxed(PadPlace::Centre).plan((500.0, 375.0)), Plan { scaled: (640, 480), at: (0, 80) });
        assert_eq!(boxed(PadPlace::End).plan((375.0, 500.0)), Plan { scaled: (480, 640), at: (0, 0) });
        // Python rounds 12.5 to even.
        let small = geometry((16, 16), Fit::Letterbox { colour: [114; 3], place: PadPlace::Centre });
        assert_eq!(small.plan((300.0, 384.0)), Plan { scaled: (12, 16), at: (2, 0) });
        let squashed = geometry((192, 48), Fit::Squash { to: (192, 48) });
        assert_eq!(squashed.plan((500.0, 375.0)), Plan { scaled: (192, 48), at: (0, 0) });
    }

    proptest! {
        #[test]
        fn a_crop_is_full_and_a_letterbox_contains_the_whole_image(
            width in 1u32..5000, height in 1u32..5000, across in 1u32..500, down in 1u32..500,
            more in 0u32..60,
            end: bool,
        ) {
            let picture = (f64::from(width), f64::from(height));
            let cover = (across + more, down + more);
            for fit in [Fit::Crop { cover }, Fit::Squash { to: cover }] {
                let Plan { scaled, at } = geometry((across, down), fit).plan(picture);
                for (scaled, at, size) in [(scaled.0, at.0, across), (scaled.1, at.1, down)] {
                    prop_assert!(at <= 0 && scaled as i64 + at >= i64::from(size), "{fit:?}: {scaled} at \
                        {at}");
                }
            }
            let place = if end { PadPlace::End } else { PadPlace::Centre };
            let fit = Fit::Letterbox { colour: [0; 3], place };
            let Plan { scaled, at } = geometry((across, down), fit).plan(picture);
            prop_assert!(scaled.0 == u64::from(across) || scaled.1 == u64::from(down));
            for (scaled, at, size) in [(scaled.0, at.0, across), (scaled.1, at.1, down)] {
                prop_assert!(at >= 0 && scaled as i64 + at <= i64::from(size), "{scaled} at {at} of {size}");
            }
        }
    }
}
