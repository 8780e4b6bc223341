//! `eirs model check`

use std::path::PathBuf;

use eirs_worker::classify::{self, inspect};

use super::Which;
use crate::{Exit, Global, Stop, show::Voice};

/// Load a model as a worker would, show what it is, and classify an image with it
///
/// Wrong labels mostly come from wrong preprocessing: `eirs model fit` finds the right one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  eirs model check mobilenet.onnx --labels labels.txt --image cat.jpg\n  \
                        eirs model check squeezenet.onnx --set channels=bgr --set 'mean=[104, 117, 123]' \
                        --set divide_by=1\n  \
                        eirs model check resnet.onnx --set preset=torchvision --engines --image cat.jpg \
                        --image dog.jpg"
)]
pub struct Check {
    #[command(flatten)]
    which: Which,
    /// An image to classify; with --engines there may be several
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Run the model on both engines and compare the results; without --image, on generated images
    #[arg(long)]
    engines: bool,
    #[command(flatten)]
    voice: Voice,
}

impl Check {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Stop> {
        let settings = self.which.layers(global).load()?;
        let model = global.model(&settings, &self.which.model)?;
        let images =
            self.image.iter().map(|image| classify::read_image(image)).collect::<Result<Vec<_>, _>>()?;
        if self.engines {
            let compared = inspect::engines::compare(model, &images)?;
            self.voice.show(&compared, || compared.to_string().trim_end().to_owned());
            return Ok(if compared.agree() { Exit::Ok } else { Exit::Failed });
        }
        if images.len() > 1 {
            return Err(Stop::Usage("--image: one at a time, except with --engines".to_owned()));
        }
        let report = inspect::check(model, images.first())?;
        self.voice.show(&report, || report.to_string().trim_end().to_owned());
        let answered = report.answer.is_none_or(|answer| answer.failure.is_none());
        Ok(if answered { Exit::Ok } else { Exit::Failed })
    }
}
