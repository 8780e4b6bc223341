//! The views for averaging confidences: rotated and mirrored versions of a prepared image.

use eirs_platform::settings::{Augment, Layout};

use super::input::Input;

/// A view: mirrored or not, and rotated by a multiple of 90 degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    mirrored: bool,
    quarters: usize,
}

/// Returns the views, the upright one first.
pub(super) fn of(augment: Augment) -> Vec<View> {
    let (mirrors, quarters): (&[bool], _) = match augment {
        Augment::None => (&[false], 1),
        Augment::Flip => (&[false, true], 1),
        Augment::Rotate => (&[false], 4),
        Augment::FlipRotate => (&[false, true], 4),
    };
    mirrors
        .iter()
        .flat_map(|mirrored| (0..quarters).map(|quarters| View { mirrored: *mirrored, quarters }))
        .collect()
}

impl View {
    /// Creates this view of one image in `to`. A rotation by 90 degrees needs a square image.
    pub(super) fn turn(self, input: &Input, from: &[f32], to: &mut [f32]) {
        let (width, height) = (input.size.0 as usize, input.size.1 as usize);
        let (plane, channels) = (width * height, input.channels.count());
        let (apart, next) = match input.layout {
            Layout::Nchw => (plane, 1),
            Layout::Nhwc => (1, channels),
        };
        for row in 0..height {
            for column in 0..width {
                let (mut x, mut y) = (column, row);
                for _ in 0..self.quarters {
                    (x, y) = (y, width - 1 - x);
                }
                if self.mirrored {
                    x = width - 1 - x;
                }
                for channel in 0..channels {
                    to[channel * apart + (row * width + column) * next] =
                        from[channel * apart + (y * width + x) * next];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::classify::{
        Port,
        onnx::{Source, preset::Wanted},
    };

    #[test]
    fn the_eight_views_differ_and_have_the_same_samples() {
        let port =
            Port { name: "x".into(), kind: "f32".into(), shape: vec![None, Some(1), Some(3), Some(3)] };
        let input = Input::find(&Source::SHAPES, &[port], None, &Wanted::default()).unwrap();
        let picture: Vec<f32> = (0..9u8).map(f32::from).collect();
        let seen: BTreeSet<Vec<u8>> = of(Augment::FlipRotate)
            .into_iter()
            .map(|view| {
                let mut turned = vec![0.0; 9];
                view.turn(&input, &picture, &mut turned);
                turned.into_iter().map(|number| number as u8).collect()
            })
            .collect();
        assert_eq!(seen.len(), 8);
        for view in &seen {
            let mut sorted = view.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..9).collect::<Vec<u8>>());
        }
        assert!(seen.contains(&vec![2, 1, 0, 5, 4, 3, 8, 7, 6]), "the mirror");
    }
}
