//! The image of the installer: found, fetched where it is elsewhere, and checked to be one.

use std::path::PathBuf;

use landfall_proto::{failure::Failure, image::Size, order::Blob};
use serde::{Deserialize, Serialize};

use super::Bench;
use crate::{
    check,
    local::image,
    request::{Image, Phase},
};

/// A kexec image on this machine, checked to be whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KexecImage {
    /// The file.
    pub path: PathBuf,
    /// Its hash and size.
    pub blob: Blob,
    /// Length of the kernel in it.
    #[serde(default)]
    pub kernel: u64,
    /// Length of the initrd in it.
    #[serde(default)]
    pub initrd: u64,
}

impl Bench<'_> {
    /// Finds the kexec image, fetches it where it is elsewhere, and checks that it is one.
    pub(super) async fn image(&mut self) -> Result<Option<KexecImage>, Failure> {
        let request = &self.desk.request;
        let needed =
            request.phases.has(Phase::Kexec) && (!self.facts.installer || request.kexec.force);
        // the one that this run booted is never left for another
        if !needed || self.booted_by_us {
            return Ok(None);
        }
        let path = match &request.kexec.image {
            Image::File(path) => path.clone(),
            Image::Url(url) => image::fetch(url, self.cx).await?,
            Image::Default => {
                let url = Image::stock(&self.facts.arch).ok_or_else(|| {
                    Failure::new(format!("cannot find a kexec image for {}", self.facts.arch))
                        .because("there are stock images for x86_64 and aarch64 only")
                        .hint("name one of your own: `--kexec FILE`")
                        .code("LF0340")
                })?;
                image::fetch(&url, self.cx).await?
            }
        };
        self.cx.waiting("the kexec image to be checked");
        let image = image::check(&path).await?;
        let size = Size {
            packed: image.blob.size,
            kernel: image.unpacked.kernel,
            initrd: image.unpacked.initrd,
        };
        let checks = check::fits(self.facts, size);
        if let Some(failure) = check::failure(&checks) {
            return Err(failure);
        }
        self.warnings.extend(check::warnings(&checks));
        Ok(Some(KexecImage {
            path: image.path,
            blob: image.blob,
            kernel: size.kernel,
            initrd: size.initrd,
        }))
    }
}
