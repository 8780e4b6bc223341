//! Detects the input of a model: the order of its axes, its size and its element type.

use anyhow::{Context, bail, ensure};
use eirs_platform::settings::{Channels, Layout, Size};

use super::{Source, graph::Graph, preset::Wanted};
use crate::classify::Port;

/// Maximum width and height of the input, in pixels.
const SIDE_MAX: u32 = 8192;

/// The meaning of one axis of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Images,
    Channels,
    Rows,
    Columns,
    /// All samples of one image.
    Numbers,
}

/// The input of a model, for which images are prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// The index among the inputs of the engine.
    pub(super) index: usize,
    pub(super) element: Element,
    axes: Vec<Axis>,
    /// The number of images per run, if the file fixes it.
    pub(super) images: Option<usize>,
    pub(super) channels: Channels,
    pub(super) layout: Layout,
    /// Width and height, in pixels.
    pub(super) size: (u32, u32),
}

/// The element type of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    F64,
    U8,
}

impl Element {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "f64" => Some(Self::F64),
            "u8" => Some(Self::U8),
            _ => None,
        }
    }
}

impl Input {
    /// Returns the shape for a number of images.
    pub(super) fn shape(&self, images: usize) -> Vec<usize> {
        let side = |axis: &Axis| match axis {
            Axis::Images => images,
            Axis::Channels => self.channels.count(),
            Axis::Rows => self.size.1 as usize,
            Axis::Columns => self.size.0 as usize,
            Axis::Numbers => self.len(),
        };
        self.axes.iter().map(side).collect()
    }

    /// Returns whether the file fixes all dimensions except the number of images.
    pub(super) fn is_fixed(&self, ports: &[Port]) -> bool {
        let open = |(axis, side): (&Axis, &Option<usize>)| *axis != Axis::Images && side.is_none();
        ports.get(self.index).is_some_and(|port| !self.axes.iter().zip(&port.shape).any(open))
    }

    /// Returns the number of samples per image.
    pub(super) fn len(&self) -> usize {
        self.size.0 as usize * self.size.1 as usize * self.channels.count()
    }

    /// Detects the input of a model from its shape and the settings.
    pub(super) fn find(
        source: &Source,
        ports: &[Port],
        graph: Option<&Graph>,
        wanted: &Wanted,
    ) -> anyhow::Result<Self> {
        // An input with a default value in the file is optional.
        let has_value = |port: &Port| graph.is_some_and(|graph| graph.weights.contains(&port.name));
        let open: Vec<_> = ports.iter().enumerate().filter(|(_, port)| !has_value(port)).collect();
        let [(index, port)] = open[..] else {
            let names: Vec<_> = open.iter().map(|(_, port)| format!("`{}`", port.name)).collect();
            bail!(
                "{source}: has {} inputs where one is expected, an image: {}; export it so that the others \
                 are constants",
                names.len(),
                names.join(", ")
            );
        };
        let element = Element::of(&port.kind).with_context(|| {
            format!("{source}: its input {port} takes {}, not numbers of f32, f16, f64 or u8", port.kind)
        })?;
        let names = graph
            .and_then(|graph| graph.inputs.iter().find(|(name, _)| *name == port.name))
            .map_or(&[][..], |(_, names)| names);
        let shape = Shape { source, port, names, wanted };
        let (axes, layout) = shape.axes()?;
        let (channels, size) = shape.channels_and_size(&axes)?;
        let images =
            axes.iter().position(|axis| *axis == Axis::Images).map_or(Some(1), |axis| port.shape[axis]);
        Ok(Self { index, element, axes, images: images.filter(|count| *count > 0), channels, layout, size })
    }
}

/// The shape of an input that is being examined.
struct Shape<'a> {
    source: &'a Source,
    port: &'a Port,
    /// The names of its open dimensions.
    names: &'a [Option<String>],
    wanted: &'a Wanted,
}

/// Returns whether a dimension can be a number of channels.
fn is_channels(side: Option<usize>) -> bool {
    matches!(side, Some(1 | 3 | 4))
}

impl Shape<'_> {
    fn axes(&self) -> anyhow::Result<(Vec<Axis>, Layout)> {
        use Axis::{Channels, Columns, Images, Numbers, Rows};
        let Self { source, port, wanted, .. } = self;
        let set = wanted.layout;
        let nchw = |front: &[Axis]| ([front, &[Channels, Rows, Columns]].concat(), Layout::Nchw);
        let nhwc = |front: &[Axis]| ([front, &[Rows, Columns, Channels]].concat(), Layout::Nhwc);
        let by_layout = |front: &[Axis], layout| match layout {
            Layout::Nchw => nchw(front),
            Layout::Nhwc => nhwc(front),
        };
        Ok(match port.shape[..] {
            [_, first, _, last] => by_layout(&[Images], set.unwrap_or_else(|| self.layout(1, first, last))),
            // Without an axis of images, or grey without channels.
            [first, _, last] if set.is_none() && matches!(first, Some(3 | 4)) && !is_channels(last) => {
                nchw(&[])
            }
            [_, _, last] if set.is_none() && is_channels(last) => nhwc(&[]),
            [_, _, _] if set.is_some_and(|_| self.is_bare()) => by_layout(&[], set.unwrap_or(Layout::Nchw)),
            [_, _, _] => (vec![Images, Rows, Columns], Layout::Nhwc),
            [_, _] => (vec![Images, Numbers], set.unwrap_or(Layout::Nhwc)),
            _ => bail!(
                "{source}: its input {port} is not images: [images, channels, rows, columns] or the like is \
                 expected"
            ),
        })
    }

    /// Returns whether three dimensions are those of one image with channels.
    fn is_bare(&self) -> bool {
        is_channels(self.port.shape[0]) || is_channels(self.port.shape[2])
    }

    /// Returns the layout, where `axis` or the one two places later counts the channels.
    fn layout(&self, axis: usize, first: Option<usize>, last: Option<usize>) -> Layout {
        let named = |axis: usize| {
            let name = self.names.get(axis).cloned().flatten().unwrap_or_default().to_lowercase();
            name == "c" || name.contains("channel")
        };
        match (is_channels(first), is_channels(last)) {
            (false, true) => Layout::Nhwc,
            (false, false) if named(axis + 2) && !named(axis) => Layout::Nhwc,
            _ => Layout::Nchw,
        }
    }

    fn channels_and_size(&self, axes: &[Axis]) -> anyhow::Result<(Channels, (u32, u32))> {
        let Self { source, port, wanted, .. } = self;
        if axes.contains(&Axis::Numbers) {
            return self.flat();
        }
        let side = |wanted: Axis| axes.iter().position(|axis| *axis == wanted).map(|axis| port.shape[axis]);
        let count = side(Axis::Channels).unwrap_or(Some(1));
        let channels = self.channels(count, axes)?;
        let pixels = |axis: Axis| {
            let side = side(axis).flatten();
            side.map(|side| {
                u32::try_from(side).with_context(|| format!("{source}: its input {port} is too large"))
            })
            .transpose()
        };
        let set = wanted.size.map(Size::sides);
        let (columns, rows) = (pixels(Axis::Columns)?, pixels(Axis::Rows)?);
        let size = match (columns.or(set.map(|set| set.0)), rows.or(set.map(|set| set.1))) {
            (Some(columns), Some(rows)) => (columns, rows),
            // One known side means a square. Without an axis of images, the open dimension may be
            // the number of images.
            (Some(side), None) | (None, Some(side)) if axes.contains(&Axis::Images) => (side, side),
            (Some(_), None) | (None, Some(_)) => {
                bail!(
                    "{source}: its input {port} leaves one side open: set size, or export it with a shape \
                     such as [images, rows, columns, channels]"
                )
            }
            (None, None) => {
                bail!("{source}: its input {port} leaves the size open: set size, or a preset that knows it")
            }
        };
        let (across, down) = size;
        ensure!(
            (1..=SIDE_MAX).contains(&across) && (1..=SIDE_MAX).contains(&down),
            "{source}: its input {port} is not of a size from 1 to {SIDE_MAX} pixels"
        );
        ensure!(
            set.is_some() || (across > 1) == (down > 1),
            "{source}: its input {port} is a picture of {across} x {down} pixels, which none is; export it \
             with a shape such as [images, rows, columns, channels]"
        );
        ensure!(
            wanted.size_is_soft || set.is_none_or(|set| set == size),
            "{source}: its input {port} is {} pixels, but size is set to {}",
            Size::of(across, down),
            wanted.size.unwrap_or(Size::Side(0))
        );
        Ok((channels, size))
    }

    fn channels(&self, count: Option<usize>, axes: &[Axis]) -> anyhow::Result<Channels> {
        let Self { source, port, wanted, .. } = self;
        let Some(count) = count else { return Ok(wanted.channels.unwrap_or(Channels::Rgb)) };
        if let Some(channels) = wanted.channels.filter(|channels| channels.count() == count) {
            return Ok(channels);
        }
        let usual = match count {
            1 => Some(Channels::Grey),
            3 => Some(Channels::Rgb),
            4 => Some(Channels::Rgba),
            _ => None,
        };
        // The channel order of a preset does not apply to a grey model.
        if let Some(usual) = usual.filter(|_| wanted.channels.is_none() || wanted.channels_are_soft) {
            return Ok(usual);
        }
        let other = if axes.last() == Some(&Axis::Channels) {
            (port.shape[axes.len() - 3], "nchw")
        } else {
            (port.shape[axes.len() - 1], "nhwc")
        };
        let hint = match (usual, other) {
            (Some(_), _) => "; `channels` says otherwise: leave it out".to_owned(),
            (None, (side, layout)) if is_channels(side) => format!(": set layout = \"{layout}\""),
            _ => String::new(),
        };
        bail!("{source}: its input {port} has {count} channels, where 1, 3 or 4 are expected{hint}")
    }

    /// Handles images as flat lists of numbers, as in scikit-learn.
    fn flat(&self) -> anyhow::Result<(Channels, (u32, u32))> {
        let Self { source, port, wanted, .. } = self;
        let of_channels = |channels: Channels| {
            let numbers = port.shape[1].map(|numbers| numbers as u64);
            let count = channels.count() as u64;
            match (wanted.size.map(Size::sides), numbers) {
                (Some((width, height)), None) => Some((channels, (width, height))),
                (Some((width, height)), Some(numbers)) => {
                    let fits = u64::from(width) * u64::from(height) * count == numbers;
                    fits.then_some((channels, (width, height)))
                }
                (None, Some(numbers)) => {
                    let side = u32::try_from((numbers / count).isqrt()).ok()?;
                    (u64::from(side).pow(2) * count == numbers && side > 0)
                        .then_some((channels, (side, side)))
                }
                (None, None) => None,
            }
        };
        let all = [Channels::Grey, Channels::Rgb, Channels::Rgba];
        let candidates = wanted.channels.map_or(all.to_vec(), |channels| vec![channels]);
        candidates.into_iter().find_map(of_channels).with_context(|| {
            format!(
                "{source}: its input {port} is a list of numbers that are no square image of 1, 3 or 4 \
                 channels: set size and channels"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(shape: &[Option<usize>], wanted: &Wanted, names: &[&str]) -> Result<Input, String> {
        let port = Port { name: "x".into(), kind: "f32".into(), shape: shape.to_vec() };
        let names = names.iter().map(|name| Some((*name).to_owned())).collect();
        let graph = Graph { inputs: vec![("x".into(), names)], ..Graph::default() };
        Input::find(&Source::SHAPES, &[port], Some(&graph), wanted).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn channels_and_layout_are_found_from_the_shape() {
        let wanted = Wanted { size: Some(Size::Side(32)), ..Wanted::default() };
        let n = None;
        for (shape, names, layout, channels, expected) in [
            (
                &[n, Some(3), Some(32), Some(32)][..],
                &[][..],
                Layout::Nchw,
                Channels::Rgb,
                &[2, 3, 32, 32][..],
            ),
            (&[n, Some(32), Some(32), Some(3)], &[], Layout::Nhwc, Channels::Rgb, &[2, 32, 32, 3]),
            (&[n, n, n, Some(3)], &[], Layout::Nhwc, Channels::Rgb, &[2, 32, 32, 3]),
            (&[n, Some(1), n, n], &[], Layout::Nchw, Channels::Grey, &[2, 1, 32, 32]),
            (&[n, Some(32), Some(32), Some(4)], &[], Layout::Nhwc, Channels::Rgba, &[2, 32, 32, 4]),
            (&[n; 4], &["n", "channels", "h", "w"], Layout::Nchw, Channels::Rgb, &[2, 3, 32, 32]),
            (&[n; 4], &["n", "height", "width", "channels"], Layout::Nhwc, Channels::Rgb, &[2, 32, 32, 3]),
            (&[Some(3), Some(32), Some(32)], &[], Layout::Nchw, Channels::Rgb, &[3, 32, 32]),
            (&[Some(32), Some(32), Some(1)], &[], Layout::Nhwc, Channels::Grey, &[32, 32, 1]),
            (&[n, Some(32), Some(32)], &[], Layout::Nhwc, Channels::Grey, &[2, 32, 32]),
            (&[n, Some(1024)], &[], Layout::Nhwc, Channels::Grey, &[2, 1024]),
            (&[n, Some(3072)], &[], Layout::Nhwc, Channels::Rgb, &[2, 3072]),
        ] {
            let input = found(shape, &wanted, names).unwrap();
            assert_eq!((input.layout, input.channels), (layout, channels), "{shape:?} {names:?}");
            assert_eq!(input.shape(2), expected, "{shape:?} {names:?}");
        }
    }

    #[test]
    fn mismatched_shapes_are_refused_with_a_hint() {
        let plain = Wanted::default();
        let nchw = Wanted { layout: Some(Layout::Nchw), ..Wanted::default() };
        let sized = Wanted { size: Some(Size::Side(64)), ..Wanted::default() };
        let n = None;
        for (shape, wanted, expected) in [
            (&[n, Some(8), Some(8), Some(3)][..], &nchw, "set layout = \"nhwc\""),
            (&[n, Some(3), n, n], &plain, "set size"),
            (&[n, Some(3), Some(32), Some(32)], &sized, "is 32 pixels, but size is set to 64"),
            (&[n, Some(10)], &plain, "set size and channels"),
            (&[n, Some(7), Some(8), Some(8)], &plain, "has 7 channels"),
            (&[Some(5)], &plain, "is not images"),
            (&[n, Some(3072), Some(1)], &plain, "leaves one side open"),
            (&[Some(1), Some(3072), Some(1)], &plain, "picture of 3072 x 1 pixels"),
            (&[n, Some(1), Some(784)], &plain, "picture of 784 x 1 pixels"),
        ] {
            let refusal = found(shape, wanted, &[]).unwrap_err();
            assert!(refusal.contains(expected), "{shape:?}: {refusal}");
        }
    }
}
