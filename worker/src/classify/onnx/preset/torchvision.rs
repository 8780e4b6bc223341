//! The preprocessing of torchvision's weights, from a table that
//! `testing/models/torchvision_table.py` generates from the metadata of torchvision (0.29), and
//! checks.

use anyhow::{Context, bail};
use eirs_platform::settings::{Filter, PerChannel, Size};

use super::Wanted;

const TABLE: &str = include_str!("torchvision.csv");

/// Returns the preprocessing for the name of weights, such as `ResNet50_Weights.IMAGENET1K_V2`.
/// Without the part after the dot, or with `DEFAULT`, it is that of torchvision's default weights.
/// Without a name, it is the one common to most V1 weights.
pub(super) fn wanted(weights: Option<&str>) -> anyhow::Result<Wanted> {
    let Some(weights) = weights else {
        return Ok(Wanted { resize: None, ..Wanted::of_unit([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) });
    };
    let (family, which) = weights.split_once('.').unwrap_or((weights, "DEFAULT"));
    let rows = TABLE.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let mut family_has = Vec::new();
    for row in rows {
        let [name, default, size, resize, filter, mean, std] = row[..] else { continue };
        let Some((of, variant)) = name.split_once('.') else { continue };
        // The name of a model works as well: `resnet50`.
        let is_family =
            of.eq_ignore_ascii_case(family) || of.eq_ignore_ascii_case(&format!("{family}_weights"));
        if is_family && (variant == which || (which == "DEFAULT" && !default.is_empty())) {
            return row_of(size, resize, filter, mean, std).context("the table of torchvision's weights");
        }
        if is_family {
            family_has.push(name);
        }
    }
    match family_has[..] {
        [] => {
            bail!("weights: torchvision has no {weights:?}; a name is like `ResNet50_Weights.IMAGENET1K_V2`")
        }
        _ => bail!("weights: torchvision has no {weights:?}, but {}", family_has.join(", ")),
    }
}

fn row_of(size: &str, resize: &str, filter: &str, mean: &str, std: &str) -> Option<Wanted> {
    let numbers = |text: &str| -> Option<PerChannel> {
        Some(text.split(' ').map(|number| number.parse().ok()).collect::<Option<Vec<f32>>>()?.into())
    };
    Some(Wanted {
        size: Some(Size::Side(size.parse().ok()?)),
        resize: Some(Size::Side(resize.parse().ok()?)),
        filter: Some(if filter == "bicubic" { Filter::Bicubic } else { Filter::Bilinear }),
        ..Wanted::of_unit(numbers(mean)?, numbers(std)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(weights: &str) -> (Option<Size>, Option<Size>, Option<Filter>) {
        let wanted = wanted(Some(weights)).unwrap();
        (wanted.size, wanted.resize, wanted.filter)
    }

    #[test]
    fn every_row_of_the_table_is_complete() {
        let rows: Vec<_> = TABLE.lines().skip(1).collect();
        for row in &rows {
            let name = row.split(',').next().unwrap();
            assert!(wanted(Some(name)).is_ok(), "{name}");
        }
        // The number of weights in torchvision 0.29.
        let count =
            |filter| rows.iter().filter(|row| seen(row.split(',').next().unwrap()).2 == Some(filter)).count();
        assert_eq!((count(Filter::Bilinear), count(Filter::Bicubic)), (87, 28));
    }

    #[test]
    fn weights_are_found_by_name_and_the_default_by_model() {
        let v2 = (Some(Size::Side(224)), Some(Size::Side(232)), Some(Filter::Bilinear));
        assert_eq!(seen("ResNet50_Weights.IMAGENET1K_V2"), v2);
        assert_eq!(seen("ResNet50_Weights"), v2);
        assert_eq!(seen("ResNet50_Weights.DEFAULT"), v2);
        assert_eq!(seen("resnet50"), v2);
        assert_eq!(seen("ResNet50_Weights.IMAGENET1K_V1").1, Some(Size::Side(256)));
        let error = wanted(Some("ResNet50_Weights.V3")).unwrap_err().to_string();
        assert!(error.contains("ResNet50_Weights.IMAGENET1K_V1"), "{error}");
        assert!(wanted(Some("LeNet")).unwrap_err().to_string().contains("a name is like"));
    }
}
