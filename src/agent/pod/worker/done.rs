//! Work that is done, taken into account.

use super::Worker;
use crate::{
    agent::pod::{cri::CriError, images::NoImage, spec::ImageUser, start::Failure},
    decide::containers::{Fault, Image, Start, Work},
    model::{DesiredPod, DesiredVolumeSource},
};
use jiff::Timestamp;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Done {
    /// `pod`: as of which desired state.
    Volumes {
        pod: Arc<DesiredPod>,
        result: Result<(), String>,
    },
    Sandbox {
        result: Result<(), Failure>,
        failures: u32,
    },
    Image {
        container: String,
        result: Result<ImageUser, NoImage>,
        failures: u32,
    },
    Started {
        container: String,
        result: Result<(), Failure>,
        failures: u32,
    },
    Killed {
        id: String,
        container: String,
    },
    Removed {
        id: String,
        result: Result<(), CriError>,
    },
    TornDown {
        result: Result<(), String>,
        failures: u32,
    },
    Nothing,
}

impl Worker {
    pub(super) fn finish(&mut self, done: Done) {
        let at = Timestamp::now();
        match done {
            Done::Volumes { pod, result } => self.volumes_done(&pod, result, at),
            Done::Sandbox { result, failures } => {
                self.dirty = true;
                self.observed.sandbox = match result {
                    Ok(()) | Err(Failure::Unreachable | Failure::Cancelled) => Work::Idle,
                    Err(Failure::Fault(Fault { message, .. })) => Work::Failed { message, at, failures: failures + 1 },
                };
            }
            Done::Image { container, result, failures } => self.image_done(container, result, failures, at),
            Done::Started { container, result, failures } => {
                self.dirty = true;
                let progress = self.observed.progress.entry(container).or_default();
                progress.start = match result {
                    Ok(()) | Err(Failure::Unreachable | Failure::Cancelled) => Start::Idle,
                    Err(Failure::Fault(fault)) => Start::Failed { fault, at, failures: failures + 1 },
                };
            }
            Done::Killed { id, container } => {
                self.dirty = true;
                self.kills.remove(&id);
                self.observed.progress.entry(container).or_default().killing = false;
            }
            Done::Removed { id, result } => {
                self.dirty = true;
                self.removing.remove(&id);
                if let Err(error) = result {
                    tracing::warn!(%error, "not removed yet");
                }
            }
            Done::TornDown { result, failures } => {
                self.dirty = true;
                self.observed.teardown = match result {
                    Ok(()) => {
                        self.kept.torn_down = true;
                        Work::Done
                    }
                    Err(message) => {
                        tracing::warn!(message, "the Pod is not torn down yet");
                        Work::Failed { message, at, failures: failures + 1 }
                    }
                };
            }
            Done::Nothing => {}
        }
    }

    fn volumes_done(&mut self, pod: &DesiredPod, result: Result<(), String>, at: Timestamp) {
        let whole = !pod.volumes.iter().any(|volume| matches!(volume.source, DesiredVolumeSource::Blocked(_)));
        if result.is_ok() && whole {
            self.observed.mounted = true;
            self.kept.mounted = true;
        }
        self.observed.volumes = match result {
            _ if self.volumes_stale => Work::Idle,
            Ok(()) => Work::Done,
            Err(message) => {
                self.volume_failures += 1;
                Work::Failed { message, at, failures: self.volume_failures }
            }
        };
        if matches!(self.observed.volumes, Work::Done) {
            self.volume_failures = 0;
        }
    }

    fn image_done(&mut self, container: String, result: Result<ImageUser, NoImage>, failures: u32, at: Timestamp) {
        let pulled = self.pulling.remove(&container);
        let wanted = self.desired.as_ref().and_then(|pod| pod.containers.iter().find(|c| c.name == container));
        let current = wanted.map(|wanted| &wanted.image) == pulled.as_ref();
        let progress = self.observed.progress.entry(container.clone()).or_default();
        progress.image = match result {
            _ if !current => Image::Unchecked,
            Ok(user) => {
                self.images.insert(container, user);
                Image::Ready
            }
            Err(NoImage::Unreachable) => {
                self.dirty = true;
                Image::Unchecked
            }
            Err(NoImage::Fault(fault)) => Image::Failed { fault, at, failures: failures + 1 },
        };
    }
}
